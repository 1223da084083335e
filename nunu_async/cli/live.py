"""The live display of a command: drawn on a terminal, status lines elsewhere.

The display goes to standard error; standard output is for results.
"""

from __future__ import annotations

import asyncio
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TextIO, cast

from nunu_async.cli.output import Screen, echo_err
from nunu_async.cli.terminal import is_terminal
from nunu_async.core.clock import Clock, SystemClock

if TYPE_CHECKING:  # drawing takes a while to load
    from rich.console import Console
    from rich.live import Live
    from rich.progress import Progress

HEARTBEAT = 10.0
"""Maximum seconds between status lines: CI kills jobs without output."""


class View(ABC):
    """The progress of a command, as a terminal drawing or as status lines.

    Attributes:
        tick: seconds between checks whether a status line is due.
        pause: seconds until a status line is due without news; doubles up to `HEARTBEAT`.
        refresh: seconds between redraws.
    """

    def __init__(self, clock: Clock | None, *, tick: float, pause: float, refresh: float) -> None:
        self.clock = clock or SystemClock()
        self.tick = tick
        self.pause = pause
        self.refresh = refresh
        self._began = self.clock.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since the display began."""
        return self.clock.monotonic() - self._began

    def begin(self) -> None:
        """Start measuring the elapsed time."""
        self._began = self.clock.monotonic()

    @property
    def opening(self) -> str:
        """The first status line; may be empty."""
        return ""

    @property
    def has_news(self) -> bool:
        """Whether a status line is due at the next tick."""
        return False

    @abstractmethod
    def line(self) -> str:
        """Return a status line."""

    @abstractmethod
    def drawing(self, console: Console) -> Live | Progress:
        """Return a display that draws the current state at each refresh.

        The display must not start a thread, which would race with the event loop's and may fail to
        start, nor write to standard output, which may be piped into a parser.
        """


@asynccontextmanager
async def show(view: View) -> AsyncIterator[None]:
    """Display a view for the duration of the context."""
    view.begin()
    stream = sys.stderr
    if stream is None:  # a program without a console
        yield
    elif is_terminal(stream):
        from rich.console import Console  # noqa: PLC0415 - drawing takes a while to load

        with view.drawing(Console(file=cast("TextIO", Screen(stream)))) as drawing:
            async with _beside(_redraw(drawing, view)):
                yield
    else:
        async with _beside(_write_lines(view)):
            yield
            if view.has_news:
                echo_err(view.line())


@asynccontextmanager
async def _beside(work: Coroutine[object, object, None]) -> AsyncIterator[None]:
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def _redraw(drawing: Live | Progress, view: View) -> None:
    while True:
        drawing.refresh()
        await view.clock.sleep(view.refresh)


async def _write_lines(view: View) -> None:
    if view.opening:
        echo_err(view.opening)
    silent, pause = 0.0, view.pause
    while True:
        await view.clock.sleep(view.tick)
        silent += view.tick
        if view.has_news or silent >= pause:
            silent, pause = 0.0, min(2 * pause, HEARTBEAT)
            echo_err(view.line())
