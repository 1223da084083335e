"""The HTTP server of one origin: journals requests, applies faults and sends responses."""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Protocol

import attrs
from aiohttp import web

from nunu_async.sandbox.faults import Fault, Faults
from nunu_async.sandbox.http import Call, HttpError, usual_error
from nunu_async.sandbox.journal import Journal, Origin, Seen

Sleep = Callable[[float], Awaitable[object]]

_READ = 1024 * 1024
# Seconds for which the rest of a body is drained after an early response. Closing at once would
# reset the connection, and the client could lose the response.
_LINGER = 1.0
_DRAIN_LIMIT = 64 * 1024  # largest Content-Length of an unread body that keeps the connection open
_SHUTDOWN = 0.05
_BACKLOG = 128
_MAX_LINE = 16 * 1024  # 255 characters of 4 bytes, escaped twice, are 5 KiB
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER with 0 seconds: close sends RST


class PeerGoneError(Exception):
    """The peer closed the connection in the middle of its request."""


@attrs.define(eq=False)
class Incoming:
    """A request; body bytes are counted in the journal as they are read."""

    request: web.BaseRequest
    call: Call
    seen: Seen
    corrupt: bool = False
    """If true, flip the lowest bit of the first body byte."""

    async def block(self, size: int = _READ) -> bytes:
        """Read exactly `size` bytes, or fewer at the end of the body. Raises: PeerGoneError."""
        chunks: list[bytes] = []
        while size and (chunk := await self._read(size)):
            chunks.append(chunk)
            size -= len(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def skip(self, size: int) -> None:
        """Read and discard up to `size` bytes. Raises: PeerGoneError."""
        while size and (chunk := await self._read(min(size, _READ))):
            size -= len(chunk)

    async def _read(self, size: int) -> bytes:
        # The stream raises a bare RuntimeError if the connection was lost before the handler began.
        if self.request.transport is None:
            raise PeerGoneError
        try:
            chunk = await self.request.content.read(size)
        except (OSError, web.RequestPayloadError) as exc:
            raise PeerGoneError from exc
        if chunk and self.corrupt and not self.seen.received:
            chunk = bytes([chunk[0] ^ 1]) + chunk[1:]
        self.seen.received += len(chunk)
        return chunk


class Handler(Protocol):
    """Handles the requests of one origin."""

    name: Origin

    def identify(self, method: str, target: str) -> Call:
        """Identify the operation of a request; never raises."""
        ...

    async def serve(self, incoming: Incoming) -> web.Response:
        """Run the operation and build its response. Raises: HttpError, PeerGoneError."""
        ...

    def error_response(self, error: HttpError) -> web.Response:
        """Build the response for an error."""
        ...


class Listener:
    """Serves one origin on its own port."""

    def __init__(self, handler: Handler, *, journal: Journal, faults: Faults, sleep: Sleep) -> None:
        self._handler = handler
        self._journal = journal
        self._faults = faults
        self._sleep = sleep
        self._tasks: set[asyncio.Task[object]] = set()
        self._connections: set[asyncio.Task[None]] = set()
        self._is_closing = False
        self._server = web.Server(
            self._handle,
            access_log=None,
            lingering_time=_LINGER,
            read_bufsize=_READ,
            max_line_size=_MAX_LINE,
            auto_decompress=False,
        )
        self._listening: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen and return the port. Raises: OSError if the port is in use; nothing stays open."""
        loop = asyncio.get_running_loop()
        self._listening = await loop.create_server(self._server, host, port, backlog=_BACKLOG)
        bound_port: int = self._listening.sockets[0].getsockname()[1]
        return bound_port

    async def close(self) -> None:
        """Stop listening, cancel open requests and abort connections."""
        if self._listening is None:
            return
        self._is_closing = True
        self._listening.close()
        transports = [connection.transport for connection in self._server.connections]
        await _cancel_all(self._tasks)
        await asyncio.sleep(0)  # let requests that just arrived start and be rejected
        self._server.pre_shutdown()
        await self._server.shutdown(_SHUTDOWN)
        # If the peer closes while lingering, aiohttp drops the connection but leaks its task.
        await _cancel_all(self._connections)
        for transport in transports:
            # close() alone would wait for a peer that does not read.
            if isinstance(transport, asyncio.Transport):
                transport.abort()
        await asyncio.sleep(0)  # transports close their sockets in the next loop iteration

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if self._is_closing:
            return web.Response(status=503)
        if request.task not in self._connections:
            self._connections.add(request.task)
            request.task.add_done_callback(self._connections.discard)
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
        call = self._handler.identify(request.method, request.raw_path)
        seen = Seen(
            origin=self._handler.name,
            operation=call.operation,
            method=request.method,
            target=request.raw_path,
            headers=request.headers,
            part_number=call.part_number,
        )
        self._journal.arrive(seen, request.transport)
        try:
            response = await self._respond(Incoming(request, call, seen))
            return await self._send(request, seen, response)
        except PeerGoneError:
            return web.Response()  # never sent; raising would be logged as a server error
        finally:
            if task is not None:
                self._tasks.discard(task)
            if seen.outcome == "open":
                self._journal.settle(seen, "gone")

    async def _respond(self, incoming: Incoming) -> web.Response | None:
        plan = self._faults.plan(incoming.call.operation, incoming.call.part_number)
        if plan.latency:
            await self._sleep(plan.latency)
        fault = plan.fault
        if fault is None or fault.do == "corrupt":
            incoming.corrupt = fault is not None
            return await self._serve(incoming)
        if fault.effect:
            await self._serve(incoming)
        elif fault.after is not None:
            await incoming.skip(fault.after)
        if fault.do == "cut":
            self._journal.settle(incoming.seen, "cut")
            _reset(incoming.request)
            return None
        if fault.do == "stall":
            self._journal.settle(incoming.seen, "stalled")
            await asyncio.get_running_loop().create_future()  # until close() cancels this task
        return self._fault_response(fault)

    async def _serve(self, incoming: Incoming) -> web.Response:
        try:
            return await self._handler.serve(incoming)
        except HttpError as exc:
            return self._handler.error_response(exc)

    def _fault_response(self, fault: Fault) -> web.Response:
        status = fault.status or 500
        if fault.body is None:
            response = self._handler.error_response(usual_error(status))
        elif isinstance(fault.body, Mapping):
            response = web.json_response(dict(fault.body), status=status)
        elif isinstance(fault.body, str):
            response = web.Response(status=status, text=fault.body)
        else:
            response = web.Response(status=status, body=fault.body)
        response.headers.update(fault.headers)
        return response

    async def _send(
        self, request: web.BaseRequest, seen: Seen, response: web.Response | None
    ) -> web.StreamResponse:
        if response is None:
            return web.Response()
        if (
            not request.content.is_eof()
            and (request.content_length or _DRAIN_LIMIT + 1) > _DRAIN_LIMIT
        ):
            response.force_close()
        # Settle before sending, so that a client with the response finds it in the journal.
        self._journal.settle(seen, "answered", response.status)
        try:
            await response.prepare(request)
            await response.write_eof()
        except ConnectionError:
            self._journal.settle(seen, "gone")
        return response


async def _cancel_all(tasks: Iterable[asyncio.Task[Any]]) -> None:
    pending = list(tasks)
    for task in pending:
        task.cancel()
    if pending:
        await asyncio.wait(pending)


def _reset(request: web.BaseRequest) -> None:
    transport = request.transport
    if transport is None:
        return
    raw: socket.socket | None = transport.get_extra_info("socket")
    if raw is not None:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()
