"""The resources that can be waited for, and the operations that poll them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Literal

from nunu_async.endpoints.jobs import Jobs
from nunu_async.endpoints.runs import Runs
from nunu_async.endpoints.test_plan_executions import TestPlanExecutions
from nunu_async.errors import NotFound
from nunu_async.models.jobs import Job, JobRun
from nunu_async.models.page import Page
from nunu_async.models.runs import Run
from nunu_async.models.test_plan_executions import TestPlanExecution
from nunu_async.models.vocab import JobStatus
from nunu_async.polling.round import PollSource
from nunu_async.polling.schedule import fold

__all__ = ["execution_kind", "job_kind", "job_of", "run_kind"]

_PAGE_SIZE = 100


def execution_kind(executions: TestPlanExecutions) -> PollSource[TestPlanExecution]:
    """Describe executions: polled by lists alone, as the API has no operation to read one."""

    def pages(
        status: Literal["completed", "in_progress", "queued"],
    ) -> Callable[[int], Awaitable[Page[TestPlanExecution]]]:
        return lambda page: executions.list_page(
            status=status,
            sort_by="start_time",
            sort_order="desc",
            page=page,
            page_size=_PAGE_SIZE,
            lenient=True,
        )

    return PollSource(
        name="execution",
        key=lambda row: row.id,
        state=lambda row: str(row.status),
        moment=lambda row: row.started_at,
        active=(pages("queued"), pages("in_progress")),
        done=pages("completed"),
        path="/test-plan-executions",
    )


def run_kind(runs: Runs) -> PollSource[Run]:
    """Describe runs."""

    def pages(state: Literal["running", "completed"]) -> Callable[[int], Awaitable[Page[Run]]]:
        return lambda page: runs.list_page(
            state=state, page=page, page_size=_PAGE_SIZE, lenient=True
        )

    return PollSource(
        name="run",
        key=lambda row: row.multiplayer_run_id,
        state=lambda row: str(row.state),
        moment=lambda row: row.created_at,
        active=(pages("running"),),
        done=pages("completed"),
        path="/runs",
        is_settled=lambda row: row.result is not None,
        get=runs.get,
    )


def job_kind(jobs: Jobs, runs: Runs) -> PollSource[Job]:
    """Describe jobs."""

    def pages(
        status: Literal["queued", "running", "completed"],
    ) -> Callable[[int], Awaitable[Page[Job]]]:
        return lambda page: jobs.list_page(
            status=status, page=page, page_size=_PAGE_SIZE, lenient=True
        )

    async def get(job_id: str) -> Job:
        try:
            return await jobs.get(job_id)
        except NotFound as error:
            # Servers from before the job operations can still list the runs of a job.
            page = await runs.list_page(job_id=job_id, page_size=_PAGE_SIZE)
            rows = [run for run in page.data if run.job_id and fold(run.job_id) == fold(job_id)]
            if not rows:
                raise error from None
            return job_of(job_id, rows)

    return PollSource(
        name="job",
        key=lambda row: row.job_id,
        state=lambda row: str(row.status),
        moment=lambda row: row.created_at,
        active=(pages("queued"), pages("running")),
        done=pages("completed"),
        path="/jobs",
        is_settled=lambda row: all(run.result is not None for run in row.runs),
        get=get,
    )


def job_of(job_id: str, rows: Iterable[Run]) -> Job:
    """Build a job from all of its runs, one at least; its `runs` are oldest first."""
    runs = sorted(rows, key=lambda run: run.created_at)
    is_terminal = all(run.is_terminal for run in runs)
    ends = [run.completed_at for run in runs if run.completed_at is not None]
    return Job(
        job_id=job_id,
        status=JobStatus.COMPLETED if is_terminal else JobStatus.RUNNING,
        created_at=runs[0].created_at,
        completed_at=max(ends, default=None) if is_terminal else None,
        project_id=runs[0].project_id,
        multiplayer_test_id=runs[0].test.id,
        test_name=runs[0].test.name,
        build_id=runs[0].build.id if runs[0].build else None,
        tags=runs[0].tags,
        runs=tuple(
            JobRun(
                multiplayer_run_id=run.multiplayer_run_id,
                state=run.state,
                result=run.result,
                started_at=run.started_at,
                completed_at=run.completed_at,
                players=len(run.players),
            )
            for run in runs
        ),
    )
