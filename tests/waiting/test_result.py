"""What a wait returns, and when."""

from __future__ import annotations

import asyncio
import math

import pytest
from doubles import HeldClock, cancel
from scripted import JOB, Reply, answered, execution, json_answer, page, run
from waits import KINDS, UUID, OpenWorld, answer_for, id_of, noted, spawn

from nunu_async import RunFailed, TestPlanExecution, WaitTimeout
from nunu_async.core import codec
from nunu_async.models.jobs import Job
from nunu_async.models.runs import Run


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 5])
async def test_the_first_poll_is_at_once(world: OpenWorld, kind: str, count: int) -> None:
    on = await world(HeldClock())
    names = [on.add(kind, 0) for _ in range(count)]
    rows = await on.many(kind, names)
    assert [id_of(row) for row in rows] == names
    assert on.clock.sleeps == []


@pytest.mark.parametrize("kind", KINDS)
async def test_a_later_wait_polls_at_once_too(world: OpenWorld, kind: str) -> None:
    on = await world()
    for count in (5, 1, 5):
        await on.many(kind, [on.add(kind, 0) for _ in range(count)])
    assert on.clock.sleeps == []


@pytest.mark.parametrize("kind", KINDS)
async def test_a_wait_that_begins_during_a_pause_polls_within_a_second(
    world: OpenWorld, kind: str
) -> None:
    on = await world(HeldClock())
    waiting = spawn(on.one(kind, on.add(kind, math.inf)))
    await on.clock.settle()
    began = on.clock.now
    coming = spawn(on.one(kind, on.add(kind, 0)))
    while not coming.done():
        await on.clock.settle()
        if on.clock.now > began + 1.0:
            break
        await asyncio.sleep(0.001)
        if not coming.done() and len(on.clock.sleeps) > 1:
            on.clock.advance(0.05)
    assert (await coming).is_terminal
    assert on.clock.now - began <= 1.0
    await cancel(waiting)


@pytest.mark.parametrize("kind", KINDS)
async def test_results_come_in_the_order_asked_duplicates_too(world: OpenWorld, kind: str) -> None:
    on = await world()
    names = [on.add(kind, seconds) for seconds in (40, 0, 5, 90, 20, 61)]
    asked = [names[3], names[0], names[3], *names, names[5]]
    rows = await on.many(kind, asked)
    assert [id_of(row) for row in rows] == asked
    assert all(row.is_terminal for row in rows)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_failed_run_is_a_result(world: OpenWorld, kind: str) -> None:
    on = await world()
    names = [on.add(kind, 20, "FAILED"), on.add(kind, 10), on.add(kind, 0, "ERROR")]
    rows = await on.many(kind, names)
    assert [row.succeeded for row in rows] == [False, True, False]
    assert not (await on.one(kind, names[0])).succeeded


@pytest.mark.parametrize("kind", KINDS)
async def test_a_failed_run_is_raised_if_asked_for(world: OpenWorld, kind: str) -> None:
    on = await world()
    names = [on.add(kind, 20, "FAILED"), on.add(kind, 50), on.add(kind, 0, "ERROR")]
    with pytest.raises(RunFailed) as caught:
        await on.many(kind, [names[0], *names], raise_on_failure=True)
    assert caught.value.failed == (names[0], names[2])
    assert set(caught.value.finished) == set(names)
    good = await on.many(kind, [names[1]], raise_on_failure=True)
    assert good[0].succeeded
    seen: list[str] = []
    with pytest.raises(RunFailed) as caught:
        await noted(on.each(kind, names[:2], raise_on_failure=True), seen)
    assert caught.value.failed == (names[0],)
    assert names[0] not in seen


# --- Over, and without a result.


@pytest.mark.parametrize("kind", KINDS)
async def test_an_end_time_ends_a_wait_whatever_the_state(kind: str) -> None:
    body = {"completed_at": "2026-04-11T06:20:00Z"}
    if kind == "run":
        body = run(state="CANCELLED", result=None, **body)
    elif kind == "job":
        body |= {"job_id": JOB, "status": "CANCELLED", "created_at": body["completed_at"]}
    else:
        body = execution(status="cancelled", **body)
    name = str(body.get("multiplayer_run_id") or body.get("job_id") or body["id"])

    def reply(target: str) -> Reply:
        # What is called otherwise than all the lists are for stands in none of them but the last.
        is_row = target.partition("?")[0].endswith(name)
        return json_answer(body if is_row else page([body] if "completed" in target else []))

    async with answered(reply=reply) as wire:
        row = await getattr(wire.nunu, f"wait_for_{kind}")(name)
    assert row.is_terminal
    assert not row.succeeded


