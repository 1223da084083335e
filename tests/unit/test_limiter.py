"""How many parts are under way at once: shrinking, growing, and no waiter lost."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nunu_async import NunuError, StallError, StorageError, TransportError
from nunu_async.upload.limits import AdaptiveLimiter

BUSY = StorageError(part_number=1, status=429)


@pytest.mark.parametrize(
    ("failure", "width"),
    [
        (StorageError(part_number=1, status=429), 8),
        (StorageError(part_number=1, status=503), 8),
        (StorageError(part_number=1, status=400, code="SlowDown"), 8),
        (StallError("no byte left"), 8),
        (StorageError(part_number=1, status=500), 16),
        (StorageError(part_number=1, status=403), 16),
        (TransportError("reset"), 16),
    ],
    ids=str,
)
def test_only_throttling_narrows_the_width(failure: NunuError, width: int) -> None:
    limiter = AdaptiveLimiter(16)
    limiter.failed(failure, 1.0, 2.0)
    assert limiter.width == width


def test_what_was_sent_before_says_nothing_of_the_new_width() -> None:
    limiter = AdaptiveLimiter(16)
    for _ in range(16):
        limiter.failed(BUSY, 1.0, 2.0)
    assert limiter.width == 8
    limiter.failed(BUSY, 2.5, 3.0)
    assert limiter.width == 4


@given(st.lists(st.booleans(), max_size=200), st.integers(1, 20))
def test_the_width_stays_between_one_and_the_limit(goes_well: list[bool], limit: int) -> None:
    limiter = AdaptiveLimiter(limit)
    for now, well in enumerate(goes_well):
        if well:
            limiter.succeeded()
        else:
            limiter.failed(BUSY, float(now), now + 0.5)
        assert 1 <= limiter.width <= limit
    for _ in range(4 * limit):
        limiter.succeeded()
    assert limiter.width == limit


async def test_places_go_in_order_and_none_to_a_cancelled_waiter() -> None:
    limiter = AdaptiveLimiter(2)
    came: list[int] = []
    leave = asyncio.Event()

    async def stay(number: int) -> None:
        async with limiter:
            came.append(number)
            await leave.wait()

    tasks = [asyncio.ensure_future(stay(number)) for number in range(6)]
    for _ in range(3):
        await asyncio.sleep(0)
    assert came == [0, 1]
    tasks[2].cancel()  # while it waits
    tasks[0].cancel()  # lets 3 in, not 2
    for _ in range(3):
        await asyncio.sleep(0)
    assert came == [0, 1, 3]
    tasks[1].cancel()
    await asyncio.sleep(0)
    tasks[4].cancel()  # in the turn in which it was let in
    leave.set()
    await asyncio.wait(tasks)
    assert came == [0, 1, 3, 5]
    assert limiter.used == 0


async def test_a_narrower_width_holds_at_once_and_a_wider_one_lets_in() -> None:
    limiter = AdaptiveLimiter(4)
    limiter.failed(BUSY, 1.0, 2.0)
    inside = 0
    leave = asyncio.Event()

    async def stay() -> None:
        nonlocal inside
        async with limiter:
            inside += 1
            await leave.wait()

    tasks = [asyncio.ensure_future(stay()) for _ in range(5)]
    for _ in range(3):
        await asyncio.sleep(0)
    assert inside == 2
    for _ in range(4):
        limiter.succeeded()
    for _ in range(3):
        await asyncio.sleep(0)
    assert inside == 3
    leave.set()
    await asyncio.wait(tasks)
    assert limiter.used == 0


async def test_a_cancelled_waiter_blocks_no_other() -> None:
    limiter = AdaptiveLimiter(1)
    async with limiter:
        waiting = asyncio.ensure_future(limiter.__aenter__())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting})
    async with asyncio.timeout(5), limiter:
        assert limiter.used == 1
    limiter.failed(BUSY, 1.0, 2.0)
    waiting = asyncio.ensure_future(limiter.__aenter__())
    await asyncio.sleep(0)
    assert limiter.used == 1
    assert await waiting is None
    await limiter.__aexit__(None, None, None)


async def test_a_waiter_cancelled_as_a_place_is_freed_is_cancelled() -> None:
    limiter = AdaptiveLimiter(1)
    await limiter.__aenter__()
    waiting = asyncio.ensure_future(limiter.__aenter__())
    await asyncio.sleep(0)
    waiting.cancel()
    await limiter.__aexit__(None, None, None)
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert limiter.used == 0
