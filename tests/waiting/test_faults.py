"""A server that refuses, fails for a while, or is broken in part."""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from typing import Any

import pytest
from doubles import HeldClock, ManualClock, cancel, raw_server, until
from scripted import KEY, Reply, answered, execution, json_answer, page, run
from waits import (
    BROKEN,
    KINDS,
    ONCE,
    TROUBLES,
    UUID,
    OpenWorld,
    executions,
    id_of,
    lists,
    others,
    spawn,
)
from yarl import URL

from nunu_async import (
    ApiError,
    AuthenticationError,
    DecodeError,
    NotFound,
    NunuClient,
    PermissionDenied,
    RetryPolicy,
)
from nunu_async.sandbox import Fault, Sandbox

# --- What ends a wait.


@pytest.mark.parametrize(("status", "error"), [(401, AuthenticationError), (403, PermissionDenied)])
@pytest.mark.parametrize("refused", KINDS)
@pytest.mark.parametrize("count", [1, 5])
async def test_a_refused_key_ends_all_waits_of_all_kinds_at_once(
    world: OpenWorld, refused: str, count: int, status: int, error: type[ApiError]
) -> None:
    clock = HeldClock()
    on = await world(clock)
    tasks = []
    for kind in KINDS:
        names = [on.add(kind, math.inf) for _ in range(count)]
        # The kind that is to be refused polls first.
        interval = 5 if kind == refused else 10
        tasks.append(spawn(on.many(kind, names, interval=interval)))
        tasks.append(spawn(on.one(kind, names[0], interval=interval)))
    await until(lambda: clock.asleep == 3)
    for operation in ("run", "job"):
        on.box.add_fault(Fault(on=f"get_{operation}", status=status, times=None))
        on.box.add_fault(Fault(on=f"list_{operation}s", status=status, times=None))
    on.box.add_fault(Fault(on="list_test_plan_executions", status=status, times=None))
    pauses, requests = len(clock.sleeps), len(on.box.journal)
    clock.advance(6)
    done, _ = await asyncio.wait(tasks, timeout=20)
    assert len(done) == len(tasks)
    raised = [task.exception() for task in tasks]
    assert all(type(one) is error for one in raised)
    assert len({id(one) for one in raised}) == len(raised)
    assert len(clock.sleeps) == pauses
    assert len(on.box.journal) - requests <= 8
    await until(lambda: not others())
    assert clock.waiting == 0


