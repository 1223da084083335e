"""Limits for all uploads of a client: concurrent parts, and bytes per second."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Final

from nunu_async.core.clock import Clock
from nunu_async.core.retry import is_throttled
from nunu_async.errors import NunuError, StallError

_BUSY: Final = 503
# Successful parts until the width grows by one: going from 8 back to 16 takes 32 parts.
_PARTS_FOR_ONE_MORE: Final = 4
# Bytes are granted for this many seconds at a time: coarse enough to cost nothing.
_GRAIN: Final = 0.05
# Maximum seconds that are made up for after a pause that took too long: a client that was idle must
# not send faster afterwards.
_SLACK: Final = 0.1
_MIN_BYTES: Final = 4096
# Seconds between checks whether the bytes still have to be sent.
_CHECK_INTERVAL: Final = 0.25


class AdaptiveLimiter:
    """An async context manager that admits up to `width` holders at a time, in FIFO order.

    The width is halved when storage asks for fewer requests or a transfer stalls, and grows by one
    after every few successful parts. Failures of parts sent before the last halving are ignored, as
    they say nothing about the new width: many parts refused together halve it once.

    Attributes:
        limit: the largest width.
        width: the current width, from 1 to `limit`.
        used: the number of holders admitted now.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.width = limit
        self.used = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._halved_at = float("-inf")
        self._successes = 0

    async def __aenter__(self) -> None:
        if self.used < self.width and not self._waiting:
            self.used += 1
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.cancelled():
                with suppress(ValueError):  # removed already by `_admit`
                    self._waiting.remove(waiter)  # or later waiters would queue behind a dead entry
            else:  # it was admitted already
                self._release()
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._release()

    def failed(self, failure: NunuError, began: float, now: float) -> None:
        """Record the failure of a part sent at `began`; both times are monotonic seconds."""
        throttled = is_throttled(failure) or isinstance(failure, StallError)
        if not throttled and getattr(failure, "status", 0) != _BUSY:
            return
        self._successes = 0
        if began > self._halved_at:
            self._halved_at = now
            self.width = max(1, self.width // 2)

    def succeeded(self) -> None:
        """Record a part that succeeded."""
        if self.width == self.limit:
            return
        self._successes += 1
        if self._successes >= _PARTS_FOR_ONE_MORE:
            self._successes = 0
            self.width += 1
            self._admit()

    def _release(self) -> None:
        self.used -= 1
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self.used < self.width:
            waiter = self._waiting.popleft()
            if not waiter.done():
                self.used += 1
                waiter.set_result(None)


class BandwidthLimiter:
    """Limits sending to `rate` bytes per second; None means no limit."""

    def __init__(self, clock: Clock, rate: float | None) -> None:
        self._clock = clock
        self._rate = rate
        self._next = float("-inf")

    @property
    def is_limited(self) -> bool:
        """Whether there is a limit."""
        return self._rate is not None

    def grain(self, most: int) -> int:
        """Return how many bytes to request per `turn`, at most `most`."""
        if self._rate is None:
            return most
        return max(min(_MIN_BYTES, most), min(most, int(self._rate * _GRAIN)))

    async def turn(self, count: int, is_over: Callable[[], bool]) -> None:
        """Wait until `count` more bytes may be sent, or until `is_over` returns True."""
        if self._rate is None:
            return
        now = self._clock.monotonic()
        if self._next < now - _SLACK:
            self._next = now
        # Charge bytes before they are sent, so that the first ones are paced too.
        duration = count / self._rate
        due = self._next = self._next + duration
        granted = False
        try:
            while (left := due - self._clock.monotonic()) > 0 and not is_over():
                await self._clock.sleep(min(left, _CHECK_INTERVAL))
            granted = left <= 0
        finally:
            if not granted:  # nothing will be sent: refund the time to the next caller
                self._next -= duration
