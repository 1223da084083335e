"""Over TLS, as in production: transports that buffer and pause differently."""

from __future__ import annotations

import asyncio
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import cast

import pytest
from doubles import ManualClock, answer, body_length, raw_server, storage_for, until

from nunu_async import (
    CertificateError,
    NunuClient,
    PartUrl,
    StallError,
    StorageError,
    TransportError,
)
from nunu_async.core import wire
from nunu_async.upload.plan import Part
from nunu_async.upload.source import Source
from nunu_async.upload.storage import Storage

MIB = 1024 * 1024
ETAG = {"ETag": '"0f343b0931126a20f133d67c2b018a3b"'}


@pytest.fixture
async def source(make_file: Callable[..., Path]) -> AsyncIterator[Source]:
    with ThreadPoolExecutor(1) as executor:
        async with await Source.open(make_file(8 * MIB), executor) as opened:
            yield opened


@pytest.fixture
async def storage(clock: ManualClock, client_tls: ssl.SSLContext) -> AsyncIterator[Storage]:
    async with storage_for(clock, tls=client_tls) as opened:
        yield opened


def at(port: int) -> PartUrl:
    return PartUrl(part_number=1, url=f"https://127.0.0.1:{port}/k?sig=1")


async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
    await reader.readexactly(body_length(head))
    writer.write(answer(headers=ETAG))


@pytest.mark.parametrize("length", [1, 1000, 100_000, MIB, 8 * MIB])
async def test_parts_go_up_one_after_another_on_one_connection(
    server_tls: ssl.SSLContext, storage: Storage, source: Source, length: int
) -> None:
    """A good 200 is believed at once, whatever of the part is left in which buffer."""
    async with raw_server(take, tls=server_tls) as server:
        for _ in range(12):
            await storage.put(at(server.port), Part(1, 0, length), source, lambda _: None)
        assert server.connections == 1
        assert len(server.heads) == 12
        await storage.close()


async def test_parts_go_up_at_once(
    server_tls: ssl.SSLContext, storage: Storage, source: Source
) -> None:
    async with raw_server(take, tls=server_tls) as server:
        puts = [
            storage.put(at(server.port), Part(1, 0, MIB + n), source, lambda _: None)
            for n in range(24)
        ]
        etags = await asyncio.gather(*puts)
        assert len(etags) == len(server.heads) == 24
        assert server.connections <= 4
        await storage.close()


@pytest.mark.parametrize("reused", [False, True])
async def test_the_wait_for_an_answer_has_its_own_limit(
    server_tls: ssl.SSLContext,
    storage: Storage,
    source: Source,
    clock: ManualClock,
    reused: bool,
) -> None:
    """The part has left: 60 s without a byte is no stall, 120 s without an answer is one."""
    taken = asyncio.Event()

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        await reader.readexactly(body_length(head))
        if reused and not taken.is_set() and head.count(b"first"):
            writer.write(answer(headers=ETAG))
            return
        taken.set()
        await reader.read()

    async with raw_server(mute, tls=server_tls) as server:
        if reused:
            first = PartUrl(part_number=1, url=f"https://127.0.0.1:{server.port}/first")
            await storage.put(first, Part(1, 0, MIB), source, lambda _: None)
        put = asyncio.ensure_future(
            storage.put(at(server.port), Part(1, 0, MIB), source, lambda _: None)
        )
        await taken.wait()
        await asyncio.sleep(0.05)  # real time for the last TLS records; nothing waits for it
        for _ in range(6):
            clock.advance(15)
            await asyncio.sleep(0)
        assert not put.done()
        for _ in range(4):
            clock.advance(15)
            await asyncio.sleep(0)
        with pytest.raises(StallError, match="no answer for 120 seconds"):
            await put
        await storage.close()


