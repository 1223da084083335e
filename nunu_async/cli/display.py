"""The progress of an upload."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from rich.filesize import decimal

from nunu_async.cli.live import HEARTBEAT, View
from nunu_async.cli.output import echo_err
from nunu_async.core.clock import Clock
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

if TYPE_CHECKING:  # drawing takes a while to load
    from rich.console import Console
    from rich.progress import Progress

    from nunu_async.cli.bars import Bars


class Board(View):
    """The progress of every file of a command, shown as bars.

    Attributes:
        sizes: size of each file in bytes.
        sent: bytes sent of each file.
        finished: the files that were uploaded or abandoned.
        completing: the files that are sent in full and that the server is assembling.
    """

    def __init__(
        self, sizes: dict[str, int], clock: Clock | None = None, *, first: float = HEARTBEAT
    ) -> None:
        super().__init__(clock, tick=first, pause=first, refresh=0.1)
        self.sizes = sizes
        self.sent = dict.fromkeys(sizes, 0)
        self.finished: set[str] = set()
        self.completing: set[str] = set()
        self._given_up: set[str] = set()
        self._bars: Bars | None = None

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
        """Record an event of a file; a retry is printed at once."""
        if isinstance(event, BytesSent):
            self.sent[file] = event.sent
        elif isinstance(event, Completing):
            self.completing.add(file)
        elif isinstance(event, Completed):
            self.completing.discard(file)
            self.finished.add(file)
        elif isinstance(event, Cancelled | Kept):
            self.give_up(file)
        elif isinstance(event, Retrying):
            echo_err(_retry_line(file, event))
        if self._bars is not None:
            self._bars.update(file)

    def drawing(self, console: Console) -> Progress:
        """Return the bars."""
        from nunu_async.cli.bars import Bars  # noqa: PLC0415 - drawing takes a while to load

        self._bars = Bars(self, console)
        return self._bars.progress

    def line(self) -> str:
        """Return a status line: bytes sent, rate and time left."""
        sent, size, seconds = self.sent_now, self.size_now, self.elapsed
        rate = sent / seconds if seconds > 0 else 0.0
        remaining = f", about {_duration((size - sent) / rate)} left" if rate > 0 else ""
        if sent == size and self.completing:
            remaining = ", completing"
        files = f"{len(self.finished)} of {len(self.sizes)} files, " if len(self.sizes) > 1 else ""
        totals = f"{decimal(sent)} of {decimal(size)}, {decimal(int(rate))}/s"
        return f"{files}{totals}{remaining}"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 120:  # noqa: PLR2004 - up to two minutes in seconds
        return f"{whole} s"
    if whole < 7200:  # noqa: PLR2004 - up to two hours in minutes
        return f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _retry_line(file: str, event: Retrying) -> str:
    """Return the line printed for a retry."""
    step = "completing" if event.part_number is None else f"part {event.part_number}"
    reason = event.reason.removeprefix(f"{step}: ")
    message = f"attempt {event.attempt} failed, next in {event.delay:.1f} s: {reason}"
    return f"{file}: {step}: {message}"
