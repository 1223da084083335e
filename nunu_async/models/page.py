"""One page of a list."""

from __future__ import annotations

from typing import Generic, TypeVar

import attrs

from nunu_async.models.base import Model

__all__ = ["Page", "Pagination"]

T = TypeVar("T")


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Pagination(Model):
    """The position of a page in its list."""

    page: int
    """0-based."""
    page_size: int
    total_count: int
    """Rows in the whole list, at the time of the response."""
    total_pages: int


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Page(Model, Generic[T]):
    """Rows of a list, in the server's order."""

    data: tuple[T, ...]
    pagination: Pagination
    skipped: tuple[str, ...] = ()
    """Decode errors of skipped rows; only with `lenient`."""
