"""Reading runs, jobs and executions: states by the clock, filters, pages."""

import math
import time
from typing import Any

import pytest
from sandbox_client import Client, Clock, Lab

from nunu_async.sandbox import (
    Artifact,
    Bug,
    Build,
    Execution,
    Job,
    MultiplayerTest,
    Outcome,
    Run,
    Script,
    Step,
    TestPlan,
)

NOWHERE = "00000000-0000-4000-8000-000000000000"
FAILED = Script(result="FAILED", bugs=(Bug(bug_id="b"),))


async def ids(client: Client, **params: Any) -> list[str]:
    answer = await client.api("GET", "/runs", params=params)
    assert answer.status == 200, answer.raw
    return [row["multiplayer_run_id"] for row in answer.json["data"]]


async def states(client: Client, run: Run) -> tuple[str, str, str | None]:
    job = (await client.api("GET", f"/jobs/{run.job_id}")).json
    row = (await client.api("GET", f"/runs/{run.run_id}")).json
    return job["status"], row["state"], row["result"]


async def test_a_run_goes_through_its_states_by_the_clock(lab: Lab, clock: Clock) -> None:
    client = await lab(now=clock.now)
    script = Script(initialize_seconds=5, run_seconds=30, cleanup_seconds=2, result="FAILED")
    run = client.box.add_run(state="INITIALIZING", script=script, job_id=NOWHERE)
    seen = []
    for moment in (0, 5, 34.9, 35, 37):
        clock.time = 1_780_000_000.0 + moment
        seen.append(await states(client, run))
    assert seen == [
        ("STARTING", "INITIALIZING", None),
        ("RUNNING", "RUNNING", None),
        ("RUNNING", "RUNNING", None),
        ("CLEANING_UP", "COMPLETED", "FAILED"),
        ("COMPLETED", "COMPLETED", "FAILED"),
    ]


async def test_a_run_shows_when_it_did_what(lab: Lab, clock: Clock) -> None:
    client = await lab(now=clock.now)
    run = client.box.add_run(script=Script(initialize_seconds=1.5, run_seconds=2.25))
    row = (await client.api("GET", f"/runs/{run.run_id}")).json
    assert row["created_at"] == "2026-05-28T20:26:36.250000+00:00"
    assert row["started_at"] == "2026-05-28T20:26:37.750000+00:00"
    assert row["completed_at"] == "2026-05-28T20:26:40.000000+00:00"
    assert row["duration_ms"] == 2250


async def test_later_steps_are_not_shown_early(lab: Lab, clock: Clock) -> None:
    client = await lab(now=clock.now)
    run = client.box.add_run(
        state="RUNNING",
        script=Script(
            result="FAILED", bugs=(Bug(bug_id="b"),), artifacts=(Artifact(filename="a"),)
        ),
    )
    row = (await client.api("GET", f"/runs/{run.run_id}")).json
    for name in ("completed_at", "duration_ms", "result", "bug_info"):
        assert row[name] is None
    assert row["players"][0]["artifacts"] == []
    assert (await client.api("GET", f"/runs/{run.run_id}/bugs")).json["data"] == []
    clock.time += 100
    row = (await client.api("GET", f"/runs/{run.run_id}")).json
    assert row["bug_info"] == {"bug_label": "BUG", "bug_count": 1}
    assert [one["filename"] for one in row["players"][0]["artifacts"]] == ["a"]
    bugs = (await client.api("GET", f"/runs/{run.run_id}/bugs")).json
    assert [bug["bug_id"] for bug in bugs["data"]] == ["b"]
    assert bugs["pagination"] == {"page": 0, "page_size": 1, "total_count": 1, "total_pages": 1}


