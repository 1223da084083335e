"""Waiting, as the issue asks for it: for one, for many, for ten thousand, and what ends it."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import math
import time
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import aclosing, asynccontextmanager
from itertools import pairwise
from typing import Any, Literal

import aiohttp
import attrs
import pytest
from doubles import HeldClock, ManualClock, is_accepting, raw_server, until
from scripted import JOB, KEY, Reply, answered, execution, page, run, told
from yarl import URL

from nunu_async import (
    ApiError,
    AuthenticationError,
    Change,
    ClientClosed,
    InputError,
    NotFound,
    NunuClient,
    PermissionDenied,
    RetryPolicy,
    RunFailed,
    StartedRun,
    WaitTimeout,
)
from nunu_async.core import codec
from nunu_async.models.jobs import Job
from nunu_async.models.runs import Run
from nunu_async.models.test_plan_executions import TestPlanExecution
from nunu_async.sandbox import Fault, Outcome, Sandbox, Script

EPOCH = 1_780_000_000.0
ONCE = RetryPolicy(attempts=1)
KINDS = ("execution", "run", "job")
UUID = "d1e2f3a4-b5c6-4d7e-8f90-a1b2c3d4e5{:02x}"


@attrs.define
class World:
    """A sandbox and a client on one clock."""

    box: Sandbox
    nunu: NunuClient
    clock: Any

    def add(self, kind: str, seconds: float = 25.0, result: str = "SUCCESS") -> str:
        """Put in what goes on for so many seconds; 0 is over."""
        if kind == "execution":
            word = "passed" if result == "SUCCESS" else "failed"
            outcome = Outcome(**{word: 1}, run_seconds=seconds)
            status: Literal["in_progress", "completed"] = "in_progress" if seconds else "completed"
            return self.box.add_execution(outcome=outcome, status=status).execution_id
        script = Script(run_seconds=seconds, result=result)
        row = self.box.add_run(script=script, state="RUNNING" if seconds else "COMPLETED")
        return row.run_id if kind == "run" else row.job_id

    def one(self, kind: str, name: str, **terms: Any) -> Coroutine[Any, Any, Any]:
        told: Coroutine[Any, Any, Any] = getattr(self.nunu, f"wait_for_{kind}")(name, **terms)
        return told

    def many(self, kind: str, names: Any, **terms: Any) -> Coroutine[Any, Any, Any]:
        told: Coroutine[Any, Any, Any] = getattr(self.nunu, f"wait_for_{kind}s")(names, **terms)
        return told

    def each(self, kind: str, names: Any, **terms: Any) -> Any:
        return getattr(self.nunu, f"{kind}s_as_completed")(names, **terms)


def id_of(row: Any) -> str:
    for name in ("id", "multiplayer_run_id", "job_id"):
        if hasattr(row, name):
            return str(getattr(row, name))
    raise AssertionError(row)


async def noted(rows: Any, seen: list[str], then: Callable[[], None] = lambda: None) -> None:
    """Note each row as it comes, so that what came before an error is known."""
    async for row in rows:
        seen.append(id_of(row))
        then()


@asynccontextmanager
async def world(
    clock: ManualClock | None = None, box: dict[str, Any] | None = None, **settings: Any
) -> AsyncIterator[World]:
    """Play on a clock that runs free unless another is given."""
    on = clock or ManualClock()
    async with Sandbox(now=lambda: EPOCH + on.now, **(box or {})) as sandbox:
        asked: dict[str, Any] = {
            "project_id": sandbox.project_id,
            "base_url": sandbox.base_url,
            "clock": on,
        }
        async with NunuClient(sandbox.api_key, **(asked | settings)) as nunu:
            yield World(sandbox, nunu, on)


def others() -> set[asyncio.Task[Any]]:
    """Tasks that are neither the test's own nor the sandbox's."""
    return {
        task
        for task in asyncio.all_tasks()
        if task is not asyncio.current_task()
        and "sandbox" not in repr(task.get_coro())
        and "aiohttp/web" not in repr(task)
        and "RequestHandler" not in repr(task.get_coro())
        and "raw_server" not in repr(task.get_coro())
        and not is_accepting(task)
    }


async def cancelled(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with pytest.raises(asyncio.CancelledError):
            await task


async def paused(clock: HeldClock, count: int, seconds: float = 20.0) -> None:
    """Wait until so many pauses have begun."""
    await until(lambda: len(clock.sleeps) >= count, seconds)


def spawn(coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    return asyncio.get_running_loop().create_task(coroutine)


# --- The first look, and what comes back.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 5])
async def test_the_first_look_is_at_once(kind: str, count: int) -> None:
    async with world(HeldClock()) as on:
        names = [on.add(kind, 0) for _ in range(count)]
        rows = await on.many(kind, names)
        assert [id_of(row) for row in rows] == names
        assert on.clock.sleeps == []


@pytest.mark.parametrize("kind", KINDS)
async def test_the_first_look_of_a_later_wait_is_at_once_too(kind: str) -> None:
    async with world() as on:
        for count in (5, 1, 5):
            await on.many(kind, [on.add(kind, 0) for _ in range(count)])
        assert on.clock.sleeps == []


@pytest.mark.parametrize("kind", KINDS)
async def test_whoever_comes_while_others_pause_is_looked_at_within_a_second(kind: str) -> None:
    async with world(HeldClock()) as on:
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
        await cancelled(waiting)


@pytest.mark.parametrize("kind", KINDS)
async def test_results_come_in_the_order_asked_and_twice_where_asked_twice(kind: str) -> None:
    async with world() as on:
        names = [on.add(kind, seconds) for seconds in (40, 0, 5, 90, 20, 61)]
        asked = [names[3], names[0], names[3], *names, names[5]]
        rows = await on.many(kind, asked)
        assert [id_of(row) for row in rows] == asked
        assert all(row.is_terminal for row in rows)


@pytest.mark.parametrize("kind", KINDS)
async def test_waiting_for_nothing_sends_nothing(kind: str) -> None:
    async with world() as on:
        assert await on.many(kind, []) == ()
        assert await on.many(kind, (), timeout=5) == ()
        assert [row async for row in on.each(kind, [])] == []
        assert len(on.box.journal) == 0
        assert on.clock.sleeps == []
        assert on.clock.waiting == 0


BAD_IDS: list[Any] = [
    "abc",
    b"abc",
    [1],
    [None],
    [b"abc"],
    [""],
    ["a/b"],
    ["../x"],
    ["a b"],
    ["ok", 7],
    [["ok"]],
    None,
    5,
]


@pytest.mark.parametrize("names", BAD_IDS, ids=repr)
async def test_ids_that_are_none_are_refused_before_anything_is_sent(names: Any) -> None:
    async with world() as on:
        for kind in KINDS:
            with pytest.raises(InputError):
                await on.many(kind, names)
            with pytest.raises(InputError):
                await anext(on.each(kind, names))
        assert len(on.box.journal) == 0


@pytest.mark.parametrize("name", [None, 1, b"x", "", "a/b", ["x"]], ids=repr)
async def test_an_id_that_is_none_is_refused_before_anything_is_sent(name: Any) -> None:
    async with world() as on:
        for kind in KINDS:
            with pytest.raises(InputError):
                await on.one(kind, name)
        assert len(on.box.journal) == 0


@pytest.mark.parametrize(
    "seconds",
    [0, 0.0, -1, -0.5, math.nan, math.inf, -math.inf, True, False, "10", [1], 10**400],
    ids=lambda value: repr(value)[:12],
)
@pytest.mark.parametrize("field", ["timeout", "interval"])
async def test_a_time_that_cannot_be_meant_is_refused_before_anything_is_sent(
    field: str, seconds: Any
) -> None:
    async with world() as on:
        for kind in KINDS:
            name = on.add(kind, 0)
            with pytest.raises(InputError) as caught:
                await on.one(kind, name, **{field: seconds})
            assert caught.value.field == field
            with pytest.raises(InputError):
                await on.many(kind, [name], **{field: seconds})
            with pytest.raises(InputError):
                await anext(on.each(kind, [name], **{field: seconds}))
        assert len(on.box.journal) == 0


async def test_an_interval_of_none_is_refused() -> None:
    async with world() as on:
        with pytest.raises(InputError):
            await on.one("run", "abc", interval=None)
        assert len(on.box.journal) == 0


# --- What it costs.


async def test_ten_thousand_waits_cost_what_one_for_ten_thousand_costs() -> None:
    many = 10_000
    clock = HeldClock()
    async with world(clock) as on:
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
async def test_a_thousand_runs_or_jobs_cost_ten_pages(kind: str) -> None:
    clock = HeldClock()
    async with world(clock) as on:
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


async def test_what_is_over_for_long_does_not_make_a_look_dearer() -> None:
    costs = []
    for history in (0, 3000):
        clock = HeldClock()
        async with world(clock) as on:
            for _ in range(history):
                on.add("execution", 0)
            names = [on.add("execution", math.inf) for _ in range(250)]
            task = spawn(on.many("execution", names))
            await clock.settle()
            before = len(on.box.journal)
            await clock.tick()
            await paused(clock, 2)
            costs.append(len(on.box.journal) - before)
            await cancelled(task)
    assert costs[1] - costs[0] <= 2


@pytest.mark.parametrize("alone", [False, True])
async def test_waits_that_began_one_by_one_still_share_their_looks(alone: bool) -> None:
    """On a server that takes its time, so that rows of one look are seen at different times.

    Where the first of many is `alone` for a turn, as each eager task is, a look begins for it.
    """
    clock = HeldClock(chance=0.0)
    count = 1000
    rows = [UUID.format(0)[:-6] + f"{number:06x}" for number in range(count)]
    asked = 0

    def reply(target: str) -> Reply:
        nonlocal asked
        asked += 1
        clock.advance(0.02)
        query = URL(target).query
        number = int(query["page"])
        shown = rows if query["status"] == "in_progress" else []
        part = [execution(id=name) for name in shown[number * 100 : number * 100 + 100]]
        return told(page(part, number=number, size=100, count=len(shown)))

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
        began, before = clock.now, asked
        while clock.now < began + 100:
            await clock.tick()
        await clock.settle()
        looks = (clock.now - began) / 10
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    assert (asked - before) / looks <= 12


async def held_by(kind: str, count: int) -> int:
    """Measure what so many waits hold over the tasks that the caller has anyway, in bytes."""

    async def nothing(gate: asyncio.Event) -> None:
        await gate.wait()

    clock = HeldClock()
    async with world(clock) as on:
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
    """At most 2 KiB for each; what some thousand more take is what counts."""
    few, many = await held_by(kind, 900), await held_by(kind, 1900)
    each = (many - few) / 1000
    assert each <= 2048, each


# --- What failed, and what was not over in time.


@pytest.mark.parametrize("kind", KINDS)
async def test_a_run_that_is_over_is_not_waited_for_whatever_its_state_is_called(kind: str) -> None:
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
        return told(body if is_row else page([body] if "completed" in target else []))

    async with answered(reply=reply) as wire:
        row = await getattr(wire.nunu, f"wait_for_{kind}")(name)
    assert row.is_terminal
    assert not row.succeeded


async def test_what_is_over_without_a_result_is_looked_at_a_few_times_more() -> None:
    """A server that lags behind may take it back, or tell the result a moment later."""
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
            return told(page([]))
        return told(rows.pop(0) if len(rows) > 1 else rows[0])

    async with answered(reply=reply) as wire:
        assert (await wire.nunu.wait_for_run(rows[0]["multiplayer_run_id"])).succeeded
    assert len(rows) == 1, seen


async def test_what_stays_without_a_result_is_returned_as_it_is() -> None:
    row = run(state="COMPLETED", result=None)
    asked: list[str] = []

    def reply(target: str) -> Reply:
        asked.append(target)
        return told(page([]) if "/runs?" in target else row)

    async with answered(reply=reply) as wire:
        found = await wire.nunu.wait_for_run(row["multiplayer_run_id"])
    assert found.is_terminal
    assert not found.succeeded
    assert sum("/runs?" not in target for target in asked) == 4


@pytest.mark.parametrize("how", ["one", "many", "as_completed"])
async def test_what_is_over_without_a_result_in_time_is_no_timeout(how: str) -> None:
    """And another wait for it goes on looking for the result."""
    row = run(state="COMPLETED", result=None)
    name = row["multiplayer_run_id"]

    def reply(target: str) -> Reply:
        return told(page([]) if "/runs?" in target else row)

    async with answered(reply=reply) as wire:
        if how == "one":
            found = await wire.nunu.wait_for_run(name, timeout=2, interval=1)
        elif how == "many":
            (found,) = await wire.nunu.wait_for_runs([name], timeout=2, interval=1)
        else:
            rows = wire.nunu.runs_as_completed([name], timeout=2, interval=1)
            (found,) = [one async for one in rows]
        assert found.is_terminal
        assert wire.nunu._polling.runs._poller._task is None or not len(
            wire.nunu._polling.runs._poller._schedule
        )


@pytest.mark.parametrize("state", ["RUNNING", "queued"])
async def test_an_end_in_year_1_is_none(state: str) -> None:
    """As some servers write what is not set."""
    body = {"completed_at": "0001-01-01T00:00:00Z", "created_at": "2026-04-11T06:20:00Z"}
    made = codec.structure(run(state=state, result=None, **body), Run)
    assert not made.is_terminal
    job = codec.structure(body | {"job_id": JOB, "status": state, "runs": []}, Job)
    assert not job.is_terminal
    row = execution(status=state, completed_at=body["completed_at"])
    assert not codec.structure(row, TestPlanExecution).is_terminal


async def test_the_shared_looks_have_the_context_of_none_of_those_who_wait() -> None:
    """A request for one caller must not be told as another's, who may be long gone."""
    caller = contextvars.ContextVar("caller", default="nobody")
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
        assert set(seen) == {"nobody"}


