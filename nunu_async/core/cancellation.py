"""Finishing what must be finished, whatever cancellations arrive, and what ended a group."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

__all__ = ["finish", "first_of"]

T = TypeVar("T")


async def finish(work: Coroutine[object, object, T] | asyncio.Task[T]) -> T:
    """Run `work` to its end; a cancellation that came meanwhile is raised after it.

    The work is a task of its own, so its limits must be its own too.

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
            task.exception()  # retrieved: the cancellation is what the caller hears of
        raise cancelled
    return task.result()


def _shielded() -> AbstractContextManager[object]:
    """Return what keeps anyio's cancellations from a wait, where anyio is in use.

    A cancelled scope of anyio's (a request of Starlette or FastAPI that timed out) cancels what is
    in it anew at each turn of the loop, and a wait that goes on all the same takes a whole core.
    """
    scope = getattr(sys.modules.get("anyio"), "CancelScope", None)  # it may be half loaded
    return nullcontext() if scope is None else scope(shield=True)


def first_of(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the failure that ended the others; a cancellation only if there is nothing else."""
    found = [
        first_of(failure) if isinstance(failure, BaseExceptionGroup) else failure
        for failure in failures.exceptions
    ]
    return next((f for f in found if not isinstance(f, asyncio.CancelledError)), found[0])
