"""Starting runs and stopping them."""

import math
from typing import Any

import pytest
from sandbox_client import Answer, Client, Clock, Lab

from nunu_async.sandbox import DeploymentConfig, MultiplayerTest, Script, TestPlan

NOWHERE = "00000000-0000-4000-8000-000000000000"


async def start(client: Client, **members: Any) -> Answer:
    body = {"deployment_config_id": client.box.deployment_configs[0].id, **members}
    return await client.api("POST", "/runs", json=body)


async def started(client: Client, **members: Any) -> Any:
    if not {"test_plan_id", "instructions"} & set(members):
        members.setdefault("multiplayer_test_id", client.box.tests[0].id)
    answer = await start(client, **members)
    assert answer.status == 201, answer.raw
    return answer.json


async def job(client: Client, job_id: str) -> Any:
    return (await client.api("GET", f"/jobs/{job_id}")).json


async def stop(client: Client, *job_ids: str) -> Answer:
    return await client.api("POST", "/runs/stop", json={"job_ids": job_ids})


async def test_a_test_is_one_job(lab: Lab, clock: Clock) -> None:
    client = await lab(now=clock.now)
    answer = await started(client, additional_tags=["ci"], template_data={"a": 1})
    (job_id,) = answer["job_ids"]
    assert answer == {"message": "successfully queued test!", "job_ids": [job_id]}
    listed = await client.api("GET", "/runs", params={"job_id": job_id})
    (row,) = listed.json["data"]
    assert (row["job_id"], row["state"], row["tags"]) == (job_id, "INITIALIZING", ["ci"])
    details = (await client.api("GET", f"/runs/{row['multiplayer_run_id']}")).json
    assert (details["templating_enabled"], details["template_data"]) == (False, None)
    clock.time += 35
    assert (await job(client, job_id))["status"] == "COMPLETED"


async def test_templates_are_in_the_job_s_details(lab: Lab) -> None:
    client = await lab()
    answer = await started(client, render_templates=True, template_data={"a": 1})
    details = await job(client, answer["job_ids"][0])
    assert (details["templating_enabled"], details["template_data"]) == (True, {"a": 1})


async def test_a_plan_is_one_job_for_each_test(lab: Lab, clock: Clock) -> None:
    client = await lab(now=clock.now)
    client.box.scripts.extend([Script(), Script(result="FAILED")])
    answer = await started(client, test_plan_id=client.box.test_plans[0].id)
    assert len(answer["job_ids"]) == 2
    execution_id = answer["test_plan_execution_id"]
    params = {"test_plan_execution_id": execution_id}
    assert len((await client.api("GET", "/runs", params=params)).json["data"]) == 2
    clock.time += 100
    (row,) = (await client.api("GET", "/test-plan-executions")).json["data"]
    assert (row["id"], row["status"], row["total_tests"]) == (execution_id, "completed", 2)
    assert (row["test_status"]["passed"], row["test_status"]["failed"]) == (1, 1)


async def test_instructions_are_a_test_of_their_own(lab: Lab) -> None:
    client = await lab()
    answer = await started(client, instructions="Look around", additional_tags=["x"])
    params = {"multiplayer_test_id": answer["test_id"]}
    (row,) = (await client.api("GET", "/runs", params=params)).json["data"]
    assert row["tags"] == ["api", "x"]
    assert row["test"]["name"] == "[api] ephemeral test"
    named = await started(client, instructions="Look around", name="looking")
    assert named["test_id"] != answer["test_id"]
    assert (await job(client, named["job_ids"][0]))["test_name"] == "looking"


async def test_a_run_waits_in_the_queue(lab: Lab, clock: Clock) -> None:
    client = await lab(now=clock.now, script=Script(queue_seconds=10))
    (job_id,) = (await started(client))["job_ids"]
    details = await job(client, job_id)
    assert (details["status"], details["runs"]) == ("QUEUED", [])
    clock.time += 10
    details = await job(client, job_id)
    assert (details["status"], len(details["runs"])) == ("STARTING", 1)


