"""Hooks that other libraries put on every aiohttp session of the process."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from doubles import ManualClock, until
from scripted import KEY

from nunu_async import (
    Attempt,
    ConfigError,
    DeadlineExceeded,
    InputError,
    NotFound,
    NunuClient,
    NunuError,
    ProxyError,
    RetryPolicy,
    ServerError,
    StorageError,
    Timeouts,
    TransportError,
)
from nunu_async.core.attempt import AttemptLoop
from nunu_async.core.request import Replay
from nunu_async.core.retry import Attempts
from nunu_async.sandbox import Fault, Sandbox

PART = 64 * 1024


class Hooks:
    """What OpenTelemetry and Sentry do: a trace for each session, and a header in each request."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        self.config = aiohttp.TraceConfig()
        self.config.on_request_start.append(self._begun)

    async def _begun(self, _session: object, _context: object, params: Any) -> None:
        params.headers["traceparent"] = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
        self.seen.append((params.method, str(params.url)))

    def paths(self) -> list[str]:
        return [f"{method} {url.partition('/api/v1')[2]}" for method, url in self.seen]


@pytest.fixture
def hooks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hooks]:
    """Hooks on all sessions made in this test, in one list that they all share."""
    hooks = Hooks()
    shared = [hooks.config]
    plain = aiohttp.ClientSession.__init__

    def patched(self: aiohttp.ClientSession, *args: Any, **kwargs: Any) -> None:
        kwargs["trace_configs"] = shared
        kwargs.setdefault("headers", {"baggage": "everywhere"})
        plain(self, *args, **kwargs)

    monkeypatch.setattr(aiohttp.ClientSession, "__init__", patched)
    yield hooks
    assert shared == [hooks.config]  # it belongs to other sessions as well


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("late", [False, True])
async def test_no_hook_sees_a_signature_or_an_upload_id(
    hooks: Hooks,
    clock: ManualClock,
    make_file: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    given: bool,
    late: bool,
) -> None:
    """Neither one that was there when a session was made, nor one that came later."""
    path = make_file(3 * PART)
    sessions: list[aiohttp.ClientSession] = []
    made = aiohttp.ClientSession.__init__

    def listed(self: aiohttp.ClientSession, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        sessions.append(self)

    monkeypatch.setattr(aiohttp.ClientSession, "__init__", listed)
    async with Sandbox(part_size=PART) as box, aiohttp.ClientSession() as http:
        async with NunuClient(
            box.api_key, base_url=box.base_url, clock=clock, session=http if given else None
        ) as nunu:
            for name in ("first", "second"):
                await nunu.upload_build(path, name=name, platform="linux", multipart=True)
                if late:
                    for session in sessions:
                        session._trace_configs = [hooks.config]
                        session.headers["baggage"] = "late"
            await nunu.upload_build(path, name="third", platform="linux", multipart=False)
            ids = [upload.upload_id for upload in box.uploads.values()]
        requests = [seen for seen in box.journal if seen.origin == "storage"]
    assert len(requests) == 7
    text = repr(hooks.seen)
    assert not any(secret in text for secret in filter(None, [*ids, "X-Amz-", "upload_id"]))
    assert hooks.paths().count("POST /builds/upload") == 3
    for seen in requests:
        assert not {"traceparent", "baggage"} & set(seen.headers)


@pytest.mark.parametrize("given", [False, True])
async def test_hooks_see_the_calls_that_hold_no_secret(
    hooks: Hooks, box: Sandbox, clock: ManualClock, given: bool
) -> None:
    """Of the caller's own session once, as of ours."""
    async with (
        aiohttp.ClientSession() as http,
        NunuClient(
            box.api_key, base_url=box.base_url, clock=clock, session=http if given else None
        ) as nunu,
    ):
        await nunu.runs.list_page()
        with pytest.raises(NunuError):
            await nunu.request("GET", "/builds/upload/parts", params={"upload_id": "x" * 20})
    assert [path.partition("?")[0] for path in hooks.paths()] == ["GET /runs"]


# --- `on_attempt`, which is ours.


async def test_on_attempt_gets_each_attempt_without_a_secret(
    clock: ManualClock, make_file: Callable[..., Path]
) -> None:
    attempts: list[Attempt] = []
    faults = [
        Fault(on="initiate_upload", status=503, headers={"X-Request-Id": "req-1"}),
        Fault(on="put_part", part=2, status=500),
        Fault(on="put_part", part=3, do="cut"),
    ]
    async with Sandbox(part_size=PART, faults=faults) as box:
        async with NunuClient(
            box.api_key, base_url=box.base_url, clock=clock, on_attempt=attempts.append
        ) as nunu:
            await nunu.upload_build(
                make_file(3 * PART), name="n", platform="linux", multipart=True, concurrency=1
            )
            with pytest.raises(NotFound):
                await nunu.builds.get("unknown")
        secrets = [box.api_key, "X-Amz-", *(one.upload_id for one in box.uploads.values())]
    lines = [(a.operation, a.method, a.path, a.part_number, a.number, a.status) for a in attempts]
    assert lines == [
        ("initiate_upload", "POST", "/builds/upload", None, 1, 503),
        ("initiate_upload", "POST", "/builds/upload", None, 2, 200),
        ("get_upload_parts", "GET", "/builds/upload/parts", None, 1, 200),
        ("put_part", "PUT", "", 1, 1, 200),
        ("put_part", "PUT", "", 2, 1, 500),
        ("put_part", "PUT", "", 2, 2, 200),
        ("put_part", "PUT", "", 3, 1, None),
        ("put_part", "PUT", "", 3, 2, 200),
        ("complete_upload", "POST", "/builds/upload/complete", None, 1, 200),
        ("get_build", "GET", "/builds/{buildId}", None, 1, 404),
    ]
    assert attempts[0].request_id == "req-1"
    kinds = [type(attempt.error) for attempt in attempts if attempt.error is not None]
    assert kinds == [ServerError, StorageError, TransportError, NotFound]
    assert all(attempt.seconds >= 0 for attempt in attempts)
    assert not any(secret in repr(attempts) for secret in filter(None, secrets))


async def test_on_attempt_gets_cancelled_and_timed_out_attempts(
    clock: ManualClock,
) -> None:
    attempts: list[Attempt] = []
    fault = Fault(on="list_runs", do="stall", times=None)
    async with (
        Sandbox(faults=[fault]) as box,
        NunuClient(
            box.api_key,
            base_url=box.base_url,
            clock=clock,
            timeout=Timeouts(call=5),
            on_attempt=attempts.append,
        ) as nunu,
    ):
        asking = asyncio.ensure_future(nunu.runs.list_page())
        await until(lambda: box.journal.of("list_runs"))
        clock.advance(5)
        with pytest.raises(DeadlineExceeded):
            await asking
        asking = asyncio.ensure_future(nunu.runs.list_page())
        await until(lambda: len(box.journal.of("list_runs")) == 2)
        asking.cancel()
        await asyncio.wait({asking})
    assert [(a.status, type(a.error)) for a in attempts] == [
        (None, DeadlineExceeded),
        (None, type(None)),
    ]
    assert attempts[0].seconds == 5


async def test_an_attempt_that_cannot_be_sent_is_reported_with_its_error(box: Sandbox) -> None:
    attempts: list[Attempt] = []
    async with NunuClient(box.api_key, base_url=box.base_url, on_attempt=attempts.append) as nunu:
        with pytest.raises(InputError) as caught:
            await nunu.request("POST", "/runs", json={"a": math.nan})
    assert [(a.status, a.error) for a in attempts] == [(None, caught.value)]


async def test_what_a_listener_raises_ends_nothing(
    box: Sandbox, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(attempt: Attempt) -> None:
        raise LookupError(attempt.operation)

    async with NunuClient(
        box.api_key, base_url=box.base_url, clock=clock, on_attempt=broken
    ) as nunu:
        await nunu.runs.list_page()
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.getMessage() == "on_attempt raised an exception"


async def _coroutine_function(attempt: Attempt) -> None: ...


class _Asynchronous:
    async def __call__(self, attempt: Attempt) -> None: ...


async def test_one_that_turns_out_to_be_asynchronous_is_said_to_be(
    box: Sandbox, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    listener: Any = _Asynchronous()
    async with NunuClient(
        box.api_key, base_url=box.base_url, clock=clock, on_attempt=listener
    ) as nunu:
        await nunu.runs.list_page()
    (record,) = [record for record in caplog.records if record.exc_info]
    assert "not a coroutine function" in str(record.exc_info)


@pytest.mark.parametrize("listener", [_coroutine_function, "print", 7])
def test_a_listener_that_cannot_be_called_at_once_is_refused(listener: Any) -> None:
    with pytest.raises(ConfigError, match="on_attempt must be a function"):
        NunuClient(KEY, on_attempt=listener)


@pytest.mark.parametrize(
    "failure",
    [
        StorageError(part_number=1, status=502, message="m"),
        ProxyError("m", method="PUT", path="", status=502),
    ],
    ids=["storage", "proxy"],
)
async def test_a_refused_part_is_reported_with_its_status(
    clock: ManualClock, failure: NunuError
) -> None:
    attempts: list[Attempt] = []
    loop = AttemptLoop(
        clock=clock,
        rules=Attempts(RetryPolicy(), 1),
        replay=Replay.ALWAYS,
        on_attempt=attempts.append,
        part_number=1,
    )
    async for attempt in loop:
        with attempt:
            raise failure
    assert [(a.status, a.error) for a in attempts] == [(502, failure)]
    assert loop.failure is failure


async def test_an_attempt_after_a_success_does_not_pause(clock: ManualClock) -> None:
    """Nor does it take the earlier failure for its own."""
    loop = AttemptLoop(
        clock=clock, rules=Attempts(RetryPolicy(), 9), replay=Replay.ALWAYS, operation="op"
    )
    numbers = []
    async for attempt in loop:
        numbers.append(attempt.number)
        with attempt:
            if attempt.number == 1:
                raise StorageError(part_number=1, status=500, message="m")
        if attempt.number == 3:
            break
    assert numbers == [1, 2, 3]
    assert len(clock.sleeps) == 1
    assert loop.failure is None
