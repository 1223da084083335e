"""Starting and waiting in one call."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Coroutine
from typing import Any

import pytest
from doubles import HeldClock, ManualClock, cancel, until
from scripted import EXECUTION, JOB, Reply, answered, execution, json_answer, page
from waits import EPOCH, UUID, Notes, OpenWorld, World, lists, others, spawn

from nunu_async import (
    Change,
    ClientClosed,
    InputError,
    Job,
    NotFound,
    NunuClient,
    RunFailed,
    StartedRun,
    WaitTimeout,
)
from nunu_async.sandbox import Fault, Sandbox, Script


def starting(on: World, what: str = "test", **options: Any) -> Coroutine[Any, Any, Any]:
    members: dict[str, Any] = {
        "test": {"multiplayer_test_id": on.box.tests[0].id},
        "plan": {"test_plan_id": on.box.test_plans[0].id},
        "instructions": {"instructions": "Buy a lantern", "name": "Lantern"},
    }[what]
    return on.nunu.run_and_wait(
        deployment_config_id=on.box.deployment_configs[0].id, **(members | options)
    )


@pytest.mark.parametrize("what", ["test", "plan", "instructions"])
@pytest.mark.parametrize("dialect", ["J", "M", "L"])
async def test_started_runs_are_waited_for(world: OpenWorld, what: str, dialect: str) -> None:
    if dialect == "J" and what != "test":
        pytest.skip("January knows one job only")
    on = await world(box={"dialect": dialect})
    on.box.scripts.append(Script(run_seconds=70, result="FAILED"))
    starts: list[StartedRun] = []
    done = await starting(on, what, on_start=starts.append)
    assert starts == [done.started]
    assert tuple(one.job_id for one in done.jobs) == done.started.job_ids
    assert len(done.jobs) == (2 if what == "plan" else 1)
    assert all(one.is_terminal for one in done.jobs)
    assert [one.succeeded for one in done.jobs] == ([False, True][: len(done.jobs)])
    assert not done.succeeded
    assert len(on.box.journal.of("start_run")) == 1
    assert not on.box.journal.of("stop_runs")
    ids = [one.multiplayer_run_id for each in done.jobs for one in each.runs]
    assert ids == [row.run_id for row in on.box.runs]


@pytest.mark.parametrize("dialect", ["J", "M", "L"])
async def test_changes_of_started_runs_are_reported(world: OpenWorld, dialect: str) -> None:
    on = await world(box={"dialect": dialect})
    notes = Notes()
    done = await starting(on, on_change=notes.note)
    path = [after for _, after in notes.of(done.jobs[0].job_id)]
    assert path[-1:] == ["COMPLETED"]
    assert len(path) >= 2


async def test_on_start_may_be_a_coroutine_function(world: OpenWorld) -> None:
    on = await world()
    starts = []

    async def on_start(what: StartedRun) -> None:
        await asyncio.sleep(0)
        starts.append(what)
        assert on.box.journal.operations() == ["start_run"]

    done = await starting(on, on_start=on_start)
    assert starts == [done.started]


async def test_a_started_run_that_failed_is_raised_if_asked_for(world: OpenWorld) -> None:
    on = await world()
    on.box.scripts.append(Script(result="FAILED"))
    with pytest.raises(RunFailed) as caught:
        await starting(on, raise_on_failure=True)
    assert caught.value.failed == tuple(caught.value.finished)
    assert (await starting(on, raise_on_failure=True)).succeeded


async def test_started_runs_go_on_after_a_timeout(world: OpenWorld) -> None:
    on = await world()
    on.box.scripts.append(Script(run_seconds=math.inf))
    starts: list[StartedRun] = []
    with pytest.raises(WaitTimeout) as caught:
        await starting(on, timeout=50, on_start=starts.append)
    assert tuple(caught.value.pending) == starts[0].job_ids
    assert not on.box.journal.of("stop_runs")


@pytest.mark.parametrize("what", ["test", "plan"])
async def test_cancelling_the_wait_stops_the_runs(world: OpenWorld, what: str) -> None:
    clock = HeldClock()
    on = await world(clock)
    on.box.scripts.extend([Script(run_seconds=math.inf)] * 2)
    starts: list[StartedRun] = []
    task = spawn(starting(on, what, on_start=starts.append))
    await clock.settle()
    await cancel(task)
    (stop,) = on.box.journal.of("stop_runs")
    assert stop.body == {"job_ids": list(starts[0].job_ids)}
    assert stop.status == 200
    assert not others()
    assert clock.waiting == 0


@pytest.mark.parametrize("latency", ["before", "after"])
async def test_cancelling_the_start_stops_the_runs(world: OpenWorld, latency: str) -> None:
    """The server may have acted already, or still be about to."""
    clock = HeldClock()
    gate = asyncio.Event()

    async def sleep(_: float) -> None:
        await gate.wait()

    on = await world(clock, box={"sleep": sleep})
    on.box.add_fault(Fault(on="start_run", latency=1))
    task = spawn(starting(on))
    await until(lambda: on.box.journal.of("start_run"))
    task.cancel()
    for _ in range(10):
        await asyncio.sleep(0)
    if latency == "before":
        task.cancel()  # a second time does not leave it running
        await asyncio.sleep(0)
    assert not task.done()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(on.box.journal.of("stop_runs")) == 1
    assert all(row.result(EPOCH + clock.now) == "STOPPED" for row in on.box.runs)
    assert not others()
    assert clock.waiting == 0


async def test_a_start_without_an_answer_delays_a_cancellation_briefly(
    world: OpenWorld,
) -> None:
    clock = HeldClock()
    on = await world(clock)
    on.box.add_fault(Fault(on="start_run", do="stall"))
    task = spawn(starting(on))
    await until(lambda: on.box.journal.of("start_run"))
    task.cancel()
    for _ in range(10):
        await asyncio.sleep(0)
    assert not task.done()
    clock.advance(31)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 10)
    assert not others()
    assert clock.waiting == 0


async def test_cancelling_during_on_start_stops_the_runs(
    world: OpenWorld,
) -> None:
    on = await world()
    reached = asyncio.Event()

    async def on_start(_: StartedRun) -> None:
        reached.set()
        await asyncio.Event().wait()

    task = spawn(starting(on, on_start=on_start))
    await reached.wait()
    await cancel(task)
    assert len(on.box.journal.of("stop_runs")) == 1


@pytest.mark.parametrize("moment", ["start", "wait"])
async def test_cancelling_stops_no_run_if_asked_for(world: OpenWorld, moment: str) -> None:
    clock = HeldClock()
    on = await world(clock)
    if moment == "start":
        on.box.add_fault(Fault(on="start_run", do="stall"))
    task = spawn(starting(on, stop_on_cancel=False))
    if moment == "start":
        await until(lambda: on.box.journal.of("start_run"))
    else:
        await clock.settle()
    await cancel(task)
    assert not others()
    assert not on.box.journal.of("stop_runs")
    assert clock.waiting == 0


async def test_a_failed_stop_does_not_hide_the_cancellation(
    world: OpenWorld,
) -> None:
    clock = ManualClock()
    on = await world(clock)
    on.box.add_fault(Fault(on="stop_runs", status=500, times=None))
    on.box.scripts.append(Script(run_seconds=math.inf))
    task = spawn(starting(on))
    await until(lambda: on.box.journal.of("get_job"))
    await cancel(task)
    assert on.box.journal.of("stop_runs")


async def test_run_and_wait_can_be_cancelled_at_any_turn_of_the_loop(world: OpenWorld) -> None:
    on = await world()
    for turns in range(0, 120, 3):
        on.box.scripts.clear()
        on.box.scripts.append(Script(run_seconds=math.inf))
        task = spawn(starting(on))
        for _ in range(turns):
            await asyncio.sleep(0)
        await cancel(task)
        assert not others()
        now = EPOCH + on.clock.now
        assert all(row.state(now) == "COMPLETED" for row in on.box.runs), turns
        assert on.clock.waiting == 0


@pytest.mark.parametrize("moment", ["start", "wait"])
async def test_closing_the_client_says_which_runs_go_on(world: OpenWorld, moment: str) -> None:
    clock = HeldClock()
    on = await world(clock)
    if moment == "start":
        on.box.add_fault(Fault(on="start_run", do="stall"))
    task = spawn(starting(on))
    if moment == "start":
        await until(lambda: on.box.journal.of("start_run"))
    else:
        await clock.settle()
    await on.nunu.close()
    with pytest.raises(ClientClosed) as caught:
        await task
    notes = "".join(getattr(caught.value, "__notes__", ()))
    ids = [run.job_id for run in on.box.runs] if moment != "start" else []
    assert [job_id for job_id in ids if job_id in notes] == ids
    assert ("what was started goes on" in notes) == bool(ids)
    assert not others()
    assert clock.waiting == 0


async def test_a_refused_start_is_raised_at_once(
    world: OpenWorld,
) -> None:
    on = await world()
    with pytest.raises(NotFound):
        await starting(on, multiplayer_test_id=UUID.format(8))
    with pytest.raises(InputError):
        await starting(on, retries=-1)
    with pytest.raises(InputError):
        await starting(on, timeout=0)
    with pytest.raises(InputError):
        await starting(on, interval=0)
    assert on.box.journal.operations() == ["start_run"]
    assert not others()


async def test_a_job_that_was_not_stopped_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    begun = asyncio.Event()
    refused = {"job_id": JOB, "ok": False, "status": 500, "error": "busy"}

    def reply(target: str) -> Reply:
        if target.endswith("/runs/stop"):
            body = {"ok": False, "message": "", "received_count": 1, "stopped_count": 0}
            return json_answer(body | {"results": [refused]}, 207)
        if target.endswith("/runs"):
            return json_answer({"job_ids": [JOB]}, 201)
        begun.set()
        return json_answer({"error": "later"}, 503)

    async with answered(reply=reply) as wire:
        task = asyncio.ensure_future(
            wire.nunu.run_and_wait(deployment_config_id="c", multiplayer_test_id="t")
        )
        await begun.wait()
        task.cancel()
        with caplog.at_level(logging.WARNING), pytest.raises(asyncio.CancelledError):
            await task
    assert f"job {JOB} was not stopped: busy" in caplog.text


async def test_an_error_of_a_callback_stops_the_runs() -> None:
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


async def test_a_start_that_names_only_an_execution_is_waited_for() -> None:
    rows = [execution(id=EXECUTION, status="completed")]
    job = {
        "job_id": JOB,
        "status": "COMPLETED",
        "created_at": "2026-04-11T06:12:03Z",
        "runs": [{"multiplayer_run_id": "r", "result": "SUCCESS", "players": 1}],
    }

    def reply(target: str) -> Reply:
        if target.endswith("/runs"):
            return json_answer({"job_ids": [], "test_plan_execution_id": EXECUTION}, 201)
        if "/jobs?" in target:
            assert f"test_plan_execution_id={EXECUTION}" in target
            return json_answer(page([job]))
        return lists(rows, "status", set())(target)

    async with answered(reply=reply) as wire:
        finished = await wire.nunu.run_and_wait(deployment_config_id="c", test_plan_id="p")
    assert [one.job_id for one in finished.jobs] == [JOB]
    assert finished.succeeded
