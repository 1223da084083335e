"""How many parts are under way at once, over all uploads of a client."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from types import TracebackType
from typing import Final

from nunu_async.core.retry import is_throttled
from nunu_async.errors import NunuError, StallError

__all__ = ["Slots"]

_BUSY: Final = 503
# Parts that have to go up well for one more at once. From half of 16 it takes 32 to be back.
_PARTS_FOR_ONE_MORE: Final = 4


class Slots:
    """An async context manager that lets `width` in at once, in the order they came.

    Storage that asks for fewer requests, or takes no bytes, gets half as many parts at once; each
    few that go up well after that bring one back. What was sent before the width was halved says
    nothing of the new one: many parts that are refused together halve it once.

    Attributes:
        limit: the widest it gets.
        width: from 1 to `limit`.
        used: how many are in.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.width = limit
        self.used = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._halved = float("-inf")
        self._well = 0

    async def __aenter__(self) -> None:
        if self.used < self.width and not self._waiting:
            self.used += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                with suppress(ValueError):  # passed over already, when another left
                    self._waiting.remove(turn)  # or those who come would line up behind nobody
            else:  # it had been let in
                self._leave()
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave()

    def failed(self, failure: NunuError, began: float, now: float) -> None:
        """Take note of a part that failed, sent at `began`; both are monotonic seconds."""
        crowded = is_throttled(failure) or isinstance(failure, StallError)
        if not crowded and getattr(failure, "status", 0) != _BUSY:
            return
        self._well = 0
        if began > self._halved:
            self._halved = now
            self.width = max(1, self.width // 2)

    def succeeded(self) -> None:
        """Take note of a part that went up."""
        if self.width == self.limit:
            return
        self._well += 1
        if self._well >= _PARTS_FOR_ONE_MORE:
            self._well = 0
            self.width += 1
            self._let_in()

    def _leave(self) -> None:
        self.used -= 1
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting and self.used < self.width:
            turn = self._waiting.popleft()
            if not turn.done():
                self.used += 1
                turn.set_result(None)
