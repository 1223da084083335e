"""`nunu-async ci`: upload a build, test it, wait, and tell the result to everybody who asks."""

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
from nunu_async.cli.display import show as show_upload
from nunu_async.cli.junit import junit_xml
from nunu_async.cli.key import check_key
from nunu_async.cli.output import count, tell
from nunu_async.cli.patterns import expand
from nunu_async.cli.rows import NOTHING, Column, cell, span
from nunu_async.cli.runs import MAYBE
from nunu_async.cli.standings import Standings, show
from nunu_async.cli.stdout import result
from nunu_async.cli.threads import beside_the_loop
from nunu_async.cli.upload import TIMEOUTS, as_object, job_for, line_of, send, words_of
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

__all__ = ["ci"]

_USAGE = 2
_MOST_NAMED = 20

_COLUMNS: tuple[Column[Verdict], ...] = (
    Column(title="TEST", text=lambda verdict: verdict.name, least=8, fair=24),
    Column(title="RESULT", text=lambda verdict: verdict.result),
    Column(title="DURATION", text=lambda verdict: span(_milliseconds(verdict))),
    Column(title="RUN", text=lambda verdict: verdict.run_id or NOTHING),
    Column(title="WHY", text=lambda verdict: verdict.brief, least=8, fair=40),
)


@attrs.define
class _Course:
    """What is to be done, and how far it came.

    Attributes:
        error: what ended it before all jobs were over, in words; None where nothing did.
        details: the runs that failed, by run id.
    """

    arguments: argparse.Namespace
    upload: BuildFile
    size: int
    standings: Standings[Job] = attrs.field(factory=lambda: Standings[Job]("job"))
    built: UploadedBuild | None = None
    started: StartedRun | None = None
    details: dict[str, RunDetails] = attrs.field(factory=dict)
    timed_out: bool = False
    error: str | None = None
    interrupted: bool = False

    @property
    def file(self) -> str:
        """The build file as it was typed."""
        return os.fspath(self.upload.path)

    @property
    def pending(self) -> dict[str, str | None]:
        """The last state seen of each job that is not over."""
        finished = self.standings.finished
        return {key: self.standings.state(key) for key in self.standings.ids if key not in finished}

    @property
    def succeeded(self) -> bool:
        """Whether every job was seen to succeed."""
        finished = self.standings.finished
        return bool(self.started and finished and not self.pending) and all(
            job.succeeded for job in finished.values()
        )

    @property
    def exit_code(self) -> int:
        """The exit code, unless a signal decides it."""
        if self.timed_out:
            return TIMED_OUT
        return 0 if self.succeeded else 1

    def verdicts(self) -> list[Verdict]:
        """Return what became of each job, or what kept there from being any."""
        if self.started is None and self.error is not None:
            stage = "upload" if self.built is None else "start"
            return [Verdict(job_id="", name=stage, kind="error", result="error", why=self.error)]
        lost = self.error is not None and not self.interrupted
        errors = dict.fromkeys(self.pending, self.error or "") if lost else {}
        return judge(self.standings.ids, self.standings.rows, details=self.details, errors=errors)

    def begun(self, started: StartedRun) -> None:
        """Take note of what was started."""
        self.started = started
        ids = started.job_ids or (started.multiplayer_run_id or "",)
        self.standings.expect(ids)
        execution = started.test_plan_execution_id
        plan = f", execution {cell(execution)}" if execution is not None else ""
        tell(f"nunu-async: started {count(len(ids), 'job')}{plan}: {_named(ids)}")

    def cut_short(self, error: asyncio.CancelledError) -> None:
        """Take note of a signal; the client has cleaned up already."""
        self.interrupted = True
        if self.built is None:
            self.error = words_of(error)
            tell(f"nunu-async: {self.file}: {self.error}")
            return
        if self.started is None:
            self.error = "interrupted; what was about to be started was stopped, if it began"
        elif self.pending:
            jobs, names = count(len(self.pending), "job"), _named(list(self.pending))
            self.error = f"interrupted; the server was asked to stop {jobs}: {names}"
        else:
            self.error = "interrupted once all jobs were over"
        tell(f"nunu-async: {self.error}")


