"""One poll loop for everybody who waits for the same kind of thing."""

from __future__ import annotations

import asyncio
import copy
import logging
import math
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
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
# Where they cannot be: doubled with each look in vain.
_BARREN_ALONE = 50
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
        pending: ids that are neither over nor given up.
        news: ids that ended since the caller looked.
        changes: what was seen since the caller looked; None where nobody wants to know.
        finished: rows that are over, by id as asked for.
        given_up: errors that ended the wait for one id alone.
        error: what ended the wait for all of them.
        expired: its time is over.
        timer: what tells so.
    """

    __slots__ = (
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
        self.pending = dict.fromkeys(ids)
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

    def changed(self, key: str, before: str | None, after: str, row: R) -> None:
        """Take note of another state of one id."""
        if self.changes is not None:
            for name in self._named(key):
                self.changes.append(Change(id=name, before=before, after=after, row=row))
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
        # A caller may have written a UUID in another case, and in several.
        if key in self.pending:
            return [key]
        return [name for name in self.pending if fold(name) == key]


@attrs.define
class _Look:
    """What one look is for, and how it goes."""

    left: set[str]
    requests: int = 0
    failures: int = 0
    retry_after: float | None = None
    unknown: set[str] = attrs.field(factory=set)
    is_moving: bool = False
    is_unreadable: bool = False
    fatal: NunuError | None = None

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
        self._began_at = 0  # page of the list of what is over where the last search began

    @property
    def kind(self) -> Kind[R]:
        """What it looks at."""
        return self._kind

    def state_of(self, name: str) -> str | None:
        """Return the last state seen of an id that is still waited for."""
        watched = self._board.get(fold(name))
        return watched.state if watched is not None else None

    def join(self, wait: Wait[R]) -> None:
        """Begin to look at what is pending in a wait."""
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
        """End every wait, and the loop."""
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
            await self._search(look)
            # After a failure what is left may just not have been shown.
            if kind.get is not None and (look.is_unreadable or not look.failures):
                await self._ask_each(look, kind.get)
        now = self._clock.monotonic()
        board.looked(targets, now)
        if look.failures:
            pause = board.went_wrong(now, look.retry_after)
            _LOG.warning(
                "%d requests about %ss failed; next look in %.0f s at the earliest",
                look.failures,
                kind.name,
                pause,
            )
        else:
            board.went_well(now, look.requests)
        missed = look.unknown if kind.get is not None else look.left
        if kind.get is not None or not look.failures:
            for key in board.missed(missed & look.left, now, moving=look.is_moving):
                self._give_up(key)
        _LOG.debug(
            "looked at %d of %d %ss in %d requests; %d not found, %d still watched",
            len(targets),
            watched,
            kind.name,
            look.requests,
            len(look.left),
            len(board),
        )

    async def _sweep(self, look: _Look, read: _Read[R]) -> None:
        """Read a list of what is not over, as long as it may hold what is looked for."""
        number, total, width = 0, 1, 1
        seen: set[str] = set()
        counts: set[int] = set()
        while look.left and number < total and not look.is_unreadable:
            stop = min(number + width, total)
            pages = await self._read(look, read, range(number, stop))
            known = len(seen)
            for page in pages:
                seen.update(map(self._kind.key, page.data))
                counts.add(page.pagination.total_count)
                total = page.pagination.total_pages
                if len(page.data) < page.pagination.page_size:
                    total = min(total, stop)
            look.is_moving = look.is_moving or len(counts) > 1
            if pages and len(seen) == known:
                return  # an empty page, or a server that ignores the number
            number, width = stop, min(2 * width, _WIDTH)

    async def _search(self, look: _Look) -> None:
        """Read the list of what is over for what was not among the active."""
        kind, board = self._kind, self._board
        alone = kind.get is None
        misses = board.most_misses(look.left)
        span = board.span(look.left) if kind.is_sorted and misses == 0 else None
        patience = _BARREN_ALONE * 2**misses if alone else _BARREN
        enough = 0 if alone else _FEW
        number, total, barren = 0, 1, 0
        tried: dict[int, Page[R]] = {}
        if span is not None and look.left:
            number = await self._place(look, span[1] + _SLACK, tried)
            if number < 0:
                return
            total = number + 1
        while len(look.left) > enough and number < total and not look.is_unreadable:
            left = len(look.left)
            # As many pages at once as what is left would fill, were it all in one place.
            stop = min(number + min(-(-left // 100), _WIDTH), total)
            pages = [tried[n] for n in range(number, stop) if n in tried]
            pages += await self._read(
                look, kind.done, [n for n in range(number, stop) if n not in tried]
            )
            if len(pages) < stop - number:
                return
            total = pages[-1].pagination.total_pages
            if any(len(page.data) < page.pagination.page_size for page in pages):
                return
            barren = 0 if len(look.left) < left else barren + len(pages)
            if span is None and barren >= patience:
                return
            moments = [moment for page in pages for moment in self._moments(page)]
            if span is not None and moments and min(moments) < span[0] - _SLACK:
                return
            number = stop

    async def _place(self, look: _Look, newest: datetime, tried: dict[int, Page[R]]) -> int:
        """Return the first page of the sorted list of what is over with a row as old as `newest`.

        -1 tells that a page could not be read.

        Whatever began later stands before it, and may be a million rows: pages are tried at
        growing distances from where the last search began, then in between.
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
            last = tried[number].pagination.total_pages - 1
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

    async def _read(self, look: _Look, read: _Read[R], numbers: Iterable[int]) -> list[Page[R]]:
        """Return the pages that could be read; what is on them has been taken note of."""

        async def one(number: int) -> Page[R] | None:
            look.requests += 1
            try:
                page = await read(number)
            except NunuError as error:
                if not look.failed(error) and look.fatal is None:
                    # The list itself cannot be used; single rows may be.
                    look.is_unreadable = True
                    if self._kind.get is None:
                        look.fatal = error
                return None
            for row in page.data:
                self._saw(look, fold(self._kind.key(row)), row)
            return page

        pages = await asyncio.gather(*map(one, numbers))
        if look.fatal is not None:
            raise look.fatal
        return [page for page in pages if page is not None]

    async def _ask_each(self, look: _Look, get: Callable[[str], Awaitable[R]]) -> None:
        todo = deque(look.left)

        async def some() -> None:
            while todo and look.fatal is None and look.failures < _ENOUGH_FAILURES:
                key = todo.popleft()
                watched = self._board.get(key)
                if watched is None:
                    continue
                look.requests += 1
                try:
                    row = await get(watched.asked)
                except NotFound:
                    look.unknown.add(key)
                except NunuError as error:
                    if not look.failed(error) and look.fatal is None:
                        self._end(key, error)
                else:
                    self._saw(look, key, row)

        await asyncio.gather(*(some() for _ in range(min(_WIDTH, len(todo)))))
        if look.fatal is not None:
            raise look.fatal

    def _saw(self, look: _Look, key: str, row: R) -> None:
        watched = self._board.get(key)
        if watched is None:
            return
        look.left.discard(key)
        # One string for all rows in the same state.
        before, after = watched.state, sys.intern(self._kind.state(row))
        now = self._clock.monotonic()
        if self._board.saw(key, after, self._kind.moment(row), now):
            for wait in watched.waits:
                wait.changed(key, before, after, row)
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
