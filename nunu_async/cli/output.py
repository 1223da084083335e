"""Messages on standard error, and setup of the standard streams."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import TextIO

from nunu_async.cli.harmless import harmless

USAGE = 2
"""The exit code of usage and configuration errors."""
_lost: list[str] = []


def prepare() -> None:
    """Make any file name printable, and clear the record of lost results."""
    _lost.clear()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # An upload must not end in a traceback because a terminal cannot encode a name.
            # On Windows, files and pipes default to the code page, which lacks most characters.
            is_pipe = os.name == "nt" and not stream.isatty()
            chosen = os.environ.get("PYTHONIOENCODING")
            stream.reconfigure(
                encoding="utf-8" if is_pipe and not chosen else None,
                errors="backslashreplace",
            )


def echo_err(message: str) -> None:
    """Write a message to standard error; ignore a closed or missing stream."""
    with suppress(OSError, ValueError, AttributeError):  # broken pipe, closed file, None
        sys.stderr.write(harmless(f"nunu-async: {message}") + "\n")
        sys.stderr.flush()


def echo_lost(message: str) -> None:
    """Print that a result could not be written; the command's exit code is then at least 1."""
    _lost.append(message)
    echo_err(message)


def exit_code(code: int) -> int:
    """Return a command's exit code: `code`, but 1 instead of 0 if a result was lost."""
    return code or (1 if _lost else 0)


def usage_error(reason: object) -> int:
    """Print why a command cannot begin; return the exit code."""
    echo_err(str(reason))
    return USAGE


def with_notes(error: BaseException, message: str | None = None) -> str:
    """Return an error's message, or another one, with the error's notes on the same line."""
    message = str(error) if message is None else message
    return "; ".join([message, *getattr(error, "__notes__", ())])


def print_text(text: str) -> bool:
    """Print a help text; on failure print a message to standard error and return False."""
    try:
        if sys.stdout is not None:
            sys.stdout.write(text)
            sys.stdout.flush()
    except BrokenPipeError:
        close()  # the user quit the pager early
    except OSError as error:
        echo_err(f"cannot write to standard output: {error.strerror}")
        close()
        return False
    return True


def close() -> None:
    """Redirect broken standard streams to the null device, so that Python exits quietly."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None:
            continue
        try:
            stream.flush()
        except OSError:
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
                stream.flush()


class Screen:
    """A terminal stream for rich that ignores errors if the terminal was closed."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> object:
        """Return any other attribute of the stream, such as its encoding."""
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text; discard it if the terminal is gone."""
        with suppress(OSError):
            self._stream.write(harmless(text, styled=True))
        return len(text)

    def flush(self) -> None:
        """Flush; do nothing if the terminal is gone."""
        with suppress(OSError):
            self._stream.flush()


def count(number: int, thing: str) -> str:
    """Return a number and its noun: "1 part", "2 parts"."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
