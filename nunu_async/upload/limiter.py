"""Limits how many parts are in flight at once, over all uploads of a client."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from types import TracebackType
from typing import Final

from nunu_async.core.retry import is_throttled
from nunu_async.errors import NunuError, StallError

__all__ = ["AdaptiveLimiter"]

_BUSY: Final = 503
# Successful parts for one more at once. From half of 16 it takes 32 to be back.
_PARTS_FOR_ONE_MORE: Final = 4


class AdaptiveLimiter:
    """An async context manager that admits `width` holders at once, in the order they came.

    The width is halved when storage asks for fewer requests or takes no bytes; every few parts that
    succeed after that add one. A failure of a part that was sent before the width was halved says
    nothing about the new width: many parts that are refused together halve it once.

    Attributes:
        limit: the largest width.
        width: from 1 to `limit`.
        used: how many are admitted now.
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
        """Record a part that failed, sent at `began`; both are monotonic seconds."""
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