async def test_a_queued_plan_is_queued(lab: Lab, clock: Clock) -> None:
    client = await lab(now=clock.now, script=Script(queue_seconds=10))
    await started(client, test_plan_id=client.box.test_plans[0].id)
    seen = []
    for _ in range(2):
        (row,) = (await client.api("GET", "/test-plan-executions")).json["data"]
        seen.append((row["status"], row["started_at"] is None, row["test_status"]["queued"]))
        clock.time += 10
    assert seen == [("queued", True, 2), ("in_progress", False, 0)]


async def test_instances_are_runs_of_one_job(lab: Lab) -> None:
    client = await lab()
    (job_id,) = (await started(client, instances=3))["job_ids"]
    assert len((await job(client, job_id))["runs"]) == 3


async def test_a_run_that_ends_in_error_is_retried(lab: Lab, clock: Clock) -> None:
    client = await lab(now=clock.now)
    client.box.scripts.extend([Script(result="ERROR"), Script(result="TIMEOUT"), Script()])
    (job_id,) = (await started(client, retries=5))["job_ids"]
    seen = []
    for _ in range(4):
        one = await job(client, job_id)
        seen.append((one["status"], len(one["runs"]), one["retries"]["remaining"]))
        clock.time += 35
    assert seen == [("STARTING", 1, 5), ("RUNNING", 2, 4), ("RUNNING", 3, 3), ("COMPLETED", 3, 3)]
    assert [run["result"] for run in one["runs"]] == ["ERROR", "MAX_STEPS", "SUCCESS"]


async def test_a_failed_run_is_not_retried(lab: Lab, clock: Clock) -> None:
    client = await lab(now=clock.now, script=Script(result="FAILED"))
    (job_id,) = (await started(client, retries=5))["job_ids"]
    clock.time += 35
    assert (await job(client, job_id))["status"] == "COMPLETED"


async def test_a_test_brings_its_script(lab: Lab, clock: Clock) -> None:
    client = await lab(now=clock.now)
    test = MultiplayerTest(id=NOWHERE, name="x", script=Script(result="FAILED"))
    client.box.tests += [test]
    client.box.tests = reversed(client.box.tests)
    (job_id,) = (await started(client))["job_ids"]
    clock.time += 35
    assert (await job(client, job_id))["runs"][0]["result"] == "FAILED"


async def test_an_uploaded_build_can_be_run(lab: Lab) -> None:
    client = await lab()
    ticket = await client.upload(b"0123456789", name="rc3")
    answer = await started(client, build_id=ticket["build_id"])
    assert answer["build_id"] == ticket["build_id"]
    (row,) = (await client.api("GET", "/runs")).json["data"]
    assert row["build"] == {"id": ticket["build_id"], "name": "rc3"}


@pytest.mark.parametrize(
    ("members", "word"),
    [
        ({}, "exactly one"),
        ({"multiplayer_test_id": "x", "instructions": "x"}, "exactly one"),
        ({"multiplayer_test_id": "x", "test_plan_id": "x"}, "exactly one"),
        ({"multiplayer_test_id": None}, "multiplayer_test_id"),
        ({"instructions": ""}, "instructions"),
        ({"instructions": "x", "deployment_config_id": 5}, "deployment_config_id"),
        ({"instructions": "x", "retries": 1}, "retries"),
        ({"test_plan_id": "x", "instances": 2}, "instances"),
        ({"multiplayer_test_id": "x", "name": "x"}, "name"),
        ({"multiplayer_test_id": "x", "retries": 11}, "retries"),
        ({"multiplayer_test_id": "x", "retries": 1.0}, "retries"),
        ({"multiplayer_test_id": "x", "instances": 0}, "instances"),
        ({"instructions": "x", "build_id": "x"}, "build_id"),
        ({"instructions": "x", "agent_config_id": "x"}, "agent_config_id"),
        ({"instructions": "x", "additional_tags": "x"}, "additional_tags"),
        ({"instructions": "x", "render_templates": 1}, "render_templates"),
        ({"instructions": "x", "template_data": []}, "template_data"),
        ({"instructions": "x", "options": {"min_time_seconds": -1}}, "min_time_seconds"),
        ({"instructions": "x", "options": {"performance_monitoring": "yes"}}, "performance"),
        ({"instructions": "x", "options": {"mobile_gpslocation": "auto"}}, "mobile_geolocation"),
        ({"instructions": "x", "options": {"mobile_gpslocation": {"lat": "1"}}}, "long"),
        (
            {
                "instructions": "x",
                "build_id": NOWHERE,
                "deployment_config_id": "de910000-0000-4000-8000-000000000002",
            },
            "Build Storage",
        ),
    ],
    ids=str,
)
async def test_a_bad_start_is_refused(lab: Lab, members: dict[str, Any], word: str) -> None:
    client = await lab()
    answer = await start(client, **members)
    assert answer.status == 400
    assert word in answer.json["error"]
    assert client.box.runs == ()


