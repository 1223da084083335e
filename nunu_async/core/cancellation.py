"""Finishing what must be finished, whatever cancellations arrive, and what ended a group."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
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
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # retrieved: the cancellation is what the caller hears of
        raise cancelled
    return task.result()


def first_of(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the failure that ended the others; a cancellation only if there is nothing else."""
    found = [
        first_of(failure) if isinstance(failure, BaseExceptionGroup) else failure
        for failure in failures.exceptions
    ]
    return next((f for f in found if not isinstance(f, asyncio.CancelledError)), found[0])