async def test_a_run_over_without_a_result_is_polled_again() -> None:
    """A server that lags behind may take it back, or have the result a moment later."""
    over = {"state": "COMPLETED", "completed_at": "2026-04-11T06:20:00Z"}
    rows = [
        run(result=None, **over),
        run(state="RUNNING", result=None, completed_at=None),
        run(result=None, **over),
        run(result=None, **over),
        run(result="SUCCESS", **over),
    ]
    seen = [row["state"] for row in rows]

    def reply(target: str) -> Reply:
        if "/runs?" in target:
            return json_answer(page([]))
        return json_answer(rows.pop(0) if len(rows) > 1 else rows[0])

    async with answered(reply=reply) as wire:
        assert (await wire.nunu.wait_for_run(rows[0]["multiplayer_run_id"])).succeeded
    assert len(rows) == 1, seen


async def test_a_result_that_never_comes_is_given_up() -> None:
    row = run(state="COMPLETED", result=None)
    targets: list[str] = []

    def reply(target: str) -> Reply:
        targets.append(target)
        return json_answer(page([]) if "/runs?" in target else row)

    async with answered(reply=reply) as wire:
        found = await wire.nunu.wait_for_run(row["multiplayer_run_id"])
    assert found.is_terminal
    assert not found.succeeded
    assert sum("/runs?" not in target for target in targets) == 4


@pytest.mark.parametrize("state", ["RUNNING", "queued"])
async def test_an_end_in_year_1_means_not_over(state: str) -> None:
    """As some servers write what is not set."""
    body = {"completed_at": "0001-01-01T00:00:00Z", "created_at": "2026-04-11T06:20:00Z"}
    made = codec.structure(run(state=state, result=None, **body), Run)
    assert not made.is_terminal
    job = codec.structure(body | {"job_id": JOB, "status": state, "runs": []}, Job)
    assert not job.is_terminal
    row = execution(status=state, completed_at=body["completed_at"])
    assert not codec.structure(row, TestPlanExecution).is_terminal


# --- States and ids in either case, paths in either style.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("word", ["completed", "COMPLETED", "Completed"])
@pytest.mark.parametrize("count", [1, 5])
async def test_a_state_counts_in_either_case(kind: str, word: str, count: int) -> None:
    names = [UUID.format(number) for number in range(count)]
    requests = 0

    def reply(target: str) -> Reply:
        nonlocal requests
        requests += 1
        return answer_for(kind, target, dict.fromkeys(names, word if requests > 8 else "running"))

    async with answered(reply=reply) as wire:
        rows = await getattr(wire.nunu, f"wait_for_{kind}s")(names)
    assert len(rows) == count
    assert requests > 8


@pytest.mark.parametrize("kind", ["execution", "job"])
@pytest.mark.parametrize("count", [1, 5])
async def test_a_uuid_may_be_in_upper_case(world: OpenWorld, kind: str, count: int) -> None:
    on = await world()
    names = [on.add(kind, 20 * number) for number in range(count)]
    upper = [name.upper() for name in names]
    rows = await on.many(kind, upper)
    assert [id_of(row) for row in rows] == names
    rows = await on.many(kind, [*upper, *names])
    assert [id_of(row) for row in rows] == [*names, *names]
    seen = [id_of(row) async for row in on.each(kind, upper)]
    assert sorted(seen) == sorted(names)
    slow = on.add(kind, math.inf).upper()
    with pytest.raises(WaitTimeout) as caught:
        await on.many(kind, [slow, upper[0]], timeout=20)
    assert list(caught.value.pending) == [slow]
    assert caught.value.pending[slow] is not None
    assert list(caught.value.finished) == [upper[0]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("style", ["key", "project"])
@pytest.mark.parametrize("count", [1, 5])
async def test_waits_go_by_both_styles_of_path(
    world: OpenWorld, kind: str, style: str, count: int
) -> None:
    on = await world(path_style=style)
    names = [on.add(kind, 15) for _ in range(count)]
    assert len(await on.many(kind, names)) == count
    prefix = f"/api/v1/project/{on.box.project_id}/" if style == "project" else "/api/v1/"
    for seen in on.box.journal:
        assert seen.target.startswith(prefix)
        assert ("/project/" in seen.target) == (style == "project")
