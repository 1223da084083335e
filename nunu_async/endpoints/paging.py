"""Reading a list page by page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Generic, TypeVar

from nunu_async.errors import InputError
from nunu_async.models.page import Page

__all__ = ["Listing", "check_page"]

T = TypeVar("T")

_LARGEST_PAGE = 100


class Listing(Generic[T]):
    """A list of the API, read as it is walked through.

    An async iterator over its rows, each given once: rows that appear again because the list moved
    between two pages are passed over. One page is held at a time. Ends at an empty page, at a short
    one, at the last by the server's count, or when several in a row have nothing new.
    """

    def __init__(self, fetch: Callable[[int], Awaitable[Page[T]]], key: Callable[[T], str]) -> None:
        self._fetch = fetch
        self._key = key

    async def pages(self) -> AsyncIterator[Page[T]]:
        """Give the pages as the server does, repeated rows included."""
        before: set[str] = set()
        number = stale = 0
        while True:
            page = await self._fetch(number)
            # An empty page is the answer to an empty list, and none after any other.
            if page.data or number == 0:
                yield page
            keys = {self._key(row) for row in page.data}
            # A whole page of new rows moves the last one here; a server that ignores the page
            # number does the same for ever.
            stale = stale + 1 if keys <= before else 0
            number += 1
            told = page.pagination
            if (
                len(page.data) < told.page_size
                or number >= told.total_pages
                or stale >= _STALE_PAGES
            ):
                return
            before = keys

    async def __aiter__(self) -> AsyncIterator[T]:
        """Give the rows."""
        known: dict[str, None] = {}
        async for page in self.pages():
            for row in page.data:
                key = self._key(row)
                if key not in known:
                    known[key] = None
                    yield row
            while len(known) > _REMEMBERED:
                del known[next(iter(known))]


_STALE_PAGES = 3
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