async def ci(arguments: argparse.Namespace) -> int:
    """Upload, start, wait, and tell; return the exit code.

    All that can be wrong here is found before anything is sent. Results are written however far
    it came.
    """
    try:
        check_key()
        course = await beside_the_loop(lambda stopped: _plan(arguments, stopped))
        client = NunuClient(
            storage_concurrency=arguments.concurrency,
            max_bandwidth=arguments.max_bandwidth,
            timeout=TIMEOUTS,
        )
    except NunuError as error:
        tell(f"nunu-async: {error}")
        return _USAGE
    async with client:
        if arguments.junit is not None and not _write(arguments.junit, b""):
            return _USAGE
        try:
            await _go(client, course)
        except asyncio.CancelledError as error:
            course.cut_short(error)
            raise
        except NunuError as error:
            course.error = "; ".join([str(error), *getattr(error, "__notes__", ())])
            tell(f"nunu-async: {course.error}")
            _tell_how_to_go_on(course)
        finally:
            written = await _report(course)
    return course.exit_code if written else max(course.exit_code, 1)


def _plan(arguments: argparse.Namespace, stopped: Callable[[], bool]) -> _Course:
    """Check everything; blocks. Raises: SourceError, InputError."""
    files, failed = expand([arguments.file], stopped)
    for error in failed.values():
        raise error
    if len(files) != 1:
        found = ", ".join(files[:3])
        raise SourceError(arguments.file, f"must be one file, not {len(files)}: {found}")
    size = measure(files[0])
    upload = job_for(arguments, files[0])
    upload.request(os.path.basename(files[0]), size)
    StartRun(
        deployment_config_id=arguments.deployment_config,
        multiplayer_test_id=arguments.test,
        test_plan_id=arguments.test_plan,
        additional_tags=arguments.run_tags,
        retries=arguments.retries,
        instances=arguments.instances,
    )
    return _Course(arguments, upload, size)


async def _go(client: NunuClient, course: _Course) -> None:
    """Do it all. Raises: NunuError for what ends it before all jobs are over."""
    arguments, board = course.arguments, Board({course.file: course.size})
    async with show_upload(board):
        course.built = await send(client, course.upload, board.listener(course.file))
    tell(f"nunu-async: {line_of(course.file, course.built)}")
    try:
        async with show(course.standings):
            finished = await client.run_and_wait(
                deployment_config_id=arguments.deployment_config,
                multiplayer_test_id=arguments.test,
                test_plan_id=arguments.test_plan,
                build_id=course.built.build_id,
                additional_tags=arguments.run_tags,
                retries=arguments.retries,
                instances=arguments.instances,
                marker=arguments.marker,
                timeout=arguments.timeout,
                interval=arguments.interval,
                on_start=course.begun,
                on_change=course.standings.note,
                stop_on_cancel=True,
            )
    except WaitTimeout:
        course.timed_out = True
        tell(f"nunu-async: not over after {arguments.timeout:g} s: {some(course.pending)}")
        _tell_how_to_go_on(course)
    except NunuError as error:
        if course.started is None and may_have_acted(error):
            error.add_note(MAYBE)
        raise
    else:
        for key, job in zip(course.standings.ids, finished.jobs, strict=False):
            course.standings.settle(job, key)
    await _read_failed(client, course)


async def _read_failed(client: NunuClient, course: _Course) -> None:
    """Read the runs that failed: only they tell why."""

    async def read(run_id: str) -> None:
        try:
            course.details[run_id] = await client.runs.get(run_id)
        except NunuError as error:
            tell(f"nunu-async: cannot read why run {cell(run_id)} failed: {error}")

    async with asyncio.TaskGroup() as group:
        for job in course.standings.finished.values():
            run = None if job.succeeded else decisive_run(job)
            if run is not None:
                group.create_task(read(run.multiplayer_run_id))


