"""What is written to: how wide it is, and whether it can be drawn on."""

from __future__ import annotations

import os
import shutil
import sys
from typing import Literal, TextIO

__all__ = [
    "ENDLESS",
    "GAP",
    "colour",
    "is_plain",
    "is_terminal",
    "overflow_in",
    "width_of",
    "width_of_output",
]

ENDLESS = 1_000_000
GAP = 2
_COLOURS = {
    "success": "green",
    "passed": "green",
    "running": "cyan",
    "in_progress": "cyan",
    "failed": "red",
    "failure": "red",
    "error": "red",
    "timeout": "red",
    "blocked": "red",
    "critical": "red",
    "high": "red",
    "stopped": "yellow",
    "max_steps": "yellow",
    "skipped": "yellow",
    "medium": "yellow",
}


def is_terminal(stream: TextIO) -> bool:
    """Tell whether a stream is a terminal on which something can be drawn over."""
    return stream.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


def is_plain() -> bool:
    """Tell whether standard output takes text alone: it is no terminal, and is not said to be."""
    asked = os.environ.get("FORCE_COLOR") or os.environ.get("TTY_COMPATIBLE")
    return not asked and not (sys.stdout is not None and sys.stdout.isatty())


def width_of_output() -> int:
    """Return how wide standard output is: as a terminal, elsewhere as wide as it gets."""
    # Whoever reads a pipe or a file cuts for themselves.
    if sys.stdout is not None and (sys.stdout.isatty() or os.environ.get("COLUMNS")):
        return shutil.get_terminal_size().columns
    return ENDLESS


def width_of(text: str) -> int:
    """Return how many columns of a terminal a line takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # noqa: PLC0415 - it loads tables of all characters

    return cell_len(text)


def colour(word: str) -> str:
    """Return the style of a state, a result or a severity; "" for any other word."""
    return _COLOURS.get(word, "")


def overflow_in(encoding: str | None) -> Literal["crop", "ellipsis"]:
    """Return how a text is cut where characters are written in an encoding."""
    return "ellipsis" if (encoding or "").lower().startswith("utf") else "crop"
