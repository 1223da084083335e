"""The poll loop that all waits for one resource share."""

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
from nunu_async.polling.completed import CompletedSearch
from nunu_async.polling.round import (
    CONCURRENCY,
    MAX_FAILURES,
    PollRound,
    PollSource,
    Read,
    batch_size,
    gather_all,
    page_count,
)
from nunu_async.polling.schedule import PollSchedule, fold
from nunu_async.polling.subscription import Pollable, Subscription

_LOG = logging.getLogger("nunu_async.polling")

R = TypeVar("R", bound=Pollable)

# Waits woken per event loop iteration; each of them then runs its caller's code.
_WAKES_PER_TURN = 100
# Ids of one wait that are added to the schedule per event loop iteration.
_ADDS_PER_TURN = 1000
# Up to this many ids are read one by one, if the API has an operation for it.
_FEW = 3
# Polls of a terminal row without a result, after which the row is accepted as it is.
_MAX_UNSETTLED = 3
# Consecutive pages without a wanted row, after which rows are read one by one.
_MAX_EMPTY_PAGES = 3
# Most rows to read one by one in a round with failed requests.
_READS_AFTER_FAILURE = 32


class Poller(Generic[R]):
    """Polls the ids of all waits for one resource, in rounds, while there are waits.

    Args:
        on_refused: called with the error when the server rejects the API key, as that ends the
            waits for all resources.

    Attributes:
        kind: the resource to poll.
        turns: limits how many waits are woken per event loop iteration.
    """

    def __init__(
        self,
        kind: PollSource[R],
        *,
        clock: Clock,
        on_refused: Callable[[NunuError], None],
        closed: bool = False,
    ) -> None:
        self.kind = kind
        self._clock = clock
        self._on_refused = on_refused
        self._schedule: PollSchedule[Subscription[R]] = PollSchedule()
        self._task: asyncio.Task[None] | None = None
        self._wakeup: asyncio.Future[None] | None = None
        self._closed = closed
        self._history = CompletedSearch(
            lambda poll, numbers: self._read(poll, kind.done, numbers), kind.moment
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._rotation = 0
        self.turns = Turns(_WAKES_PER_TURN)

    def state_of(self, name: str) -> str | None:
        """Return the last state seen for an id; None if it was never seen or has no wait."""
        watched = self._schedule.get(fold(name))
        return watched.state if watched is not None else None

    def settle(self, wait: Subscription[R]) -> None:
        """Accept terminal rows that still lack a result, for a wait that has timed out."""
        for key in {fold(name) for name in wait.pending}:
            watched = self._schedule.get(key)
            if watched is not None and watched.unsettled_row is not None:
                row = cast("R", watched.unsettled_row)
                self._schedule.leave(key, wait)
                wait.resolve(key, row)

    async def join(self, wait: Subscription[R]) -> None:
        """Start polling the pending ids of a wait; yields to the event loop if there are many.

        Raises: ClientClosed; ConfigError in an event loop other than the first.
        """
        self._check_open()
        for number, name in enumerate(tuple(wait.pending), 1):
            if name in wait.pending:  # a poll for other waits may have resolved it
                self._schedule.watch(name, wait)
            if number % _ADDS_PER_TURN == 0:
                await asyncio.sleep(0)
                if wait.error is not None:
                    return
        self._ensure_running()

    def _check_open(self) -> None:
        if self._closed:
            raise ClientClosed("this client is closed: it waits for nothing more")
        loop = asyncio.get_running_loop()
        if self._loop not in (None, loop):
            raise ConfigError("this client waits in another event loop; make one for each loop")
        self._loop = loop

    def _ensure_running(self) -> None:
        if self._task is None or self._task.done():
            # The task serves all waits, so it must not inherit the context of one of them.
            self._task = asyncio.get_running_loop().create_task(
                self._run(), context=contextvars.Context()
            )
        elif self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)

    async def leave(self, wait: Subscription[R]) -> None:
        """Remove a wait from its pending ids; stop the poll loop after the last wait."""
        for name in wait.pending:
            self._schedule.leave(name, wait)
        if not len(self._schedule):
            await self._stop()

    def fail(self, error: NunuError) -> None:
        """End every wait with an error."""
        for wait in self._schedule.clear():
            wait.fail(error)

    def end(self) -> None:
        """End every wait and refuse new ones."""
        self._closed = True
        self.fail(ClientClosed("the client was closed while waiting"))

    async def close(self) -> None:
        """End every wait and the poll loop; return once all waits have been woken."""
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
            while len(self._schedule):
                delay = self._schedule.next_poll(self._clock.random()) - self._clock.monotonic()
                if delay > 0:
                    await self._pause(delay)
                else:
                    await self._poll()
        except NunuError as error:
            if isinstance(error, AuthenticationError | PermissionDenied):
                self._on_refused(error)
            self.fail(error)
        except Exception as error:  # noqa: BLE001 - else no caller sees it, and all waits hang
            _LOG.exception("looking at %ss failed in an unexpected way", self.kind.name)
            failure = NunuError(f"waiting for {self.kind.name}s broke down: {error!r}")
            failure.__cause__ = error
            self.fail(failure)

    async def _pause(self, delay: float) -> None:
        """Sleep until the next poll is due or a new id is added."""
        has_new = self._schedule.has_new  # if so, the delay already applies to new ids
        self._wakeup = wakeup = asyncio.get_running_loop().create_future()
        sleeper = asyncio.ensure_future(self._clock.sleep(delay))
        try:
            await asyncio.wait(
                {sleeper} if has_new else {sleeper, wakeup}, return_when=asyncio.FIRST_COMPLETED
            )
            if sleeper.done():
                sleeper.result()
        finally:
            self._wakeup = None
            wakeup.cancel()
            sleeper.cancel()
            await asyncio.wait({sleeper})

    async def _poll(self) -> None:
        kind, board = self.kind, self._schedule
        targets = board.due(self._clock.monotonic())
        watched = len(board)
        # With thousands of ids, each step takes milliseconds: yield to the event loop in between.
        await asyncio.sleep(0)
        poll = PollRound(left=set(targets))
        if kind.get is not None and len(targets) <= _FEW:
            await self._read_each(poll, kind.get)
        else:
            for read in kind.active:
                await self._read_active(poll, read)
            if kind.get is None:
                await self._history.find(poll, board.start_times(poll.left))
                await self._history.scan(poll, set(poll.left))
            else:
                await self._read_recent_done(poll)
                await self._read_each(poll, kind.get)
        await asyncio.sleep(0)
        now = self._clock.monotonic()
        board.record_poll(targets, now)
        await asyncio.sleep(0)
        await self._conclude(poll, now)
        _LOG.debug(
            "looked at %d of %d %ss in %d requests; %d not found, %d still watched",
            len(targets),
            watched,
            kind.name,
            poll.requests,
            len(poll.left),
            len(board),
        )

    async def _conclude(self, poll: PollRound, now: float) -> None:
        """Set the time of the next poll, and resolve missing ids with an error."""
        kind, board = self.kind, self._schedule
        broken = poll.unreadable is not None and kind.get is None
        if poll.failures or broken:
            pause = board.record_failure(now, poll.retry_after)
            _LOG.warning(
                "%d of %d requests about %ss failed; next look in %.0f s at the earliest",
                poll.failures,
                poll.requests,
                kind.name,
                pause,
            )
        else:
            board.record_success(now, poll.requests)
        if kind.get is not None:
            absent = poll.unknown & poll.left
        else:
            absent = set() if poll.failures else poll.left - poll.inconclusive
        for key in board.record_absence(absent, now, moving=poll.is_moving):
            await self.turns.ready()
            self._end_missing(key, poll.unreadable)

    async def _read_active(self, poll: PollRound, read: Read[R]) -> None:
        """Read a list of active rows to its end, or until all ids are found."""
        number, total, width = 0, 1, 1
        seen: set[str] = set()
        counts: set[int] = set()
        while number < total and not poll.is_done:
            stop = min(number + width, total)
            pages = await self._read(poll, read, range(number, stop))
            known, shown = len(seen), 0
            for page in pages.values():
                seen.update(map(self.kind.key, page.data))
                shown += len(page.data)
                counts.add(page.pagination.total_count)
                total = page_count(page)
            poll.is_moving = poll.is_moving or len(counts) > 1 or len(seen) < known + shown
            if pages and len(seen) == known:
                return  # an empty page, or a server that ignores the page number
            number, width = stop, min(2 * width, CONCURRENCY)

    async def _read_recent_done(self, poll: PollRound) -> None:
        """Read pages of terminal rows while they have wanted rows; the caller reads the others."""
        number, total, empty_pages = 0, 1, 0
        while (
            len(poll.left) > _FEW
            and number < total
            and empty_pages < _MAX_EMPTY_PAGES
            and not poll.is_done
        ):
            left = len(poll.left)
            stop = min(number + batch_size(left), total)
            pages = await self._read(poll, self.kind.done, range(number, stop))
            for page in pages.values():
                total = page_count(page)
            empty_pages = 0 if len(poll.left) < left else empty_pages + stop - number
            number = stop

    async def _read(
        self, poll: PollRound, read: Read[R], numbers: Iterable[int]
    ) -> dict[int, Page[R]]:
        """Read pages and record their rows; return the readable pages, keyed by page number.

        Raises: an error that must end every wait.
        """
        found: dict[int, Page[R]] = {}

        async def read_page(number: int) -> None:
            poll.requests += 1
            try:
                page = await read(number)
            except NunuError as error:
                if not poll.failed(error):
                    if poll.fatal is not None:
                        raise
                    poll.unreadable = error
                return
            found[number] = page
            if page.skipped:  # skipped rows may be wanted ones
                poll.unreadable = DecodeError(f"list_{self.kind.name}s", page.skipped)
            for row in page.data:
                self._record_row(poll, fold(self.kind.key(row)), row)

        await gather_all([read_page(number) for number in numbers])
        return found

    async def _read_each(self, poll: PollRound, get: Callable[[str], Awaitable[R]]) -> None:
        queue = deque(sorted(poll.left))
        if poll.failures:
            # The failed pages may have these rows: read some now, others in the next round.
            queue.rotate(-self._rotation)
            self._rotation += _READS_AFTER_FAILURE
            queue = deque(islice(queue, _READS_AFTER_FAILURE))

        async def read_rows() -> None:
            failures_before = poll.failures
            while queue and not poll.is_done and poll.failures - failures_before < MAX_FAILURES:
                key = queue.popleft()
                if self._schedule.get(key) is None:
                    continue
                poll.requests += 1
                try:
                    row = await get(key)
                except NotFound:
                    poll.unknown.add(key)
                except NunuError as error:
                    if not poll.failed(error):
                        if poll.fatal is not None:
                            raise
                        poll.left.discard(key)
                        self._end(key, error)
                else:
                    self._record_row(poll, key, row)

        await gather_all([read_rows() for _ in range(min(CONCURRENCY, len(queue)))])

    def _record_row(self, poll: PollRound, key: str, row: R) -> None:
        watched = self._schedule.get(key)
        if watched is None:
            return
        poll.left.discard(key)
        state = sys.intern(self.kind.state(row))  # one string for all rows in the same state
        self._schedule.record_row(key, state, self.kind.moment(row), self._clock.monotonic())
        for wait in watched.waits:
            wait.record_state(key, state, row)
        if not row.is_terminal:
            watched.unsettled, watched.unsettled_row = 0, None
        elif self.kind.is_settled(row) or watched.unsettled >= _MAX_UNSETTLED:
            self._end(key, row)
        else:
            watched.unsettled += 1
            watched.unsettled_row = row

    def _end_missing(self, key: str, unreadable: NunuError | None) -> None:
        watched = self._schedule.get(key)
        if watched is None:
            return
        name = self.kind.name
        # The row of this id may be among those that could not be read.
        error = unreadable or NotFound(
            status=404,
            message=f"no {name} {watched.original} is in any page of GET {self.kind.path}",
        )
        self._end(key, error)

    def _end(self, key: str, outcome: R | NunuError) -> None:
        if self._schedule.get(key) is None:
            return
        for wait in self._schedule.take(key):
            wait.resolve(key, copy.copy(outcome) if isinstance(outcome, NunuError) else outcome)
