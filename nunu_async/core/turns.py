"""Bounding how much is done in one turn of the event loop."""

from __future__ import annotations

import asyncio
from collections import deque

__all__ = ["Turns"]


class Turns:
    """Lets so many go on in one turn of the event loop; the others follow, in order.

    Ten thousand tasks that are woken together run one after the other before the loop looks at
    anything else. Whatever wakes many, or goes through many, asks here before each step, and the
    rest of the program gets its turn in between. Without a crowd nothing is put off.

    Args:
        most: how many may go on in one turn.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._left = most
        self._is_counting = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def ready(self) -> None:
        """Return in the first turn that has room, after all who asked before."""
        if self._left:
            self._count()
        else:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            await turn

    def wake(self, waiter: asyncio.Future[None]) -> None:
        """Set the result of a future in the first turn that has room, unless it is done by then."""
        if not self._left:
            self._waiting.append(waiter)
        elif not waiter.done():
            self._count()
            waiter.set_result(None)

    def _count(self) -> None:
        self._left -= 1
        if not self._is_counting:
            self._is_counting = True
            asyncio.get_running_loop().call_soon(self._next_turn)

    def _next_turn(self) -> None:
        # A callback and no task: whoever is cancelled, those who come after are let through.
        self._left = self._most
        while self._waiting and self._left:
            waiter = self._waiting.popleft()
            if not waiter.done():
                self._left -= 1
                waiter.set_result(None)
        self._is_counting = self._left < self._most
        if self._is_counting:
            asyncio.get_running_loop().call_soon(self._next_turn)