async def test_steps_are_played_one_after_another(lab: Lab, clock: Clock) -> None:
    client = await lab(now=clock.now)
    steps = (Step(goal="a", report="done"), Step(goal="b"), Step(goal="c", result="FAILED"))
    run = client.box.add_run(state="RUNNING", script=Script(run_seconds=30, steps=steps))

    async def fields() -> list[tuple[str, str | None, str | None]]:
        player = (await client.api("GET", f"/runs/{run.run_id}")).json["players"][0]
        assert player["step_count"] == 3
        return [(one["run_state"], one["run_result"], one["report"]) for one in player["steps"]]

    clock.time += 10
    assert await fields() == [
        ("COMPLETED", "SUCCESS", "done"),
        ("RUNNING", None, None),
        ("INITIALIZING", None, None),
    ]
    clock.time += 20
    assert [state for state, _, _ in await fields()] == ["COMPLETED"] * 3
    row = (await client.api("GET", f"/runs/{run.run_id}")).json
    assert row["players"][0]["completed_step_count"] == 2
    assert row["players"][0]["steps"][1]["duration_ms"] == 10_000


async def test_the_last_goal_of_a_test_shares_the_fate_of_the_run(lab: Lab) -> None:
    client = await lab()
    run = client.box.add_run(script=Script(result="ERROR"))
    player = (await client.api("GET", f"/runs/{run.run_id}")).json["players"][0]
    assert [step["run_result"] for step in player["steps"]] == ["SUCCESS", "ERROR"]


async def test_every_player_is_there(lab: Lab) -> None:
    client = await lab()
    test = MultiplayerTest(id=NOWHERE, name="duel", players=2)
    run = client.box.add_run(test=test)
    row = (await client.api("GET", "/runs")).json["data"][0]
    assert [player["id"] for player in row["players"]] == [f"{run.run_id}-1", f"{run.run_id}-2"]


async def test_runs_come_newest_first(lab: Lab, clock: Clock) -> None:
    client = await lab(now=clock.now)
    made = [client.box.add_run(created=clock.time - age).run_id for age in (30, 10, 20, 10)]
    assert await ids(client) == [made[3], made[1], made[2], made[0]]


async def test_a_run_cannot_be_seen_before_its_time(lab: Lab, clock: Clock) -> None:
    client = await lab(now=clock.now)
    run = client.box.add_run(created=clock.time + 1)
    client.box.add_run()
    for path in (f"/runs/{run.run_id}", f"/runs/{run.run_id}/bugs", f"/jobs/{run.job_id}"):
        assert (await client.api("GET", path)).status == 404
    assert len(await ids(client)) == len(client.box.runs) == 1
    clock.time += 1
    assert await ids(client) == [run.run_id, client.box.runs[0].run_id]


@pytest.mark.parametrize(
    ("params", "wanted"),
    [
        ({}, "fedcba"),
        ({"state": "all"}, "fedcba"),
        ({"state": "running"}, "fe"),
        ({"state": "completed"}, "dcba"),
        ({"bugs": "true"}, "b"),
        ({"bugs": "false"}, "fedca"),
        ({"test_type": "task"}, "c"),
        ({"test_type": "Task"}, ""),
        ({"tags": "x"}, "da"),
        ({"tags": "y,x"}, "d"),
        ({"tags": ""}, "fedcba"),
        ({"tags": "x,z"}, ""),
        ({"multiplayer_test_id": "7e570000-0000-4000-8000-000000000002"}, "c"),
        ({"multiplayer_test_id": NOWHERE}, ""),
        ({"job_id": "AAAAAAAA-0000-4000-8000-000000000001"}, "dc"),
        ({"job_id": NOWHERE}, ""),
        ({"test_plan_execution_id": "bbbbbbbb-0000-4000-8000-000000000001"}, "b"),
        ({"state": "completed", "tags": "x", "bugs": "false"}, "da"),
        ({"job_id": "aaaaaaaa-0000-4000-8000-000000000001", "tags": "y"}, "d"),
    ],
    ids=str,
)
async def test_filters(lab: Lab, clock: Clock, params: dict[str, str], wanted: str) -> None:
    client = await lab(now=clock.now)
    box = client.box
    job = "aaaaaaaa-0000-4000-8000-000000000001"
    execution = box.add_execution(execution_id="bbbbbbbb-0000-4000-8000-000000000001")
    box.add_run(run_id="a", created=clock.time - 600, tags=["x"])
    box.add_run(run_id="b", created=clock.time - 500, script=FAILED, execution=execution)
    box.add_run(run_id="c", created=clock.time - 400, test=box.tests[1], job_id=job)
    box.add_run(run_id="d", created=clock.time - 300, tags=["x", "y"], job_id=job)
    box.add_run(run_id="e", state="RUNNING", created=clock.time - 20)
    box.add_run(run_id="f", state="INITIALIZING")
    assert "".join(await ids(client, **params)) == wanted


