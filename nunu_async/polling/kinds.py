"""The resources that can be waited for, and the operations that poll them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TypeVar

from nunu_async.endpoints.jobs import Jobs
from nunu_async.endpoints.runs import Runs
from nunu_async.endpoints.test_plan_executions import TestPlanExecutions
from nunu_async.errors import NotFound
from nunu_async.models.jobs import Job, JobRun
from nunu_async.models.page import Page
from nunu_async.models.runs import Run
from nunu_async.models.test_plan_executions import TestPlanExecution
from nunu_async.models.vocab import JobStatus
from nunu_async.polling.round import PollSource, Read
from nunu_async.polling.schedule import fold
from nunu_async.polling.subscription import Pollable

R = TypeVar("R", bound=Pollable)

_PAGE_SIZE = 100


def _pages(list_page: Callable[..., Awaitable[Page[R]]], **filters: str) -> Read[R]:
    """Return a function that reads one page of a list and skips rows that cannot be decoded."""
    return lambda page: list_page(page=page, page_size=_PAGE_SIZE, lenient=True, **filters)


def execution_kind(executions: TestPlanExecutions) -> PollSource[TestPlanExecution]:
    """Describe executions: polled through lists only, as the API cannot read a single one."""
    newest_first = partial(executions.list_page, sort_by="start_time", sort_order="desc")
    return PollSource(
        name="execution",
        key=lambda row: row.id,
        state=lambda row: str(row.status),
        moment=lambda row: row.started_at,
        active=(
            _pages(newest_first, status="queued"),
            _pages(newest_first, status="in_progress"),
        ),
        done=_pages(newest_first, status="completed"),
        path="/test-plan-executions",
    )


def run_kind(runs: Runs) -> PollSource[Run]:
    """Describe runs."""
    return PollSource(
        name="run",
        key=lambda row: row.multiplayer_run_id,
        state=lambda row: str(row.state),
        moment=lambda row: row.created_at,
        active=(_pages(runs.list_page, state="running"),),
        done=_pages(runs.list_page, state="completed"),
        path="/runs",
        is_settled=lambda row: row.result is not None,
        get=runs.get,
    )


def job_kind(jobs: Jobs, runs: Runs) -> PollSource[Job]:
    """Describe jobs."""

    async def get(job_id: str) -> Job:
        try:
            return await jobs.get(job_id)
        except NotFound as error:
            # Servers without the job operations can still list the runs of a job.
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
        active=(_pages(jobs.list_page, status="queued"), _pages(jobs.list_page, status="running")),
        done=_pages(jobs.list_page, status="completed"),
        path="/jobs",
        is_settled=lambda row: all(run.result is not None for run in row.runs),
        get=get,
    )


def job_of(job_id: str, rows: Iterable[Run]) -> Job:
    """Build a job from all of its runs (at least one); `Job.runs` is sorted oldest first."""
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
