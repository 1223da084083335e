"""Limits on time, on a clock that the test moves."""

from __future__ import annotations

import asyncio

import pytest
from doubles import HeldClock, ManualClock

from nunu_async.core.clock import time_limit


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def endless() -> None:
    await asyncio.Event().wait()


async def test_a_limit_ends_its_body_when_its_time_has_passed(clock: ManualClock) -> None:
    async def work() -> None:
        async with time_limit(clock, 5.0):
            await endless()

    task = asyncio.ensure_future(work())
    await turns()
    clock.advance(4.9)
    await turns()
    assert not task.done()
    clock.advance(0.1)
    with pytest.raises(TimeoutError):
        await task


async def test_nothing_of_a_limit_is_left_once_its_body_is_done(clock: ManualClock) -> None:
    async with time_limit(clock, 5.0):
        assert clock.waiting == 1
    assert clock.waiting == 0
    clock.advance(9.0)
    await turns()


@pytest.mark.parametrize("seconds", [None, float("inf")])
async def test_no_limit_arms_no_timer(clock: ManualClock, seconds: float | None) -> None:
    async with time_limit(clock, seconds):
        assert clock.waiting == 0


async def test_what_the_body_raises_goes_on(clock: ManualClock) -> None:
    with pytest.raises(KeyError):
        async with time_limit(clock, 5.0):
            raise KeyError
    assert clock.waiting == 0


async def test_a_cancellation_from_outside_stays_one(clock: ManualClock) -> None:
    async def work() -> None:
        async with time_limit(clock, 5.0):
            await endless()

    task = asyncio.ensure_future(work())
    await turns()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelling() == 1


async def test_a_cancellation_at_the_moment_of_the_limit_takes_effect(clock: ManualClock) -> None:
    """Both want the body to end; the canceller must not get a timeout."""

    async def work() -> None:
        async with time_limit(clock, 5.0):
            await endless()

    task = asyncio.ensure_future(work())
    await turns()
    clock.advance(5.0)
    asyncio.get_running_loop().call_soon(task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_body_that_is_done_in_the_moment_of_the_limit_was_in_time(
    clock: ManualClock,
) -> None:
    answer = asyncio.get_running_loop().create_future()

    async def work() -> str:
        async with time_limit(clock, 5.0):
            value: str = await answer
            return value

    task = asyncio.ensure_future(work())
    await turns()
    answer.set_result("in time")
    clock.advance(5.0)
    assert await task == "in time"
    assert task.cancelling() == 0


async def test_a_task_goes_on_after_a_limit_as_if_there_had_been_none(clock: ManualClock) -> None:
    async def work() -> str:
        try:
            async with time_limit(clock, 5.0):
                await endless()
        except TimeoutError:
            await asyncio.sleep(0)
        return "went on"

    task = asyncio.ensure_future(work())
    await turns()
    clock.advance(5.0)
    assert await task == "went on"
    assert task.cancelling() == 0


@pytest.mark.parametrize(("inner", "outer", "ended"), [(1.0, 5.0, "inner"), (5.0, 1.0, "outer")])
async def test_of_two_limits_the_sooner_one_ends_its_own_body(
    inner: float, outer: float, ended: str
) -> None:
    clock = HeldClock()

    async def work() -> str:
        try:
            async with time_limit(clock, outer):
                try:
                    async with time_limit(clock, inner):
                        await endless()
                except TimeoutError:
                    return "inner"
        except TimeoutError:
            return "outer"
        return "neither"

    task = asyncio.ensure_future(work())
    await turns()
    clock.advance(1.0)
    assert await task == ended
    assert clock.waiting == 0


async def test_an_error_that_hides_the_cancellation_is_what_the_caller_gets(
    clock: ManualClock,
) -> None:
    async def work() -> None:
        async with time_limit(clock, 5.0):
            try:
                await endless()
            except asyncio.CancelledError:
                raise KeyError from None

    task = asyncio.ensure_future(work())
    await turns()
    clock.advance(5.0)
    with pytest.raises(KeyError):
        await task
    assert task.cancelling() == 0
