"""The `nunu-async` command line."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable, Coroutine, Sequence
from importlib import import_module
from typing import TypeAlias

from nunu_async.cli import output
from nunu_async.cli.arguments import parse

__all__ = ["main"]

_Command: TypeAlias = Callable[[argparse.Namespace], Coroutine[object, object, int]]

# The display prints part retries, which are events; API retries are only logged.
_ALWAYS_SHOWN = ("nunu_async.core", "nunu_async.polling", "nunu_async.upload.journal")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code.

    0 success, 1 some failed, 2 usage or configuration error, 3 wait timeout, 128 plus the signal
    number after a signal: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP.
    """
    arguments = parse(argv)
    if os.environ.get("SSLKEYLOGFILE") and (problem := _key_log_problem()):
        return output.usage_error(problem)
    # Imported lazily: help and usage errors need no drawing and no HTTP client.
    module, _, function = arguments.function.partition(".")
    command: _Command = getattr(import_module(f"nunu_async.cli.{module}"), function)
    from nunu_async.cli.run import run  # noqa: PLC0415

    output.prepare()
    logger = logging.getLogger("nunu_async")
    logger.addHandler(handler := _LogHandler(os.environ.get("NUNU_LOG", "")))
    try:
        return output.exit_code(run(command(arguments)))
    finally:
        logger.removeHandler(handler)
        output.close()


def _key_log_problem() -> str:
    """Return why SSLKEYLOGFILE is unusable, which would make importing aiohttp fail."""
    from nunu_async.core.tls import check_key_log  # noqa: PLC0415
    from nunu_async.errors import ConfigError  # noqa: PLC0415

    try:
        check_key_log(os.environ)
    except ConfigError as error:
        return str(error)
    return ""


class _LogHandler(logging.Handler):
    """Prints the library's log from `level` up; without one, only warnings of `_ALWAYS_SHOWN`."""

    def __init__(self, level: str) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s.%(msecs)03d %(message)s", "%H:%M:%S"))
        number = logging.getLevelNamesMapping().get(level.strip().upper())
        self._has_level = number is not None
        if number is not None:
            logging.getLogger("nunu_async").setLevel(number)
        elif level.strip():
            output.echo_err(f"NUNU_LOG is not a level such as debug: {level!a}")

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith(_ALWAYS_SHOWN) and record.levelno >= logging.WARNING:
            output.echo_err(f"{record.getMessage()}")
        elif self._has_level:
            output.echo_err(self.format(record))
