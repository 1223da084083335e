"""The progress bars of an upload, for a terminal."""

from __future__ import annotations

from collections.abc import Mapping

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
from nunu_async.upload.progress import (
    BytesSent,
    Cancelled,
    Completed,
    Completing,
    Kept,
    UploadEvent,
)

__all__ = ["Bars"]

_NARROW = 70


class _SpeedColumn(TransferSpeedColumn):
    """The rate, or "completing" once all is sent: the server may take a while to assemble."""

    def render(self, task: Task) -> Text:
        return Text("completing") if task.fields.get("completing") else super().render(task)


class Bars:
    """A progress bar for each file being uploaded, and one for all of several.

    Attributes:
        progress: what draws them.
    """

    def __init__(self, sizes: Mapping[str, int], console: Console) -> None:
        narrow = console.width < _NARROW
        self._sizes = sizes
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
        self._several = len(sizes) > 1
        self._total = self.progress.add_task(
            "all files", total=sum(sizes.values()), visible=self._several
        )
        self._tasks: dict[str, TaskID] = {}
        self._names = dict(zip(sizes, short_names(list(sizes)), strict=True))

    def update(self, file: str, event: UploadEvent, *, sent: int, size: int) -> None:
        """Move the bar of a file, and that of all files to `sent` of `size` bytes."""
        progress, task = self.progress, self._tasks.get(file)
        if task is None:
            label = escape(_cut(self._names[file], self._width))
            task = self._tasks[file] = progress.add_task(label, total=self._sizes[file])
        if isinstance(event, BytesSent):
            progress.update(task, completed=event.sent)
            progress.update(self._total, completed=sent, total=size)
        elif isinstance(event, Completing):
            progress.update(task, completing=True)
        elif isinstance(event, Completed | Cancelled | Kept):
            progress.update(task, completing=False, visible=not self._several)


def _cut(name: str, width: int) -> str:
    """Shorten a name to `width`; the middle is cut, where names tend to be alike."""
    if len(name) <= width:
        return name
    tail = (width - 1) * 2 // 3
    return f"{name[: width - 1 - tail]}\N{HORIZONTAL ELLIPSIS}{name[-tail:]}"
