"""What the requests of one client share: a budget for retries, and a pause on a 429."""

from __future__ import annotations

import asyncio
import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from doubles import HeldClock, ManualClock, answer, body_length, raw_server, until
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from scripted import KEY

from nunu_async import (
    ApiError,
    ConfigError,
    MultipartTicket,
    NunuClient,
    NunuError,
    RateLimited,
    RetryPolicy,
    ServerError,
    StorageError,
    Timeouts,
    TransportError,
    UploadError,
)
from nunu_async.core.request import Replay
from nunu_async.core.retry import Attempts, RetryBudget
from nunu_async.core.throttle import Throttle
from nunu_async.errors import error_for_status
from nunu_async.sandbox import Fault, Sandbox

BUILD = json.dumps({"build_id": "b", "status": "OK"}).encode()
TICKET = MultipartTicket(
    build_id="b", object_key="o", upload_id="mpu-secret-0001", total_parts=3, part_size=2
)


def failed(status: int, retry_after: float | None = None) -> ApiError:
    return error_for_status(status)(status=status, retry_after=retry_after)


# --- The budget, by itself.


class Budget(RuleBasedStateMachine):
    """Any number of jobs on one budget, against a model that only counts."""

    def __init__(self) -> None:
        super().__init__()
        self.capacity = 60
        self.budget = RetryBudget(self.capacity)
        self.jobs: list[tuple[Attempts, int]] = []
        self.left = self.capacity

    @rule()
    def begin(self) -> None:
        self.jobs.append((Attempts(RetryPolicy(), 50, self.budget), 0))

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), failure=st.sampled_from([(429, 5), (500, 14), (503, 14)]))
    def fail(self, data: st.DataObject, failure: tuple[int, int]) -> None:
        number = data.draw(st.integers(0, len(self.jobs) - 1))
        attempts, _ = self.jobs.pop(number)
        status, cost = failure
        error = failed(status)
        delay = attempts.pause_after(error, replay=Replay.ALWAYS, chance=0.5)
        assert (delay is None) is (cost > self.left) is error.retry_budget_exhausted
        if delay is not None:
            self.left -= cost
            self.jobs.append((attempts, cost))

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def succeed(self, data: st.DataObject) -> None:
        attempts, paid = self.jobs.pop(data.draw(st.integers(0, len(self.jobs) - 1)))
        attempts.succeeded()
        self.left = min(self.capacity, self.left + (paid or 1))

    @precondition(lambda self: self.jobs)
    @rule()
    def give_up(self) -> None:
        """A failure for good neither costs nor pays."""
        attempts, _ = self.jobs.pop()
        assert attempts.pause_after(failed(404), replay=Replay.ALWAYS, chance=0.5) is None

    @invariant()
    def it_stays_within_its_bounds(self) -> None:
        assert self.budget.left == self.left
        assert 0 <= self.budget.left <= self.capacity


TestBudget = Budget.TestCase


@given(
    st.integers(0, 500),
    st.lists(st.one_of(st.integers(1, 20), st.integers(1, 20).map(lambda n: -n))),
)
def test_a_budget_never_leaves_its_bounds(capacity: int, moves: list[int]) -> None:
    budget = RetryBudget(capacity)
    for move in moves:
        before = budget.left
        if move < 0:
            assert budget.take(-move) is (before >= -move)
        else:
            budget.give(move)
        assert 0 <= budget.left <= capacity


def test_no_budget_is_no_limit() -> None:
    budget = RetryBudget(None)
    assert all(budget.take(14) for _ in range(1000))


def test_a_retry_that_is_not_made_costs_nothing() -> None:
    budget = RetryBudget(500)
    for failure, remaining in ((failed(404), math.inf), (failed(429, 300.0), math.inf)):
        assert (
            Attempts(RetryPolicy(), 5, budget).pause_after(
                failure, replay=Replay.ALWAYS, chance=0.5, remaining=remaining
            )
            is None
        )
        assert not failure.retry_budget_exhausted
    Attempts(RetryPolicy(), 1, budget).pause_after(failed(500), replay=Replay.ALWAYS, chance=0.5)
    Attempts(RetryPolicy(), 5, budget).pause_after(
        failed(500), replay=Replay.ALWAYS, chance=0.5, remaining=0.1
    )
    assert budget.left == 500


