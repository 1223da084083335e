"""Runs, jobs and test plan executions; each computes its state from the time.

Runs and executions are small: they share what they have in common, and compute ids and times.
Rows are to be read only; the methods of the sandbox change them.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Literal

import attrs

from nunu_async.sandbox.world import (
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


@attrs.define(eq=False, kw_only=True, weakref_slot=False)
class Run:
    """One run; times are Unix seconds."""

    number: int
    """1 for the first run that was added."""
    test: MultiplayerTest
    config: DeploymentConfig
    script: Script
    created: float
    """When the run appears."""
    tags: tuple[str, ...] = ()
    build: Build | None = None
    initiator: Mapping[str, object]
    job: "Job" = attrs.field(init=False)
    """Set when the run is added to the history."""
    stopped: float | None = None
    given_id: str | None = None

    @property
    def run_id(self) -> str:
        """The id; 12 characters unless it was given."""
        return self.given_id or f"run{self.number:09d}"

    @property
    def job_id(self) -> str:
        """The id of the job."""
        return self.job.job_id

    @property
    def started(self) -> float:
        """When the run leaves INITIALIZING, unless it is stopped before."""
        return self.created + self.script.initialize_seconds

    @property
    def ended(self) -> float:
        """When the run is completed or stopped; infinity for an endless run."""
        if self.stopped is not None:
            return self.stopped
        return self.created + self.script.seconds

    @property
    def cleaned(self) -> float:
        """When the cleanup of the run has ended; a stopped run has none."""
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
class Order:
    """What a job is started with."""

    test: MultiplayerTest
    config: DeploymentConfig
    player_configs: Mapping[int, DeploymentConfig] = attrs.field(factory=dict)
    """By player number from 1; the other players have `config`."""
    build: Build | None = None
    tags: tuple[str, ...] = ()
    execution: "Execution | None" = None
    template_data: Mapping[str, object] | None = None
    """None when templates are off."""
    retries: int = 0
    initiator: Mapping[str, object]


@attrs.define(eq=False, kw_only=True)
class Job(Order):
    """A job: one run, or several by instances and retries."""

    job_id: str
    created: float
    runs: list[Run] = attrs.field(factory=list)
    """Oldest first, those that have not appeared yet included."""
    retried: list[Run] = attrs.field(factory=list)
    """Those of `runs` that are retries."""
    stopped: float | None = None

    @property
    def ended(self) -> float:
        """When the cleanup of the last run has ended."""
        if self.stopped is not None:
            return self.stopped
        return max([run.cleaned for run in self.runs], default=math.inf)

    @property
    def execution_id(self) -> str | None:
        """The id of the test plan execution, if it belongs to one."""
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
        """Count the retries that are not used up yet."""
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
    """Used only while there are no jobs."""
    build: Build | None = None
    started_by: str | None = None
    jobs: list[Job] = attrs.field(factory=list)
    given_id: str | None = None

    @property
    def execution_id(self) -> str:
        """The id."""
        return self.given_id or f"{_EXECUTION_PREFIX}{self.number:012x}"

    @property
    def dequeued(self) -> float:
        """When the first test leaves the queue; infinity when none does."""
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


def is_generated_id(text: str) -> bool:
    """Return whether an id has the form of those that the sandbox generates."""
    return _GENERATED.fullmatch(text) is not None


def job_id_of(number: int) -> str:
    """Build the id of a job whose first run has this number."""
    return f"{_JOB_PREFIX}{number:012x}"


def _tally_field(job: Job, now: float) -> str:
    status = job.status(now)
    if status == "QUEUED":
        return "queued"
    if status != "COMPLETED":
        return "running"
    fields = {"SUCCESS": "passed", "STOPPED": "stopped", "SKIPPED": "skipped"}
    return fields.get((job.result(now) or "").upper(), "failed")
