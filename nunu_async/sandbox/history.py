"""The runs, jobs and executions of one project; starts and stops them.

Pure: no clock. Everything that depends on time takes `now` in Unix seconds.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

import attrs

from nunu_async.sandbox import rows
from nunu_async.sandbox.register import Register, Selection
from nunu_async.sandbox.rows import Execution, Job, Run
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


@attrs.frozen(kw_only=True)
class RunFilter:
    """Which runs to list; None matches all."""

    state: str | None = None
    """`running` includes those that are initializing."""
    test_id: str | None = None
    job_id: str | None = None
    execution_id: str | None = None
    kind: str | None = None
    tags: frozenset[str] = frozenset()
    has_bugs: bool | None = None


@attrs.frozen(kw_only=True)
class JobFilter:
    """Which jobs to list; None matches all."""

    status: str | None = None
    """`running` includes all that are neither queued nor completed."""
    execution_id: str | None = None
    test_id: str | None = None
    tags: frozenset[str] = frozenset()


@attrs.frozen(kw_only=True)
class ExecutionFilter:
    """Which executions to list, and in which order; None matches all."""

    plan_id: str | None = None
    build_id: str | None = None
    status: str | None = None
    sort_by: str = "start_time"
    is_ascending: bool = False


@attrs.frozen(kw_only=True)
class Order:
    """What to start: the parameters of one job."""

    test: MultiplayerTest
    config: DeploymentConfig
    player_configs: Mapping[int, DeploymentConfig] = attrs.field(factory=dict)
    build: Build | None = None
    tags: tuple[str, ...] = ()
    execution: Execution | None = None
    template_data: Mapping[str, object] | None = None
    retries: int = 0
    instances: int = 1
    initiator: Mapping[str, object]


class History:
    """What was started in one project."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.scripts: deque[Script] = deque()
        self.tests: list[MultiplayerTest] = list(TESTS)
        self.test_plans: list[TestPlan] = list(TEST_PLANS)
        self.deployment_configs: list[DeploymentConfig] = list(DEPLOYMENT_CONFIGS)
        self._runs: Register[Run] = Register()
        self._executions: Register[Execution] = Register()
        self._by_number: list[Run] = []
        self._by_given_id: dict[str, Run] = {}
        self._execution_count = 0
        self._execution_ids: set[str] = set()
        self._jobs: dict[str, Job] = {}
        # A run that was added without a job stands in for its job, to save memory.
        self._job_rows: Register[Run | Job] = Register()

    @property
    def next_run(self) -> int:
        """The number for the next run."""
        return len(self._by_number) + 1

    @property
    def next_execution(self) -> int:
        """The number for the next execution."""
        return self._execution_count + 1

    def add_run(self, run: Run, now: float, *, job_id: str | None = None) -> None:
        """Add a run, to the job `job_id` if given, which is created unless it exists.

        Raises: ValueError when an id is taken.
        """
        if run.given_id is not None:
            if run.given_id in self._by_given_id or rows.run_number(run.given_id) is not None:
                raise ValueError(f"run id {run.given_id} is taken")
            self._by_given_id[run.given_id] = run
        if job_id is None:
            self._job_rows.add(run, now)
        else:
            self._add_to_job(run, job_id, now)
        self._by_number.append(run)
        self._runs.add(run, now)

    def attach(self, run: Run, execution: Execution) -> None:
        """Move the job of a run to an execution."""
        job = run.job or self._make_job(run)
        if job.execution is not execution:
            if job.execution is not None and job.execution.jobs:
                job.execution.jobs.remove(job)
            self._touch_job(job)
            job.execution = execution
            _add_to_execution(job, execution)
        self._runs.touch(run)
        self._touch_job(job)

    def add_execution(self, execution: Execution, now: float) -> None:
        """Add an execution. Raises: ValueError when its id is taken."""
        given_id = execution.given_id
        if given_id is not None:
            if given_id in self._execution_ids or rows.is_numbered_execution(given_id):
                raise ValueError(f"execution id {given_id} is taken")
            self._execution_ids.add(given_id)
        self._execution_count += 1
        self._executions.add(execution, now)

    def set_script(self, run: Run, script: Script) -> None:
        """Replace the script of a run, which keeps its creation time."""
        run.script = script
        self._runs.touch(run)
        if run.job is None:
            self._job_rows.touch(run)
        else:
            self._touch_job(run.job)

    def start(self, order: Order, now: float) -> Job:
        """Start a job with all its runs, later retries included."""
        job = Job(
            job_id=rows.job_id_of(self.next_run),
            test=order.test,
            created=now,
            config=order.config,
            player_configs=order.player_configs,
            build=order.build,
            tags=order.tags,
            execution=order.execution,
            template_data=order.template_data,
            retries=order.retries,
            initiator=order.initiator,
        )
        self._jobs[job.job_id] = job
        retries_left = order.retries
        for _ in range(order.instances):
            run = self._start_run(job, now, now)
            while retries_left and run.script.result.upper() in _RETRIED:
                retries_left -= 1
                run = self._start_run(job, run.ended, now)
                job.retried.append(run)
        self._job_rows.add(job, now)
        if order.execution is not None:
            _add_to_execution(job, order.execution)
            self._executions.touch(order.execution)
        return job

    def stop(self, job: Job, now: float) -> bool:
        """Stop a job at once; return False if it is completed already."""
        if job.status(now) == "COMPLETED":
            return False
        self._jobs[job.job_id] = job  # until now, it may have been known by its run only
        for run in job.runs:
            run.job = job
            if run.created > now:
                self._runs.drop(run)
            elif run.ended > now:
                run.stopped = now
                self._runs.touch(run)
        job.runs[:] = [run for run in job.runs if run.created <= now]
        job.retried[:] = [run for run in job.retried if run.created <= now]
        job.stopped = now
        self._touch_job(job)
        return True

    def runs(self, now: float) -> Sequence[Run]:
        """List the runs that have appeared, oldest first."""
        visible = self._runs.visible(now)
        return tuple(visible.rows[: visible.total])

    def executions(self, now: float) -> Sequence[Execution]:
        """List the executions that have appeared, oldest first."""
        visible = self._executions.visible(now)
        return tuple(visible.rows[: visible.total])

    def find_run(self, run_id: str, now: float) -> Run | None:
        """Find a run by its id, if it has appeared."""
        run = self._by_given_id.get(run_id)
        number = rows.run_number(run_id)
        if number is not None and 0 < number <= len(self._by_number):
            run = self._by_number[number - 1]
        if run is None or run.run_id != run_id or run.created > now:
            return None
        # A run that had not appeared when its job was stopped never appears.
        return None if run.job is not None and run not in run.job.runs else run

    def find_job(self, job_id: str, now: float) -> Job | None:
        """Find a job by its id, if it has appeared."""
        job = self._jobs.get(job_id)
        if job is not None:
            return job if job.created <= now else None
        number = rows.job_number(job_id)
        if number is None or not 0 < number <= len(self._by_number):
            return None
        run = self._by_number[number - 1]
        if run.job is not None or run.created > now:
            return None
        return job_of(run)

    def list_runs(self, filters: RunFilter, now: float) -> Selection[Run]:
        """Select runs, newest first."""
        if filters == RunFilter():
            return self._runs.visible(now)
        if filters.job_id is not None:
            job = self.find_job(filters.job_id, now)
            runs = () if job is None else sorted(job.visible(now), key=lambda run: run.created)
            found = _matching(runs, filters, now)
            return Selection(found, len(found))
        return self._runs.select(filters, now, lambda rows: _matching(rows, filters, now))

    def list_jobs(self, filters: JobFilter, now: float) -> Selection[Run | Job]:
        """Select the rows of jobs, newest first; `job_of` returns the job of each."""
        if filters == JobFilter():
            return self._job_rows.visible(now)
        return self._job_rows.select(filters, now, lambda rows: _matching_jobs(rows, filters, now))

    def list_executions(self, filters: ExecutionFilter, now: float) -> Selection[Execution]:
        """Select executions in the requested order; those without the sort name are greatest."""
        if filters == ExecutionFilter():
            return self._executions.visible(now)
        return self._executions.select(
            filters, now, lambda rows: _matching_executions(rows, filters, now)
        )

    def _start_run(self, job: Job, start: float, now: float) -> Run:
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
            job=job,
        )
        self._by_number.append(run)
        job.runs.append(run)
        self._runs.add(run, now)
        return run

    def _add_to_job(self, run: Run, job_id: str, now: float) -> None:
        if job_id not in self._jobs and rows.job_number(job_id) is None:
            run.job = self._jobs[job_id] = _new_job(run, job_id)
            self._job_rows.add(run.job, now)
            return
        run.job = self._known_job(job_id)
        run.job.runs.append(run)
        self._touch_job(run.job)

    def _known_job(self, job_id: str) -> Job:
        if job_id in self._jobs:
            return self._jobs[job_id]
        number = rows.job_number(job_id) or 0
        if not 0 < number <= len(self._by_number) or self._by_number[number - 1].job is not None:
            raise ValueError(f"job id {job_id} is taken")
        return self._make_job(self._by_number[number - 1])

    def _make_job(self, run: Run) -> Job:
        run.job = self._jobs[run.job_id] = job_of(run)
        return run.job

    def _touch_job(self, job: Job) -> None:
        self._job_rows.touch(job)
        if job.execution is not None:
            self._executions.touch(job.execution)


