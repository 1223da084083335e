"""Every status that the description gives an operation can be had, with the body it describes.

Most come from the request itself; those that nothing in a request can bring about take a fault.
"""

import re
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import attrs
import pytest
from contract import (
    CONFIG,
    CORE,
    JOB,
    OTHER_CONFIG,
    PLAN,
    PROJECT,
    RUN,
    RUNNING_JOB,
    TEST,
    check_body,
    furnish,
    operations,
)
from yarl import URL

from nunu_async.sandbox import DeploymentConfig, Fault, Sandbox

UUID = "00000000-0000-4000-8000-000000000000"
BROKEN = DeploymentConfig(
    id="b40ce000-0000-4000-8000-000000000001",
    name="Broken phones",
    device_labels=("Pixel 9",),
    broken_devices=("Pixel 9",),
)
UPLOAD = {"name": "a", "file_name": "a.zip", "file_size": 10, "platform": "linux"}
START = {"multiplayer_test_id": TEST, "deployment_config_id": CONFIG}
BY_FAULT = {429, 500}
MADE_BY = {"runId": RUN, "jobId": RUNNING_JOB, "projectId": PROJECT}


@attrs.frozen
class Wire:
    """One sandbox, and requests to one operation of it."""

    box: Sandbox
    session: aiohttp.ClientSession
    verb: str
    url: str

    async def send(
        self,
        *,
        key: str | None = None,
        url: str | None = None,
        verb: str | None = None,
        **more: Any,
    ) -> tuple[int, Any]:
        headers = {} if key == "" else {"X-Api-Key": key or self.box.api_key}
        async with self.session.request(
            verb or self.verb, url or self.url, headers=headers, **more
        ) as response:
            return response.status, await response.json()

    async def initiate(self, **members: Any) -> Any:
        url = re.sub(r"/upload/.*", "/upload", self.url)
        _, ticket = await self.send(verb="POST", url=url, json={**UPLOAD, **members})
        return ticket

    async def put(self, ticket: Any) -> None:
        url = URL(ticket["upload_url"], encoded=True)
        async with self.session.put(url, data=b"0123456789") as response:
            assert response.status == 200


Ask = Callable[[Wire], Awaitable[tuple[int, Any]]]


def send(**more: Any) -> Ask:
    return lambda wire: wire.send(**more)


def elsewhere(old: str, new: str) -> Ask:
    return lambda wire: wire.send(url=wire.url.replace(old, new))


async def cancel(wire: Wire) -> tuple[int, Any]:
    ticket = await wire.initiate()
    names = ("build_id", "object_key")
    return await wire.send(params={name: ticket[name] for name in names})


async def parts(wire: Wire) -> tuple[int, Any]:
    ticket = await wire.initiate(multipart=True)
    names = ("upload_id", "object_key")
    query = {name: ticket[name] for name in names} | {"part_numbers": "1"}
    return await wire.send(params=query, key="")


async def complete(wire: Wire) -> tuple[int, Any]:
    ticket = await wire.initiate()
    await wire.put(ticket)
    return await wire.send(json={"build_id": ticket["build_id"]})


EVERYWHERE = {"run_on_all_configured_devices": True}
BAD_PAGE = send(params={"page_size": "0"})
NO_UPLOAD = send(params={"build_id": UUID, "object_key": "x"})

