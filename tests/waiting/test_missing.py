"""Ids that the server does not know, or not yet."""

from __future__ import annotations

import pytest
from scripted import Reply, answered, execution, json_answer, page
from waits import EPOCH, KINDS, UUID, OpenWorld, id_of, noted, spawn
from yarl import URL

from nunu_async import NotFound
from nunu_async.sandbox import Outcome


def unknown(kind: str) -> str:
    return "zzzzzzzzzzz" if kind == "run" else UUID.format(9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [0, 1, 6])
@pytest.mark.parametrize("interval", [3, 10, 45])
async def test_an_unknown_id_is_not_found_after_a_while_and_only_it(
    world: OpenWorld, kind: str, count: int, interval: float
) -> None:
    on = await world()
    names = [on.add(kind, 80 + 5 * number) for number in range(count)]
    lost = unknown(kind)
    began = on.clock.now
    with pytest.raises(NotFound) as caught:
        await on.one(kind, lost, interval=interval)
    assert 10 <= on.clock.now - began <= max(60, 2.2 * interval)
    names = [on.add(kind, 80 + 5 * number) for number in range(count)]
    with pytest.raises(NotFound) as caught:
        await on.many(kind, [*names, lost], interval=interval)
    message = f"no {kind} {lost} is in any page of GET /"
    assert str(caught.value).startswith(message)  # no request was answered with 404
    assert (caught.value.status, caught.value.method, caught.value.path) == (404, "", "")
    assert set(caught.value.finished) == set(names)
    assert all(row.is_terminal for row in caught.value.finished.values())  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", KINDS)
async def test_an_unknown_id_leaves_other_waits_alone(world: OpenWorld, kind: str) -> None:
    on = await world()
    name = on.add(kind, 90)
    lost = spawn(on.many(kind, [unknown(kind), name]))
    also = spawn(on.one(kind, unknown(kind)))
    good = spawn(on.one(kind, name))
    for task in (also, lost):
        with pytest.raises(NotFound):
            await task
    assert id_of(await good) == name


@pytest.mark.parametrize("kind", KINDS)
async def test_known_rows_are_yielded_before_an_unknown_id_raises(
    world: OpenWorld, kind: str
) -> None:
    on = await world()
    names = [on.add(kind, 5), on.add(kind, 100)]
    seen: list[str] = []
    with pytest.raises(NotFound) as caught:
        await noted(on.each(kind, [unknown(kind), *names]), seen)
    assert seen == names
    assert set(caught.value.finished) == set(names)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_row_that_appears_late_is_found(world: OpenWorld, kind: str) -> None:
    """The first polls do not find it."""
    on = await world()
    if kind == "execution":
        made = on.box.add_execution(
            outcome=Outcome(passed=1, queue_seconds=1, run_seconds=20),
            created=EPOCH + on.clock.now + 12,
        )
        name = made.execution_id
    else:
        row = on.box.add_run(created=EPOCH + on.clock.now + 12)
        name = row.run_id if kind == "run" else row.job_id
    assert (await on.one(kind, name, interval=4)).is_terminal


async def test_an_old_execution_is_found_below_many_newer_ones() -> None:
    """Executions can be found in lists only; this one is the 12,001st."""
    old = UUID.format(0)

    def reply(target: str) -> Reply:
        query = URL(target).query
        number = int(query["page"])
        if query["status"] != "completed":
            return json_answer(page([], number=number, size=100))
        names = [f"new-{number}-{place}" for place in range(100)] if number < 120 else [old]
        rows = [execution(id=name, status="completed") for name in names]
        return json_answer(page(rows, number=number, size=100, count=12_001))

    async with answered(reply=reply) as wire:
        row = await wire.nunu.wait_for_execution(old, interval=60)
        assert row.id == old
