"""`nunu-async ci`: upload a build, test it, wait, and report the result."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shlex
from collections import Counter
from collections.abc import Callable, Sequence

import attrs

from nunu_async.cli import github
from nunu_async.cli.display import Board
from nunu_async.cli.fields import fields_from
from nunu_async.cli.junit import junit_xml
from nunu_async.cli.key import check_key
from nunu_async.cli.live import show
from nunu_async.cli.output import USAGE, count, echo_err, echo_lost, usage_error, with_notes
from nunu_async.cli.patterns import expand
from nunu_async.cli.rows import NOTHING, Column, cell, span
from nunu_async.cli.runs import MAYBE
from nunu_async.cli.standings import Standings
from nunu_async.cli.stdout import echo
from nunu_async.cli.threads import beside_the_loop
from nunu_async.cli.upload import as_object, client_for, job_for, line_of, words_of
from nunu_async.cli.verdict import Verdict, decisive_run, judge
from nunu_async.cli.wait import TIMED_OUT, some, tell_columns
from nunu_async.client import NunuClient
from nunu_async.core.retry import may_have_acted
from nunu_async.errors import NunuError, SourceError, WaitTimeout
from nunu_async.models.jobs import Job
from nunu_async.models.run_requests import StartRun
from nunu_async.models.runs import RunDetails, StartedRun
from nunu_async.upload.job import BuildFile, UploadedBuild
from nunu_async.upload.source import measure

_MAX_IDS = 20

_COLUMNS: tuple[Column[Verdict], ...] = (
    Column(title="TEST", text=lambda verdict: verdict.name, least=8),
    Column(title="RESULT", text=lambda verdict: verdict.result),
    Column(title="DURATION", text=lambda verdict: span(verdict.milliseconds)),
    Column(title="RUN", text=lambda verdict: verdict.run_id or NOTHING),
    Column(title="WHY", text=lambda verdict: verdict.brief, least=8),
)


@attrs.define
class _CiState:
    """The input and progress of one `ci` command.

    Attributes:
        error: message of the error that ended the command before all jobs finished, or None.
        details: details of the failed runs, keyed by run id.
    """

    arguments: argparse.Namespace
    upload: BuildFile
    size: int
    start: StartRun
    standings: Standings[Job] = attrs.field(factory=lambda: Standings[Job]("job"))
    built: UploadedBuild | None = None
    started: StartedRun | None = None
    details: dict[str, RunDetails] = attrs.field(factory=dict)
    timed_out: bool = False
    error: str | None = None
    interrupted: bool = False

    @property
    def file(self) -> str:
        """The build file as given on the command line."""
        return os.fspath(self.upload.path)

    @property
    def pending(self) -> dict[str, str | None]:
        """The last known state of each non-terminal job, keyed by job id."""
        finished = self.standings.finished
        return {key: self.standings.state(key) for key in self.standings.ids if key not in finished}

    @property
    def succeeded(self) -> bool:
        """Whether every job is known to have succeeded."""
        finished = self.standings.finished
        is_over = bool(self.started and finished and not self.pending)
        return is_over and all(job.succeeded for job in finished.values())

    def verdicts(self) -> list[Verdict]:
        """Return one verdict per job, or one for the error if no job was started."""
        if self.started is None and self.error is not None:
            stage = "upload" if self.built is None else "start"
            return [Verdict(job_id="", name=stage, kind="error", result="error", why=self.error)]
        wait_failed = self.error is not None and not self.interrupted
        errors = dict.fromkeys(self.pending, self.error or "") if wait_failed else {}
        return judge(self.standings.ids, self.standings.rows, details=self.details, errors=errors)

    def note_started(self, started: StartedRun) -> None:
        """Record and print the started jobs."""
        self.started = started
        ids = started.job_ids or (started.multiplayer_run_id or "",)
        self.standings.expect(ids)
        execution = started.test_plan_execution_id
        plan = f", execution {cell(execution)}" if execution is not None else ""
        echo_err(f"started {count(len(ids), 'job')}{plan}: {_quoted(ids)}")

    def note_interrupted(self, error: asyncio.CancelledError) -> None:
        """Record and print a cancellation; the client has cleaned up already."""
        self.interrupted = True
        if self.built is None:
            self.error = words_of(error)
            echo_err(f"{self.file}: {self.error}")
            return
        if self.started is None:
            self.error = "interrupted; what was about to be started was stopped, if it began"
        elif self.pending:
            jobs, ids = count(len(self.pending), "job"), _quoted(list(self.pending))
            self.error = f"interrupted; the server was asked to stop {jobs}: {ids}"
        else:
            self.error = "interrupted once all jobs were over"
        echo_err(f"{self.error}")


async def ci(arguments: argparse.Namespace) -> int:
    """Upload a build, test it and report; return the exit code.

    Local errors are found before the first request. Reports are written even after a failure.
    """
    try:
        check_key()
        state = await beside_the_loop(lambda stopped: _prepare(arguments, stopped))
        client = client_for(arguments)
    except NunuError as error:
        return usage_error(error)
    async with client:
        # Empty the file first: an old report must not be mistaken for this one.
        if arguments.junit is not None and not _write(arguments.junit, b""):
            return USAGE
        try:
            await _upload_and_test(client, state)
        except asyncio.CancelledError as error:
            state.note_interrupted(error)
            raise
        except NunuError as error:
            state.error = with_notes(error)
            echo_err(f"{state.error}")
            _print_next_steps(state)
        finally:
            await _report(state)
    if state.timed_out:
        return TIMED_OUT
    return 0 if state.succeeded else 1


def _prepare(arguments: argparse.Namespace, stopped: Callable[[], bool]) -> _CiState:
    """Find the file and check all arguments (blocking). Raises: SourceError, InputError."""
    files, failed = expand([arguments.file], stopped)
    for error in failed.values():
        raise error
    if len(files) != 1:
        names = ", ".join(files[:3])
        raise SourceError(arguments.file, f"must be one file, not {len(files)}: {names}")
    size = measure(files[0])
    upload = job_for(arguments, files[0])
    upload.request(os.path.basename(files[0]), size)
    # `--name` names the build, not the run.
    start = StartRun(**fields_from(StartRun, vars(arguments)) | {"name": None})
    return _CiState(arguments, upload, size, start)


async def _upload_and_test(client: NunuClient, state: _CiState) -> None:
    """Upload, start the jobs and wait for them. Raises: NunuError, but not on a wait timeout."""
    arguments, board = state.arguments, Board({state.file: state.size})
    async with show(board):
        state.built = await client.upload_build(
            **attrs.asdict(state.upload, recurse=False), on_progress=board.listener(state.file)
        )
    echo_err(f"{line_of(state.file, state.built)}")
    start = attrs.evolve(state.start, build_id=state.built.build_id)
    try:
        async with show(state.standings):
            finished = await client.run_and_wait(
                **attrs.asdict(start, recurse=False),
                marker=arguments.marker,
                timeout=arguments.timeout,
                interval=arguments.interval,
                on_start=state.note_started,
                on_change=state.standings.note,
                stop_on_cancel=True,
            )
    except WaitTimeout:
        state.timed_out = True
        echo_err(f"not over after {arguments.timeout:g} s: {some(state.pending)}")
        _print_next_steps(state)
    except NunuError as error:
        if state.started is None and may_have_acted(error):
            error.add_note(MAYBE)
        raise
    else:
        for key, job in zip(state.standings.ids, finished.jobs, strict=False):
            state.standings.settle(job, key)
    await _read_failed(client, state)


async def _read_failed(client: NunuClient, state: _CiState) -> None:
    """Fetch details of the failed runs: a job does not say why it failed."""

    async def read(run_id: str) -> None:
        try:
            state.details[run_id] = await client.runs.get(run_id)
        except NunuError as error:
            echo_err(f"cannot read why run {cell(run_id)} failed: {error}")

    async with asyncio.TaskGroup() as group:
        for job in state.standings.finished.values():
            run = None if job.succeeded else decisive_run(job)
            if run is not None:
                group.create_task(read(run.multiplayer_run_id))


def _print_next_steps(state: _CiState) -> None:
    """Print commands to wait for or stop the pending jobs, which this command leaves running."""
    if state.started is None:
        if state.built is not None:
            echo_err(f"the build is up: {state.built.build_id}")
        return
    ids = _quoted(list(state.pending))
    if not ids:
        return
    if not state.started.job_ids:
        echo_err(f"it goes on; `nunu-async wait run {ids}` waits for it")
        return
    echo_err("what is not over goes on:")
    echo_err(f"`nunu-async wait job {ids}` waits for it")
    echo_err(f"`nunu-async runs stop {ids}` stops it")


def _quoted(ids: Sequence[str]) -> str:
    """Return at most `_MAX_IDS` ids, quoted for a shell."""
    more = [f"... ({len(ids) - _MAX_IDS} more)"] if len(ids) > _MAX_IDS else []
    return " ".join([*(shlex.quote(cell(key)) for key in ids[:_MAX_IDS]), *more])


async def _report(state: _CiState) -> None:
    """Write all requested reports."""
    arguments, verdicts = state.arguments, state.verdicts()
    # Write files first: a signal may interrupt printing.
    if arguments.junit is not None:
        _write(arguments.junit, junit_xml(verdicts, name=arguments.name))
    github.publish(os.environ, _outputs(state, verdicts), verdicts, build=_build_label(state))
    if arguments.json:
        await echo(json.dumps(_json_object(state, verdicts)), is_json=True)
    elif state.started is not None:
        await tell_columns(verdicts, _COLUMNS)
        passed = sum(verdict.kind == "passed" for verdict in verdicts)
        echo_err(f"{passed} of {count(len(verdicts), 'job')} succeeded")


def _build_label(state: _CiState) -> str:
    if state.built is None:
        return f"{state.arguments.name}: not uploaded"
    return f"{state.arguments.name} ({state.built.build_id})"


def _outputs(state: _CiState, verdicts: Sequence[Verdict]) -> dict[str, str]:
    """Return the GitHub step outputs; `failed` counts jobs neither passed nor pending."""
    started = state.started
    counts = Counter(verdict.kind for verdict in verdicts) if started is not None else Counter()
    total = len(state.standings.ids)
    conclusion = "success" if state.succeeded else "failure"
    return {
        "build_id": state.built.build_id if state.built is not None else "",
        "job_ids": " ".join(started.job_ids) if started is not None else "",
        "test_plan_execution_id": (started and started.test_plan_execution_id) or "",
        "result": "timeout" if state.timed_out else conclusion,
        "passed": str(counts["passed"]),
        "failed": str(total - counts["passed"] - counts["pending"]),
        "total": str(total),
    }


def _json_object(state: _CiState, verdicts: Sequence[Verdict]) -> dict[str, object]:
    finished = state.standings.finished
    return {
        "succeeded": state.succeeded,
        "timed_out": state.timed_out,
        "build": as_object(state.file, state.built) if state.built is not None else None,
        "started": state.started.to_dict() if state.started is not None else None,
        "results": [finished[key].to_dict() for key in state.standings.ids if key in finished],
        "reasons": {v.job_id: v.why for v in verdicts if v.job_id in finished and v.why},
        "pending": state.pending,
        "error": state.error,
    }


def _write(path: str, content: bytes) -> bool:
    """Write the --junit file; on failure print a message and return False."""
    try:
        with open(path, "wb") as file:
            file.write(content)
    except (OSError, ValueError) as error:
        echo_lost(f"cannot write --junit {path}: {getattr(error, 'strerror', error)}")
        return False
    return True
