"""Runs, jobs and test plan executions, whose states are computed from the time.

Pure: uses no clock. Time-dependent methods take `now` in Unix seconds. Treat rows as read-only;
change them through `Sandbox` methods. To save memory, runs and executions share common data and
compute their ids and times.
"""

import math
import re
from collections import Counter, deque
from collections.abc import Callable, Container, Iterable, Mapping
from operator import attrgetter
from typing import Any, Literal, TypeVar

import attrs

from nunu_async.sandbox.fixtures import (
    DEPLOYMENT_CONFIGS,
    TEST_PLANS,
    TESTS,
    Build,
    DeploymentConfig,
    MultiplayerTest,
    Outcome,
    Script,
    TestPlan,
)

RunState = Literal["INITIALIZING", "RUNNING", "COMPLETED"]
JobStatus = Literal["QUEUED", "STARTING", "RUNNING", "CLEANING_UP", "COMPLETED"]
ExecutionStatus = Literal["queued", "in_progress", "completed"]

_JOB_PREFIX = "a0b00000-0000-4000-8000-"
_EXECUTION_PREFIX = "e0ec0000-0000-4000-8000-"
_GENERATED = re.compile(rf"run[0-9]{{9,}}|({_JOB_PREFIX}|{_EXECUTION_PREFIX}).*", re.ASCII)
_RETRIED = ("ERROR", "TIMEOUT")  # not STOPPED: in the sandbox, stopping a run stops its job


@attrs.define(eq=False, kw_only=True, weakref_slot=False)
class Launch:
    """The fields that a job and its runs have in common."""

    test: MultiplayerTest
    config: DeploymentConfig
    build: Build | None = None
    tags: tuple[str, ...] = ()
    initiator: Mapping[str, object]

    def shared(self) -> dict[str, Any]:
        """Return only the fields of `Launch`, to create a run for a job or vice versa."""
        return {field.name: getattr(self, field.name) for field in attrs.fields(Launch)}


@attrs.define(eq=False, kw_only=True, weakref_slot=False)
class Run(Launch):
    """One run; times are Unix seconds."""

    number: int
    """1 for the first run that was added."""
    script: Script
    created: float
    """When the run appears."""
    job: "Job" = attrs.field(init=False)
    """Set when the run is added to the history."""
    stopped: float | None = None
    given_id: str | None = None

    @property
    def run_id(self) -> str:
        """The run id; 12 characters unless `given_id` is set."""
        return self.given_id or f"run{self.number:09d}"

    @property
    def job_id(self) -> str:
        """The id of the job."""
        return self.job.job_id

    @property
    def started(self) -> float:
        """When the run leaves INITIALIZING, unless it is stopped earlier."""
        return self.created + self.script.initialize_seconds

    @property
    def ended(self) -> float:
        """When the run is completed or stopped; infinity for an endless run."""
        if self.stopped is not None:
            return self.stopped
        return self.created + self.script.seconds

    @property
    def cleaned(self) -> float:
        """When the cleanup of the run ends; a stopped run has no cleanup."""
        if self.stopped is not None:
            return self.stopped
        return self.ended + self.script.cleanup_seconds

    def state(self, now: float) -> RunState:
        """Return the state, in upper case."""
        if now >= self.ended:
            return "COMPLETED"
        return "RUNNING" if now >= self.started else "INITIALIZING"

    def result(self, now: float) -> str | None:
        """Return the result, in upper case; None until completed."""
        if now < self.ended:
            return None
        return self.script.result if self.stopped is None else "STOPPED"

    def bug_count(self, now: float) -> int:
        """Count the bugs found so far."""
        return len(self.script.bugs) if self.stopped is None and now >= self.ended else 0


@attrs.define(eq=False, kw_only=True)
class Order(Launch):
    """The settings that a job is started with."""

    player_configs: Mapping[int, DeploymentConfig] = attrs.field(factory=dict)
    """Keyed by 1-based player number; other players use `config`."""
    execution: "Execution | None" = None
    template_data: Mapping[str, object] | None = None
    """None when templating is disabled."""
    retries: int = 0