async def test_a_start_needs_a_config(lab: Lab) -> None:
    answer = await (await lab()).api("POST", "/runs", json={"instructions": "x"})
    assert answer.status == 400


@pytest.mark.parametrize(
    ("members", "error"),
    [
        ({"multiplayer_test_id": NOWHERE}, "multiplayer test not found"),
        ({"test_plan_id": NOWHERE}, "test plan not found"),
        (
            {"instructions": "x", "deployment_config_id": NOWHERE},
            "deployment config not found",
        ),
        ({"instructions": "x", "build_id": NOWHERE}, "build not found"),
    ],
    ids=str,
)
async def test_a_start_of_nothing_is_not_found(
    lab: Lab, members: dict[str, Any], error: str
) -> None:
    answer = await start(await lab(), **members)
    assert (answer.status, answer.json) == (404, {"error": error})


async def test_a_plan_without_tests_does_not_start(lab: Lab) -> None:
    client = await lab()
    client.box.test_plans.append(TestPlan(id=NOWHERE, name="empty", tests=()))
    assert (await start(client, test_plan_id=NOWHERE)).status == 400


async def test_everything_is_stopped(lab: Lab, clock: Clock) -> None:
    client = await lab(now=clock.now, script=Script(run_seconds=math.inf))
    jobs = [(await started(client))["job_ids"][0] for _ in range(2)]
    clock.time += 60
    answer = await stop(client, *jobs)
    assert (answer.status, answer.json["ok"]) == (200, True)
    assert answer.json["received_count"] == answer.json["stopped_count"] == 2
    stopped = {"ok": True, "status": 200, "message": "Job stopped"}
    assert answer.json["results"] == [{"job_id": one, **stopped} for one in jobs]
    one = await job(client, jobs[0])
    assert (one["status"], one["runs"][0]["result"]) == ("COMPLETED", "STOPPED")
    assert one["stopped_by"]["type"] == "api"
    run = (await client.api("GET", f"/runs/{one['runs'][0]['multiplayer_run_id']}")).json
    assert run["duration_ms"] == 55_000
    assert run["players"][0]["steps"][0]["run_state"] == "RUNNING"


async def test_some_are_stopped(lab: Lab) -> None:
    client = await lab()
    (running,) = (await started(client))["job_ids"]
    done = client.box.add_run().job_id
    answer = await stop(client, running, done, NOWHERE)
    assert (answer.status, answer.json["ok"]) == (207, False)
    assert (answer.json["received_count"], answer.json["stopped_count"]) == (3, 1)
    assert answer.json["results"][1:] == [
        {"job_id": done, "ok": False, "status": 500, "error": "Job already completed"}
    ]
    again = await stop(client, running)
    assert (again.status, again.json["stopped_count"]) == (207, 0)


async def test_none_is_stopped(lab: Lab) -> None:
    answer = await stop(await lab(), NOWHERE)
    error = "no jobs found in your project matching the provided IDs"
    assert (answer.status, answer.json) == (404, {"error": error})


@pytest.mark.parametrize("body", [{}, {"job_ids": []}, {"job_ids": "x"}, {"job_ids": [1]}, []])
async def test_a_bad_stop_is_refused(lab: Lab, body: Any) -> None:
    assert (await (await lab()).api("POST", "/runs/stop", json=body)).status == 400


async def test_a_job_is_stopped_in_the_queue(lab: Lab, clock: Clock) -> None:
    client = await lab(now=clock.now, script=Script(queue_seconds=10))
    answer = await started(client, test_plan_id=client.box.test_plans[0].id)
    assert (await stop(client, *answer["job_ids"])).status == 200
    clock.time += 100
    assert client.box.runs == ()
    assert (await client.api("GET", "/runs/run000000001")).status == 404
    (row,) = (await client.api("GET", "/test-plan-executions")).json["data"]
    assert (row["status"], row["test_status"]["stopped"]) == ("completed", 2)


