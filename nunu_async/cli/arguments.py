"""The arguments of the command line."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from nunu_async.cli import output
from nunu_async.models.choices import PLATFORMS, POLICIES
from nunu_async.version import __version__

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

    # argparse has no public name for this type.
    _Commands: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001

_ENVIRONMENT = """\
environment:
  NUNU_API_KEY      the API key (then NUNU_API_TOKEN); never taken as an argument,
                    where other users of the machine could read it
  NUNU_PROJECT_ID   the project
  NUNU_BASE_URL     the API's address (then NUNU_API_URL); default https://nunu.ai
  NUNU_STATE_DIR    where uploads to be resumed are noted
  NUNU_LOG          debug tells of every request on standard error

exit codes:
  0 all done, 1 some failed, 2 usage or configuration, 3 not over in time,
  130 Ctrl-C, 143 SIGTERM, 129 SIGHUP (a closed terminal; nohup is heeded)
"""


# An option, the option that it requires, and the latter's name in the API.
_PARTNERS = (
    ("name", "instructions", "instructions"),
    ("retries", "test", "multiplayer_test_id"),
    ("instances", "test", "multiplayer_test_id"),
)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; exit with 2 and a message on an invalid combination."""
    arguments = build_parser().parse_args(argv)
    values = vars(arguments)
    if values.get("deletion_policy") and not arguments.auto_delete:
        arguments.parser.error("--deletion-policy has nothing to act on without --auto-delete")
    for option, partner, field in _PARTNERS:
        if values.get(option) is not None and values.get(field, "") is None:
            arguments.parser.error(f"--{option} goes with --{partner} only")
    return arguments


# Option names that other command-line tools use for an API key.
_KEY_OPTIONS = frozenset(
    (
        *("t", "token", "key", "api-key", "apikey", "api-token", "access-token", "auth"),
        *("auth-token", "nunu-api-key", "nunu-api-token", "password", "secret", "bearer"),
    )
)
_KEY = re.compile(r"nunu_[^\s'\"]{6,}")


