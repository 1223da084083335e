"""Search the list of terminal rows, sorted newest first, without reading all of it."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from typing import Generic, TypeVar

from nunu_async.models.page import Page
from nunu_async.polling.round import MAX_FAILURES, PollRound, batch_size, page_count
from nunu_async.polling.subscription import Pollable

R = TypeVar("R", bound=Pollable)

# Consecutive pages without a wanted row after which a search ends for this poll round, because all
# other ids wait meanwhile.
_MAX_EMPTY_PAGES = 50
_TOP_PAGES = 2
_MAX_LANDMARKS = 200

ReadPages = Callable[[PollRound, Iterable[int]], Awaitable[dict[int, Page[R]]]]


class CompletedSearch(Generic[R]):
    """Searches the list of terminal rows and remembers row positions between poll rounds.

    `read` records the rows themselves; this class uses only their positions.
    """

    def __init__(self, read: ReadPages[R], moment: Callable[[R], datetime | None]) -> None:
        self._read = read
        self._moment = moment
        # Start times with their page numbers, newest last; page numbers go stale as the list grows.
        self._landmarks: list[tuple[datetime, int]] = []
        # How many pages were scanned for ids of unknown start time, and the ids scanned for.
        self._depth = 0
        self._scanned: set[str] = set()

    async def find(self, poll: PollRound, start_times: dict[str, datetime]) -> None:
        """Search for rows by start time, the sort key of the list."""
        # Used as a stack, so that the newest start time comes first.
        stack = sorted((moment, key) for key, moment in start_times.items())
        chart = _Chart()
        empty_pages = 0
        while (
            stack
            and empty_pages < _MAX_EMPTY_PAGES
            and poll.failures < MAX_FAILURES
            and not poll.is_done
        ):
            moment, key = stack[-1]
            number = (
                None if key not in poll.left else chart.next_page(moment, self._guess_page(moment))
            )
            if number is None:
                stack.pop()
                continue
            left = len(poll.left)
            wanted = chart.untried(number, batch_size(len(stack)))
            pages = await self._read(poll, wanted)
            for number in wanted:
                page = pages.get(number)
                chart.tried.add(number)
                if page is not None:
                    chart.add(number, self._moments(page), page_count(page))
                    self._remember(number, page)
            empty_pages = 0 if len(poll.left) < left else empty_pages + 1

    def _moments(self, page: Page[R]) -> list[datetime]:
        return [moment for moment in map(self._moment, page.data) if moment is not None]

    def _remember(self, number: int, page: Page[R]) -> None:
        moments = self._moments(page)
        if moments:
            insort(self._landmarks, (max(moments), number))
            if len(self._landmarks) > _MAX_LANDMARKS:
                del self._landmarks[::2]

    def _guess_page(self, moment: datetime) -> int:
        """Guess a row's page from earlier pages with similar start times."""
        after = bisect_left(self._landmarks, (moment, -1))
        return self._landmarks[after][1] if after < len(self._landmarks) else 0

    async def scan(self, poll: PollRound, ids: set[str]) -> None:
        """Search for ids of unknown start time, reading a part of the list per poll round.

        The ids stay inconclusive until the whole list has been read.
        """
        poll.inconclusive |= ids
        if poll.is_done or not ids:
            return
        if ids <= self._scanned:
            # Read the newly ended rows at the top, then resume where the last round stopped.
            end, _ = await self._read_on(poll, 0, ids, _TOP_PAGES)
            if not end:
                end, self._depth = await self._read_on(poll, max(self._depth, _TOP_PAGES), ids)
        else:
            end, depth = await self._read_on(poll, 0, ids)
            self._depth = min(self._depth or depth, depth)
            self._scanned |= ids
        if end:
            poll.inconclusive -= ids
            self._depth = 0
            self._scanned.clear()

    async def _read_on(
        self, poll: PollRound, number: int, wanted: set[str], most: int = 0
    ) -> tuple[bool, int]:
        """Read pages from `number` on; return whether the list ended, and the page to resume at.

        Stops after `most` pages (0: no limit), or after too many pages without a wanted row. A page
        that cannot be read is skipped, as later pages may have wanted rows; if its error was
        transient, the next round resumes at that page.
        """
        total, empty_pages, read = number + 1, 0, 0
        failed_at: int | None = None
        while number < total and not poll.is_done and not poll.left.isdisjoint(wanted):
            left, failures = len(poll.left), poll.failures
            page = (await self._read(poll, [number])).get(number)
            if poll.failures > failures and failed_at is None:
                failed_at = number
            number += 1
            read += 1
            resume_at = number if failed_at is None else failed_at
            if page is None:
                total = max(total, number + 1)
            else:
                self._remember(number - 1, page)
                total = page_count(page)
                if not page.data or number >= total:
                    return not poll.failures, resume_at
            empty_pages = 0 if len(poll.left) < left else empty_pages + 1
            done = empty_pages >= _MAX_EMPTY_PAGES or read == most or poll.failures >= MAX_FAILURES
            if done:
                return False, resume_at
        return False, number if failed_at is None else failed_at


class _Chart:
    """Maps the pages read in one poll round to the start times of their rows."""

    def __init__(self) -> None:
        self.tried: set[int] = set()
        self._total: int | None = None
        self._spans: dict[int, tuple[datetime, datetime]] = {}

    def add(self, number: int, moments: list[datetime], total: int) -> None:
        """Record the start times on a page, and the total number of pages."""
        self._total = total
        if moments:
            self._spans[number] = (max(moments), min(moments))

    def untried(self, number: int, most: int) -> list[int]:
        """Return page `number`, and the untried pages among the next `most` - 1."""
        end = number + (1 if self._total is None else most)
        return [n for n in range(number, end) if n == number or self._is_new(n)]

    def _is_new(self, number: int) -> bool:
        return number not in self.tried and (self._total is None or number < self._total)

    def next_page(self, moment: datetime, guess: int) -> int | None:
        """Return the next page to try for a row with this start time; None if no page is left."""
        newer = [n for n, (_, oldest) in self._spans.items() if oldest > moment]
        newer_page = max(newer, default=-1)
        older = [n for n, (newest, _) in self._spans.items() if newest < moment and n > newer_page]
        end = min(older, default=self._total)
        inside = [n for n in self.tried if n > newer_page and (end is None or n < end)]
        if inside:
            # Try next to pages that have only rows of this time, or that could not be read.
            for number in (min(inside) - 1, max(inside) + 1):
                if number > newer_page and (end is None or number < end) and self._is_new(number):
                    return number
            return next((n for n in range(min(inside), max(inside)) if self._is_new(n)), None)
        if end is not None and end - newer_page <= 1:
            return None
        if end is None or not older:
            number = max(guess, newer_page + (1 << min(len(newer), 30)))
            return number if end is None else min(number, end - 1)
        if newer_page < 0:
            return max(end - (1 << min(len(older), 30)), 0)
        return self._between(moment, newer_page, end)

    def _between(self, moment: datetime, newer_page: int, end: int) -> int:
        """Interpolate between a page with newer rows and a page with older rows."""
        newer, older = self._spans[newer_page][1], self._spans[end][0]
        # Bisect now and then: interpolation is slow when start times are distributed unevenly.
        if newer <= older or len(self.tried) % 3 == 0:
            return (newer_page + end) // 2
        share = (newer - moment) / (newer - older)
        return min(max(newer_page + round(share * (end - newer_page)), newer_page + 1), end - 1)