@pytest.mark.parametrize("value", [-1, 1.5, True, math.nan])
def test_an_invalid_budget_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"RetryPolicy\.budget"):
        RetryPolicy(budget=value)


# --- The budget of a client.


@attrs.define
class Server:
    """Answers by what `reply` says of a request's line and of how many came before it."""

    reply: Callable[[str, int], bytes | None]
    lines: list[str] = attrs.field(factory=list)
    times: list[float] = attrs.field(factory=list)
    clock: ManualClock | None = None

    async def __call__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        await reader.readexactly(body_length(head))
        line = head.split(b"\r\n", 1)[0].decode()
        data = self.reply(line, len(self.lines))
        self.lines.append(line)
        self.times.append(self.clock.now if self.clock else 0.0)
        if data is None:
            writer.transport.abort()
        else:
            writer.write(data)


async def gathered(nunu: NunuClient, count: int) -> list[object]:
    calls = (nunu.builds.get("b") for _ in range(count))
    return await asyncio.gather(*calls, return_exceptions=True)


@pytest.mark.parametrize(("reply", "retries"), [(answer(500), 35), (None, 35), (answer(429), 100)])
async def test_an_outage_costs_a_budget_of_retries_and_no_more(
    clock: ManualClock, reply: bytes | None, retries: int
) -> None:
    server = Server(lambda *_: reply)
    # The pauses of all move the one clock: some would be out of time before out of budget.
    patient = Timeouts(attempt=10_000, call=10_000)
    async with (
        raw_server(server) as raw,
        NunuClient(KEY, base_url=raw.url, clock=clock, timeout=patient) as nunu,
    ):
        outcomes = await gathered(nunu, 300)
    assert len(server.lines) == 300 + retries
    assert all(isinstance(outcome, ApiError | TransportError) for outcome in outcomes)
    starved = [one for one in outcomes if one.retry_budget_exhausted]  # type: ignore[attr-defined]
    assert len(starved) > 200
    assert "retry budget is spent" in starved[0].__notes__[0]  # type: ignore[attr-defined]
    assert pickle.loads(pickle.dumps(starved[0])).retry_budget_exhausted  # noqa: S301 - our own


async def test_successes_fill_the_budget_again(clock: ManualClock) -> None:
    ill = True
    async with (
        raw_server(Server(lambda *_: answer(500) if ill else answer(body=BUILD))) as raw,
        NunuClient(KEY, base_url=raw.url, clock=clock) as nunu,
    ):
        await gathered(nunu, 100)
        ill = False
        budget = nunu._session._traffic.budget
        assert budget.left < 14
        await gathered(nunu, 20)
        assert budget.left >= 20
        await gathered(nunu, 600)
        assert budget.left == 500


async def test_a_retry_that_succeeds_is_refunded(clock: ManualClock) -> None:
    server = Server(lambda _, seen: answer(500) if seen % 2 == 0 else answer(body=BUILD))
    async with (
        raw_server(server) as raw,
        NunuClient(KEY, base_url=raw.url, clock=clock) as nunu,
    ):
        for _ in range(60):
            await nunu.builds.get("b")
        assert nunu._session._traffic.budget.left == 500
    assert len(server.lines) == 120


@pytest.mark.parametrize(("budget", "requests"), [(0, 1), (14, 2), (None, 5)])
async def test_a_budget_can_be_set_and_taken_off(
    clock: ManualClock, budget: int | None, requests: int
) -> None:
    server = Server(lambda *_: answer(500))
    async with raw_server(server) as raw:
        policy = RetryPolicy(budget=budget)
        async with NunuClient(KEY, base_url=raw.url, clock=clock, retry=policy) as nunu:
            with pytest.raises(ServerError) as caught:
                await nunu.builds.get("b")
    assert len(server.lines) == requests
    assert caught.value.retry_budget_exhausted is (budget is not None)


