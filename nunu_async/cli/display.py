"""The progress of an upload."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal, TypeAlias

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

_State: TypeAlias = Literal["sending", "completing", "uploaded", "abandoned"]


class Board(View):
    """The upload progress of every file of a command.

    Attributes:
        sizes: size of each file in bytes.
        sent: bytes sent of each file.
        states: state of each file; "completing" means sent in full, being assembled by the server.
    """

    def __init__(
        self, sizes: dict[str, int], clock: Clock | None = None, *, first: float = HEARTBEAT
    ) -> None:
        super().__init__(clock, tick=first, pause=first, refresh=0.1)
        self.sizes = sizes
        self.sent = dict.fromkeys(sizes, 0)
        self.states: dict[str, _State] = dict.fromkeys(sizes, "sending")
        self._bars: Bars | None = None

    @property
    def sent_now(self) -> int:
        """Total bytes sent, without abandoned files."""
        return sum(self.sent[file] for file in self._counted())

    @property
    def size_now(self) -> int:
        """Total size in bytes, without abandoned files."""
        return sum(self.sizes[file] for file in self._counted())

    def _counted(self) -> list[str]:
        return [file for file, state in self.states.items() if state != "abandoned"]

    def give_up(self, file: str) -> None:
        """Mark a file as abandoned, which excludes it from totals."""
        self.states[file] = "abandoned"

    def listener(self, file: str) -> Listener:
        """Return an `on_progress` callback for one file."""
        return partial(self.note, file)

    def note(self, file: str, event: UploadEvent) -> None:
        """Record an event of a file; a retry is printed at once."""
        if isinstance(event, BytesSent):
            self.sent[file] = event.sent
        elif isinstance(event, Completing):
            self.states[file] = "completing"
        elif isinstance(event, Completed):
            self.states[file] = "uploaded"
        elif isinstance(event, Cancelled | Kept):
            self.give_up(file)
        elif isinstance(event, Retrying):
            echo_err(_retry_line(file, event))
        if self._bars is not None:
            self._bars.update(file)

    def drawing(self, console: Console) -> Progress:
        """Return the progress bars."""
        from nunu_async.cli.bars import Bars  # noqa: PLC0415 - drawing takes a while to load

        self._bars = Bars(self, console)
        return self._bars.progress

    def line(self) -> str:
        """Return a status line: bytes sent, rate and time left."""
        sent, size, seconds = self.sent_now, self.size_now, self.elapsed
        rate = sent / seconds if seconds > 0 else 0.0
        remaining = f", about {_duration((size - sent) / rate)} left" if rate > 0 else ""
        states = list(self.states.values())
        if sent == size and "completing" in states:
            remaining = ", completing"
        finished = states.count("uploaded") + states.count("abandoned")
        files = f"{finished} of {len(states)} files, " if len(states) > 1 else ""
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
