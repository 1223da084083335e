"""A retry budget and a pause, shared by all requests of one client to one kind of host.

Without the budget, an outage would multiply every request by its attempts; without the pause, each
request would have to discover for itself that the server is throttling.
"""

from __future__ import annotations

import math
from typing import Final

from nunu_async.core.clock import Clock
from nunu_async.core.retry import RetryBudget, RetryPolicy, is_throttled
from nunu_async.errors import NunuError

# Requests held by a pause resume spread over this fraction of its length, not all at once.
_SPREAD: Final = 0.25
# Seconds: a caller that slept for `Retry-After` must not be held by a rounding error.
_TOLERANCE: Final = 0.001


class Throttle:
    """The retry budget and pause of one kind of host, the API or storage.

    `share` multiplies the budget by the number of concurrent jobs: an outage hits all parts at
    once, and no part may fail before its own attempts are used up.

    Attributes:
        budget: the retry budget.
    """

    def __init__(self, clock: Clock, policy: RetryPolicy, share: int = 1) -> None:
        self.budget = RetryBudget(None if policy.budget is None else policy.budget * share)
        self._clock = clock
        self._policy = policy
        self._until = -math.inf
        self._length = 0.0
        self._throttled_at = -math.inf
        self._strikes = 0

    async def ready(self, end: float = math.inf) -> float | None:
        """Wait until the pause ends, or return its seconds at once if it ends after `end`.

        `end` is a time of the clock. A return value of None means that a request may be sent now.
        """
        while (pause := self._until - self._clock.monotonic()) > _TOLERANCE:
            wait = pause + self._clock.random() * _SPREAD * self._length
            if self._clock.monotonic() + wait >= end:
                return pause
            await self._clock.sleep(wait)
        return None

    def failed(self, failure: NunuError, began: float, delay: float | None) -> None:
        """Record the failure of a request that was sent at `began`.

        The `Retry-After` of a 429 or 503 holds all requests for that time, at most for
        `max_retry_after`. A 429 without it holds them for `delay`, the pause before the retry of
        the failed request, and for longer each time that the pause was not enough.
        """
        retry_after = getattr(failure, "retry_after", None)
        if retry_after is None and not is_throttled(failure):
            return
        if retry_after is not None and getattr(failure, "status", 0) not in {429, 503}:
            return
        now = self._clock.monotonic()
        if retry_after is not None:
            length = min(retry_after, self._policy.max_retry_after)
        elif began <= self._throttled_at:
            return  # sent before the last throttling was known: not new information
        else:
            ceiling = self._policy.ceiling(self._strikes, throttled=True)
            length = delay or 0.0
            if self._strikes or delay is None:
                length = max(length, self._clock.random() * ceiling)
        if began > self._throttled_at:
            self._strikes += 1
        self._throttled_at = now
        if now + length > self._until:
            self._until, self._length = now + length, length

    def succeeded(self, began: float) -> None:
        """Record the success of a request that was sent at `began`."""
        if began > self._throttled_at:
            self._strikes = 0