class _Parser(argparse.ArgumentParser):
    """A parser that masks keys in errors and accepts no abbreviated options.

    Option values may begin with a hyphen. It exits with 1 if help or version cannot be written, an
    error that argparse ignores.
    """

    def parse_args(  # type: ignore[override] # the base has an overload that is not used here
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """Parse the command line; exit with 2 on unrecognized arguments."""
        parsed, rest = self.parse_known_args(args, namespace)
        if rest:
            # Omit the values of unknown options, which may be keys.
            shown = [
                argument.partition("=")[0]
                for before, argument in zip(["", *rest], rest, strict=False)
                if argument.startswith("-") or not before.startswith("-")
            ]
            self.error(f"unrecognized arguments: {' '.join(shown)}")
        return parsed

    def parse_known_args(  # type: ignore[override] # the base's overloads are for other namespaces
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse arguments; argparse calls this on the command's subparser as well."""
        # A unique abbreviation may become ambiguous when an option is added.
        self.allow_abbrev = False
        joined = self._join_values(sys.argv[1:] if args is None else args)
        self._refuse_keys(joined)
        return super().parse_known_args(joined, namespace)

    def _refuse_keys(self, args: Sequence[str]) -> None:
        """Exit with 2 on an option that would pass an API key."""
        for argument in args:
            # The subparser checks the arguments after the command's name.
            if argument == "--" or (self._subparsers and not argument.startswith("-")):
                return
            option = "-t" if argument.startswith("-t") else argument.partition("=")[0]
            if (
                option.startswith("-")
                and option.lower().strip("-").replace("_", "-") in _KEY_OPTIONS
            ):
                self.error(
                    f"there is no option {option}: all users of this machine could read its value; "
                    "the API key comes from the environment, NUNU_API_KEY"
                )

    def _join_values(self, args: Sequence[str]) -> list[str]:
        """Join `--name -nightly-` into one argument, where argparse would see two options.

        A known option is not taken as a value, nor is anything with two leading hyphens, which is
        more likely a misspelled option.
        """
        joined: list[str] = []
        remaining = deque(args)
        while remaining:
            arg = remaining.popleft()
            if arg == "--":
                return [*joined, arg, *remaining]
            action = self._option_string_actions.get(arg)
            takes_value = action is not None and action.nargs is None
            value = remaining[0] if remaining and takes_value else ""
            if (
                value.startswith("-")
                and value[1:2] not in ("", "-")
                and value not in self._option_string_actions
            ):
                remaining.popleft()
                arg = f"{arg}={value}" if arg.startswith("--") else f"{arg}{value}"
            joined.append(arg)
        return joined

    def error(self, message: str) -> NoReturn:
        """Exit with 2 and the message; anything that looks like a key is masked."""
        if message.endswith("expected one argument"):
            message += "; a value that begins with a hyphen goes after an equals sign, as in --x=-y"
        super().error(_KEY.sub("***", message))

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        if file is None or file is not sys.stdout:
            super()._print_message(message, file)
        elif not output.print_text(message):
            raise SystemExit(1)


def _integer(minimum: int, maximum: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = minimum - 1
        if not minimum <= value <= maximum:
            raise argparse.ArgumentTypeError(f"must be a whole number from {minimum} to {maximum}")
        return value

    return parse


def _non_empty(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def _path(text: str) -> str:
    # Neither shells nor other launchers expand "~" in `--option=~/file`.
    path = os.path.expanduser(_non_empty(text))
    if path.startswith("~") and path[1:2] in ("", os.sep):
        raise argparse.ArgumentTypeError(f"no home directory is known: {text}")
    return path


def _snake_case(text: str) -> str:
    return text.replace("-", "_").lower()


def _json_object(text: str) -> dict[str, object]:
    if text.startswith("@"):
        try:
            with open(_path(text[1:]), encoding="utf-8") as file:
                text = file.read()
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise argparse.ArgumentTypeError(f"cannot read {text[1:]}: {reason}") from None
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("must be a JSON object")
    return value


def _refuse_constant(text: str) -> object:
    raise ValueError(f"{text} is no number of JSON")


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError("must be a number of seconds above 0")
    return value


def _bandwidth(text: str) -> float:
    from nunu_async.config import check_bandwidth  # noqa: PLC0415 - not needed for help

    units = {"k": 2**10, "m": 2**20, "g": 2**30}
    unit = units.get(text[-1:].lower())
    try:
        value = float(text if unit is None else text[:-1]) * (unit or 1)
    except ValueError:
        value = math.nan
    if check_bandwidth(value):
        raise argparse.ArgumentTypeError("must be 1024 bytes a second or more, such as 500K or 20M")
    return value


def _tags(text: str) -> tuple[str, ...]:
    tags = tuple(tag.strip() for tag in text.split(",") if tag.strip())
    if not tags:
        raise argparse.ArgumentTypeError("must name at least one tag")
    return tags


# Keyword arguments of `add_argument`, by kind of option.
_FLAG: dict[str, Any] = {"action": "store_true"}
_ID: dict[str, Any] = {"metavar": "ID", "type": _non_empty}
_TAGS: dict[str, Any] = {"metavar": "A,B", "type": _tags, "action": "extend", "default": []}


def _choice(metavar: str | None, choices: Sequence[str]) -> dict[str, Any]:
    return {"metavar": metavar, "type": _snake_case, "choices": choices}


def _number(minimum: int, maximum: int, metavar: str | None = "N") -> dict[str, Any]:
    return {"metavar": metavar, "type": _integer(minimum, maximum)}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser, with a subparser for each command."""
    parser: argparse.ArgumentParser = _Parser(
        prog="nunu-async",
        description="Upload game builds to nunu.ai; start, read, await and stop test runs there.",
        epilog=_ENVIRONMENT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"nunu-async {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_upload(commands)
    _add_uploads(commands)
    _add_runs(commands)
    _add_executions(commands)
    _add_wait(commands)
    _add_ci(commands)
    _add_demo(commands)
    _add_sandbox(commands)
    return parser


def _add_upload(commands: _Commands) -> None:
    upload = _add_command(
        commands,
        "upload",
        "upload.upload",
        "put build files into build storage",
        "Put build files into build storage, in parts, several at once.",
    )
    upload.add_argument(
        "files", nargs="+", metavar="FILE", help="a build file, or a pattern such as 'out/*.apk'"
    )
    _add_build_options(upload, "the build's name; several files: NAME - FILENAME")
    _add_json(upload, "one JSON object on standard output")


def _add_uploads(commands: _Commands) -> None:
    actions = _add_group(
        commands,
        "uploads",
        "list, resume and cancel uploads that were left behind",
        "Uploads that `upload --resume` has begun and not ended.",
    )
    listing = _add_command(
        actions, "list", "uploads.list_uploads", "list what was left behind; needs no key"
    )
    _add_json(listing, "one JSON array instead")
    summary = "send what is missing, with the build's options of then"
    resume = _add_command(actions, "resume", "uploads.resume", summary)
    _add_build_names(resume)
    _add_transfer_options(resume)
    _add_json(resume)
    summary = "give uploads up, here and on the server"
    _add_build_names(_add_command(actions, "cancel", "uploads.cancel", summary))


def _add_build_names(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "names",
        nargs="*",
        default=[],
        metavar="BUILD",
        type=_non_empty,
        help="a build's id, or its file; may be left out where there is one upload only",
    )
    which.add_argument("--all", help="all of this project", **_FLAG)


def _add_transfer_options(parser: argparse.ArgumentParser) -> None:
    concurrency = "parts under way at once, over all files (default 4)"
    parser.add_argument("--concurrency", help=concurrency, **_number(1, 1000), default=4)
    parser.add_argument(
        "--max-bandwidth",
        type=_bandwidth,
        metavar="BYTES",
        help="bytes a second that leave at most, over all files; with K, M or G after it KiB, MiB "
        "or GiB (such as 20M)",
    )


def _add_build_options(upload: argparse.ArgumentParser, name_help: str) -> None:
    upload.add_argument("-n", "--name", required=True, type=_non_empty, help=name_help)
    upload.add_argument(
        "--platform",
        choices=PLATFORMS,
        metavar="PLATFORM",
        help=f"one of {', '.join(PLATFORMS)}; default: by the file's extension",
    )
    upload.add_argument("-d", "--description", help="at most 1000 characters")
    upload.add_argument("--tags", help="separated by commas; may be repeated", **_TAGS)
    upload.add_argument("--auto-delete", help="let old builds go when storage is full", **_FLAG)
    policy = "which builds go first: least_recent or oldest"
    upload.add_argument("--deletion-policy", help=policy, **_choice("POLICY", POLICIES))
    upload.add_argument(
        "--upload-timeout",
        help="1 to 1440, after which the server forgets an unfinished upload; default: what "
        "1 MiB/s needs, at least 10 for a single part and 60 for several; 1440 with --resume",
        **_number(1, 1440, "MINUTES"),
    )
    upload.add_argument(
        "--resume",
        help="note what is sent, and send only what the same command has not sent before; "
        "interrupted, it leaves that on the server (builds sent in parts only)",
        **_FLAG,
    )
    verify = "compare each part's MD5 with what storage says it has; send again what differs"
    upload.add_argument("--verify", help=verify, **_FLAG)
    _add_transfer_options(upload)
    kind = upload.add_mutually_exclusive_group()
    kind.add_argument("--multipart", help="send in parts, whatever the size", **_FLAG, default=None)
    kind.add_argument(
        "--single-part",
        action="store_false",
        dest="multipart",
        help="send as one body, whatever the size",
    )


def _add_runs(commands: _Commands) -> None:
    actions = _add_group(commands, "runs", "list, read, start and stop test runs", "Test runs.")
    _add_runs_list(actions)
    summary = "show one run: its players, their steps and artifacts"
    get = _add_command(actions, "get", "runs.get", summary)
    _add_run_id(get)
    _add_json(get)
    bugs = _add_command(actions, "bugs", "runs.bugs", "list the bugs that one run showed")
    _add_run_id(bugs)
    _add_rows_options(bugs)
    _add_runs_start(actions)
    summary = "stop jobs at once, and print the ids of those stopped"
    stop = _add_command(actions, "stop", "runs.stop", summary)
    stop.add_argument(
        "job_ids",
        nargs="+",
        metavar="JOB_ID",
        type=_non_empty,
        help="of a job, which `runs start` prints, not of a run",
    )
    _add_json(stop)


def _add_run_id(parser: argparse.ArgumentParser) -> None:
    run_id = "of a run, not of a job; `runs list --job JOB_ID` gives the runs of a job"
    parser.add_argument("run_id", metavar="RUN_ID", type=_non_empty, help=run_id)


def _add_runs_list(actions: _Commands) -> None:
    listing = _add_command(actions, "list", "runs.list_runs", "list runs, newest first")
    states = ("running", "completed", "all")
    listing.add_argument("--state", help="running, completed or all", **_choice("STATE", states))
    listing.add_argument("--test", metavar="ID", help="runs of this multiplayer test only")
    listing.add_argument("--job", metavar="ID", help="runs of this job only")
    listing.add_argument("--execution", metavar="ID", help="runs of this test-plan execution only")
    listing.add_argument(
        "--type", help="of the test: verification, task, discovery or exploration", metavar="TYPE"
    )
    listing.add_argument("--tags", help="runs with all of these only; may be repeated", **_TAGS)
    listing.add_argument(
        "--bugs",
        action=argparse.BooleanOptionalAction,
        help="runs that showed bugs only, or those that did not",
    )
    _add_rows_options(listing)


def _add_runs_start(actions: _Commands) -> None:
    summary = "start a test, a test plan or instructions, and print the ids of the jobs"
    start = _add_command(actions, "start", "runs.start", summary)
    target = _add_target(start, "where to run: a deployment config of the project")
    target.add_argument(
        "--instructions", metavar="TEXT", type=_non_empty, help="what to do, in words"
    )
    build = "a build in build storage; with a deployment config of build storage only"
    start.add_argument("--build", dest="build_id", help=build, **_ID)
    start.add_argument("--name", type=_non_empty, help="of the run; with --instructions only")
    start.add_argument(
        "--agent-config", dest="agent_config_id", help="an agent config of the project", **_ID
    )
    start.add_argument(
        "--tags", help="added to the run; may be repeated", **_TAGS, dest="additional_tags"
    )
    _add_start_options(start)
    start.add_argument(
        "--template-data",
        type=_json_object,
        metavar="JSON",
        help="an object for the templates of the test, or @FILE that holds one",
    )
    templates = "fill in the templates of the test, with --template-data"
    start.add_argument("--render-templates", help=templates, **_FLAG)
    _add_json(start)


def _add_target(parser: argparse.ArgumentParser, where: str) -> argparse._MutuallyExclusiveGroup:
    parser.add_argument(
        "--deployment-config", dest="deployment_config_id", help=where, **_ID, required=True
    )
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--test", dest="multiplayer_test_id", help="a multiplayer test", **_ID)
    target.add_argument("--test-plan", dest="test_plan_id", help="all tests of this plan", **_ID)
    return target


def _add_start_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--no-marker",
        action="store_false",
        dest="marker",
        help="add no tag of our own, by which a start with a lost answer is found",
    )
    parser.add_argument("--retries", help="0 to 10; with --test only", **_number(0, 10))
    parser.add_argument("--instances", help="1 to 10; with --test only", **_number(1, 10))


def _add_executions(commands: _Commands) -> None:
    actions = _add_group(
        commands, "executions", "list test-plan executions", "Executions of test plans."
    )
    summary = "list test-plan executions, newest first"
    listing = _add_command(actions, "list", "executions.list_executions", summary)
    listing.add_argument("--test-plan", metavar="ID", help="executions of this plan only")
    listing.add_argument("--build", metavar="ID", help="executions on this build only")
    states = ("completed", "in_progress", "queued")
    listing.add_argument(
        "--status", help="completed, in_progress or queued", **_choice("STATUS", states)
    )
    fields = ("start_time", "test_plan_name", "build_name")
    listing.add_argument(
        "--sort-by", help="start_time, test_plan_name or build_name", **_choice("FIELD", fields)
    )
    listing.add_argument("--sort-order", help="default desc", **_choice(None, ("asc", "desc")))
    _add_rows_options(listing)


def _add_wait(commands: _Commands) -> None:
    wait = _add_command(
        commands,
        "wait",
        "wait.wait",
        "wait until runs, jobs or test-plan executions are over",
        "Wait until all of these are over, and tell what became of each.",
    )
    wait.add_argument(
        "kind",
        choices=("run", "job", "execution"),
        metavar="KIND",
        help="run, job or execution; starting gives ids of jobs, and of an execution for a plan",
    )
    wait.add_argument("ids", nargs="+", metavar="ID", type=_non_empty)
    _add_wait_options(wait, "seconds; what is not over then goes on, and the exit code is 3")
    wait.add_argument(
        "--fail-on",
        choices=("any", "never"),
        default="any",
        metavar="WHEN",
        help="any: exit code 1 if one did not succeed (default); never: 0 once all are over, "
        "but 1 for what cannot be found or read",
    )
    _add_json(wait)


def _add_wait_options(parser: argparse.ArgumentParser, timeout: str) -> None:
    parser.add_argument("--timeout", type=_seconds, metavar="SECONDS", help=timeout)
    interval = "between two looks (default 10)"
    parser.add_argument("--interval", type=_seconds, default=10.0, metavar="SECONDS", help=interval)


def _add_ci(commands: _Commands) -> None:
    ci = _add_command(
        commands,
        "ci",
        "ci.ci",
        "upload a build, test it, and wait for the result",
        "Upload a build, start a test or a test plan on it, and wait for the result.\n"
        "When interrupted, the upload is cancelled, or what was started is stopped.\n"
        "On GitHub Actions, outputs and a step summary are written too.",
    )
    ci.add_argument(
        "file", metavar="FILE", help="the build file, or a pattern that finds one file only"
    )
    _add_build_options(ci, "the build's name")
    _add_target(ci, "where to run: a deployment config of build storage")
    tags = "added to the runs, where --tags is for the build; may be repeated"
    ci.add_argument("--run-tags", help=tags, **_TAGS, dest="additional_tags")
    _add_start_options(ci)
    _add_wait_options(
        ci, "seconds to wait for the jobs once started; they go on, and the exit code is 3"
    )
    ci.add_argument("--junit", metavar="FILE", type=_path, help="write the results there as XML")
    _add_json(ci)


def _add_group(commands: _Commands, name: str, summary: str, description: str) -> _Commands:
    group = commands.add_parser(name, help=summary, description=description)
    return group.add_subparsers(dest="action", required=True, metavar="ACTION")


def _add_command(
    commands: _Commands, name: str, function: str, summary: str, description: str | None = None
) -> argparse.ArgumentParser:
    """Add a command; `function` is "module.function" in this package."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=description or f"{summary[0].upper()}{summary[1:]}.",
        epilog=_ENVIRONMENT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(parser=parser, function=function)
    return parser


def _add_json(parser: argparse._ActionsContainer, what: str = "one JSON object instead") -> None:
    parser.add_argument("--json", help=f"print {what}", **_FLAG)


def _add_rows_options(parser: argparse.ArgumentParser) -> None:
    limit = "so many at most (default 50 in a table, else all)"
    parser.add_argument("--limit", help=limit, **_number(1, 10**9))
    output_format = parser.add_mutually_exclusive_group()
    _add_json(output_format, "one JSON array instead")
    lines = "print JSON lines as they come: memory does not grow with their number"
    output_format.add_argument("--jsonl", help=lines, **_FLAG)


def _add_demo(commands: _Commands) -> None:
    demo = commands.add_parser(
        "demo",
        help="upload a build to a local nunu.ai and test it there; needs no key",
        description="Start a local nunu.ai, upload a build to it, check what arrived, and wait for "
        "a test plan on it.",
    )
    demo.set_defaults(function="demo.demo")
    demo.add_argument(
        "file", nargs="?", metavar="FILE", help="default: one made of 72 MB of random bytes"
    )


def _add_sandbox(commands: _Commands) -> None:
    sandbox = commands.add_parser(
        "sandbox",
        help="run a local nunu.ai until Ctrl-C or SIGTERM",
        description="Run a local nunu.ai and print the environment that leads to it.",
    )
    sandbox.set_defaults(function="serve.serve")
    sandbox.add_argument(
        "--env-file",
        metavar="FILE",
        type=_path,
        help="write the environment there instead, at once and only once it can be used; "
        "removed at the end",
    )
    samples = "begin with so many runs, and executions beside them"
    sandbox.add_argument("--sample-runs", help=samples, **_number(0, 100_000), default=0)
    sandbox.add_argument(
        "--dialect",
        type=str.upper,
        choices=("J", "M", "L", "N"),
        default="L",
        help="the date of its answers: J January 2026, M March, L the last pages without projects "
        "in their paths, N the newest (default L)",
    )
    port, storage_port = "of the API; 0 picks one", "of the storage; 0 picks one"
    sandbox.add_argument("--port", help=port, **_number(0, 65535, None), default=0)
    sandbox.add_argument("--storage-port", help=storage_port, **_number(0, 65535, None), default=0)
    sandbox.add_argument(
        "--directory",
        "--storage",
        metavar="DIR",
        type=_path,
        help="keep builds here; default: in memory, which grows with every build",
    )
    sandbox.add_argument(
        "--part-size",
        help="of a multipart upload (default 104857600)",
        **_number(1, 5 * 1024**3, "BYTES"),
        default=100 * 1024 * 1024,
    )
    sandbox.add_argument("--capacity", help="of build storage", **_number(1, 1024**5, "BYTES"))