async def test_an_early_success_is_not_believed(
    server_tls: ssl.SSLContext, storage: Storage, source: Source
) -> None:
    async def early(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        await reader.readexactly(1000)
        writer.write(answer(headers=ETAG))
        await reader.read()

    async with raw_server(early, tls=server_tls) as server:
        with pytest.raises(StorageError, match="before all of it was sent"):
            await storage.put(at(server.port), Part(1, 0, 8 * MIB), source, lambda _: None)
        await storage.close()


async def test_an_untrusted_certificate_is_refused_at_once(
    server_tls: ssl.SSLContext, clock: ManualClock
) -> None:
    async with raw_server(take, tls=server_tls) as server:
        url = f"https://127.0.0.1:{server.port}"
        async with NunuClient("nunu_some_key", base_url=url, clock=clock) as nunu:
            with pytest.raises(CertificateError):
                await nunu.builds.get("b")
        assert server.heads == []
    assert clock.sleeps == []


@pytest.mark.parametrize(
    "reply",
    [
        # A fatal alert: protocol_version. Servers of asyncio abort before they have sent theirs.
        b"\x15\x03\x03\x00\x02\x02\x46",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
    ],
    ids=["another version", "no TLS"],
)
async def test_a_peer_without_a_tls_that_both_take_is_not_asked_again(
    clock: ManualClock, reply: bytes
) -> None:
    """Each handshake would end in the same way."""
    connections = 0

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.read(1)
        writer.write(reply)
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        where = f"https://127.0.0.1:{port}"
        async with NunuClient("nunu_key_0001", base_url=where, clock=clock) as nunu:
            with pytest.raises(CertificateError, match="no TLS that both sides take"):
                await nunu.builds.get("b")
    assert connections == 1
    assert clock.sleeps == []


async def test_a_call_over_tls_works(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext, clock: ManualClock
) -> None:
    async def tell(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        writer.write(answer(body=b'{"build_id": "b"}'))

    async with raw_server(tell, tls=server_tls) as server:
        url = f"https://127.0.0.1:{server.port}"
        async with NunuClient(
            "nunu_some_key", base_url=url, clock=clock, ssl_context=client_tls
        ) as nunu:
            assert (await nunu.builds.get("b")).build_id == "b"
        await until(lambda: server.connections == 1)


@pytest.mark.parametrize("count", [1, 100_000, 3 * MIB])
async def test_a_refusal_amid_a_part_is_read_before_the_connection_ends(
    server_tls: ssl.SSLContext, storage: Storage, source: Source, count: int
) -> None:
    """A transport that its peer has closed in good order answers no questions any more."""

    async def refuse(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        await reader.readexactly(count)
        writer.write(
            b"HTTP/1.1 503 Busy\r\nConnection: close\r\n\r\n<Error><Code>SlowDown</Code></Error>"
        )
        await writer.drain()
        writer.close()

    async with raw_server(refuse, tls=server_tls) as server:
        with pytest.raises(StorageError, match="SlowDown") as caught:
            await storage.put(at(server.port), Part(1, 0, 8 * MIB), source, lambda _: None)
        assert caught.value.status == 503
        await storage.close()


async def test_an_answer_that_is_no_http_ends_the_connection_at_once(
    server_tls: ssl.SSLContext, storage: Storage, source: Source
) -> None:
    """aiohttp closes such a connection twice; asyncio flushes it then for half a minute."""
    given_up = asyncio.Event()
    ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def babble(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        await reader.readexactly(1000)
        transport = cast("asyncio.Transport", writer.transport)
        transport.pause_reading()
        for _ in range(200):  # until the client cannot send any more
            await asyncio.sleep(0)
        writer.write(b"HTTP/1.1 nonsense\r\n\r\n")
        await given_up.wait()
        transport.resume_reading()
        came = 1000
        try:
            while block := await reader.read(MIB):
                came += len(block)
            ended.set_result(came)
        except ConnectionError as error:
            ended.set_exception(error)

    async with raw_server(babble, tls=server_tls) as server:
        with pytest.raises(TransportError, match="does not begin with a status line"):
            await storage.put(at(server.port), Part(1, 0, 8 * MIB), source, lambda _: None)
        given_up.set()
        if sys.platform == "win32":  # whose own loop shuts a socket down before it closes it
            with suppress(ConnectionResetError):
                assert await ended < 8 * MIB
        else:
            with pytest.raises(ConnectionResetError):
                await ended
        await storage.close()


async def closed(transport: asyncio.Transport) -> None:
    transport.close()


async def closed_twice(transport: asyncio.Transport) -> None:
    transport.close()
    transport.close()


async def aborted(transport: asyncio.Transport) -> None:
    transport.abort()


async def gone(transport: asyncio.Transport) -> None:
    transport.abort()
    await wire.yield_to_loop()
    transport.close()


async def untouched(transport: asyncio.Transport) -> None:
    pass


@pytest.mark.parametrize("over_tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("end", [untouched, closed, closed_twice, aborted, gone])
async def test_a_transport_can_be_asked_and_reset_in_any_state(
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
    end: Callable[[asyncio.Transport], Awaitable[None]],
    *,
    over_tls: bool,
) -> None:
    lost = asyncio.Event()

    class Loses(asyncio.Protocol):
        def connection_lost(self, _: Exception | None) -> None:
            lost.set()

    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    async with raw_server(never, tls=server_tls if over_tls else None) as server:
        transport, _ = await asyncio.get_running_loop().create_connection(
            Loses, "127.0.0.1", server.port, ssl=client_tls if over_tls else None
        )
        sock = wire.socket_of(transport)
        # More than two kernels hold.
        transport.write(b"PUT / HTTP/1.1\r\n\r\n" + bytes(16 * MIB))
        await end(transport)
        for _ in range(2):
            assert wire.is_tls(transport) is over_tls
            assert wire.buffered(transport) >= 0
            wire.socket_of(transport)
            wire.limit_buffer(transport, 0)
            wire.limit_buffer(transport)
            wire.reset(transport, sock)
            await wire.yield_to_loop()
        await asyncio.wait_for(lost.wait(), 20)
