"""How a wait looks while it lasts: a table on a terminal, a line now and then elsewhere.

Everything goes to standard error; standard output belongs to the results.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Generic, TextIO, TypeVar, cast

import attrs
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from nunu_async.cli.output import Screen, count, tell
from nunu_async.cli.rows import NOTHING, cell, colour, span
from nunu_async.cli.verdict import Row, name_of, standing_of
from nunu_async.core.clock import Clock, SystemClock
from nunu_async.polling.wait import Change

__all__ = ["Standings", "heartbeat", "show"]

R = TypeVar("R", bound=Row)

_HEARTBEAT = 10.0
_BATCH = 1.0
_REFRESH = 0.25
_LAST = 5
_TOLD = 3
_WIDE = 110
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
        what = f"{_time(self.elapsed)}: {count(len(self._words), self.noun)}: {counts}"
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
    console = Console(file=cast("TextIO", Screen(stream)))
    if stream.isatty() and not console.is_dumb_terminal:
        return _table(standings, console)
    return _lines(standings, stream, SystemClock(), batch)


@asynccontextmanager
async def _table(standings: Standings[R], console: Console) -> AsyncIterator[None]:
    live = Live(
        get_renderable=lambda: _draw(standings, console),
        console=console,
        auto_refresh=False,  # its thread would read what this one writes
        # Standard output may be a pipe that somebody parses: it is never drawn to.
        redirect_stdout=False,
    )

    async def refresh() -> None:
        while True:
            live.refresh()
            await asyncio.sleep(_REFRESH)

    with live:
        refreshing = asyncio.ensure_future(refresh())
        try:
            yield
        finally:
            refreshing.cancel()
            await asyncio.wait({refreshing})


def _draw(standings: Standings[R], console: Console) -> RenderableType:
    """Draw the counts, and below them the last changes."""
    total = len(standings.ids)
    if not total:
        return Text(f"starting {standings.noun}s")
    head = Text(f"{_time(standings.elapsed)}  {count(total, standings.noun)}")
    for place, (word, number) in enumerate(standings.counts()):
        head.append(", " if place else ": ")
        head.append(f"{number} {word}", style=colour(word))
    last = list(standings.last)
    if not last:
        return head
    times = [_time(moved.at) for moved in last]
    widest = max(len(time) for time in times)
    words = max(len(moved.words) for moved in last)
    ids = max(len(moved.key) for moved in last) if console.width >= _WIDE else 0
    room = console.width - widest - words - ids - 8
    overflow = "ellipsis" if console.encoding.startswith("utf") else "crop"
    table = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(3 if not ids else 4):
        table.add_column(no_wrap=True)
    for time, moved in zip(times, last, strict=True):
        name = Text(moved.name)
        name.truncate(max(room, 8), overflow="ellipsis" if overflow == "ellipsis" else "crop")
        change = Text(moved.words, style=colour(moved.after))
        cells = [Text(time, style="dim"), Text(moved.key), name, change]
        table.add_row(*(cells if ids else [cells[0], *cells[2:]]))
    return Group(head, table)


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


def _time(seconds: float) -> str:
    return span(1000 * int(seconds)) if seconds >= 1 else "0s"
