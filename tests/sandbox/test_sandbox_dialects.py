"""The bodies of other dates."""

from typing import Any

import pytest
from sandbox_client import Client, Clock, Lab

from nunu_async.sandbox import Bug, Outcome, Sandbox, Script, Step

NOWHERE = "00000000-0000-4000-8000-000000000000"
SCRIPT = Script(
    result="FAILED",
    run_seconds=30.0005,
    bugs=(Bug(bug_id="b"),),
    steps=(
        Step(goal="a", finish_condition="it is so"),
        Step(goal="b", result="FAILED"),
    ),
)


async def first(client: Client, clock: Clock) -> Any:
    body = {
        "multiplayer_test_id": client.box.tests[0].id,
        "deployment_config_id": client.box.deployment_configs[0].id,
    }
    answer = await client.api("POST", "/runs", json=body)
    assert answer.status == 201
    clock.time += 100
    return answer.json


async def run(client: Client) -> Any:
    (row,) = (await client.api("GET", "/runs")).json["data"]
    return (await client.api("GET", f"/runs/{row['multiplayer_run_id']}")).json


async def test_january(lab: Lab, clock: Clock) -> None:
    client = await lab(dialect="J", now=clock.now, script=SCRIPT)
    answer = await first(client, clock)
    row = await run(client)
    assert answer == {
        "ok": True,
        "status": 201,
        "message": "queued",
        "data": {
            "job_id": client.box.runs[0].job_id,
            "multiplayer_run_id": row["multiplayer_run_id"],
        },
    }
    assert (row["state"], row["result"]) == ("completed", "failure")
    assert "job_id" not in row
    assert row["created_at"] == "2026-05-28T20:26:40Z"
    assert (row["duration_ms"], type(row["duration_ms"])) == (30_000, int)
    (player,) = row["players"]
    assert player["player_number"] == 0
    assert player["platform"] == {"type": "android", "device": "Pixel 9"}
    assert "composite_test_id" not in player
    assert [step["run_result"] for step in player["steps"]] == ["success", "failure"]
    bugs = (await client.api("GET", f"/runs/{row['multiplayer_run_id']}/bugs")).json
    assert set(bugs) == {"multiplayer_run_id", "bug_occurrences"}


async def test_march(lab: Lab, clock: Clock) -> None:
    client = await lab(dialect="M", now=clock.now, script=SCRIPT)
    answer = await first(client, clock)
    assert (answer["ok"], answer["status"]) == (True, 200)
    assert answer["data"]["job_ids"] == [client.box.runs[0].job_id]
    row = await run(client)
    assert (row["state"], row["result"], row["duration_ms"]) == ("COMPLETED", "FAILED", 30_000.5)
    (player,) = row["players"]
    assert (player["player_number"], player["platform"]["kind"]) == (1, "android-native")
    bugs = (await client.api("GET", f"/runs/{row['multiplayer_run_id']}/bugs")).json
    assert [bug["bug_id"] for bug in bugs["bug_occurrences"]] == ["b"]


async def test_the_newest(lab: Lab, clock: Clock) -> None:
    client = await lab(dialect="N", now=clock.now, script=SCRIPT)
    assert "job_ids" in await first(client, clock)
    row = await run(client)
    (player,) = row["players"]
    assert player["base_agent"]["version"] == 7
    assert player["step_result_summary"] == {"SUCCESS": 1, "FAILED": 1}
    assert [app["role"] for app in row["apps"]] == ["main"]
    (item,) = player["steps"][0]["items"]
    assert (item["expected"], item["status"]) == ("it is so", "passed")
    assert player["steps"][1]["items"] == []
    client.box.add_execution(outcome=Outcome(passed=1, skipped=2))
    (execution,) = (await client.api("GET", "/test-plan-executions")).json["data"]
    counts = execution["test_status"]
    assert (counts["skipped"], counts["stopped"]) == (2, 0)


@pytest.mark.parametrize(
    ("dialect", "words"),
    [
        ("J", ["success", "failure", "error", "error", "failure", "failure", "error", "odd"]),
        ("M", ["SUCCESS", "FAILED", "ERROR", "STOPPED", "MAX_STEPS", "FAILED", "STOPPED", "ODD"]),
        ("L", ["SUCCESS", "FAILED", "ERROR", "STOPPED", "MAX_STEPS", "FAILED", "STOPPED", "ODD"]),
        ("N", ["SUCCESS", "FAILED", "ERROR", "STOPPED", "TIMEOUT", "BLOCKED", "SKIPPED", "ODD"]),
    ],
)
async def test_results_are_said_in_the_words_of_the_time(
    lab: Lab, dialect: str, words: list[str]
) -> None:
    client = await lab(dialect=dialect)
    for word in ["SUCCESS", "FAILED", "ERROR", "STOPPED", "TIMEOUT", "BLOCKED", "SKIPPED", "ODD"]:
        client.box.add_run(script=Script(result=word))
    rows = (await client.api("GET", "/runs")).json["data"]
    assert [row["result"] for row in rows][::-1] == words


@pytest.mark.parametrize(("dialect", "label"), [("J", "no_bugs"), ("L", "NO_BUG")])
async def test_no_bug_has_a_label(lab: Lab, dialect: str, label: str) -> None:
    client = await lab(dialect=dialect)
    client.box.add_run()
    client.box.add_run(test=client.box.tests[1])
    rows = (await client.api("GET", "/runs")).json["data"]
    assert [row["bug_info"] for row in rows] == [None, {"bug_label": label, "bug_count": 0}]


@pytest.mark.parametrize("dialect", ["J", "M"])
async def test_older_404s_say_more(lab: Lab, dialect: str) -> None:
    client = await lab(dialect=dialect)
    answer = await client.api("POST", "/runs/stop", json={"job_ids": ["x", "y"]})
    assert answer.status == 404
    assert (answer.json["ok"], answer.json["received_count"]) == (False, 2)
    assert answer.json["results"] == []
    body = {
        "multiplayer_test_id": NOWHERE,
        "deployment_config_id": client.box.deployment_configs[0].id,
    }
    answer = await client.api("POST", "/runs", json=body)
    assert (answer.status, answer.json) == (
        404,
        {
            "ok": False,
            "status": 404,
            "message": "multiplayer test not found",
            "error": "multiplayer test not found",
        },
    )


async def test_steps_to_come_are_pending_in_january(lab: Lab) -> None:
    client = await lab(dialect="J")
    client.box.add_run(state="INITIALIZING")
    (player,) = (await run(client))["players"]
    assert [step["run_state"] for step in player["steps"]] == ["pending", "pending"]


def test_an_unknown_dialect_is_refused() -> None:
    with pytest.raises(ValueError, match="dialect"):
        Sandbox(dialect="X")  # type: ignore[arg-type] - on purpose
