"""Keep many rows in the order of their creation, and find those that match, page by page."""

import math
from bisect import bisect_right, insort
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, Protocol, TypeVar

import attrs

_REMEMBERED = 32  # answers; a client that reads page after page asks the same again and again


class Row(Protocol):
    """What can be kept."""

    created: float

    def changes_after(self, now: float) -> float:
        """Tell when the row changes next; infinite when it does not."""
        ...


RowT = TypeVar("RowT", bound=Row)


@attrs.frozen
class Selection(Generic[RowT]):
    """Rows in the reverse of the order in which they are shown."""

    rows: Sequence[RowT]
    total: int
    """Only the first so many rows count."""

    def page(self, number: int, size: int) -> list[RowT]:
        """Take a page, in the order shown; empty past the end."""
        stop = max(0, self.total - number * size)
        return list(self.rows[max(0, stop - size) : stop][::-1])


@attrs.frozen
class _Remembered(Generic[RowT]):
    since: float
    until: float
    rows: Sequence[RowT]


class Register(Generic[RowT]):
    """Rows by creation; those of the same time by when they were added."""

    def __init__(self) -> None:
        self._rows: list[RowT] = []
        self._changing: dict[RowT, None] = {}  # in the place of a set, for its order
        self._remembered: dict[Hashable, _Remembered[RowT]] = {}

    def add(self, row: RowT, now: float) -> None:
        """Keep a row; costs next to nothing when rows come in their order."""
        if self._rows and row.created < self._rows[-1].created:
            insort(self._rows, row, key=_created)
        else:
            self._rows.append(row)
        if row.changes_after(now) < math.inf:
            self._changing[row] = None
        self._remembered.clear()

    def drop(self, row: RowT) -> None:
        """Forget a row. Raises: ValueError when it is not there."""
        self._rows.remove(row)
        self._remembered.clear()

    def touch(self, row: RowT) -> None:
        """Take notice that a row was changed; when it changes next is asked later, and once."""
        self._changing[row] = None
        self._remembered.clear()

    def visible(self, now: float) -> Selection[RowT]:
        """Select all rows that have appeared, newest first."""
        total = len(self._rows)
        if self._rows and self._rows[-1].created > now:
            total = bisect_right(self._rows, now, key=_created)
        return Selection(self._rows, total)

    def select(
        self,
        question: Hashable,
        now: float,
        answer: Callable[[Sequence[RowT]], Sequence[RowT]],
    ) -> Selection[RowT]:
        """Select by a question, asked once until a row changes.

        `answer` gets the rows that have appeared, oldest first, and returns some of them in the
        reverse of the order in which they are shown.
        """
        known = self._remembered.get(question)
        if known is None or not known.since <= now < known.until:
            visible = self.visible(now)
            rows = answer(visible.rows[: visible.total])
            if len(self._remembered) >= _REMEMBERED:
                self._remembered.clear()
            known = _Remembered(now, self._next_change(now), rows)
            self._remembered[question] = known
        return Selection(known.rows, len(known.rows))

    def _next_change(self, now: float) -> float:
        moments = [(row.changes_after(now), row) for row in self._changing]
        if any(moment == math.inf for moment, _ in moments):
            self._changing = {row: None for moment, row in moments if moment < math.inf}
        return min((moment for moment, _ in moments), default=math.inf)


def _created(row: Row) -> float:
    return row.created
