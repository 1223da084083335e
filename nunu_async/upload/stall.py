"""Detects a PUT that has stalled or is too slow. Pure."""

from __future__ import annotations

from collections import deque
from typing import Final

import attrs

from nunu_async.config import Timeouts

# Number of checks within the shortest limit.
_CHECKS: Final = 4
# Number of samples in the window of the minimum rate.
_STEPS: Final = 20


@attrs.frozen
class TransferStats:
    """Progress of sending a body, in bytes."""

    given: int
    """Bytes given to the transport."""
    buffered: int
    """Given bytes that are still in the transport."""
    queued: int
    """Given bytes in the kernel that the peer has not acknowledged; 0 if unknown."""
    handed_over: bool
    """Whether the kernel has every byte."""
    paced: bool = False
    """Whether there is a bandwidth limit: then `given` says nothing about the peer."""
    held: bool = False
    """Whether the bandwidth limit holds back the next bytes right now."""

    @property
    def is_idle(self) -> bool:
        """Whether the peer has all bytes so far, and the limit holds back the next ones."""
        return self.held and not self.buffered and not self.queued

    @property
    def left(self) -> int:
        """Given bytes that are neither buffered nor queued."""
        return self.given - self.buffered - self.queued


class StallDetector:
    """Detects stalls of one PUT from its progress over time.

    Attributes:
        every: seconds between checks.
    """

    def __init__(self, limits: Timeouts, now: float) -> None:
        self._limits = limits
        self._last: TransferStats | None = None
        self._moved = now
        self._marks: deque[tuple[float, int]] = deque()
        window = limits.trickle_window if limits.trickle_rate else 0.0
        self._window = window
        self.every = min(limits.stall, limits.answer, window or limits.stall) / _CHECKS

    def problem(self, now: float, progress: TransferStats) -> str:
        """Return why the PUT must be aborted; "" if it need not be."""
        if progress.is_idle:
            self._marks.clear()
        last = self._last
        moves = last is None or progress != last or progress.is_idle
        if last is not None and progress.paced and not progress.handed_over:
            moves = progress.is_idle or progress.left != last.left
        if moves:
            self._last, self._moved = progress, now
        waiting = progress.handed_over
        limit = self._limits.answer if waiting else self._limits.stall
        if now - self._moved >= limit:
            return f"{'no answer' if waiting else 'no byte left'} for {limit:g} seconds"
        # A PUT waiting for its response is not slow, unless the last few MB trickle out of the
        # kernel.
        if waiting and not (moves and progress.queued):
            return ""
        if progress.given and not progress.is_idle and self._is_slow(now, progress.left):
            rate = self._limits.trickle_rate
            return f"fewer than {rate:.10g} bytes a second left for {self._window:g} seconds"
        return ""

    def _is_slow(self, now: float, left: int) -> bool:
        """Return whether too little was sent in the last window; False before a full one."""
        if not self._window:
            return False
        marks = self._marks
        if not marks or now - marks[-1][0] >= self._window / _STEPS:
            marks.append((now, left))
        while len(marks) > 1 and now - marks[1][0] >= self._window:
            marks.popleft()
        since, then = marks[0]
        span = now - since
        return span >= self._window and left - then < self._limits.trickle_rate * span
