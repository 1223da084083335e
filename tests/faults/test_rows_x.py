"""Rows X that are no answers of the fault server: endless ones, and copies of a client."""

from __future__ import annotations

import asyncio
import copy
import pickle
import tracemalloc
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from disclosed import disclosed
from doubles import ManualClock, body_length, raw_server, until
from fault_server import KEY, FaultServer

from nunu_async import (
    MultipartTicket,
    NunuClient,
    NunuError,
    PartUrl,
    RetryPolicy,
    SinglePartTicket,
    StallError,
    TransportError,
)
from nunu_async.config import Config

MIB = 1024 * 1024
BLOCK = 64 * 1024
ONCE = RetryPolicy(attempts=1)


class Endless:
    """Sends `begin`, then `more` for ever, or until the client has gone."""

    def __init__(self, begin: bytes, more: bytes) -> None:
        self.begin = begin
        self.more = more
        self.sent = 0
        self.ended = asyncio.Event()

    async def exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        await reader.readexactly(body_length(head))
        try:
            writer.write(self.begin)
            while self.sent < 256 * MIB:
                writer.write(self.more)
                await writer.drain()
                self.sent += len(self.more)
                await asyncio.sleep(0)
        finally:
            self.ended.set()


OK = b"HTTP/1.1 200 OK\r\n"
STREAMS: dict[str, tuple[bytes, bytes]] = {
    "body": (OK + b"Connection: close\r\n\r\n", BLOCK * b" "),
    "body-with-a-length": (OK + b"Content-Length: 99999999999999\r\n\r\n", BLOCK * b" "),
    "chunks": (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + BLOCK * b" " + b"\r\n"),
    "chunk-of-no-end": (OK + b"Transfer-Encoding: chunked\r\n\r\nfffffffffff\r\n", BLOCK * b" "),
    "status-line": (b"HTTP/1.1 200 ", BLOCK * b"x"),
    "header-line": (OK + b"X: ", BLOCK * b"x"),
    "header-name": (OK, BLOCK * b"x"),
    "headers": (OK, 5000 * b"X-Header: x\r\n"),
    "no-http": (b"", BLOCK * b"\0"),
}


@pytest.mark.parametrize("kind", STREAMS)
async def test_x2_an_answer_without_an_end_is_cut(clock: ManualClock, kind: str) -> None:
    """In memory and in bytes; the connection is closed, and nothing of it is left."""
    server = Endless(*STREAMS[kind])
    async with (
        raw_server(server.exchange) as raw,
        NunuClient(KEY, base_url=raw.url, clock=clock, retry=ONCE) as nunu,
    ):
        tracemalloc.start()
        try:
            with pytest.raises(TransportError) as caught:
                await nunu.builds.get("b")
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        await until(server.ended.is_set)
        assert len(raw.heads) == 1
    assert server.sent < 48 * MIB
    assert most < 48 * MIB, f"{most:,} bytes"
    assert KEY not in disclosed(caught.value)


CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
FLOODS = {
    "100": (b"", 100 * b"HTTP/1.1 100 Continue\r\n\r\n"),
    "102": (b"", 100 * b"HTTP/1.1 102 Processing\r\n\r\n"),
    "103": (b"", 100 * b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"),
    "chunk-size": (CHUNKED, BLOCK * b"0"),
    "chunk-extension": (CHUNKED + b"1;", BLOCK * b"x"),
}


@pytest.mark.parametrize("kind", FLOODS)
async def test_x2_a_flood_that_is_thrown_away_ends_with_the_attempt(
    clock: ManualClock, kind: str
) -> None:
    """None of it is an answer, nor kept: it takes no memory, and only time ends it."""
    server = Endless(*FLOODS[kind])
    async with (
        raw_server(server.exchange) as raw,
        NunuClient(KEY, base_url=raw.url, clock=clock, retry=ONCE) as nunu,
    ):
        call = asyncio.ensure_future(nunu.builds.get("b"))
        await until(lambda: server.sent > MIB // 4 or call.done())
        clock.advance(61)
        with pytest.raises(TransportError):
            await call
        await until(server.ended.is_set)


@pytest.mark.parametrize(
    "headers",
    [
        b"X: " + 100_000 * b"x" + b"\r\n",
        100_000 * b"X" + b": x\r\n",
        40_000 * b"X-Header: x\r\n",
        b"".join(b"X-%d: x\r\n" % number for number in range(40_000)),
        b"ETag: " + 100_000 * b"e" + b"\r\n",
    ],
    ids=["value", "name", "same", "different", "etag"],
)
async def test_x2_more_headers_than_anyone_needs_are_no_answer(
    clock: ManualClock, headers: bytes
) -> None:
    async def exchange(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        writer.write(OK + headers + b"Content-Length: 2\r\n\r\n{}")
        await writer.drain()

    async with (
        raw_server(exchange) as raw,
        NunuClient(KEY, base_url=raw.url, clock=clock, retry=ONCE) as nunu,
    ):
        with pytest.raises(TransportError):
            await nunu.builds.get("b")


async def test_x2_headers_that_drip_end_with_the_attempt(clock: ManualClock) -> None:
    dripped = 0

    async def exchange(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        nonlocal dripped
        writer.write(OK)
        while not writer.is_closing():
            writer.write(b"X: y\r\n")
            await writer.drain()
            dripped += 1
            clock.advance(1)
            await asyncio.sleep(0.001)

    async with (
        raw_server(exchange) as raw,
        NunuClient(KEY, base_url=raw.url, clock=clock, retry=ONCE) as nunu,
    ):
        with pytest.raises(StallError):
            await nunu.builds.get("b")
    assert 55 <= dripped <= 65


async def test_x2_storage_that_answers_for_ever_gets_64_kib(
    clock: ManualClock, make_file: Callable[..., Any]
) -> None:
    """To a part that it took, and that stays taken."""
    async with FaultServer(clock) as api:
        endless = Endless(OK + b'ETag: "e"\r\nConnection: close\r\n\r\n', BLOCK * b" ")
        async with raw_server(endless.exchange) as storage:
            api.ports["storage"] = storage.port
            async with NunuClient(KEY, base_url=api.url("api"), clock=clock) as nunu:
                with pytest.raises(NunuError, match="InvalidPart"):  # the API knows of no part
                    await nunu.upload_build(
                        make_file(1000), name="n", platform="linux", multipart=True
                    )
            await until(endless.ended.is_set)
            assert len(storage.heads) == 1
        assert endless.sent < 16 * MIB
        assert api.count("complete_upload") == 1


COPIES: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": pickle.dumps,
    "asdict": attrs.asdict,
    "vars": vars,
    "dict": lambda thing: dict(vars(thing)),
    "repr": repr,
    "str": str,
    "format": "{}".format,
}


@pytest.mark.parametrize("way", COPIES)
async def test_x12_no_copy_of_a_client_shows_its_key(
    clock: ManualClock, server: FaultServer, way: str
) -> None:
    """Most copies cannot be made, and say so without the key; the others do not show it."""
    async with NunuClient(KEY, base_url=server.url("api"), clock=clock) as nunu:
        await nunu.runs.list_page()
        try:
            made = COPIES[way](nunu)
        except (TypeError, ValueError, AttributeError) as error:
            text = shown_foreign(error)
            assert way not in {"copy", "deepcopy", "pickle"} or "make another one" in text
        else:
            assert not isinstance(made, NunuClient)
            text = f"{made!r}"
        assert KEY not in text
        assert KEY not in f"{nunu._session!r} {vars(nunu._session)!r} {vars(nunu._storage)!r}"


def shown_foreign(error: BaseException) -> str:
    return f"{error!r} {error} {error.args!r}"


@pytest.fixture
async def server(clock: ManualClock) -> Any:
    async with FaultServer(clock) as listening:
        yield listening


@pytest.mark.parametrize("way", ["copy", "deepcopy", "pickle", "asdict", "repr", "str", "format"])
def test_x12_no_copy_of_the_settings_shows_the_key(way: str) -> None:
    made = COPIES[way](Config.load({}, api_key=KEY))
    assert KEY not in repr(made)
    assert KEY.encode() not in (made if isinstance(made, bytes) else repr(made).encode())
    assert KEY not in repr(pickle.loads(pickle.dumps(Config.load({}, api_key=KEY))))  # noqa: S301


@pytest.mark.parametrize(
    "thing",
    [
        MultipartTicket(
            build_id="b", object_key="k", total_parts=1, part_size=1, upload_id="MARKED"
        ),
        SinglePartTicket(build_id="b", object_key="k", upload_url="https://x.test/?MARKED"),
        PartUrl(part_number=1, url="https://x.test/?MARKED"),
    ],
)
def test_x12_what_is_as_good_as_a_key_is_in_no_repr(thing: Any) -> None:
    for made in (thing, copy.copy(thing), copy.deepcopy(thing)):
        assert "MARKED" not in f"{made!r} {made} {[made]}"