@attrs.define(eq=False, kw_only=True)
class Job(Order):
    """A job of one run, or of several due to instances and retries."""

    job_id: str
    created: float
    runs: list[Run] = attrs.field(factory=list)
    """Oldest first, including runs that have not appeared yet."""
    retried: list[Run] = attrs.field(factory=list)
    """The subset of `runs` that are retries."""
    stopped: float | None = None

    @property
    def ended(self) -> float:
        """When the cleanup of the last run ends, or when the job was stopped."""
        if self.stopped is not None:
            return self.stopped
        return max([run.cleaned for run in self.runs], default=math.inf)

    @property
    def execution_id(self) -> str | None:
        """The id of the job's test plan execution, if any."""
        return None if self.execution is None else self.execution.execution_id

    def visible(self, now: float) -> list[Run]:
        """List the runs that have appeared."""
        return [run for run in self.runs if run.created <= now]

    def status(self, now: float) -> JobStatus:
        """Return the status."""
        if now >= self.ended:
            return "COMPLETED"
        states = [run.state(now) for run in self.visible(now)]
        if not states:
            return "QUEUED"
        if all(run.ended <= now for run in self.runs):
            return "CLEANING_UP"
        return "STARTING" if set(states) == {"INITIALIZING"} else "RUNNING"

    def retries_left(self, now: float) -> int:
        """Count the retries that have not been used yet."""
        return self.retries - sum(run.created <= now for run in self.retried)

    def result(self, now: float) -> str | None:
        """Return the result of the last run; None until the job is completed."""
        if now < self.ended:
            return None
        visible = self.visible(now)
        return visible[-1].result(now) if visible else "STOPPED"


@attrs.define(eq=False, kw_only=True, weakref_slot=False)
class Execution:
    """One test plan execution; times are Unix seconds."""

    number: int
    """1 for the first execution that was added."""
    plan: TestPlan | None
    created: float
    """When the execution appears; shown as its start time once it has left the queue."""
    outcome: Outcome
    """Used only while the execution has no jobs."""
    build: Build | None = None
    started_by: str | None = None
    jobs: list[Job] = attrs.field(factory=list)
    given_id: str | None = None

    @property
    def execution_id(self) -> str:
        """The execution id; generated unless `given_id` is set."""
        return self.given_id or f"{_EXECUTION_PREFIX}{self.number:012x}"

    @property
    def dequeued(self) -> float:
        """When the first test leaves the queue; infinity if no test does."""
        if self.jobs:
            runs = [run for job in self.jobs for run in job.runs]
            return min((run.created for run in runs), default=math.inf)
        return self.created + self.outcome.queue_seconds

    @property
    def ended(self) -> float:
        """When the last test ends."""
        if self.jobs:
            return max(job.ended for job in self.jobs)
        return self.created + self.outcome.queue_seconds + self.outcome.run_seconds

    @property
    def total(self) -> int:
        """Count the tests."""
        return len(self.jobs) if self.jobs else self.outcome.total

    def status(self, now: float) -> ExecutionStatus:
        """Return the status, in lower case as documented."""
        if now >= self.ended:
            return "completed"
        return "in_progress" if now >= self.dequeued else "queued"

    def tally(self, now: float) -> Counter[str]:
        """Count the tests that are passed, failed, stopped, skipped, queued and running."""
        if self.jobs:
            return Counter(_tally_field(job, now) for job in self.jobs)
        remaining = self.outcome.total
        if now < self.dequeued:
            return Counter(queued=remaining)
        done = remaining if now >= self.ended else 0
        if 0 < self.outcome.run_seconds < math.inf and not done:
            done = int(remaining * (now - self.dequeued) / self.outcome.run_seconds)
        counts: Counter[str] = Counter()
        for name in ("passed", "failed", "stopped", "skipped"):
            counts[name] = min(getattr(self.outcome, name), done)
            done -= counts[name]
            remaining -= counts[name]
        counts["running"] = min(remaining, 1)
        counts["queued"] = remaining - counts["running"]
        return counts


RowT = TypeVar("RowT", Run, Job, Execution)
Criterion = tuple[Callable[[RowT, float, Any], object], Any]
"""A function `(row, now, wanted)` that returns whether a row matches, and the `wanted` value."""


