"""Jobs: of several runs, with retries, and on a server that has none."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
from doubles import HeldClock
from scripted import Reply, answered, json_answer, page, run
from waits import UUID, OpenWorld, World, spawn
from yarl import URL

from nunu_async import RunFailed, StartedRun
from nunu_async.sandbox import Script


async def started(on: World, **members: Any) -> StartedRun:
    return await on.nunu.runs.start(
        deployment_config_id=on.box.deployment_configs[0].id,
        multiplayer_test_id=on.box.tests[0].id,
        **members,
    )


async def test_a_job_is_not_over_while_a_retry_runs(world: OpenWorld) -> None:
    on = await world()
    on.box.scripts.extend([Script(result="ERROR"), Script(result="ERROR"), Script()])
    (name,) = (await started(on, retries=3)).job_ids
    row = await on.one("job", name)
    assert row.succeeded
    assert [one.result for one in row.runs] == ["ERROR", "ERROR", "SUCCESS"]
    assert all(one.multiplayer_run_id for one in row.runs)
    assert [run.multiplayer_run_id for run in row.runs] == [run.run_id for run in on.box.runs]


async def test_a_job_with_several_instances_is_over_with_the_last(world: OpenWorld) -> None:
    on = await world()
    on.box.scripts.extend([Script(run_seconds=200, result="FAILED"), Script(), Script()])
    (name,) = (await started(on, instances=3)).job_ids
    row = await on.one("job", name)
    assert [str(one.result) for one in row.runs] == ["FAILED", "SUCCESS", "SUCCESS"]
    assert not row.succeeded
    with pytest.raises(RunFailed) as caught:
        await on.one("job", name, raise_on_failure=True)
    assert caught.value.failed == (name,)
    for one in row.runs:
        assert (await on.one("run", one.multiplayer_run_id)).is_terminal


async def test_a_job_that_is_stopped_is_over(world: OpenWorld) -> None:
    clock = HeldClock()
    on = await world(clock)
    on.box.scripts.append(Script(run_seconds=math.inf))
    (name,) = (await started(on)).job_ids
    clock.advance(20)
    task = spawn(on.one("job", name))
    await clock.settle()
    await on.nunu.runs.stop([name])
    await clock.tick()
    row = await task
    assert [one.result for one in row.runs] == ["STOPPED"]
    assert not row.succeeded


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("style", ["as given", "upper"])
async def test_without_a_jobs_endpoint_jobs_are_built_from_runs(count: int, style: str) -> None:
    names = [UUID.format(number) for number in range(count)]
    requests = Counter[str]()
    ends = 4

    def reply(target: str) -> Reply:
        url = URL(target)
        if "/jobs" in url.path:
            return json_answer({"error": "not found"}, 404)
        name = url.query["job_id"].lower()
        requests[name] += 1
        is_over = requests[name] >= ends
        rows = [
            run(multiplayer_run_id=f"{name}-b", job_id=name, state="completed", result="SUCCESS"),
            run(
                multiplayer_run_id=f"{name}-a",
                job_id=name,
                created_at="2026-04-10T06:12:03+00:00",
                state="COMPLETED" if is_over else "RUNNING",
                result="FAILED" if is_over else None,
            ),
            run(multiplayer_run_id="other", job_id=UUID.format(77), state="RUNNING"),
        ]
        return json_answer(page(rows, size=100))

    wanted = [name.upper() for name in names] if style == "upper" else names
    async with answered(reply=reply) as wire:
        rows = await wire.nunu.wait_for_jobs(wanted)
    assert all(count >= ends for count in requests.values())
    for name, row in zip(names, rows, strict=True):
        assert row.job_id.lower() == name
        assert row.is_terminal
        assert not row.succeeded
        assert [one.multiplayer_run_id for one in row.runs] == [f"{name}-a", f"{name}-b"]
