"""The client against a server that is not ours: Prism, which holds every request to the contract.

Prism (`@stoplight/prism-cli`, from npm) is taken from the variable PRISM, from the PATH, or from
`node_modules/.bin` here. Without it these tests are skipped, unless NUNU_REQUIRE_PRISM is 1.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from contract import FILE, PROJECT
from doubles import ManualClock
from scripted import BUILD, CONFIG, EXECUTION, JOB, KEY, PLAN, RUN, TEST

from nunu_async import (
    ApiError,
    BadRequest,
    BuildDetails,
    CompletedPart,
    GpsLocation,
    InitiateUpload,
    Model,
    MultipartTicket,
    NotFound,
    NunuClient,
    RunOptions,
    SinglePartTicket,
    VcsDetails,
)

MULTI = MultipartTicket(
    build_id=BUILD, object_key="k/a.zip", upload_id="mpu-7Qd2LxA", total_parts=3, part_size=5
)
SINGLE = SinglePartTicket(build_id=BUILD, object_key="k/a.zip", upload_url="https://s.example/x")
PARTS = [CompletedPart(part_number=number, etag="e" * 32) for number in (1, 2, 3)]
PLAIN = InitiateUpload(name="n", file_name="f.zip", file_size=5, platform="linux")
FULL = InitiateUpload(
    name="n" * 255,
    file_name="f.zip",
    file_size=1,
    platform="ios-native",
    project_id=PROJECT,
    description="d",
    multipart=True,
    auto_delete=True,
    deletion_policy="oldest",
    upload_timeout=1440,
    tags=("a", "ü"),
    details=BuildDetails(vcs=VcsDetails(type="git", branch="main")),
)
OPTIONS = RunOptions(
    min_time_seconds=1,
    max_time_seconds=600,
    performance_monitoring=True,
    mobile_auto_grant_permissions=True,
    mobile_geolocation="Zurich",
    mobile_gpslocation=GpsLocation(lat="47.37", long="8.54"),
)
# The scoped form no longer documents the limits on time.
SCOPED_OPTIONS = RunOptions(performance_monitoring=True, mobile_geolocation="Zurich")

Call = Callable[[NunuClient], Awaitable[Any]]


def start(**members: Any) -> Call:
    return lambda nunu: nunu.runs.start(deployment_config_id=CONFIG, **members)


EVERY: dict[str, Call] = {
    "list_runs": lambda nunu: nunu.runs.list_page(),
    "list_runs-every-filter": lambda nunu: nunu.runs.list_page(
        state="all",
        multiplayer_test_id=TEST,
        job_id=JOB,
        test_plan_execution_id=EXECUTION,
        test_type="verification",
        tags=["a", "b"],
        bugs=True,
        page=1,
        page_size=100,
    ),
    "walk_runs": lambda nunu: anext(aiter(nunu.runs.list(state="running"))),
    "get_run": lambda nunu: nunu.runs.get(RUN),
    "list_run_bugs": lambda nunu: nunu.runs.bugs(RUN),
    "start_run-test": start(
        multiplayer_test_id=TEST, build_id=BUILD, retries=10, instances=10, additional_tags=["a"]
    ),
    "start_run-plan": start(test_plan_id=PLAN, render_templates=True, template_data={"a": 1}),
    "start_run-instructions": start(instructions="Open the shop", name="n", agent_config_id=CONFIG),
    "stop_runs": lambda nunu: nunu.runs.stop([JOB, RUN]),
    "initiate_upload": lambda nunu: nunu.builds.initiate_upload(PLAIN),
    "initiate_upload-full": lambda nunu: nunu.builds.initiate_upload(FULL),
    "get_upload_parts": lambda nunu: nunu.builds.get_upload_parts(MULTI, [1, 2, 3]),
    "complete_upload": lambda nunu: nunu.builds.complete_upload(MULTI, PARTS),
    "complete_upload-single": lambda nunu: nunu.builds.complete_upload(SINGLE),
    "cancel_upload": lambda nunu: nunu.builds.cancel_upload(MULTI),
    "cancel_upload-single": lambda nunu: nunu.builds.cancel_upload(SINGLE),
    "list_executions": lambda nunu: nunu.test_plan_executions.list_page(),
    "list_executions-every-filter": lambda nunu: nunu.test_plan_executions.list_page(
        test_plan_id=PLAN,
        build_id=BUILD,
        status="in_progress",
        sort_by="build_name",
        sort_order="asc",
        page=1,
        page_size=100,
    ),
    "walk_executions": lambda nunu: anext(aiter(nunu.test_plan_executions.list())),
}
EACH = pytest.mark.parametrize("name", EVERY)
FAMILIES = pytest.mark.parametrize("style", ["key", "project"])


def _prism() -> str | None:
    """Find Prism; node has to be there too."""
    named = os.environ.get("PRISM")
    local = Path(__file__).parents[2] / "node_modules" / ".bin" / "prism"
    if named:
        return named
    return shutil.which("prism") or (str(local) if local.exists() else None)


# Read while the tests are collected: they themselves see no variable that begins with NUNU_.
PRISM = _prism() if shutil.which("node") else None
REQUIRED = os.environ.get("NUNU_REQUIRE_PRISM") == "1"
MISSING = (
    "THE CLIENT IS NOT CHECKED AGAINST THE CONTRACT: node or prism is missing; "
    "npm install @stoplight/prism-cli, or name the program in PRISM"
)


@pytest.fixture(scope="module")
def prism(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve the description with Prism; give the base URL.

    Prism leaves out the path of `servers`, so each path is written with it.
    """
    if PRISM is None:
        (pytest.fail if REQUIRED else pytest.skip)(MISSING)
    described = yaml.load(
        FILE.read_text(encoding="utf-8"),
        Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader),  # noqa: S506 - safe
    )
    described["paths"] = {f"/api/v1{path}": item for path, item in described["paths"].items()}
    served = tmp_path_factory.mktemp("prism") / "openapi.json"
    served.write_text(json.dumps(described, default=str), encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    server = subprocess.Popen(  # noqa: S603 - the program that was asked for
        [PRISM, "mock", "--errors", "--host", "127.0.0.1", "--port", str(port), str(served)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("NUNU_")},
    )
    assert server.stdout is not None
    try:
        seen = []
        for line in server.stdout:
            seen.append(line)
            if "listening on" in line:
                break
        else:
            pytest.fail(f"prism did not start: {''.join(seen[-5:])}")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.communicate(timeout=20)


@asynccontextmanager
async def client(url: str, style: str, prefer: str | None = None) -> AsyncIterator[NunuClient]:
    """A client to Prism, which is asked for an answer of its description by `prefer`."""
    async with (
        aiohttp.ClientSession(headers={"Prefer": prefer} if prefer else {}) as session,
        NunuClient(
            KEY,
            base_url=url,
            project_id=PROJECT,
            path_style=style,  # type: ignore[arg-type]
            session=session,
            clock=ManualClock(),
        ) as nunu,
    ):
        yield nunu


@EACH
@FAMILIES
async def test_a_request_is_accepted_and_its_answer_read(prism: str, style: str, name: str) -> None:
    async with client(prism, style) as nunu:
        answer = await EVERY[name](nunu)
    if name.startswith(("complete", "cancel")):
        assert answer is None
    else:
        rows = answer if isinstance(answer, tuple | list) else (answer,)
        assert rows
        assert all(isinstance(row, Model) for row in rows)


@pytest.mark.parametrize(
    ("style", "options"), [("key", OPTIONS), ("project", SCOPED_OPTIONS)], ids=["key", "project"]
)
async def test_the_options_of_a_run_are_accepted(
    prism: str, style: str, options: RunOptions
) -> None:
    async with client(prism, style) as nunu:
        started = await start(multiplayer_test_id=TEST, options=options)(nunu)
    assert started.job_ids


async def test_the_requests_for_jobs_are_accepted(prism: str) -> None:
    """Described for the project's paths alone."""
    async with client(prism, "project") as nunu:
        page = await nunu.jobs.list_page(
            status="running",
            test_plan_execution_id=EXECUTION,
            multiplayer_test_id=TEST,
            tags=["a", "b"],
            page_size=100,
        )
        job = await nunu.jobs.get(JOB)
    assert page.data
    assert job.job_id


@FAMILIES
async def test_a_partial_stop_is_a_result(prism: str, style: str) -> None:
    async with client(prism, style, "code=207") as nunu:
        result = await nunu.runs.stop([JOB])
    assert result.stopped
    assert result.failed


@pytest.mark.parametrize(
    ("example", "jobs"),
    [("test", 1), ("plan", 2), ("instructions", 1), ("envelope_march", 1), ("envelope_january", 1)],
)
async def test_every_published_start_is_read(prism: str, example: str, jobs: int) -> None:
    async with client(prism, "key", f"example={example}") as nunu:
        started = await start(multiplayer_test_id=TEST)(nunu)
    assert len(started.job_ids) == jobs


@FAMILIES
async def test_a_documented_error_is_raised(prism: str, style: str) -> None:
    async with client(prism, style, "code=404") as nunu:
        with pytest.raises(NotFound):
            await nunu.runs.get(RUN)


@pytest.mark.parametrize(
    ("method", "path", "params", "body"),
    [
        ("GET", "/runs", {"page_size": 2000}, None),
        ("GET", "/runs", {"state": "COMPLETED"}, None),
        ("GET", "/builds/upload/parts", {"upload_id": "u"}, None),
        ("POST", "/runs", None, {"multiplayer_test_id": TEST}),
        ("POST", "/runs/stop", None, {"job_ids": []}),
        ("POST", "/builds/upload", None, {"name": "n"}),
    ],
)
async def test_prism_does_refuse_what_is_wrong(
    prism: str,
    method: str,
    path: str,
    params: dict[str, Any] | None,
    body: dict[str, Any] | None,
) -> None:
    """Without this the tests above would prove nothing."""
    async with client(prism, "key") as nunu:
        with pytest.raises(ApiError) as caught:
            await nunu.request(method, path, params=params, json=body)
    assert isinstance(caught.value, BadRequest) or caught.value.status == 422
