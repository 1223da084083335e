"""Reading a list page by page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from nunu_async.core import codec
from nunu_async.core.request import Replay, Request
from nunu_async.errors import InputError
from nunu_async.models.base import Model
from nunu_async.models.page import Page, Pagination

__all__ = ["Listing", "check_page", "page_request"]

T = TypeVar("T")
M = TypeVar("M", bound=Model)

_LARGEST_PAGE = 100


class Listing(AsyncIterator[T]):
    """A list of the API, read as it is walked through.

    An async iterator over its rows, each given once: rows that appear again because the list moved
    between two pages are passed over. When the server's count says that rows went away, the pages
    before are read again, so that rows which moved there are not missed. One page is held at a
    time. Ends at an empty page, at the last by the server's count of pages, at a short one when
    there are no more rows by its count, or when pages have nothing new more often than the growth
    of the list explains.

    Each `async for` walks from the first page; `anext` goes on where the last `anext` was.
    """

    def __init__(self, fetch: Callable[[int], Awaitable[Page[T]]], key: Callable[[T], str]) -> None:
        self._fetch = fetch
        self._key = key
        self._steps: AsyncIterator[T] | None = None

    async def pages(self) -> AsyncIterator[Page[T]]:
        """Give the pages as the server does, repeated rows included."""
        async for page, _ in self._walk():
            yield page

    async def __aiter__(self) -> AsyncIterator[T]:
        """Give the rows, from the first."""
        async for _, new in self._walk():
            for row in new:
                yield row

    async def __anext__(self) -> T:
        """Return the next row of the one walk that all such steps share.

        Raises: StopAsyncIteration after the last.
        """
        if self._steps is None:
            self._steps = aiter(self)
        return await anext(self._steps)

    async def _walk(self) -> AsyncIterator[tuple[Page[T], list[T]]]:
        """Give each page, and what is new on it."""
        known: dict[str, None] = {}
        walk = _Walk()
        while True:
            page = await self._fetch(walk.number)
            new: list[T] = []
            for row in page.data:
                key = self._key(row)
                if key not in known:
                    known[key] = None
                    new.append(row)
            # An empty page is the answer to an empty list, and none after any other.
            if page.data or walk.number == 0:
                yield page, new
            while len(known) > _REMEMBERED:
                del known[next(iter(known))]
            if not walk.goes_on(page.pagination, len(page.data), len(new)):
                return


class _Walk:
    """Which page comes next, and whether any does; the rules alone."""

    def __init__(self) -> None:
        self.number = 0
        self._count = 0  # rows of the list, as the server said last
        self._highest = 0  # the most it ever said
        self._given = 0  # rows that were new
        self._stale = 0  # rows of pages in a row that had nothing new
        self._spare = 0  # as many of them as growth and turning back explain
        self._turns = _MOST_TURNS  # pages that may still be gone back

    def goes_on(self, told: Pagination, rows: int, new: int) -> bool:
        """Take note of a page that was read: what it told, its rows, those of them new."""
        size = max(told.page_size, 1)
        # New rows in front move a page here that was read already; but a server that ignores the
        # page number, or gives the same few pages in turns, shows nothing new for ever.
        if self._highest:
            self._spare += max(told.total_count - self._highest, 0)
        gone = self._count - told.total_count
        self._count, self._highest = told.total_count, max(self._highest, told.total_count)
        self._stale = 0 if new else self._stale + size
        self._given += new
        # Rows behind those that went away have moved forward, at most by as many.
        back = min(-(-gone // size), self.number, self._turns) if gone > 0 else 0
        if back:
            self._turns -= back
            self._spare += (back + 1) * size
            self.number -= back
        else:
            self.number += 1
            if not rows or self.number >= told.total_pages:
                return False
            # A server that filters a page after cutting it, or gives less than it was asked for,
            # has short pages in the middle; one that only counts too many pages, after the end.
            if rows < told.page_size and self._given >= told.total_count:
                return False
        return self._stale < min(self._spare + _STALE_PAGES * size, _MOST_STALE_PAGES * size)


_STALE_PAGES = 3
# Bounds for a server whose count means nothing.
_MOST_STALE_PAGES = 100
_MOST_TURNS = 100
# Ids of rows already given, newest first to go last: a hundred pages of shift.
_REMEMBERED = 10_000


def check_page(page: int, page_size: int) -> None:
    """Refuse what the API does not take.

    Raises: InputError.
    """
    if type(page) is not int or page < 0:
        raise InputError("page", f"must be a whole number from 0 on, not {page!r}")
    if type(page_size) is not int or not 1 <= page_size <= _LARGEST_PAGE:
        raise InputError("page_size", f"must be from 1 to {_LARGEST_PAGE}, not {page_size!r}")


def page_request(
    operation: str,
    path: str,
    model: type[M],
    *,
    filters: tuple[tuple[str, str], ...],
    page: int,
    page_size: int,
    lenient: bool,
    within: float | None = None,
) -> Request[Page[M]]:
    """Return the request for one page of a list of `model`."""
    return Request(
        operation=operation,
        method="GET",
        path=path,
        query=(*filters, ("page", str(page)), ("page_size", str(page_size))),
        answer=lambda data: codec.structure_page(data, model, lenient=lenient),
        replay=Replay.ALWAYS,
        within=within,
    )
