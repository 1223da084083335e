"""How long a wait pauses between two polls."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from doubles import HeldClock, ManualClock, cancel
from scripted import EXECUTION, Reply, answered, execution, json_answer, page
from waits import KINDS, ONCE, TROUBLES, UUID, OpenWorld, answer_for, paused, spawn

from nunu_async.sandbox import Fault


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chance", [0.0, 0.999])
@pytest.mark.parametrize("interval", [0.5, 10, 61.3])
async def test_the_pause_is_never_shorter_than_asked(
    world: OpenWorld, kind: str, chance: float, interval: float
) -> None:
    on = await world(ManualClock(chance))
    await on.one(kind, on.add(kind, 12 * interval), interval=interval)
    assert len(on.clock.sleeps) >= 10
    assert min(on.clock.sleeps) >= interval * (1 - 1e-9)
    assert max(on.clock.sleeps) <= 1.2 * interval


async def test_the_interval_is_ten_seconds_unless_asked(world: OpenWorld) -> None:
    on = await world()
    await on.one("run", on.add("run", 50))
    assert all(10 <= pause <= 12 for pause in on.clock.sleeps)


@pytest.mark.parametrize("trouble", ["503", "429", "cut"])
async def test_pauses_grow_while_trouble_lasts_and_shrink_after_it(
    world: OpenWorld, trouble: str
) -> None:
    clock = HeldClock()
    on = await world(clock, retry=ONCE)
    name = on.add("run", math.inf)
    on.box.add_fault(Fault(on="*", first=2, times=5, **TROUBLES[trouble]))
    task = spawn(on.one("run", name))
    for number in range(8):
        await paused(clock, number + 1)
        await clock.tick()
    await cancel(task)
    calm, *bad, after = clock.sleeps[0], *clock.sleeps[1:6], clock.sleeps[6]
    assert 10 <= calm <= 11
    assert bad == sorted(bad)
    assert bad[0] > 11
    assert bad[-1] > bad[0]
    assert 10 <= after <= 11


@pytest.mark.parametrize(("status", "seconds"), [(429, 45), (503, 130), (429, 400)])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 5])
async def test_a_poll_waits_as_long_as_retry_after_says(
    kind: str, count: int, seconds: int, status: int
) -> None:
    times: list[float] = []
    names = [UUID.format(number) for number in range(count)]
    clock = ManualClock()

    def reply(target: str) -> Reply:
        times.append(clock.now)
        if len(times) < 6:
            return json_answer({"error": "slow down"}, status, Retry_After=str(seconds))
        return answer_for(kind, target, dict.fromkeys(names, "completed"))

    async with answered(reply=reply, clock=clock) as wire:
        rows = await getattr(wire.nunu, f"wait_for_{kind}s")(names)
        assert len(rows) == count
    gaps = [after - before for before, after in pairwise(times[:6])]
    assert min(gaps) >= seconds, gaps


async def test_a_pause_is_an_hour_at_most() -> None:
    answers = [json_answer({"error": "later"}, 429, retry_after="1000000000")]
    fine = json_answer(page([execution(id=EXECUTION, status="completed")]))

    async with answered(reply=lambda _: answers.pop() if answers else fine) as wire:
        await wire.nunu.wait_for_execution(EXECUTION)
        assert wire.clock.sleeps == [3600.0]