async def test_a_refused_key_does_not_wait_for_an_answer_that_hangs() -> None:
    clock = ManualClock()
    hung = asyncio.Event()

    async def exchange(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        query = URL(head.split(b" ", 2)[1].decode()).query
        if query["page"] == "0":
            rows = [execution(id=f"other-{number}") for number in range(100)]
            body = page(rows, size=100, count=300)
            writer.write(json_answer(body))
        elif query["page"] == "1":
            await hung.wait()
            writer.write(json_answer({"error": "no"}, 401))
        else:
            hung.set()
            await reader.read()

    async with (
        raw_server(exchange) as server,
        NunuClient(KEY, base_url=server.url, clock=clock) as nunu,
    ):
        task = spawn(nunu.wait_for_execution(UUID.format(3)))
        done, _ = await asyncio.wait([task], timeout=3)
        if not done:
            await cancel(task)
            pytest.fail("401 came, and the wait goes on")
        assert isinstance(task.exception(), AuthenticationError)


async def test_a_new_wait_after_a_refused_one_polls_again(world: OpenWorld) -> None:
    on = await world()
    name = on.add("execution", 5)
    on.box.add_fault(Fault(on="list_test_plan_executions", status=403))
    with pytest.raises(PermissionDenied):
        await on.one("execution", name)
    assert (await on.one("execution", name)).is_terminal


# --- What passes.


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize(("kind", "count"), [("execution", 3), ("run", 1), ("run", 6), ("job", 6)])
async def test_trouble_that_passes_never_ends_a_wait(
    world: OpenWorld, kind: str, count: int, trouble: str
) -> None:
    on = await world(retry=ONCE)
    names = [on.add(kind, 30 + number) for number in range(count)]
    on.box.add_fault(Fault(on="*", first=2, times=25, **TROUBLES[trouble]))
    rows = await on.many(kind, names, interval=4)
    assert [id_of(row) for row in rows] == names
    # Without retries within a call every pause is one between two polls, except those that
    # all requests of the client make after a 429.
    assert trouble == "429" or min(on.clock.sleeps) >= 4


@pytest.mark.parametrize("trouble", ["503", "429 and when", "cut"])
async def test_trouble_from_the_first_request_never_ends_a_wait(
    world: OpenWorld, trouble: str
) -> None:
    on = await world()
    on.box.add_fault(Fault(on="*", times=60, **TROUBLES[trouble]))
    assert (await on.one("execution", on.add("execution", 30))).is_terminal
    assert (await on.one("run", on.add("run", 30))).is_terminal


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
    await reader.read()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_server_that_is_down_for_a_while_never_ends_a_wait(kind: str) -> None:
    """Nothing listens on its port: connections are refused."""
    clock = HeldClock()
    async with raw_server(silent) as gone:
        pass
    name = "abcdefghijk" if kind == "run" else UUID.format(1)
    async with NunuClient(Sandbox().api_key, base_url=gone.url, clock=clock, retry=ONCE) as nunu:
        task = spawn(getattr(nunu, f"wait_for_{kind}")(name))
        for _ in range(4):
            await clock.tick()
            await clock.settle()
        assert not task.done()
        async with Sandbox(port=gone.port) as box:
            if kind == "execution":
                box.add_execution(execution_id=name)
            elif kind == "run":
                box.add_run(run_id=name)
            else:
                box.add_run(job_id=name)
            await clock.tick()
            assert id_of(await task) == name


def spoil(box: Sandbox, chances: random.Random, requests: int) -> Counter[str]:
    """Answer 5% of the next requests with 503 and 3% with 429 and Retry-After; cut 2%."""
    done: Counter[str] = Counter()
    for number in range(1, requests + 1):
        chance = chances.random()
        if chance < 0.05:
            box.add_fault(Fault(on="*", first=number, status=503))
            done["503"] += 1
        elif chance < 0.07:
            box.add_fault(Fault(on="*", first=number, do="cut"))
            done["cut"] += 1
        elif chance < 0.10:
            wait = {"Retry-After": str(chances.randint(1, 20))}
            box.add_fault(Fault(on="*", first=number, status=429, headers=wait))
            done["429"] += 1
    return done


@pytest.mark.parametrize("attempts", ["repeated", "once"])
@pytest.mark.parametrize("how", ["apart", "together", "each"])
@pytest.mark.parametrize("kind", ["execution", "run", "job"])
async def test_all_finish_rightly_through_faults(
    world: OpenWorld, kind: str, how: str, attempts: str
) -> None:
    """Rows are over after 0 to 100 seconds of the sandbox's time, which is the client's."""
    chances = random.Random(f"{kind} {how} {attempts}")
    retry = RetryPolicy(attempts=1) if attempts == "once" else RetryPolicy()
    on = await world(retry=retry, api_concurrency=5)
    good: dict[str, bool] = {}
    for _ in range(400):
        is_good, seconds = chances.random() < 0.7, chances.uniform(0, 100)
        good[on.add(kind, seconds, "SUCCESS" if is_good else "FAILED")] = is_good
    names = list(good)
    chances.shuffle(names)
    done = spoil(on.box, chances, 150)
    assert sum(done.values()) >= 8
    if how == "apart":
        one = getattr(on.nunu, f"wait_for_{kind}")
        rows = list(await asyncio.gather(*map(one, names)))
    elif how == "together":
        rows = list(await on.many(kind, names))
    else:
        found = {}
        async for row in on.each(kind, names):
            assert id_of(row) not in found, "given twice"
            found[id_of(row)] = row
        rows = [found[name] for name in names]
    assert [id_of(row) for row in rows] == names
    assert all(row.is_terminal for row in rows)
    assert {id_of(row): row.succeeded for row in rows} == good
    assert on.box.journal.peak("api") <= 5
    assert on.clock.waiting == 0


async def test_five_thousand_waits_finish_rightly_through_faults(world: OpenWorld) -> None:
    chances = random.Random(4)
    on = await world(api_concurrency=6)
    good = {}
    for _ in range(5000):
        is_good, seconds = chances.random() < 0.5, chances.uniform(0, 60)
        good[on.add("execution", seconds, "SUCCESS" if is_good else "FAILED")] = is_good
    done = spoil(on.box, chances, 400)
    assert min(done.values()) >= 3
    rows = await asyncio.gather(*map(on.nunu.wait_for_execution, good))
    assert {row.id: row.succeeded for row in rows} == good
    assert [row.id for row in rows] == list(good)
    assert all(row.is_terminal for row in rows)
    assert on.box.journal.peak("api") <= 6
    statuses = Counter(seen.status for seen in on.box.journal)
    assert statuses[503] >= 3
    assert statuses[429] >= 3
    assert on.clock.waiting == 0


# --- What is broken for good in a part.


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
    requested: list[str] = []

    def reply(target: str) -> Reply:
        if "?" in target:
            return BROKEN
        requested.append(target.rpartition("/")[2])
        return json_answer(run(multiplayer_run_id=requested[-1], players=[]))

    async with answered(reply=reply) as wire:
        found = await wire.nunu.wait_for_runs(ids, timeout=10_000)
    assert [row.multiplayer_run_id for row in found] == ids
    assert sorted(requested) == sorted(ids)


def with_a_bad_row(kind: str) -> list[dict[str, Any]]:
    if kind == "execution":
        rows = executions(5, "completed")
        return [*rows, execution(id="bad", status="completed", total_tests=None)]
    rows = [run(multiplayer_run_id=f"completed-{number}") for number in range(5)]
    return [*rows, run(multiplayer_run_id="bad", project_id=None)]


async def test_an_invalid_row_of_another_run_is_skipped() -> None:
    rows = with_a_bad_row("execution")
    async with answered(reply=lists(rows, "status", set())) as wire:
        ids = [f"completed-{number}" for number in range(5)]
        found = await wire.nunu.wait_for_executions(ids, timeout=10_000)
        assert [row.id for row in found] == ids


async def test_an_invalid_row_costs_no_further_request() -> None:
    rows = with_a_bad_row("run")
    async with answered(reply=lists(rows, "state", set())) as wire:
        await wire.nunu.wait_for_runs([f"completed-{number}" for number in range(5)])
        assert len(wire.lines) == 2


async def test_an_invalid_row_ends_its_own_wait_with_the_reason() -> None:
    rows = with_a_bad_row("execution")
    async with answered(reply=lists(rows, "status", set())) as wire:
        with pytest.raises(DecodeError, match="total_tests"):
            await wire.nunu.wait_for_execution("bad", timeout=10_000)
        rows.pop()
        with pytest.raises(NotFound):
            await wire.nunu.wait_for_execution("unknown", timeout=10_000)


async def test_a_lenient_page_skips_invalid_rows() -> None:
    rows = with_a_bad_row("execution")
    async with answered(json_answer(page(rows))) as wire:
        with pytest.raises(DecodeError):
            await wire.nunu.test_plan_executions.list_page()
        found = await wire.nunu.test_plan_executions.list_page(lenient=True)
    assert len(found.data) == 5
    (problem,) = found.skipped
    assert "total_tests" in problem
    assert "$.data[5]" in problem