async def test_a_stop_ends_the_retries(lab: Lab, clock: Clock) -> None:
    client = await lab(now=clock.now, script=Script(result="ERROR"))
    (job_id,) = (await started(client, retries=3))["job_ids"]
    assert (await stop(client, job_id)).status == 200
    clock.time += 1000
    assert len((await job(client, job_id))["runs"]) == len(client.box.runs) == 1


async def test_a_run_of_the_history_can_be_stopped(lab: Lab) -> None:
    client = await lab()
    run = client.box.add_run(state="RUNNING", script=Script(run_seconds=math.inf))
    assert (await stop(client, run.job_id)).status == 200
    assert (await job(client, run.job_id))["status"] == "COMPLETED"


@pytest.fixture
def phones() -> DeploymentConfig:
    return DeploymentConfig(
        id="40000000-0000-4000-8000-000000000001",
        name="phones",
        device_labels=("a", "b", "c"),
        broken_devices=("b",),
    )


@pytest.mark.parametrize("target", ["multiplayer_test_id", "instructions"])
async def test_all_devices_of_a_config(lab: Lab, phones: DeploymentConfig, target: str) -> None:
    client = await lab(dialect="N")
    client.box.deployment_configs = [phones]
    wanted = {"multiplayer_test_id": client.box.tests[0].id, "instructions": "x"}[target]
    answer = await start(
        client,
        run_on_all_configured_devices=True,
        agent_config_id=NOWHERE,
        **{target: wanted},
    )
    assert answer.status == 207
    body = answer.json
    members = body["device_runs" if target == "instructions" else "results"]
    assert [(one["device_label"], one["ok"]) for one in members] == [
        ("a", True),
        ("b", False),
        ("c", True),
    ]
    assert (body["requested_count"], body["started_count"], body["failed_count"]) == (3, 2, 1)
    assert len(body["job_ids"]) == len(client.box.runs) == 2


async def test_configs_by_player(lab: Lab) -> None:
    client = await lab(dialect="N")
    duel = MultiplayerTest(id=NOWHERE, name="duel", players=2)
    client.box.tests.append(duel)
    phone, desktop = (config.id for config in client.box.deployment_configs)
    by_player = {"2": {"deployment_config_id": desktop}}
    members = {"multiplayer_test_id": NOWHERE, "player_deployment_configs": by_player}
    assert (await start(client, **members)).status == 201
    (row,) = (await client.api("GET", "/runs")).json["data"]
    kinds = [player["platform"]["kind"] for player in row["players"]]
    assert kinds == ["android-native", "windows"]
    assert (await client.api("POST", "/runs", json=members)).status == 400
    by_player["1"] = {"deployment_config_id": phone}
    assert (await client.api("POST", "/runs", json=members)).status == 201


@pytest.mark.parametrize(
    "members",
    [
        {"instructions": "x"},
        {"instructions": "x", "agent_config_id": NOWHERE, "player_deployment_configs": {"1": {}}},
        {"multiplayer_test_id": NOWHERE, "run_on_all_configured_devices": True},
        {
            "multiplayer_test_id": NOWHERE,
            "player_deployment_configs": {
                "3": {"deployment_config_id": "de910000-0000-4000-8000-000000000001"}
            },
        },
        {
            "test_plan_id": NOWHERE,
            "player_deployment_configs": {
                "1": {"deployment_config_id": "de910000-0000-4000-8000-000000000001"}
            },
        },
        {"multiplayer_test_id": NOWHERE, "extra_build_ids": {"4": NOWHERE}},
        {"multiplayer_test_id": NOWHERE, "extra_build_ids": {"1": "x"}},
    ],
    ids=str,
)
async def test_the_newest_pages_refuse_more(lab: Lab, members: dict[str, Any]) -> None:
    client = await lab(dialect="N")
    client.box.tests.append(MultiplayerTest(id=NOWHERE, name="duel", players=2))
    assert (await start(client, **members)).status == 400
