"""`nunu-async upload`: upload files with one client."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from collections.abc import Callable
from functools import partial

import attrs
from rich.filesize import decimal

from nunu_async.cli.display import Board
from nunu_async.cli.fields import fields_from
from nunu_async.cli.key import check_key
from nunu_async.cli.live import show
from nunu_async.cli.output import USAGE, count, echo_err, with_notes
from nunu_async.cli.patterns import expand
from nunu_async.cli.stdout import echo
from nunu_async.cli.threads import beside_the_loop
from nunu_async.client import NunuClient
from nunu_async.config import Timeouts
from nunu_async.errors import ConfigError, NunuError, SourceError
from nunu_async.upload.job import BuildFile, UploadedBuild, UploadResult
from nunu_async.upload.paths import composed, short_names
from nunu_async.upload.resume import KEPT
from nunu_async.upload.source import measure

# Ctrl-C takes at most ten seconds: for a pending response, then the cancel request.
TIMEOUTS = Timeouts(settle=3.0, cleanup=6.0)


@attrs.define
class Results:
    """The results of a command, keyed by file.

    Attributes:
        files: all files, in the order in which their results are printed.
    """

    as_json: bool
    files: list[str] = attrs.field(factory=list)
    built: dict[str, UploadedBuild] = attrs.field(factory=dict)
    failed: dict[str, BaseException] = attrs.field(factory=dict)

    @property
    def exit_code(self) -> int:
        """The exit code; 2 if nothing was uploaded and every error is a ConfigError."""
        if not self.failed:
            return 0
        misconfigured = all(isinstance(error, ConfigError) for error in self.failed.values())
        return USAGE if misconfigured and not self.built else 1

    async def tell(self) -> None:
        """Print one JSON object or a line per file.

        Results that cannot be written to standard output are printed to standard error.
        """
        if self.as_json:
            # ASCII, so that a file name that is not valid Unicode cannot make the JSON invalid.
            await echo(json.dumps(self._object()), is_json=True)
            return
        for file in self.files:
            if file in self.built:
                await echo(line_of(file, self.built[file]))
            elif file in self.failed:
                error = self.failed[file]
                has_name = isinstance(error, SourceError) and error.path == file
                echo_err(f"{'' if has_name else f'{file}: '}{words_of(error)}")

    def _object(self) -> dict[str, list[dict[str, object]]]:
        built = [file for file in self.files if file in self.built]
        return {
            "builds": [as_object(file, self.built[file]) for file in built],
            "failed": [
                {
                    "file": file,
                    "error": type(self.failed[file]).__name__,
                    "message": words_of(self.failed[file]),
                }
                for file in self.files
                if file in self.failed
            ],
        }


def line_of(file: str, build: UploadedBuild) -> str:
    """Return the line printed for an uploaded build."""
    verified = "" if build.verified is None else f", {build.verified} verified"
    return (
        f"{file} -> build {build.build_id} ({decimal(build.size)}, "
        f"{count(build.parts, 'part')}{verified}, {build.seconds:.1f} s)"
        f"{_orphan_warning(build.possible_orphans)}"
    )


def _orphan_warning(number: int) -> str:
    if not number:
        return ""
    answers = "its answer was" if number == 1 else "their answers were"
    return (
        f"; {count(number, 'more reservation')} may hold space on the server until the upload's "
        f"time is over, as {answers} lost"
    )


def as_object(file: str, build: UploadedBuild) -> dict[str, object]:
    """Return the JSON object of an uploaded build."""
    return {"file": file} | attrs.asdict(build) | {"seconds": round(build.seconds, 3)}


def words_of(error: BaseException) -> str:
    """Return the message for a file that was not uploaded."""
    if not isinstance(error, asyncio.CancelledError):
        kept = [note for note in getattr(error, "__notes__", ()) if KEPT in note]
        return "; ".join([str(error), *kept])
    # The notes say what happened on the server: the build may be complete anyway.
    return with_notes(error, "stopped")


def _check_files(
    arguments: argparse.Namespace, stopped: Callable[[], bool]
) -> tuple[dict[str, BuildFile], dict[str, int], Results]:
    """Find, measure and check every file (blocking).

    Returns uploads and sizes in bytes, both keyed by file, and the errors so far.
    """
    jobs: dict[str, BuildFile] = {}
    sizes: dict[str, int] = {}
    names, failed = expand(arguments.files, stopped)
    suffixes = short_names(names) if len(names) > 1 else [None]
    for file, suffix in zip(names, suffixes, strict=False):
        if stopped():
            break
        try:
            sizes[file] = measure(file)
            jobs[file] = job_for(arguments, file, suffix)
            jobs[file].request(os.path.basename(file), sizes[file])
        except NunuError as error:
            failed[file] = error
    files = list(dict.fromkeys([*names, *failed]))
    return jobs, sizes, Results(arguments.json, files, failed=failed)


async def upload(arguments: argparse.Namespace) -> int:
    """Upload every file; return the exit code.

    All files are checked before the first is sent: one wrong name among ten is reported at once,
    not after an hour.
    """
    try:
        jobs, sizes, results = await beside_the_loop(partial(_check_files, arguments))
    except asyncio.CancelledError as error:
        if arguments.json:
            failed: dict[str, BaseException] = dict.fromkeys(arguments.files, error)
            await Results(as_json=True, files=list(failed), failed=failed).tell()
        raise
    if results.failed:
        if arguments.json:  # JSON lists every file; text, only those to correct
            for file in results.files:
                results.failed.setdefault(file, NunuError("not sent, because others cannot be"))
        await results.tell()
        return USAGE
    try:
        check_key()
        client = client_for(arguments, api_concurrency=arguments.concurrency)
    except ConfigError as error:
        if arguments.json:
            results.failed = dict.fromkeys(results.files, error)
            await results.tell()
        else:
            echo_err(f"{error}")
        return USAGE
    async with client:
        await upload_all(client, jobs, Board(sizes), results)
    return results.exit_code


def client_for(arguments: argparse.Namespace, api_concurrency: int = 32) -> NunuClient:
    """Return a client for uploads, with the limits given as arguments."""
    return NunuClient(
        storage_concurrency=arguments.concurrency,
        max_bandwidth=arguments.max_bandwidth,
        api_concurrency=api_concurrency,
        timeout=TIMEOUTS,
    )


async def upload_all(
    client: NunuClient, jobs: dict[str, BuildFile], board: Board, results: Results
) -> None:
    """Upload files and print all results.

    A failed file does not stop the others. Finished builds are printed even after a cancellation.
    """
    labels = {id(job): file for file, job in jobs.items()}

    def note(result: UploadResult) -> None:
        file = labels[id(result.file)]
        if result.build is not None:
            results.built[file] = result.build
        elif result.error is not None:
            results.failed[file] = result.error
            if not isinstance(result.error, asyncio.CancelledError):
                board.give_up(file)

    try:
        async with show(board):
            await client.upload_builds(
                jobs.values(),
                on_progress=lambda job, event: board.note(labels[id(job)], event),
                on_result=note,
            )
    finally:
        for file in jobs:
            if file not in results.built:
                results.failed.setdefault(file, asyncio.CancelledError())
        await results.tell()


def job_for(arguments: argparse.Namespace, file: str, suffix: str | None = None) -> BuildFile:
    """Return the BuildFile for one file of the command line. Raises: InputError.

    With several files, the `suffix` makes the build's name unique.
    """
    name = arguments.name if suffix is None else f"{arguments.name} - {composed(suffix)}"
    return BuildFile(**fields_from(BuildFile, vars(arguments)) | {"path": file, "name": name})
