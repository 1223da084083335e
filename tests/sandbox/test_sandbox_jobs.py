"""Listing jobs: each once, also those that nothing but a run was said of."""

import math
import time
from typing import Any

import pytest
from sandbox_client import Client, Clock, Lab

from nunu_async.sandbox import Outcome, Script

NOWHERE = "00000000-0000-4000-8000-000000000000"
JOB = "aaaaaaaa-0000-4000-8000-000000000001"
EXECUTION = "bbbbbbbb-0000-4000-8000-000000000001"


async def jobs(client: Client, **params: Any) -> list[Any]:
    answer = await client.api("GET", "/jobs", params=params)
    assert answer.status == 200, answer.raw
    assert answer.json["pagination"]["total_count"] >= len(answer.json["data"])
    return list(answer.json["data"])


async def ids(client: Client, **params: Any) -> list[str]:
    return [row["job_id"] for row in await jobs(client, **params)]


async def start(client: Client, script: Script, **members: Any) -> list[str]:
    box = client.box
    box.scripts.append(script)
    body = {
        "multiplayer_test_id": box.tests[0].id,
        "deployment_config_id": box.deployment_configs[0].id,
        **members,
    }
    answer = await client.api("POST", "/runs", json=body)
    assert answer.status == 201, answer.raw
    return list(answer.json["job_ids"])


@pytest.mark.parametrize(
    ("params", "wanted"),
    [
        ({}, "fedcba"),
        ({"status": "all"}, "fedcba"),
        ({"status": "queued"}, "f"),
        ({"status": "running"}, "edc"),
        ({"status": "completed"}, "ba"),
        ({"multiplayer_test_id": "7e570000-0000-4000-8000-000000000002"}, "b"),
        ({"multiplayer_test_id": NOWHERE}, ""),
        ({"test_plan_execution_id": EXECUTION.upper()}, "c"),
        ({"test_plan_execution_id": NOWHERE}, ""),
        ({"tags": "x"}, "ba"),
        ({"tags": "y,x"}, "b"),
        ({"tags": "x,z"}, ""),
        ({"tags": ""}, "fedcba"),
        ({"status": "running", "test_plan_execution_id": EXECUTION}, "c"),
        ({"status": "queued", "tags": "x"}, ""),
    ],
    ids=str,
)
async def test_filters(lab: Lab, clock: Clock, params: dict[str, str], wanted: str) -> None:
    client = await lab(now=clock.now)
    box, now = client.box, clock.time
    execution = box.add_execution(execution_id=EXECUTION)
    running = Script(run_seconds=math.inf)
    made = {
        "a": box.add_run(created=now - 600, tags=["x"]).job_id,
        "b": box.add_run(created=now - 500, tags=["x", "y"], test=box.tests[1], job_id=JOB).job_id,
        "c": box.add_run(created=now - 400, script=running, execution=execution).job_id,
        "d": box.add_run(created=now - 300, script=Script(cleanup_seconds=999)).job_id,
        "e": box.add_run(state="INITIALIZING").job_id,
        "f": (await start(client, Script(queue_seconds=9)))[0],
    }
    assert await ids(client, **params) == [made[one] for one in wanted]


async def test_a_listed_job_is_the_job_itself(lab: Lab) -> None:
    client = await lab()
    execution = client.box.add_execution()
    client.box.add_run(state="RUNNING")
    client.box.add_run(job_id=JOB)
    client.box.add_run(execution=execution)
    await start(client, Script(), retries=2)
    for row in await jobs(client):
        assert (await client.api("GET", f"/jobs/{row['job_id']}")).json == row


async def test_a_job_of_several_runs_is_listed_once(lab: Lab, clock: Clock) -> None:
    client = await lab(now=clock.now)
    first = client.box.add_run(created=clock.time - 100)
    assert await ids(client, status="running") == []
    client.box.add_run(job_id=first.job_id, state="RUNNING")
    client.box.add_run(job_id=JOB)
    client.box.add_run(job_id=JOB)
    (started,) = await start(client, Script(result="ERROR"), retries=3, instances=2)
    assert await ids(client) == [started, JOB, first.job_id]
    assert await ids(client, status="running") == [started, first.job_id]
    client.box.set_script(first.run_id, Script(run_seconds=500))
    clock.time += 200
    assert await ids(client, status="running") == [first.job_id]


