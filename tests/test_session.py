"""The session core over real sockets."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
from collections.abc import Callable

import aiohttp
import attrs
import pytest
from disclosed import disclosed
from doubles import ManualClock, RawServer, answer, body_length, completion_of, raw_server, until
from scripted import KEY, answered, json_answer

from nunu_async import (
    ApiError,
    AuthenticationError,
    BadRequest,
    ClientClosed,
    ConfigError,
    ConnectError,
    DeadlineExceeded,
    DecodeError,
    InitiateUpload,
    MultipartTicket,
    NotFound,
    NunuClient,
    PayloadTooLarge,
    PermissionDenied,
    ProtocolError,
    QuotaExceeded,
    RateLimited,
    RetryPolicy,
    ServerError,
    StallError,
    Timeouts,
    TransportError,
    UploadOutcomeUnknown,
)
from nunu_async.core import codec
from nunu_async.core.request import Request
from nunu_async.models.base import Model
from nunu_async.sandbox import Fault, Sandbox

UPLOAD = InitiateUpload(name="n", file_name="f.zip", file_size=5, platform="linux")
TICKET = MultipartTicket(
    build_id="b", object_key="o", upload_id="mpu-secret-0001", total_parts=3, part_size=2
)
BUILD = json.dumps({"build_id": "b", "status": "OK"}).encode()
ONCE = RetryPolicy(attempts=1)


@attrs.define
class Script:
    """Answers requests with prepared bytes, the last one for ever; None drops the connection."""

    answers: list[bytes | None]
    bodies: list[bytes] = attrs.field(factory=list)

    async def __call__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        self.bodies.append(await reader.readexactly(body_length(head)))
        reply = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if reply is None:
            writer.transport.abort()
            return
        writer.write(reply)


def client(server: RawServer, clock: ManualClock, **settings: object) -> NunuClient:
    return NunuClient(KEY, base_url=server.url, clock=clock, **settings)  # type: ignore[arg-type]


async def test_a_get_is_one_request_with_the_key_in_its_header(clock: ManualClock) -> None:
    async with raw_server(Script([answer(body=BUILD)])) as server, client(server, clock) as nunu:
        build = await nunu.builds.get("b")
    assert build.status == "OK"
    (head,) = server.heads
    assert head.startswith(b"GET /api/v1/builds/b HTTP/1.1\r\n")
    assert f"X-Api-Key: {KEY}".encode() in head


async def test_asking_for_part_urls_leaves_the_key_at_home(clock: ManualClock) -> None:
    urls = json.dumps({"upload_urls": [{"part_number": 2, "url": "https://s/x"}]}).encode()
    async with raw_server(Script([answer(body=urls)])) as server, client(server, clock) as nunu:
        (url,) = await nunu.builds.get_upload_parts(TICKET, [2])
    assert url.part_number == 2
    assert b"x-api-key" not in server.heads[0].lower()


@pytest.mark.parametrize(
    ("call", "attempts"),
    [
        (lambda nunu: nunu.builds.get("b"), 5),
        (lambda nunu: nunu.builds.cancel_upload(TICKET), 5),
        (lambda nunu: nunu.builds.get_upload_parts(TICKET, [1]), 5),
        (lambda nunu: nunu.builds.initiate_upload(UPLOAD), 1),
        (lambda nunu: nunu.builds.complete_upload(TICKET), 1),
    ],
    ids=["get", "cancel", "parts", "initiate", "complete"],
)
async def test_a_dropped_request_is_sent_exactly_as_often_as_we_decide(
    clock: ManualClock, call: Callable[[NunuClient], object], attempts: int
) -> None:
    """aiohttp repeats GET and DELETE once by itself; counted on a bare socket, it must not."""
    async with raw_server(Script([None])) as server, client(server, clock) as nunu:
        with pytest.raises(TransportError) as caught:
            await call(nunu)  # type: ignore[misc]
    assert len(server.heads) == attempts
    assert len(clock.sleeps) == attempts - 1
    assert caught.value.sent


async def test_a_dropped_kept_alive_connection_is_not_replayed_either(clock: ManualClock) -> None:
    script = Script([answer(body=BUILD), None, None, answer(body=BUILD)])
    async with raw_server(script) as server, client(server, clock) as nunu:
        await nunu.builds.get("b")
        await nunu.builds.get("b")
    assert len(server.heads) == 4
    assert len(clock.sleeps) == 2


async def test_an_injected_session_is_used_not_closed_and_not_replaying(
    clock: ManualClock,
) -> None:
    async with raw_server(Script([None])) as server, aiohttp.ClientSession() as session:
        async with client(server, clock, session=session) as nunu:
            with pytest.raises(TransportError):
                await nunu.builds.get("b")
        assert not session.closed
    assert len(server.heads) == 5


async def test_an_injected_session_that_is_closed_sends_nothing_and_says_so(
    clock: ManualClock,
) -> None:
    async with raw_server(Script([answer(body=BUILD)])) as server:
        async with aiohttp.ClientSession() as session:
            nunu = client(server, clock, session=session)
            await nunu.builds.get("b")
        with pytest.raises(ClientClosed, match="passed in is closed"):
            await nunu.builds.initiate_upload(attrs.evolve(UPLOAD, auto_delete=True))
        await nunu.close()
    assert len(server.heads) == 1


async def test_what_was_sent_before_an_injected_session_was_closed_is_not_denied(
    clock: ManualClock,
) -> None:
    """Neither by a call that is tried again, nor by a complete that is asked about."""

    async def fail(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        await reader.readexactly(body_length(head))
        writer.write(answer(502))
        await session.close()

    async with raw_server(fail) as server:
        session = aiohttp.ClientSession()
        nunu = client(server, clock, session=session)
        with pytest.raises((ServerError, TransportError)):
            await nunu.builds.get("b")
        session = aiohttp.ClientSession()
        nunu = client(server, clock, session=session)
        completion = completion_of(nunu, clock)
        with pytest.raises(UploadOutcomeUnknown):
            await completion.run(TICKET, 5, ())
        assert not completion.may_cancel


async def test_another_build_than_was_asked_for_is_no_answer(clock: ManualClock) -> None:
    """As where an unsolicited answer lay on a kept-alive connection."""
    other = answer(body=b'{"build_id": "other"}')
    async with raw_server(Script([other])) as server, client(server, clock) as nunu:
        with pytest.raises(DecodeError, match="another build"):
            await nunu.builds.get("b")


async def test_a_session_closed_under_a_look_up_is_no_cancellation(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """aiohttp cancels the task that looks up a name then; the caller has cancelled nothing."""
    looking = asyncio.Event()

    async def never(*_: object, **__: object) -> list[object]:
        looking.set()
        await asyncio.Event().wait()
        return []

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", never)
    nunu = NunuClient(KEY, base_url="https://nowhere.example", clock=clock)
    asking = asyncio.ensure_future(nunu.builds.get("b"))
    await looking.wait()
    await nunu.close()
    with pytest.raises((ClientClosed, TransportError)):
        await asking
    assert not asking.cancelled()


async def test_the_upload_id_is_hidden_in_the_form_in_which_it_was_sent(
    clock: ManualClock,
) -> None:
    """A gateway repeats the request line that it could not pass on."""
    ticket = attrs.evolve(TICKET, upload_id="AbC+dEf/gHi==")

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        message = b"cannot " + head.split(b"\r\n")[0] + b" AbC%2BdEf%2FgHi%3D%3D"
        writer.write(answer(400, message))

    async with raw_server(echo) as server, client(server, clock) as nunu:
        with pytest.raises(BadRequest) as caught:
            await nunu.builds.get_upload_parts(ticket, [1])
    assert "AbC" not in str(caught.value)
    assert "***" in str(caught.value)


async def test_a_refused_connection_is_tried_again_even_for_a_post(clock: ManualClock) -> None:
    async with raw_server(Script([None])) as server:
        pass
    async with client(server, clock) as nunu:
        with pytest.raises(ConnectError) as caught:
            await nunu.builds.initiate_upload(UPLOAD)
    assert not caught.value.sent
    assert len(clock.sleeps) == 4


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 520, 524])
async def test_a_transient_status_is_tried_again(clock: ManualClock, status: int) -> None:
    script = Script([answer(status), answer(status), answer(body=BUILD)])
    async with raw_server(script) as server, client(server, clock) as nunu:
        await nunu.builds.get("b")
    assert len(server.heads) == 3


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 409, 413, 422, 501, 505])
async def test_a_definite_status_is_not_tried_again(clock: ManualClock, status: int) -> None:
    async with raw_server(Script([answer(status)])) as server, client(server, clock) as nunu:
        with pytest.raises(ApiError) as caught:
            await nunu.builds.get("b")
    assert caught.value.status == status
    assert len(server.heads) == 1


@pytest.mark.parametrize(("status", "requests"), [(429, 3), (503, 3), (500, 1), (502, 1)])
async def test_a_post_is_repeated_only_when_the_server_cannot_have_acted(
    clock: ManualClock, status: int, requests: int
) -> None:
    ticket = {
        "upload_type": "single-part",
        "build_id": "b",
        "object_key": "o",
        "upload_url": "https://s/x",
    }
    script = Script([answer(status), answer(status), answer(body=json.dumps(ticket).encode())])
    async with raw_server(script) as server, client(server, clock) as nunu:
        if requests == 1:
            with pytest.raises(ServerError):
                await nunu.builds.initiate_upload(UPLOAD)
        else:
            await nunu.builds.initiate_upload(UPLOAD)
    assert len(server.heads) == requests


async def test_retry_after_is_the_least_pause(clock: ManualClock) -> None:
    script = Script([answer(429, headers={"Retry-After": "3"}), answer(body=BUILD)])
    async with raw_server(script) as server, client(server, clock) as nunu:
        await nunu.builds.get("b")
    (pause,) = clock.sleeps
    assert 3 <= pause <= 3.75


@pytest.mark.parametrize("asked", ["121", "9999999999"])
async def test_a_retry_after_beyond_patience_fails_now(clock: ManualClock, asked: str) -> None:
    async with (
        raw_server(Script([answer(429, headers={"Retry-After": asked})])) as server,
        client(server, clock) as nunu,
    ):
        with pytest.raises(RateLimited) as caught:
            await nunu.builds.get("b")
    assert caught.value.retry_after == float(asked)
    assert clock.sleeps == []


@pytest.mark.parametrize("asked", ["-5", "nan", "inf", "1e999", "", "soon"])
async def test_a_hostile_retry_after_counts_as_absent(clock: ManualClock, asked: str) -> None:
    script = Script([answer(429, headers={"Retry-After": asked}), answer(body=BUILD)])
    async with raw_server(script) as server, client(server, clock) as nunu:
        await nunu.builds.get("b")
    (pause,) = clock.sleeps
    assert 0 <= pause <= 1.0


async def test_a_wait_that_would_outlast_the_call_is_not_begun(clock: ManualClock) -> None:
    script = Script([answer(503, headers={"Retry-After": "50"})])
    async with raw_server(script) as server, client(server, clock, timeout=40.0) as nunu:
        with pytest.raises(ServerError):
            await nunu.builds.get("b")
    assert clock.sleeps == []


async def test_no_answer_ends_the_attempt_and_then_the_call(clock: ManualClock) -> None:
    arrived = asyncio.Event()

    async def silent(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        arrived.set()
        await reader.read()

    async with raw_server(silent) as server, client(server, clock) as nunu:
        call = asyncio.ensure_future(nunu.builds.get("b"))
        for number in (1, 2):
            await until(lambda n=number: len(server.heads) == n)
            await until(lambda: clock.waiting)
            clock.advance(60)
        with pytest.raises((DeadlineExceeded, StallError)):
            await call
    assert len(server.heads) == 2


async def test_the_queue_at_the_gate_counts_for_no_timeout(clock: ManualClock) -> None:
    """A call that had to wait for its turn still has its whole time."""
    release = asyncio.Event()

    async def gated(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        await release.wait()
        writer.write(answer(body=BUILD))

    async with raw_server(gated) as server, client(server, clock, api_concurrency=2) as nunu:
        calls = [asyncio.ensure_future(nunu.builds.get("b")) for _ in range(10)]
        await until(lambda: len(server.heads) == 2)
        clock.advance(59)
        release.set()
        await asyncio.gather(*calls)
    assert len(server.heads) == 10
    assert server.connections == 2


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(clock: ManualClock, status: int) -> None:
    async with raw_server(Script([answer()])) as foreign:
        script = Script([answer(status, headers={"Location": f"{foreign.url}/x?y=z"})])
        async with raw_server(script) as server, client(server, clock) as nunu:
            with pytest.raises(ApiError) as caught:
                await nunu.builds.get("b")
    assert foreign.heads == []
    assert "redirect" in str(caught.value)
    assert "y=z" not in str(caught.value)


async def test_a_compressed_bomb_is_not_unpacked(clock: ManualClock) -> None:
    bomb = gzip.compress(b" " * (64 * 1024 * 1024))
    script = Script([answer(body=bomb, headers={"Content-Encoding": "gzip"})])
    async with (
        raw_server(script) as server,
        client(server, clock, retry=RetryPolicy(attempts=1)) as nunu,
    ):
        with pytest.raises(TransportError, match="longer than"):
            await nunu.builds.get("b")


async def test_a_refusal_is_known_by_its_status_however_its_body_ends(clock: ManualClock) -> None:
    cut = answer(400, body=b'{"error": "no"}' + b" " * 99)[:-50]

    async def refuse(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        writer.write(cut)
        await writer.drain()
        writer.close()

    async with raw_server(refuse) as server, client(server, clock) as nunu:
        with pytest.raises(BadRequest):
            await nunu.builds.get("b")
    assert len(server.heads) == 1


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (b"HTTP/1.1 20", TransportError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{}", TransportError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}", ProtocolError),
        (answer(body=b"<html>"), DecodeError),
        (answer(body=b""), DecodeError),
        (answer(204, b""), DecodeError),
        (answer(body=b"[" * 100_000), DecodeError),
        (answer(body=b"9" * 5000), DecodeError),
        (answer(body=b'{"build_id": 7}'), DecodeError),
        (answer(body=b"[]"), DecodeError),
    ],
    ids=[
        "half-a-status-line",
        "short-body",
        "two-lengths",
        "html",
        "empty",
        "no-content",
        "deep",
        "huge-number",
        "wrong-type",
        "not-an-object",
    ],
)
async def test_a_broken_answer_has_a_type_of_its_own(
    clock: ManualClock, raw: bytes, error: type[Exception]
) -> None:
    async def broken(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        writer.write(raw)
        await writer.drain()
        writer.close()

    async with (
        raw_server(broken) as server,
        client(server, clock, retry=RetryPolicy(attempts=1)) as nunu,
    ):
        with pytest.raises(error) as caught:
            await nunu.builds.get("b")
    assert type(caught.value) is error


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%%b\r\n%b" % (len(BUILD), BUILD)
MANY = b"".join(b"X-%d: y\r\n" % number for number in range(505))


@pytest.mark.parametrize("more", [b"X: %b\r\n" % (b"y" * 65_000), MANY], ids=["long", "many"])
async def test_an_answer_with_long_or_many_headers_is_read(clock: ManualClock, more: bytes) -> None:
    script = Script([HEAD % more])
    async with raw_server(script) as server, client(server, clock) as nunu:
        assert (await nunu.builds.get("b")).build_id == "b"
    assert len(server.heads) == 1


@pytest.mark.parametrize(
    ("more", "rule"),
    [
        (b"X: MARKED%b\r\n" % (b"y" * 70_000), "a line of the answer's headers is over 65,536"),
        (MANY + MANY.replace(b"X", b"Z"), "the answer has over 512 headers"),
        (b"Na me: MARKED\r\n", "Invalid header token"),
        (b"X: MARKED\x00y\r\n", "invalid header"),
        (b"Transfer-Encoding: chunked\r\n", "Transfer-Encoding can't be present"),
    ],
    ids=["long", "many", "name", "value", "two-lengths"],
)
async def test_an_answer_that_breaks_http_is_not_asked_for_again_and_says_why(
    clock: ManualClock, more: bytes, rule: str
) -> None:
    """Never with the words of the answer, which may hold a secret."""
    script = Script([HEAD % more])
    async with raw_server(script) as server, client(server, clock) as nunu:
        with pytest.raises(ProtocolError, match=rule) as caught:
            await nunu.builds.get("b")
    assert len(server.heads) == 1
    assert "MARKED" not in disclosed(caught.value)


async def test_what_is_left_of_another_answer_is_asked_for_again(clock: ManualClock) -> None:
    script = Script([b"left over\r\n\r\n", HEAD % b""])
    async with raw_server(script) as server, client(server, clock) as nunu:
        assert (await nunu.builds.get("b")).build_id == "b"
    assert len(server.heads) == 2


@pytest.mark.parametrize(
    "packed",
    [
        answer(body=gzip.compress(BUILD), headers={"Content-Encoding": name})
        for name in ("x-gzip", "X-GZIP", "gzip")
    ]
    + [answer(body=b"\xef\xbb\xbf" + BUILD)],
    ids=["x-gzip", "upper-case", "gzip", "byte-order-mark"],
)
async def test_an_answer_is_read_by_its_old_name_and_with_a_mark_before_it(
    clock: ManualClock, packed: bytes
) -> None:
    async with raw_server(Script([packed])) as server, client(server, clock) as nunu:
        assert (await nunu.builds.get("b")).build_id == "b"


@pytest.mark.parametrize(
    ("packed", "why"),
    [
        (b"no gzip", "is no gzip, though its headers say so"),
        (gzip.compress(BUILD)[:-9], "the answer's gzip is cut off"),
    ],
    ids=["none", "cut"],  # each collection packs at another second
)
async def test_what_is_wrong_with_an_answer_by_the_old_name_is_said(
    clock: ManualClock, packed: bytes, why: str
) -> None:
    reply = answer(body=packed, headers={"Content-Encoding": "x-gzip"})
    script = Script([reply])
    async with raw_server(script) as server, client(server, clock, retry=ONCE) as nunu:
        with pytest.raises(TransportError, match=why):
            await nunu.builds.get("b")


async def test_an_answer_by_the_old_name_may_have_several_members_or_none(
    clock: ManualClock,
) -> None:
    both = gzip.compress(BUILD[:9]) + gzip.compress(BUILD[9:])
    script = Script([answer(body=both, headers={"Content-Encoding": "x-gzip"})])
    async with raw_server(script) as server, client(server, clock) as nunu:
        assert (await nunu.builds.get("b")).build_id == "b"
    script = Script([answer(200, b"", {"Content-Encoding": "x-gzip"})])
    async with raw_server(script) as server, client(server, clock) as nunu:
        assert await nunu.request("DELETE", "/things/1") is None


async def test_a_body_that_breaks_off_has_a_plain_message(clock: ManualClock) -> None:
    async def short(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{}")
        await writer.drain()
        writer.close()

    async with raw_server(short) as server, client(server, clock, retry=ONCE) as nunu:
        with pytest.raises(TransportError, match="the answer's body broke off"):
            await nunu.builds.get("b")


async def test_a_bomb_by_the_old_name_of_gzip_is_not_unpacked(clock: ManualClock) -> None:
    bomb = gzip.compress(bytes(40 * 1024 * 1024))
    packed = answer(body=bomb, headers={"Content-Encoding": "x-gzip"})
    async with (
        raw_server(Script([packed])) as server,
        client(server, clock, retry=RetryPolicy(attempts=1)) as nunu,
    ):
        with pytest.raises(TransportError):
            await nunu.builds.get("b")


async def test_a_decode_error_names_operation_and_json_path(clock: ManualClock) -> None:
    ticket = {"upload_type": "multipart", "build_id": "b", "object_key": "o", "part_size": "ten"}
    script = Script([answer(body=json.dumps(ticket).encode())])
    async with raw_server(script) as server, client(server, clock) as nunu:
        with pytest.raises(DecodeError) as caught:
            await nunu.builds.initiate_upload(UPLOAD)
    assert caught.value.operation == "initiate_upload"
    assert any("$.part_size" in problem for problem in caught.value.problems)
    assert any("$.upload_id" in problem for problem in caught.value.problems)


DOCUMENTED = [
    (400, BadRequest, {"error": "invalid request: test.name: Required"}),
    (401, AuthenticationError, {"error": "Invalid API key"}),
    (
        402,
        QuotaExceeded,
        {
            "error": "Storage capacity exceeded",
            "code": "QUOTA_EXCEEDED",
            "details": {"used": 30, "capacity": 32, "needed": 5},
        },
    ),
    (403, PermissionDenied, {"error": "API key expired"}),
    (404, NotFound, {"error": "Upload not found", "code": "UPLOAD_NOT_FOUND"}),
    (413, PayloadTooLarge, {"error": "File exceeds limits"}),
    (429, RateLimited, {"error": "slow down"}),
    (500, ServerError, {"ok": False, "status": 500, "message": "queued?", "error": "broken"}),
    (599, ServerError, {"message": "unheard of"}),
]


@pytest.mark.parametrize(
    ("status", "kind", "body"), DOCUMENTED, ids=[str(row[0]) for row in DOCUMENTED]
)
async def test_every_documented_status_has_its_error(
    clock: ManualClock, status: int, kind: type[ApiError], body: dict[str, object]
) -> None:
    reply = answer(status, json.dumps(body).encode(), {"X-Request-Id": "req-17"})
    async with (
        raw_server(Script([reply])) as server,
        client(server, clock, retry=RetryPolicy(attempts=1)) as nunu,
    ):
        with pytest.raises(kind) as caught:
            await nunu.builds.initiate_upload(UPLOAD)
    error = caught.value
    assert (error.status, error.method, error.path) == (status, "POST", "/builds/upload")
    assert error.request_id == "req-17"
    assert error.code == body.get("code")
    assert error.message == body.get("error", body.get("message"))
    if isinstance(error, QuotaExceeded):
        assert (error.used, error.capacity, error.needed) == (30, 32, 5)


async def test_the_key_is_hidden_where_the_server_echoes_it(clock: ManualClock) -> None:
    body = json.dumps({"error": f"bad key {KEY}", "details": {KEY: [f"x{KEY}"]}}).encode()
    script = Script([answer(401, body, {"X-Echo": KEY})])
    async with raw_server(script) as server, client(server, clock) as nunu:
        with pytest.raises(AuthenticationError) as caught:
            await nunu.builds.get("b")
    error = caught.value
    assert KEY not in f"{error} {error!r} {error.details} {error.headers} {error.message}"


async def test_the_upload_id_is_hidden_where_the_server_echoes_it(clock: ManualClock) -> None:
    body = json.dumps({"error": f"no upload {TICKET.upload_id}"}).encode()
    async with raw_server(Script([answer(404, body)])) as server, client(server, clock) as nunu:
        with pytest.raises(NotFound) as caught:
            await nunu.builds.get_upload_parts(TICKET, [1])
    assert TICKET.upload_id not in str(caught.value)


async def test_cancelling_a_call_closes_its_connection(clock: ManualClock) -> None:
    closed = asyncio.Event()

    async def silent(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        await reader.read()
        closed.set()

    async with raw_server(silent) as server, client(server, clock) as nunu:
        call = asyncio.ensure_future(nunu.builds.get("b"))
        await until(lambda: server.heads)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        async with asyncio.timeout(5):
            await closed.wait()
        assert clock.waiting == 0


async def test_a_closed_client_says_so(clock: ManualClock) -> None:
    async with raw_server(Script([answer()])) as server:
        nunu = client(server, clock)
        await nunu.close()
        await nunu.close()
        with pytest.raises(ClientClosed):
            await nunu.builds.get("b")
        with pytest.raises(ClientClosed):
            await nunu.warm_up()


async def test_an_answer_is_read_where_no_code_can_be_loaded_elsewhere_any_more(
    clock: ManualClock,
) -> None:
    """As when the client is closed meanwhile: what the server has done must still be known."""

    @attrs.frozen(kw_only=True)
    class Fresh(Model):
        text: str
        number: int

    body = b'{"text": "t", "number": 2.0}'  # not exactly what the reader wants, so both are loaded
    async with raw_server(Script([answer(body=body)])) as server, client(server, clock) as nunu:
        nunu._loader.shutdown()
        made = await nunu._session.send(
            Request(
                operation="any",
                method="GET",
                path="/any",
                answer=lambda data: codec.structure(data, Fresh),
            )
        )
    assert made == Fresh(text="t", number=2)


def test_a_client_belongs_to_one_event_loop(clock: ManualClock) -> None:
    nunu = NunuClient(KEY, base_url="http://127.0.0.1:1", clock=clock)

    async def call() -> None:
        try:
            await nunu.builds.get("b")
        except ConnectError:
            await nunu._session._sessions.close()

    asyncio.run(call())
    with pytest.raises(ConfigError, match="event loop"):
        asyncio.run(call())


async def test_every_retry_is_a_warning_with_its_reason(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    script = Script([answer(503), answer(body=BUILD)])
    with caplog.at_level(logging.WARNING, "nunu_async"):
        async with raw_server(script) as server, client(server, clock) as nunu:
            await nunu.builds.get("b")
    (record,) = caplog.records
    assert "get_build" in record.getMessage()
    assert "503" in record.getMessage()


async def test_a_rate_limit_of_the_sandbox_is_ridden_out(
    box: Sandbox, nunu: NunuClient, clock: ManualClock
) -> None:
    box.add_fault(Fault(on="initiate_upload", status=429, headers={"Retry-After": "2"}, times=2))
    ticket = await nunu.builds.initiate_upload(UPLOAD)
    assert ticket.build_id in box.uploads
    assert all(2 <= pause <= 2.5 for pause in clock.sleeps)
    assert len(clock.sleeps) == 2


@pytest.mark.parametrize("value", [0, -1, True, 1.5])
@pytest.mark.parametrize("name", ["api_concurrency", "storage_concurrency"])
def test_a_nonsense_limit_is_refused(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=name):
        NunuClient(KEY, **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value", [0, -1, 10, 1023.9, True, "1M", float("nan"), float("inf"), 10**400]
)
def test_a_bandwidth_that_cannot_be_meant_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match="max_bandwidth must be None or 1024 bytes a second"):
        NunuClient(KEY, max_bandwidth=value)  # type: ignore[arg-type]


def test_repr_shows_no_key() -> None:
    nunu = NunuClient(KEY, project_id="p", timeout=Timeouts(call=3))
    assert KEY not in f"{nunu!r} {vars(nunu)!r} {nunu._config!r}"


async def test_every_attempt_is_one_debug_line_without_ids(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    build = b'{"build_id": "an-id-of-a-build"}'
    script = Script([answer(503), None, answer(body=build)])
    with caplog.at_level(logging.DEBUG, "nunu_async"):
        async with raw_server(script) as server, client(server, clock) as nunu:
            await nunu.builds.get("an-id-of-a-build")
    lines = [r.getMessage() for r in caplog.records if r.levelno == logging.DEBUG]
    assert lines == [
        "GET /builds/{buildId} attempt 1: 503 in 0 ms",
        "GET /builds/{buildId} attempt 2: no answer in 0 ms",
        "GET /builds/{buildId} attempt 3: 200 in 0 ms",
    ]
    assert all(r.name.startswith("nunu_async") for r in caplog.records if "build" in r.getMessage())


async def test_a_body_of_megabytes_is_sent_without_a_warning() -> None:
    """Every warning is an error here: aiohttp has one for bytes of more than a MiB."""
    body = {"text": "x" * 3 * 1024 * 1024}
    async with answered(json_answer({"ok": True})) as wire:
        assert await wire.nunu.request("POST", "/anything", json=body) == {"ok": True}
    assert [json.loads(sent) for sent in wire.bodies] == [body]
    assert wire.header("Transfer-Encoding") is None
    assert wire.header("Content-Type") == "application/json"
