"""What which key may do."""

from typing import Any

import pytest
from sandbox_client import Clock, Lab

from nunu_async.sandbox import Key, Sandbox

NOWHERE = "00000000-0000-4000-8000-000000000000"
READ, OPERATE, BUILDS = (
    f"project:{name}" for name in ("read-runs", "operate-runs", "manage-build-storage")
)
OPERATIONS = [
    ("GET", "/runs", READ),
    ("GET", "/runs/x", READ),
    ("GET", "/runs/x/bugs", READ),
    ("GET", "/jobs/x", READ),
    ("GET", "/test-plan-executions", READ),
    ("POST", "/runs", OPERATE),
    ("POST", "/runs/stop", OPERATE),
    ("POST", "/builds/upload", BUILDS),
    ("POST", "/builds/upload/complete", BUILDS),
    ("DELETE", "/builds/upload", BUILDS),
    ("GET", "/builds/x", BUILDS),
]


@pytest.mark.parametrize(("method", "path", "permission"), OPERATIONS)
async def test_each_operation_asks_for_its_permission(
    lab: Lab, method: str, path: str, permission: str
) -> None:
    others = {READ, OPERATE, BUILDS} - {permission}
    client = await lab(keys={"without": others, "with": [permission]})
    for prefix in ("", "/project/sandbox-project"):
        answer = await client.api(method, prefix + path, key="without", data=b"{")
        error = f"API key missing required permission: {permission}"
        assert (answer.status, answer.json) == (403, {"error": error})
        assert (await client.api(method, prefix + path, key="with", data=b"{")).status != 403


@pytest.mark.parametrize(("method", "path", "permission"), OPERATIONS)
async def test_the_key_comes_first(lab: Lab, method: str, path: str, permission: str) -> None:
    client = await lab()
    for key, error in ((None, "API key required"), ("x", "Invalid API key")):
        answer = await client.api(method, path, key=key, data=b"{")
        assert (answer.status, answer.json) == (401, {"error": error})


async def test_a_key_expires_by_the_clock(lab: Lab, clock: Clock) -> None:
    client = await lab(now=clock.now, keys={"short": Key(expires=clock.time + 10)})
    assert (await client.api("GET", "/runs", key="short")).status == 200
    clock.time += 10
    answer = await client.api("GET", "/runs", key="short")
    assert (answer.status, answer.json) == (403, {"error": "API key expired"})


async def test_a_disabled_key_may_do_nothing(lab: Lab) -> None:
    client = await lab(keys={"off": Key(is_disabled=True)})
    answer = await client.api("GET", "/runs", key="off")
    assert (answer.status, answer.json) == (403, {"error": "API key is disabled"})


async def test_an_organization_key_needs_the_project_in_the_path(lab: Lab) -> None:
    client = await lab(keys={"nunu_org_1": {READ}})
    answer = await client.api("GET", "/runs", key="nunu_org_1")
    assert (answer.status, answer.json) == (401, {"error": "Invalid API key"})
    for path, status in (("/project/sandbox-project/runs", 200), ("/project/other/runs", 403)):
        assert (await client.api("GET", path, key="nunu_org_1")).status == status


async def test_the_key_is_the_initiator(lab: Lab) -> None:
    client = await lab(keys={"mine": Key(key_id=NOWHERE)})
    body = {
        "instructions": "x",
        "deployment_config_id": client.box.deployment_configs[0].id,
    }
    await client.api("POST", "/runs", key="mine", json=body)
    (row,) = (await client.api("GET", "/runs")).json["data"]
    assert row["initiator"] == {"type": "api", "value": {"key_id": NOWHERE}}


async def test_part_urls_of_another_project_are_refused(lab: Lab) -> None:
    client = await lab()
    ticket = await client.ticket(multipart=True)
    params = {name: ticket[name] for name in ("upload_id", "object_key")} | {"part_numbers": "1"}
    for project, status in (("sandbox-project", 200), ("another", 400)):
        path = f"/project/{project}/builds/upload/parts"
        assert (await client.api("GET", path, key=None, params=params)).status == status


@pytest.mark.parametrize(
    ("keys", "error"),
    [
        ({"": ()}, ValueError),
        ({"x": READ}, TypeError),
        ({"x": ["read-runs"]}, ValueError),
    ],
    ids=str,
)
def test_impossible_keys_are_refused(keys: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        Sandbox(keys=keys)
