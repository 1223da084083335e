"""The progress bars of an upload, for a terminal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TextIO, cast

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Column
from rich.text import Text

from nunu_async.cli.display import Board, retry_line
from nunu_async.cli.output import Screen
from nunu_async.upload.paths import short_names
from nunu_async.upload.progress import (
    BytesSent,
    Cancelled,
    Completed,
    Completing,
    Kept,
    Retrying,
    UploadEvent,
)

__all__ = ["bars"]

_NARROW = 70
_REFRESH = 0.1


class _SpeedColumn(TransferSpeedColumn):
    """The rate, or "completing" once all is sent: the server may take a while to assemble."""

    def render(self, task: Task) -> Text:
        return Text("completing") if task.fields.get("completing") else super().render(task)


@asynccontextmanager
async def bars(board: Board, stream: TextIO) -> AsyncIterator[None]:
    """Display a progress bar for each file being uploaded."""
    console = Console(file=cast("TextIO", Screen(stream)))
    narrow = console.width < _NARROW
    width = 14 if narrow else min(40, console.width - 60)
    progress = Progress(
        TextColumn("{task.description}", table_column=Column(no_wrap=True)),
        BarColumn(bar_width=8 if narrow else 16),
        DownloadColumn(table_column=Column(no_wrap=True)),
        _SpeedColumn(table_column=Column(no_wrap=True)),
        TimeRemainingColumn(compact=True),
        console=console,
        auto_refresh=False,  # its thread would race with this one, and may fail to start
        # Standard output may be a pipe into a parser: nothing is drawn there.
        redirect_stdout=False,
    )
    several = len(board.sizes) > 1
    total = progress.add_task("all files", total=sum(board.sizes.values()), visible=several)
    tasks: dict[str, TaskID] = {}
    files = list(board.sizes)
    names = dict(zip(files, short_names(files), strict=True))

    def watch(file: str, event: UploadEvent) -> None:
        task = tasks.get(file)
        if task is None:
            label = escape(_cut(names[file], width))
            task = tasks[file] = progress.add_task(label, total=board.sizes[file])
        if isinstance(event, BytesSent):
            progress.update(task, completed=event.sent)
            progress.update(total, completed=board.sent_now, total=board.size_now)
        elif isinstance(event, Completing):
            progress.update(task, completing=True)
        elif isinstance(event, Retrying):
            progress.console.print(retry_line(file, event), markup=False, highlight=False)
        elif isinstance(event, Completed | Cancelled | Kept):
            progress.update(task, completing=False, visible=not several)

    async def refresh() -> None:
        while True:
            progress.refresh()
            await asyncio.sleep(_REFRESH)

    board.watchers.append(watch)
    with progress:
        refreshing = asyncio.ensure_future(refresh())
        try:
            yield
        finally:
            board.watchers.remove(watch)
            refreshing.cancel()
            await asyncio.wait({refreshing})


def _cut(name: str, width: int) -> str:
    """Shorten a name to `width`; the middle is cut, where names tend to be alike."""
    if len(name) <= width:
        return name
    tail = (width - 1) * 2 // 3
    return f"{name[: width - 1 - tail]}\N{HORIZONTAL ELLIPSIS}{name[-tail:]}"