async def test_a_filter_by_state_follows_the_clock(lab: Lab, clock: Clock) -> None:
    client = await lab(now=clock.now)
    client.box.add_run(script=Script(run_seconds=60), state="RUNNING")
    assert [len(await ids(client, state=word)) for word in ("running", "completed")] == [1, 0]
    clock.time += 59
    assert [len(await ids(client, state=word)) for word in ("running", "completed")] == [1, 0]
    clock.time += 1
    assert [len(await ids(client, state=word)) for word in ("running", "completed")] == [0, 1]
    client.box.add_run()
    assert len(await ids(client, state="completed")) == 2


@pytest.mark.parametrize("path", ["/runs", "/test-plan-executions", "/jobs"])
@pytest.mark.parametrize("prefix", ["", "/project/sandbox-project"])
async def test_pages_hold_every_row_once(lab: Lab, path: str, prefix: str) -> None:
    client = await lab()
    for _ in range(45):
        client.box.add_run()
        client.box.add_execution()
    rows: list[Any] = []
    for page in range(3):
        answer = await client.api("GET", prefix + path, params={"page": page})
        rows += answer.json["data"]
        assert answer.json["pagination"] == {
            "page": page,
            "page_size": 20,
            "total_count": 45,
            "total_pages": 3,
        }
    names = [row.get("multiplayer_run_id") or row.get("job_id") or row["id"] for row in rows]
    assert len(set(names)) == 45
    beyond = await client.api("GET", prefix + path, params={"page": 3, "page_size": 15})
    assert (beyond.status, beyond.json["data"]) == (200, [])


@pytest.mark.parametrize("path", ["/runs", "/test-plan-executions"])
async def test_an_empty_list_has_no_page(lab: Lab, path: str) -> None:
    answer = await (await lab()).api("GET", path)
    assert answer.json == {
        "data": [],
        "pagination": {"page": 0, "page_size": 20, "total_count": 0, "total_pages": 0},
    }


@pytest.mark.parametrize(
    ("path", "name", "value"),
    [
        (path, name, value)
        for path in ("/runs", "/test-plan-executions", "/jobs")
        for name, value in (
            ("page", "-1"),
            ("page", "x"),
            ("page", ""),
            ("page", "1.0"),
            ("page", "9" * 5000),
            ("page_size", "0"),
            ("page_size", "101"),
            ("page_size", "٣"),
        )
    ]
    + [
        ("/runs", "state", "Running"),
        ("/runs", "state", ""),
        ("/runs", "bugs", "1"),
        ("/runs", "job_id", "1"),
        ("/runs", "multiplayer_test_id", ""),
        ("/runs", "test_plan_execution_id", NOWHERE + "0"),
        ("/jobs", "status", "RUNNING"),
        ("/jobs", "status", ""),
        ("/jobs", "test_plan_execution_id", "x"),
        ("/jobs", "multiplayer_test_id", NOWHERE + "0"),
        ("/test-plan-executions", "status", "running"),
        ("/test-plan-executions", "sort_by", "name"),
        ("/test-plan-executions", "sort_order", "ASC"),
        ("/test-plan-executions", "build_id", "x"),
        ("/test-plan-executions", "test_plan_id", "x"),
    ],
)
async def test_a_bad_parameter_is_refused(lab: Lab, path: str, name: str, value: str) -> None:
    answer = await (await lab()).api("GET", path, params={name: value})
    assert answer.status == 400
    assert name in answer.json["error"]


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/runs/nope", "run not found"),
        ("/runs/run000000001", "run not found"),
        ("/runs/run0000000001", "run not found"),
        ("/runs/nope/bugs", "run not found"),
        (f"/jobs/{NOWHERE}", "job not found"),
        ("/jobs/a0b00000-0000-4000-8000-000000000001", "job not found"),
    ],
)
async def test_what_is_not_there_is_not_found(lab: Lab, path: str, error: str) -> None:
    answer = await (await lab()).api("GET", path)
    assert (answer.status, answer.json) == (404, {"error": error})


