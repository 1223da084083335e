"""Limit the work done in one iteration of the event loop."""

from __future__ import annotations

import asyncio
from collections import deque


class Turns:
    """Limits the work in one loop iteration, a turn; defers the rest, in order, to later turns.

    Ten thousand tasks that are woken together all run before the loop does anything else, and a
    task whose socket accepts all data never waits. Such tasks await `ready` before each step, so
    that the rest of the program can run in between. Without contention, nothing is delayed.

    Args:
        limit: work done in one turn, in any unit; the last step may exceed it.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._left = limit
        self._is_counting = False
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def ready(self, count: int = 1) -> None:
        """Wait, in order, for a turn with room left, and count a step of `count` in it."""
        if self._has_room():
            self._count(count)
        else:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((count, turn))
            await turn

    def wake(self, waiter: asyncio.Future[None]) -> None:
        """Set the result of a future in the first turn with room, unless it is done by then."""
        if not self._has_room():
            self._waiting.append((1, waiter))
        elif not waiter.done():
            self._count(1)
            waiter.set_result(None)

    def _has_room(self) -> bool:
        return self._left > 0 and not self._waiting

    def _count(self, count: int) -> None:
        self._left -= count
        if not self._is_counting:
            self._is_counting = True
            asyncio.get_running_loop().call_soon(self._next_turn)

    def _next_turn(self) -> None:
        # A callback, not a task: the cancellation of one waiter cannot block those behind it.
        self._left = self._limit
        while self._waiting and self._left > 0:
            count, waiter = self._waiting.popleft()
            if not waiter.done():
                self._left -= count
                waiter.set_result(None)
        self._is_counting = self._left < self._limit
        if self._is_counting:
            asyncio.get_running_loop().call_soon(self._next_turn)
