"""Properties of the output streams: width, terminal or not, colours."""

from __future__ import annotations

import os
import shutil
import sys
from typing import Literal, TextIO

ENDLESS = 1_000_000
GAP = 2
_WORDS = {
    "green": ("success", "passed"),
    "cyan": ("running", "in_progress"),
    "red": ("failed", "failure", "error", "timeout", "blocked", "critical", "high"),
    "yellow": ("stopped", "max_steps", "skipped", "medium"),
}
_COLOURS = {word: colour for colour, words in _WORDS.items() for word in words}


def is_terminal(stream: TextIO) -> bool:
    """Return whether a stream is a terminal that supports cursor movement."""
    return stream.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


def is_plain() -> bool:
    """Return whether to print plain text: stdout is not a terminal and colour is not forced."""
    forced = os.environ.get("FORCE_COLOR") or os.environ.get("TTY_COMPATIBLE")
    return not forced and not (sys.stdout is not None and sys.stdout.isatty())


def width_of_output() -> int:
    """Return the width of standard output in columns; ENDLESS if it is not a terminal."""
    # Lines in pipes and files are cut only if COLUMNS is set: the reader can cut them.
    if sys.stdout is not None and (sys.stdout.isatty() or os.environ.get("COLUMNS")):
        return shutil.get_terminal_size().columns
    return ENDLESS


def width_of(text: str) -> int:
    """Return the width of a line in terminal columns."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # noqa: PLC0415 - loads Unicode width tables

    return cell_len(text)


def colour(word: str) -> str:
    """Return the style of a state, a result or a severity; "" for any other word."""
    return _COLOURS.get(word, "")


def overflow_in(encoding: str | None) -> Literal["crop", "ellipsis"]:
    """Return how to truncate text: with an ellipsis only if the encoding has one."""
    return "ellipsis" if (encoding or "").lower().startswith("utf") else "crop"