async def test_a_job_id_must_be_a_uuid(lab: Lab) -> None:
    assert (await (await lab()).api("GET", "/jobs/1")).status == 400


async def test_a_job_may_hold_several_runs(lab: Lab) -> None:
    client = await lab()
    first = client.box.add_run()
    client.box.add_run(job_id=first.job_id, script=FAILED)
    job = (await client.api("GET", f"/jobs/{first.job_id}")).json
    assert [run["result"] for run in job["runs"]] == ["SUCCESS", "FAILED"]
    assert len(await ids(client, job_id=first.job_id)) == 2
    assert isinstance(first.job, Job)


async def test_another_script_takes_effect_at_once(lab: Lab, clock: Clock) -> None:
    client = await lab(now=clock.now)
    run = client.box.add_run(state="RUNNING", script=Script(run_seconds=math.inf))
    assert await ids(client, state="completed") == []
    client.box.set_script(run.run_id, Script(run_seconds=0, result="ERROR"))
    assert await ids(client, state="completed") == [run.run_id]
    with pytest.raises(KeyError):
        client.box.set_script("nope", Script())


async def test_a_chosen_id_is_taken_once(lab: Lab) -> None:
    box = (await lab()).box
    box.add_run(run_id="k3v9q0zt7mx")
    box.add_execution(execution_id="e")
    for make in (
        lambda: box.add_run(run_id="k3v9q0zt7mx"),
        lambda: box.add_run(run_id="run000000009"),
        lambda: box.add_run(job_id="a0b00000-0000-4000-8000-000000000009"),
        lambda: box.add_execution(execution_id="e"),
        lambda: box.add_execution(execution_id="e0ec0000-0000-4000-8000-000000000001"),
    ):
        with pytest.raises(ValueError, match="taken"):
            make()
    assert len(box.runs) == 1


async def test_what_goes_on_for_good_is_not_completed(lab: Lab) -> None:
    box = (await lab()).box
    with pytest.raises(ValueError, match="never completed"):
        box.add_run(script=Script(run_seconds=math.inf))
    with pytest.raises(ValueError, match="never completed"):
        box.add_execution(outcome=Outcome(run_seconds=math.inf))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Script(run_seconds=-1),
        lambda: Script(run_seconds=math.nan),
        lambda: Script(queue_seconds=math.inf),
        lambda: Outcome(passed=-1),
        lambda: MultiplayerTest(id="x", name="x", players=0),
        lambda: Artifact(filename="x", size=-1),
    ],
)
def test_an_impossible_script_is_refused(make: Any) -> None:
    with pytest.raises(ValueError, match="must be"):
        make()


async def executions(client: Client, **params: Any) -> list[Any]:
    answer = await client.api("GET", "/test-plan-executions", params=params)
    assert answer.status == 200, answer.raw
    return list(answer.json["data"])


async def test_an_execution_goes_through_its_states_by_the_clock(lab: Lab, clock: Clock) -> None:
    client = await lab(now=clock.now)
    outcome = Outcome(passed=2, failed=1, stopped=1, skipped=1, queue_seconds=5, run_seconds=50)
    client.box.add_execution(status="queued", outcome=outcome)
    seen = []
    for moment in (0, 5, 30, 55):
        clock.time = 1_780_000_000.0 + moment
        (row,) = await executions(client)
        seen.append((row["status"], tuple(row["test_status"].values()), row["duration_ms"]))
        assert row["total_tests"] == 5
        assert len(await executions(client, status=row["status"])) == 1
    # passed, failed, stopped, queued, running
    assert seen == [
        ("queued", (0, 0, 0, 5, 0), None),
        ("in_progress", (0, 0, 0, 4, 1), None),
        ("in_progress", (2, 0, 0, 2, 1), None),
        ("completed", (2, 1, 2, 0, 0), 55_000),
    ]