async def test_cleanup_costs_no_budget(clock: ManualClock) -> None:
    server = Server(
        lambda line, seen: (
            answer(500) if line.startswith("GET") or seen < 5 else answer(body=b'{"success": true}')
        )
    )
    async with raw_server(server) as raw:
        policy = RetryPolicy(budget=14)
        async with NunuClient(KEY, base_url=raw.url, clock=clock, retry=policy) as nunu:
            with pytest.raises(ServerError):
                await nunu.builds.get("b")
            await nunu.builds.cancel_upload(TICKET)
    assert [line.split()[0] for line in server.lines] == ["GET"] * 2 + ["DELETE"] * 4


async def test_storage_has_a_budget_of_its_own_for_each_part_under_way(
    clock: ManualClock, make_file: Callable[..., Path]
) -> None:
    faults = [Fault(on="put_part", part=1, status=500, times=None)]
    async with Sandbox(part_size=64 * 1024, faults=faults) as box:
        policy = RetryPolicy(budget=15)
        async with NunuClient(
            box.api_key,
            base_url=box.base_url,
            clock=clock,
            retry=policy,
            storage_concurrency=2,
        ) as on:
            with pytest.raises(UploadError) as caught:
                await on.upload_build(
                    make_file(64 * 1024 * 3), name="n", platform="linux", multipart=True
                )
            assert on._session._traffic.budget.left == 15
    assert caught.value.retry_budget_exhausted
    assert caught.value.attempts in {3, 4}
    assert "retry budget is spent" in str(caught.value)
    assert caught.value.cancelled


# --- The pause that all share.


async def test_no_request_is_sent_during_the_pause_after_a_429() -> None:
    """Only the calls under way get a 429; then none is sent until the time is over."""
    clock = HeldClock()
    limited = True
    server = Server(
        lambda *_: answer(429, headers={"Retry-After": "30"}) if limited else answer(body=BUILD),
        clock=clock,
    )
    async with (
        raw_server(server) as raw,
        NunuClient(KEY, base_url=raw.url, clock=clock, api_concurrency=8) as nunu,
    ):
        calls = asyncio.ensure_future(gathered(nunu, 200))
        # 8 that were refused sleep on their own, and the 8 next ones at the gate.
        await until(lambda: clock.asleep == 16)
        assert len(server.lines) == 8
        clock.advance(29.9)
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(server.lines) == 8
        limited = False
        while not calls.done():
            if clock.asleep:
                await clock.tick()
            await asyncio.sleep(0.001)
        outcomes = await calls
    assert not [one for one in outcomes if isinstance(one, Exception)]
    assert len(server.lines) == 208
    assert all(moment >= 1030 for moment in server.times[8:])


async def test_the_gate_does_not_open_for_all_at_one_moment() -> None:
    clock = HeldClock()
    chances = iter([(number * 37 % 100) / 100 for number in range(10_000)])
    clock.random = lambda: next(chances)  # type: ignore[method-assign]
    server = Server(
        lambda _, seen: (
            answer(429, headers={"Retry-After": "40"}) if seen < 1 else answer(body=BUILD)
        ),
        clock=clock,
    )
    async with (
        raw_server(server) as raw,
        NunuClient(KEY, base_url=raw.url, clock=clock, api_concurrency=40) as nunu,
    ):
        first = asyncio.ensure_future(nunu.builds.get("b"))
        await clock.settle()
        calls = asyncio.ensure_future(gathered(nunu, 40))
        await until(lambda: clock.asleep == 41)
        while not calls.done():
            if clock.asleep:
                await clock.tick()
            await asyncio.sleep(0.001)
        await first
        await calls
    later = server.times[1:]
    assert min(later) >= 1040
    assert max(later) <= 1050
    assert max(sum(t <= moment < t + 1 for moment in later) for t in range(1040, 1051)) <= 12


async def test_a_429_that_names_no_time_delays_the_others_too() -> None:
    clock = HeldClock()
    server = Server(lambda _, seen: answer(429) if seen < 1 else answer(body=BUILD), clock=clock)
    async with (
        raw_server(server) as raw,
        NunuClient(KEY, base_url=raw.url, clock=clock) as nunu,
    ):
        first = asyncio.ensure_future(nunu.builds.get("b"))
        await clock.settle()
        second = asyncio.ensure_future(nunu.builds.get("b"))
        await until(lambda: clock.asleep == 2)
        assert len(server.lines) == 1
        await clock.tick()
        await clock.tick()
        await asyncio.gather(first, second)
    assert clock.sleeps[0] == 0.5
    assert clock.sleeps[1] == 0.5 + 0.5 * 0.25 * 0.5


