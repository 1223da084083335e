"""Where words go: results to standard output, everything else to standard error."""

from __future__ import annotations

import io
import logging
import os
import sys
from contextlib import suppress
from typing import TextIO

__all__ = ["TOLD", "close", "count", "prepare", "result", "tell"]

TOLD = ("nunu_async.core", "nunu_async.polling")
"""Loggers whose warnings are told at any level."""


def prepare() -> None:
    """Make sure that no file name can break a line, and that retried API calls are heard of."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A build that is up must not end in a traceback because a terminal knows no umlauts.
            stream.reconfigure(errors="backslashreplace")
    # Parts that are tried again are events, which the display tells; API calls only log it.
    for name in TOLD:
        heard = logging.getLogger(name)
        if not heard.handlers:
            heard.addHandler(_Teller(logging.WARNING))


def tell(line: str, stream: TextIO | None = None) -> None:
    """Write a line to standard error, or to `stream`; nobody listening is no error."""
    stream = stream or sys.stderr
    with suppress(OSError, ValueError, AttributeError):  # a dead pipe, a closed file, none at all
        stream.write(line + "\n")
        stream.flush()


def result(line: str) -> bool:
    """Write a line to standard output; return False only where somebody misses it."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        pass  # nobody wants it
    except OSError as error:
        tell(f"nunu-async: cannot write the result ({error.strerror}): {line}")
        return False
    return True


def close() -> None:
    """Let go of a standard output that nobody reads, so that the interpreter ends quietly."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def count(number: int, thing: str) -> str:
    """Return "1 part", "2 parts"."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


class _Teller(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        tell(f"nunu-async: {record.getMessage()}")
