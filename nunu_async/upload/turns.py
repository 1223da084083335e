"""How much is sent before the event loop runs anything else."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

__all__ = ["BYTES_A_TURN", "Turns"]

# What all parts of a client may send in one iteration of the event loop, where it has to read and
# encrypt the bytes: a third of a millisecond.
BYTES_A_TURN: Final = 256 * 1024


class Turns:
    """Limits the bytes that all senders of a client handle in one iteration of the event loop.

    A socket that always accepts never makes its sender wait, and an iteration with several of them
    lasts as long as all together. A sender that finds the iteration's bytes spent waits in line for
    those of a later one.
    """

    def __init__(self, limit: int = BYTES_A_TURN) -> None:
        self._limit = limit
        self._left = limit
        self._line: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._is_renewing = False

    async def take(self, count: int) -> None:
        """Wait until `count` bytes may be handled; the last of an iteration may go over the limit.

        Count what is no bytes but takes as long, too.
        """
        if self._left <= 0 or self._line:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._line.append((count, turn))
            self._renew_later()
            await turn
        else:
            self._left -= count
            self._renew_later()

    def _renew_later(self) -> None:
        if not self._is_renewing:
            self._is_renewing = True
            asyncio.get_running_loop().call_soon(self._renew)

    def _renew(self) -> None:
        """Begin the count of another iteration, with those who wait in line."""
        self._is_renewing = False
        self._left = self._limit
        while self._line and self._left > 0:
            count, turn = self._line.popleft()
            if not turn.done():  # a sender that was cancelled needs none
                self._left -= count
                turn.set_result(None)
        if self._left < self._limit:
            self._renew_later()
