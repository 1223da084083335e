"""Hold the runs, jobs and executions of one project, and start and stop them.

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

_RETRIED = ("ERROR", "TIMEOUT")  # a stopped run is stopped with its whole job here


@attrs.frozen(kw_only=True)
class RunFilter:
    """Which runs to list; None asks nothing."""

    state: str | None = None
    """`running` takes those that initialize too."""
    test_id: str | None = None
    job_id: str | None = None
    execution_id: str | None = None
    kind: str | None = None
    tags: frozenset[str] = frozenset()
    has_bugs: bool | None = None


@attrs.frozen(kw_only=True)
class JobFilter:
    """Which jobs to list; None asks nothing."""

    status: str | None = None
    """`running` takes all that are neither queued nor completed."""
    execution_id: str | None = None
    test_id: str | None = None
    tags: frozenset[str] = frozenset()


@attrs.frozen(kw_only=True)
class ExecutionFilter:
    """Which executions to list, and in which order; None asks nothing."""

    plan_id: str | None = None
    build_id: str | None = None
    status: str | None = None
    sort_by: str = "start_time"
    is_ascending: bool = False


@attrs.frozen(kw_only=True)
class Order:
    """What one job is to do."""

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
        self._numbered: list[Run] = []
        self._named: dict[str, Run] = {}
        self._execution_count = 0
        self._execution_ids: set[str] = set()
        self._jobs: dict[str, Job] = {}
        # A run that was added without a job stands for it, so that a long history stays light.
        self._job_rows: Register[Run | Job] = Register()

    @property
    def next_run(self) -> int:
        """The number for the next run."""
        return len(self._numbered) + 1

    @property
    def next_execution(self) -> int:
        """The number for the next execution."""
        return self._execution_count + 1

    def add_run(self, run: Run, now: float, *, job_id: str | None = None) -> None:
        """Keep a run; `job_id` names a job that is there, or a new one for it.

        Raises: ValueError when an id cannot be chosen.
        """
        if run.given_id is not None:
            if run.given_id in self._named or rows.run_number(run.given_id) is not None:
                raise ValueError(f"run id {run.given_id} is taken")
            self._named[run.given_id] = run
        if job_id is None:
            self._job_rows.add(run, now)
        else:
            self._enter(run, job_id, now)
        self._numbered.append(run)
        self._runs.add(run, now)

    def attach(self, run: Run, execution: Execution) -> None:
        """Make a run's job a test of an execution, and of no other any more."""
        job = run.job or self._promote(run)
        if job.execution is not execution:
            if job.execution is not None and job.execution.jobs:
                job.execution.jobs.remove(job)
            self._touch_job(job)
            job.execution = execution
            _put(job, execution)
        self._runs.touch(run)
        self._touch_job(job)

    def add_execution(self, execution: Execution, now: float) -> None:
        """Keep an execution. Raises: ValueError when its id cannot be chosen."""
        given = execution.given_id
        if given is not None:
            if given in self._execution_ids or rows.is_numbered_execution(given):
                raise ValueError(f"execution id {given} is taken")
            self._execution_ids.add(given)
        self._execution_count += 1
        self._executions.add(execution, now)

    def set_script(self, run: Run, script: Script) -> None:
        """Give a run another script; the time of its creation stays."""
        run.script = script
        self._runs.touch(run)
        if run.job is None:
            self._job_rows.touch(run)
        else:
            self._touch_job(run.job)

    def start(self, order: Order, now: float) -> Job:
        """Start a job with all its runs, those included that will be retries."""
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
        left = order.retries
        for _ in range(order.instances):
            run = self._start_run(job, now, now)
            while left and run.script.result.upper() in _RETRIED:
                left -= 1
                run = self._start_run(job, run.ended, now)
                job.retried.append(run)
        self._job_rows.add(job, now)
        if order.execution is not None:
            _put(job, order.execution)
            self._executions.touch(order.execution)
        return job

    def stop(self, job: Job, now: float) -> bool:
        """Stop a job at once; false when it is completed already."""
        if job.status(now) == "COMPLETED":
            return False
        self._jobs[job.job_id] = job  # one that no more was known of than its run, until now
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
        """Find a run that has appeared by its id."""
        run = self._named.get(run_id)
        number = rows.run_number(run_id)
        if number is not None and 0 < number <= len(self._numbered):
            run = self._numbered[number - 1]
        if run is None or run.run_id != run_id or run.created > now:
            return None
        # A run that was to come when its job was stopped never came.
        return None if run.job is not None and run not in run.job.runs else run

    def find_job(self, job_id: str, now: float) -> Job | None:
        """Find a job by its id."""
        job = self._jobs.get(job_id)
        if job is not None:
            return job if job.created <= now else None
        number = rows.job_number(job_id)
        if number is None or not 0 < number <= len(self._numbered):
            return None
        run = self._numbered[number - 1]
        if run.job is not None or run.created > now:
            return None
        return job_of(run)

    def list_runs(self, wanted: RunFilter, now: float) -> Selection[Run]:
        """Select runs, newest first."""
        if wanted == RunFilter():
            return self._runs.visible(now)
        if wanted.job_id is not None:
            job = self.find_job(wanted.job_id, now)
            few = () if job is None else sorted(job.visible(now), key=lambda run: run.created)
            found = _matching(few, wanted, now)
            return Selection(found, len(found))
        return self._runs.select(wanted, now, lambda rows: _matching(rows, wanted, now))

    def list_jobs(self, wanted: JobFilter, now: float) -> Selection[Run | Job]:
        """Select jobs, newest first; `job_of` makes a job of each."""
        if wanted == JobFilter():
            return self._job_rows.visible(now)
        return self._job_rows.select(wanted, now, lambda rows: _matching_jobs(rows, wanted, now))

    def list_executions(self, wanted: ExecutionFilter, now: float) -> Selection[Execution]:
        """Select executions in the order wanted; those without the name to sort by are greatest."""
        if wanted == ExecutionFilter():
            return self._executions.visible(now)
        return self._executions.select(wanted, now, lambda rows: _sorted(rows, wanted, now))

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
        self._numbered.append(run)
        job.runs.append(run)
        self._runs.add(run, now)
        return run

    def _enter(self, run: Run, job_id: str, now: float) -> None:
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
        if not 0 < number <= len(self._numbered) or self._numbered[number - 1].job is not None:
            raise ValueError(f"job id {job_id} is taken")
        return self._promote(self._numbered[number - 1])

    def _promote(self, run: Run) -> Job:
        run.job = self._jobs[run.job_id] = job_of(run)
        return run.job

    def _touch_job(self, job: Job) -> None:
        self._job_rows.touch(job)
        if job.execution is not None:
            self._executions.touch(job.execution)