class History:
    """All runs, jobs and executions of one project.

    Every list call sorts and filters again: fast enough for tens of thousands of rows.
    """

    def __init__(self, script: Script) -> None:
        self.script = script
        self.scripts: deque[Script] = deque()
        self.tests: list[MultiplayerTest] = list(TESTS)
        self.test_plans: list[TestPlan] = list(TEST_PLANS)
        self.deployment_configs: list[DeploymentConfig] = list(DEPLOYMENT_CONFIGS)
        self._runs: dict[str, Run] = {}
        self._jobs: dict[str, Job] = {}
        self._executions: list[Execution] = []
        self._run_count = 0

    @property
    def next_run(self) -> int:
        """The number for the next run."""
        return self._run_count + 1

    @property
    def next_execution(self) -> int:
        """The number for the next execution."""
        return len(self._executions) + 1

    def add_run(self, run: Run, *, job_id: str | None = None) -> None:
        """Add a run to the job `job_id`, created if missing; None creates a new job.

        Raises: ValueError when an id is taken.
        """
        _check_free("run", run.given_id, self._runs)
        if job_id not in self._jobs:
            _check_free("job", job_id, ())
            job_id = job_id or f"{_JOB_PREFIX}{run.number:012x}"
            self._jobs[job_id] = Job(job_id=job_id, created=run.created, **run.shared())
        self._add(run, self._jobs[job_id])

    def attach(self, run: Run, execution: Execution) -> None:
        """Move the run's job to an execution."""
        job = run.job
        if job.execution is not execution:
            if job.execution is not None:
                job.execution.jobs.remove(job)
            job.execution = execution
            execution.jobs.append(job)

    def add_execution(self, execution: Execution) -> None:
        """Add an execution. Raises: ValueError when its id is taken."""
        if execution.given_id is not None:
            taken = [row.given_id for row in self._executions]
            _check_free("execution", execution.given_id, taken)
        self._executions.append(execution)

    def start(self, order: Order, now: float, *, instances: int = 1) -> Job:
        """Start a job and create all its runs, including later retries."""
        job_id = f"{_JOB_PREFIX}{self.next_run:012x}"
        job = Job(job_id=job_id, created=now, **attrs.asdict(order, recurse=False))
        self._jobs[job_id] = job
        retries_left = order.retries
        for _ in range(instances):
            run = self._start_run(job, now)
            while retries_left and run.script.result.upper() in _RETRIED:
                retries_left -= 1
                run = self._start_run(job, run.ended)
                job.retried.append(run)
        if order.execution is not None:
            order.execution.jobs.append(job)
        return job

    def stop(self, job: Job, now: float) -> bool:
        """Stop a job immediately; return False if it is already completed."""
        if job.status(now) == "COMPLETED":
            return False
        for run in job.runs:
            if run.created > now:
                del self._runs[run.run_id]
            elif run.ended > now:
                run.stopped = now
        job.runs[:] = job.visible(now)
        job.retried[:] = [run for run in job.retried if run.created <= now]
        job.stopped = now
        return True

    def find_run(self, run_id: str, now: float) -> Run | None:
        """Find a run by its id, if it has appeared."""
        run = self._runs.get(run_id)
        return run if run is not None and run.created <= now else None

    def find_job(self, job_id: str, now: float) -> Job | None:
        """Find a job by its id, if it has appeared."""
        job = self._jobs.get(job_id)
        return job if job is not None and job.created <= now else None

    def runs(self, now: float, *criteria: Criterion[Run]) -> list[Run]:
        """List the runs that have appeared and match all criteria, newest first."""
        return _newest_first(self._runs.values(), now, criteria)

    def jobs(self, now: float, *criteria: Criterion[Job]) -> list[Job]:
        """List the jobs that have appeared and match all criteria, newest first."""
        return _newest_first(self._jobs.values(), now, criteria)

    def executions(self, now: float, *criteria: Criterion[Execution]) -> list[Execution]:
        """List the executions that have appeared and match all criteria, newest first."""
        return _newest_first(self._executions, now, criteria)

    def _start_run(self, job: Job, start: float) -> Run:
        script = self.scripts.popleft() if self.scripts else job.test.script or self.script
        created = start + script.queue_seconds
        run = Run(number=self.next_run, script=script, created=created, **job.shared())
        self._add(run, job)
        return run

    def _add(self, run: Run, job: Job) -> None:
        run.job = job
        job.runs.append(run)
        self._run_count += 1
        self._runs[run.run_id] = run


def _newest_first(
    known: Iterable[RowT], now: float, criteria: Iterable[Criterion[RowT]]
) -> list[RowT]:
    found = sorted([row for row in known if row.created <= now], key=attrgetter("created"))
    for matches, wanted in criteria:
        found = [row for row in found if matches(row, now, wanted)]
    found.reverse()
    return found


def _check_free(what: str, given_id: str | None, taken: Container[str | None]) -> None:
    if given_id is not None and (given_id in taken or _GENERATED.fullmatch(given_id)):
        raise ValueError(f"{what} id {given_id} is taken")


def _tally_field(job: Job, now: float) -> str:
    status = job.status(now)
    if status == "QUEUED":
        return "queued"
    if status != "COMPLETED":
        return "running"
    fields = {"SUCCESS": "passed", "STOPPED": "stopped", "SKIPPED": "skipped"}
    return fields.get((job.result(now) or "").upper(), "failed")
