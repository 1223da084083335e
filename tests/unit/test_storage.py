"""One presigned PUT, over real sockets."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_writer import StreamWriter
from disclosed import disclosed
from doubles import (
    Exchange,
    ManualClock,
    answer,
    body_length,
    needs_queued,
    raw_server,
    storage_for,
    until,
)

from nunu_async import PartUrl, StallError, StorageError, TransportError
from nunu_async.core.turns import Turns
from nunu_async.core.wire import reset_on_close
from nunu_async.redact import Secret
from nunu_async.upload.body import PartBody
from nunu_async.upload.limits import BandwidthLimiter
from nunu_async.upload.plan import Part
from nunu_async.upload.source import Source
from nunu_async.upload.storage import (
    Stored,
    _Answer,
    _verdict,
    refusal_of,
)

MIB = 1024 * 1024
ETAG = {"ETag": '"0f343b0931126a20f133d67c2b018a3b"'}
AWKWARD = "/b/a%2Fb/%7Ename%20%281%29+x?X-Amz-Credential=AK%2Feu%2Fs3&sig=a%2Bb%3D&z=%e2%82%ac"


@pytest.fixture
async def source(make_file: Callable[..., Path]) -> AsyncIterator[Source]:
    """A file of 8 MiB and a bit."""
    with ThreadPoolExecutor(1) as executor:
        async with await Source.open(make_file(8 * MIB + 7), executor) as opened:
            yield opened


def at(url: str) -> PartUrl:
    return PartUrl(part_number=1, url=url)


def ignore(_: int) -> None:
    pass


async def test_a_part_arrives_whole_with_its_exact_length(
    clock: ManualClock, source: Source
) -> None:
    got: list[bytes] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        got.append(await reader.readexactly(body_length(head)))
        writer.write(answer(headers=ETAG))

    part = Part(3, 2 * MIB - 5, 3 * MIB + 11)
    counts: list[int] = []
    async with raw_server(take) as server, storage_for(clock) as storage:
        stored = await storage.put(at(server.url + "/k"), part, source, counts.append)
    assert stored == Stored("0f343b0931126a20f133d67c2b018a3b", verified=False, is_md5=True)
    assert got == [source.path.read_bytes()[part.offset : part.offset + part.length]]
    assert counts == sorted(counts)
    assert counts[-1] == part.length


async def test_the_presigned_url_reaches_the_wire_as_it_was_written(
    clock: ManualClock, source: Source
) -> None:
    async with raw_server(take_all) as server, storage_for(clock) as storage:
        await storage.put(at(server.url + AWKWARD), Part(1, 0, 10), source, ignore)
    assert server.heads[0].startswith(f"PUT {AWKWARD} HTTP/1.1\r\n".encode())


async def test_a_put_carries_only_headers_that_signers_expect(
    clock: ManualClock, source: Source
) -> None:
    async with raw_server(take_all) as server, storage_for(clock) as storage:
        await storage.put(at(server.url + "/k"), Part(1, 0, 10), source, ignore)
    names = {line.partition(b":")[0].lower() for line in server.heads[0].split(b"\r\n")[1:-2]}
    assert names == {
        b"host",
        b"content-length",
        b"content-type",
        b"accept",
        b"accept-encoding",
        b"user-agent",
    }
    assert b"Content-Type: application/octet-stream\r\n" in server.heads[0]


async def test_a_cookie_of_the_storage_does_not_come_back(
    clock: ManualClock, source: Source
) -> None:
    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        await reader.readexactly(body_length(head))
        writer.write(answer(headers={**ETAG, "Set-Cookie": "a=b; Path=/"}))

    async with raw_server(take) as server, storage_for(clock) as storage:
        for _ in range(2):
            await storage.put(at(server.url + "/k"), Part(1, 0, 10), source, ignore)
    assert server.connections == 1
    assert b"cookie" not in server.heads[1].lower()


async def test_a_netrc_entry_for_storage_is_ignored(
    clock: ManualClock, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("NETRC", str(netrc))
    async with raw_server(take_all) as server, storage_for(clock) as storage:
        await storage.put(at(server.url + "/k"), Part(1, 0, 10), source, ignore)
    assert b"authorization" not in server.heads[0].lower()


async def test_a_dropped_put_is_one_request(clock: ManualClock, source: Source) -> None:
    """aiohttp would send a PUT again by itself; no retry policy would count that attempt."""

    async def drop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        await reader.readexactly(body_length(head))
        writer.transport.abort()

    async with raw_server(drop) as server, storage_for(clock) as storage:
        with pytest.raises(TransportError):
            await storage.put(at(server.url + "/k"), Part(1, 0, 10), source, ignore)
    assert len(server.heads) == 1


def test_a_dropped_put_is_one_on_uvloop_too(make_file: Callable[..., Path]) -> None:
    """Its closed sockets say so by a ValueError, which must not be what comes of a lost one."""
    uvloop = pytest.importorskip("uvloop")

    async def drop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        await reader.readexactly(body_length(head))
        writer.transport.abort()

    async def put() -> None:
        with ThreadPoolExecutor(1) as executor:
            async with (
                await Source.open(make_file(10), executor) as source,
                raw_server(drop) as server,
                storage_for(ManualClock()) as storage,
            ):
                with pytest.raises(TransportError, match="connection was lost"):
                    await storage.put(at(server.url + "/k"), Part(1, 0, 10), source, ignore)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(put())


async def test_a_success_before_the_whole_body_is_an_error(
    clock: ManualClock, source: Source
) -> None:
    async def early(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        await reader.readexactly(1000)
        writer.write(answer(headers=ETAG))
        await reader.read()

    async with raw_server(early) as server, storage_for(clock) as storage:
        with pytest.raises(StorageError, match="before all of it was sent"):
            await storage.put(at(server.url + "/k"), Part(1, 0, 8 * MIB), source, ignore)


@needs_queued
async def test_a_success_with_bytes_still_in_the_kernel_is_an_error(
    clock: ManualClock, source: Source
) -> None:
    """All bytes are handed over; but what storage has read its answer would acknowledge."""
    gone = asyncio.Event()
    counts: list[int] = []

    async def hasty(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        await reader.readexactly(1000)
        await until(lambda: counts and counts[-1] == 2 * MIB)
        writer.write(answer(headers=ETAG))
        await gone.wait()

    async with raw_server(hasty) as server, storage_for(clock) as storage:
        with pytest.raises(StorageError, match="before all of it was sent"):
            await storage.put(at(server.url + "/k"), Part(1, 0, 2 * MIB), source, counts.append)
        gone.set()


async def test_an_early_refusal_is_read_and_ends_the_sending(
    clock: ManualClock, source: Source
) -> None:
    counts: list[int] = []

    async def refuse(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        xml = b"<Error><Code>EntityTooLarge</Code><Message>too &amp; big</Message></Error>"
        writer.write(answer(413, xml))
        await reader.read()

    async with raw_server(refuse) as server, storage_for(clock) as storage:
        with pytest.raises(StorageError) as caught:
            await storage.put(at(server.url + "/k"), Part(1, 0, 8 * MIB), source, counts.append)
    assert (caught.value.status, caught.value.code) == (413, "EntityTooLarge")
    assert counts[-1] < 8 * MIB


@pytest.mark.parametrize(
    ("headers", "etag"),
    [
        ({"ETag": '"abc"'}, "abc"),
        ({"ETag": "abc"}, "abc"),
        ({"etag": 'W/"abc"'}, "abc"),
        ({"ETag": '"abc"', "etag": "abc"}, "abc"),
        ({"ETag": '"ABC-2"'}, "ABC-2"),
    ],
)
async def test_every_form_of_an_etag_is_read(
    clock: ManualClock, source: Source, headers: dict[str, str], etag: str
) -> None:
    async with raw_server(taking(answer(headers=headers))) as server, storage_for(clock) as storage:
        stored = await storage.put(at(server.url + "/k"), Part(1, 0, 10), source, ignore)
    assert stored == Stored(etag, verified=False)


@pytest.mark.parametrize("headers", [{}, {"ETag": ""}, {"ETag": '""'}, {"ETag": "a", "etag": "b"}])
async def test_without_one_etag_a_part_is_not_accepted(
    clock: ManualClock, source: Source, headers: dict[str, str]
) -> None:
    async with raw_server(taking(answer(headers=headers))) as server, storage_for(clock) as storage:
        with pytest.raises(StorageError, match="ETag"):
            await storage.put(at(server.url + "/k"), Part(1, 0, 10), source, ignore)


async def test_an_etag_that_no_request_can_hold_is_not_accepted(
    clock: ManualClock, source: Source
) -> None:
    """Completing with it failed on our side, and the upload was neither completed nor cancelled."""
    data = answer(headers={"ETag": '"a?"'}).replace(b"?", b"\xff")
    async with raw_server(taking(data)) as server, storage_for(clock) as storage:
        with pytest.raises(StorageError, match="ETag that is no text"):
            await storage.put(at(server.url + "/k"), Part(1, 0, 10), source, ignore)


@pytest.mark.parametrize("signature", ["0123456789abcdef" * 4, "short/sg"])
@pytest.mark.parametrize("status", [400, 403, 502])
async def test_an_echo_of_the_presigned_url_is_not_shown(
    clock: ManualClock, source: Source, status: int, signature: str
) -> None:
    """As written, with its values unquoted, and in a header."""
    token = "a+token/of=a+session"
    query = f"X-Amz-Security-Token={quote(token, safe='')}&X-Amz-Signature={signature}&partNumber=2"

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        await reader.readexactly(body_length(head))
        target = head.split(b" ")[1].decode()
        words = f"cannot reach {target}, which is {token} {signature}"
        body = words if status != 403 else f"<Code>Odd</Code><Message>{words}</Message>"
        writer.write(answer(status, body.encode(), {"X-Amz-Request-Id": f"1-{signature}"}))

    async with raw_server(echo) as server, storage_for(clock) as storage:
        with pytest.raises(StorageError) as caught:
            await storage.put(at(f"{server.url}/k?{query}"), Part(2, 0, 10), source, ignore)
    text = f"{caught.value} {vars(caught.value)}"
    assert "cannot reach /k?" in text
    assert "partNumber=2" in text
    for secret in (signature, token, quote(token, safe="")):
        assert secret not in text


@pytest.mark.parametrize("status", [200, 400])
async def test_an_echo_of_the_upload_id_is_not_shown(
    clock: ManualClock, source: Source, status: int
) -> None:
    """In the path of an address it is one word among innocent ones, and only the ticket knows."""
    secret = "upload-0001"

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        await reader.readexactly(body_length(head))
        target = head.split(b" ")[1]
        writer.write(answer(status, b"no " + target, {"X-Amz-Request-Id": secret}))

    async with raw_server(echo) as server, storage_for(clock) as storage:
        address = at(f"{server.url}/k/{secret}?partNumber=1")
        with pytest.raises(StorageError) as caught:
            await storage.put(address, Part(1, 0, 10), source, ignore, secrets=(Secret(secret),))
    assert caught.value.request_id == "***"
    assert secret not in f"{caught.value} {vars(caught.value)}"


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        (b"<Error><Code>SlowDown</Code><Message>Wait.</Message></Error>", "SlowDown", "Wait."),
        (b"plain words", None, "plain words"),
        (b"<html><body>edge</body></html>", None, "no explanation in the answer"),
        (b"<Code>" + b"x" * 5000, None, "no explanation in the answer"),
        (b"\xff\xfe\x00", None, None),
        (b"<Code>A\x1b[31mB</Code>", "A\\x1b[31mB", "no explanation in the answer"),
    ],
)
async def test_an_error_has_the_code_and_message_of_storage(
    clock: ManualClock, source: Source, body: bytes, code: str | None, message: str | None
) -> None:
    async with raw_server(taking(answer(503, body))) as server, storage_for(clock) as storage:
        with pytest.raises(StorageError) as caught:
            await storage.put(at(server.url + "/k?sig=secret"), Part(2, 0, 10), source, ignore)
    error = caught.value
    assert (error.part_number, error.status, error.code) == (2, 503, code)
    assert message is None or error.message == message
    assert str(error).isprintable()
    assert "secret" not in str(error)


def md5_of(source: Source, part: Part) -> str:
    data = source.path.read_bytes()[part.offset : part.offset + part.length]
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


KMS = {"x-amz-server-side-encryption": "aws:kms"}
CUSTOMER = {"X-Amz-Server-Side-Encryption-Customer-Algorithm": "AES256"}


@pytest.mark.parametrize("length", [1, 10, MIB + 1])
@pytest.mark.parametrize(
    ("form", "headers", "verified"),
    [
        ('"{md5}"', {}, True),
        ("{md5}", {}, True),
        ('W/"{md5}"', {}, True),
        ('"{MD5}"', {}, True),
        ('"{md5}"', {"x-amz-server-side-encryption": "AES256"}, True),
        ('"{md5}-2"', {}, False),
        ('"{md5}0"', {}, False),
        ('"0x8D4BCC2E4835CD0"', {}, False),
        ('"{md5}"', KMS, False),
        ('"00000000000000000000000000000000"', KMS, False),
        ('"00000000000000000000000000000000"', CUSTOMER, False),
    ],
)
async def test_an_etag_that_is_an_md5_is_compared_and_no_other(
    clock: ManualClock,
    source: Source,
    length: int,
    form: str,
    headers: dict[str, str],
    verified: bool,
) -> None:
    part = Part(2, 5, length)
    md5 = md5_of(source, part)
    etag = form.format(md5=md5, MD5=md5.upper())
    reply = answer(headers={"etag": etag, **headers})
    async with raw_server(taking(reply)) as server, storage_for(clock) as storage:
        stored = await storage.put(at(server.url + "/k"), part, source, ignore, verify=True)
    etag = etag.removeprefix("W/").strip('"')
    assert stored == Stored(etag, verified=verified, is_md5=verified)


@pytest.mark.parametrize("length", [10, 8 * MIB])
async def test_another_md5_is_no_success(clock: ManualClock, source: Source, length: int) -> None:
    part = Part(2, 5, length)
    async with raw_server(take_all) as server, storage_for(clock) as storage:
        with pytest.raises(StorageError, match="stored other bytes than were sent") as caught:
            await storage.put(at(server.url + "/k"), part, source, ignore, verify=True)
        unasked = await storage.put(at(server.url + "/k"), part, source, ignore)
    assert md5_of(source, part) in str(caught.value)
    assert not unasked.verified


@pytest.mark.parametrize("etag", ["0" * 32, ""])
async def test_no_error_shows_what_headers_echo(
    clock: ManualClock, source: Source, etag: str
) -> None:
    secret = "deadbeef" * 8
    headers = {"ETag": etag, "X-Echo": f"PUT /k?X-Amz-Signature={secret}"}
    async with raw_server(taking(answer(headers=headers))) as server, storage_for(clock) as storage:
        signed = at(f"{server.url}/k?X-Amz-Signature={secret}")
        with pytest.raises(StorageError) as caught:
            await storage.put(signed, Part(1, 0, 10), source, ignore, verify=True)
    assert secret not in disclosed(caught.value)


async def test_a_disk_that_hangs_in_hashing_stalls_that_part_alone(
    clock: ManualClock, source: Source, make_file: Callable[..., Path]
) -> None:
    hangs, begun = threading.Event(), threading.Event()
    part = Part(1, 0, 10)
    taking_it = taking(answer(headers={"ETag": md5_of(source, part)}))
    with ThreadPoolExecutor(4) as executor:
        async with (
            await Source.open(make_file(10, "hung.zip"), executor) as hung,
            raw_server(taking_it) as server,
            storage_for(clock, stall=5.0) as storage,
        ):
            blocks = hung._blocks

            def never(offset: int, length: int, most: int) -> Iterator[bytes]:
                if most != length:  # to hash them; what is sent may be read so, too
                    begun.set()
                    assert hangs.wait(60)
                return blocks(offset, length, most)

            hung._blocks = never  # type: ignore[method-assign]
            put = asyncio.ensure_future(
                storage.put(at(server.url + "/k"), part, hung, ignore, verify=True)
            )
            await until(begun.is_set)
            stored = await storage.put(at(server.url + "/k"), part, source, ignore, verify=True)
            assert stored.verified
            await until(lambda: len(server.heads) == 2)
            await pass_time(clock, put)
            hangs.set()
    with pytest.raises(StallError, match="no byte was read for its MD5 in 5 seconds"):
        put.result()


async def pass_time(clock: ManualClock, task: asyncio.Future[object]) -> None:
    """Let time go on until a task is done."""
    while not task.done():
        clock.advance(1.0)
        await asyncio.sleep(0)


async def test_two_etags_are_an_error_even_if_one_is_right(
    clock: ManualClock, source: Source
) -> None:
    part = Part(1, 0, 10)
    headers = {"ETag": md5_of(source, part), "etag": "abc-1"}
    async with raw_server(taking(answer(headers=headers))) as server, storage_for(clock) as storage:
        with pytest.raises(StorageError, match="several ETags"):
            await storage.put(at(server.url + "/k"), part, source, ignore, verify=True)


@pytest.mark.parametrize("honest", [True, False])
async def test_an_answer_before_the_last_bytes_is_settled_by_the_md5(
    clock: ManualClock, source: Source, honest: bool
) -> None:
    """The kernel takes all of it at once, and whether the peer did cannot be seen."""
    part = Part(1, 0, 100_000)
    etag = md5_of(source, part if honest else Part(1, 0, 1000))

    async def early(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        await reader.readexactly(1000)
        writer.write(answer(headers={"ETag": etag}))
        await reader.read()

    async with raw_server(early) as server, storage_for(clock) as storage:
        put = storage.put(at(server.url + "/k"), part, source, ignore, verify=True)
        if honest:
            assert (await put).verified
        else:
            with pytest.raises(StorageError):
                await put


@pytest.mark.parametrize(
    ("etag", "md5", "outcome"),
    [
        ("0f343b0931126a20f133d67c2b018a3b", "0f343b0931126a20f133d67c2b018a3b", True),
        ("0f343b0931126a20f133d67c2b018a3b", "ff343b0931126a20f133d67c2b018a3b", None),
        ("0f343b0931126a20f133d67c2b018a3b", None, None),
        ("0f343b0931126a20f133d67c2b018a3b-1", "0f343b0931126a20f133d67c2b018a3b", None),
    ],
)
def test_only_the_right_md5_makes_an_early_success_good(
    etag: str, md5: str | None, outcome: bool | None
) -> None:
    verdict = _verdict(_Answer(200, {}, [etag], b"", whole=False), md5)
    if outcome:
        assert verdict == Stored(etag, verified=True, is_md5=True)
    else:
        assert isinstance(verdict, str)
        assert "before all of it was sent" in verdict


async def test_the_md5_is_computed_on_a_thread_and_only_if_asked_for(
    clock: ManualClock, make_file: Callable[..., Path]
) -> None:
    class Counting(ThreadPoolExecutor):
        calls = 0

        def submit(self, fn, /, *args, **kwargs):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN002, ANN003, ANN202
            self.calls += 1
            return super().submit(fn, *args, **kwargs)

    made: dict[bool, int] = {}
    async with raw_server(taking(answer(headers={"ETag": "x"}))) as server:
        for verify in (False, True):
            with Counting(1) as executor:
                async with (
                    await Source.open(make_file(2 * MIB), executor) as source,
                    storage_for(clock) as storage,
                ):
                    await storage.put(
                        at(server.url + "/k"), Part(1, 0, 2 * MIB), source, ignore, verify=verify
                    )
                    made[verify] = executor.calls
    assert made[True] - made[False] == 1


async def test_an_endless_error_body_is_cut(clock: ManualClock, source: Source) -> None:
    async def endless(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        await reader.readexactly(body_length(head))
        writer.write(b"HTTP/1.1 500 X\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    async with raw_server(endless) as server, storage_for(clock) as storage:
        with pytest.raises(StorageError) as caught:
            await storage.put(at(server.url + "/k"), Part(1, 0, 10), source, ignore)
    assert caught.value.status == 500


@pytest.mark.parametrize("ending", ["fin", "rst"])
async def test_a_refusal_that_breaks_off_is_still_a_refusal(
    clock: ManualClock, source: Source, ending: str
) -> None:
    """Its status was read: a lost connection would be tried eight times in vain."""

    async def refuse(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        await reader.readexactly(body_length(head))
        writer.write(answer(413, body=b"<Code>EntityTooLarge</Code>" + b" " * 999)[:-500])
        await writer.drain()
        writer.close() if ending == "fin" else writer.transport.abort()

    async with raw_server(refuse) as server, storage_for(clock) as storage:
        with pytest.raises(StorageError) as caught:
            await storage.put(at(server.url + "/k"), Part(1, 0, 10), source, ignore)
    assert caught.value.status == 413


async def test_a_success_with_a_long_body_closes_its_connection(
    clock: ManualClock, source: Source
) -> None:
    closed = asyncio.Event()

    async def talkative(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        await reader.readexactly(body_length(head))
        writer.write(answer(200, body=b"", headers=ETAG).replace(b"Length: 0", b"Length: 9999999"))
        writer.write(b"x" * 100_000)
        await reader.read()
        closed.set()

    async with raw_server(talkative) as server, storage_for(clock) as storage:
        stored = await storage.put(at(server.url + "/k"), Part(1, 0, 10), source, ignore)
        assert stored.etag == ETAG["ETag"].strip('"')
        async with asyncio.timeout(10):
            await closed.wait()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirected_put_is_not_followed(
    clock: ManualClock, source: Source, status: int
) -> None:
    async with raw_server(take_all) as foreign:
        reply = answer(status, headers={"Location": foreign.url + "/x"})
        async with raw_server(taking(reply)) as server, storage_for(clock) as storage:
            with pytest.raises(StorageError, match="redirect"):
                await storage.put(at(server.url + "/k"), Part(1, 0, 10), source, ignore)
    assert foreign.heads == []


async def test_a_peer_that_stops_reading_is_given_up(clock: ManualClock, source: Source) -> None:
    closed = asyncio.Event()

    async def stop_reading(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        await asyncio.sleep(0)
        try:
            await asyncio.Event().wait()
        finally:
            closed.set()

    async with raw_server(stop_reading) as server, storage_for(clock, stall=60) as storage:
        counts: list[int] = []
        put = asyncio.ensure_future(
            storage.put(at(server.url + "/k"), Part(1, 0, 8 * MIB), source, counts.append)
        )
        await until(lambda: steady(counts))
        for _ in range(4):
            clock.advance(15)
            await asyncio.sleep(0)
        assert not put.done()
        while not put.done():  # what the kernels still pass on between themselves is progress
            clock.advance(15)
            await asyncio.sleep(0.001)
        with pytest.raises(StallError, match="no byte left for 60 seconds"):
            await put
        assert clock.waiting == 0


async def test_a_slow_peer_that_keeps_reading_is_left_alone(
    clock: ManualClock, source: Source
) -> None:
    """Any time may pass, as long as bytes leave between two checks."""
    total = 8 * MIB

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        for _ in range(8):
            await reader.readexactly(MIB)
            clock.advance(14)
            await asyncio.sleep(0)
        writer.write(answer(headers=ETAG))

    async with raw_server(slow) as server, storage_for(clock, stall=60) as storage:
        await storage.put(at(server.url + "/k"), Part(1, 0, total), source, ignore)
    assert clock.now - 1000 > 100
    assert len(server.heads) == 1


# Sixteen times the default: what the two kernels and the reader hold must be little beside it.
FLOOR = {"trickle_rate": 128 * 1024, "trickle_window": 60}


@pytest.fixture
async def large(tmp_path: Path) -> AsyncIterator[Source]:
    """A file of 64 MiB."""
    path = tmp_path / "large"
    path.touch()
    os.truncate(path, 64 * MIB)
    with ThreadPoolExecutor(1) as executor:
        async with await Source.open(path, executor) as opened:
            yield opened


def dripping(clock: ManualClock, rate: int, seconds: int = 5) -> Exchange:
    """Read so many bytes a second, in no time; then answer."""

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        left = body_length(head)
        while left:
            some = min(left, rate * seconds)
            await reader.readexactly(some)
            left -= some
            clock.advance(seconds)
        writer.write(answer(headers=ETAG))

    return drip


async def test_a_peer_that_trickles_is_given_up(clock: ManualClock, large: Source) -> None:
    """Something always moves, so it never stalls."""
    async with (
        raw_server(dripping(clock, 64 * 1024)) as server,
        storage_for(clock, **FLOOR) as storage,
    ):
        message = "fewer than 131072 bytes a second left for 60 seconds"
        with pytest.raises(StallError, match=message):
            await storage.put(at(server.url + "/k"), Part(1, 0, 64 * MIB), large, ignore)
        assert clock.waiting == 0
    assert 60 <= clock.now - 1000 < 300


# What the kernel holds counts as left there; Wine's is Linux, with buffers of some MB.
@needs_queued
@pytest.mark.parametrize(
    ("rate", "limits"),
    [
        (256 * 1024, {}),
        (64 * 1024, {"trickle_rate": 0}),
        (64 * 1024, {"trickle_window": 0}),
        (64 * 1024, {"trickle_rate": 32 * 1024}),
    ],
    ids=str,
)
async def test_a_slow_link_above_the_floor_is_left_alone(
    clock: ManualClock, large: Source, rate: int, limits: dict[str, float]
) -> None:
    async with (
        raw_server(dripping(clock, rate)) as server,
        storage_for(clock, **FLOOR | limits) as storage,
    ):
        await storage.put(at(server.url + "/k"), Part(1, 0, 64 * MIB), large, ignore)
    assert clock.now - 1000 >= 64 * MIB / rate - 5
    assert len(server.heads) == 1


async def test_a_part_that_waits_for_its_answer_is_not_slow(
    clock: ManualClock, source: Source
) -> None:
    async def thoughtful(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        await reader.readexactly(body_length(head))
        for _ in range(100):
            clock.advance(15)
            await asyncio.sleep(0)
        writer.write(answer(headers=ETAG))

    async with raw_server(thoughtful) as server, storage_for(clock, answer=1800) as storage:
        await storage.put(at(server.url + "/k"), Part(1, 0, MIB), source, ignore)


async def test_a_part_that_takes_long_to_be_acknowledged_is_waited_for(
    clock: ManualClock, source: Source
) -> None:
    async def thoughtful(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        await reader.readexactly(body_length(head))
        for _ in range(7):
            clock.advance(15)
            await asyncio.sleep(0)
        writer.write(answer(headers=ETAG))

    async with raw_server(thoughtful) as server, storage_for(clock) as storage:
        await storage.put(at(server.url + "/k"), Part(1, 0, 10), source, ignore)


async def test_an_answer_that_never_comes_is_given_up(clock: ManualClock, source: Source) -> None:
    taken = asyncio.Event()

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        await reader.readexactly(body_length(head))
        taken.set()
        await reader.read()

    async with raw_server(mute) as server, storage_for(clock, answer=120) as storage:
        put = asyncio.ensure_future(
            storage.put(at(server.url + "/k"), Part(1, 0, 10), source, ignore)
        )
        await taken.wait()
        for _ in range(9):
            clock.advance(15)
            await asyncio.sleep(0)
        with pytest.raises(StallError, match="no answer for 120 seconds"):
            await put


async def test_a_cancelled_put_stops_sending_at_once(clock: ManualClock, source: Source) -> None:
    """The peer gets what the kernel had taken, never the whole part, and a closed connection."""
    got = 0
    over = asyncio.Event()
    begin = asyncio.Event()

    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        nonlocal got
        await begin.wait()
        try:
            while block := await reader.read(65536):
                got += len(block)
        finally:
            over.set()

    async with raw_server(late) as server, storage_for(clock) as storage:
        counts: list[int] = []
        put = asyncio.ensure_future(
            storage.put(at(server.url + "/k"), Part(1, 0, 8 * MIB), source, counts.append)
        )
        await until(lambda: steady(counts))
        put.cancel()
        with pytest.raises(asyncio.CancelledError):
            await put
        begin.set()
        async with asyncio.timeout(10):
            await over.wait()
    assert got < 8 * MIB


@pytest.mark.parametrize("cancelled", [False, True])
async def test_an_error_after_the_last_write_is_raised(source: Source, cancelled: bool) -> None:
    """Also on loops whose transports take no orders once they are closed, as those of uvloop."""

    async def never_read(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        await asyncio.Event().wait()

    loop = asyncio.get_running_loop()
    async with raw_server(never_read) as server:
        transport, protocol = await loop.create_connection(
            lambda: BaseProtocol(loop), "127.0.0.1", server.port
        )
        transport.write(b"PUT / HTTP/1.1\r\n\r\n" + bytes(16 * MIB))
        body = PartBody(
            source, Part(1, 0, 1), ignore, BandwidthLimiter(ManualClock(), None), Turns(1000)
        )
        writing = asyncio.ensure_future(body.write(StreamWriter(protocol, loop)))
        await until(lambda: transport.get_write_buffer_limits() == (0, 0))
        await until(lambda: len(server.heads) == 1)
        if cancelled:
            transport.abort()
            await asyncio.sleep(0)
            writing.cancel()
    with pytest.raises(asyncio.CancelledError if cancelled else OSError):
        await writing
    await body.cut_off()
    assert not body.handed_over


async def test_a_block_dropped_while_it_is_written_does_not_count(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transport that fails at once has an empty buffer, as one that has sent everything."""
    monkeypatch.setattr("nunu_async.upload.body.BLOCK", 1000)
    source.sends = False
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)  # noqa: FBT003 - the one way to say it
        _, protocol = await loop.create_connection(
            lambda: BaseProtocol(loop), *listener.getsockname()
        )
        peer, _ = await loop.sock_accept(listener)

    def reset(sent: int) -> None:
        if sent == 1000:
            reset_on_close(peer)
            peer.close()

    body = PartBody(
        source, Part(1, 0, 2000), reset, BandwidthLimiter(ManualClock(), None), Turns(1000)
    )
    with pytest.raises(OSError):  # noqa: PT011 - of which kind depends on the loop
        await body.write(StreamWriter(protocol, loop))
    assert not body.handed_over
    await body.cut_off()


