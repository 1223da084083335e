"""Where words go: results to standard output, everything else to standard error."""

from __future__ import annotations

import io
import logging
import os
import sys
from contextlib import suppress
from typing import TextIO

from nunu_async.cli.harmless import harmless

__all__ = ["TOLD", "Screen", "close", "count", "prepare", "print_text", "tell"]

TOLD = ("nunu_async.core", "nunu_async.polling", "nunu_async.upload.journal")
"""Loggers whose warnings are told at any level."""


def prepare() -> None:
    """Make sure that no file name can break a line, and that retried API calls are heard of."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A build that is up must not end in a traceback because a terminal knows no umlauts.
            # Files and pipes on Windows would get the code page, which knows few names.
            is_pipe = os.name == "nt" and not stream.isatty()
            stream.reconfigure(
                encoding="utf-8" if is_pipe and _is_unset("PYTHONIOENCODING") else None,
                errors="backslashreplace",
            )
    # Parts that are tried again are events, which the display tells; API calls only log it.
    for name in TOLD:
        heard = logging.getLogger(name)
        if not heard.handlers:
            heard.addHandler(_Teller(logging.WARNING))


def _is_unset(name: str) -> bool:
    return not os.environ.get(name)


def tell(line: str, stream: TextIO | None = None) -> None:
    """Write a line to standard error, or to `stream`; nobody listening is no error."""
    stream = stream or sys.stderr
    with suppress(OSError, ValueError, AttributeError):  # a dead pipe, a closed file, none at all
        stream.write(harmless(line) + "\n")
        stream.flush()


def print_text(text: str) -> bool:
    """Print a help text; return False, with a sentence on standard error, where that fails."""
    try:
        if sys.stdout is not None:
            sys.stdout.write(text)
            sys.stdout.flush()
    except BrokenPipeError:
        close()  # who leafs through a help text may leave it
    except OSError as error:
        tell(f"nunu-async: cannot write to standard output: {error.strerror}")
        close()
        return False
    return True


def close() -> None:
    """Let go of standard streams that nobody reads, so that the interpreter ends quietly."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None:
            continue
        try:
            stream.flush()
        except OSError:
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
                stream.flush()


class Screen(io.TextIOBase):
    """A terminal to draw on that may go away before the command is over."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override] # a stream's own is a variable
        """What characters become."""
        return self._stream.encoding

    def isatty(self) -> bool:
        """Tell whether it is one."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """Return its descriptor, by which its size is asked for."""
        return self._stream.fileno()

    def write(self, text: str) -> int:
        """Draw; into the void where there is no terminal any more."""
        with suppress(OSError):
            self._stream.write(harmless(text, styled=True))
        return len(text)

    def flush(self) -> None:
        """Let it be seen."""
        with suppress(OSError):
            self._stream.flush()


def count(number: int, thing: str) -> str:
    """Return "1 part", "2 parts"."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


class _Teller(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        tell(f"nunu-async: {record.getMessage()}")
