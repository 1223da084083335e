"""The waits of one client share their polls: what they cost, and what is not shared."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import math
import time
import tracemalloc
from collections import Counter
from collections.abc import Sequence

import aiohttp
import pytest
from doubles import HeldClock, ManualClock, cancel
from scripted import Reply, answered, execution, json_answer, page
from waits import KINDS, UUID, OpenWorld, opened, paused, spawn
from yarl import URL

from nunu_async import ConfigError, NunuClient
from nunu_async.sandbox import Sandbox


async def test_ten_thousand_waits_cost_what_one_for_ten_thousand_costs(world: OpenWorld) -> None:
    many = 10_000
    clock = HeldClock()
    on = await world(clock)
    names = [on.add("execution", math.inf) for _ in range(many)]
    spent: dict[str, list[int]] = {}
    for how in ("apart", "together"):
        if how == "apart":
            tasks = [spawn(on.one("execution", name)) for name in names]
        else:
            tasks = [spawn(on.many("execution", names))]
        ticks = []
        for _ in range(2):
            before = len(on.box.journal)
            pauses = len(clock.sleeps)
            await paused(clock, pauses + 1, 60)
            ticks.append(len(on.box.journal) - before)
            await clock.tick()
        spent[how] = ticks
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    assert max(spent["apart"]) <= 101, spent
    assert spent["apart"] == spent["together"]
    assert on.box.journal.peak("api") <= 32


@pytest.mark.parametrize("kind", ["run", "job"])
async def test_a_thousand_runs_or_jobs_cost_ten_pages(world: OpenWorld, kind: str) -> None:
    clock = HeldClock()
    on = await world(clock)
    names = [on.add(kind, math.inf) for _ in range(1000)]
    tasks = [spawn(on.one(kind, name)) for name in names]
    for number in range(2):
        before = len(on.box.journal)
        await paused(clock, number + 1)
        assert len(on.box.journal) - before <= 11
        await clock.tick()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_old_executions_make_no_poll_dearer(world: OpenWorld) -> None:
    costs = []
    for history in (0, 3000):
        clock = HeldClock()
        on = await world(clock)
        for _ in range(history):
            on.add("execution", 0)
        names = [on.add("execution", math.inf) for _ in range(250)]
        task = spawn(on.many("execution", names))
        await clock.settle()
        before = len(on.box.journal)
        await clock.tick()
        await paused(clock, 2)
        costs.append(len(on.box.journal) - before)
        await cancel(task)
    assert costs[1] - costs[0] <= 2


@pytest.mark.parametrize("alone", [False, True])
async def test_waits_that_began_one_by_one_share_their_polls(alone: bool) -> None:
    """On a slow server, so that rows of one round are seen at different times.

    Where the first of many is `alone` for a turn, as each eager task is, a round begins for it.
    """
    clock = HeldClock(chance=0.0)
    count = 1000
    rows = [UUID.format(0)[:-6] + f"{number:06x}" for number in range(count)]
    requests = 0

    def reply(target: str) -> Reply:
        nonlocal requests
        requests += 1
        clock.advance(0.02)
        query = URL(target).query
        number = int(query["page"])
        shown = rows if query["status"] == "in_progress" else []
        part = [execution(id=name) for name in shown[number * 100 : number * 100 + 100]]
        return json_answer(page(part, number=number, size=100, count=len(shown)))

    async with answered(reply=reply, clock=clock) as wire:
        tasks = []
        for name in [*rows[:-1:3], *rows[1:-1:3], *rows[2:-1:3], rows[-1]]:
            tasks.append(spawn(wire.nunu.wait_for_execution(name)))
            if alone and len(tasks) % 250 == 1:
                await asyncio.sleep(0)
            if len(tasks) % 250 == 0:
                for _ in range(3):
                    await clock.tick()
        for _ in range(20):
            await clock.tick()
        began, before = clock.now, requests
        while clock.now < began + 100:
            await clock.tick()
        await clock.settle()
        rounds = (clock.now - began) / 10
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    assert (requests - before) / rounds <= 12


async def held_by(kind: str, count: int) -> int:
    """Return the bytes that so many waits hold, without the caller's own tasks."""

    async def nothing(gate: asyncio.Event) -> None:
        await gate.wait()

    clock = HeldClock()
    async with opened(clock) as on:
        names = [on.add(kind, math.inf) for _ in range(count)]
        gc.collect()
        tracemalloc.start()
        gate = asyncio.Event()
        tasks = [spawn(nothing(gate)) for _ in range(count)]
        await asyncio.sleep(0)
        bare = tracemalloc.get_traced_memory()[0]
        gate.set()
        await asyncio.wait(tasks)
        tasks.clear()
        gc.collect()
        start = tracemalloc.get_traced_memory()[0]
        tasks = [spawn(on.one(kind, name)) for name in names]
        await paused(clock, 1)
        gc.collect()
        held = tracemalloc.get_traced_memory()[0] - start
        tracemalloc.stop()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    return held - bare


