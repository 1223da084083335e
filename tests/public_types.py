"""A user's file that touches every public method; never run, only type-checked.

`mypy --strict --disallow-any-expr` refuses it as soon as an `Any` leaks out of a public signature.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from pathlib import Path

from nunu_async import (
    ApiError,
    BugOccurrence,
    Build,
    BuildDetails,
    BytesSent,
    Change,
    CompletedPart,
    DecodeError,
    FinishedRun,
    InitiateUpload,
    Job,
    JobRetries,
    JobRun,
    JobStatus,
    Listing,
    MultipartTicket,
    NunuClient,
    Page,
    Platform,
    QuotaExceeded,
    ResponseInfo,
    RetryPolicy,
    Run,
    RunDetails,
    RunFailed,
    RunOptions,
    RunResult,
    RunState,
    SinglePartTicket,
    StartedRun,
    StopResult,
    TestPlanExecution,
    Timeouts,
    UploadedBuild,
    UploadError,
    UploadEvent,
    VcsDetails,
    WaitTimeout,
)


def listen(event: UploadEvent) -> None:
    if isinstance(event, BytesSent):
        share: float = event.sent / event.size
        print(share)


async def listen_slowly(event: UploadEvent) -> None:
    print(event)


async def uploads(nunu: NunuClient, platform: Platform) -> None:
    build: UploadedBuild = await nunu.upload_build(
        Path("game.zip"),
        name="n",
        platform=platform,
        description="d",
        tags=["a"],
        multipart=None,
        auto_delete=True,
        deletion_policy="oldest",
        upload_timeout=60,
        details=BuildDetails(vcs=VcsDetails(branch="main")),
        concurrency=4,
        verify=True,
        resume=True,
        on_progress=listen,
    )
    await nunu.upload_build("game.zip", name="n", on_progress=listen_slowly)
    parts: int = build.parts
    verified: int | None = build.verified
    seconds: float = build.seconds
    print(parts, verified, seconds)
    ticket: SinglePartTicket | MultipartTicket = await nunu.builds.initiate_upload(
        InitiateUpload(name="n", file_name="f", file_size=1, platform="linux")
    )
    if isinstance(ticket, MultipartTicket):
        for url in await nunu.builds.get_upload_parts(ticket, [1]):
            address: str = url.url
            print(address)
    await nunu.builds.complete_upload(ticket, [CompletedPart(part_number=1, etag="x")])
    await nunu.builds.cancel_upload(ticket)
    found: Build = await nunu.builds.get("b")
    created: datetime | None = found.created_at
    print(created)


async def runs(nunu: NunuClient) -> None:
    rows: Listing[Run] = nunu.runs.list(state="running", tags=["a"], bugs=True)
    async for run in rows:
        state: RunState = run.state
        result: RunResult | None = run.result
        took: float | None = run.duration_ms
        print(state == RunState.COMPLETED, result, took, run.extra, run.to_dict())
    steps: AsyncIterator[Run] = rows
    first: Run = await anext(steps)
    print(first)
    async for page in rows.pages():
        total: int = page.pagination.total_count
        print(total)
    one: Page[Run] = await nunu.runs.list_page(page=1, page_size=20, job_id="j")
    response: ResponseInfo | None = one.response
    details: RunDetails = await nunu.runs.get("r")
    done: bool = details.is_terminal and details.succeeded
    for player in details.players:
        for step in player.steps:
            goal: str | None = step.test.goal if step.test is not None else None
            print(step.report, response, done, goal)
    bugs: list[BugOccurrence] = await nunu.runs.bugs("r")
    for bug in bugs:
        print(bug.severity)
    started: StartedRun = await nunu.runs.start(
        deployment_config_id="c",
        multiplayer_test_id="t",
        retries=1,
        instances=2,
        template_data={"a": 1},
        options=RunOptions(performance_monitoring=True),
    )
    stopped: StopResult = await nunu.runs.stop(started.job_ids)
    print(stopped.stopped, stopped.failed)
    async for execution in nunu.test_plan_executions.list(status="queued", sort_order="asc"):
        row: TestPlanExecution = execution
        passed: int = row.test_status.passed
        print(passed)
    await nunu.test_plan_executions.list_page(page=0)
    anything: object = await nunu.request("GET", "/jobs", params={"page": 1, "tags": ["a"]})
    print(anything)


def saw(change: Change[Run]) -> None:
    before: str | None = change.before
    print(change.id, before, change.after, change.row.result)


async def saw_slowly(change: Change[Job]) -> None:
    print(change.row.runs)


def began(started: StartedRun) -> None:
    print(started.job_ids)


async def waiting(nunu: NunuClient) -> None:
    run: Run = await nunu.wait_for_run("r", timeout=60, interval=5, on_change=saw)
    many: tuple[Run, ...] = await nunu.wait_for_runs(["r"], raise_on_failure=True)
    job: Job = await nunu.wait_for_job("j", on_change=saw_slowly)
    jobs: tuple[Job, ...] = await nunu.wait_for_jobs(("j", "k"))
    execution: TestPlanExecution = await nunu.wait_for_execution("e")
    executions: tuple[TestPlanExecution, ...] = await nunu.wait_for_executions(["e"])
    print(run, many, job.succeeded, jobs, execution, executions)
    async for one in nunu.runs_as_completed(["r"]):
        state: RunState = one.state
        print(state)
    async for other in nunu.jobs_as_completed(["j"]):
        status: JobStatus = other.status
        print(status)
    async for third in nunu.executions_as_completed(["e"], timeout=1):
        print(third.succeeded)
    finished: FinishedRun = await nunu.run_and_wait(
        deployment_config_id="c", test_plan_id="p", on_start=began, on_change=saw_slowly
    )
    print(finished.succeeded, finished.started.message)
    async for row in nunu.jobs.list(status="queued", tags=["a"]):
        runs: tuple[JobRun, ...] = row.runs
        print(runs)
    page: Page[Job] = await nunu.jobs.list_page(page=0)
    left: JobRetries | None = page.data[0].retries
    print(left, await nunu.jobs.get("j"))


async def main() -> None:
    async with NunuClient(
        "key",
        project_id="p",
        base_url="https://nunu.ai",
        timeout=Timeouts(call=10),
        retry=RetryPolicy(attempts=3),
        path_style="project",
    ) as nunu:
        try:
            await uploads(nunu, "linux")
            await runs(nunu)
            await waiting(nunu)
        except WaitTimeout as error:
            pending: Mapping[str, str | None] = error.pending
            print(pending, error.finished)
        except RunFailed as error:
            failed: tuple[str, ...] = error.failed
            print(failed)
        except QuotaExceeded as error:
            used: int | None = error.used
            print(used)
        except ApiError as error:
            status: int = error.status
            info: ResponseInfo = error.response
            print(status, info.request_id)
        except DecodeError as error:
            print(error.problems)
        except UploadError as error:
            cancelled: bool | None = error.cancelled
            print(cancelled)
    await nunu.close()
