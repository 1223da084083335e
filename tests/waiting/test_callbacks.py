"""What `on_change` is called with, and what happens when it raises."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from doubles import HeldClock, until
from scripted import Reply, answered, json_answer
from waits import KINDS, UUID, Notes, OpenWorld, id_of, job, spawn

from nunu_async import Change
from nunu_async.sandbox import Outcome, Script


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["note", "note_slowly"])
@pytest.mark.parametrize("count", [1, 6])
async def test_every_change_is_reported_in_order(
    world: OpenWorld, kind: str, how: str, count: int
) -> None:
    on = await world()
    if kind == "execution":
        outcome = Outcome(passed=1, queue_seconds=40, run_seconds=60)
        names = [
            on.box.add_execution(outcome=outcome, status="queued").execution_id
            for _ in range(count)
        ]
        path = ["QUEUED", "IN_PROGRESS", "COMPLETED"]
    elif kind == "run":
        script = Script(initialize_seconds=40, run_seconds=60)
        names = [on.box.add_run(script=script, state="INITIALIZING").run_id for _ in range(count)]
        path = ["INITIALIZING", "RUNNING", "COMPLETED"]
    else:
        on.box.scripts.extend(
            Script(queue_seconds=40, initialize_seconds=40, run_seconds=40, cleanup_seconds=40)
            for _ in range(count)
        )
        names = []
        for _ in range(count):
            started = await on.nunu.runs.start(
                deployment_config_id=on.box.deployment_configs[0].id,
                multiplayer_test_id=on.box.tests[0].id,
            )
            names += started.job_ids
        path = ["QUEUED", "STARTING", "RUNNING", "CLEANING_UP", "COMPLETED"]
    notes = Notes()
    await on.many(kind, names, on_change=getattr(notes, how))
    for name in names:
        assert notes.of(name) == list(zip([None, *path], path, strict=False))


async def test_a_change_of_case_is_no_change() -> None:
    """Values come in either case, and the list and the single row need not agree."""
    name = UUID.format(1)
    requests = 0

    def reply(target: str) -> Reply:
        nonlocal requests
        requests += 1
        state = ["RUNNING", "running", "Running"][requests % 3] if requests < 9 else "completed"
        return json_answer(job(job_id=name, status=state))

    notes = Notes()
    async with answered(reply=reply) as wire:
        await wire.nunu.wait_for_job(name, on_change=notes.note)
    assert notes.of(name) == [(None, "RUNNING"), ("RUNNING", "COMPLETED")]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_later_wait_gets_the_first_state_too(world: OpenWorld, kind: str) -> None:
    clock = HeldClock()
    on = await world(clock)
    name = on.add(kind, 40)
    early, late = Notes(), Notes()
    tasks = [spawn(on.one(kind, name, on_change=early.note))]
    await clock.tick()
    await until(lambda: len(clock.sleeps) == 2)
    tasks.append(spawn(on.one(kind, name, on_change=late.note)))
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0.001)
        if clock.asleep:
            await clock.tick()
    word = "IN_PROGRESS" if kind == "execution" else "RUNNING"
    assert early.of(name) == [(None, word), (word, "COMPLETED")]
    assert late.of(name) == [(None, word), (word, "COMPLETED")]


@pytest.mark.parametrize("is_slow", [False, True])
@pytest.mark.parametrize("kind", KINDS)
async def test_an_error_of_a_callback_ends_that_wait_only(
    world: OpenWorld, kind: str, is_slow: bool
) -> None:
    def fail(change: Change[Any]) -> None:
        if change.before is not None:
            raise ZeroDivisionError(change.id)

    async def fail_slowly(change: Change[Any]) -> None:
        await asyncio.sleep(0)
        fail(change)

    on = await world()
    names = [on.add(kind, 40), on.add(kind, 100)]
    other = spawn(on.many(kind, names))
    with pytest.raises(ZeroDivisionError, match=names[0]):
        await on.many(kind, names, on_change=fail_slowly if is_slow else fail)
    with pytest.raises(ZeroDivisionError):
        async for _ in on.each(kind, names, on_change=fail_slowly if is_slow else fail):
            pass
    assert [id_of(row) for row in await other] == names


async def test_a_callback_gets_every_id_that_was_passed(world: OpenWorld) -> None:
    """Also where a caller has the same UUID in two cases."""
    on = await world()
    name = on.add("execution", 20)
    notes = Notes()
    rows = await on.many("execution", [name, name.upper()], on_change=notes.note)
    assert [row.id for row in rows] == [name, name]
    path = [(None, "IN_PROGRESS"), ("IN_PROGRESS", "COMPLETED")]
    assert notes.of(name) == path
    assert notes.of(name.upper()) == path