async def test_a_503_that_names_no_time_delays_no_other() -> None:
    clock = HeldClock()
    server = Server(lambda _, seen: answer(503) if seen < 1 else answer(body=BUILD))
    async with (
        raw_server(server) as raw,
        NunuClient(KEY, base_url=raw.url, clock=clock) as nunu,
    ):
        first = asyncio.ensure_future(nunu.builds.get("b"))
        await clock.settle()
        await nunu.builds.get("b")
        await clock.tick()
        await first


async def test_cleanup_does_not_wait_for_the_others() -> None:
    clock = HeldClock()
    server = Server(
        lambda line, _: (
            answer(body=b'{"success": true}')
            if line.startswith("DELETE")
            else answer(429, headers={"Retry-After": "60"})
        )
    )
    async with (
        raw_server(server) as raw,
        NunuClient(KEY, base_url=raw.url, clock=clock) as nunu,
    ):
        first = asyncio.ensure_future(nunu.builds.get("b"))
        await clock.settle()
        await nunu.builds.cancel_upload(TICKET)
        first.cancel()
        await asyncio.wait({first})


@pytest.mark.parametrize("asked", ["50", "9999999999"])
async def test_a_pause_longer_than_the_call_is_an_error_at_once(
    asked: str,
) -> None:
    clock = HeldClock()
    server = Server(lambda *_: answer(429, headers={"Retry-After": asked}))
    async with (
        raw_server(server) as raw,
        NunuClient(KEY, base_url=raw.url, clock=clock, timeout=40.0) as nunu,
    ):
        outcomes = [(await gathered(nunu, 1))[0] for _ in range(5)]
        assert all(isinstance(one, RateLimited) for one in outcomes)
        assert len(server.lines) == 1
        assert "not sent" in str(outcomes[1])
        # However long the server would like it to be, ours is the last word.
        assert outcomes[1].retry_after <= 120  # type: ignore[attr-defined]
        clock.advance(121)
        await gathered(nunu, 1)
        assert len(server.lines) == 2


async def test_a_pause_of_the_api_does_not_hold_storage(
    clock: ManualClock, make_file: Callable[..., Path]
) -> None:
    async with (
        Sandbox(part_size=64 * 1024) as box,
        NunuClient(box.api_key, base_url=box.base_url, clock=clock) as on,
    ):
        busy = failed(429, 100.0)
        on._uploader.context.traffic.failed(busy, clock.now, None)
        assert await on._session._traffic.ready() is None
        assert clock.sleeps == []
        await on.upload_build(make_file(1000), name="n", platform="linux")
        assert clock.sleeps[0] >= 100


async def test_a_throttled_part_holds_the_other_parts() -> None:
    clock = ManualClock()
    throttle = Throttle(clock, RetryPolicy())
    slow = StorageError(part_number=1, status=503, code="SlowDown")
    throttle.failed(slow, clock.now, 2.0)
    await throttle.ready()
    assert clock.sleeps == [2.0 + 0.5 * 0.25 * 2.0]


async def test_a_lasting_limit_is_probed_less_and_less_often() -> None:
    clock = ManualClock()
    throttle = Throttle(clock, RetryPolicy())
    pauses: list[float] = []
    for _ in range(7):
        began = clock.now
        clock.advance(0.1)
        throttle.failed(failed(429), began, 0.01)
        throttle.failed(failed(429), began, 0.01)  # under way at the same time: nothing new
        before = clock.now
        await throttle.ready()
        pauses.append(clock.now - before)
    assert pauses == sorted(pauses)
    assert pauses[-1] >= 10
    began = clock.now
    clock.advance(0.1)
    throttle.succeeded(began)
    throttle.failed(failed(429), clock.now, 0.01)
    before = clock.now
    await throttle.ready()
    assert clock.now - before < 0.1


