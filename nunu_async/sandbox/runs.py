"""The API operations that read runs, jobs and test plan executions, or stop jobs."""

from collections.abc import Callable

from aiohttp import web

from nunu_async.sandbox.fixtures import Build, TestPlan
from nunu_async.sandbox.history import Execution, Job, Run
from nunu_async.sandbox.http import ApiRequest, HttpError
from nunu_async.sandbox.lists import Filter, has_tags, page_response, read_criteria
from nunu_async.sandbox.schemas import BODIES, TEXT, UUID, check

_JOB_STATUSES = {"QUEUED": "queued", "COMPLETED": "completed"}
"""Job status to `status` filter value; all other statuses are `running`."""

_RUN_FILTERS: dict[str, Filter[Run]] = {
    "state": Filter(
        {"enum": ["running", "completed", "all"]},
        lambda run, now, state: state in ("all", "completed" if now >= run.ended else "running"),
    ),
    "multiplayer_test_id": Filter(UUID, lambda run, _, wanted: run.test.id == wanted),
    "job_id": Filter(UUID, lambda run, _, wanted: run.job_id == wanted),
    "test_plan_execution_id": Filter(UUID, lambda run, _, wanted: run.job.execution_id == wanted),
    "test_type": Filter(TEXT, lambda run, _, kind: run.test.kind == kind),
    "tags": Filter(TEXT, has_tags),
    "bugs": Filter(
        {"enum": ["true", "false"]},
        lambda run, now, wanted: (run.bug_count(now) > 0) == (wanted == "true"),
    ),
}
_JOB_FILTERS: dict[str, Filter[Job]] = {
    "status": Filter(
        {"enum": ["queued", "running", "completed", "all"]},
        lambda job, now, wanted: wanted in ("all", _JOB_STATUSES.get(job.status(now), "running")),
    ),
    "test_plan_execution_id": Filter(UUID, lambda job, _, wanted: job.execution_id == wanted),
    "multiplayer_test_id": Filter(UUID, lambda job, _, wanted: job.test.id == wanted),
    "tags": Filter(TEXT, has_tags),
}
_EXECUTION_FILTERS: dict[str, Filter[Execution]] = {
    "test_plan_id": Filter(
        UUID, lambda row, _, wanted: row.plan is not None and row.plan.id == wanted
    ),
    "build_id": Filter(
        UUID, lambda row, _, wanted: row.build is not None and row.build.id == wanted
    ),
    "status": Filter(
        {"enum": ["completed", "in_progress", "queued"]},
        lambda row, now, status: row.status(now) == status,
    ),
}
_NAMES: dict[str, Callable[[Execution], tuple[bool, str]]] = {
    "test_plan_name": lambda row: _name_key(row.plan),
    "build_name": lambda row: _name_key(row.build),
}


async def list_runs(request: ApiRequest) -> web.Response:
    """List runs; `bugs=false`, which the API docs do not explain, lists runs without bugs."""
    criteria = read_criteria(request.query, _RUN_FILTERS)
    runs = request.project.history.runs(request.now, *criteria)
    return page_response(request, runs, request.project.dialect.run)


async def get_run(request: ApiRequest) -> web.Response:
    """Read one run."""
    return web.json_response(request.project.dialect.details(_find(request), request.now))


async def list_run_bugs(request: ApiRequest) -> web.Response:
    """List all bugs of one run."""
    return web.json_response(request.project.dialect.bugs(_find(request), request.now))


async def stop_runs(request: ApiRequest) -> web.Response:
    """Stop jobs; unknown ids are counted as received but get no result."""
    check(BODIES["stop_runs"], request.body)
    project = request.project
    ids = list(dict.fromkeys(request.body["job_ids"]))
    found = [project.history.find_job(job_id, request.now) for job_id in ids]
    jobs = [job for job in found if job is not None]
    if not jobs:
        error = "no jobs found in your project matching the provided IDs"
        extra = project.dialect.error_fields(
            message="No jobs found in your project matching the provided IDs",
            received_count=len(ids),
            stopped_count=0,
            results=[],
        )
        raise HttpError(404, error, extra=extra)
    results: list[dict[str, object]] = []
    for job in jobs:
        if project.history.stop(job, request.now):
            outcome = {"ok": True, "status": 200, "message": "Job stopped"}
        else:
            outcome = {"ok": False, "status": 500, "error": "Job already completed"}
        results.append({"job_id": job.job_id, **outcome})
    stopped = sum(bool(result["ok"]) for result in results)
    is_all = stopped == len(ids)
    message = f"Stopped {stopped}/{len(ids)} job(s)"
    if is_all:
        message = f"Successfully stopped {stopped} job(s)"
    body = {
        "ok": is_all,
        "message": message,
        "received_count": len(ids),
        "stopped_count": stopped,
        "results": results,
    }
    return web.json_response(body, status=200 if is_all else 207)


async def list_test_plan_executions(request: ApiRequest) -> web.Response:
    """List test plan executions; when sorting by a name, missing names sort highest."""
    query = request.query
    criteria = read_criteria(query, _EXECUTION_FILTERS)
    executions = request.project.history.executions(request.now, *criteria)
    sort_by, order = query.get("sort_by", "start_time"), query.get("sort_order", "desc")
    check({"enum": ["start_time", *_NAMES]}, sort_by, "sort_by")
    check({"enum": ["asc", "desc"]}, order, "sort_order")
    if sort_by in _NAMES:
        executions = sorted(executions, key=_NAMES[sort_by], reverse=order == "desc")
    elif order == "asc":
        executions = executions[::-1]
    return page_response(request, executions, request.project.dialect.execution)


async def list_jobs(request: ApiRequest) -> web.Response:
    """List jobs; not one of the ten core operations."""
    criteria = read_criteria(request.query, _JOB_FILTERS)
    jobs = request.project.history.jobs(request.now, *criteria)
    return page_response(request, jobs, request.project.dialect.job)


async def get_job(request: ApiRequest) -> web.Response:
    """Read one job; not one of the ten core operations, but needed to wait for jobs."""
    job_id = request.call.params["job_id"]
    check(UUID, job_id, "job id")
    job = request.project.history.find_job(job_id.lower(), request.now)
    if job is None:
        raise HttpError(404, "job not found")
    return web.json_response(request.project.dialect.job(job, request.now))


def _find(request: ApiRequest) -> Run:
    run = request.project.history.find_run(request.call.params["run_id"], request.now)
    if run is None:
        raise HttpError(404, "run not found")
    return run


def _name_key(named: TestPlan | Build | None) -> tuple[bool, str]:
    return (True, "") if named is None else (False, named.name)
