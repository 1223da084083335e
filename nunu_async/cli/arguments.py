"""What the command line takes."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version

from nunu_async.models.builds import PLATFORMS

__all__ = ["build_parser", "parse"]

_ENVIRONMENT = """\
environment:
  NUNU_API_KEY      the API key (then NUNU_API_TOKEN); never taken as an argument,
                    where other users of the machine could read it
  NUNU_PROJECT_ID   the project
  NUNU_BASE_URL     the API's address (then NUNU_API_URL); default https://nunu.ai

exit codes:
  0 all done, 1 some failed, 2 usage or configuration, 130 Ctrl-C, 143 SIGTERM
"""


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; exits with 2 and a message where it cannot be meant."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if arguments.command == "upload" and arguments.deletion_policy and not arguments.auto_delete:
        parser.error("--deletion-policy has nothing to act on without --auto-delete")
    return arguments


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of every command."""
    parser = argparse.ArgumentParser(
        prog="nunu-async",
        description="Upload game builds to nunu.ai.",
        epilog=_ENVIRONMENT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"nunu-async {_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_upload(commands)
    _add_demo(commands)
    _add_sandbox(commands)
    return parser


def _add_upload(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    upload = commands.add_parser(
        "upload",
        help="put build files into build storage",
        description="Put build files into build storage, in parts, several at once.",
        epilog=_ENVIRONMENT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    upload.add_argument(
        "files", nargs="+", metavar="FILE", help="a build file, or a pattern such as 'out/*.apk'"
    )
    upload.add_argument(
        "-n",
        "--name",
        required=True,
        type=_name,
        help="the build's name; several files: NAME - FILENAME",
    )
    upload.add_argument(
        "--platform",
        choices=PLATFORMS,
        metavar="PLATFORM",
        help=f"one of {', '.join(PLATFORMS)}; default: by the file's extension",
    )
    upload.add_argument("-d", "--description", help="at most 1000 characters")
    upload.add_argument(
        "--tags",
        type=_tags,
        action="extend",
        default=[],
        metavar="A,B",
        help="separated by commas; may be repeated",
    )
    upload.add_argument(
        "--auto-delete", action="store_true", help="let old builds go when storage is full"
    )
    upload.add_argument(
        "--deletion-policy",
        type=lambda text: text.replace("-", "_"),
        choices=("least_recent", "oldest"),
        help="which builds go first: least_recent or oldest",
        metavar="POLICY",
    )
    upload.add_argument(
        "--upload-timeout",
        type=_whole(1, 1440),
        metavar="MINUTES",
        help="1 to 1440, after which the server forgets an unfinished upload",
    )
    upload.add_argument(
        "--concurrency",
        type=_whole(1, 256),
        default=4,
        metavar="N",
        help="parts under way at once, over all files (default 4)",
    )
    kind = upload.add_mutually_exclusive_group()
    kind.add_argument(
        "--multipart", action="store_true", default=None, help="send in parts, whatever the size"
    )
    kind.add_argument(
        "--single-part",
        action="store_false",
        dest="multipart",
        help="send as one body, whatever the size",
    )
    upload.add_argument(
        "--json", action="store_true", help="print one JSON object on standard output"
    )


def _add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    demo = commands.add_parser(
        "demo",
        help="upload a build to a local nunu.ai and check that it arrived; needs no key",
        description="Start a local nunu.ai, upload a build to it, and check what arrived.",
    )
    demo.add_argument(
        "file", nargs="?", metavar="FILE", help="default: one made of 72 MB of random bytes"
    )


def _add_sandbox(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    sandbox = commands.add_parser(
        "sandbox",
        help="run a local nunu.ai until Ctrl-C",
        description="Run a local nunu.ai and print the environment that leads to it.",
    )
    sandbox.add_argument("--port", type=_whole(0, 65535), default=0, help="of the API; 0 picks one")
    sandbox.add_argument(
        "--storage-port", type=_whole(0, 65535), default=0, help="of the storage; 0 picks one"
    )
    sandbox.add_argument(
        "--directory",
        "--storage",
        metavar="DIR",
        help="keep builds here; default: in memory, which grows with every build",
    )
    sandbox.add_argument(
        "--part-size",
        type=_whole(1, 5 * 1024**3),
        default=100 * 1024 * 1024,
        metavar="BYTES",
        help="of a multipart upload (default 104857600)",
    )
    sandbox.add_argument(
        "--capacity", type=_whole(1, 1024**5), metavar="BYTES", help="of build storage"
    )


def _whole(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"must be a whole number from {least} to {most}")
        return value

    return parse


def _name(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def _tags(text: str) -> tuple[str, ...]:
    return tuple(tag.strip() for tag in text.split(",") if tag.strip())


def _version() -> str:
    try:
        return version("nunu_async")
    except PackageNotFoundError:
        return "unknown"
