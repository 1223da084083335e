"""The list of what is over, newest first: how to find rows in it without reading all of it."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from typing import Generic, TypeVar

from nunu_async.models.page import Page
from nunu_async.polling.look import ENOUGH_FAILURES, Look, batch, page_count
from nunu_async.polling.wait import Outcome

__all__ = ["History"]

R = TypeVar("R", bound=Outcome)

# Pages without a find after which a search ends for this look: everybody else waits meanwhile.
_BARREN = 50
_TOP = 2
_LANDMARKS = 200

ReadPages = Callable[[Look, Iterable[int]], Awaitable[dict[int, Page[R]]]]


class History(Generic[R]):
    """What has been learned of the list, from look to look.

    `read` takes note of what is on the pages; here only their places count.
    """

    def __init__(self, read: ReadPages[R], moment: Callable[[R], datetime | None]) -> None:
        self._read = read
        self._moment = moment
        # Where rows of which age stood, newest last; as good as the list is old.
        self._landmarks: list[tuple[datetime, int]] = []
        # How far down the list was read for rows of unknown age, and for which.
        self._depth = 0
        self._sought: set[str] = set()

    async def find(self, look: Look, placed: dict[str, datetime]) -> None:
        """Look for rows by when they began; the list is sorted by that."""
        todo = sorted((moment, key) for key, moment in placed.items())  # the newest is taken first
        chart = _Chart()
        barren = 0
        while todo and barren < _BARREN and look.failures < ENOUGH_FAILURES and not look.is_over:
            moment, key = todo[-1]
            number = None if key not in look.left else chart.next_page(moment, self._near(moment))
            if number is None:
                todo.pop()
                continue
            left = len(look.left)
            wanted = chart.untried(number, batch(len(todo)))
            pages = await self._read(look, wanted)
            for number in wanted:
                page = pages.get(number)
                chart.tried.add(number)
                if page is not None:
                    chart.note(number, self._moments(page), page_count(page))
                    self._remember(number, page)
            barren = 0 if len(look.left) < left else barren + 1

    def _moments(self, page: Page[R]) -> list[datetime]:
        return [moment for moment in map(self._moment, page.data) if moment is not None]

    def _remember(self, number: int, page: Page[R]) -> None:
        moments = self._moments(page)
        if moments:
            insort(self._landmarks, (max(moments), number))
            if len(self._landmarks) > _LANDMARKS:
                del self._landmarks[::2]

    def _near(self, moment: datetime) -> int:
        """Guess the page of a row by where rows of its age stood before."""
        after = bisect_left(self._landmarks, (moment, -1))
        return self._landmarks[after][1] if after < len(self._landmarks) else 0

    async def seek(self, look: Look, strangers: set[str]) -> None:
        """Look for rows of which no age is known, a part of the list in each look.

        What was not looked for down to the end is not known to be absent: it is left among the
        inconclusive.
        """
        look.inconclusive |= strangers
        if look.is_over or not strangers:
            return
        if strangers <= self._sought:
            # What ended a moment ago is on top; the rest goes on where it was left.
            end, _ = await self._walk(look, 0, strangers, _TOP)
            if not end:
                end, self._depth = await self._walk(look, max(self._depth, _TOP), strangers)
        else:
            end, depth = await self._walk(look, 0, strangers)
            self._depth = min(self._depth or depth, depth)
            self._sought |= strangers
        if end:
            look.inconclusive -= strangers
            self._depth = 0
            self._sought.clear()

    async def _walk(
        self, look: Look, number: int, wanted: set[str], most: int = 0
    ) -> tuple[bool, int]:
        """Read from a page on; tell whether the list ended, and where to go on.

        So many pages at the most, or those that give something and a few more. A page that cannot
        be read is stepped over: rows of others are behind it.
        """
        total, barren, read = number + 1, 0, 0
        while number < total and not look.is_over and not look.left.isdisjoint(wanted):
            left = len(look.left)
            page = (await self._read(look, [number])).get(number)
            number += 1
            read += 1
            if page is None:
                total = max(total, number + 1)
            else:
                self._remember(number - 1, page)
                total = page_count(page)
                if not page.data or number >= total:
                    return not look.failures, number
            barren = 0 if len(look.left) < left else barren + 1
            done = barren >= _BARREN or read == most or look.failures >= ENOUGH_FAILURES
            if done:
                return False, number
        return False, number


class _Chart:
    """What one look has learned of where in the list rows of which age stand."""

    def __init__(self) -> None:
        self.tried: set[int] = set()
        self._total: int | None = None
        self._spans: dict[int, tuple[datetime, datetime]] = {}

    def note(self, number: int, moments: list[datetime], total: int) -> None:
        """Take note of a page that was read, and of how many there are."""
        self._total = total
        if moments:
            self._spans[number] = (max(moments), min(moments))

    def untried(self, number: int, most: int) -> list[int]:
        """Return a page and those behind it that were not tried, `most` at the most."""
        end = number + (1 if self._total is None else most)
        return [n for n in range(number, end) if n == number or self._is_new(n)]

    def _is_new(self, number: int) -> bool:
        return number not in self.tried and (self._total is None or number < self._total)

    def next_page(self, moment: datetime, guess: int) -> int | None:
        """Return the page to try next for a row that began then; None if there is none left."""
        newer = [n for n, (_, oldest) in self._spans.items() if oldest > moment]
        above = max(newer, default=-1)
        older = [n for n, (newest, _) in self._spans.items() if newest < moment and n > above]
        end = min(older, default=self._total)
        inside = [n for n in self.tried if n > above and (end is None or n < end)]
        if inside:
            # Among those that began together, or beside a page that could not be read.
            for number in (min(inside) - 1, max(inside) + 1):
                if number > above and (end is None or number < end) and self._is_new(number):
                    return number
            return next((n for n in range(min(inside), max(inside)) if self._is_new(n)), None)
        if end is not None and end - above <= 1:
            return None
        if end is None or not older:
            number = max(guess, above + (1 << min(len(newer), 30)))
            return number if end is None else min(number, end - 1)
        if above < 0:
            return max(end - (1 << min(len(older), 30)), 0)
        return self._between(moment, above, end)

    def _between(self, moment: datetime, above: int, end: int) -> int:
        """Guess by age where it stands between a page that is newer and one that is older."""
        newer, older = self._spans[above][1], self._spans[end][0]
        if newer <= older or len(self.tried) % 3 == 0:  # or ages that are not spread evenly
            return (above + end) // 2
        share = (newer - moment) / (newer - older)
        return min(max(above + round(share * (end - above)), above + 1), end - 1)
