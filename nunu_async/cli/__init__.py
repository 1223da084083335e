"""The `nunu-async` command line."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable, Coroutine, Sequence
from typing import TypeAlias

from nunu_async.cli import output
from nunu_async.cli.arguments import parse

__all__ = ["main"]

_USAGE = 2
_Command: TypeAlias = Callable[[argparse.Namespace], Coroutine[object, object, int]]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code.

    0 success, 1 some failed, 2 usage or configuration error, 3 timeout of a wait, 128 plus the
    number of the signal that ended it: 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP.
    """
    arguments = parse(argv)
    if os.environ.get("SSLKEYLOGFILE") and (problem := _key_log_problem()):
        output.tell(f"nunu-async: {problem}")
        return _USAGE
    command = _command(arguments)
    from nunu_async.cli.run import run  # noqa: PLC0415

    output.prepare()
    _set_up_logging(os.environ.get("NUNU_LOG", ""))
    try:
        return run(command(arguments))
    finally:
        output.close()


def _key_log_problem() -> str:
    """Return why SSLKEYLOGFILE cannot be used; importing aiohttp would fail on it."""
    from nunu_async.core.tls import check_key_log  # noqa: PLC0415
    from nunu_async.errors import ConfigError  # noqa: PLC0415

    try:
        check_key_log(os.environ)
    except ConfigError as error:
        return str(error)
    return ""


def _command(arguments: argparse.Namespace) -> _Command:  # noqa: PLR0911 - one per command
    # Imported here: help and usage errors need no terminal drawing and no server.
    match arguments.command:
        case "upload":
            from nunu_async.cli.upload import upload  # noqa: PLC0415

            return upload
        case "uploads":
            from nunu_async.cli import uploads  # noqa: PLC0415

            upload_actions: dict[str, _Command] = {
                "list": uploads.list_uploads,
                "resume": uploads.resume,
                "cancel": uploads.cancel,
            }
            return upload_actions[arguments.action]
        case "runs":
            from nunu_async.cli import runs  # noqa: PLC0415

            run_actions: dict[str, _Command] = {
                "list": runs.list_runs,
                "get": runs.get,
                "bugs": runs.bugs,
                "start": runs.start,
                "stop": runs.stop,
            }
            return run_actions[arguments.action]
        case "executions":
            from nunu_async.cli.executions import list_executions  # noqa: PLC0415

            return list_executions
        case "wait":
            from nunu_async.cli.wait import wait  # noqa: PLC0415

            return wait
        case "ci":
            from nunu_async.cli.ci import ci  # noqa: PLC0415

            return ci
        case "demo":
            from nunu_async.cli.demo import demo  # noqa: PLC0415

            return demo
        case _:
            from nunu_async.cli.serve import serve  # noqa: PLC0415

            return serve


def _set_up_logging(level: str) -> None:
    """Write the library's log to standard error, from the level named by NUNU_LOG."""
    number = logging.getLevelNamesMapping().get(level.strip().upper())
    if number is None:
        if level.strip():
            output.tell(f"nunu-async: NUNU_LOG is not a level such as debug: {level!a}")
        return
    logger = logging.getLogger("nunu_async")
    logger.setLevel(number)
    logger.addHandler(_StderrHandler())


class _StderrHandler(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(
            logging.Formatter("nunu-async: %(asctime)s.%(msecs)03d %(message)s", "%H:%M:%S")
        )

    def filter(self, record: logging.LogRecord) -> bool:
        # The handlers of `output.prepare` print these warnings already.
        printed = record.name.startswith(output.ALWAYS_SHOWN) and record.levelno >= logging.WARNING
        return not printed and bool(super().filter(record))

    def emit(self, record: logging.LogRecord) -> None:
        output.tell(self.format(record))
