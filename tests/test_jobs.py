"""Jobs: what is asked, what is read, and what counts as success."""

from __future__ import annotations

import json
from typing import Any

import pytest
from scripted import BUILD, EXECUTION, JOB, PROJECT, RUN, TEST, answered, json_answer, page

from nunu_async import InputError, Job, JobStatus, NotFound, NunuClient
from nunu_async.core import codec


def job(**members: Any) -> dict[str, Any]:
    return {
        "job_id": JOB,
        "project_id": PROJECT,
        "status": "COMPLETED",
        "created_at": "2026-04-11T06:12:03.114520+00:00",
        "completed_at": "2026-04-11T06:19:02.431007+00:00",
        "multiplayer_test_id": TEST,
        "test_name": "Shop purchase flow",
        "platform": "lt_phone",
        "build_id": BUILD,
        "test_plan_execution_id": EXECUTION,
        "queue_rejection_reason": None,
        "templating_enabled": False,
        "template_data": None,
        "stopped_by": None,
        "tags": ["nightly"],
        "retries": {"total": 1, "remaining": 1},
        "runs": [
            {
                "multiplayer_run_id": RUN,
                "state": "COMPLETED",
                "result": "SUCCESS",
                "started_at": "2026-04-11T06:12:31.800112+00:00",
                "completed_at": "2026-04-11T06:19:02.431007+00:00",
                "players": 2,
            }
        ],
    } | members


async def test_a_job_is_read_whole_and_comes_back() -> None:
    async with answered(json_answer(job(new="x"), x_request_id="q-1")) as wire:
        found = await wire.nunu.jobs.get(JOB)
    assert wire.lines == [f"GET /api/v1/jobs/{JOB}"]
    assert found.to_dict() == job(new="x")
    assert found.extra == {"new": "x"}
    assert found.response is not None
    assert found.response.request_id == "q-1"
    assert found.is_terminal
    assert found.succeeded


@pytest.mark.parametrize("status", ["completed", "COMPLETED", "Completed"])
def test_the_status_is_compared_without_case(status: str) -> None:
    read = codec.structure(job(status=status), Job)
    assert read.status == JobStatus.COMPLETED
    assert read.is_terminal


@pytest.mark.parametrize("left_out", ["retries", "tags", "test_name", "platform", "stopped_by"])
def test_what_may_be_missing_may_be_missing(left_out: str) -> None:
    body = job()
    del body[left_out]
    assert codec.structure(body, Job).to_dict() == body


@pytest.mark.parametrize(
    ("status", "results", "used", "good"),
    [
        ("COMPLETED", ["SUCCESS"], 0, True),
        ("COMPLETED", ["success"], 0, True),
        ("COMPLETED", ["FAILED"], 0, False),
        ("COMPLETED", ["FAILED", "SUCCESS"], 1, True),
        ("COMPLETED", ["ERROR", "FAILED"], 1, False),
        ("COMPLETED", ["ERROR", "ERROR", "SUCCESS"], 2, True),
        ("COMPLETED", ["SUCCESS", "SUCCESS", "SUCCESS"], 0, True),
        ("COMPLETED", ["SUCCESS", "FAILED", "SUCCESS"], 0, False),
        ("COMPLETED", ["SUCCESS", "FAILED", "SUCCESS"], 1, True),
        ("COMPLETED", ["STOPPED"], 0, False),
        ("COMPLETED", [None], 0, False),
        ("COMPLETED", [], 0, False),
        ("RUNNING", ["SUCCESS"], 0, False),
        ("CLEANING_UP", ["SUCCESS"], 0, False),
    ],
)
def test_success_is_every_instance_in_the_end(
    status: str, results: list[str | None], used: int, good: bool
) -> None:
    runs = [{"multiplayer_run_id": RUN, "result": result, "players": 1} for result in results]
    body = job(status=status, runs=runs, retries={"total": 3, "remaining": 3 - used})
    assert codec.structure(body, Job).succeeded is good


async def test_the_list_is_asked_for_with_every_filter() -> None:
    async with answered(json_answer(page([job()], size=50))) as wire:
        listing = wire.nunu.jobs.list(
            status="running",
            test_plan_execution_id=EXECUTION,
            multiplayer_test_id=TEST,
            tags=["a", "b"],
            page_size=50,
        )
        assert [found.job_id async for found in listing] == [JOB]
    (line,) = wire.lines
    assert line == (
        f"GET /api/v1/jobs?status=running&test_plan_execution_id={EXECUTION}"
        f"&multiplayer_test_id={TEST}&tags=a,b&page=0&page_size=50"
    )


async def test_one_page_is_one_request_under_the_project_too() -> None:
    body = page([job()])
    async with answered(json_answer(body), project_id=PROJECT, path_style="project") as wire:
        found = await wire.nunu.jobs.list_page(page=3)
    assert wire.lines == [f"GET /api/v1/project/{PROJECT}/jobs?page=3&page_size=20"]
    assert json.loads(json.dumps(found.data[0].to_dict())) == job()


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"status": "done"}, "status"),
        ({"test_plan_execution_id": ""}, "test_plan_execution_id"),
        ({"multiplayer_test_id": 7}, "multiplayer_test_id"),
        ({"tags": "a"}, "tags"),
        ({"page_size": 101}, "page_size"),
        ({"page_size": 0}, "page_size"),
    ],
)
async def test_what_cannot_be_meant_is_not_sent(arguments: dict[str, Any], field: str) -> None:
    async with NunuClient("k" * 20, base_url="http://127.0.0.1:9") as nunu:
        with pytest.raises(InputError) as caught:
            nunu.jobs.list(**arguments)
        assert caught.value.field == field
        with pytest.raises(InputError):
            await nunu.jobs.list_page(**arguments)
        with pytest.raises(InputError):
            await nunu.jobs.get("../runs")


async def test_an_unknown_job_is_not_found() -> None:
    async with answered(json_answer({"error": "job not found"}, 404)) as wire:
        with pytest.raises(NotFound, match="job not found"):
            await wire.nunu.jobs.get(JOB)