def job_of(row: Run | Job) -> Job:
    """Return the job of a row; a run without a job gets a new one each time."""
    if isinstance(row, Job):
        return row
    return row.job or _new_job(row, row.job_id)


def _add_to_execution(job: Job, execution: Execution) -> None:
    if execution.jobs is None:
        execution.jobs = []
    execution.jobs.append(job)


def _new_job(run: Run, job_id: str) -> Job:
    return Job(
        job_id=job_id,
        test=run.test,
        created=run.created,
        config=run.config,
        build=run.build,
        tags=run.tags,
        runs=[run],
        stopped=run.stopped,
        initiator=run.initiator,
    )


def _matching(runs: Iterable[Run], filters: RunFilter, now: float) -> list[Run]:
    found = list(runs)
    if filters.execution_id is not None:
        execution_id = filters.execution_id
        found = [
            run
            for run in found
            if run.job is not None
            and run.job.execution is not None
            and run.job.execution.execution_id == execution_id
        ]
    if filters.test_id is not None:
        found = [run for run in found if run.test.id == filters.test_id]
    if filters.kind is not None:
        found = [run for run in found if run.test.kind == filters.kind]
    if filters.tags:
        found = [run for run in found if filters.tags.issubset(run.tags)]
    if filters.state is not None:
        is_completed = filters.state == "completed"
        found = [run for run in found if (now >= run.ended) == is_completed]
    if filters.has_bugs is not None:
        found = [run for run in found if (run.bug_count(now) > 0) == filters.has_bugs]
    return found