@pytest.mark.parametrize("kind", KINDS)
async def test_what_failed_is_a_result(kind: str) -> None:
    async with world() as on:
        names = [on.add(kind, 20, "FAILED"), on.add(kind, 10), on.add(kind, 0, "ERROR")]
        rows = await on.many(kind, names)
        assert [row.succeeded for row in rows] == [False, True, False]
        assert not (await on.one(kind, names[0])).succeeded


@pytest.mark.parametrize("kind", KINDS)
async def test_what_failed_is_raised_where_that_was_asked_for(kind: str) -> None:
    async with world() as on:
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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [2, 5])
async def test_a_timeout_tells_what_is_over_and_the_last_state_of_the_rest(
    kind: str, count: int
) -> None:
    async with world() as on:
        slow = [on.add(kind, math.inf) for _ in range(count)]
        quick = on.add(kind, 5)
        began = on.clock.now
        with pytest.raises(WaitTimeout) as caught:
            await on.many(kind, [slow[0], quick, *slow[1:]], timeout=60, interval=7)
        # Time moves in steps as long as a pause here.
        assert 60 <= on.clock.now - began <= 70
        error = caught.value
        assert list(error.finished) == [quick]
        assert error.finished[quick].is_terminal  # type: ignore[attr-defined]
        assert set(error.pending) == set(slow)
        assert {str(state).upper() for state in error.pending.values()} <= {
            "RUNNING",
            "IN_PROGRESS",
        }
        assert on.clock.waiting == 0


