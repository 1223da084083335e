"""Iterate over paginated lists."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Generic, TypeVar

import attrs

from nunu_async.core import codec
from nunu_async.core.request import Replay, Request
from nunu_async.core.session import Session
from nunu_async.endpoints.ids import Check, query
from nunu_async.errors import InputError
from nunu_async.models.base import Model
from nunu_async.models.page import Page, Pagination

T = TypeVar("T")
M = TypeVar("M", bound=Model)

_LARGEST_PAGE = 100


class Listing(AsyncIterator[T]):
    """An async iterator over the rows of a list, fetched page by page.

    Each row is returned once: rows that appear again because the list shifted between two pages
    are skipped. When the server's count shows that rows were removed, earlier pages are read
    again, so that rows that moved there are not missed. Only one page is in memory at a time.
    Iteration ends at an empty page, at the last page by the server's count, at a short page once
    as many rows as the server counts were seen, or after more pages without new rows than the
    growth of the list explains.

    Each `async for` starts at the first page; `anext` continues after the previous `anext`.
    """

    def __init__(self, fetch: Callable[[int], Awaitable[Page[T]]], key: Callable[[T], str]) -> None:
        self._fetch = fetch
        self._key = key
        self._steps: AsyncIterator[T] | None = None

    async def pages(self) -> AsyncIterator[Page[T]]:
        """Yield the pages as the server returns them, repeated rows included."""
        async for page, _ in self._walk():
            yield page

    async def __aiter__(self) -> AsyncIterator[T]:
        """Yield all rows, starting with the first."""
        async for _, new in self._walk():
            for row in new:
                yield row

    async def __anext__(self) -> T:
        """Return the next row; all `anext` calls share one iteration.

        Raises: StopAsyncIteration after the last row.
        """
        if self._steps is None:
            self._steps = aiter(self)
        return await anext(self._steps)

    async def _walk(self) -> AsyncIterator[tuple[Page[T], list[T]]]:
        """Yield each page with its new rows."""
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
            # Yield an empty page only for an empty list, not after other pages.
            if page.data or walk.number == 0:
                yield page, new
            while len(known) > _REMEMBERED:
                del known[next(iter(known))]
            if not walk.goes_on(page.pagination, len(page.data), len(new)):
                return


class _Walk:
    """Decides which page to fetch next, if any; no I/O."""

    def __init__(self) -> None:
        self.number = 0
        self._count = 0  # the server's latest row count
        self._highest = 0  # the highest row count so far
        self._seen = 0  # number of new rows so far
        self._stale = 0  # rows on consecutive pages without new rows
        self._spare = 0  # how many stale rows are explained by growth and by rereading
        self._steps_back = _MAX_STEPS_BACK  # how many pages may still be reread

    def goes_on(self, pagination: Pagination, rows: int, new: int) -> bool:
        """Record a page with `rows` rows, `new` of them new; return whether to fetch another."""
        total, size = pagination.total_count, max(pagination.page_size, 1)
        # Rows inserted at the front shift rows already read onto this page. But a server that
        # ignores the page number, or repeats the same few pages, never returns anything new.
        if self._highest:
            self._spare += max(total - self._highest, 0)
        removed = self._count - total
        self._count, self._highest = total, max(self._highest, total)
        self._stale = 0 if new else self._stale + size
        self._seen += new
        # Rows after the removed rows have moved forward, at most by the number of removed rows.
        back = min(-(-removed // size), self.number, self._steps_back) if removed > 0 else 0
        if back:
            self._steps_back -= back
            self._spare += (back + 1) * size
            self.number -= back
        else:
            self.number += 1
            if not rows or self.number >= pagination.total_pages:
                return False
            # A short page may be in the middle, if the server filters rows after paging or returns
            # fewer than requested, or at the end, if the server counts too many pages.
            if rows < pagination.page_size and self._seen >= total:
                return False
        return self._stale < min(self._spare + _STALE_PAGES * size, _MAX_STALE_PAGES * size)


_STALE_PAGES = 3
# Upper bounds in case the server's row count is meaningless.
_MAX_STALE_PAGES = 100
_MAX_STEPS_BACK = 100
# Ids of returned rows to remember, oldest dropped first; enough for a shift of a hundred pages.
_REMEMBERED = 10_000


@attrs.frozen(kw_only=True)
class PagedList(Generic[M]):
    """A list operation of the API.

    Attributes:
        key: returns the id of a row.
        filters: the check of each filter, keyed by name; a check returns the query value.
    """

    session: Session
    operation: str
    path: str
    model: type[M]
    key: Callable[[M], str]
    filters: Mapping[str, Check]

    def rows(self, page_size: int, filters: Mapping[str, object]) -> Listing[M]:
        """Iterate over all rows that match every filter; sends no request before iteration.

        Raises: InputError.
        """
        _check_page(0, page_size)
        checked = query(filters, self.filters)
        return Listing(lambda page: self._send(page, page_size, checked), self.key)

    def page(
        self,
        page: int,
        page_size: int,
        filters: Mapping[str, object],
        *,
        lenient: bool = False,
        within: float | None = None,
    ) -> Awaitable[Page[M]]:
        """Request one page; `lenient` skips rows that cannot be decoded.

        `within` limits all attempts together, in seconds.

        Raises: InputError; ApiError; DecodeError; TransportError.
        """
        _check_page(page, page_size)
        checked = query(filters, self.filters)
        return self._send(page, page_size, checked, lenient=lenient, within=within)

    def _send(
        self,
        page: int,
        page_size: int,
        checked: tuple[tuple[str, str], ...],
        *,
        lenient: bool = False,
        within: float | None = None,
    ) -> Awaitable[Page[M]]:
        return self.session.send(
            Request(
                operation=self.operation,
                method="GET",
                path=self.path,
                query=(*checked, ("page", str(page)), ("page_size", str(page_size))),
                answer=lambda data: codec.structure_page(data, self.model, lenient=lenient),
                replay=Replay.ALWAYS,
                within=within,
            )
        )


def _check_page(page: int, page_size: int) -> None:
    if type(page) is not int or page < 0:
        raise InputError("page", f"must be a whole number from 0 on, not {page!r}")
    if type(page_size) is not int or not 1 <= page_size <= _LARGEST_PAGE:
        raise InputError("page_size", f"must be from 1 to {_LARGEST_PAGE}, not {page_size!r}")
