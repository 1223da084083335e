"""Waiting on a service of which a part is broken for good."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from scripted import EXECUTION, JOB, Reply, answered, execution, page, run, told
from yarl import URL

from nunu_async import (
    Change,
    ConfigError,
    DecodeError,
    Job,
    NotFound,
    NunuClient,
    TestPlanExecution,
    WaitTimeout,
)
from nunu_async.sandbox import Sandbox

BROKEN = told({"error": "broken"}, 500)


def lists(rows: list[dict[str, Any]], state: str, broken: set[tuple[str, int]]) -> Any:
    """Answer for lists by state, some pages of which are broken."""

    def reply(target: str) -> Reply:
        query = URL(target).query
        number, size = int(query["page"]), int(query["page_size"])
        if (query[state], number) in broken:
            return BROKEN
        found = [row for row in rows if row[state].lower() == query[state]]
        shown = found[number * size : (number + 1) * size]
        return told(page(shown, number=number, size=size, count=len(found)))

    return reply


def executions(count: int, status: str) -> list[dict[str, Any]]:
    return [execution(id=f"{status}-{number}", status=status) for number in range(count)]


@pytest.mark.parametrize(
    "broken", [("queued", 0), ("in_progress", 0), ("completed", 0), ("completed", 2)]
)
async def test_a_page_that_fails_for_good_hides_only_what_is_on_it(
    broken: tuple[str, int],
) -> None:
    rows = executions(350, "completed") + executions(150, "in_progress")
    async with answered(reply=lists(rows, "status", {broken})) as wire:
        ids = ["completed-150", "completed-349"]
        found = await wire.nunu.wait_for_executions(ids, timeout=10_000)
        assert [row.id for row in found] == ids


async def test_runs_are_asked_for_one_by_one_where_their_list_is_broken() -> None:
    ids = [f"run{number}" for number in range(50)]
    asked: list[str] = []

    def reply(target: str) -> Reply:
        if "?" in target:
            return BROKEN
        asked.append(target.rpartition("/")[2])
        return told(run(multiplayer_run_id=asked[-1], players=[]))

    async with answered(reply=reply) as wire:
        found = await wire.nunu.wait_for_runs(ids, timeout=10_000)
    assert [row.multiplayer_run_id for row in found] == ids
    assert sorted(asked) == sorted(ids)


def with_a_bad_row(kind: str) -> list[dict[str, Any]]:
    if kind == "execution":
        rows = executions(5, "completed")
        return [*rows, execution(id="bad", status="completed", total_tests=None)]
    rows = [run(multiplayer_run_id=f"completed-{number}") for number in range(5)]
    return [*rows, run(multiplayer_run_id="bad", project_id=None)]


async def test_a_row_of_somebody_else_that_cannot_be_read_concerns_nobody() -> None:
    rows = with_a_bad_row("execution")
    async with answered(reply=lists(rows, "status", set())) as wire:
        ids = [f"completed-{number}" for number in range(5)]
        found = await wire.nunu.wait_for_executions(ids, timeout=10_000)
        assert [row.id for row in found] == ids


async def test_it_costs_no_request_more_for_runs_either() -> None:
    rows = with_a_bad_row("run")
    async with answered(reply=lists(rows, "state", set())) as wire:
        await wire.nunu.wait_for_runs([f"completed-{number}" for number in range(5)])
        assert len(wire.lines) == 2


async def test_a_row_that_is_waited_for_and_cannot_be_read_ends_its_wait_with_the_reason() -> None:
    rows = with_a_bad_row("execution")
    async with answered(reply=lists(rows, "status", set())) as wire:
        with pytest.raises(DecodeError, match="total_tests"):
            await wire.nunu.wait_for_execution("bad", timeout=10_000)
        rows.pop()
        with pytest.raises(NotFound):
            await wire.nunu.wait_for_execution("nobody", timeout=10_000)


async def test_a_page_without_the_rows_that_cannot_be_read() -> None:
    rows = with_a_bad_row("execution")
    async with answered(told(page(rows))) as wire:
        with pytest.raises(DecodeError):
            await wire.nunu.test_plan_executions.list_page()
        found = await wire.nunu.test_plan_executions.list_page(lenient=True)
    assert len(found.data) == 5
    (problem,) = found.skipped
    assert "total_tests" in problem
    assert "$.data[5]" in problem


async def test_a_pause_of_years_is_an_hour() -> None:
    said = [told({"error": "later"}, 429, retry_after="1000000000")]
    fine = told(page([execution(id=EXECUTION, status="completed")]))

    async with answered(reply=lambda _: said.pop() if said else fine) as wire:
        await wire.nunu.wait_for_execution(EXECUTION)
        assert wire.clock.sleeps == [3600.0]


async def test_a_timeout_does_not_wait_for_what_else_there_is_to_tell() -> None:
    seen: list[str] = []

    async with answered(reply=lists(executions(50, "in_progress"), "status", set())) as wire:

        async def slow(change: Change[TestPlanExecution]) -> None:
            seen.append(change.id)
            await asyncio.sleep(0)
            wire.clock.advance(100.0)

        with pytest.raises(WaitTimeout) as caught:
            await wire.nunu.wait_for_executions(
                [f"in_progress-{number}" for number in range(50)], timeout=60, on_change=slow
            )
    assert len(seen) == 1
    assert set(caught.value.pending.values()) == {"in_progress"}


async def test_waiting_belongs_to_one_loop() -> None:
    async with Sandbox() as box, NunuClient(box.api_key, base_url=box.base_url) as nunu:
        name = box.add_run().run_id
        await nunu.wait_for_run(name)

        def elsewhere() -> None:
            with pytest.raises(ConfigError, match="another event loop"):
                asyncio.run(nunu.wait_for_run(name))

        await asyncio.to_thread(elsewhere)


# --- Starting and waiting.


async def test_a_stop_that_does_not_stop_is_heard_of(caplog: pytest.LogCaptureFixture) -> None:
    begun = asyncio.Event()
    refused = {"job_id": JOB, "ok": False, "status": 500, "error": "busy"}

    def reply(target: str) -> Reply:
        if target.endswith("/runs/stop"):
            body = {"ok": False, "message": "", "received_count": 1, "stopped_count": 0}
            return told(body | {"results": [refused]}, 207)
        if target.endswith("/runs"):
            return told({"job_ids": [JOB]}, 201)
        begun.set()
        return told({"error": "later"}, 503)

    async with answered(reply=reply) as wire:
        task = asyncio.ensure_future(
            wire.nunu.run_and_wait(deployment_config_id="c", multiplayer_test_id="t")
        )
        await begun.wait()
        task.cancel()
        with caplog.at_level(logging.WARNING), pytest.raises(asyncio.CancelledError):
            await task
    assert f"job {JOB} was not stopped: busy" in caplog.text


async def test_what_a_listener_raises_stops_what_was_started() -> None:
    def change(_: Change[Job]) -> None:
        raise LookupError("mine")

    async with Sandbox() as box:
        async with NunuClient(box.api_key, base_url=box.base_url) as nunu:
            with pytest.raises(LookupError, match="mine"):
                await nunu.run_and_wait(
                    deployment_config_id=box.deployment_configs[0].id,
                    multiplayer_test_id=box.tests[0].id,
                    on_change=change,
                )
        assert [run.result(2e9) for run in box.runs] == ["STOPPED"]


async def test_a_start_that_names_an_execution_alone_is_waited_for_as_such() -> None:
    rows = [execution(id=EXECUTION, status="completed")]
    job = {
        "job_id": JOB,
        "status": "COMPLETED",
        "created_at": "2026-04-11T06:12:03Z",
        "runs": [{"multiplayer_run_id": "r", "result": "SUCCESS", "players": 1}],
    }

    def reply(target: str) -> Reply:
        if target.endswith("/runs"):
            return told({"job_ids": [], "test_plan_execution_id": EXECUTION}, 201)
        if "/jobs?" in target:
            assert f"test_plan_execution_id={EXECUTION}" in target
            return told(page([job]))
        return lists(rows, "status", set())(target)

    async with answered(reply=reply) as wire:
        finished = await wire.nunu.run_and_wait(deployment_config_id="c", test_plan_id="p")
    assert [one.job_id for one in finished.jobs] == [JOB]
    assert finished.succeeded
