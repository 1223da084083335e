"""The standings of a wait, for a terminal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TextIO, TypeVar, cast

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from nunu_async.cli.output import Screen, count
from nunu_async.cli.standings import Standings, time_of
from nunu_async.cli.terminal import colour, overflow_in
from nunu_async.cli.verdict import Row

__all__ = ["table"]

R = TypeVar("R", bound=Row)

_REFRESH = 0.25
_WIDE = 110


@asynccontextmanager
async def table(standings: Standings[R], stream: TextIO) -> AsyncIterator[None]:
    """Show the counts, and below them the last changes."""
    console = Console(file=cast("TextIO", Screen(stream)))
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
    total = len(standings.ids)
    if not total:
        return Text(f"starting {standings.noun}s")
    head = Text(f"{time_of(standings.elapsed)}  {count(total, standings.noun)}")
    for place, (word, number) in enumerate(standings.counts()):
        head.append(", " if place else ": ")
        head.append(f"{number} {word}", style=colour(word))
    last = list(standings.last)
    if not last:
        return head
    times = [time_of(moved.at) for moved in last]
    widest = max(len(time) for time in times)
    words = max(len(moved.words) for moved in last)
    ids = max(len(moved.key) for moved in last) if console.width >= _WIDE else 0
    room = console.width - widest - words - ids - 8
    changes = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(3 if not ids else 4):
        changes.add_column(no_wrap=True)
    for time, moved in zip(times, last, strict=True):
        name = Text(moved.name)
        name.truncate(max(room, 8), overflow=overflow_in(console.encoding))
        change = Text(moved.words, style=colour(moved.after))
        cells = [Text(time, style="dim"), Text(moved.key), name, change]
        changes.add_row(*(cells if ids else [cells[0], *cells[2:]]))
    return Group(head, changes)
