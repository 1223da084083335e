"""Connections that are used again, and what may lie on them."""

from __future__ import annotations

import asyncio
import gc
import json
import select
import socket
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.client_proto import ResponseHandler
from doubles import ManualClock, answer, body_length, raw_server, storage_for, until
from scripted import KEY

from nunu_async import NunuClient, PartUrl
from nunu_async.core import connector
from nunu_async.core.connector import Connector
from nunu_async.core.wire import UnsolicitedData, translate
from nunu_async.errors import ConnectError
from nunu_async.upload.plan import Part
from nunu_async.upload.source import Source

# What a server may say to an idle connection.
UNASKED = {
    "an-answer": answer(body=json.dumps({"build_id": "a"}).encode()),
    "half-a-head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "half-a-body": answer(body=b'{"build_id": "a"}')[:-4],
    "time-is-over": answer(408, b"", {"Connection": "close"}),
    "an-empty-line": b"\r\n",
    "no-http": b"\x00\xff",
    "its-end": None,
}
# What aiohttp's parser has swallowed by itself when the connection is taken: it is lost, and no
# answer any more.
SWALLOWED = {"half-a-head", "an-empty-line"}
# Turns of the loop after which the next request begins: at once, when the bytes are still in the
# kernel, and when aiohttp has taken them.
TURNS = [0, 1, 2, 5]


async def test_connections_are_kept_alive_while_nothing_is_said(clock: ManualClock) -> None:
    """To the API and to storage: a NAT forgets a connection that was silent for four minutes."""
    seen: list[socket.socket] = []

    class Watched(Connector):
        async def connect(self, *arguments: Any, **named: Any) -> Any:
            connection = await super().connect(*arguments, **named)
            assert connection.transport is not None
            seen.append(connection.transport.get_extra_info("socket"))
            for name, seconds in (("TCP_KEEPIDLE", 45), ("TCP_KEEPINTVL", 15)):
                if hasattr(socket, name):
                    option = getattr(socket, name)
                    assert seen[-1].getsockopt(socket.IPPROTO_TCP, option) == seconds
            assert seen[-1].getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            return connection

    async with (
        raw_server(Talkative()) as server,
        Watched(4, None) as pool,
        aiohttp.ClientSession(connector=pool, connector_owner=False) as http,
        http.get(server.url) as response,
    ):
        await response.read()
    assert len(seen) == 1


class Talkative:
    """Answers each request by the last word of its path, and says more when asked to."""

    def __init__(self) -> None:
        self.writers: list[asyncio.StreamWriter] = []

    async def __call__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        await reader.readexactly(body_length(head))
        if writer not in self.writers:
            self.writers.append(writer)
        name = head.split(b" ")[1].rpartition(b"/")[2].decode()
        body = json.dumps({"build_id": name}).encode()
        writer.write(answer(body=body, headers={"ETag": f'"{name}"'}))

    async def say(self, words: bytes | None, turns: int) -> None:
        """Say it on the first connection, and let the loop turn."""
        if words is None:
            self.writers[0].close()
            await self.writers[0].wait_closed()
        else:
            self.writers[0].write(words)
        for _ in range(turns):
            await asyncio.sleep(0)


@pytest.mark.parametrize("turns", TURNS)
@pytest.mark.parametrize("what", UNASKED)
async def test_unsolicited_data_is_no_answer_to_the_next_request(
    clock: ManualClock, what: str, turns: int
) -> None:
    talk = Talkative()
    async with (
        raw_server(talk) as server,
        NunuClient(KEY, base_url=server.url, clock=clock) as nunu,
    ):
        assert (await nunu.builds.get("a")).build_id == "a"
        await talk.say(UNASKED[what], turns)
        assert (await nunu.builds.get("b")).build_id == "b"
        assert [head.split(b" ")[1] for head in server.heads] == [
            b"/api/v1/builds/a",
            b"/api/v1/builds/b",
        ]
        assert server.connections == 2 or what in SWALLOWED
        assert (await nunu.builds.get("c")).build_id == "c"
        assert server.connections <= 2  # the new one is as good as any
    assert clock.sleeps == []  # and nothing was a failure