# By operation, without its family, and status.
ASK: dict[tuple[str, int], Ask] = {
    ("listRuns", 200): send(params={"state": "completed"}),
    ("listRuns", 400): BAD_PAGE,
    ("startRun", 201): send(json=START),
    ("startRun", 207): send(json={**START, "deployment_config_id": OTHER_CONFIG, **EVERYWHERE}),
    ("startRun", 400): send(json={**START, "test_plan_id": PLAN}),
    ("startRun", 404): send(json={**START, "multiplayer_test_id": UUID}),
    ("getRun", 200): send(),
    ("getRun", 404): elsewhere(RUN, "run999999999"),
    ("listRunBugs", 200): send(),
    ("listRunBugs", 404): elsewhere(RUN, "run999999999"),
    ("stopRuns", 200): send(json={"job_ids": [RUNNING_JOB]}),
    ("stopRuns", 207): send(json={"job_ids": [RUNNING_JOB, JOB, UUID]}),
    ("stopRuns", 400): send(json={"job_ids": []}),
    ("stopRuns", 404): send(json={"job_ids": [UUID, "x"]}),
    ("initiateUpload", 200): send(json=UPLOAD),
    ("initiateUpload", 400): send(json={}),
    ("initiateUpload", 402): send(json={**UPLOAD, "file_size": 101}),
    ("initiateUpload", 413): send(json={**UPLOAD, "file_size": 201}),
    ("cancelUpload", 200): cancel,
    ("cancelUpload", 400): send(),
    ("cancelUpload", 404): NO_UPLOAD,
    ("getUploadParts", 200): parts,
    ("getUploadParts", 400): send(
        params={"upload_id": "x", "object_key": "x", "part_numbers": "0"}
    ),
    ("completeUpload", 200): complete,
    ("completeUpload", 400): send(json={}),
    ("completeUpload", 404): send(json={"build_id": UUID}),
    ("listTestPlanExecutions", 200): send(),
    ("listTestPlanExecutions", 400): BAD_PAGE,
    ("listJobs", 200): send(),
    ("listJobs", 400): BAD_PAGE,
    ("getJob", 200): send(),
    ("getJob", 400): elsewhere(RUNNING_JOB, "x"),
    ("getJob", 404): elsewhere(RUNNING_JOB, UUID),
}


def _asks(name: str, status: int) -> Ask | None:
    if status == 401:
        return send(key="")
    if status == 403:
        return send(key="nunu_nothing")
    if status == 400 and name in ("getRun", "listRunBugs"):
        return send(params=[("x", "1"), ("x", "2")])
    return ASK.get((name, status))


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower()


CASES = [
    pytest.param(
        verb,
        path,
        described,
        int(status),
        dialect,
        id=f"{described['operationId']}-{status}-{dialect}",
    )
    for family, verb, path, described in operations(with_jobs=True)
    for status in described["responses"]
    for dialect in ("JML" if family == CORE[0] else "N")
]


async def _ask(
    verb: str, path: str, dialect: Any, ask: Ask, faults: list[Fault]
) -> tuple[int, Any]:
    box = Sandbox(
        project_id=PROJECT,
        dialect=dialect,
        capacity=100,
        max_file_size=200,
        keys={"nunu_nothing": ()},
        faults=faults,
    )
    furnish(box)
    box.deployment_configs.append(BROKEN)
    async with box, aiohttp.ClientSession() as session:
        url = box.base_url + path.format(**MADE_BY)
        return await ask(Wire(box, session, verb, url))


@pytest.mark.parametrize(("verb", "path", "described", "status", "dialect"), CASES)
async def test_a_documented_status_can_be_had(
    verb: str, path: str, described: dict[str, Any], status: int, dialect: str
) -> None:
    name = described["operationId"].removesuffix("Scoped")
    faults = []
    ask = _asks(name, status)
    if status in BY_FAULT:
        faults = [Fault(on=_snake(name), status=status, times=None)]
        ask = send()
    assert ask is not None, f"nothing here brings {name} to {status}"
    answered, body = await _ask(verb, path, dialect, ask, faults)
    assert answered == status, body
    check_body(described["responses"], status, body)


async def test_a_start_on_no_device_is_a_500_with_the_results() -> None:
    body = {**START, "deployment_config_id": BROKEN.id, **EVERYWHERE}
    path, described = next(
        (path, described)
        for _, _, path, described in operations()
        if described["operationId"] == "startRunScoped"
    )
    status, answer = await _ask("POST", path, "N", send(json=body), [])
    assert (status, answer["ok"], answer["failed_count"]) == (500, False, 1)
    check_body(described["responses"], 500, answer)
