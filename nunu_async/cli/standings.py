"""How a wait looks while it lasts: a table on a terminal, a line now and then elsewhere.

Everything goes to standard error; standard output belongs to the results.
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
_LAST = 5
_TOLD = 3
_UNSEEN = "not seen yet"


@attrs.frozen
class _Moved:
    """One change, in words."""

    at: float
    key: str
    name: str
    before: str | None
    after: str

    @property
    def words(self) -> str:
        return self.after if self.before is None else f"{self.before} -> {self.after}"


class Standings(Generic[R]):
    """What is known of everything that a command waits for; draws nothing itself.

    Attributes:
        noun: what they are, in the singular.
        rows: the last row seen of each, by id.
        last: the last few changes, newest last.
        unsaid: the changes that no line has told of.
    """

    def __init__(self, noun: str, ids: Sequence[str] = (), clock: Clock | None = None) -> None:
        self.noun = noun
        self.rows: dict[str, R] = {}
        self.last: deque[_Moved] = deque(maxlen=_LAST)
        self.unsaid: list[_Moved] = []
        self._words: dict[str, str] = dict.fromkeys(ids, _UNSEEN)
        self._order: dict[str, None] = {_UNSEEN: None}
        self._states: dict[str, str | None] = dict.fromkeys(ids)
        self._clock = clock or SystemClock()
        self._began = self._clock.monotonic()

    @property
    def ids(self) -> list[str]:
        """What is waited for, in order."""
        return list(self._words)

    @property
    def elapsed(self) -> float:
        """Seconds since the wait began."""
        return self._clock.monotonic() - self._began

    @property
    def finished(self) -> dict[str, R]:
        """Rows of what is over, by id."""
        return {key: row for key, row in self.rows.items() if row.is_terminal}

    def state(self, key: str) -> str | None:
        """Return the last state seen of an id, in the service's word; None before that."""
        return self._states[key]

    def begin(self) -> None:
        """Count the time from now on."""
        self._began = self._clock.monotonic()

    def expect(self, ids: Sequence[str]) -> None:
        """Wait for these too."""
        for key in ids:
            self._words.setdefault(key, _UNSEEN)
            self._states.setdefault(key, None)

    def note(self, change: Change[R]) -> None:
        """Take note of another state."""
        key, row = change.id, change.row
        word = standing_of(row)
        name = name_of(row)
        before = None if change.before is None else cell(change.before.lower())
        moved = _Moved(
            self.elapsed, cell(key), cell(key) if name == NOTHING else name, before, word
        )
        self.rows[key] = row
        self._words[key] = word
        self._states[key] = change.after
        self._order.setdefault(word)
        self.last.append(moved)
        self.unsaid.append(moved)

    def settle(self, row: R, key: str) -> None:
        """Take note of a row that no change told of."""
        self.rows[key] = row
        self._words[key] = standing_of(row)
        self._order.setdefault(self._words[key])

    def counts(self) -> Iterator[tuple[str, int]]:
        """Give each state, in the order of their first sight, and how many are in it."""
        found = Counter(self._words.values())
        for word in self._order:
            if found[word]:
                yield word, found[word]

    def line(self) -> str:
        """Return one line that tells where everything stands, and what has changed since."""
        counts = ", ".join(f"{number} {word}" for word, number in self.counts())
        told, self.unsaid = self.unsaid, []
        words = [f"{moved.name}: {moved.words}" for moved in told[:_TOLD]]
        if len(told) > _TOLD:
            words.append(f"{len(told) - _TOLD} more changes")
        what = f"{time_of(self.elapsed)}: {count(len(self._words), self.noun)}: {counts}"
        return f"nunu-async: {'; '.join([what, *words])}"


def show(
    standings: Standings[R], stream: TextIO | None = None, *, batch: float = _BATCH
) -> AbstractAsyncContextManager[None, bool | None]:
    """Show standings for as long as the context lasts, in the way that fits `stream`.

    On a terminal that is a table; elsewhere a line at once, one for all changes of `batch`
    seconds, and one after 10 s without any.
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
    beating = asyncio.ensure_future(heartbeat(standings, stream, clock, batch))
    try:
        yield
        if standings.unsaid:
            tell(standings.line(), stream)
    finally:
        beating.cancel()
        await asyncio.wait({beating})


async def heartbeat(
    standings: Standings[R], stream: TextIO, clock: Clock, batch: float = _BATCH
) -> None:
    """Write a line at once and every 10 seconds at the latest, until cancelled."""
    if standings.ids:
        tell(f"nunu-async: waiting for {count(len(standings.ids), standings.noun)}", stream)
    silent = 0.0
    while True:
        await clock.sleep(batch)
        silent += batch
        if standings.unsaid or silent >= _HEARTBEAT:
            silent = 0.0
            tell(standings.line(), stream)


def time_of(seconds: float) -> str:
    """Return a time since the wait began, in whole seconds."""
    return span(1000 * int(seconds)) if seconds >= 1 else "0s"
