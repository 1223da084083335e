"""The runs, jobs and executions of one project; starts and stops them.

Pure: no clock. Everything that depends on time takes `now` in Unix seconds. Every list is sorted
and filtered anew: that is fast enough for tens of thousands of rows.
"""

from collections import deque
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import TypeVar

import attrs

from nunu_async.sandbox import rows
from nunu_async.sandbox.rows import Execution, Job, Order, Run
from nunu_async.sandbox.world import (
    DEPLOYMENT_CONFIGS,
    TEST_PLANS,
    TESTS,
    Build,
    DeploymentConfig,
    MultiplayerTest,
    Script,
    TestPlan,
)

_RETRIED = ("ERROR", "TIMEOUT")  # not STOPPED: stopping a run stops its whole job here
_JOB_STATUSES = {"QUEUED": "queued", "COMPLETED": "completed"}
"""By which jobs are filtered; those of any other status are `running`."""

RowT = TypeVar("RowT", Run, Job, Execution)


class History:
    """What was started in one project."""

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
        """Add a run, to the job `job_id` if given, which is created unless it exists.

        Raises: ValueError when an id is taken.
        """
        if run.given_id is not None and (
            run.given_id in self._runs or rows.is_generated_id(run.given_id)
        ):
            raise ValueError(f"run id {run.given_id} is taken")
        if job_id is None:
            job_id = rows.job_id_of(run.number)
        elif job_id not in self._jobs and rows.is_generated_id(job_id):
            raise ValueError(f"job id {job_id} is taken")
        if job_id not in self._jobs:
            self._jobs[job_id] = Job(
                job_id=job_id,
                test=run.test,
                created=run.created,
                config=run.config,
                build=run.build,
                tags=run.tags,
                initiator=run.initiator,
            )
        self._add(run, self._jobs[job_id])

    def attach(self, run: Run, execution: Execution) -> None:
        """Move the job of a run to an execution."""
        job = run.job
        if job.execution is not execution:
            if job.execution is not None:
                job.execution.jobs.remove(job)
            job.execution = execution
            execution.jobs.append(job)

    def add_execution(self, execution: Execution) -> None:
        """Add an execution. Raises: ValueError when its id is taken."""
        given_id = execution.given_id
        if given_id is not None and (
            rows.is_generated_id(given_id)
            or any(row.given_id == given_id for row in self._executions)
        ):
            raise ValueError(f"execution id {given_id} is taken")
        self._executions.append(execution)

    def start(self, order: Order, now: float, *, instances: int = 1) -> Job:
        """Start a job with all its runs, later retries included."""
        job = Job(
            job_id=rows.job_id_of(self.next_run),
            created=now,
            **attrs.asdict(order, recurse=False),
        )
        self._jobs[job.job_id] = job
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
        """Stop a job at once; return False if it is completed already."""
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

    def runs(self, now: float) -> list[Run]:
        """List the runs that have appeared, oldest first."""
        return _appeared(self._runs.values(), now)

    def executions(self, now: float) -> list[Execution]:
        """List the executions that have appeared, oldest first."""
        return _appeared(self._executions, now)

    def find_run(self, run_id: str, now: float) -> Run | None:
        """Find a run by its id, if it has appeared."""
        run = self._runs.get(run_id)
        return run if run is not None and run.created <= now else None

    def find_job(self, job_id: str, now: float) -> Job | None:
        """Find a job by its id, if it has appeared."""
        job = self._jobs.get(job_id)
        return job if job is not None and job.created <= now else None

    def list_runs(
        self,
        now: float,
        *,
        state: str | None = None,
        test_id: str | None = None,
        job_id: str | None = None,
        execution_id: str | None = None,
        kind: str | None = None,
        tags: frozenset[str] = frozenset(),
        has_bugs: bool | None = None,
    ) -> list[Run]:
        """List runs, newest first; None matches all.

        The state `running` includes those that are initializing.
        """
        return _matching(
            self.runs(now)[::-1],
            (state, lambda run: "completed" if now >= run.ended else "running"),
            (test_id, lambda run: run.test.id),
            (job_id, lambda run: run.job_id),
            (execution_id, lambda run: run.job.execution_id),
            (kind, lambda run: run.test.kind),
            (True, lambda run: tags.issubset(run.tags)),
            (has_bugs, lambda run: run.bug_count(now) > 0),
        )

    def list_jobs(
        self,
        now: float,
        *,
        status: str | None = None,
        execution_id: str | None = None,
        test_id: str | None = None,
        tags: frozenset[str] = frozenset(),
    ) -> list[Job]:
        """List jobs, newest first; None matches all.

        The status `running` includes all that are neither queued nor completed.
        """
        return _matching(
            _appeared(self._jobs.values(), now)[::-1],
            (status, lambda job: _JOB_STATUSES.get(job.status(now), "running")),
            (execution_id, lambda job: job.execution_id),
            (test_id, lambda job: job.test.id),
            (True, lambda job: tags.issubset(job.tags)),
        )

    def list_executions(
        self,
        now: float,
        *,
        plan_id: str | None = None,
        build_id: str | None = None,
        status: str | None = None,
        sort_by: str = "start_time",
        is_ascending: bool = False,
    ) -> list[Execution]:
        """List executions in the requested order, of equal ones the newest first; None matches all.

        Those without the name to sort by are greatest.
        """
        found = _matching(
            self.executions(now)[::-1],
            (plan_id, lambda row: row.plan and row.plan.id),
            (build_id, lambda row: row.build and row.build.id),
            (status, lambda row: row.status(now)),
        )
        if sort_by == "test_plan_name":
            found.sort(key=lambda row: _name_key(row.plan), reverse=not is_ascending)
        elif sort_by == "build_name":
            found.sort(key=lambda row: _name_key(row.build), reverse=not is_ascending)
        elif is_ascending:
            found.reverse()
        return found

    def _start_run(self, job: Job, start: float) -> Run:
        script = self.scripts.popleft() if self.scripts else job.test.script or self.script
        run = Run(
            number=self.next_run,
            test=job.test,
            config=job.config,
            script=script,
            created=start + script.queue_seconds,
            tags=job.tags,
            build=job.build,
            initiator=job.initiator,
        )
        self._add(run, job)
        return run

    def _add(self, run: Run, job: Job) -> None:
        run.job = job
        job.runs.append(run)
        self._run_count += 1
        self._runs[run.run_id] = run


def _appeared(known: Iterable[RowT], now: float) -> list[RowT]:
    return sorted([row for row in known if row.created <= now], key=attrgetter("created"))


def _matching(found: list[RowT], *filters: tuple[object, Callable[[RowT], object]]) -> list[RowT]:
    for wanted, value_of in filters:
        if wanted is not None:
            found = [row for row in found if value_of(row) == wanted]
    return found


def _name_key(named: TestPlan | Build | None) -> tuple[bool, str]:
    return (True, "") if named is None else (False, named.name)
