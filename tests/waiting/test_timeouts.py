"""Waits with a timeout, and what the error has."""

from __future__ import annotations

import asyncio
import math

import pytest
from doubles import HeldClock, raw_server, until
from scripted import KEY, Reply, answered, json_answer, page, run
from waits import KINDS, UUID, OpenWorld, executions, id_of, lists, others, spawn

from nunu_async import Change, NunuClient, TestPlanExecution, WaitTimeout


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [2, 5])
async def test_a_timeout_has_results_and_the_last_states_of_the_rest(
    world: OpenWorld, kind: str, count: int
) -> None:
    on = await world()
    slow = [on.add(kind, math.inf) for _ in range(count)]
    quick = on.add(kind, 5)
    began = on.clock.now
    with pytest.raises(WaitTimeout) as caught:
        await on.many(kind, [slow[0], quick, *slow[1:]], timeout=60, interval=7)
    # Time moves in steps as long as a pause here.
    assert 60 <= on.clock.now - began <= 70
    error = caught.value
    assert list(error.finished) == [quick]
    assert error.finished[quick].is_terminal  # type: ignore[attr-defined]
    assert set(error.pending) == set(slow)
    assert {str(state).upper() for state in error.pending.values()} <= {
        "RUNNING",
        "IN_PROGRESS",
    }
    assert on.clock.waiting == 0


async def test_a_timeout_before_the_first_answer_knows_no_state() -> None:
    clock = HeldClock()

    async def exchange(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        await reader.read()

    async with (
        raw_server(exchange) as server,
        NunuClient(KEY, base_url=server.url, clock=clock) as nunu,
    ):
        task = spawn(nunu.wait_for_executions(["a", "b"], timeout=5))
        await until(lambda: server.heads)
        clock.advance(5)
        with pytest.raises(WaitTimeout) as caught:
            await task
        assert caught.value.pending == {"a": None, "b": None}
        assert caught.value.finished == {}
        assert clock.waiting == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_a_timeout_of_one_wait_leaves_others_alone(world: OpenWorld, kind: str) -> None:
    on = await world()
    names = [on.add(kind, 100) for _ in range(4)]
    short = spawn(on.many(kind, names, timeout=30))
    alone = spawn(on.one(kind, names[0], timeout=40))
    long = spawn(on.many(kind, names))
    with pytest.raises(WaitTimeout):
        await short
    with pytest.raises(WaitTimeout):
        await alone
    assert [id_of(row) for row in await long] == names


async def test_a_timeout_also_names_what_the_server_does_not_know(world: OpenWorld) -> None:
    on = await world()
    slow = on.add("execution", math.inf)
    with pytest.raises(WaitTimeout) as caught:
        await on.many("execution", [slow, UUID.format(1)], timeout=120)
    assert set(caught.value.pending) == {slow, UUID.format(1)}


@pytest.mark.parametrize("how", ["one", "many", "as_completed"])
async def test_a_result_missing_at_the_timeout_is_no_timeout(how: str) -> None:
    """And no poll is left that goes on waiting for the result."""
    row = run(state="COMPLETED", result=None)
    name = row["multiplayer_run_id"]

    def reply(target: str) -> Reply:
        return json_answer(page([]) if "/runs?" in target else row)

    async with answered(reply=reply) as wire:
        if how == "one":
            found = await wire.nunu.wait_for_run(name, timeout=2, interval=1)
        elif how == "many":
            (found,) = await wire.nunu.wait_for_runs([name], timeout=2, interval=1)
        else:
            rows = wire.nunu.runs_as_completed([name], timeout=2, interval=1)
            (found,) = [one async for one in rows]
        assert found.is_terminal
        assert wire.nunu._polling.runs._poller._task is None or not len(
            wire.nunu._polling.runs._poller._schedule
        )


async def test_a_timeout_does_not_wait_for_further_callbacks() -> None:
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


async def test_a_wait_within_a_time_limit_of_the_caller_ends_with_it(world: OpenWorld) -> None:
    clock = HeldClock()
    on = await world(clock)
    name = on.add("run", math.inf)
    limit = asyncio.Event()

    async def waiting() -> None:
        async with asyncio.timeout(None) as within:
            task = spawn(limit.wait())
            task.add_done_callback(lambda _: within.reschedule(asyncio.get_running_loop().time()))
            await on.one("run", name)

    task = spawn(waiting())
    await clock.settle()
    limit.set()
    with pytest.raises(TimeoutError):
        await task
    assert not others()
