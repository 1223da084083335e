"""One poll loop for everybody who waits for the same kind of thing."""

from __future__ import annotations

import asyncio
import copy
import logging
import math
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from datetime import datetime, timedelta
from typing import Generic, Protocol, TypeVar

import attrs

from nunu_async.core.clock import Clock, Timer
from nunu_async.errors import (
    ApiError,
    AuthenticationError,
    CertificateError,
    ClientClosed,
    ConfigError,
    DecodeError,
    NotFound,
    NunuError,
    PermissionDenied,
    TransportError,
)
from nunu_async.models.page import Page
from nunu_async.polling.board import Board, fold

__all__ = ["Change", "Kind", "Outcome", "Wait", "Watcher"]

_LOG = logging.getLogger("nunu_async.polling")

# Pages or single rows asked for at once; the gate of the session is shared with other calls.
_WIDTH = 8
# So few ids are asked for one by one, where that can be done.
_FEW = 3
# A list of the completed is read on as long as it gives something; then single rows are asked for.
_BARREN = 3
# Where they cannot be: in one look, so that everybody else is looked at in time.
_BARREN_ALONE = 50
_BARREN_PLACED = 200
_TOP = 2
# Looks in a row at lists with something that cannot be read.
_UNREADABLE = 3
# Failures in one look after which the server is left in peace.
_ENOUGH_FAILURES = 8
_SLACK = timedelta(minutes=1)
_TRANSIENT = frozenset({408, 425, 429})


class Outcome(Protocol):
    """A row that says whether it is over."""

    @property
    def is_terminal(self) -> bool:
        """Whether nothing about it will change any more."""

    @property
    def succeeded(self) -> bool:
        """Whether it is over and ended well."""


R = TypeVar("R", bound=Outcome)
T = TypeVar("T")
_Read = Callable[[int], Awaitable[Page[R]]]


@attrs.frozen(kw_only=True)
class Kind(Generic[R]):
    """What can be waited for, and how to look at it.

    Attributes:
        name: in the singular, for messages.
        key: the id of a row.
        state: the state of a row, in the service's word.
        moment: when a row began: what `done` is sorted by, newest first, if `is_sorted`.
        active: pages of the lists that together hold all that is not over, in the order in which
            a row goes through them: one that moves on while they are read is met again.
        done: pages of the list of what is over.
        is_sorted: `done` is in the order of `moment` because it was asked to be.
        get: one row by its id; None where the service has no such operation.
        path: of the list, for messages.
    """

    name: str
    key: Callable[[R], str]
    state: Callable[[R], str]
    moment: Callable[[R], datetime | None]
    active: tuple[_Read[R], ...]
    done: _Read[R]
    path: str
    is_sorted: bool = False
    get: Callable[[str], Awaitable[R]] | None = None


@attrs.frozen(kw_only=True)
class Change(Generic[R]):
    """Something that is waited for was seen in another state.

    Attributes:
        id: the id that was asked for.
        before: the state seen before; None at the first sight.
        after: the state now, in the service's word.
        row: the whole row that says so.
    """

    id: str
    before: str | None
    after: str
    row: R


class Wait(Generic[R]):
    """One call that waits, for one id or for many.

    Attributes:
        pending: ids that are neither over nor given up, each with the state told last.
        news: ids that ended since the caller looked.
        changes: what was seen since the caller looked; None where nobody wants to know.
        finished: rows that are over, by id as asked for.
        given_up: errors that ended the wait for one id alone.
        error: what ended the wait for all of them.
        expired: its time is over.
        timer: what tells so.
    """

    __slots__ = (
        "_spelt",
        "_waker",
        "changes",
        "error",
        "expired",
        "finished",
        "given_up",
        "interval",
        "news",
        "pending",
        "timer",
    )

    def __init__(self, ids: Iterable[str], *, interval: float, wants_changes: bool) -> None:
        self.interval = interval
        self.pending: dict[str, str | None] = dict.fromkeys(ids)
        # UUIDs that were written in another case than they are compared in.
        self._spelt: dict[str, list[str]] = {}
        for name in self.pending:
            if (key := fold(name)) != name:
                self._spelt.setdefault(key, []).append(name)
        self.news: list[str] = []
        self.changes: list[Change[R]] | None = [] if wants_changes else None
        self.finished: dict[str, R] = {}
        self.given_up: dict[str, NunuError] = {}
        self.error: NunuError | None = None
        self.expired = False
        self.timer: Timer | None = None
        self._waker: asyncio.Future[None] | None = None

    def stirred(self) -> asyncio.Future[None]:
        """Return what is done once there is anything new: a bare future, for it is kept long."""
        self._waker = asyncio.get_running_loop().create_future()
        if self.news or self.changes or self.error or self.expired:
            self._waker.set_result(None)
        return self._waker

    def _wake(self) -> None:
        if self._waker is not None and not self._waker.done():
            self._waker.set_result(None)

    def ended(self, key: str, outcome: R | NunuError) -> None:
        """Take note of what became of one id."""
        for name in self._named(key):
            del self.pending[name]
            if isinstance(outcome, NunuError):
                self.given_up[name] = outcome
            else:
                self.finished[name] = outcome
            self.news.append(name)
        self._wake()

    def saw(self, key: str, state: str, row: R) -> None:
        """Take note of a sight of one id, where that is news to this wait."""
        if self.changes is None:
            return
        for name in self._named(key):
            before = self.pending[name]
            if before is None or (before is not state and before.lower() != state.lower()):
                self.pending[name] = state
                self.changes.append(Change(id=name, before=before, after=state, row=row))
                self._wake()

    def fail(self, error: NunuError) -> None:
        """Take note of what ends it all."""
        self.error = error
        self._wake()

    def expire(self) -> None:
        """Take note that its time is over."""
        self.expired = True
        self._wake()

    def _named(self, key: str) -> list[str]:
        names = self._spelt.get(key, ())
        return [name for name in (key, *names) if name in self.pending]


