"""Finish work in spite of cancellation, and find the failure that ended a task group."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

__all__ = ["finish", "first_of"]

T = TypeVar("T")


async def finish(work: Coroutine[object, object, T] | asyncio.Task[T]) -> T:
    """Run `work` to completion, then raise a cancellation that arrived meanwhile.

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


def _shielded() -> AbstractContextManager[object]:
    """Return a shield from anyio's cancellation, where anyio is in use.

    A cancelled anyio scope (a Starlette or FastAPI request that timed out) cancels its tasks again
    in every loop iteration, so a wait that ignores it would occupy a whole core.
    """
    scope = getattr(sys.modules.get("anyio"), "CancelScope", None)  # anyio may be half imported
    return nullcontext() if scope is None else scope(shield=True)


def first_of(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the failure that ended the others; a cancellation only if there is nothing else."""
    causes = [
        first_of(failure) if isinstance(failure, BaseExceptionGroup) else failure
        for failure in failures.exceptions
    ]
    return next((f for f in causes if not isinstance(f, asyncio.CancelledError)), causes[0])
