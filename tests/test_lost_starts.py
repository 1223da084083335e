"""Starts whose answer is lost: the runs are found by a tag, or the error names it."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from doubles import ManualClock, answer
from scripted import LOST_ANSWERS, RUN, STARTED, answered, json_answer, page, run

from nunu_async import ApiError, InputError, NunuClient, StartedRun, TransportError
from nunu_async.sandbox import Fault, Sandbox

TAG = re.compile("nunu-async-[0-9a-f]{12}")


def start(**members: Any) -> Callable[[NunuClient], Awaitable[StartedRun]]:
    given = {"deployment_config_id": "d", "multiplayer_test_id": "t"} | members
    return lambda nunu: nunu.runs.start(**given)


class Lists:
    """A server that loses the answer to a start, and lists the runs after some polls."""

    def __init__(self, lost: bytes | None, *shown: list[str], jobs: bool = True) -> None:
        self.lost = lost
        self.shown = list(shown)
        self.jobs = jobs
        self.lines: list[str] = []
        self.tag = "?"
        self.now: list[str] = []

    def __call__(self, line: str) -> bytes | None:
        self.lines.append(line)
        if line.startswith("/api/v1/runs?"):
            self.tag = parse_qs(urlsplit(line).query)["tags"][0]
            now = self.shown.pop(0) if len(self.shown) > 1 else self.shown[0]
            self.now = now
            rows = [
                run(job_id=one, multiplayer_run_id=f"r-{one}", tags=[self.tag]) for one in now[::-1]
            ]
            foreign = run(job_id="foreign", multiplayer_run_id="f", tags=["x"])
            return json_answer(page([*rows, foreign], size=100))
        if line.startswith("/api/v1/jobs?"):
            if not self.jobs:
                return json_answer({"error": "no such page"}, 404)
            return json_answer(page([job(one, self.tag) for one in self.now[::-1]], size=100))
        return self.lost


def job(job_id: str, tag: str) -> dict[str, Any]:
    return {
        "job_id": job_id,
        "status": "QUEUED",
        "created_at": "2026-04-11T06:12:03.114520+00:00",
        "runs": [],
        "tags": ["a", tag],
        "build_id": "b-1",
        "test_plan_execution_id": "e-1",
    }


@pytest.mark.parametrize("lost", LOST_ANSWERS.values(), ids=LOST_ANSWERS)
@pytest.mark.parametrize("jobs", [True, False])
async def test_a_start_with_a_lost_answer_is_found_by_its_tag(
    lost: bytes | None, jobs: bool
) -> None:
    server = Lists(lost, [], ["j-1"], jobs=jobs)
    async with answered(reply=server) as wire:
        started = await start(additional_tags=["a"])(wire.nunu)
    body = json.loads(wire.bodies[0])
    assert body["additional_tags"] == ["a", server.tag]
    assert TAG.fullmatch(server.tag)
    assert started.job_ids == ("j-1",)
    assert wire.lines.count("POST /api/v1/runs") == 1
    assert sum("/runs?" in line for line in server.lines) == 2
    assert wire.clock.sleeps == [1.0, 3.0]
    assert server.tag in str(started.message)
    if jobs:
        assert (started.build_id, started.test_plan_execution_id) == ("b-1", "e-1")


async def test_two_starts_have_two_tags() -> None:
    async with answered(json_answer(STARTED, 201)) as wire:
        for _ in range(2):
            await start()(wire.nunu)
    first, second = (json.loads(body)["additional_tags"] for body in wire.bodies)
    assert first != second
    assert wire.clock.sleeps == []


@pytest.mark.parametrize("members", [{"marker": False}, {"marker": False, "instances": 2}])
async def test_without_a_marker_nothing_is_added_or_looked_up(
    members: dict[str, Any],
) -> None:
    async with answered(None) as wire:
        with pytest.raises(TransportError) as caught:
            await start(**members)(wire.nunu)
    assert b"tags" not in wire.bodies[0]
    assert len(wire.lines) == 1
    assert caught.value.marker is None


@pytest.mark.parametrize("marker", [None, 1, "x"])
async def test_an_invalid_marker_is_refused(marker: Any) -> None:
    async with answered(None) as wire:
        with pytest.raises(InputError):
            await start(marker=marker)(wire.nunu)
    assert wire.lines == []


async def test_a_start_that_is_not_found_is_not_repeated() -> None:
    server = Lists(None, [])
    async with answered(reply=server) as wire:
        with pytest.raises(TransportError) as caught:
            await start()(wire.nunu)
    assert wire.lines.count("POST /api/v1/runs") == 1
    assert sum("/runs?" in line for line in server.lines) == 3
    assert caught.value.marker == server.tag
    assert any(server.tag in note for note in caught.value.__notes__)
    assert pickle.loads(pickle.dumps(caught.value)).marker == server.tag  # noqa: S301 - our own


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 503])
async def test_a_refused_start_is_not_looked_up(status: int) -> None:
    async with answered(answer(status)) as wire:
        with pytest.raises(ApiError):
            await start()(wire.nunu)
    assert {line.split("?")[0] for line in wire.lines} == {"POST /api/v1/runs"}


@pytest.mark.parametrize("members", [{"instances": 3}, {"test_plan_id": "p"}])
async def test_of_several_jobs_all_that_appear_in_time_are_returned(
    members: dict[str, Any],
) -> None:
    server = Lists(None, ["j-1"], ["j-1", "j-2"], ["j-1", "j-2", "j-3"])
    if "test_plan_id" in members:
        members["multiplayer_test_id"] = None
    async with answered(reply=server) as wire:
        started = await start(**members)(wire.nunu)
    assert started.job_ids == ("j-1", "j-2", "j-3")
    server = Lists(None, ["j-1", "j-2"])
    async with answered(reply=server) as wire:
        started = await start(**members)(wire.nunu)
    assert started.job_ids == ("j-1", "j-2")
    assert wire.clock.sleeps == [1.0, 3.0]


@pytest.mark.parametrize("status", [401, 403])
async def test_where_lists_may_not_be_read_the_loss_is_raised(status: int) -> None:
    def reply(line: str) -> bytes | None:
        return answer(status) if "?" in line else None

    async with answered(reply=reply) as wire:
        with pytest.raises(TransportError) as caught:
            await start()(wire.nunu)
    assert len(wire.lines) == 2
    assert "could not be looked up" in caught.value.__notes__[0]


async def test_where_nothing_answers_the_loss_is_raised_soon() -> None:
    async with answered(None) as wire:
        with pytest.raises(TransportError, match="POST /runs") as caught:
            await start()(wire.nunu)
    assert wire.clock.now - 1000 <= 30
    assert caught.value.marker


async def test_a_run_without_a_job_is_named_by_its_own_id() -> None:
    """As in January 2026, when rows had no job."""

    def reply(line: str) -> bytes | None:
        if "/runs?" in line:
            row = run(tags=parse_qs(urlsplit(line).query)["tags"])
            del row["job_id"]
            return json_answer(page([row]))
        return answer(404) if "/jobs?" in line else None

    async with answered(reply=reply) as wire:
        started = await start()(wire.nunu)
    assert (started.job_ids, started.multiplayer_run_id) == ((), RUN)


async def test_a_plan_whose_start_was_lost_is_found(clock: ManualClock) -> None:
    faults = [Fault(on="start_run", do="cut", effect=True)]
    async with (
        Sandbox(faults=faults) as box,
        NunuClient(box.api_key, base_url=box.base_url, clock=clock) as nunu,
    ):
        started = await nunu.runs.start(
            deployment_config_id=box.deployment_configs[0].id, test_plan_id=box.test_plans[0].id
        )
        assert set(started.job_ids) == {one.job_id for one in box.runs}
        assert started.test_plan_execution_id == box.executions[0].execution_id
        assert len(box.journal.of("start_run")) == 1
