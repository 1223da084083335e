"""The API operations that read runs, jobs and test plan executions, and that stop jobs."""

from collections.abc import Callable, Mapping, Sequence

from nunu_async.sandbox import shapes
from nunu_async.sandbox.dialects import Dialect, Json
from nunu_async.sandbox.exchange import (
    Asked,
    Operation,
    Refused,
    Reply,
    bad_request,
    check,
    is_uuid,
    read_choice,
    read_page,
    read_query_flag,
    read_uuid,
)
from nunu_async.sandbox.history import History, RowT
from nunu_async.sandbox.rows import Run

_STOP = shapes.record({"job_ids": shapes.many(shapes.text(), low=1)}, required=("job_ids",))


class RunOperations:
    """Reads runs, jobs and test plan executions, and stops jobs."""

    def __init__(self, *, history: History, dialect: Dialect, now: Callable[[], float]) -> None:
        self._history = history
        self._dialect = dialect
        self._now = now
        self.operations: dict[str, Operation] = {
            "list_runs": self._list_runs,
            "get_run": self._get_run,
            "list_run_bugs": self._list_run_bugs,
            "stop_runs": self._stop_runs,
            "list_test_plan_executions": self._list_test_plan_executions,
            "list_jobs": self._list_jobs,
            "get_job": self._get_job,
        }

    async def _list_runs(self, request: Asked) -> Reply:
        """List runs; `bugs=false`, which no API page explains, lists those without bugs."""
        query = request.query
        state = read_choice(query, "state", ("running", "completed", "all"))
        now = self._now()
        runs = self._history.list_runs(
            now,
            state=None if state == "all" else state,
            test_id=read_uuid(query, "multiplayer_test_id"),
            job_id=read_uuid(query, "job_id"),
            execution_id=read_uuid(query, "test_plan_execution_id"),
            kind=query.get("test_type"),
            tags=_tags(query),
            has_bugs=read_query_flag(query, "bugs"),
        )
        return self._page(query, runs, lambda run: self._dialect.run(run, now))

    async def _get_run(self, request: Asked) -> Reply:
        now = self._now()
        return Reply(self._dialect.details(self._find(request, now), now))

    async def _list_run_bugs(self, request: Asked) -> Reply:
        now = self._now()
        return Reply(self._dialect.bugs(self._find(request, now), now))

    async def _stop_runs(self, request: Asked) -> Reply:
        """Stop jobs; unknown ids are counted as received, and get no result."""
        check(_STOP, request.body)
        now = self._now()
        ids = list(dict.fromkeys(request.body["job_ids"]))
        jobs = [job for job in (self._history.find_job(job_id, now) for job_id in ids) if job]
        if not jobs:
            error = "no jobs found in your project matching the provided IDs"
            raise Refused(404, error, extra=self._dialect.stop_error(len(ids)))
        results: list[dict[str, object]] = []
        for job in jobs:
            if self._history.stop(job, now):
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
        return Reply(body, 200 if is_all else 207)

    async def _list_test_plan_executions(self, request: Asked) -> Reply:
        query = request.query
        order = read_choice(query, "sort_order", ("asc", "desc"))
        sort_by = read_choice(query, "sort_by", ("start_time", "test_plan_name", "build_name"))
        now = self._now()
        executions = self._history.list_executions(
            now,
            plan_id=read_uuid(query, "test_plan_id"),
            build_id=read_uuid(query, "build_id"),
            status=read_choice(query, "status", ("completed", "in_progress", "queued")),
            sort_by=sort_by or "start_time",
            is_ascending=order == "asc",
        )
        return self._page(query, executions, lambda row: self._dialect.execution(row, now))

    async def _list_jobs(self, request: Asked) -> Reply:
        """List jobs; not one of the ten core operations."""
        query = request.query
        status = read_choice(query, "status", ("queued", "running", "completed", "all"))
        now = self._now()
        jobs = self._history.list_jobs(
            now,
            status=None if status == "all" else status,
            execution_id=read_uuid(query, "test_plan_execution_id"),
            test_id=read_uuid(query, "multiplayer_test_id"),
            tags=_tags(query),
        )
        return self._page(query, jobs, lambda job: self._dialect.job(job, now))

    async def _get_job(self, request: Asked) -> Reply:
        """Read one job; not one of the ten core operations, but needed to wait for jobs."""
        job_id = request.call.params["job_id"]
        if not is_uuid(job_id):
            bad_request("job id must be a UUID")
        now = self._now()
        job = self._history.find_job(job_id.lower(), now)
        if job is None:
            raise Refused(404, "job not found")
        return Reply(self._dialect.job(job, now))

    def _page(
        self, query: Mapping[str, str], found: Sequence[RowT], serialize: Callable[[RowT], Json]
    ) -> Reply:
        page, size = read_page(query)
        data = [serialize(row) for row in found[page * size : (page + 1) * size]]
        return Reply(self._dialect.page(data, len(found), page, size))

    def _find(self, request: Asked, now: float) -> Run:
        run = self._history.find_run(request.call.params["run_id"], now)
        if run is None:
            raise Refused(404, "run not found")
        return run


def _tags(query: Mapping[str, str]) -> frozenset[str]:
    return frozenset(filter(None, query.get("tags", "").split(",")))