async def test_a_timeout_before_the_first_answer_knows_no_state() -> None:
    clock = HeldClock()

    async def exchange(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        await reader.read()

    async with (
        raw_server(exchange) as server,
        NunuClient(KEY, base_url=server.url, clock=clock) as nunu,
    ):
        task = spawn(nunu.wait_for_executions(["a", "b"], timeout=5))
        await until(lambda: server.heads)
        clock.advance(5)
        with pytest.raises(WaitTimeout) as caught:
            await task
        assert caught.value.pending == {"a": None, "b": None}
        assert caught.value.finished == {}
        assert clock.waiting == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_a_timeout_of_one_wait_is_nothing_to_another(kind: str) -> None:
    async with world() as on:
        names = [on.add(kind, 100) for _ in range(4)]
        short = spawn(on.many(kind, names, timeout=30))
        alone = spawn(on.one(kind, names[0], timeout=40))
        long = spawn(on.many(kind, names))
        with pytest.raises(WaitTimeout):
            await short
        with pytest.raises(WaitTimeout):
            await alone
        assert [id_of(row) for row in await long] == names


async def test_a_timeout_also_names_what_the_server_does_not_know() -> None:
    async with world() as on:
        slow = on.add("execution", math.inf)
        with pytest.raises(WaitTimeout) as caught:
            await on.many("execution", [slow, UUID.format(1)], timeout=120)
        assert set(caught.value.pending) == {slow, UUID.format(1)}


# --- Ids that the server does not know, or not yet.


def unknown(kind: str) -> str:
    return "zzzzzzzzzzz" if kind == "run" else UUID.format(9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [0, 1, 6])
@pytest.mark.parametrize("interval", [3, 10, 45])
async def test_an_unknown_id_is_not_found_after_a_while_and_only_it(
    kind: str, count: int, interval: float
) -> None:
    async with world() as on:
        names = [on.add(kind, 80 + 5 * number) for number in range(count)]
        lost = unknown(kind)
        began = on.clock.now
        with pytest.raises(NotFound) as caught:
            await on.one(kind, lost, interval=interval)
        assert 10 <= on.clock.now - began <= max(60, 2.2 * interval)
        names = [on.add(kind, 80 + 5 * number) for number in range(count)]
        with pytest.raises(NotFound) as caught:
            await on.many(kind, [*names, lost], interval=interval)
        told = f"no {kind} {lost} is in any page of GET /"
        assert str(caught.value).startswith(told)  # and not that some request was answered so
        assert (caught.value.status, caught.value.method, caught.value.path) == (404, "", "")
        assert set(caught.value.finished) == set(names)
        assert all(row.is_terminal for row in caught.value.finished.values())  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", KINDS)
async def test_an_unknown_id_is_nothing_to_another_wait(kind: str) -> None:
    async with world() as on:
        name = on.add(kind, 90)
        lost = spawn(on.many(kind, [unknown(kind), name]))
        also = spawn(on.one(kind, unknown(kind)))
        good = spawn(on.one(kind, name))
        for task in (also, lost):
            with pytest.raises(NotFound):
                await task
        assert id_of(await good) == name


@pytest.mark.parametrize("kind", KINDS)
async def test_each_is_given_before_an_unknown_id_is_raised(kind: str) -> None:
    async with world() as on:
        names = [on.add(kind, 5), on.add(kind, 100)]
        seen: list[str] = []
        with pytest.raises(NotFound) as caught:
            await noted(on.each(kind, [unknown(kind), *names]), seen)
        assert seen == names
        assert set(caught.value.finished) == set(names)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_row_that_appears_late_is_found(kind: str) -> None:
    """Not there for the first looks."""
    async with world() as on:
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


async def test_what_is_over_for_long_is_found_below_many_newer_ones() -> None:
    """Executions can be looked for in lists only; the one wanted is the 12,001st."""
    old = UUID.format(0)

    def reply(target: str) -> Reply:
        query = URL(target).query
        number = int(query["page"])
        if query["status"] != "completed":
            return told(page([], number=number, size=100))
        names = [f"new-{number}-{place}" for place in range(100)] if number < 120 else [old]
        rows = [execution(id=name, status="completed") for name in names]
        return told(page(rows, number=number, size=100, count=12_001))

    async with answered(reply=reply) as wire:
        row = await wire.nunu.wait_for_execution(old, interval=60)
        assert row.id == old


# --- What the server refuses for good.


@pytest.mark.parametrize(("status", "error"), [(401, AuthenticationError), (403, PermissionDenied)])
@pytest.mark.parametrize("refused", KINDS)
@pytest.mark.parametrize("count", [1, 5])
async def test_a_refused_key_ends_all_waits_of_all_kinds_at_once(
    refused: str, count: int, status: int, error: type[ApiError]
) -> None:
    clock = HeldClock()
    async with world(clock) as on:
        tasks = []
        for kind in KINDS:
            names = [on.add(kind, math.inf) for _ in range(count)]
            # The one that is to be refused looks first.
            interval = 5 if kind == refused else 10
            tasks.append(spawn(on.many(kind, names, interval=interval)))
            tasks.append(spawn(on.one(kind, names[0], interval=interval)))
        await until(lambda: clock.asleep == 3)
        for operation in ("run", "job"):
            on.box.add_fault(Fault(on=f"get_{operation}", status=status, times=None))
            on.box.add_fault(Fault(on=f"list_{operation}s", status=status, times=None))
        on.box.add_fault(Fault(on="list_test_plan_executions", status=status, times=None))
        pauses, requests = len(clock.sleeps), len(on.box.journal)
        clock.advance(6)
        done, _ = await asyncio.wait(tasks, timeout=20)
        assert len(done) == len(tasks)
        raised = [task.exception() for task in tasks]
        assert all(type(one) is error for one in raised)
        assert len({id(one) for one in raised}) == len(raised)
        assert len(clock.sleeps) == pauses
        assert len(on.box.journal) - requests <= 8
        await until(lambda: not others())
        assert clock.waiting == 0


async def test_a_refused_key_does_not_wait_for_an_answer_that_hangs() -> None:
    clock = ManualClock()
    hung = asyncio.Event()

    async def exchange(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        query = URL(head.split(b" ", 2)[1].decode()).query
        if query["page"] == "0":
            rows = [execution(id=f"other-{number}") for number in range(100)]
            body = page(rows, size=100, count=300)
            writer.write(told(body))
        elif query["page"] == "1":
            await hung.wait()
            writer.write(told({"error": "no"}, 401))
        else:
            hung.set()
            await reader.read()

    async with (
        raw_server(exchange) as server,
        NunuClient(KEY, base_url=server.url, clock=clock) as nunu,
    ):
        task = spawn(nunu.wait_for_execution(UUID.format(3)))
        done, _ = await asyncio.wait([task], timeout=3)
        if not done:
            await cancelled(task)
            pytest.fail("401 came, and the wait goes on")
        assert isinstance(task.exception(), AuthenticationError)


async def test_a_new_wait_after_a_refused_one_looks_anew() -> None:
    async with world() as on:
        name = on.add("execution", 5)
        on.box.add_fault(Fault(on="list_test_plan_executions", status=403))
        with pytest.raises(PermissionDenied):
            await on.one("execution", name)
        assert (await on.one("execution", name)).is_terminal


# --- What passes.


TROUBLES: dict[str, dict[str, Any]] = {
    "500": {"status": 500},
    "502": {"status": 502, "body": "<html>"},
    "503": {"status": 503},
    "504": {"status": 504},
    "520": {"status": 520},
    "507": {"status": 507},
    "408": {"status": 408},
    "425": {"status": 425},
    "429": {"status": 429},
    "429 and when": {"status": 429, "headers": {"Retry-After": "33"}},
    "503 and when": {"status": 503, "headers": {"Retry-After": "21"}},
    "429 and long": {"status": 429, "headers": {"Retry-After": "400"}},
    "no json": {"status": 200, "body": "<html>gateway</html>"},
    "half an answer": {"status": 200, "body": '{"data": [', "headers": {}},
    "cut": {"do": "cut"},
}


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize(("kind", "count"), [("execution", 3), ("run", 1), ("run", 6), ("job", 6)])
async def test_trouble_that_passes_never_ends_a_wait(kind: str, count: int, trouble: str) -> None:
    async with world(retry=ONCE) as on:
        names = [on.add(kind, 30 + number) for number in range(count)]
        on.box.add_fault(Fault(on="*", first=2, times=25, **TROUBLES[trouble]))
        rows = await on.many(kind, names, interval=4)
        assert [id_of(row) for row in rows] == names
        # Without repeats inside a call every pause is one between two looks, but for those that
        # all requests of the client make after a 429.
        assert trouble == "429" or min(on.clock.sleeps) >= 4


@pytest.mark.parametrize("trouble", ["503", "429 and when", "cut"])
async def test_trouble_from_the_first_request_on_never_ends_a_wait(trouble: str) -> None:
    async with world() as on:
        on.box.add_fault(Fault(on="*", times=60, **TROUBLES[trouble]))
        assert (await on.one("execution", on.add("execution", 30))).is_terminal
        assert (await on.one("run", on.add("run", 30))).is_terminal


@pytest.mark.parametrize("kind", KINDS)
async def test_a_server_that_is_away_for_a_while_never_ends_a_wait(kind: str) -> None:
    """Nobody listens at all: connections are refused."""
    clock = HeldClock()
    async with raw_server(silent) as gone:
        pass
    name = "abcdefghijk" if kind == "run" else UUID.format(1)
    async with NunuClient(Sandbox().api_key, base_url=gone.url, clock=clock, retry=ONCE) as nunu:
        task = spawn(getattr(nunu, f"wait_for_{kind}")(name))
        for _ in range(4):
            await clock.tick()
            await clock.settle()
        assert not task.done()
        async with Sandbox(port=gone.port) as box:
            if kind == "execution":
                box.add_execution(execution_id=name)
            elif kind == "run":
                box.add_run(run_id=name)
            else:
                box.add_run(job_id=name)
            await clock.tick()
            assert id_of(await task) == name


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
    await reader.read()


@pytest.mark.parametrize("trouble", ["503", "429", "cut"])
async def test_pauses_grow_while_trouble_lasts_and_shrink_after_it(trouble: str) -> None:
    clock = HeldClock()
    async with world(clock, retry=ONCE) as on:
        name = on.add("run", math.inf)
        on.box.add_fault(Fault(on="*", first=2, times=5, **TROUBLES[trouble]))
        task = spawn(on.one("run", name))
        for number in range(8):
            await paused(clock, number + 1)
            await clock.tick()
        await cancelled(task)
        calm, *bad, after = clock.sleeps[0], *clock.sleeps[1:6], clock.sleeps[6]
        assert 10 <= calm <= 11
        assert bad == sorted(bad)
        assert bad[0] > 11
        assert bad[-1] > bad[0]
        assert 10 <= after <= 11


@pytest.mark.parametrize(("status", "asked"), [(429, 45), (503, 130), (429, 400)])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 5])
async def test_a_server_that_says_when_is_left_in_peace_until_then(
    kind: str, count: int, asked: int, status: int
) -> None:
    times: list[float] = []
    names = [UUID.format(number) for number in range(count)]
    clock = ManualClock()

    def reply(target: str) -> Reply:
        times.append(clock.now)
        if len(times) < 6:
            return told({"error": "slow down"}, status, Retry_After=str(asked))
        return said(kind, target, dict.fromkeys(names, "completed"))

    async with answered(reply=reply, clock=clock) as wire:
        rows = await getattr(wire.nunu, f"wait_for_{kind}s")(names)
        assert len(rows) == count
    gaps = [after - before for before, after in pairwise(times[:6])]
    assert min(gaps) >= asked, gaps


