"""Progress of an upload: bars on a terminal, status lines elsewhere.

All of it goes to standard error; standard output is for results.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import partial
from typing import TextIO

from rich.filesize import decimal

from nunu_async.cli.output import tell
from nunu_async.cli.terminal import is_terminal
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

__all__ = ["Board", "heartbeat", "retry_line", "show"]

_HEARTBEAT = 10.0


class Board:
    """The progress of every file of a command; draws nothing itself.

    Attributes:
        sizes: size of each file in bytes.
        sent: bytes sent of each file.
        finished: the files that were uploaded or abandoned.
        completing: the files that are sent in full and that the server is assembling.
        watchers: called with the file and each event.
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
        """Bytes sent of all files that were not abandoned."""
        return sum(self.sent[file] for file in self.sizes if file not in self._given_up)

    @property
    def size_now(self) -> int:
        """Size in bytes of all files that were not abandoned."""
        return sum(size for file, size in self.sizes.items() if file not in self._given_up)

    def give_up(self, file: str) -> None:
        """Mark a file as abandoned; its bytes no longer count."""
        self.completing.discard(file)
        self.finished.add(file)
        self._given_up.add(file)

    def listener(self, file: str) -> Listener:
        """Return an `on_progress` callback for one file."""
        return partial(self.note, file)

    def note(self, file: str, event: UploadEvent) -> None:
        """Record an event of a file and pass it to the watchers."""
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
    """Display a board while the context lasts.

    Bars if `stream` is a terminal; else a line after `first` seconds, and further lines after
    pauses that double up to 10 s.
    """
    stream = stream or sys.stderr
    if stream is None:  # a program without a console
        return nullcontext()
    if is_terminal(stream):
        from nunu_async.cli.bars import bars  # noqa: PLC0415 - drawing takes a while to load

        return bars(board, stream)
    return _lines(board, stream, SystemClock(), first)


@asynccontextmanager
async def _lines(board: Board, stream: TextIO, clock: Clock, first: float) -> AsyncIterator[None]:
    def watch(file: str, event: UploadEvent) -> None:
        if isinstance(event, Retrying):
            tell(retry_line(file, event), stream)

    board.watchers.append(watch)
    heartbeat_task = asyncio.ensure_future(heartbeat(board, stream, clock, first))
    try:
        yield
    finally:
        board.watchers.remove(watch)
        heartbeat_task.cancel()
        await asyncio.wait({heartbeat_task})


async def heartbeat(board: Board, stream: TextIO, clock: Clock, first: float) -> None:
    """Write a line at least every 10 seconds until cancelled: CI kills jobs without output."""
    began = clock.monotonic()
    pause = first
    while True:
        await clock.sleep(pause)
        pause = min(2 * pause, _HEARTBEAT)
        tell(_status_line(board, clock.monotonic() - began), stream)


def _status_line(board: Board, seconds: float) -> str:
    sent, size = board.sent_now, board.size_now
    rate = sent / seconds if seconds > 0 else 0.0
    remaining = f", about {_duration((size - sent) / rate)} left" if rate > 0 else ""
    if sent == size and board.completing:
        remaining = ", completing"
    files = f"{len(board.finished)} of {len(board.sizes)} files, " if len(board.sizes) > 1 else ""
    totals = f"{decimal(sent)} of {decimal(size)}, {decimal(int(rate))}/s"
    return f"nunu-async: {files}{totals}{remaining}"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 120:  # noqa: PLR2004 - up to two minutes in seconds
        return f"{whole} s"
    if whole < 7200:  # noqa: PLR2004 - up to two hours in minutes
        return f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def retry_line(file: str, event: Retrying) -> str:
    """Return the line printed for a retry."""
    step = "completing" if event.part_number is None else f"part {event.part_number}"
    reason = event.reason.removeprefix(f"{step}: ")
    message = f"attempt {event.attempt} failed, next in {event.delay:.1f} s: {reason}"
    return f"nunu-async: {file}: {step}: {message}"