@attrs.define
class _Look:
    """What one look is for, and how it goes."""

    left: set[str]
    inconclusive: set[str] = attrs.field(factory=set)
    requests: int = 0
    failures: int = 0
    retry_after: float | None = None
    unknown: set[str] = attrs.field(factory=set)
    is_moving: bool = False
    unreadable: NunuError | None = None
    fatal: NunuError | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to be asked now: all was found, or the server named a time."""
        return not self.left or self.retry_after is not None

    def failed(self, error: NunuError) -> bool:
        """Take note of a failure; tell whether it may pass by itself."""
        if _is_transient(error):
            self.failures += 1
            asked = getattr(error, "retry_after", None)
            if asked is not None:
                self.retry_after = max(self.retry_after or 0.0, asked)
            return True
        if isinstance(
            error, AuthenticationError | PermissionDenied | ConfigError | CertificateError
        ):
            self.fatal = error
        return False


class Watcher(Generic[R]):
    """Looks at all that is waited for, in rounds, while somebody waits.

    `on_refused` is told when the server refuses the key, which concerns other kinds as well.
    """

    def __init__(
        self, kind: Kind[R], *, clock: Clock, on_refused: Callable[[NunuError], None]
    ) -> None:
        self._kind = kind
        self._clock = clock
        self._on_refused = on_refused
        self._board: Board[Wait[R]] = Board()
        self._task: asyncio.Task[None] | None = None
        self._bell: asyncio.Future[None] | None = None
        self._closed = False
        # Pages of the list of what is over: where what was looked for last began; how far down
        # it was read for ids that were never seen, and for which.
        self._began_at = 0
        self._depth = 0
        self._sought: set[str] = set()
        self._unreadable = 0  # looks in a row

    @property
    def kind(self) -> Kind[R]:
        """What it looks at."""
        return self._kind

    def state_of(self, name: str) -> str | None:
        """Return the last state seen of an id that is still waited for."""
        watched = self._board.get(fold(name))
        return watched.state if watched is not None else None

    def join(self, wait: Wait[R]) -> None:
        """Begin to look at what is pending in a wait.

        Raises: ClientClosed.
        """
        if self._closed:
            raise ClientClosed("this client is closed: it waits for nothing more")
        for name in wait.pending:
            self._board.watch(name, wait)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())
        elif self._bell is not None and not self._bell.done():
            self._bell.set_result(None)

    async def leave(self, wait: Wait[R]) -> None:
        """Look no longer at what is pending in a wait; the last to leave ends the loop."""
        for name in wait.pending:
            self._board.leave(name, wait)
        if not len(self._board):
            await self._stop()

    def fail(self, error: NunuError) -> None:
        """End every wait with an error, each with its own copy: tasks add to its traceback."""
        for wait in self._board.clear():
            wait.fail(copy.copy(error))

    async def close(self) -> None:
        """End every wait, and the loop, for good."""
        self._closed = True
        self.fail(ClientClosed("the client was closed while waiting"))
        await self._stop()

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
        look = _Look(left=set(targets))
        watched = len(board)
        if kind.get is not None and len(targets) <= _FEW:
            await self._ask_each(look, kind.get)
        else:
            for read in kind.active:
                await self._sweep(look, read)
            if kind.get is None:
                await self._search(look)
            else:
                await self._skim(look)
                # After a failure what is left may just not have been shown.
                if look.unreadable is not None or not look.failures:
                    await self._ask_each(look, kind.get)
        now = self._clock.monotonic()
        board.looked(targets, now)
        self._judge(look, now)
        _LOG.debug(
            "looked at %d of %d %ss in %d requests; %d not found, %d still watched",
            len(targets),
            watched,
            kind.name,
            look.requests,
            len(look.left),
            len(board),
        )

    def _judge(self, look: _Look, now: float) -> None:
        """Draw the conclusions of a look: how long to pause, and whom to give up."""
        kind, board = self._kind, self._board
        self._unreadable = self._unreadable + 1 if look.unreadable and look.left else 0
        if look.failures or (look.unreadable is not None and kind.get is None):
            pause = board.went_wrong(now, look.retry_after)
            _LOG.warning(
                "%d of %d requests about %ss failed; next look in %.0f s at the earliest%s",
                look.failures,
                look.requests,
                kind.name,
                pause,
                f": {look.unreadable}" if look.unreadable is not None else "",
            )
        else:
            board.went_well(now, look.requests)
        if kind.get is not None:
            missed = look.unknown & look.left
        elif look.failures or look.unreadable is not None:
            missed = set()
        else:
            missed = look.left - look.inconclusive
        for key in board.missed(missed, now, moving=look.is_moving):
            self._give_up(key)
        if look.unreadable is not None and kind.get is None and self._unreadable >= _UNREADABLE:
            for key in look.left:
                self._end(key, look.unreadable)

    async def _sweep(self, look: _Look, read: _Read[R]) -> None:
        """Read a list of what is not over, as long as it may hold what is looked for."""
        number, total, width = 0, 1, 1
        seen: set[str] = set()
        counts: set[int] = set()
        while number < total and not look.is_over:
            stop = min(number + width, total)
            pages = await self._read(look, read, range(number, stop))
            known, shown = len(seen), 0
            for page in pages:
                seen.update(map(self._kind.key, page.data))
                shown += len(page.data)
                counts.add(page.pagination.total_count)
                total = _pages(page)
                if len(page.data) < page.pagination.page_size:
                    total = min(total, stop)
            look.is_moving = look.is_moving or len(counts) > 1 or len(seen) < known + shown
            if pages and len(seen) == known:
                return  # an empty page, or a server that ignores the number
            number, width = stop, min(2 * width, _WIDTH)

    async def _skim(self, look: _Look) -> None:
        """Read the list of what is over while it gives something; the rest can be asked for."""
        number, total, barren = 0, 1, 0
        while len(look.left) > _FEW and number < total and barren < _BARREN and not look.is_over:
            left = len(look.left)
            # As many pages at once as what is left would fill, were it all in one place.
            stop = min(number + min(-(-left // 100), _WIDTH), total)
            pages = await self._read(look, self._kind.done, range(number, stop))
            if len(pages) < stop - number or not pages[-1].data:
                return
            barren = 0 if len(look.left) < left else barren + len(pages)
            number, total = stop, _pages(pages[-1])

    async def _search(self, look: _Look) -> None:
        """Read the sorted list of what is over for what was not among the active."""
        placed = self._board.placed(look.left)
        if placed and not look.is_over:
            await self._search_where(look, placed)
        strangers = look.left - placed.keys()
        look.inconclusive |= strangers
        if not strangers or look.is_over:
            return
        if not strangers <= self._sought:
            end, depth = await self._walk(look, 0, strangers)
            self._depth = min(self._depth or depth, depth)
        else:
            # What ended a moment ago is on top; the rest goes on where it was left.
            end, _ = await self._walk(look, 0, strangers, _TOP)
            if not end:
                end, self._depth = await self._walk(look, max(self._depth, _TOP), strangers)
        self._sought |= strangers
        if end:
            look.inconclusive -= strangers
            self._depth = 0
            self._sought.clear()

    async def _search_where(self, look: _Look, placed: dict[str, datetime]) -> None:
        """Look for rows where they must stand, by when they began."""
        tried: dict[int, Page[R]] = {}
        newest, oldest = max(placed.values()) + _SLACK, min(placed.values()) - _SLACK
        number = await self._place(look, newest, tried)
        total, barren = number + 1, 0
        while 0 <= number < total and not look.left.isdisjoint(placed) and not look.is_over:
            left = len(look.left)
            stop = min(number + min(-(-len(look.left) // 100), _WIDTH), total)
            pages = [tried[n] for n in range(number, stop) if n in tried]
            pages += await self._read(
                look, self._kind.done, [n for n in range(number, stop) if n not in tried]
            )
            if len(pages) < stop - number:
                return
            moments = [moment for page in pages for moment in self._moments(page)]
            barren = 0 if len(look.left) < left else barren + len(pages)
            past = bool(moments) and min(moments) < oldest
            if not pages[-1].data or past or barren >= _BARREN_PLACED:
                return
            number, total = stop, _pages(pages[-1])

    async def _place(self, look: _Look, newest: datetime, tried: dict[int, Page[R]]) -> int:
        """Return the first page of the sorted list of what is over with a row as old as `newest`.

        Whatever began later stands before it, and may be a million rows: pages are tried at
        growing distances from where the last search began, then in between. -1 tells that a page
        could not be read.
        """
        newer, older, number, step = -1, math.inf, self._began_at, 1
        while older - newer > 1:
            pages = await self._read(look, self._kind.done, [number])
            if not pages:
                return -1
            (tried[number],) = pages
            moments = self._moments(tried[number])
            if moments and min(moments) > newest:
                newer = number
            else:
                older = number
            last = _pages(tried[number]) - 1
            if older < math.inf and newer < 0:
                number = max(number - step, 0)
            elif older < math.inf:
                number = (newer + int(older)) // 2
            elif number >= last:
                return number + 1
            else:
                number = min(number + step, last)
            step *= 2
        self._began_at = int(older)
        return self._began_at

    def _moments(self, page: Page[R]) -> list[datetime]:
        return [moment for moment in map(self._kind.moment, page.data) if moment is not None]

    async def _walk(
        self, look: _Look, number: int, wanted: set[str], most: int = 0
    ) -> tuple[bool, int]:
        """Read the list of what is over from a page on; tell whether it ended, and where to go on.

        So many pages at the most, or those that give something and a few more.
        """
        total, barren, read = number + 1, 0, 0
        while number < total and not look.is_over and not look.left.isdisjoint(wanted):
            left = len(look.left)
            pages = await self._read(look, self._kind.done, [number])
            if not pages:
                return False, number
            total = _pages(pages[0])
            number += 1
            read += 1
            if not pages[0].data or number >= total:
                return True, number
            barren = 0 if len(look.left) < left else barren + 1
            if barren >= _BARREN_ALONE or read == most:
                return False, number
        return False, number

    async def _read(self, look: _Look, read: _Read[R], numbers: Iterable[int]) -> list[Page[R]]:
        """Return the pages that could be read; what is on them has been taken note of.

        Raises: what ends every wait.
        """

        async def one(number: int) -> Page[R] | None:
            look.requests += 1
            try:
                page = await read(number)
            except NunuError as error:
                if not look.failed(error):
                    if look.fatal is not None:
                        raise
                    look.unreadable = error  # this list, or one row of it
                return None
            for row in page.data:
                self._saw(look, fold(self._kind.key(row)), row)
            return page

        pages = await _all([one(number) for number in numbers])
        return [page for page in pages if page is not None]

    async def _ask_each(self, look: _Look, get: Callable[[str], Awaitable[R]]) -> None:
        todo = deque(look.left)

        async def some() -> None:
            while todo and not look.is_over and look.failures < _ENOUGH_FAILURES:
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

        await _all([some() for _ in range(min(_WIDTH, len(todo)))])

    def _saw(self, look: _Look, key: str, row: R) -> None:
        watched = self._board.get(key)
        if watched is None:
            return
        look.left.discard(key)
        state = sys.intern(self._kind.state(row))  # one string for all rows in the same state
        self._board.saw(key, state, self._kind.moment(row), self._clock.monotonic())
        for wait in watched.waits:
            wait.saw(key, state, row)
        if row.is_terminal:
            self._end(key, row)

    def _give_up(self, key: str) -> None:
        name = self._kind.name
        error = NotFound(
            status=404,
            message=f"the server shows no {name} {self._board[key].asked}",
            method="GET",
            path=self._kind.path,
        )
        self._end(key, error)

    def _end(self, key: str, outcome: R | NunuError) -> None:
        if self._board.get(key) is None:
            return
        for wait in self._board.take(key):
            wait.ended(key, copy.copy(outcome) if isinstance(outcome, NunuError) else outcome)


async def _all(work: Iterable[Coroutine[object, object, T]]) -> list[T]:
    """Do all at once; the first that fails ends the others, and none is left behind."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        if not all(task.done() for task in tasks):
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


def _pages(page: Page[R]) -> int:
    """Return how many pages a list has, by whichever of the server's two counts says more."""
    told = page.pagination
    return max(told.total_pages, -(-told.total_count // max(told.page_size, 1)))


def _is_transient(error: NunuError) -> bool:
    match error:
        case CertificateError():
            return False
        case TransportError():
            return True
        case ApiError():
            return error.status in _TRANSIENT or error.status >= 500  # noqa: PLR2004 - server's
        case DecodeError():
            return error.garbled
        case _:
            return False
