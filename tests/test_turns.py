"""Many that go on together do not do so in one turn of the event loop."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import attrs
import pytest
from doubles import HeldClock, LoopTurns, ManualClock, counting_turns, until
from hypothesis import given
from hypothesis import strategies as st
from uploads import MakeFile

from nunu_async import Attempt, ClientClosed, NotFound, NunuClient, WaitTimeout
from nunu_async.core.turns import Turns
from nunu_async.models.runs import Run
from nunu_async.sandbox import Fault, Sandbox, Script

EPOCH = 1_780_000_000.0
MANY = 1000
# By design, and not read from the code: a change of either is to be a decision.
WOKEN_AT_ONCE = 100
ENDED_AT_ONCE = 2


# --- The rule.


async def test_so_many_go_on_in_a_turn_and_in_the_order_they_came() -> None:
    turns = Turns(3)
    came: list[int] = []

    async def go(number: int) -> None:
        await turns.ready()
        loop.note()
        came.append(number)

    async with counting_turns() as loop:
        await asyncio.gather(*map(go, range(10)))
    assert came == list(range(10))
    assert sorted(loop.seen.values()) == [1, 3, 3, 3]


async def test_without_a_crowd_every_turn_is_granted_at_once() -> None:
    turns = Turns(2)
    for _ in range(3):
        async with counting_turns() as loop:
            await turns.ready()
            loop.note()
            await turns.ready()
            loop.note()
        assert list(loop.seen) == [0]
        await asyncio.sleep(0)
        await asyncio.sleep(0)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=60), st.integers(1, 200))
async def test_no_iteration_gets_more_than_the_limit_and_one_count(
    counts: list[int], limit: int
) -> None:
    turns = Turns(limit)

    async def sender(some: list[int]) -> None:
        for count in some:
            await turns.ready(count)
            loop.seen[loop.number] += count

    async with counting_turns() as loop:
        await asyncio.wait_for(asyncio.gather(*(sender(counts[n::4]) for n in range(4))), 20)
    assert loop.seen.total() == sum(counts)
    assert loop.most < limit + max(counts)


async def test_a_cancelled_waiter_takes_no_turn_from_others() -> None:
    turns = Turns(1)
    tasks = [asyncio.ensure_future(turns.ready()) for _ in range(50)]
    await asyncio.sleep(0)
    for task in tasks[1:-1]:
        task.cancel()
    for _ in range(3):
        await asyncio.sleep(0)
    assert [task.cancelled() for task in tasks] == [False, *[True] * 48, False]
    assert tasks[-1].done()


async def test_what_is_done_already_is_not_woken_again() -> None:
    turns = Turns(1)
    loop = asyncio.get_running_loop()
    first, second, third = (loop.create_future() for _ in range(3))
    first.cancel()
    turns.wake(first)
    turns.wake(second)
    turns.wake(third)
    assert (second.done(), third.done()) == (True, False)
    third.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await turns.ready()


# --- Waiting.


@attrs.define
class Crowd:
    """Many tasks that each wait for one run."""

    box: Sandbox
    nunu: NunuClient
    clock: HeldClock
    loop: LoopTurns
    tasks: list[asyncio.Task[Run]] = attrs.field(factory=list)

    async def wait(self, names: list[str], **terms: Any) -> None:
        async def one(name: str) -> Run:
            try:
                return await self.nunu.wait_for_run(name, **terms)
            finally:
                self.loop.note()

        self.tasks = [asyncio.ensure_future(one(name)) for name in names]
        await self.clock.settle()

    def run(self, seconds: float) -> str:
        return self.box.add_run(script=Script(run_seconds=seconds), state="RUNNING").run_id

    async def over(self) -> None:
        done, pending = await asyncio.wait(self.tasks, timeout=60)
        assert (len(done), len(pending)) == (len(self.tasks), 0)
        assert not len(self.nunu._polling._pollers[0]._schedule)


@pytest.fixture
async def crowd() -> AsyncIterator[Crowd]:
    clock = HeldClock()
    async with (
        Sandbox(now=lambda: EPOCH + clock.now) as box,
        NunuClient(box.api_key, base_url=box.base_url, clock=clock) as nunu,
        counting_turns() as loop,
    ):
        yield Crowd(box, nunu, clock, loop)


async def test_many_that_wait_for_one_run_go_on_over_several_turns(crowd: Crowd) -> None:
    name = crowd.run(5.0)
    await crowd.wait([name] * MANY)
    crowd.clock.advance(10.6)
    await crowd.over()
    # The first to go on ends the looks, and is done a turn later.
    assert crowd.loop.most <= WOKEN_AT_ONCE + 1
    assert crowd.loop.seen.total() == MANY
    assert {task.result().multiplayer_run_id for task in crowd.tasks} == {name}


async def test_waiters_that_leave_amid_a_wakeup_block_no_others(crowd: Crowd) -> None:
    """Nor does what they waited for: it was over for them, too, and is watched no more."""
    name = crowd.run(5.0)
    await crowd.wait([name] * MANY)
    crowd.clock.advance(10.6)
    await until(crowd.loop.seen.total)
    leaving = [task for task in crowd.tasks if not task.done()][::3]
    for task in leaving:
        task.cancel()
    await crowd.over()
    assert all(task.cancelled() for task in leaving)
    stayed = [task.result() for task in crowd.tasks if task not in set(leaving)]
    assert len(stayed) == MANY - len(leaving) < MANY
    assert all(row.is_terminal for row in stayed)


async def test_closing_wakes_all_waiters_over_several_turns(crowd: Crowd) -> None:
    """Before it returns: a program that ends with it would cancel those that are left."""
    names = [crowd.run(math.inf) for _ in range(10)]
    await crowd.wait(names * (MANY // 10))
    await crowd.nunu.close()
    assert crowd.loop.most <= WOKEN_AT_ONCE
    await asyncio.sleep(0)
    assert all(task.done() for task in crowd.tasks)
    raised = [task.exception() for task in crowd.tasks]
    assert {type(one) for one in raised} == {ClientClosed}
    assert len({id(one) for one in raised}) == MANY  # each adds to the traceback of its own
    await crowd.over()


async def test_a_close_that_is_cancelled_ends_all_waits(crowd: Crowd) -> None:
    await crowd.wait([crowd.run(math.inf)] * MANY)
    closing = asyncio.ensure_future(crowd.nunu.close())
    await until(crowd.loop.seen.total)
    closing.cancel()
    await crowd.over()
    assert {type(task.exception()) for task in crowd.tasks} == {ClientClosed}


async def test_limits_that_end_together_wake_their_owners_over_several_turns(
    crowd: Crowd,
) -> None:
    await crowd.wait([crowd.run(math.inf)] * MANY, timeout=5.0)
    crowd.clock.advance(5.0)
    await crowd.over()
    assert crowd.loop.most <= WOKEN_AT_ONCE
    assert {type(task.exception()) for task in crowd.tasks} == {WaitTimeout}


async def test_thousands_of_ids_are_taken_over_several_turns(crowd: Crowd) -> None:
    """And cancelled in the middle of that, none of them is watched any longer."""
    names = [f"run-{number}" for number in range(5 * MANY)]
    schedule = crowd.nunu._polling._pollers[0]._schedule
    task = asyncio.ensure_future(crowd.nunu.wait_for_runs(names))
    steps = []
    while len(schedule) < len(names):
        await asyncio.sleep(0)
        steps.append(len(schedule))
    assert steps[-5:] == [MANY, 2 * MANY, 3 * MANY, 4 * MANY, 5 * MANY]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    task = asyncio.ensure_future(crowd.nunu.wait_for_runs(names))
    while not len(schedule):
        await asyncio.sleep(0)
    assert len(schedule) == MANY
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(schedule) == 0


async def test_ids_that_are_not_there_are_given_up_over_several_turns() -> None:
    """The one that is there ends as ever."""
    clock = ManualClock()
    async with (
        Sandbox(now=lambda: EPOCH + clock.now) as box,
        NunuClient(box.api_key, base_url=box.base_url, clock=clock) as nunu,
        counting_turns() as loop,
    ):
        over = box.add_execution(status="completed").execution_id

        async def one(name: str) -> str:
            try:
                return (await nunu.wait_for_execution(name)).id
            except NotFound as error:
                return "gone" if name in str(error) else str(error)
            finally:
                loop.note()

        names = [f"execution-{number}" for number in range(MANY)]
        found = await asyncio.gather(*map(one, [*names, over]))
    assert found == ["gone"] * MANY + [over]
    assert loop.most <= WOKEN_AT_ONCE


# --- Uploading.


async def closing(nunu: NunuClient, tasks: list[asyncio.Task[Any]]) -> None:
    await nunu.close()


async def cancelling(nunu: NunuClient, tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()


End = Callable[[NunuClient, list[asyncio.Task[Any]]], Awaitable[None]]


@pytest.mark.parametrize("end", [closing, cancelling])
@pytest.mark.parametrize("at_once", [40, 8])
async def test_uploads_that_end_together_do_so_over_several_turns(
    box: Sandbox, clock: ManualClock, make_file: MakeFile, end: End, at_once: int
) -> None:
    """Those that wait for others begin nothing any more, and nothing is left on the server."""
    box.add_fault(Fault(on="put_part", do="stall", times=None))
    path = make_file(1000)
    async with counting_turns() as loop:

        def note_put(attempt: Attempt) -> None:
            if attempt.operation == "put_part":
                loop.note()

        nunu = NunuClient(
            box.api_key,
            base_url=box.base_url,
            clock=clock,
            storage_concurrency=at_once,
            on_attempt=note_put,
        )
        tasks = [
            asyncio.ensure_future(
                nunu.upload_build(path, name=str(number), platform="windows", multipart=False)
            )
            for number in range(40)
        ]
        await until(lambda: len(box.journal.of("put_part")) == at_once)
        await end(nunu, tasks)
        await asyncio.wait(tasks, timeout=60)
    assert loop.seen.total() == at_once
    assert loop.most <= ENDED_AT_ONCE
    assert [upload.state for upload in box.uploads.values()] == ["cancelled"] * at_once
    if end is closing:
        assert {type(task.exception()) for task in tasks} == {ClientClosed}
        assert not any(task.cancelling() for task in tasks)
    else:
        assert all(task.cancelled() for task in tasks)
    await nunu.close()


async def test_a_close_that_is_cancelled_ends_all_uploads(
    box: Sandbox, clock: ManualClock, make_file: MakeFile
) -> None:
    box.add_fault(Fault(on="put_part", do="stall", times=None))
    path = make_file(1000)
    nunu = NunuClient(box.api_key, base_url=box.base_url, clock=clock, storage_concurrency=20)
    tasks = [
        asyncio.ensure_future(
            nunu.upload_build(path, name=str(number), platform="windows", multipart=False)
        )
        for number in range(20)
    ]
    await until(lambda: len(box.journal.of("put_part")) == 20)
    task = asyncio.ensure_future(nunu.close())
    await asyncio.sleep(0)
    assert 0 < sum(one.cancelling() for one in tasks) < 20
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait(tasks, timeout=60)
    assert all(one.done() and not one.cancelled() and one.exception() for one in tasks)
    await nunu.close()