@given(
    st.lists(
        st.tuples(
            st.sampled_from([200, 404, 429, 500, 503]),
            st.none() | st.floats(0, 1e12),
            st.none() | st.floats(0, 200),
            st.floats(0, 50),
        )
    )
)
def test_no_answers_delay_a_call_beyond_the_longest_wait(
    answers: list[tuple[int, float | None, float | None, float]],
) -> None:
    clock = ManualClock()
    policy = RetryPolicy(cap=60.0)
    throttle = Throttle(clock, policy)
    for status, asked, delay, after in answers:
        began = clock.now
        clock.advance(after)
        if status == 200:
            throttle.succeeded(began)
        else:
            own = None if delay is None else min(delay, policy.max_retry_after)
            throttle.failed(failed(status, asked), began, own)
        assert throttle._until - clock.now <= policy.max_retry_after + 0.001
    before = clock.now
    asyncio.run(throttle.ready())
    assert clock.now - before <= policy.max_retry_after * 1.25 + 0.001


# --- What a server may write into `Retry-After`.

FORMS = [
    # headers, seconds of the pause from .. to (chance 1/2); None where the call ends at once
    ("a plain number", {"Retry-After": "3"}, (3.0, 3.75)),
    ("a fraction", {"Retry-After": "1.5"}, (1.5, 1.875)),
    ("zero", {"Retry-After": "0"}, (0.0, 1.0)),
    ("negative", {"Retry-After": "-5"}, (0.0, 1.0)),
    ("a sign", {"Retry-After": "+5"}, (0.0, 1.0)),
    ("empty", {"Retry-After": ""}, (0.0, 1.0)),
    ("no number", {"Retry-After": "nan"}, (0.0, 1.0)),
    ("infinite", {"Retry-After": "inf"}, (0.0, 1.0)),
    ("an exponent", {"Retry-After": "1e999"}, (0.0, 1.0)),
    ("a word", {"Retry-After": "soon"}, (0.0, 1.0)),
    ("4,400 digits", {"Retry-After": "9" * 4400}, (0.0, 1.0)),
    ("ten digits", {"Retry-After": "9999999999"}, None),
    ("a date without a Date", {"Retry-After": "Sun, 06 Nov 2094 08:49:37 GMT"}, (0.0, 1.0)),
    (
        "a date",
        {
            "Retry-After": "Sun, 06 Nov 1994 08:49:37 GMT",
            "Date": "Sun, 06 Nov 1994 08:49:30 GMT",
        },
        (7.0, 8.75),
    ),
    (
        "a date in the past",
        {
            "Retry-After": "Sun, 06 Nov 1994 08:49:37 GMT",
            "Date": "Sun, 06 Nov 2094 08:49:30 GMT",
        },
        (0.0, 1.0),
    ),
    (
        "a date of another century",
        {
            "Retry-After": "Sun, 06 Nov 2094 08:49:37 GMT",
            "Date": "Sun, 06 Nov 1994 08:49:30 GMT",
        },
        None,
    ),
    ("twice the same", {"Retry-After": "3", "retry-after": "3"}, (3.0, 3.75)),
    ("two that differ", {"Retry-After": "3", "retry-after": "600"}, (0.0, 1.0)),
    ("a list", {"Retry-After": "3, 600"}, (0.0, 1.0)),
]


@pytest.mark.parametrize(
    ("headers", "pause"), [row[1:] for row in FORMS], ids=[row[0] for row in FORMS]
)
@pytest.mark.parametrize("status", [429, 503])
async def test_every_form_of_retry_after_is_a_sane_pause(
    clock: ManualClock,
    status: int,
    headers: dict[str, str],
    pause: tuple[float, float] | None,
) -> None:
    server = Server(
        lambda _, seen: answer(status, headers=headers) if seen == 0 else answer(body=BUILD)
    )
    async with (
        raw_server(server) as raw,
        NunuClient(KEY, base_url=raw.url, clock=clock) as nunu,
    ):
        if pause is None:
            with pytest.raises(NunuError):
                await nunu.builds.get("b")
            assert clock.sleeps == []
            return
        await nunu.builds.get("b")
    (slept,) = clock.sleeps
    assert pause[0] <= slept <= pause[1]
