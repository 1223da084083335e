"""The ledger, and events on their way to a listener."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nunu_async.upload.progress import (
    BytesSent,
    Completed,
    Completing,
    Ledger,
    PartDone,
    Reporter,
    UploadEvent,
)

SIZE = 1000


def sent(count: int) -> BytesSent:
    return BytesSent(sent=count, size=SIZE)


def done(number: int) -> PartDone:
    return PartDone(part_number=number, done=number, parts=9)


def test_a_new_ledger_has_nothing_sent() -> None:
    assert (Ledger().sent, Ledger().etags) == (0, {})


def test_a_ledger_adds_up_its_parts() -> None:
    ledger = Ledger()
    ledger.set_sent(1, 100)
    ledger.set_sent(2, 50)
    ledger.set_sent(1, 120)
    assert ledger.sent == 170


def test_a_ledger_falls_back_when_a_part_starts_again() -> None:
    ledger = Ledger()
    ledger.set_sent(1, 100)
    ledger.set_sent(2, 50)
    ledger.set_sent(1, 0)
    assert ledger.sent == 50


def test_a_finished_part_counts_once_and_whole() -> None:
    ledger = Ledger()
    ledger.set_sent(1, 80)
    ledger.finish(1, 100, "a")
    assert ledger.sent == 100


def test_a_finished_part_keeps_its_etag() -> None:
    ledger = Ledger()
    ledger.finish(2, 100, "b")
    ledger.finish(1, 100, "a")
    assert ledger.etags == {1: "a", 2: "b"}


LENGTH = 10


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, LENGTH) | st.just("finish"))))
def test_a_ledger_is_the_sum_of_its_parts(steps: Sequence[tuple[int, int | str]]) -> None:
    ledger = Ledger()
    parts: dict[int, int] = {}
    finished: set[int] = set()
    for number, step in steps:
        if number in finished:
            continue
        if isinstance(step, int):
            ledger.set_sent(number, step)
            parts[number] = step
        else:
            ledger.finish(number, LENGTH, "etag")
            parts[number] = LENGTH
            finished.add(number)
        assert ledger.sent == sum(parts.values())
    assert set(ledger.etags) == finished


class Slow:
    """An async listener that holds each event until it is let go."""

    def __init__(self) -> None:
        self.heard: list[UploadEvent] = []
        self.arrived = asyncio.Event()
        self.go = asyncio.Event()

    async def __call__(self, event: UploadEvent) -> None:
        self.heard.append(event)
        self.arrived.set()
        await self.go.wait()


async def heard_while_held(events: Sequence[UploadEvent]) -> list[UploadEvent]:
    """Return what a listener gets that is held at the first event while the others are emitted."""
    slow = Slow()
    reporter = Reporter(slow)
    pump = asyncio.ensure_future(reporter.pump())
    reporter.emit(events[0])
    await slow.arrived.wait()
    for event in events[1:]:
        reporter.emit(event)
    reporter.end()
    slow.go.set()
    await pump
    return slow.heard


async def test_a_listener_gets_events_in_order() -> None:
    heard: list[UploadEvent] = []
    reporter = Reporter(heard.append)
    pump = asyncio.ensure_future(reporter.pump())
    events: list[UploadEvent] = [
        done(1),
        sent(10),
        done(2),
        Completing(),
        Completed(build_id="b", seconds=1.0),
    ]
    for event in events:
        reporter.emit(event)
        await asyncio.sleep(0)
    reporter.end()
    await pump
    assert heard == events


async def test_a_listener_that_keeps_up_gets_every_count() -> None:
    heard: list[UploadEvent] = []
    reporter = Reporter(heard.append)
    pump = asyncio.ensure_future(reporter.pump())
    await asyncio.sleep(0)
    for count in (1, 2, 3):
        reporter.emit(sent(count))
        await asyncio.sleep(0)
    reporter.end()
    await pump
    assert heard == [sent(1), sent(2), sent(3)]


async def test_a_slow_listener_gets_only_the_newest_count() -> None:
    events = [sent(1), sent(2), sent(3), sent(4)]
    assert await heard_while_held(events) == [sent(1), sent(4)]


async def test_a_count_may_fall_back_while_the_listener_is_slow() -> None:
    assert await heard_while_held([sent(1), sent(9), sent(2)]) == [sent(1), sent(2)]


async def test_counts_are_folded_only_between_other_events() -> None:
    events: list[UploadEvent] = [done(1), sent(1), sent(2), done(2), sent(3), sent(4), Completing()]
    assert await heard_while_held(events) == [
        done(1),
        sent(2),
        done(2),
        sent(4),
        Completing(),
    ]


async def test_a_slow_listener_misses_nothing_but_counts() -> None:
    events: list[UploadEvent] = [done(number) for number in range(1, 10)]
    assert await heard_while_held(events) == events


async def test_the_end_lets_an_idle_pump_return() -> None:
    reporter = Reporter(lambda _: None)
    pump = asyncio.ensure_future(reporter.pump())
    await asyncio.sleep(0)
    idle = pump.done()
    reporter.end()
    await pump
    assert not idle


async def test_events_before_the_end_are_delivered_first() -> None:
    heard: list[UploadEvent] = []
    reporter = Reporter(heard.append)
    pump = asyncio.ensure_future(reporter.pump())
    await asyncio.sleep(0)
    reporter.emit(done(1))
    reporter.end()
    await pump
    assert heard == [done(1)]


async def test_an_end_before_the_pump_starts_loses_nothing() -> None:
    heard: list[UploadEvent] = []
    reporter = Reporter(heard.append)
    reporter.emit(done(1))
    reporter.end()
    await reporter.pump()
    assert heard == [done(1)]


async def test_emitting_never_waits_for_the_listener() -> None:
    heard: list[UploadEvent] = []
    reporter = Reporter(heard.append)
    reporter.emit(done(1))
    before = list(heard)
    await reporter.drain()
    assert (before, heard) == ([], [done(1)])


async def test_a_raising_listener_ends_the_pump_with_its_own_error() -> None:
    def listener(_: UploadEvent) -> None:
        raise LookupError("the listener's own")

    reporter = Reporter(listener)
    pump = asyncio.ensure_future(reporter.pump())
    reporter.emit(done(1))
    with pytest.raises(LookupError, match="the listener's own"):
        await pump


async def test_a_raising_coroutine_listener_ends_the_pump_with_its_own_error() -> None:
    async def listener(_: UploadEvent) -> None:
        await asyncio.sleep(0)
        raise LookupError("the listener's own")

    reporter = Reporter(listener)
    pump = asyncio.ensure_future(reporter.pump())
    reporter.emit(done(1))
    with pytest.raises(LookupError, match="the listener's own"):
        await pump


async def test_without_a_listener_the_pump_only_waits_for_the_end() -> None:
    reporter = Reporter(None)
    pump = asyncio.ensure_future(reporter.pump())
    reporter.emit(done(1))
    await asyncio.sleep(0)
    idle = pump.done()
    reporter.end()
    await pump
    assert not idle


async def test_a_pump_can_be_cancelled_while_its_listener_is_slow() -> None:
    slow = Slow()
    reporter = Reporter(slow)
    pump = asyncio.ensure_future(reporter.pump())
    reporter.emit(done(1))
    await slow.arrived.wait()
    pump.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pump
