"""A byte relay in front of the store.

It changes nothing, so signatures, early refusals and dropped connections reach either side as the
other one made them. It reads along and tells which request got which status.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from multidict import CIMultiDict

CHUNK = 1 << 18
LINGER_SECONDS = 2.0
"""How long a client may go on sending to a store that has answered and hung up."""


@dataclass
class Seen:
    """One request, at the API or at the store."""

    side: str
    method: str
    target: str
    headers: CIMultiDict[str]
    status: int | None = None
    part: int | None = None


class _Heads:
    """Cuts the heads of messages out of a byte stream, bodies skipped by Content-Length."""

    def __init__(self) -> None:
        self._skip = 0
        self._buffer = b""

    def feed(self, data: bytes) -> list[tuple[str, CIMultiDict[str]]]:
        heads = []
        while data:
            if self._skip:
                passed = min(self._skip, len(data))
                self._skip -= passed
                data = data[passed:]
                continue
            head, end, data = (self._buffer + data).partition(b"\r\n\r\n")
            if not end:
                self._buffer = head
                break
            self._buffer = b""
            first, *lines = head.decode("latin-1").split("\r\n")
            fields = (line.partition(":") for line in lines)
            headers = CIMultiDict((name.strip(), value.strip()) for name, _, value in fields)
            self._skip = int(headers.get("Content-Length", "0"))
            heads.append((first, headers))
        return heads


class Wiretap:
    """Listens on a port of its own and passes every byte on to ``port``."""

    def __init__(self, port: int, seen: Callable[[Seen], None]) -> None:
        self._target = port
        self._seen = seen
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._clients: set[asyncio.StreamWriter] = set()

    @property
    def port(self) -> int:
        """Where the relay listens."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, limit=CHUNK)

    async def close(self) -> None:
        """Stop listening and close every connection."""
        if self._server is None:
            return
        self._server.close()
        for writer in self._clients:
            writer.transport.abort()
        await asyncio.gather(*self._tasks)
        await self._server.wait_closed()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._relay(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients.add(writer)
        store_reader, store_writer = await asyncio.open_connection(
            "127.0.0.1", self._target, limit=CHUNK
        )
        unanswered: deque[Seen] = deque()
        upward = asyncio.create_task(self._pass_requests(reader, store_writer, unanswered))
        downward = asyncio.create_task(self._pass_responses(store_reader, writer, unanswered))
        try:
            await asyncio.wait({upward, downward}, return_when=asyncio.FIRST_COMPLETED)
            if downward.done() and not upward.done():
                # Hanging up on a client that still sends would take the answer from it again.
                await asyncio.wait({upward}, timeout=LINGER_SECONDS)
        finally:
            for task in (upward, downward):
                task.cancel()
            ends = await asyncio.gather(upward, downward, return_exceptions=True)
            for end in (store_writer, writer):
                end.transport.abort()
                with contextlib.suppress(OSError):
                    await end.wait_closed()
            self._clients.discard(writer)
        for failure in ends:
            if isinstance(failure, Exception):
                raise failure

    async def _pass_requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, unanswered: deque[Seen]
    ) -> None:
        heads = _Heads()
        hung_up = False
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                for first, headers in heads.feed(data):
                    method, target, _ = first.split(" ", 2)
                    request = Seen("storage", method, target, headers)
                    unanswered.append(request)
                    self._seen(request)
                if hung_up:
                    continue
                try:
                    writer.write(data)
                    await writer.drain()
                except OSError:
                    hung_up = True

    async def _pass_responses(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, unanswered: deque[Seen]
    ) -> None:
        heads = _Heads()
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                for first, _ in heads.feed(data):
                    status = int(first.split(" ", 2)[1])
                    if status >= 200:
                        unanswered.popleft().status = status
                writer.write(data)
                await writer.drain()
            writer.write_eof()
