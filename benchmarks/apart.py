"""Servers in processes of their own, so that a client's process is measured alone.

The sandbox is one. The other is bare: it writes answers that are ready, when they are due, and
does next to nothing besides.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from multiprocessing.connection import Connection
from typing import Protocol

import attrs

from nunu_async.sandbox import Fault, Sandbox

SPAWN = multiprocessing.get_context("spawn")


@attrs.frozen(kw_only=True)
class Counts:
    """What a server was asked.

    Attributes:
        requests: how many of each operation.
        connections: how many TCP connections were opened, to the API and to storage.
        peaks: how many requests were open at once, on the API and on storage.
        objects: the SHA-256 of each build that is complete.
    """

    requests: Counter[str]
    connections: tuple[int, int] = (0, 0)
    peaks: tuple[int, int] = (0, 0)
    objects: dict[str, str] = attrs.field(factory=dict)


class Bare(Protocol):
    """What a bare server answers; made and asked in its process."""

    def start(self, url: str) -> None:
        """Learn where it is, with no slash at the end; before the first request."""

    def answer(self, method: str, target: str, body: bytes) -> tuple[float, bytes]:
        """Return after how many seconds since the request's first byte to answer, and what."""

    def counts(self) -> Counts:
        """Return what it was asked until now."""


@attrs.frozen
class Server:
    """A server, as its owner sees it."""

    url: str
    key: str
    _pipe: Connection

    def counts(self) -> Counts:
        """Return what it has counted since it was started."""
        self._pipe.send(None)
        if not self._pipe.poll(60):
            raise SystemExit("the server does not answer any more")
        counts = self._pipe.recv()
        assert isinstance(counts, Counts)
        return counts


@contextlib.contextmanager
def sandbox_apart(*faults: Fault) -> Iterator[Server]:
    """Run a sandbox that keeps all bytes in memory."""
    with _apart(_be_sandbox, faults) as server:
        yield server


@contextlib.contextmanager
def bare_apart(bare: Bare) -> Iterator[Server]:
    """Run a bare server; it is pickled on its way."""
    with _apart(_be_bare, bare) as server:
        yield server


_Work = Callable[..., Coroutine[object, object, None]]


@contextlib.contextmanager
def _apart(work: _Work, *args: object) -> Iterator[Server]:
    ours, its = SPAWN.Pipe()
    process = SPAWN.Process(target=_run, args=(work, its, *args), daemon=True)
    process.start()
    its.close()
    try:
        url, key = ours.recv()
        yield Server(url, key, ours)
    finally:
        ours.close()
        process.join(10)
        process.kill()
        process.join()


def _run(work: _Work, pipe: Connection, *args: object) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(work(pipe, *args))


async def _until_closed(pipe: Connection, counts: Callable[[], Counts]) -> None:
    loop = asyncio.get_running_loop()
    closed = loop.create_future()

    def asked() -> None:
        try:
            pipe.recv()
            pipe.send(counts())
        except (EOFError, OSError):
            loop.remove_reader(pipe.fileno())
            closed.set_result(None)

    loop.add_reader(pipe.fileno(), asked)
    await closed


async def _be_sandbox(pipe: Connection, faults: tuple[Fault, ...]) -> None:
    async with Sandbox(faults=faults) as box:
        pipe.send((box.base_url.removesuffix("/api/v1"), box.api_key))
        await _until_closed(pipe, lambda: _counts_of(box))


def _counts_of(box: Sandbox) -> Counts:
    journal = box.journal
    return Counts(
        requests=Counter(journal.operations()),
        connections=(journal.connections("api"), journal.connections("storage")),
        peaks=(journal.peak("api"), journal.peak("storage")),
        objects={
            build_id: box.object_sha256(build_id)
            for build_id, upload in box.uploads.items()
            if upload.is_stored
        },
    )


async def _be_bare(pipe: Connection, bare: Bare) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(bare, loop), "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    bare.start(url)
    pipe.send((url, "nunu_a_key_for_benchmarks_only"))
    await _until_closed(pipe, bare.counts)
    server.close()


class _Connection(asyncio.Protocol):
    """One connection to a bare server; bodies have a Content-Length, requests come singly."""

    def __init__(self, bare: Bare, loop: asyncio.AbstractEventLoop) -> None:
        self._bare = bare
        self._loop = loop
        self._held = b""
        self._began = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if not self._held:
            self._began = self._loop.time()
        self._held += data
        head, end, body = self._held.partition(b"\r\n\r\n")
        if not end:
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        length = 0
        for line in lines:
            name, _, value = line.partition(":")
            if name.lower() == "content-length":
                length = int(value)
        if len(body) < length:
            return
        self._held = b""
        method, target, _ = first.split(" ")
        delay, answer = self._bare.answer(method, target, body)
        if delay:
            self._loop.call_at(self._began + delay, self._transport.write, answer)
        else:
            self._transport.write(answer)


def answer(body: bytes, *headers: str) -> bytes:
    """Write an answer of status 200."""
    lines = ("HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *headers)
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
