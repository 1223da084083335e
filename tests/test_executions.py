"""Executions of test plans over real sockets."""

from __future__ import annotations

import copy
import pickle
from datetime import UTC, datetime
from typing import Any

import pytest
from scripted import BUILD, EXECUTION, PLAN, answered, execution, json_answer, page

from nunu_async import DecodeError, InputError, PermissionDenied
from nunu_async.models.test_plan_executions import TestPlanExecution
from nunu_async.models.vocab import ExecutionStatus

COUNTS = {"passed": 3, "failed": 1, "stopped": 0, "queued": 1, "running": 1}


async def listed(row: object) -> TestPlanExecution:
    async with answered(json_answer(page([row]))) as wire:
        (made,) = (await wire.nunu.test_plan_executions.list_page()).data
    return made


@pytest.mark.parametrize(
    ("filters", "query"),
    [
        ({}, "page=0&page_size=20"),
        ({"page": 7, "page_size": 100}, "page=7&page_size=100"),
        ({"test_plan_id": PLAN}, f"test_plan_id={PLAN}&page=0&page_size=20"),
        ({"build_id": BUILD}, f"build_id={BUILD}&page=0&page_size=20"),
        ({"status": "completed"}, "status=completed&page=0&page_size=20"),
        ({"status": "in_progress"}, "status=in_progress&page=0&page_size=20"),
        ({"status": "queued"}, "status=queued&page=0&page_size=20"),
        ({"status": "In_Progress"}, "status=in_progress&page=0&page_size=20"),
        ({"status": ExecutionStatus("COMPLETED")}, "status=completed&page=0&page_size=20"),
        ({"sort_by": "START_TIME"}, "sort_by=start_time&page=0&page_size=20"),
        ({"sort_order": "DESC"}, "sort_order=desc&page=0&page_size=20"),
        ({"sort_by": "start_time"}, "sort_by=start_time&page=0&page_size=20"),
        ({"sort_by": "test_plan_name"}, "sort_by=test_plan_name&page=0&page_size=20"),
        ({"sort_by": "build_name"}, "sort_by=build_name&page=0&page_size=20"),
        ({"sort_order": "asc"}, "sort_order=asc&page=0&page_size=20"),
        ({"sort_order": "desc"}, "sort_order=desc&page=0&page_size=20"),
        (
            {
                "sort_order": "asc",
                "sort_by": "build_name",
                "status": "queued",
                "build_id": "b",
                "test_plan_id": "p",
            },
            (
                "test_plan_id=p&build_id=b&status=queued&sort_by=build_name&sort_order=asc"
                "&page=0&page_size=20"
            ),
        ),
    ],
)
async def test_a_list_asks_for_what_was_asked(filters: dict[str, Any], query: str) -> None:
    async with answered(json_answer(page([]))) as wire:
        await wire.nunu.test_plan_executions.list_page(**filters)
    assert wire.lines == [f"GET /api/v1/test-plan-executions?{query}"]
    assert wire.bodies == [b""]


async def test_a_walk_asks_with_the_same_filters_for_every_page() -> None:
    async with answered(
        json_answer(page([execution(id="a")], size=1, count=2)),
        json_answer(page([execution(id="b")], number=1, size=1, count=2)),
    ) as wire:
        walk = wire.nunu.test_plan_executions.list(status="queued", sort_order="asc", page_size=1)
        rows = [row.id async for row in walk]
    assert rows == ["a", "b"]
    asked = "GET /api/v1/test-plan-executions?status=queued&sort_order=asc&page={}&page_size=1"
    assert wire.lines == [asked.format(0), asked.format(1)]


@pytest.mark.parametrize(
    ("filters", "field"),
    [
        ({"status": 5}, "status"),
        ({"status": "running"}, "status"),
        ({"status": ""}, "status"),
        ({"sort_by": "name"}, "sort_by"),
        ({"sort_order": "down"}, "sort_order"),
        ({"page": -1}, "page"),
        ({"page": None}, "page"),
        ({"page_size": 0}, "page_size"),
        ({"page_size": 101}, "page_size"),
        ({"page_size": True}, "page_size"),
    ],
)
async def test_what_breaks_a_limit_is_refused_by_name_and_not_sent(
    filters: dict[str, Any], field: str
) -> None:
    async with answered(json_answer({})) as wire:
        with pytest.raises(InputError) as caught:
            await wire.nunu.test_plan_executions.list_page(**filters)
        assert caught.value.field == field
        if field != "page":
            with pytest.raises(InputError):
                wire.nunu.test_plan_executions.list(**filters)
    assert wire.lines == []


