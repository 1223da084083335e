"""The progress of a wait."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

import attrs

from nunu_async.cli.live import HEARTBEAT, View
from nunu_async.cli.output import count
from nunu_async.cli.rows import NOTHING, cell, span
from nunu_async.cli.terminal import colour, overflow_in
from nunu_async.cli.verdict import Row, name_of, standing_of, state_of
from nunu_async.core.clock import Clock
from nunu_async.polling.subscription import Change

if TYPE_CHECKING:  # drawing takes a while to load
    from rich.console import Console, RenderableType
    from rich.live import Live

R = TypeVar("R", bound=Row)

_MAX_RECENT = 5
_MAX_CHANGES = 3
_UNSEEN = "not seen yet"
_WIDE = 110


@attrs.frozen
class _StateChange:
    """One change of state, as text for display."""

    at: float
    key: str
    name: str
    before: str | None
    after: str

    @property
    def text(self) -> str:
        return self.after if self.before is None else f"{self.before} -> {self.after}"


class Standings(View, Generic[R]):
    """The states of all awaited ids, shown as counts and the most recent changes.

    Attributes:
        noun: name of one awaited item, such as "job".
        rows: the latest row of each id.
        recent: the last few changes, newest last.
        unreported: changes that no status line has included yet.
    """

    def __init__(
        self,
        noun: str,
        ids: Sequence[str] = (),
        clock: Clock | None = None,
        *,
        batch: float = 1.0,
    ) -> None:
        super().__init__(clock, tick=batch, pause=HEARTBEAT, refresh=0.25)
        self.noun = noun
        self.rows: dict[str, R] = {}
        self.recent: deque[_StateChange] = deque(maxlen=_MAX_RECENT)
        self.unreported: list[_StateChange] = []
        self._labels: dict[str, str] = dict.fromkeys(ids, _UNSEEN)
        self._order: dict[str, None] = {_UNSEEN: None}

    @property
    def ids(self) -> list[str]:
        """The ids waited for, in order."""
        return list(self._labels)

    @property
    def finished(self) -> dict[str, R]:
        """Terminal rows, keyed by id."""
        return {key: row for key, row in self.rows.items() if row.is_terminal}

    def state(self, key: str) -> str | None:
        """Return the last state of an id, as the API spells it; None if it was not read yet."""
        row = self.rows.get(key)
        return None if row is None else state_of(row)

    def expect(self, ids: Sequence[str]) -> None:
        """Add ids to wait for."""
        for key in ids:
            self._labels.setdefault(key, _UNSEEN)

    def note(self, change: Change[R]) -> None:
        """Record a change of state."""
        self.settle(change.row, change.id)
        key, name = cell(change.id), name_of(change.row)
        before = None if change.before is None else cell(change.before.lower())
        state_change = _StateChange(
            at=self.elapsed,
            key=key,
            name=key if name == NOTHING else name,
            before=before,
            after=standing_of(change.row),
        )
        self.recent.append(state_change)
        self.unreported.append(state_change)

    def settle(self, row: R, key: str) -> None:
        """Record the latest row of an id."""
        self.rows[key] = row
        self._labels[key] = standing_of(row)
        self._order.setdefault(self._labels[key])

    def counts(self) -> Iterator[tuple[str, int]]:
        """Yield each current state and its number of ids, in order of first appearance."""
        counted = Counter(self._labels.values())
        for word in self._order:
            if counted[word]:
                yield word, counted[word]

    @property
    def opening(self) -> str:
        """The first status line; empty until ids are known."""
        if not self._labels:
            return ""
        return f"waiting for {count(len(self._labels), self.noun)}"

    @property
    def has_news(self) -> bool:
        """Whether there are unreported changes."""
        return bool(self.unreported)

    def line(self) -> str:
        """Return a status line with counts and the changes since the last line."""
        counts = ", ".join(f"{number} {word}" for word, number in self.counts())
        changes, self.unreported = self.unreported, []
        described = [f"{change.name}: {change.text}" for change in changes[:_MAX_CHANGES]]
        if len(changes) > _MAX_CHANGES:
            described.append(f"{len(changes) - _MAX_CHANGES} more changes")
        totals = f"{_time(self.elapsed)}: {count(len(self._labels), self.noun)}: {counts}"
        return "; ".join([totals, *described])

    def drawing(self, console: Console) -> Live:
        """Return a live display of the counts and the most recent changes."""
        from rich.live import Live  # noqa: PLC0415 - drawing takes a while to load

        return Live(
            get_renderable=partial(self._draw, console),
            console=console,
            auto_refresh=False,
            redirect_stdout=False,
        )

    def _draw(self, console: Console) -> RenderableType:
        from rich.console import Group  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        total = len(self._labels)
        if not total:
            return Text(f"starting {self.noun}s")
        head = Text(f"{_time(self.elapsed)}  {count(total, self.noun)}")
        for place, (word, number) in enumerate(self.counts()):
            head.append(", " if place else ": ")
            head.append(f"{number} {word}", style=colour(word))
        changes = Table.grid(padding=(0, 2, 0, 0))
        changes.add_column(no_wrap=True)
        if console.width >= _WIDE:
            changes.add_column(no_wrap=True)
        # Rich narrows only columns that may wrap.
        changes.add_column(min_width=8)
        changes.add_column(no_wrap=True)
        overflow = overflow_in(console.encoding)
        for change in self.recent:
            cells = [
                Text(_time(change.at), style="dim"),
                Text(change.key),
                Text(change.name, no_wrap=True, overflow=overflow),
                Text(change.text, style=colour(change.after)),
            ]
            changes.add_row(*(cells if console.width >= _WIDE else [cells[0], *cells[2:]]))
        return Group(head, changes)


def _time(seconds: float) -> str:
    """Format the time since the wait began, in whole seconds."""
    return span(1000 * int(seconds)) if seconds >= 1 else "0s"
