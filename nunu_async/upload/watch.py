"""Whether a PUT still gets on: stalled, too slow, or well. Pure."""

from __future__ import annotations

from collections import deque
from typing import Final

import attrs

from nunu_async.config import Timeouts

__all__ = ["Progress", "Watch"]

# How often is looked, as a part of the shortest limit.
_LOOKS: Final = 4
# How finely the floor's window moves on.
_MARKS: Final = 20


@attrs.frozen
class Progress:
    """How far a body has come, in bytes."""

    given: int
    """Given to the transport."""
    buffered: int
    """Of those, still in the transport."""
    queued: int
    """Of those, in the kernel and not acknowledged by the peer; 0 where it does not tell."""
    handed_over: bool
    """Whether the kernel has every byte."""
    paced: bool = False
    """Whether the client holds itself to a rate: then bytes given say nothing of the peer."""
    held: bool = False
    """Whether it holds the next bytes back right now."""

    @property
    def is_idle(self) -> bool:
        """Whether the peer has all that it was given, and is to be given more later."""
        return self.held and not self.buffered and not self.queued

    @property
    def left(self) -> int:
        """Bytes that have left for the peer."""
        return self.given - self.buffered - self.queued


class Watch:
    """Judges one PUT by what it is seen to do.

    Attributes:
        every: seconds from one look to the next.
    """

    def __init__(self, limits: Timeouts, now: float) -> None:
        self._limits = limits
        self._seen: Progress | None = None
        self._moved = now
        self._marks: deque[tuple[float, int]] = deque()
        window = limits.trickle_window if limits.trickle_rate else 0.0
        self._window = window
        self.every = min(limits.stall, limits.answer, window or limits.stall) / _LOOKS

    def problem(self, now: float, progress: Progress) -> str:
        """Say why the PUT is to be given up; "" while it is not."""
        if progress.is_idle:
            self._marks.clear()
        seen = self._seen
        moves = seen is None or progress != seen or progress.is_idle
        if seen is not None and progress.paced and not progress.handed_over:
            moves = progress.is_idle or progress.left != seen.left
        if moves:
            self._seen, self._moved = progress, now
        waiting = progress.handed_over
        limit = self._limits.answer if waiting else self._limits.stall
        if now - self._moved >= limit:
            return f"{'no answer' if waiting else 'no byte left'} for {limit:g} seconds"
        # What waits for its answer is not slow; but the last few MB may trickle out of the kernel.
        if waiting and not (moves and progress.queued):
            return ""
        if progress.given and not progress.is_idle and self._is_slow(now, progress.left):
            rate = self._limits.trickle_rate
            return f"fewer than {rate:.10g} bytes a second left for {self._window:g} seconds"
        return ""

    def _is_slow(self, now: float, left: int) -> bool:
        """Tell whether too little left in the window that ends now; the first one is whole, too."""
        if not self._window:
            return False
        marks = self._marks
        if not marks or now - marks[-1][0] >= self._window / _MARKS:
            marks.append((now, left))
        while len(marks) > 1 and now - marks[1][0] >= self._window:
            marks.popleft()
        since, then = marks[0]
        span = now - since
        return span >= self._window and left - then < self._limits.trickle_rate * span