@pytest.mark.skipif(not hasattr(os, "pread"), reason="reads have descriptors of their own")
@pytest.mark.parametrize("ends", ["cancelled", "stalled"])
async def test_a_put_to_a_peer_that_reads_nothing_leaves_no_connection(
    clock: ManualClock, source: Source, open_descriptors: Callable[[], int], ends: str
) -> None:
    """An orderly close would wait for the peer to take what is buffered, and that is for ever."""
    accepted = asyncio.Event()

    async def never(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        accepted.set()
        await asyncio.Event().wait()

    async with raw_server(never) as server, storage_for(clock, stall=60) as storage:
        counts: list[int] = []
        before = open_descriptors()
        put = asyncio.ensure_future(
            storage.put(at(server.url + "/k"), Part(1, 0, 8 * MIB), source, counts.append)
        )
        await until(lambda: accepted.is_set() and steady(counts))
        assert open_descriptors() == before + 2 + source.sends  # both ends, and the channel
        if ends == "cancelled":
            put.cancel()
        while not put.done():
            clock.advance(15)
            await asyncio.sleep(0.001)
        with pytest.raises((asyncio.CancelledError, StallError)):
            await put
        assert open_descriptors() == before + 1  # the server's


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/x",
        "file:///etc/passwd",
        "https://user:pw@example.com/x",
        "http://example.com/x",
        "https://example.com/x\r\nX: y",
        "https://example.com/a b",
        "https://",
        "https://exämple.com/x",
        "not a url",
        "",
        "https://example.com/" + "x" * 9000,
        "http://169.254.169.254/latest",
        "https://127.0.0.1/x",
        "http://localhost:80/x",
    ],
)
async def test_an_unsafe_address_is_refused_and_not_shown(
    clock: ManualClock, source: Source, url: str
) -> None:
    async with storage_for(clock) as storage:
        storage._allow_loopback = False
        with pytest.raises(StorageError, match="nothing was sent") as caught:
            await storage.put(at(url), Part(1, 0, 10), source, ignore)
    assert caught.value.status == 0
    assert "passwd" not in str(caught.value)
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "[fe80::1]", "224.0.0.1", "2852039166", "[::ffff:169.254.169.254]"]
)
@pytest.mark.parametrize("allow_loopback", [True, False])
def test_a_private_or_local_address_is_refused(host: str, allow_loopback: bool) -> None:
    refusal = refusal_of(f"https://{host}/k?sig=1", allow_http=True, allow_loopback=allow_loopback)
    assert refusal == "leads to where no storage is"


