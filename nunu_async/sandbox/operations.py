"""The table of API operations: their requests, permissions and handlers."""

from collections.abc import Callable, Coroutine

import attrs
from aiohttp import web

from nunu_async.sandbox import runs, starts, uploads
from nunu_async.sandbox.http import ApiRequest
from nunu_async.sandbox.keys import MANAGE_BUILDS, OPERATE_RUNS, READ_RUNS


@attrs.frozen
class Operation:
    """One operation of the API."""

    method: str
    path: str
    """A regular expression; its named groups are the path parameters."""
    permission: str | None
    """None if the operation needs no API key."""
    handler: Callable[[ApiRequest], Coroutine[object, object, web.Response]]

    @property
    def name(self) -> str:
        """The name of the operation and of its handler."""
        return self.handler.__name__


OPERATIONS = {
    operation.name: operation
    for operation in (
        Operation("POST", "/builds/upload", MANAGE_BUILDS, uploads.initiate_upload),
        Operation("DELETE", "/builds/upload", MANAGE_BUILDS, uploads.cancel_upload),
        # The upload_id is the credential.
        Operation("GET", "/builds/upload/parts", None, uploads.get_upload_parts),
        Operation("POST", "/builds/upload/complete", MANAGE_BUILDS, uploads.complete_upload),
        Operation(
            "GET", "/builds/(?!upload$)(?P<build_id>[^/]+)", MANAGE_BUILDS, uploads.get_build
        ),
        Operation("GET", "/runs", READ_RUNS, runs.list_runs),
        Operation("POST", "/runs", OPERATE_RUNS, starts.start_run),
        Operation("POST", "/runs/stop", OPERATE_RUNS, runs.stop_runs),
        Operation("GET", "/runs/(?P<run_id>[^/]+)", READ_RUNS, runs.get_run),
        Operation("GET", "/runs/(?P<run_id>[^/]+)/bugs", READ_RUNS, runs.list_run_bugs),
        Operation("GET", "/test-plan-executions", READ_RUNS, runs.list_test_plan_executions),
        Operation("GET", "/jobs", READ_RUNS, runs.list_jobs),
        Operation("GET", "/jobs/(?P<job_id>[^/]+)", READ_RUNS, runs.get_job),
    )
}