@pytest.mark.parametrize("turns", TURNS)
@pytest.mark.parametrize("what", UNASKED)
async def test_unsolicited_data_is_no_answer_over_tls_either(
    clock: ManualClock,
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
    what: str,
    turns: int,
) -> None:
    talk = Talkative()
    async with raw_server(talk, tls=server_tls) as server:
        url = f"https://127.0.0.1:{server.port}"
        async with NunuClient(KEY, base_url=url, clock=clock, ssl_context=client_tls) as nunu:
            assert (await nunu.builds.get("a")).build_id == "a"
            await talk.say(UNASKED[what], turns)
            assert (await nunu.builds.get("b")).build_id == "b"
            assert len(server.heads) == 2
            assert server.connections == 2 or what in SWALLOWED
            assert (await nunu.builds.get("c")).build_id == "c"
            assert server.connections <= 2  # tickets are no reason to have another one
    assert clock.sleeps == []


@pytest.mark.parametrize("turns", TURNS)
async def test_no_part_takes_the_etag_of_another(
    clock: ManualClock, make_file: Callable[..., Path], turns: int
) -> None:
    talk = Talkative()
    with ThreadPoolExecutor(1) as executor:
        async with (
            await Source.open(make_file(20), executor) as source,
            raw_server(talk) as server,
            storage_for(clock) as storage,
        ):
            for number, name in enumerate(("a", "b"), 1):
                address = PartUrl(part_number=number, url=f"{server.url}/{name}")
                part = Part(number, 10 * (number - 1), 10)
                assert (await storage.put(address, part, source, lambda _: None)).etag == name
                if number == 1:
                    await talk.say(answer(headers={"ETag": '"a"'}), turns)
            assert len(server.heads) == 2


class Late(Connector):
    """Gives a new connection when aiohttp has taken what is on it."""

    async def _create_connection(self, *args: object) -> ResponseHandler:
        protocol = await super()._create_connection(*args)  # type: ignore[arg-type]
        await until(lambda: protocol.should_close)
        return protocol


class Later(Connector):
    """Gives one when the kernel has something, that has not been seen elsewhere yet."""

    said = threading.Event()

    async def _create_connection(self, *args: object) -> ResponseHandler:
        protocol = await super()._create_connection(*args)  # type: ignore[arg-type]
        assert protocol.transport is not None
        sock = protocol.transport.get_extra_info("socket")
        # Either blocks the loop: the server has a thread. On Windows' own loop a read is under way,
        # which takes the bytes before `select` sees them.
        assert self.said.wait(10)
        if type(asyncio.get_running_loop()).__name__ != "ProactorEventLoop":
            # Not for long: uvloop may have read it by now, and the server waits for an end.
            select.select([sock.fileno()], [], [], 1)
        return protocol


@pytest.mark.parametrize("kind", [Late, Later])
async def test_a_new_connection_on_which_the_server_spoke_first_is_not_used(
    kind: type[Connector],
) -> None:
    heads: list[bytes] = []
    Later.said.clear()

    def speak(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(10)
            connection.sendall(answer(body=b'{"build_id": "a"}'))
            Later.said.set()
            with suppress(ConnectionResetError):
                heads.append(connection.recv(1000))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        serving = asyncio.ensure_future(asyncio.to_thread(speak, listener))
        async with aiohttp.ClientSession(connector=kind(4, None)) as session:
            with pytest.raises(UnsolicitedData) as caught:
                await session.get(f"http://127.0.0.1:{listener.getsockname()[1]}/")
        await serving
    assert heads in ([], [b""])
    error = translate(caught.value, "GET", "/")
    assert isinstance(error, ConnectError)
    assert not error.sent
    assert "spoke before it was asked" in str(error)


async def test_a_cancelled_look_lets_go_of_the_connection(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a loop that reads ahead the look takes turns, in which a call can be cancelled."""
    monkeypatch.setattr(connector, "_reads_ahead", lambda _: True)
    async with (
        raw_server(Talkative()) as server,
        aiohttp.ClientSession(connector=Connector(1, None)) as session,
    ):
        for turns in range(60):
            call = asyncio.ensure_future(session.get(f"{server.url}/a"))
            for _ in range(turns):
                await asyncio.sleep(0)
            call.cancel()
            with suppress(asyncio.CancelledError):
                (await call).close()
            # The pool has one place, so a connection that is kept would hold up the next call.
            async with asyncio.timeout(10), session.get(f"{server.url}/b") as response:
                assert (await response.json(content_type=None))["build_id"] == "b"
            gc.collect()  # which warns of what was dropped unclosed
