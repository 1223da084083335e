"""Limits the bandwidth of all uploads of a client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from nunu_async.core.clock import Clock

__all__ = ["BandwidthLimiter"]

# Seconds' worth of bytes that are granted at once: coarse enough to cost nothing.
_GRAIN: Final = 0.05
# Seconds of delay that are made up for when a pause took longer than intended, and no more: a
# client that was idle must not send faster for it.
_SLACK: Final = 0.1
_MIN_BYTES: Final = 4096
# Seconds between checks whether the bytes still have to be sent.
_CHECK_INTERVAL: Final = 0.25


class BandwidthLimiter:
    """Lets `rate` bytes per second through; None means no limit."""

    def __init__(self, clock: Clock, rate: float | None) -> None:
        self._clock = clock
        self._rate = rate
        self._next = float("-inf")

    @property
    def is_limited(self) -> bool:
        """Whether there is a limit."""
        return self._rate is not None

    def grain(self, most: int) -> int:
        """Return how many bytes to ask for at once, at most `most`."""
        if self._rate is None:
            return most
        return max(min(_MIN_BYTES, most), min(most, int(self._rate * _GRAIN)))

    async def turn(self, count: int, is_over: Callable[[], bool]) -> None:
        """Wait until `count` more bytes may be sent, or `is_over` says that they need not be."""
        if self._rate is None:
            return
        now = self._clock.monotonic()
        if self._next < now - _SLACK:
            self._next = now
        # Charged before they are sent, so that the first bytes are paced too.
        duration = count / self._rate
        due = self._next = self._next + duration
        granted = False
        try:
            while (left := due - self._clock.monotonic()) > 0 and not is_over():
                await self._clock.sleep(min(left, _CHECK_INTERVAL))
            granted = left <= 0
        finally:
            if not granted:  # nothing is sent: the next caller gets the time
                self._next -= duration
