"""Injected time and randomness, so that tests need no real sleeping."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from types import TracebackType
from typing import Protocol


class Timer(Protocol):
    """A cancellable timer."""

    def cancel(self) -> None:
        """Cancel the timer; does nothing if it was cancelled or has fired."""


class Clock(Protocol):
    """The library's source of time and randomness.

    Two kinds of waiting are kept apart: `sleep` is an intended pause (a retry, a poll),
    `call_later` a limit that should not be reached (a timeout, a stall). A test clock can skip
    the first and hold the second until the test releases it.
    """

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start; never decreases."""

    async def sleep(self, delay: float) -> None:
        """Pause for `delay` seconds."""

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        """Call `callback` on the running loop after `delay` seconds, unless cancelled first."""

    def random(self) -> float:
        """Return a float in [0, 1)."""


class SystemClock:
    """The real clock and the process's own random source."""

    def monotonic(self) -> float:
        """Return `time.monotonic()`, which does not jump with the wall clock."""
        return time.monotonic()

    async def sleep(self, delay: float) -> None:
        """Pause; raise ValueError unless `delay` is finite and not negative.

        `asyncio.sleep(nan)` never returns on CPython 3.11 and 3.12.
        """
        if not (math.isfinite(delay) and delay >= 0):
            msg = f"cannot sleep for {delay!r} seconds"
            raise ValueError(msg)
        await asyncio.sleep(delay)

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        """Schedule on the running loop."""
        return asyncio.get_running_loop().call_later(delay, callback)

    def random(self) -> float:
        """Return a float from the process's random source."""
        return random.random()  # noqa: S311 - jitter, not a secret


class Deadline:
    """A point in monotonic time that a call must not pass; infinite if `seconds` is None."""

    __slots__ = ("_clock", "at")

    def __init__(self, clock: Clock, seconds: float | None) -> None:
        self._clock = clock
        self.at = math.inf if seconds is None else clock.monotonic() + seconds

    def remaining(self) -> float:
        """Return the seconds left: 0 once the deadline has passed, infinite without one."""
        return max(0.0, self.at - self._clock.monotonic())


class _TimeLimit:
    """The async context manager of `time_limit`; single use.

    Used for every request: an `asynccontextmanager` around `asyncio.timeout` would cost three times
    as much.
    """

    __slots__ = ("_cancelling", "_clock", "_expired", "_seconds", "_task", "_timer")

    _task: asyncio.Task[object]
    _cancelling: int
    _timer: Timer

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self._expired = False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - for the type checker: we are in a coroutine
        self._task = task
        self._cancelling = task.cancelling()
        self._timer = self._clock.call_later(self._seconds, self._expire)

    def _expire(self) -> None:
        # Cancel one loop iteration later, so that a body that has just ended counts as in time.
        self._timer = self._task.get_loop().call_soon(self._cancel)

    def _cancel(self) -> None:
        self._expired = True
        self._task.cancel()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        if (
            self._expired
            # Otherwise the task was cancelled from outside as well, which takes precedence.
            and self._task.uncancel() <= self._cancelling
            and isinstance(error, asyncio.CancelledError)
        ):
            raise TimeoutError from error


def time_limit(clock: Clock, seconds: float | None) -> AbstractAsyncContextManager[None]:
    """Raise `TimeoutError` once `seconds` have passed on `clock`; None is no limit.

    As with `asyncio.timeout`, a cancellation from outside stays a cancellation.
    """
    if seconds is None or math.isinf(seconds):
        return nullcontext()
    return _TimeLimit(clock, seconds)