def _matching_jobs(
    job_rows: Iterable[Run | Job], filters: JobFilter, now: float
) -> list[Run | Job]:
    found = list(job_rows)
    if filters.execution_id is not None:
        execution_id = filters.execution_id
        found = [row for row in found if _execution_id(row) == execution_id]
    if filters.test_id is not None:
        found = [row for row in found if row.test.id == filters.test_id]
    if filters.tags:
        found = [row for row in found if filters.tags.issubset(row.tags)]
    if filters.status is not None:
        found = [row for row in found if _status_to_filter_by(row, now) == filters.status]
    return found


def _execution_id(row: Run | Job) -> str | None:
    job = row if isinstance(row, Job) else row.job
    return None if job is None or job.execution is None else job.execution.execution_id


def _status_to_filter_by(row: Run | Job, now: float) -> str:
    if isinstance(row, Run):
        if row.job is None:  # a run that stands in for its job was never queued
            return "completed" if now >= row.cleaned else "running"
        row = row.job
    if now >= row.ended:
        return "completed"
    return "running" if any(run.created <= now for run in row.runs) else "queued"


def _matching_executions(
    executions: Iterable[Execution], filters: ExecutionFilter, now: float
) -> list[Execution]:
    found = list(executions)
    if filters.plan_id is not None:
        found = [row for row in found if row.plan is not None and row.plan.id == filters.plan_id]
    if filters.build_id is not None:
        found = [row for row in found if row.build is not None and row.build.id == filters.build_id]
    if filters.status is not None:
        found = [row for row in found if row.status(now) == filters.status]
    # From here on in the reverse of the order shown; of equal rows, the newest is shown first.
    if filters.sort_by == "test_plan_name":
        found.sort(key=_plan_name, reverse=filters.is_ascending)
    elif filters.sort_by == "build_name":
        found.sort(key=_build_name, reverse=filters.is_ascending)
    elif filters.is_ascending:
        found.reverse()
    return found


def _plan_name(execution: Execution) -> tuple[bool, str]:
    return (True, "") if execution.plan is None else (False, execution.plan.name)


def _build_name(execution: Execution) -> tuple[bool, str]:
    return (True, "") if execution.build is None else (False, execution.build.name)