def job_of(row: Run | Job) -> Job:
    """Take the job of a row; one that is nothing but its run is made anew each time."""
    if isinstance(row, Job):
        return row
    return row.job or _new_job(row, row.job_id)


def _put(job: Job, execution: Execution) -> None:
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


def _matching(some: Iterable[Run], wanted: RunFilter, now: float) -> list[Run]:
    found = list(some)
    if wanted.execution_id is not None:
        execution_id = wanted.execution_id
        found = [
            run
            for run in found
            if run.job is not None
            and run.job.execution is not None
            and run.job.execution.execution_id == execution_id
        ]
    if wanted.test_id is not None:
        found = [run for run in found if run.test.id == wanted.test_id]
    if wanted.kind is not None:
        found = [run for run in found if run.test.kind == wanted.kind]
    if wanted.tags:
        found = [run for run in found if wanted.tags.issubset(run.tags)]
    if wanted.state is not None:
        is_wanted = wanted.state == "completed"
        found = [run for run in found if (now >= run.ended) == is_wanted]
    if wanted.has_bugs is not None:
        found = [run for run in found if (run.bug_count(now) > 0) == wanted.has_bugs]
    return found


def _matching_jobs(some: Iterable[Run | Job], wanted: JobFilter, now: float) -> list[Run | Job]:
    found = list(some)
    if wanted.execution_id is not None:
        execution_id = wanted.execution_id
        found = [row for row in found if _execution_id(row) == execution_id]
    if wanted.test_id is not None:
        found = [row for row in found if row.test.id == wanted.test_id]
    if wanted.tags:
        found = [row for row in found if wanted.tags.issubset(row.tags)]
    if wanted.status is not None:
        found = [row for row in found if _phase(row, now) == wanted.status]
    return found


def _execution_id(row: Run | Job) -> str | None:
    job = row if isinstance(row, Job) else row.job
    return None if job is None or job.execution is None else job.execution.execution_id


def _phase(row: Run | Job, now: float) -> str:
    if isinstance(row, Run):
        if row.job is None:  # a job that is nothing but its run was never queued
            return "completed" if now >= row.cleaned else "running"
        row = row.job
    if now >= row.ended:
        return "completed"
    return "running" if any(run.created <= now for run in row.runs) else "queued"


def _sorted(some: Iterable[Execution], wanted: ExecutionFilter, now: float) -> list[Execution]:
    found = list(some)
    if wanted.plan_id is not None:
        found = [one for one in found if one.plan is not None and one.plan.id == wanted.plan_id]
    if wanted.build_id is not None:
        found = [one for one in found if one.build is not None and one.build.id == wanted.build_id]
    if wanted.status is not None:
        found = [one for one in found if one.status(now) == wanted.status]
    # From here on in the reverse of the order shown. Of equals the newest is shown first.
    if wanted.sort_by == "test_plan_name":
        found.sort(key=_plan_name, reverse=wanted.is_ascending)
    elif wanted.sort_by == "build_name":
        found.sort(key=_build_name, reverse=wanted.is_ascending)
    elif wanted.is_ascending:
        found.reverse()
    return found


def _plan_name(one: Execution) -> tuple[bool, str]:
    return (True, "") if one.plan is None else (False, one.plan.name)


def _build_name(one: Execution) -> tuple[bool, str]:
    return (True, "") if one.build is None else (False, one.build.name)
