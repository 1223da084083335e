"""The live table of a wait, for a terminal."""

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
    """Display the counts and, below them, the last changes."""
    console = Console(file=cast("TextIO", Screen(stream)))
    live = Live(
        get_renderable=lambda: _draw(standings, console),
        console=console,
        auto_refresh=False,  # its thread would race with this one
        # Standard output may be a pipe into a parser: nothing is drawn there.
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
    recent = list(standings.recent)
    if not recent:
        return head
    times = [time_of(change.at) for change in recent]
    time_width = max(len(time) for time in times)
    text_width = max(len(change.text) for change in recent)
    id_width = max(len(change.key) for change in recent) if console.width >= _WIDE else 0
    name_width = console.width - time_width - text_width - id_width - 8
    changes = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(4 if id_width else 3):
        changes.add_column(no_wrap=True)
    for time, change in zip(times, recent, strict=True):
        name = Text(change.name)
        name.truncate(max(name_width, 8), overflow=overflow_in(console.encoding))
        text = Text(change.text, style=colour(change.after))
        cells = [Text(time, style="dim"), Text(change.key), name, text]
        changes.add_row(*(cells if id_width else [cells[0], *cells[2:]]))
    return Group(head, changes)