@pytest.mark.parametrize(
    ("url", "allow_http", "allow_loopback"),
    [
        ("https://abc.r2.cloudflarestorage.com/k?X-Amz-Signature=1", False, False),
        ("http://127.0.0.1:9000/k", False, True),
        ("http://localhost:9000/k", False, True),
        ("http://[::1]:9000/k", False, True),
        ("http://store.internal/k", True, False),
    ],
)
def test_an_allowed_address_is_accepted(url: str, allow_http: bool, allow_loopback: bool) -> None:
    assert refusal_of(url, allow_http=allow_http, allow_loopback=allow_loopback) == ""


async def take_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
    await reader.readexactly(body_length(head))
    writer.write(answer(headers=ETAG))


def taking(reply: bytes) -> Exchange:
    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        await reader.readexactly(body_length(head))
        writer.write(reply)

    return take


_seen: dict[int, tuple[int, int]] = {}


def steady(counts: list[int]) -> bool:
    """Whether the sender has been stuck at the same count for 30 checks."""
    last, checks = _seen.get(id(counts), (-1, 0))
    now = counts[-1] if counts else -1
    checks = checks + 1 if now == last and now > 0 else 0
    _seen[id(counts)] = (now, checks)
    return checks > 30


@pytest.mark.parametrize(
    "host",
    [
        *("localhost.", "LOCALHOST", "a.localhost.", "127.1", "0x7f.1", "2130706433", "0177.0.0.1"),
        *("0.0.0.0", "0", "[::]", "[::1]", "[::ffff:127.0.0.1]", "127.0.0.1."),  # noqa: S104 - never bound to
    ],
)
def test_this_machine_is_known_in_any_spelling(host: str) -> None:
    refused = refusal_of(f"https://{host}:8443/k", allow_http=True, allow_loopback=False)
    assert refused == "leads to this machine"
    assert not refusal_of(f"https://{host}:8443/k", allow_http=True, allow_loopback=True)


@pytest.mark.parametrize(
    "host", ["10.0.0.1", "8.8.8.8", "[2001:db8::1]", "localhost.example", "a.b."]
)
def test_another_machine_is_not_taken_for_this_one(host: str) -> None:
    assert not refusal_of(f"https://{host}/k", allow_http=False, allow_loopback=False)
