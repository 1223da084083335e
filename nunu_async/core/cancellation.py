"""Finish work despite cancellation, and find the failure that ended a task group."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TypeVar

from nunu_async.core.clock import Clock, time_limit
from nunu_async.core.request import InFlight

T = TypeVar("T")


async def finish(work: Coroutine[object, object, T] | asyncio.Task[T]) -> T:
    """Run `work` to completion, then raise any cancellation that arrived while it ran.

    The work runs in its own task, so the caller's time limits do not apply to it.

    Raises: what the work raises; CancelledError, after the work has ended, if the caller was
    cancelled while it ran.
    """
    task = work if isinstance(work, asyncio.Task) else asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            with _shielded():
                await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # mark it as retrieved: the cancellation is raised instead
        raise cancelled
    return task.result()


async def finish_in_flight(
    work: Coroutine[object, object, T],
    flight: InFlight,
    on_cancel: Callable[[asyncio.Task[T]], Awaitable[None]],
    *,
    clock: Clock,
    within: float,
) -> T:
    """Run `work`; if the caller is cancelled, first wait for the response to a request in flight.

    Without the response, the effect of the request would stay unknown. The wait takes at most
    `within` seconds; no further attempt is started, and a request that is still queued is
    cancelled. Then `on_cancel` is awaited with the finished task, and the cancellation is raised.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await finish(_wait_for_answer(task, flight, on_cancel, clock, within))
        raise


async def _wait_for_answer(
    task: asyncio.Task[T],
    flight: InFlight,
    on_cancel: Callable[[asyncio.Task[T]], Awaitable[None]],
    clock: Clock,
    within: float,
) -> None:
    flight.last = True
    if not (flight.on_wire or task.done()):  # no effect if the response has just arrived
        flight.unsent = True
        task.cancel()
    with suppress(TimeoutError):
        async with time_limit(clock, within):
            await asyncio.wait({task})
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
    await on_cancel(task)


def _shielded() -> AbstractContextManager[object]:
    """Return a context that shields from anyio's cancellation, if anyio is in use.

    A cancelled anyio scope (a Starlette or FastAPI request that timed out) cancels its tasks again
    in every loop iteration, so a wait that ignores them would keep a CPU core busy.
    """
    scope = getattr(sys.modules.get("anyio"), "CancelScope", None)  # anyio may be partly imported
    return nullcontext() if scope is None else scope(shield=True)


def first_of(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first failure of a group; a cancellation only if there is no other failure."""
    causes = [
        first_of(failure) if isinstance(failure, BaseExceptionGroup) else failure
        for failure in failures.exceptions
    ]
    return next((f for f in causes if not isinstance(f, asyncio.CancelledError)), causes[0])
