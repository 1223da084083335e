"""The progress bars of an upload, for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

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

from nunu_async.upload.paths import short_names

if TYPE_CHECKING:
    from nunu_async.cli.display import Board

_NARROW = 70


class _SpeedColumn(TransferSpeedColumn):
    """The rate, or "completing" while the server assembles a fully sent file."""

    def render(self, task: Task) -> Text:
        return Text("completing") if task.fields.get("completing") else super().render(task)


class Bars:
    """A progress bar per file being uploaded, and a total bar for several files.

    Attributes:
        progress: the display that draws the bars.
    """

    def __init__(self, board: Board, console: Console) -> None:
        narrow = console.width < _NARROW
        self._board = board
        self._width = 14 if narrow else min(40, console.width - 60)
        self.progress = Progress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=8 if narrow else 16),
            DownloadColumn(table_column=Column(no_wrap=True)),
            _SpeedColumn(table_column=Column(no_wrap=True)),
            TimeRemainingColumn(compact=True),
            console=console,
            auto_refresh=False,
            redirect_stdout=False,
        )
        files = list(board.sizes)
        self._several = len(files) > 1
        self._total = self.progress.add_task(
            "all files", total=board.size_now, visible=self._several
        )
        self._tasks: dict[str, TaskID] = {}
        self._names = dict(zip(files, short_names(files), strict=True))

    def update(self, file: str) -> None:
        """Update a file's bar and the total bar from the board."""
        board, progress = self._board, self.progress
        state = board.states[file]
        if file not in self._tasks:
            label = escape(_cut(self._names[file], self._width))
            self._tasks[file] = progress.add_task(label, total=board.sizes[file])
        progress.update(
            self._tasks[file],
            completed=board.sent[file],
            completing=state == "completing",
            visible=not self._several or state in ("sending", "completing"),
        )
        progress.update(self._total, completed=board.sent_now, total=board.size_now)


def _cut(name: str, width: int) -> str:
    """Shorten a name to `width` by cutting the middle, where names tend to be alike."""
    if len(name) <= width:
        return name
    tail = (width - 1) * 2 // 3
    return f"{name[: width - 1 - tail]}\N{HORIZONTAL ELLIPSIS}{name[-tail:]}"
