"""How many bytes a second leave, over all uploads of a client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from nunu_async.core.clock import Clock

__all__ = ["Pace"]

# Seconds' worth of bytes that are let go at once: coarse enough to cost nothing.
_GRAIN: Final = 0.05
# As many are made good when a pause lasted longer than it was to, and not more: a client that was
# idle must not send faster for it.
_SLACK: Final = 0.1
_SMALLEST: Final = 4096
# Seconds; what waits looks this often whether there is still anything to wait for.
_LOOK: Final = 0.25


class Pace:
    """Hands out moments at which bytes may leave: `rate` bytes a second; None is no limit."""

    def __init__(self, clock: Clock, rate: float | None) -> None:
        self._clock = clock
        self._rate = rate
        self._next = float("-inf")

    @property
    def is_limited(self) -> bool:
        """Whether there is a limit."""
        return self._rate is not None

    def grain(self, most: int) -> int:
        """Return how many bytes to take at once, `most` at most."""
        if self._rate is None:
            return most
        return max(min(_SMALLEST, most), min(most, int(self._rate * _GRAIN)))

    async def turn(self, count: int, is_over: Callable[[], bool]) -> None:
        """Wait until `count` more bytes may leave, or `is_over` says that they need not."""
        if self._rate is None:
            return
        now = self._clock.monotonic()
        if self._next < now - _SLACK:
            self._next = now
        # They leave when the time that they take is over: the first ones are not for nothing.
        takes = count / self._rate
        at = self._next = self._next + takes
        came = False
        try:
            while (left := at - self._clock.monotonic()) > 0 and not is_over():
                await self._clock.sleep(min(left, _LOOK))
            came = left <= 0
        finally:
            if not came:  # nothing leaves: the time is for those who come next
                self._next -= takes
