"""One poll loop for everybody who waits for the same kind of thing."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import logging
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from itertools import islice
from typing import Generic, TypeVar, cast

from nunu_async.core.clock import Clock
from nunu_async.core.turns import Turns
from nunu_async.errors import (
    AuthenticationError,
    ClientClosed,
    ConfigError,
    DecodeError,
    NotFound,
    NunuError,
    PermissionDenied,
)
from nunu_async.models.page import Page
from nunu_async.polling.board import Board, fold
from nunu_async.polling.history import History
from nunu_async.polling.look import (
    ENOUGH_FAILURES,
    WIDTH,
    Kind,
    Look,
    Read,
    all_at_once,
    batch,
    page_count,
)
from nunu_async.polling.wait import Outcome, Wait

__all__ = ["Watcher"]

_LOG = logging.getLogger("nunu_async.polling")

R = TypeVar("R", bound=Outcome)

# Calls that are woken in one turn of the loop, each with code of its caller.
_AT_ONCE = 100
# Ids of one call that are put on the board in one turn.
_WATCHED_AT_ONCE = 1000
# So few ids are asked for one by one, where that can be done.
_FEW = 3
# Looks at something that is over but has no result yet.
_UNSETTLED_LOOKS = 3
# A list of the completed is read on as long as it gives something; then single rows are asked for.
_BARREN = 3
# Rows that are asked for all the same after a failure.
_SOME = 32


class Watcher(Generic[R]):
    """Looks at all that is waited for, in rounds, while somebody waits.

    `on_refused` is told when the server refuses the key, which concerns other kinds as well.

    Attributes:
        turns: when those who wait are woken.
    """

    def __init__(
        self,
        kind: Kind[R],
        *,
        clock: Clock,
        on_refused: Callable[[NunuError], None],
        closed: bool = False,
    ) -> None:
        self._kind = kind
        self._clock = clock
        self._on_refused = on_refused
        self._board: Board[Wait[R]] = Board()
        self._task: asyncio.Task[None] | None = None
        self._bell: asyncio.Future[None] | None = None
        self._closed = closed
        self._history = History(self._read_done, kind.moment)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turn = 0
        self.turns = Turns(_AT_ONCE)

    @property
    def kind(self) -> Kind[R]:
        """What it looks at."""
        return self._kind

    def state_of(self, name: str) -> str | None:
        """Return the last state seen of an id that is still waited for."""
        watched = self._board.get(fold(name))
        return watched.state if watched is not None else None

    def settle(self, wait: Wait[R]) -> None:
        """End for one wait, whose time is up, what is over but has no result yet, as it is."""
        for key in {fold(name) for name in wait.pending}:
            watched = self._board.get(key)
            if watched is not None and watched.over is not None:
                row = cast("R", watched.over)
                self._board.leave(key, wait)
                wait.ended(key, row)

    def join(self, wait: Wait[R]) -> None:
        """Begin to look at what is pending in a wait.

        Raises: ClientClosed; ConfigError in another event loop than the first.
        """
        self._check_open()
        for name in wait.pending:
            self._board.watch(name, wait)
        self._begin()

    async def join_many(self, wait: Wait[R]) -> None:
        """Begin to look at what is pending in a wait, without keeping the loop for all of it.

        Raises: what `join` does.
        """
        self._check_open()
        for number, name in enumerate(tuple(wait.pending), 1):
            if name in wait.pending:  # a look for others may have found it, in another case
                self._board.watch(name, wait)
            if number % _WATCHED_AT_ONCE == 0:
                await asyncio.sleep(0)
                if wait.error is not None:
                    return
        self._begin()

    def _check_open(self) -> None:
        if self._closed:
            raise ClientClosed("this client is closed: it waits for nothing more")
        loop = asyncio.get_running_loop()
        if self._loop not in (None, loop):
            raise ConfigError("this client waits in another event loop; make one for each loop")
        self._loop = loop

    def _begin(self) -> None:
        if self._task is None or self._task.done():
            # It serves whoever waits, so it has the context of none of them.
            self._task = asyncio.get_running_loop().create_task(
                self._run(), context=contextvars.Context()
            )
        elif self._bell is not None and not self._bell.done():
            self._bell.set_result(None)

    async def leave(self, wait: Wait[R]) -> None:
        """Look no longer at what is pending in a wait; the last to leave ends the loop."""
        for name in wait.pending:
            self._board.leave(name, wait)
        if not len(self._board):
            await self._stop()

    def fail(self, error: NunuError) -> None:
        """End every wait with an error."""
        for wait in self._board.clear():
            wait.fail(error)

    def end(self) -> None:
        """End every wait, for good."""
        self._closed = True
        self.fail(ClientClosed("the client was closed while waiting"))

    async def close(self) -> None:
        """End every wait, and the loop, for good; all who waited are woken by then."""
        self.end()
        await self._stop()
        await self.turns.ready()

    async def _stop(self) -> None:
        task, self._task = self._task, None
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait({task})

    async def _run(self) -> None:
        try:
            while len(self._board):
                delay = self._board.next_look(self._clock.random()) - self._clock.monotonic()
                if delay > 0:
                    await self._pause(delay)
                else:
                    await self._look()
        except NunuError as error:
            if isinstance(error, AuthenticationError | PermissionDenied):
                self._on_refused(error)
            self.fail(error)
        except Exception as error:  # noqa: BLE001 - nobody would hear of it, and all would wait on
            _LOG.exception("looking at %ss failed in an unexpected way", self._kind.name)
            failed = NunuError(f"waiting for {self._kind.name}s broke down: {error!r}")
            failed.__cause__ = error
            self.fail(failed)

    async def _pause(self, delay: float) -> None:
        """Wait for the time of the next look, or for somebody new."""
        hurried = self._board.has_fresh
        self._bell = bell = asyncio.get_running_loop().create_future()
        sleeper = asyncio.ensure_future(self._clock.sleep(delay))
        try:
            await asyncio.wait(
                {sleeper} if hurried else {sleeper, bell}, return_when=asyncio.FIRST_COMPLETED
            )
            if sleeper.done():
                sleeper.result()
        finally:
            self._bell = None
            bell.cancel()
            sleeper.cancel()
            await asyncio.wait({sleeper})

    async def _look(self) -> None:
        kind, board = self._kind, self._board
        targets = board.due(self._clock.monotonic())
        watched = len(board)
        # Of thousands, each step below takes milliseconds: each has a turn of the loop.
        await asyncio.sleep(0)
        look = Look(left=set(targets))
        if kind.get is not None and len(targets) <= _FEW:
            await self._ask_each(look, kind.get)
        else:
            for read in kind.active:
                await self._sweep(look, read)
            if kind.get is None:
                await self._history.find(look, board.placed(look.left))
                await self._history.seek(look, set(look.left))
            else:
                await self._skim(look)
                await self._ask_each(look, kind.get)
        await asyncio.sleep(0)
        now = self._clock.monotonic()
        board.looked(targets, now)
        await asyncio.sleep(0)
        await self._judge(look, now)
        _LOG.debug(
            "looked at %d of %d %ss in %d requests; %d not found, %d still watched",
            len(targets),
            watched,
            kind.name,
            look.requests,
            len(look.left),
            len(board),
        )

    async def _judge(self, look: Look, now: float) -> None:
        """Draw the conclusions of a look: how long to pause, and whom to give up."""
        kind, board = self._kind, self._board
        broken = look.unreadable is not None and kind.get is None
        if look.failures or broken:
            pause = board.went_wrong(now, look.retry_after)
            _LOG.warning(
                "%d of %d requests about %ss failed; next look in %.0f s at the earliest",
                look.failures,
                look.requests,
                kind.name,
                pause,
            )
        else:
            board.went_well(now, look.requests)
        if kind.get is not None:
            missed = look.unknown & look.left
        else:
            missed = set() if look.failures else look.left - look.inconclusive
        for key in board.missed(missed, now, moving=look.is_moving):
            await self.turns.ready()
            self._give_up(key, look.unreadable)

    async def _sweep(self, look: Look, read: Read[R]) -> None:
        """Read a list of what is not over, as long as it may hold what is looked for."""
        number, total, width = 0, 1, 1
        seen: set[str] = set()
        counts: set[int] = set()
        while number < total and not look.is_over:
            stop = min(number + width, total)
            pages = await self._read(look, read, range(number, stop))
            known, shown = len(seen), 0
            for page in pages.values():
                seen.update(map(self._kind.key, page.data))
                shown += len(page.data)
                counts.add(page.pagination.total_count)
                total = page_count(page)
            look.is_moving = look.is_moving or len(counts) > 1 or len(seen) < known + shown
            if pages and len(seen) == known:
                return  # an empty page, or a server that ignores the number
            number, width = stop, min(2 * width, WIDTH)

    async def _skim(self, look: Look) -> None:
        """Read the list of what is over while it gives something; the rest can be asked for."""
        number, total, barren = 0, 1, 0
        while len(look.left) > _FEW and number < total and barren < _BARREN and not look.is_over:
            left = len(look.left)
            stop = min(number + batch(left), total)
            pages = await self._read(look, self._kind.done, range(number, stop))
            for page in pages.values():
                total = page_count(page)
            barren = 0 if len(look.left) < left else barren + stop - number
            number = stop

    async def _read_done(self, look: Look, numbers: Iterable[int]) -> dict[int, Page[R]]:
        return await self._read(look, self._kind.done, numbers)

    async def _read(self, look: Look, read: Read[R], numbers: Iterable[int]) -> dict[int, Page[R]]:
        """Return the pages that could be read; what is on them has been taken note of.

        Raises: what ends every wait.
        """
        found: dict[int, Page[R]] = {}

        async def one(number: int) -> None:
            look.requests += 1
            try:
                page = await read(number)
            except NunuError as error:
                if not look.failed(error):
                    if look.fatal is not None:
                        raise
                    look.unreadable = error
                return
            found[number] = page
            if page.skipped:  # rows of others, or one that is waited for
                look.unreadable = DecodeError(f"list_{self._kind.name}s", page.skipped)
            for row in page.data:
                self._saw(look, fold(self._kind.key(row)), row)

        await all_at_once([one(number) for number in numbers])
        return found

    async def _ask_each(self, look: Look, get: Callable[[str], Awaitable[R]]) -> None:
        todo = deque(sorted(look.left))
        if look.failures:
            # What is left may just not have been shown: some are asked for, others the next time.
            todo.rotate(-self._turn)
            self._turn += _SOME
            todo = deque(islice(todo, _SOME))

        async def some() -> None:
            began = look.failures
            while todo and not look.is_over and look.failures - began < ENOUGH_FAILURES:
                key = todo.popleft()
                if self._board.get(key) is None:
                    continue
                look.requests += 1
                try:
                    row = await get(key)
                except NotFound:
                    look.unknown.add(key)
                except NunuError as error:
                    if not look.failed(error):
                        if look.fatal is not None:
                            raise
                        look.left.discard(key)
                        self._end(key, error)
                else:
                    self._saw(look, key, row)

        await all_at_once([some() for _ in range(min(WIDTH, len(todo)))])

    def _saw(self, look: Look, key: str, row: R) -> None:
        watched = self._board.get(key)
        if watched is None:
            return
        look.left.discard(key)
        state = sys.intern(self._kind.state(row))  # one string for all rows in the same state
        self._board.saw(key, state, self._kind.moment(row), self._clock.monotonic())
        for wait in watched.waits:
            wait.saw(key, state, row)
        if not row.is_terminal:
            watched.unsettled, watched.over = 0, None
        elif self._kind.is_settled(row) or watched.unsettled >= _UNSETTLED_LOOKS:
            self._end(key, row)
        else:
            watched.unsettled += 1
            watched.over = row

    def _give_up(self, key: str, unreadable: NunuError | None) -> None:
        watched = self._board.get(key)
        if watched is None:
            return
        name = self._kind.name
        # Its row may be the one that could not be read.
        error = unreadable or NotFound(
            status=404,
            message=f"no {name} {watched.asked} is in any page of GET {self._kind.path}",
        )
        self._end(key, error)

    def _end(self, key: str, outcome: R | NunuError) -> None:
        if self._board.get(key) is None:
            return
        for wait in self._board.take(key):
            wait.ended(key, copy.copy(outcome) if isinstance(outcome, NunuError) else outcome)