async def test_runs_decide_what_their_execution_comes_to(lab: Lab, clock: Clock) -> None:
    client = await lab(now=clock.now)
    execution = client.box.add_execution(outcome=Outcome(passed=9))
    for script in (Script(), FAILED, Script(result="STOPPED"), Script(run_seconds=500)):
        client.box.add_run(execution=execution, script=script, created=clock.time - 100)
    (row,) = await executions(client)
    assert (row["status"], row["total_tests"]) == ("in_progress", 4)
    assert row["test_status"] == {
        "passed": 1,
        "failed": 1,
        "stopped": 1,
        "queued": 0,
        "running": 1,
    }
    assert isinstance(execution, Execution)


@pytest.mark.parametrize(
    ("params", "wanted"),
    [
        ({}, "4321"),
        ({"sort_order": "asc"}, "1234"),
        ({"sort_by": "start_time", "sort_order": "desc"}, "4321"),
        ({"sort_by": "test_plan_name"}, "4213"),
        ({"sort_by": "test_plan_name", "sort_order": "asc"}, "3421"),
        ({"sort_by": "build_name"}, "4312"),
        ({"sort_by": "build_name", "sort_order": "asc"}, "2143"),
        ({"status": "completed"}, "321"),
        ({"status": "in_progress"}, "4"),
        ({"status": "queued"}, ""),
        ({"build_id": "cccccccc-0000-4000-8000-000000000001"}, "1"),
        ({"test_plan_id": "cccccccc-0000-4000-8000-000000000002"}, "3"),
        ({"test_plan_id": NOWHERE}, ""),
    ],
    ids=str,
)
async def test_executions_are_filtered_and_sorted(
    lab: Lab, clock: Clock, params: dict[str, str], wanted: str
) -> None:
    client = await lab(now=clock.now)
    box = client.box
    other = TestPlan(id="cccccccc-0000-4000-8000-000000000002", name="A plan", tests=box.tests)
    builds = [Build("cccccccc-0000-4000-8000-000000000001", "b"), Build(NOWHERE, "a"), None]
    box.add_execution(execution_id="1", build=builds[0])
    box.add_execution(execution_id="2", build=builds[1])
    box.add_execution(execution_id="3", plan=other)
    box.add_execution(execution_id="4", created=clock.time - 10)
    assert "".join(row["id"] for row in await executions(client, **params)) == wanted


async def test_ten_thousand_runs_are_no_burden(lab: Lab) -> None:
    client = await lab()
    scripts = (Script(), FAILED)
    for number in range(10_000):
        client.box.add_run(script=scripts[number % 2], tags=("even",) if number % 2 else ())
    before = time.process_time()
    pages = [await ids(client, page=page, page_size=100, bugs="true") for page in range(0, 50, 5)]
    assert len({one for page in pages for one in page}) == 1000
    assert time.process_time() - before < 2.0  # seconds for 10 pages; 0.1 where it was written


async def test_requests_are_journaled(lab: Lab) -> None:
    client = await lab()
    run = client.box.add_run()
    for path in (
        "/runs",
        f"/runs/{run.run_id}",
        f"/runs/{run.run_id}/bugs",
        "/test-plan-executions",
        f"/jobs/{run.job_id}",
        "/jobs",
    ):
        for prefix in ("", "/project/sandbox-project"):
            assert (await client.api("GET", prefix + path)).status == 200
    await client.api("POST", "/runs", json={"instructions": "x"})
    await client.api("POST", "/runs/stop", json={"job_ids": ["x"]})
    assert client.box.journal.operations() == [
        *("list_runs", "list_runs", "get_run", "get_run", "list_run_bugs", "list_run_bugs"),
        *("list_test_plan_executions", "list_test_plan_executions", "get_job", "get_job"),
        *("list_jobs", "list_jobs", "start_run", "stop_runs"),
    ]
    assert client.box.journal[-1].body == {"job_ids": ["x"]}
