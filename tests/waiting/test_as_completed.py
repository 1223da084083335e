"""Results in the order in which they end."""

from __future__ import annotations

import asyncio
import gc
import math
from contextlib import aclosing

import pytest
from doubles import HeldClock, until
from waits import KINDS, OpenWorld, id_of, others, spawn

from nunu_async import WaitTimeout


@pytest.mark.parametrize("kind", KINDS)
async def test_each_row_is_yielded_once_as_it_ends(world: OpenWorld, kind: str) -> None:
    on = await world()
    names = [on.add(kind, seconds) for seconds in (95, 35, 0, 65, 5)]
    seen = [id_of(row) async for row in on.each(kind, [*names, *names[:2]])]
    assert sorted(seen) == sorted(names)
    assert seen == [names[2], names[4], names[1], names[3], names[0]]


async def test_each_row_is_yielded_as_soon_as_it_ends(world: OpenWorld) -> None:
    clock = HeldClock()
    on = await world(clock)
    names = [on.add("run", 5), on.add("run", math.inf)]
    async with aclosing(on.each("run", names)) as given:
        first = spawn(anext(given))
        await clock.tick()
        assert id_of(await first) == names[0]
        await clock.settle()
    assert clock.waiting == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_leaving_the_loop_frees_everything(world: OpenWorld, kind: str) -> None:
    clock = HeldClock()
    on = await world(clock)
    names = [on.add(kind, 0), on.add(kind, math.inf), on.add(kind, math.inf)]
    async for row in on.each(kind, names, timeout=500):
        assert id_of(row) == names[0]
        break
    gc.collect()
    await until(lambda: not others())
    assert clock.waiting == 0
    clock.advance(1)
    given = on.each(kind, names, timeout=500)
    await anext(given)
    await given.aclose()
    assert not others()
    assert clock.waiting == 0
    requests = len(on.box.journal)
    clock.advance(1000)
    await asyncio.sleep(0.01)
    assert len(on.box.journal) == requests


async def test_nothing_is_asked_before_the_first_step(world: OpenWorld) -> None:
    on = await world()
    on.nunu.runs_as_completed(["abc"])
    await asyncio.sleep(0)
    assert len(on.box.journal) == 0
    assert not others()


async def test_a_slow_caller_gets_all_that_ended_in_time(
    world: OpenWorld,
) -> None:
    clock = HeldClock()
    on = await world(clock)
    names = [on.add("run", 0), on.add("run", 0), on.add("run", math.inf)]
    seen: list[str] = []

    async def take_its_time() -> None:
        async for row in on.each("run", names, timeout=15):
            seen.append(id_of(row))
            await clock.settle()  # the poll is over, and has found both
            clock.advance(20)

    with pytest.raises(WaitTimeout) as caught:
        await take_its_time()
    assert sorted(seen) == sorted(names[:2])
    assert list(caught.value.pending) == names[2:]
