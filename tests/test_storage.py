"""One presigned PUT, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from doubles import Exchange, ManualClock, answer, body_length, raw_server, until

from nunu_async import PartUrl, StallError, StorageError, Timeouts, TransportError
from nunu_async.core.clock import Clock
from nunu_async.upload.plan import Part
from nunu_async.upload.source import Source
from nunu_async.upload.storage import Storage, refusal_of

MIB = 1024 * 1024
ETAG = {"ETag": '"0f343b0931126a20f133d67c2b018a3b"'}
AWKWARD = "/b/a%2Fb/%7Ename%20%281%29+x?X-Amz-Credential=AK%2Feu%2Fs3&sig=a%2Bb%3D&z=%e2%82%ac"


@asynccontextmanager
async def storage_for(clock: Clock, **limits: float) -> AsyncIterator[Storage]:
    storage = Storage(
        clock=clock,
        timeouts=Timeouts(**limits),
        concurrency=4,
        user_agent="test",
        allow_http=False,
        allow_loopback=True,
    )
    try:
        yield storage
    finally:
        await storage.close()


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
        etag = await storage.put(at(server.url + "/k"), part, source, counts.append)
    assert etag == "0f343b0931126a20f133d67c2b018a3b"
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


async def test_a_netrc_entry_for_the_storage_is_ignored(
    clock: ManualClock, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("NETRC", str(netrc))
    async with raw_server(take_all) as server, storage_for(clock) as storage:
        await storage.put(at(server.url + "/k"), Part(1, 0, 10), source, ignore)
    assert b"authorization" not in server.heads[0].lower()


async def test_a_dropped_put_is_one_request(clock: ManualClock, source: Source) -> None:
    """aiohttp would send a PUT again by itself; that attempt would be nobody's."""

    async def drop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        await reader.readexactly(body_length(head))
        writer.transport.abort()

    async with raw_server(drop) as server, storage_for(clock) as storage:
        with pytest.raises(TransportError):
            await storage.put(at(server.url + "/k"), Part(1, 0, 10), source, ignore)
    assert len(server.heads) == 1


async def test_an_early_success_is_not_believed(clock: ManualClock, source: Source) -> None:
    async def early(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        await reader.readexactly(1000)
        writer.write(answer(headers=ETAG))
        await reader.read()

    async with raw_server(early) as server, storage_for(clock) as storage:
        with pytest.raises(StorageError, match="before all of it was sent"):
            await storage.put(at(server.url + "/k"), Part(1, 0, 8 * MIB), source, ignore)


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
        assert await storage.put(at(server.url + "/k"), Part(1, 0, 10), source, ignore) == etag


@pytest.mark.parametrize("headers", [{}, {"ETag": ""}, {"ETag": '""'}, {"ETag": "a", "etag": "b"}])
async def test_without_one_etag_a_part_is_not_accepted(
    clock: ManualClock, source: Source, headers: dict[str, str]
) -> None:
    async with raw_server(taking(answer(headers=headers))) as server, storage_for(clock) as storage:
        with pytest.raises(StorageError, match="ETag"):
            await storage.put(at(server.url + "/k"), Part(1, 0, 10), source, ignore)


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
async def test_what_the_storage_says_is_told(
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
        with pytest.raises(TransportError, match="longer than"):
            await storage.put(at(server.url + "/k"), Part(1, 0, 10), source, ignore)


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
        clock.advance(15)
        with pytest.raises(StallError, match="no byte left for 60 seconds"):
            await put
        assert clock.waiting == 0


async def test_a_slow_peer_that_keeps_reading_is_left_alone(
    clock: ManualClock, source: Source
) -> None:
    """Any time may pass, as long as bytes leave between two looks."""
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
async def test_an_address_no_server_should_give_is_refused_and_not_shown(
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
    ("url", "allow_http", "allow_loopback"),
    [
        ("https://abc.r2.cloudflarestorage.com/k?X-Amz-Signature=1", False, False),
        ("http://127.0.0.1:9000/k", False, True),
        ("http://localhost:9000/k", False, True),
        ("http://[::1]:9000/k", False, True),
        ("http://store.internal/k", True, False),
    ],
)
def test_an_address_that_is_meant_is_accepted(
    url: str, allow_http: bool, allow_loopback: bool
) -> None:
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
    """Whether the sender has been stuck at the same count for 30 looks."""
    last, looks = _seen.get(id(counts), (-1, 0))
    now = counts[-1] if counts else -1
    looks = looks + 1 if now == last and now > 0 else 0
    _seen[id(counts)] = (now, looks)
    return looks > 30
