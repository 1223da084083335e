"""What all requests of one client to one kind of host share: a retry budget, and a pause.

Without the first, an outage multiplies every request by its attempts; without the second, each
of many requests finds out for itself that the server wants fewer.
"""

from __future__ import annotations

import math
from typing import Final

from nunu_async.core.clock import Clock
from nunu_async.core.retry import RetryBudget, RetryPolicy, is_throttled
from nunu_async.errors import NunuError

__all__ = ["Traffic"]

# What was held goes on over this part of the pause after it, and not all at one moment.
_SPREAD: Final = 0.25
# A caller that slept as long as it was told must not be held for what rounding left over.
_HARDLY: Final = 0.001


class Traffic:
    """The share of one kind of host, the API or storage.

    `share` is how many jobs may be under way at once that each need a budget for themselves: an
    outage meets all parts at once, and none of them may be lost before its own attempts are.

    Attributes:
        budget: what retries are paid from.
    """

    def __init__(self, clock: Clock, policy: RetryPolicy, share: int = 1) -> None:
        self.budget = RetryBudget(None if policy.budget is None else policy.budget * share)
        self._clock = clock
        self._policy = policy
        self._until = -math.inf
        self._length = 0.0
        self._learnt = -math.inf
        self._strikes = 0

    async def ready(self, end: float = math.inf) -> float | None:
        """Wait out the pause that the server wants, or return its seconds where `end` is sooner.

        `end` is a moment of the clock. None means that a request may go out now.
        """
        while (pause := self._until - self._clock.monotonic()) > _HARDLY:
            wait = pause + self._clock.random() * _SPREAD * self._length
            if self._clock.monotonic() + wait >= end:
                return pause
            await self._clock.sleep(wait)
        return None

    def failed(self, failure: NunuError, began: float, delay: float | None) -> None:
        """Take note of a failure of a request that went out at `began`.

        `Retry-After` of a 429 or 503 holds everybody back for as long, at most `max_retry_after`.
        A 429 without one does for as long as its own caller waits, `delay`, and longer each time
        that the pause was not enough.
        """
        asked = getattr(failure, "retry_after", None)
        if asked is None and not is_throttled(failure):
            return
        if asked is not None and getattr(failure, "status", 0) not in {429, 503}:
            return
        now = self._clock.monotonic()
        if asked is not None:
            length = min(asked, self._policy.max_retry_after)
        elif began <= self._learnt:
            return  # sent before the pause was known: it says nothing new
        else:
            ceiling = self._policy.ceiling(self._strikes, throttled=True)
            length = delay or 0.0
            if self._strikes or delay is None:
                length = max(length, self._clock.random() * ceiling)
        if began > self._learnt:
            self._strikes += 1
        self._learnt = now
        if now + length > self._until:
            self._until, self._length = now + length, length

    def succeeded(self, began: float) -> None:
        """Take note of a success of a request that went out at `began`."""
        if began > self._learnt:
            self._strikes = 0