def _tell_how_to_go_on(course: _Course) -> None:
    """Name the commands for what was started and is not over; nobody stops it otherwise."""
    if course.started is None:
        if course.built is not None:
            tell(f"nunu-async: the build is up: {course.built.build_id}")
        return
    names = _named(list(course.pending))
    if not names:
        return
    if not course.started.job_ids:
        tell(f"nunu-async: it goes on; `nunu-async wait run {names}` waits for it")
        return
    tell("nunu-async: what is not over goes on:")
    tell(f"nunu-async: `nunu-async wait job {names}` waits for it")
    tell(f"nunu-async: `nunu-async runs stop {names}` stops it")


def _named(ids: Sequence[str]) -> str:
    """Return ids as a shell takes them."""
    more = [f"... ({len(ids) - _MOST_NAMED} more)"] if len(ids) > _MOST_NAMED else []
    return " ".join([*(shlex.quote(cell(name)) for name in ids[:_MOST_NAMED]), *more])


async def _report(course: _Course) -> bool:
    """Tell the results to everybody; return whether everything that was asked for is written."""
    arguments, verdicts = course.arguments, course.verdicts()
    # Files first: they are there even if a signal ends the printing.
    written = arguments.junit is None or _write(
        arguments.junit, junit_xml(verdicts, name=arguments.name)
    )
    outputs, build = _outputs(course, verdicts), _build_words(course)
    written = github.publish(os.environ, outputs, verdicts, build=build) and written
    if arguments.json:
        written = await result(json.dumps(_object(course, verdicts)), is_json=True) and written
    elif course.started is not None:
        written = await tell_columns(verdicts, _COLUMNS) and written
        passed = sum(verdict.kind == "passed" for verdict in verdicts)
        tell(f"nunu-async: {passed} of {count(len(verdicts), 'job')} succeeded")
    return written


def _build_words(course: _Course) -> str:
    if course.built is None:
        return f"{course.arguments.name}: not uploaded"
    return f"{course.arguments.name} ({course.built.build_id})"


def _outputs(course: _Course, verdicts: Sequence[Verdict]) -> dict[str, str]:
    """Return the outputs of a GitHub step; `failed` is what is over and no success."""
    started = course.started
    counts = Counter(verdict.kind for verdict in verdicts) if started is not None else Counter()
    total = len(course.standings.ids)
    outcome = "success" if course.succeeded else "failure"
    return {
        "build_id": course.built.build_id if course.built is not None else "",
        "job_ids": " ".join(started.job_ids) if started is not None else "",
        "test_plan_execution_id": (started and started.test_plan_execution_id) or "",
        "result": "timeout" if course.timed_out else outcome,
        "passed": str(counts["passed"]),
        "failed": str(total - counts["passed"] - counts["pending"]),
        "total": str(total),
    }


def _object(course: _Course, verdicts: Sequence[Verdict]) -> dict[str, object]:
    finished = course.standings.finished
    return {
        "succeeded": course.succeeded,
        "timed_out": course.timed_out,
        "build": as_object(course.file, course.built) if course.built is not None else None,
        "started": course.started.to_dict() if course.started is not None else None,
        "results": [finished[key].to_dict() for key in course.standings.ids if key in finished],
        "reasons": {v.job_id: v.why for v in verdicts if v.job_id in finished and v.why},
        "pending": course.pending,
        "error": course.error,
    }


def _write(path: str, content: bytes) -> bool:
    """Write a file, or tell why not; an empty one before, so that no older one is taken for it."""
    try:
        with open(path, "wb") as file:
            file.write(content)
    except (OSError, ValueError) as error:
        tell(f"nunu-async: cannot write --junit {path}: {getattr(error, 'strerror', error)}")
        return False
    return True


def _milliseconds(verdict: Verdict) -> float | None:
    return None if verdict.seconds is None else verdict.seconds * 1000
