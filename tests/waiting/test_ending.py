"""Waits that are cancelled, and clients that are closed while they wait."""

from __future__ import annotations

import asyncio
import math

import pytest
from doubles import HeldClock, cancel, until
from waits import KINDS, ONCE, UUID, OpenWorld, others, spawn

from nunu_async import ClientClosed
from nunu_async.sandbox import Fault

# --- Cancelling.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_same", [True, False])
async def test_cancelling_one_of_two_leaves_the_other(
    world: OpenWorld, kind: str, is_same: bool
) -> None:
    clock = HeldClock()
    on = await world(clock)
    name = on.add(kind, 30)
    gone = name if is_same else on.add(kind, math.inf)
    leaving = spawn(on.one(kind, gone, timeout=1000))
    staying = spawn(on.one(kind, name))
    await clock.settle()
    await cancel(leaving)
    requests = len(on.box.journal)
    while not staying.done():
        await asyncio.sleep(0.001)
        if clock.asleep:
            await clock.tick()
    assert (await staying).is_terminal
    if not is_same:
        later = [seen.target for seen in on.box.journal][requests:]
        assert not any(gone in target for target in later)
    assert clock.waiting == 0
    assert not others()


@pytest.mark.parametrize("kind", KINDS)
async def test_cancelling_the_last_one_leaves_nothing(world: OpenWorld, kind: str) -> None:
    clock = HeldClock()
    on = await world(clock)
    names = [on.add(kind, math.inf) for _ in range(5)]
    tasks = [spawn(on.many(kind, names, timeout=1000)), spawn(on.one(kind, names[0]))]
    await clock.settle()
    await cancel(*tasks)
    assert not others()
    assert clock.waiting == 0
    assert clock.asleep == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_cancelling_on_the_wire_leaves_no_connection_stuck(
    world: OpenWorld, kind: str
) -> None:
    """The gate lets one request through at a time; one that stays would block all others."""
    clock = HeldClock()
    on = await world(clock, api_concurrency=1)
    name = on.add(kind, math.inf)
    on.box.add_fault(Fault(on="*", do="stall", times=3))
    for number in range(3):
        task = spawn(on.one(kind, name))
        while len(on.box.journal) == number:
            await asyncio.sleep(0.001)
        await cancel(task)
        assert not others()
        assert clock.waiting == 0
    assert (await on.one(kind, on.add(kind, 0))).is_terminal


@pytest.mark.parametrize("kind", KINDS)
async def test_a_wait_can_be_cancelled_at_any_turn_of_the_loop(world: OpenWorld, kind: str) -> None:
    on = await world()
    name = on.add(kind, math.inf)
    for turns in [*range(30), 40, 60, 90]:
        task = spawn(on.one(kind, name, timeout=10**6))
        other = spawn(on.many(kind, [name, on.add(kind, math.inf)]))
        for _ in range(turns):
            await asyncio.sleep(0)
        await cancel(task, other)
        assert not others()
        assert on.clock.waiting == 0


async def test_polling_ends_with_the_last_wait(world: OpenWorld) -> None:
    clock = HeldClock()
    on = await world(clock)
    await on.many("run", [on.add("run", 0) for _ in range(5)])
    requests = len(on.box.journal)
    clock.advance(10_000)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(on.box.journal) == requests
    assert clock.sleeps == []
    assert not others()


# --- Closing.


async def test_closing_the_client_ends_all_waits(world: OpenWorld) -> None:
    clock = HeldClock()
    on = await world(clock)
    tasks = []
    for kind in KINDS:
        names = [on.add(kind, math.inf) for _ in range(4)]
        tasks += [
            spawn(on.many(kind, names, timeout=1000)),
            spawn(on.one(kind, names[0])),
            spawn(anext(on.each(kind, names))),
        ]
    await until(lambda: clock.asleep == 3)
    await on.nunu.close()
    done, _ = await asyncio.wait(tasks, timeout=20)
    assert len(done) == len(tasks)
    raised = [task.exception() for task in tasks]
    assert all(type(one) is ClientClosed for one in raised)
    assert all("wait" in str(one) for one in raised)
    assert not others()
    assert clock.waiting == 0
    await on.nunu.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("before", ["nothing", "a poll", "trouble"])
async def test_a_wait_on_a_closed_client_ends_at_once(
    world: OpenWorld, kind: str, before: str
) -> None:
    clock = HeldClock()
    on = await world(clock, retry=ONCE)
    if before == "trouble":
        on.box.add_fault(Fault(on="*", status=503, times=None))
    if before != "nothing":
        task = spawn(on.many(kind, [on.add(kind, math.inf) for _ in range(5)]))
        await clock.settle()
        await cancel(task)
    pauses = len(clock.sleeps)
    await on.nunu.close()
    for names in (["a"], ["a", "b", "c", "d", "e"]):
        for waiting in (on.many(kind, names), anext(on.each(kind, names))):
            task = spawn(waiting)
            done, _ = await asyncio.wait([task], timeout=0.5)
            if not done:
                await cancel(task)
                pytest.fail("the client is closed, and the wait goes on")
            assert isinstance(task.exception(), ClientClosed)
    assert len(clock.sleeps) == pauses


@pytest.mark.parametrize("kind", KINDS)
async def test_closing_during_a_poll_ends_the_wait(world: OpenWorld, kind: str) -> None:
    clock = HeldClock()
    on = await world(clock)
    on.box.add_fault(Fault(on="*", do="stall"))
    task = spawn(on.one(kind, on.add(kind, math.inf)))
    await until(lambda: len(on.box.journal) == 1)
    await on.nunu.close()
    with pytest.raises(ClientClosed):
        await task


async def test_a_wait_that_begins_during_the_close_ends_too(
    world: OpenWorld,
) -> None:
    clock = HeldClock()
    on = await world(clock)
    name = on.add("run", math.inf)
    first = spawn(on.one("run", name))
    await clock.settle()
    closing = spawn(on.nunu.close())
    tasks = []
    while not closing.done():
        tasks += [spawn(on.one(kind, UUID.format(1))) for kind in KINDS]
        await asyncio.sleep(0)
    await closing
    done, pending = await asyncio.wait([first, *tasks], timeout=1)
    for _ in range(5):
        clock.advance(400)
        await asyncio.sleep(0.01)
    done, pending = await asyncio.wait([first, *tasks], timeout=1)
    for task in pending:
        task.cancel()
    assert not pending
    assert {type(task.exception()) for task in done} == {ClientClosed}
