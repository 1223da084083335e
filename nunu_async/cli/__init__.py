"""The command line: arguments in, events and exit codes out."""

from __future__ import annotations

from collections.abc import Sequence

from nunu_async.cli.arguments import parse

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code.

    0 all done, 1 some failed, 2 usage or configuration, 128 plus the number of the signal that
    ended it: 130 after Ctrl-C, 143 after SIGTERM.
    """
    arguments = parse(argv)
    # Imported here: help and usage errors need no terminal drawing and no server.
    if arguments.command == "upload":
        from nunu_async.cli.upload import upload as command  # noqa: PLC0415
    elif arguments.command == "demo":
        from nunu_async.cli.demo import demo as command  # noqa: PLC0415
    else:
        from nunu_async.cli.serve import serve as command  # noqa: PLC0415
    from nunu_async.cli import output  # noqa: PLC0415
    from nunu_async.cli.run import run  # noqa: PLC0415

    output.prepare()
    try:
        return run(command(arguments))
    finally:
        output.close()