@pytest.mark.parametrize(
    "row",
    [
        execution(),
        execution(status="COMPLETED", completed_at="2026-04-11T06:20:00.000Z"),
        execution(duration_ms=600000.25),
        execution(duration_ms=600000),
        execution(started_by=None),
        execution(started_by={"type": "api", "value": {"key_id": "k"}}),
        execution(test_status=COUNTS | {"skipped": 2}),
        execution(test_status=COUNTS | {"blocked": 4}, priority=[1]),
        execution(status="rehearsing"),
        execution(build_id=None, build_name=None, test_plan_id=None, test_plan_name=None),
        {"id": EXECUTION, "status": "queued", "total_tests": 0, "test_status": COUNTS},
    ],
)
async def test_an_execution_of_every_shape_is_read_without_loss(row: dict[str, Any]) -> None:
    made = await listed(row)
    given = made.to_dict()
    for name in ("started_at", "completed_at"):
        if row.get(name):
            assert datetime.fromisoformat(str(given[name])) == datetime.fromisoformat(row[name])
            given[name] = row[name]
    assert given == row


async def test_a_time_is_aware() -> None:
    made = await listed(execution())
    assert made.started_at == datetime(2026, 4, 11, 6, 10, tzinfo=UTC)
    assert made.completed_at is None


@pytest.mark.parametrize(
    ("status", "passed", "terminal", "succeeded"),
    [
        ("completed", 6, True, True),
        ("COMPLETED", 6, True, True),
        ("completed", 5, True, False),
        ("in_progress", 6, False, False),
        ("queued", 0, False, False),
        ("rehearsing", 6, False, False),
    ],
)
async def test_every_caller_s_question_has_an_answer(
    status: str, passed: int, terminal: bool, succeeded: bool
) -> None:
    made = await listed(execution(status=status, test_status=COUNTS | {"passed": passed}))
    assert made.is_terminal is terminal
    assert made.succeeded is succeeded
    assert isinstance(made.status, ExecutionStatus)
    assert str(made.status) == status


@pytest.mark.parametrize(
    ("row", "place"),
    [
        (execution(id=None), "$.data[0].id"),
        (execution(status=None), "$.data[0].status"),
        (execution(status=["queued"]), "$.data[0].status"),
        (execution(total_tests=None), "$.data[0].total_tests"),
        (execution(total_tests=6.5), "$.data[0].total_tests"),
        (execution(total_tests="6"), "$.data[0].total_tests"),
        (execution(test_status=None), "$.data[0].test_status"),
        (execution(test_status=COUNTS | {"passed": None}), "$.data[0].test_status.passed"),
        (execution(test_status=COUNTS | {"skipped": True}), "$.data[0].test_status.skipped"),
        (execution(started_at="soon"), "$.data[0].started_at"),
        (execution(started_at=0), "$.data[0].started_at"),
        (execution(duration_ms="1"), "$.data[0].duration_ms"),
        (execution(build_name=7), "$.data[0].build_name"),
        (None, "$.data[0]"),
    ],
)
async def test_a_wrong_type_in_a_row_has_its_path(row: object, place: str) -> None:
    with pytest.raises(DecodeError) as caught:
        await listed(row)
    assert caught.value.operation == "list_test_plan_executions"
    assert [p.rpartition(" @ ")[2] for p in caught.value.problems] == [place]


@pytest.mark.parametrize("name", ["id", "status", "total_tests", "test_status"])
async def test_a_missing_required_member_of_a_row_has_its_path(name: str) -> None:
    row = execution()
    del row[name]
    with pytest.raises(DecodeError) as caught:
        await listed(row)
    assert caught.value.problems == (f"is missing @ $.data[0].{name}",)


@pytest.mark.parametrize("name", sorted(COUNTS))
async def test_a_missing_count_has_its_path(name: str) -> None:
    with pytest.raises(DecodeError) as caught:
        await listed(execution(test_status={n: 1 for n in COUNTS if n != name}))
    assert caught.value.problems == (f"is missing @ $.data[0].test_status.{name}",)


async def test_a_whole_number_may_come_with_a_point() -> None:
    made = await listed(execution(total_tests=6.0))
    assert type(made.total_tests) is int


async def test_a_page_tells_where_it_stands_and_what_it_came_in() -> None:
    body = page([execution()], number=3, size=1, count=9) | {"took_ms": 4}
    async with answered(json_answer(body, X_Request_Id="req-1")) as wire:
        made = await wire.nunu.test_plan_executions.list_page(page=3, page_size=1)
    place = made.pagination
    assert (place.page, place.page_size, place.total_count, place.total_pages) == (3, 1, 9, 9)
    assert made.extra == {"took_ms": 4}
    assert made.response is not None
    assert made.response.request_id == "req-1"


async def test_a_key_without_the_permission_is_permission_denied() -> None:
    words = "API key missing required permission: project:read-runs"
    async with answered(json_answer({"error": words}, 403)) as wire:
        with pytest.raises(PermissionDenied) as caught:
            await wire.nunu.test_plan_executions.list_page()
    assert caught.value.message == words


async def test_an_execution_survives_copy_and_pickle() -> None:
    made = await listed(execution(mood="calm"))
    for again in (copy.copy(made), copy.deepcopy(made), pickle.loads(pickle.dumps(made))):  # noqa: S301 - ours
        assert again == made
        assert again.to_dict() == made.to_dict()
