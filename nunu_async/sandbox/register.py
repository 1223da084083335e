"""Many rows in the order of their creation, and cached selections of them, by pages."""

import math
from bisect import bisect_right, insort
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, Protocol, TypeVar

import attrs

_CACHE_SIZE = 32  # selections; a client that reads page after page repeats its query


class Row(Protocol):
    """What a register holds."""

    created: float

    def changes_after(self, now: float) -> float:
        """Return when the row changes next; infinity if it does not."""
        ...


RowT = TypeVar("RowT", bound=Row)


@attrs.frozen
class Selection(Generic[RowT]):
    """Rows in the reverse of the order in which they are shown."""

    rows: Sequence[RowT]
    total: int
    """The number of rows, from the first, that are selected."""

    def page(self, number: int, size: int) -> list[RowT]:
        """Return a page, in the order shown; empty past the end."""
        stop = max(0, self.total - number * size)
        return list(self.rows[max(0, stop - size) : stop][::-1])


@attrs.frozen
class _CachedRows(Generic[RowT]):
    since: float
    until: float
    rows: Sequence[RowT]


class Register(Generic[RowT]):
    """Rows by creation time; those of the same time in the order in which they were added."""

    def __init__(self) -> None:
        self._rows: list[RowT] = []
        self._changing: dict[RowT, None] = {}  # an ordered set
        self._cache: dict[Hashable, _CachedRows[RowT]] = {}

    def add(self, row: RowT, now: float) -> None:
        """Add a row; cheap when rows are added in the order of their creation times."""
        if self._rows and row.created < self._rows[-1].created:
            insort(self._rows, row, key=_created)
        else:
            self._rows.append(row)
        if row.changes_after(now) < math.inf:
            self._changing[row] = None
        self._cache.clear()

    def drop(self, row: RowT) -> None:
        """Remove a row. Raises: ValueError when it is not there."""
        self._rows.remove(row)
        self._cache.clear()

    def touch(self, row: RowT) -> None:
        """Record that a row was changed; the next `select` computes when it changes again."""
        self._changing[row] = None
        self._cache.clear()

    def visible(self, now: float) -> Selection[RowT]:
        """Select all rows that have appeared, newest first."""
        total = len(self._rows)
        if self._rows and self._rows[-1].created > now:
            total = bisect_right(self._rows, now, key=_created)
        return Selection(self._rows, total)

    def select(
        self,
        query: Hashable,
        now: float,
        find: Callable[[Sequence[RowT]], Sequence[RowT]],
    ) -> Selection[RowT]:
        """Select rows by a query, whose result is cached until a row changes.

        `find` gets the rows that have appeared, oldest first, and returns the matching ones in the
        reverse of the order in which they are shown.
        """
        cached = self._cache.get(query)
        if cached is None or not cached.since <= now < cached.until:
            visible = self.visible(now)
            rows = find(visible.rows[: visible.total])
            if len(self._cache) >= _CACHE_SIZE:
                self._cache.clear()
            cached = _CachedRows(now, self._next_change(now), rows)
            self._cache[query] = cached
        return Selection(cached.rows, len(cached.rows))

    def _next_change(self, now: float) -> float:
        moments = [(row.changes_after(now), row) for row in self._changing]
        if any(moment == math.inf for moment, _ in moments):
            self._changing = {row: None for moment, row in moments if moment < math.inf}
        return min((moment for moment, _ in moments), default=math.inf)


def _created(row: Row) -> float:
    return row.created
