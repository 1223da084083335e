"""How an upload looks while it runs: bars on a terminal, a line now and then elsewhere.

Everything goes to standard error; standard output belongs to the results.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import partial
from typing import TextIO, cast

from rich.console import Console
from rich.filesize import decimal
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

from nunu_async.cli.output import Screen, tell
from nunu_async.core.clock import Clock, SystemClock
from nunu_async.upload.progress import (
    BytesSent,
    Cancelled,
    Completed,
    Completing,
    Kept,
    Listener,
    Retrying,
    UploadEvent,
)

__all__ = ["Board", "heartbeat", "show"]

_HEARTBEAT = 10.0
_NARROW = 70


class Board:
    """What is known of every file of a command; draws nothing itself.

    Attributes:
        sizes: bytes of each file.
        sent: bytes of each file on their way.
        finished: the files that are up or given up.
        completing: the files of which every byte is sent, and that the server assembles.
    """

    def __init__(self, sizes: dict[str, int]) -> None:
        self.sizes = sizes
        self.sent = dict.fromkeys(sizes, 0)
        self.finished: set[str] = set()
        self.completing: set[str] = set()
        self.watchers: list[Callable[[str, UploadEvent], None]] = []
        self._given_up: set[str] = set()

    @property
    def sent_now(self) -> int:
        """Bytes on their way, of files that are not given up."""
        return sum(self.sent[file] for file in self.sizes if file not in self._given_up)

    @property
    def size_now(self) -> int:
        """Bytes of all files that are not given up."""
        return sum(size for file, size in self.sizes.items() if file not in self._given_up)

    def give_up(self, file: str) -> None:
        """Note that a file will not go up; nobody waits for it any more."""
        self.finished.add(file)
        self._given_up.add(file)

    def listener(self, file: str) -> Listener:
        """Return what `upload_build` is to tell of one file."""
        return partial(self.note, file)

    def note(self, file: str, event: UploadEvent) -> None:
        """Take note of what became of a file."""
        if isinstance(event, BytesSent):
            self.sent[file] = event.sent
        elif isinstance(event, Completing):
            self.completing.add(file)
        elif isinstance(event, Completed):
            self.completing.discard(file)
            self.finished.add(file)
        elif isinstance(event, Cancelled | Kept):
            self.give_up(file)
        for watch in self.watchers:
            watch(file, event)


def show(
    board: Board, stream: TextIO | None = None, *, first: float = _HEARTBEAT
) -> AbstractAsyncContextManager[None, bool | None]:
    """Show a board for as long as the context lasts, in the way that fits `stream`.

    On a terminal that is bars; elsewhere a line after `first` seconds, and more of them after
    pauses that double until they are 10 s.
    """
    stream = stream or sys.stderr
    if stream is None:  # a program without a console
        return nullcontext()
    console = Console(file=cast("TextIO", Screen(stream)))
    if stream.isatty() and not console.is_dumb_terminal:
        return _bars(board, console)
    return _lines(board, stream, SystemClock(), first)


class _SpeedColumn(TransferSpeedColumn):
    """The rate, and what goes on once there is none: the server may take a while to assemble."""

    def render(self, task: Task) -> Text:
        return Text("completing") if task.fields.get("completing") else super().render(task)


@asynccontextmanager
async def _bars(board: Board, console: Console) -> AsyncIterator[None]:
    narrow = console.width < _NARROW
    width = 14 if narrow else min(40, console.width - 60)
    progress = Progress(
        TextColumn("{task.description}", table_column=Column(no_wrap=True)),
        BarColumn(bar_width=8 if narrow else 16),
        DownloadColumn(table_column=Column(no_wrap=True)),
        _SpeedColumn(table_column=Column(no_wrap=True)),
        TimeRemainingColumn(compact=True),
        console=console,
        # Standard output may be a pipe that somebody parses: it is never drawn to.
        redirect_stdout=False,
    )
    several = len(board.sizes) > 1
    total = progress.add_task("all files", total=sum(board.sizes.values()), visible=several)
    tasks: dict[str, TaskID] = {}

    def watch(file: str, event: UploadEvent) -> None:
        task = tasks.get(file)
        if task is None:
            label = escape(_label(file, width))
            task = tasks[file] = progress.add_task(label, total=board.sizes[file])
        if isinstance(event, BytesSent):
            progress.update(task, completed=event.sent)
            progress.update(total, completed=board.sent_now, total=board.size_now)
        elif isinstance(event, Completing):
            progress.update(task, completing=True)
        elif isinstance(event, Retrying):
            progress.console.print(_retry_line(file, event), markup=False, highlight=False)
        elif isinstance(event, Completed | Cancelled | Kept) and several:
            progress.update(task, visible=False)

    board.watchers.append(watch)
    with progress:
        try:
            yield
        finally:
            board.watchers.remove(watch)


@asynccontextmanager
async def _lines(board: Board, stream: TextIO, clock: Clock, first: float) -> AsyncIterator[None]:
    def watch(file: str, event: UploadEvent) -> None:
        if isinstance(event, Retrying):
            tell(_retry_line(file, event), stream)

    board.watchers.append(watch)
    beating = asyncio.ensure_future(heartbeat(board, stream, clock, first))
    try:
        yield
    finally:
        board.watchers.remove(watch)
        beating.cancel()
        await asyncio.wait({beating})


async def heartbeat(board: Board, stream: TextIO, clock: Clock, first: float) -> None:
    """Write a line every 10 seconds at the latest, until cancelled: CI kills what looks dead."""
    began = clock.monotonic()
    pause = first
    while True:
        await clock.sleep(pause)
        pause = min(2 * pause, _HEARTBEAT)
        tell(_status_line(board, clock.monotonic() - began), stream)


def _status_line(board: Board, seconds: float) -> str:
    sent, size = board.sent_now, board.size_now
    rate = sent / seconds if seconds > 0 else 0.0
    left = f", about {_span((size - sent) / rate)} left" if rate > 0 else ""
    if sent == size and board.completing:
        left = ", completing"
    files = f"{len(board.finished)} of {len(board.sizes)} files, " if len(board.sizes) > 1 else ""
    return f"nunu-async: {files}{decimal(sent)} of {decimal(size)}, {decimal(int(rate))}/s{left}"


def _span(seconds: float) -> str:
    whole = round(seconds)
    if whole < 120:  # noqa: PLR2004 - two minutes are told in seconds
        return f"{whole} s"
    if whole < 7200:  # noqa: PLR2004 - and two hours in minutes
        return f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _label(file: str, width: int) -> str:
    """Return a file's name within `width`; what is cut is the middle, where names are alike."""
    name = file.replace("\\", "/").rpartition("/")[2]
    if len(name) <= width:
        return name
    tail = (width - 1) * 2 // 3
    return f"{name[: width - 1 - tail]}\N{HORIZONTAL ELLIPSIS}{name[-tail:]}"


def _retry_line(file: str, event: Retrying) -> str:
    what = "completing" if event.part_number is None else f"part {event.part_number}"
    reason = event.reason.removeprefix(f"{what}: ")
    told = f"attempt {event.attempt} failed, next in {event.delay:.1f} s: {reason}"
    return f"nunu-async: {file}: {what}: {told}"
