"""The API operations that read runs, jobs and test plan executions, and that stop jobs."""

from collections.abc import Callable, Mapping, Sequence

from nunu_async.sandbox import shapes
from nunu_async.sandbox.dialects import Json
from nunu_async.sandbox.exchange import (
    ApiRequest,
    ApiResponse,
    HttpError,
    bad_request,
    check,
    is_uuid,
    read_choice,
    read_page,
    read_query_flag,
    read_uuid,
)
from nunu_async.sandbox.history import RowT
from nunu_async.sandbox.rows import Run

_STOP = shapes.record({"job_ids": shapes.many(shapes.text(), low=1)}, required=("job_ids",))


async def list_runs(request: ApiRequest) -> ApiResponse:
    """List runs; `bugs=false`, which no API page explains, lists those without bugs."""
    query = request.query
    state = read_choice(query, "state", ("running", "completed", "all"))
    runs = request.project.history.list_runs(
        request.now,
        state=None if state == "all" else state,
        test_id=read_uuid(query, "multiplayer_test_id"),
        job_id=read_uuid(query, "job_id"),
        execution_id=read_uuid(query, "test_plan_execution_id"),
        kind=query.get("test_type"),
        tags=_tags(query),
        has_bugs=read_query_flag(query, "bugs"),
    )
    return _page(request, runs, request.project.dialect.run)


async def get_run(request: ApiRequest) -> ApiResponse:
    """Read one run."""
    return ApiResponse(request.project.dialect.details(_find(request), request.now))


async def list_run_bugs(request: ApiRequest) -> ApiResponse:
    """List all bugs of one run."""
    return ApiResponse(request.project.dialect.bugs(_find(request), request.now))


async def stop_runs(request: ApiRequest) -> ApiResponse:
    """Stop jobs; unknown ids are counted as received, and get no result."""
    check(_STOP, request.body)
    project = request.project
    ids = list(dict.fromkeys(request.body["job_ids"]))
    found = [project.history.find_job(job_id, request.now) for job_id in ids]
    jobs = [job for job in found if job is not None]
    if not jobs:
        error = "no jobs found in your project matching the provided IDs"
        raise HttpError(404, error, extra=project.dialect.stop_error(len(ids)))
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
    return ApiResponse(body, 200 if is_all else 207)


async def list_test_plan_executions(request: ApiRequest) -> ApiResponse:
    """List test plan executions."""
    query = request.query
    order = read_choice(query, "sort_order", ("asc", "desc"))
    sort_by = read_choice(query, "sort_by", ("start_time", "test_plan_name", "build_name"))
    executions = request.project.history.list_executions(
        request.now,
        plan_id=read_uuid(query, "test_plan_id"),
        build_id=read_uuid(query, "build_id"),
        status=read_choice(query, "status", ("completed", "in_progress", "queued")),
        sort_by=sort_by or "start_time",
        is_ascending=order == "asc",
    )
    return _page(request, executions, request.project.dialect.execution)


async def list_jobs(request: ApiRequest) -> ApiResponse:
    """List jobs; not one of the ten core operations."""
    query = request.query
    status = read_choice(query, "status", ("queued", "running", "completed", "all"))
    jobs = request.project.history.list_jobs(
        request.now,
        status=None if status == "all" else status,
        execution_id=read_uuid(query, "test_plan_execution_id"),
        test_id=read_uuid(query, "multiplayer_test_id"),
        tags=_tags(query),
    )
    return _page(request, jobs, request.project.dialect.job)


async def get_job(request: ApiRequest) -> ApiResponse:
    """Read one job; not one of the ten core operations, but needed to wait for jobs."""
    job_id = request.call.params["job_id"]
    if not is_uuid(job_id):
        bad_request("job id must be a UUID")
    job = request.project.history.find_job(job_id.lower(), request.now)
    if job is None:
        raise HttpError(404, "job not found")
    return ApiResponse(request.project.dialect.job(job, request.now))


def _page(
    request: ApiRequest, found: Sequence[RowT], serialize: Callable[[RowT, float], Json]
) -> ApiResponse:
    page, size = read_page(request.query)
    data = [serialize(row, request.now) for row in found[page * size : (page + 1) * size]]
    return ApiResponse(request.project.dialect.page(data, len(found), page, size))


def _find(request: ApiRequest) -> Run:
    run = request.project.history.find_run(request.call.params["run_id"], request.now)
    if run is None:
        raise HttpError(404, "run not found")
    return run


def _tags(query: Mapping[str, str]) -> frozenset[str]:
    return frozenset(filter(None, query.get("tags", "").split(",")))