@pytest.mark.parametrize("kind", KINDS)
async def test_a_wait_takes_little_memory(kind: str) -> None:
    """At most 2 KiB each, by what a thousand more take."""
    few, many = await held_by(kind, 900), await held_by(kind, 1900)
    each = (many - few) / 1000
    assert each <= 2048, each


def completed_page(names: Sequence[str], number: int) -> bytes:
    part = names[number * 100 : (number + 1) * 100]
    rows = [execution(id=name.lower(), status="completed") for name in part]
    return json_answer(page(rows, number=number, size=100, count=len(names)))


async def test_many_ids_in_upper_case_cost_no_more_each() -> None:
    """The time for each does not grow with their number."""
    costs = []
    for count in (500, 4000):
        names = [f"ABCDEF00-0000-4000-8000-{number:012x}".upper() for number in range(count)]
        rows = [completed_page(names, number) for number in range(-(-count // 100))]

        def reply(target: str, rows: list[bytes] = rows) -> Reply:
            query = URL(target).query
            if query["status"] != "completed":
                return json_answer(page([], size=100))
            return rows[int(query["page"])]

        async with answered(reply=reply) as wire:
            began = time.process_time()
            found = await wire.nunu.wait_for_executions(names)
            costs.append((time.process_time() - began) / count)
        assert len(found) == count
    assert costs[1] <= 3 * costs[0], costs


async def test_each_wait_keeps_its_own_interval(world: OpenWorld) -> None:
    """A short interval does not make others dearer: the patient one is polled when it is due."""
    clock = HeldClock(chance=0.0)
    on = await world(clock)
    hasty, patient = on.add("run", math.inf), on.add("run", math.inf)
    tasks = [
        spawn(on.one("run", hasty, interval=5)),
        spawn(on.one("run", patient, interval=50)),
    ]
    await clock.settle()
    began = clock.now
    while clock.now < began + 100:
        await clock.tick()
        await clock.settle()
        await asyncio.sleep(0.002)
    requests = Counter(URL(seen.target).name for seen in on.box.journal)
    await cancel(*tasks)
    assert 19 <= requests[hasty] <= 22
    assert requests[patient] <= 3 + 1


async def test_shared_polls_run_in_the_context_of_no_wait() -> None:
    """Or a trace would give a request for all of them to one, which may be long over."""
    caller = contextvars.ContextVar("caller", default="none")
    seen: list[str] = []
    trace = aiohttp.TraceConfig()

    async def begun(*_: object) -> None:
        seen.append(caller.get())

    trace.on_request_start.append(begun)
    clock = ManualClock()
    async with (
        Sandbox() as box,
        aiohttp.ClientSession(trace_configs=[trace]) as http,
        NunuClient(box.api_key, base_url=box.base_url, session=http, clock=clock) as nunu,
    ):

        async def wait(name: str) -> None:
            caller.set(name)
            row = box.add_run(state="COMPLETED")
            await nunu.wait_for_run(row.run_id)

        await asyncio.gather(wait("one"), wait("other"))
        assert set(seen) == {"none"}


async def test_waiting_belongs_to_one_loop() -> None:
    async with Sandbox() as box, NunuClient(box.api_key, base_url=box.base_url) as nunu:
        name = box.add_run().run_id
        await nunu.wait_for_run(name)

        def elsewhere() -> None:
            with pytest.raises(ConfigError, match="another event loop"):
                asyncio.run(nunu.wait_for_run(name))

        await asyncio.to_thread(elsewhere)