@pytest.mark.parametrize("job_id", [None, JOB])
@pytest.mark.parametrize("is_tested", [False, True])
async def test_a_filter_by_status_follows_the_clock(
    lab: Lab, clock: Clock, job_id: str | None, *, is_tested: bool
) -> None:
    client = await lab(now=clock.now)
    box = client.box
    run = box.add_run(
        script=Script(initialize_seconds=5, run_seconds=30, cleanup_seconds=2),
        created=clock.time + 1,
        job_id=job_id,
        execution=box.add_execution() if is_tested else None,
    )
    seen = []
    for moment in (0, 1, 36, 37.9, 38):
        clock.time = 1_780_000_000.0 + moment
        words = ("queued", "running", "completed", "all")
        seen.append([len(await jobs(client, status=word)) for word in words])
    assert seen == [[0, 0, 0, 0], [0, 1, 0, 1], [0, 1, 0, 1], [0, 1, 0, 1], [0, 0, 1, 1]]
    box.set_script(run.run_id, Script(run_seconds=math.inf))
    assert len(await jobs(client, status="running")) == 1


async def test_a_started_job_leaves_the_queue_by_the_clock(lab: Lab, clock: Clock) -> None:
    client = await lab(now=clock.now)
    job_ids = await start(client, Script(queue_seconds=10, result="ERROR"), retries=1)
    seen = []
    for moment in (0, 10, 45, 80):
        clock.time = 1_780_000_000.0 + moment
        (row,) = await jobs(client)
        seen.append((row["status"], len(row["runs"]), row["retries"]["remaining"]))
        word = {"QUEUED": "queued", "COMPLETED": "completed"}.get(row["status"], "running")
        assert await ids(client, status=word) == job_ids
    assert seen == [("QUEUED", 0, 1), ("STARTING", 1, 1), ("RUNNING", 2, 0), ("COMPLETED", 2, 0)]


@pytest.mark.parametrize("cleanup", [0, 500])
async def test_a_stopped_job_is_completed_at_once(lab: Lab, clock: Clock, cleanup: float) -> None:
    client = await lab(now=clock.now)
    state = "COMPLETED" if cleanup else "RUNNING"
    run = client.box.add_run(state=state, script=Script(cleanup_seconds=cleanup))
    started = await start(client, Script(queue_seconds=10))
    assert await ids(client, status="queued") == started
    assert await ids(client, status="running") == [run.job_id]
    body = {"job_ids": [run.job_id, *started]}
    assert (await client.api("POST", "/runs/stop", json=body)).json["stopped_count"] == 2
    rows = await jobs(client, status="completed")
    assert [row["job_id"] for row in rows] == [*started, run.job_id]
    assert all(row["stopped_by"] for row in rows)
    assert await ids(client, status="running") == await ids(client, status="queued") == []


async def test_a_run_moves_its_job_from_one_execution_to_another(lab: Lab) -> None:
    client = await lab()
    box = client.box
    old, new = (box.add_execution(outcome=Outcome(passed=3)) for _ in range(2))
    first = box.add_run(execution=old)
    box.add_run(job_id=first.job_id, execution=new)
    assert (old.total, new.total) == (3, 1)
    assert await ids(client, test_plan_execution_id=old.execution_id) == []
    assert await ids(client, test_plan_execution_id=new.execution_id) == [first.job_id]


@pytest.mark.parametrize("key", ["nunu_nothing", None])
async def test_a_key_must_be_allowed_to_read(lab: Lab, key: str | None) -> None:
    client = await lab(keys={"nunu_nothing": {"project:operate-runs"}})
    answer = await client.api("GET", "/jobs", key=key)
    assert answer.status == (401 if key is None else 403)


@pytest.mark.parametrize("is_tested", [False, True])
async def test_ten_thousand_jobs_are_no_burden(lab: Lab, clock: Clock, *, is_tested: bool) -> None:
    client = await lab(now=clock.now)
    execution = client.box.add_execution() if is_tested else None
    before = time.process_time()
    for number in range(10_000):
        script = Script(run_seconds=60 + number % 100)
        client.box.add_run(script=script, state="RUNNING", execution=execution)
    seen: set[str] = set()
    for page in range(0, 100, 10):
        seen.update(await ids(client, status="running", page=page, page_size=100))
    assert len(seen) == 1000
    clock.time += 158
    assert len(await jobs(client, status="running", page_size=100)) == 100
    clock.time += 1
    assert await jobs(client, status="running") == []
    assert time.process_time() - before < 4.0  # seconds; 0.3 where it was written
