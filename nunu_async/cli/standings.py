"""Progress of a wait: a live table on a terminal, status lines elsewhere.

All of it goes to standard error; standard output is for results.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Generic, TextIO, TypeVar

import attrs

from nunu_async.cli.output import count, tell
from nunu_async.cli.rows import NOTHING, cell, span
from nunu_async.cli.terminal import is_terminal
from nunu_async.cli.verdict import Row, name_of, standing_of
from nunu_async.core.clock import Clock, SystemClock
from nunu_async.polling.wait import Change

__all__ = ["Standings", "heartbeat", "show", "time_of"]

R = TypeVar("R", bound=Row)

_HEARTBEAT = 10.0
_BATCH = 1.0
_MAX_RECENT = 5
_MAX_CHANGES = 3
_UNSEEN = "not seen yet"


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


class Standings(Generic[R]):
    """The state of everything that a command waits for; draws nothing itself.

    Attributes:
        noun: what is waited for, in the singular.
        rows: the latest row of each, by id.
        recent: the last few changes, newest last.
        unreported: the changes that no line has reported yet.
    """

    def __init__(self, noun: str, ids: Sequence[str] = (), clock: Clock | None = None) -> None:
        self.noun = noun
        self.rows: dict[str, R] = {}
        self.recent: deque[_StateChange] = deque(maxlen=_MAX_RECENT)
        self.unreported: list[_StateChange] = []
        self._labels: dict[str, str] = dict.fromkeys(ids, _UNSEEN)
        self._order: dict[str, None] = {_UNSEEN: None}
        self._states: dict[str, str | None] = dict.fromkeys(ids)
        self._clock = clock or SystemClock()
        self._began = self._clock.monotonic()

    @property
    def ids(self) -> list[str]:
        """The ids waited for, in order."""
        return list(self._labels)

    @property
    def elapsed(self) -> float:
        """Seconds since the wait began."""
        return self._clock.monotonic() - self._began

    @property
    def finished(self) -> dict[str, R]:
        """Terminal rows, by id."""
        return {key: row for key, row in self.rows.items() if row.is_terminal}

    def state(self, key: str) -> str | None:
        """Return the last state of an id, as the API spells it; None if it was not seen yet."""
        return self._states[key]

    def begin(self) -> None:
        """Start measuring the elapsed time."""
        self._began = self._clock.monotonic()

    def expect(self, ids: Sequence[str]) -> None:
        """Add ids to wait for."""
        for key in ids:
            self._labels.setdefault(key, _UNSEEN)
            self._states.setdefault(key, None)

    def note(self, change: Change[R]) -> None:
        """Record a change of state."""
        key, row = change.id, change.row
        word = standing_of(row)
        name = name_of(row)
        before = None if change.before is None else cell(change.before.lower())
        state_change = _StateChange(
            self.elapsed, cell(key), cell(key) if name == NOTHING else name, before, word
        )
        self.rows[key] = row
        self._labels[key] = word
        self._states[key] = change.after
        self._order.setdefault(word)
        self.recent.append(state_change)
        self.unreported.append(state_change)

    def settle(self, row: R, key: str) -> None:
        """Record the final row of an id that no change reported."""
        self.rows[key] = row
        self._labels[key] = standing_of(row)
        self._order.setdefault(self._labels[key])

    def counts(self) -> Iterator[tuple[str, int]]:
        """Yield each state that some ids are in, in order of first appearance, and their count."""
        counted = Counter(self._labels.values())
        for word in self._order:
            if counted[word]:
                yield word, counted[word]

    def line(self) -> str:
        """Return a status line with counts and the changes since the last line."""
        counts = ", ".join(f"{number} {word}" for word, number in self.counts())
        changes, self.unreported = self.unreported, []
        described = [f"{change.name}: {change.text}" for change in changes[:_MAX_CHANGES]]
        if len(changes) > _MAX_CHANGES:
            described.append(f"{len(changes) - _MAX_CHANGES} more changes")
        totals = f"{time_of(self.elapsed)}: {count(len(self._labels), self.noun)}: {counts}"
        return f"nunu-async: {'; '.join([totals, *described])}"


def show(
    standings: Standings[R], stream: TextIO | None = None, *, batch: float = _BATCH
) -> AbstractAsyncContextManager[None, bool | None]:
    """Display standings while the context lasts.

    A table if `stream` is a terminal; else a line at once, one for all changes of each `batch`
    seconds, and one after 10 s without changes.
    """
    standings.begin()
    stream = stream or sys.stderr
    if stream is None:  # a program without a console
        return nullcontext()
    if is_terminal(stream):
        from nunu_async.cli.live import table  # noqa: PLC0415 - drawing takes a while to load

        return table(standings, stream)
    return _lines(standings, stream, SystemClock(), batch)


@asynccontextmanager
async def _lines(
    standings: Standings[R], stream: TextIO, clock: Clock, batch: float
) -> AsyncIterator[None]:
    heartbeat_task = asyncio.ensure_future(heartbeat(standings, stream, clock, batch))
    try:
        yield
        if standings.unreported:
            tell(standings.line(), stream)
    finally:
        heartbeat_task.cancel()
        await asyncio.wait({heartbeat_task})


async def heartbeat(
    standings: Standings[R], stream: TextIO, clock: Clock, batch: float = _BATCH
) -> None:
    """Write a line at once, and at least one every 10 seconds, until cancelled."""
    if standings.ids:
        tell(f"nunu-async: waiting for {count(len(standings.ids), standings.noun)}", stream)
    silent = 0.0
    while True:
        await clock.sleep(batch)
        silent += batch
        if standings.unreported or silent >= _HEARTBEAT:
            silent = 0.0
            tell(standings.line(), stream)


def time_of(seconds: float) -> str:
    """Format the time since the wait began, in whole seconds."""
    return span(1000 * int(seconds)) if seconds >= 1 else "0s"