def job(**members: Any) -> dict[str, Any]:
    return {
        "job_id": UUID.format(0),
        "status": "RUNNING",
        "created_at": "2026-04-11T06:12:03.114520+00:00",
        "completed_at": None,
        "project_id": "pixel-harbor",
        "multiplayer_test_id": UUID.format(255),
        "tags": [],
        "retries": {"total": 0, "remaining": 0},
        "runs": [],
    } | members


def row_of(kind: str, name: str, state: str) -> dict[str, Any]:
    """Make a row in the state that filters call `state`."""
    if kind == "execution":
        return execution(id=name, status=state)
    word = {"in_progress": "RUNNING", "running": "RUNNING", "queued": "QUEUED"}.get(state, state)
    if kind == "run":
        result = "SUCCESS" if state.lower() == "completed" else None
        return run(multiplayer_run_id=name, state=word, result=result, completed_at=None)
    return job(job_id=name, status=word)


def said(kind: str, target: str, states: dict[str, str]) -> Reply:
    """Answer a request for a page or a row, of rows in these states; filters fold the case."""
    url = URL(target)
    asked = url.query.get("status") or url.query.get("state")
    if "page" not in url.query:
        name = url.path.rsplit("/", 1)[1]
        if name not in states:
            return told({"error": "not found"}, 404)
        return told(row_of(kind, name, states[name]))
    is_over = {name for name, state in states.items() if state.lower() == "completed"}
    first = "in_progress" if kind == "execution" else "running"
    if asked == "completed":
        shown = [name for name in states if name in is_over]
    elif asked == first:
        shown = [name for name in states if name not in is_over]
    else:
        shown = []
    number, size = int(url.query["page"]), int(url.query["page_size"])
    part = shown[number * size : (number + 1) * size]
    rows = [row_of(kind, name, states[name]) for name in part]
    return told(page(rows, number=number, size=size, count=len(shown)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chance", [0.0, 0.999])
@pytest.mark.parametrize("interval", [0.5, 10, 61.3])
async def test_the_pause_is_never_shorter_than_asked(
    kind: str, chance: float, interval: float
) -> None:
    async with world(ManualClock(chance)) as on:
        await on.one(kind, on.add(kind, 12 * interval), interval=interval)
        assert len(on.clock.sleeps) >= 10
        assert min(on.clock.sleeps) >= interval * (1 - 1e-9)
        assert max(on.clock.sleeps) <= 1.2 * interval


async def test_the_interval_is_ten_seconds_unless_asked() -> None:
    async with world() as on:
        await on.one("run", on.add("run", 50))
        assert all(10 <= pause <= 12 for pause in on.clock.sleeps)


async def test_each_wait_keeps_its_own_interval() -> None:
    """A hasty wait does not make others dearer: the patient one is asked for when it is due."""
    clock = HeldClock(chance=0.0)
    async with world(clock) as on:
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
        asked = Counter(URL(seen.target).name for seen in on.box.journal)
        await cancelled(*tasks)
        assert 19 <= asked[hasty] <= 22
        assert asked[patient] <= 3 + 1


# --- Changes.


class Notes:
    """What `on_change` was told."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str | None, str]] = []

    def note(self, change: Change[Any]) -> None:
        assert id_of(change.row) is not None
        self.seen.append((change.id, change.before, change.after))

    async def note_slowly(self, change: Change[Any]) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        self.note(change)

    def of(self, name: str) -> list[tuple[str | None, str]]:
        return [
            (before.upper() if before else None, after.upper())
            for told, before, after in self.seen
            if told == name
        ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["note", "note_slowly"])
@pytest.mark.parametrize("count", [1, 6])
async def test_every_change_is_told_in_order(kind: str, how: str, count: int) -> None:
    async with world() as on:
        if kind == "execution":
            outcome = Outcome(passed=1, queue_seconds=40, run_seconds=60)
            names = [
                on.box.add_execution(outcome=outcome, status="queued").execution_id
                for _ in range(count)
            ]
            path = ["QUEUED", "IN_PROGRESS", "COMPLETED"]
        elif kind == "run":
            script = Script(initialize_seconds=40, run_seconds=60)
            names = [
                on.box.add_run(script=script, state="INITIALIZING").run_id for _ in range(count)
            ]
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
    asked = 0

    def reply(target: str) -> Reply:
        nonlocal asked
        asked += 1
        state = ["RUNNING", "running", "Running"][asked % 3] if asked < 9 else "completed"
        return told(job(job_id=name, status=state))

    notes = Notes()
    async with answered(reply=reply) as wire:
        await wire.nunu.wait_for_job(name, on_change=notes.note)
    assert notes.of(name) == [(None, "RUNNING"), ("RUNNING", "COMPLETED")]


@pytest.mark.parametrize("kind", KINDS)
async def test_whoever_comes_later_is_told_the_first_sight_too(kind: str) -> None:
    clock = HeldClock()
    async with world(clock) as on:
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
async def test_what_a_listener_raises_ends_that_wait_only(kind: str, is_slow: bool) -> None:
    def fail(change: Change[Any]) -> None:
        if change.before is not None:
            raise ZeroDivisionError(change.id)

    async def fail_slowly(change: Change[Any]) -> None:
        await asyncio.sleep(0)
        fail(change)

    async with world() as on:
        names = [on.add(kind, 40), on.add(kind, 100)]
        other = spawn(on.many(kind, names))
        with pytest.raises(ZeroDivisionError, match=names[0]):
            await on.many(kind, names, on_change=fail_slowly if is_slow else fail)
        with pytest.raises(ZeroDivisionError):
            async for _ in on.each(kind, names, on_change=fail_slowly if is_slow else fail):
                pass
        assert [id_of(row) for row in await other] == names


async def test_a_listener_is_told_of_every_id_that_was_asked_for() -> None:
    """Also where a caller has the same UUID in two cases."""
    async with world() as on:
        name = on.add("execution", 20)
        notes = Notes()
        rows = await on.many("execution", [name, name.upper()], on_change=notes.note)
        assert [row.id for row in rows] == [name, name]
        path = [(None, "IN_PROGRESS"), ("IN_PROGRESS", "COMPLETED")]
        assert notes.of(name) == path
        assert notes.of(name.upper()) == path


# --- Each as it is over.


@pytest.mark.parametrize("kind", KINDS)
async def test_each_is_given_once_as_it_is_over(kind: str) -> None:
    async with world() as on:
        names = [on.add(kind, seconds) for seconds in (95, 35, 0, 65, 5)]
        seen = [id_of(row) async for row in on.each(kind, [*names, *names[:2]])]
        assert sorted(seen) == sorted(names)
        assert seen == [names[2], names[4], names[1], names[3], names[0]]


async def test_each_is_given_as_soon_as_it_is_over() -> None:
    clock = HeldClock()
    async with world(clock) as on:
        names = [on.add("run", 5), on.add("run", math.inf)]
        async with aclosing(on.each("run", names)) as given:
            first = spawn(anext(given))
            await clock.tick()
            assert id_of(await first) == names[0]
            await clock.settle()
        assert clock.waiting == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_leaving_the_loop_frees_everything(kind: str) -> None:
    clock = HeldClock()
    async with world(clock) as on:
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
        asked = len(on.box.journal)
        clock.advance(1000)
        await asyncio.sleep(0.01)
        assert len(on.box.journal) == asked


async def test_nothing_is_asked_before_the_first_step() -> None:
    async with world() as on:
        on.nunu.runs_as_completed(["abc"])
        await asyncio.sleep(0)
        assert len(on.box.journal) == 0
        assert not others()


async def test_a_caller_that_takes_its_time_gets_all_that_was_over_in_time() -> None:
    clock = HeldClock()
    async with world(clock) as on:
        names = [on.add("run", 0), on.add("run", 0), on.add("run", math.inf)]
        seen: list[str] = []

        async def take_its_time() -> None:
            async for row in on.each("run", names, timeout=15):
                seen.append(id_of(row))
                await clock.settle()  # the look is over, and has found both
                clock.advance(20)

        with pytest.raises(WaitTimeout) as caught:
            await take_its_time()
        assert sorted(seen) == sorted(names[:2])
        assert list(caught.value.pending) == names[2:]


# --- Cancelling.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_same", [True, False])
async def test_cancelling_one_of_two_leaves_the_other(kind: str, is_same: bool) -> None:
    clock = HeldClock()
    async with world(clock) as on:
        name = on.add(kind, 30)
        gone = name if is_same else on.add(kind, math.inf)
        leaving = spawn(on.one(kind, gone, timeout=1000))
        staying = spawn(on.one(kind, name))
        await clock.settle()
        await cancelled(leaving)
        asked = len(on.box.journal)
        while not staying.done():
            await asyncio.sleep(0.001)
            if clock.asleep:
                await clock.tick()
        assert (await staying).is_terminal
        if not is_same:
            later = [seen.target for seen in on.box.journal][asked:]
            assert not any(gone in target for target in later)
        assert clock.waiting == 0
        assert not others()


@pytest.mark.parametrize("kind", KINDS)
async def test_cancelling_the_last_one_leaves_nothing(kind: str) -> None:
    clock = HeldClock()
    async with world(clock) as on:
        names = [on.add(kind, math.inf) for _ in range(5)]
        tasks = [spawn(on.many(kind, names, timeout=1000)), spawn(on.one(kind, names[0]))]
        await clock.settle()
        await cancelled(*tasks)
        assert not others()
        assert clock.waiting == 0
        assert clock.asleep == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_cancelling_on_the_wire_leaves_no_connection_stuck(kind: str) -> None:
    """The gate lets one request through at a time; one that stays would block all others."""
    clock = HeldClock()
    async with world(clock, api_concurrency=1) as on:
        name = on.add(kind, math.inf)
        on.box.add_fault(Fault(on="*", do="stall", times=3))
        for number in range(3):
            task = spawn(on.one(kind, name))
            while len(on.box.journal) == number:
                await asyncio.sleep(0.001)
            await cancelled(task)
            assert not others()
            assert clock.waiting == 0
        assert (await on.one(kind, on.add(kind, 0))).is_terminal


@pytest.mark.parametrize("kind", KINDS)
async def test_a_wait_can_be_cancelled_at_any_turn_of_the_loop(kind: str) -> None:
    async with world() as on:
        name = on.add(kind, math.inf)
        for turns in [*range(30), 40, 60, 90]:
            task = spawn(on.one(kind, name, timeout=10**6))
            other = spawn(on.many(kind, [name, on.add(kind, math.inf)]))
            for _ in range(turns):
                await asyncio.sleep(0)
            await cancelled(task, other)
            assert not others()
            assert on.clock.waiting == 0


async def test_a_wait_within_a_time_limit_of_the_caller_ends_with_it() -> None:
    clock = HeldClock()
    async with world(clock) as on:
        name = on.add("run", math.inf)
        limit = asyncio.Event()

        async def waiting() -> None:
            async with asyncio.timeout(None) as within:
                task = spawn(limit.wait())
                task.add_done_callback(
                    lambda _: within.reschedule(asyncio.get_running_loop().time())
                )
                await on.one("run", name)

        task = spawn(waiting())
        await clock.settle()
        limit.set()
        with pytest.raises(TimeoutError):
            await task
        assert not others()


async def test_looks_end_with_the_last_wait() -> None:
    clock = HeldClock()
    async with world(clock) as on:
        await on.many("run", [on.add("run", 0) for _ in range(5)])
        asked = len(on.box.journal)
        clock.advance(10_000)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(on.box.journal) == asked
        assert clock.sleeps == []
        assert not others()


# --- Closing.


async def test_closing_the_client_ends_all_waits() -> None:
    clock = HeldClock()
    async with world(clock) as on:
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
@pytest.mark.parametrize("before", ["nothing", "a look", "trouble"])
async def test_a_wait_on_a_closed_client_ends_at_once(kind: str, before: str) -> None:
    clock = HeldClock()
    async with world(clock, retry=ONCE) as on:
        if before == "trouble":
            on.box.add_fault(Fault(on="*", status=503, times=None))
        if before != "nothing":
            task = spawn(on.many(kind, [on.add(kind, math.inf) for _ in range(5)]))
            await clock.settle()
            await cancelled(task)
        pauses = len(clock.sleeps)
        await on.nunu.close()
        for names in (["a"], ["a", "b", "c", "d", "e"]):
            for waiting in (on.many(kind, names), anext(on.each(kind, names))):
                task = spawn(waiting)
                done, _ = await asyncio.wait([task], timeout=0.5)
                if not done:
                    await cancelled(task)
                    pytest.fail("the client is closed, and the wait goes on")
                assert isinstance(task.exception(), ClientClosed)
        assert len(clock.sleeps) == pauses


@pytest.mark.parametrize("kind", KINDS)
async def test_closing_while_a_look_is_on_the_wire_ends_the_wait(kind: str) -> None:
    clock = HeldClock()
    async with world(clock) as on:
        on.box.add_fault(Fault(on="*", do="stall"))
        task = spawn(on.one(kind, on.add(kind, math.inf)))
        await until(lambda: len(on.box.journal) == 1)
        await on.nunu.close()
        with pytest.raises(ClientClosed):
            await task


async def test_a_wait_that_begins_while_the_client_is_being_closed_ends_too() -> None:
    clock = HeldClock()
    async with world(clock) as on:
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


# --- Jobs.


async def started(on: World, **members: Any) -> StartedRun:
    return await on.nunu.runs.start(
        deployment_config_id=on.box.deployment_configs[0].id,
        multiplayer_test_id=on.box.tests[0].id,
        **members,
    )


async def test_a_job_is_not_over_while_a_retry_runs() -> None:
    async with world() as on:
        on.box.scripts.extend([Script(result="ERROR"), Script(result="ERROR"), Script()])
        (name,) = (await started(on, retries=3)).job_ids
        row = await on.one("job", name)
        assert row.succeeded
        assert [one.result for one in row.runs] == ["ERROR", "ERROR", "SUCCESS"]
        assert all(one.multiplayer_run_id for one in row.runs)
        assert [run.multiplayer_run_id for run in row.runs] == [run.run_id for run in on.box.runs]


async def test_a_job_with_several_instances_is_over_with_the_last() -> None:
    async with world() as on:
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


async def test_a_job_that_is_stopped_is_over() -> None:
    clock = HeldClock()
    async with world(clock) as on:
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
@pytest.mark.parametrize("style", ["as told", "upper"])
async def test_jobs_of_a_server_without_jobs_are_made_out_from_their_runs(
    count: int, style: str
) -> None:
    names = [UUID.format(number) for number in range(count)]
    asked = Counter[str]()
    ends = 4

    def reply(target: str) -> Reply:
        url = URL(target)
        if "/jobs" in url.path:
            return told({"error": "not found"}, 404)
        name = url.query["job_id"].lower()
        asked[name] += 1
        is_over = asked[name] >= ends
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
        return told(page(rows, size=100))

    wanted = [name.upper() for name in names] if style == "upper" else names
    async with answered(reply=reply) as wire:
        rows = await wire.nunu.wait_for_jobs(wanted)
    assert all(count >= ends for count in asked.values())
    for name, row in zip(names, rows, strict=True):
        assert row.job_id.lower() == name
        assert row.is_terminal
        assert not row.succeeded
        assert [one.multiplayer_run_id for one in row.runs] == [f"{name}-a", f"{name}-b"]


# --- Words and ids in either case, paths in either style.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("word", ["completed", "COMPLETED", "Completed"])
@pytest.mark.parametrize("count", [1, 5])
async def test_a_state_counts_in_either_case(kind: str, word: str, count: int) -> None:
    names = [UUID.format(number) for number in range(count)]
    looks = 0

    def reply(target: str) -> Reply:
        nonlocal looks
        looks += 1
        return said(kind, target, dict.fromkeys(names, word if looks > 8 else "running"))

    async with answered(reply=reply) as wire:
        rows = await getattr(wire.nunu, f"wait_for_{kind}s")(names)
    assert len(rows) == count
    assert looks > 8


@pytest.mark.parametrize("kind", ["execution", "job"])
@pytest.mark.parametrize("count", [1, 5])
async def test_a_uuid_may_be_in_upper_case(kind: str, count: int) -> None:
    async with world() as on:
        names = [on.add(kind, 20 * number) for number in range(count)]
        asked = [name.upper() for name in names]
        rows = await on.many(kind, asked)
        assert [id_of(row) for row in rows] == names
        rows = await on.many(kind, [*asked, *names])
        assert [id_of(row) for row in rows] == [*names, *names]
        seen = [id_of(row) async for row in on.each(kind, asked)]
        assert sorted(seen) == sorted(names)
        slow = on.add(kind, math.inf).upper()
        with pytest.raises(WaitTimeout) as caught:
            await on.many(kind, [slow, asked[0]], timeout=20)
        assert list(caught.value.pending) == [slow]
        assert caught.value.pending[slow] is not None
        assert list(caught.value.finished) == [asked[0]]


async def test_thousands_of_ids_in_upper_case_do_not_hold_up_the_loop() -> None:
    """What each of them costs does not grow with their number."""
    costs = []
    for count in (500, 4000):
        names = [f"ABCDEF00-0000-4000-8000-{number:012x}".upper() for number in range(count)]
        rows = [told_page(names, number) for number in range(-(-count // 100))]

        def reply(target: str, rows: list[bytes] = rows) -> Reply:
            query = URL(target).query
            if query["status"] != "completed":
                return told(page([], size=100))
            return rows[int(query["page"])]

        async with answered(reply=reply) as wire:
            began = time.process_time()
            found = await wire.nunu.wait_for_executions(names)
            costs.append((time.process_time() - began) / count)
        assert len(found) == count
    assert costs[1] <= 3 * costs[0], costs


def told_page(names: Sequence[str], number: int) -> bytes:
    part = names[number * 100 : (number + 1) * 100]
    rows = [execution(id=name.lower(), status="completed") for name in part]
    return told(page(rows, number=number, size=100, count=len(names)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("style", ["key", "project"])
@pytest.mark.parametrize("count", [1, 5])
async def test_waits_go_by_both_styles_of_path(kind: str, style: str, count: int) -> None:
    async with world(path_style=style) as on:
        names = [on.add(kind, 15) for _ in range(count)]
        assert len(await on.many(kind, names)) == count
        prefix = f"/api/v1/project/{on.box.project_id}/" if style == "project" else "/api/v1/"
        for seen in on.box.journal:
            assert seen.target.startswith(prefix)
            assert ("/project/" in seen.target) == (style == "project")


# --- Starting and waiting in one.


def starting(on: World, what: str = "test", **terms: Any) -> Coroutine[Any, Any, Any]:
    members: dict[str, Any] = {
        "test": {"multiplayer_test_id": on.box.tests[0].id},
        "plan": {"test_plan_id": on.box.test_plans[0].id},
        "instructions": {"instructions": "Buy a lantern", "name": "Lantern"},
    }[what]
    return on.nunu.run_and_wait(
        deployment_config_id=on.box.deployment_configs[0].id, **(members | terms)
    )


@pytest.mark.parametrize("what", ["test", "plan", "instructions"])
@pytest.mark.parametrize("dialect", ["J", "M", "L"])
async def test_what_is_started_is_waited_for(what: str, dialect: str) -> None:
    if dialect == "J" and what != "test":
        pytest.skip("January knows one job only")
    async with world(box={"dialect": dialect}) as on:
        on.box.scripts.append(Script(run_seconds=70, result="FAILED"))
        heard: list[StartedRun] = []
        done = await starting(on, what, on_start=heard.append)
        assert heard == [done.started]
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
async def test_changes_of_what_was_started_are_told(dialect: str) -> None:
    async with world(box={"dialect": dialect}) as on:
        notes = Notes()
        done = await starting(on, on_change=notes.note)
        path = [after for _, after in notes.of(done.jobs[0].job_id)]
        assert path[-1:] == ["COMPLETED"]
        assert len(path) >= 2


async def test_a_coroutine_function_can_be_told_of_the_start() -> None:
    async with world() as on:
        heard = []

        async def hear(what: StartedRun) -> None:
            await asyncio.sleep(0)
            heard.append(what)
            assert on.box.journal.operations() == ["start_run"]

        done = await starting(on, on_start=hear)
        assert heard == [done.started]


async def test_what_was_started_and_failed_is_raised_where_asked_for() -> None:
    async with world() as on:
        on.box.scripts.append(Script(result="FAILED"))
        with pytest.raises(RunFailed) as caught:
            await starting(on, raise_on_failure=True)
        assert caught.value.failed == tuple(caught.value.finished)
        assert (await starting(on, raise_on_failure=True)).succeeded


async def test_what_was_started_goes_on_after_a_timeout() -> None:
    async with world() as on:
        on.box.scripts.append(Script(run_seconds=math.inf))
        heard: list[StartedRun] = []
        with pytest.raises(WaitTimeout) as caught:
            await starting(on, timeout=50, on_start=heard.append)
        assert tuple(caught.value.pending) == heard[0].job_ids
        assert not on.box.journal.of("stop_runs")


@pytest.mark.parametrize("what", ["test", "plan"])
async def test_cancelling_the_wait_stops_what_was_started(what: str) -> None:
    clock = HeldClock()
    async with world(clock) as on:
        on.box.scripts.extend([Script(run_seconds=math.inf)] * 2)
        heard: list[StartedRun] = []
        task = spawn(starting(on, what, on_start=heard.append))
        await clock.settle()
        await cancelled(task)
        (stop,) = on.box.journal.of("stop_runs")
        assert stop.body == {"job_ids": list(heard[0].job_ids)}
        assert stop.status == 200
        assert not others()
        assert clock.waiting == 0


@pytest.mark.parametrize("latency", ["before", "after"])
async def test_cancelling_the_start_stops_what_it_starts(latency: str) -> None:
    """The server may have acted already, or still be about to."""
    clock = HeldClock()
    gate = asyncio.Event()

    async def sleep(_: float) -> None:
        await gate.wait()

    async with world(clock, box={"sleep": sleep}) as on:
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


async def test_a_start_that_is_never_answered_does_not_hold_a_cancellation_for_ever() -> None:
    clock = HeldClock()
    async with world(clock) as on:
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


async def test_cancelling_while_the_listener_is_told_stops_what_was_started() -> None:
    async with world() as on:
        reached = asyncio.Event()

        async def hear(_: StartedRun) -> None:
            reached.set()
            await asyncio.Event().wait()

        task = spawn(starting(on, on_start=hear))
        await reached.wait()
        await cancelled(task)
        assert len(on.box.journal.of("stop_runs")) == 1


@pytest.mark.parametrize("moment", ["start", "wait"])
async def test_cancelling_stops_nothing_where_that_was_asked_for(moment: str) -> None:
    clock = HeldClock()
    async with world(clock) as on:
        if moment == "start":
            on.box.add_fault(Fault(on="start_run", do="stall"))
        task = spawn(starting(on, stop_on_cancel=False))
        if moment == "start":
            await until(lambda: on.box.journal.of("start_run"))
        else:
            await clock.settle()
        await cancelled(task)
        assert not others()
        assert not on.box.journal.of("stop_runs")
        assert clock.waiting == 0


async def test_a_stop_that_fails_does_not_take_the_place_of_the_cancellation() -> None:
    clock = ManualClock()
    async with world(clock) as on:
        on.box.add_fault(Fault(on="stop_runs", status=500, times=None))
        on.box.scripts.append(Script(run_seconds=math.inf))
        task = spawn(starting(on))
        await until(lambda: on.box.journal.of("get_job"))
        await cancelled(task)
        assert on.box.journal.of("stop_runs")


async def test_run_and_wait_can_be_cancelled_at_any_turn_of_the_loop() -> None:
    async with world() as on:
        for turns in range(0, 120, 3):
            on.box.scripts.clear()
            on.box.scripts.append(Script(run_seconds=math.inf))
            task = spawn(starting(on))
            for _ in range(turns):
                await asyncio.sleep(0)
            await cancelled(task)
            assert not others()
            now = EPOCH + on.clock.now
            assert all(row.state(now) == "COMPLETED" for row in on.box.runs), turns
            assert on.clock.waiting == 0


@pytest.mark.parametrize("moment", ["start", "wait"])
async def test_closing_the_client_ends_it_with_a_clear_error(moment: str) -> None:
    clock = HeldClock()
    async with world(clock) as on:
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
        told = "".join(getattr(caught.value, "__notes__", ()))
        ids = [run.job_id for run in on.box.runs] if moment != "start" else []
        assert [job_id for job_id in ids if job_id in told] == ids
        assert ("what was started goes on" in told) == bool(ids)
        assert not others()
        assert clock.waiting == 0


async def test_a_start_that_is_refused_is_raised_and_nothing_is_waited_for() -> None:
    async with world() as on:
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
