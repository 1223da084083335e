"""An API, an object storage and a foreign host on raw sockets, which fail as scripted.

Bare asyncio streams: aiohttp's own test server hides what its client does to a socket. Storage
refuses what Cloudflare R2 refuses, judges URLs byte for byte and their age by the case's clock.
Everything that was seen is kept, in the order in which it happened.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
import math
import re
import socket
import ssl
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import parse_qsl, quote, unquote

import attrs
from disclosed import MARKED_KEY as KEY
from doubles import ManualClock, hang_up
from fault_steps import Step, refuse

Listening = Literal["api", "storage", "storage2", "foreign"]
LISTENERS: tuple[Listening, ...] = ("api", "storage", "storage2", "foreign")

MIB = 1024 * 1024
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_BLOCK = 64 * 1024
# What a signature covers, or an object store lets pass.
_ALLOWED = {
    "accept",
    "accept-encoding",
    "connection",
    "content-length",
    "content-type",
    "host",
    "user-agent",
}
_ROUTES = (
    ("POST", re.compile(r"/builds/upload"), "initiate_upload"),
    ("DELETE", re.compile(r"/builds/upload"), "cancel_upload"),
    ("GET", re.compile(r"/builds/upload/parts"), "get_upload_parts"),
    ("POST", re.compile(r"/builds/upload/complete"), "complete_upload"),
    ("GET", re.compile(r"/builds/(?P<build_id>[^/]+)"), "get_build"),
    ("GET", re.compile(r"/runs"), "list_runs"),
    ("POST", re.compile(r"/runs"), "start_run"),
    ("POST", re.compile(r"/runs/stop"), "stop_runs"),
    ("GET", re.compile(r"/runs/(?P<run_id>[^/]+)"), "get_run"),
    ("GET", re.compile(r"/jobs"), "list_jobs"),
    ("GET", re.compile(r"/jobs/(?P<job_id>[^/]+)"), "get_job"),
    ("GET", re.compile(r"/test-plan-executions"), "list_test_plan_executions"),
)
_SLOWER = "Reduce your concurrent request rate for the same object."
Moment = Literal["arrived", "read", "stuck", "answered"]

if sys.platform == "win32":
    import ctypes

    _ESTABLISHED = 5
    _ROW = struct.Struct("<5I")  # state, and address and port at either end
    _tables = ctypes.create_string_buffer(64 * 1024)

    def _is_established(sock: Any) -> bool:
        """Look a connection up in the system's table, since Windows has no TCP_INFO."""
        try:
            ends = sock.getsockname()[1], sock.getpeername()[1]
        except OSError:  # closed
            return False
        room = ctypes.c_ulong(len(_tables))
        failed = ctypes.windll.iphlpapi.GetTcpTable(_tables, ctypes.byref(room), 0)
        assert not failed, f"GetTcpTable: {failed}"
        (count,) = struct.unpack_from("<I", _tables)
        for number in range(count):
            state, _, here, _, there = _ROW.unpack_from(_tables, 4 + number * _ROW.size)
            if (socket.ntohs(here), socket.ntohs(there)) == ends:
                return bool(state == _ESTABLISHED)
        return False

else:
    _ESTABLISHED = 1

    def _is_established(sock: Any) -> bool:
        try:
            state = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
        except (OSError, AttributeError, ValueError):  # closed; or a system that does not tell
            return False
        return bool(state[0] == _ESTABLISHED)


@attrs.define(eq=False)
class Connection:
    """One accepted connection."""

    listener: Listening
    number: int
    sock: Any = attrs.field(repr=False)
    requests: int = 0
    is_open: bool = True
    gone_by_peer: bool = False
    """Whether the client has closed or reset it."""

    @property
    def is_alive(self) -> bool:
        """Whether the client could still send bytes on it, by the kernel's own word."""
        return self.is_open and _is_established(self.sock)


@attrs.define(eq=False)
class Seen:
    """One request; `arrived` and `ended` are moments of one count over all that happened."""

    number: int
    listener: Listening
    operation: str
    method: str
    target: str = attrs.field(repr=False)
    headers: list[tuple[str, str]] = attrs.field(repr=False)
    connection: Connection = attrs.field(repr=False)
    at: float
    """Seconds of the case's clock."""
    arrived: int
    in_flight: int
    """Requests under way at this listener at the arrival, this one included."""
    is_reused: bool = False
    """Whether the connection had carried another request before."""
    build_id: str | None = None
    part_number: int | None = None
    length: int = 0
    received: int = 0
    received_after_answer: int = 0
    body: bytes = attrs.field(default=b"", repr=False)
    digest: str | None = None
    """SHA-256 of the body of a PUT that was read whole."""
    status: int | None = None
    """None until answered, and for good where nothing readable was."""
    effect: bool = False
    ended: int | None = None
    alive_puts: tuple[int, ...] = ()
    """Of a DELETE: PUTs of its build whose connections the client had not cut by then."""

    def header(self, name: str) -> str | None:
        """Return a header's value."""
        return next((value for field, value in self.headers if field.lower() == name.lower()), None)

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(self.target.partition("?")[2]))


@attrs.define(eq=False)
class Build:
    """One build that was begun."""

    build_id: str
    upload_id: str | None
    object_key: str
    size: int
    part_size: int
    total_parts: int
    request: dict[str, Any]
    began: float
    written: float = -math.inf
    """When a part was last taken."""
    state: Literal["uploading", "completed", "cancelled", "expired"] = "uploading"
    parts: dict[int, bytes] = attrs.field(factory=dict, repr=False)
    etags: dict[int, str] = attrs.field(factory=dict)
    completions: int = 0
    """Completes that took effect."""
    completed_with: list[dict[str, Any]] = attrs.field(factory=list)
    """The parts that the last complete named."""

    def length_of(self, number: int) -> int:
        return min(self.part_size, self.size - (number - 1) * self.part_size)

    def content(self) -> bytes:
        return b"".join(self.parts[number] for number in sorted(self.parts))

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content()).hexdigest()


@attrs.define(eq=False)
class _Url:
    target: str
    build: Build
    part_number: int
    issued: float
    uses: int = 0


@attrs.frozen
class _Said:
    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


def etag_of(content: bytes) -> str:
    """Return the ETag that storage gives to a part."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


class FaultServer:
    """Use it with ``async with``.

    Args:
        steps: what happens to the first, second, ... request of an operation; ``put_part:2`` is
            for part 2 alone and goes before ``put_part``; ``*`` is for every request.
        part_size: of every part but the last.
        url_life: seconds for which a presigned URL is good.
        upload_life: seconds after which the server forgets an upload.
        receive_buffer: of the sockets; small ones make a peer that does not read felt at once.
        storage_of: which of the two storages a part's URL leads to.
        closed_until: listeners that refuse connections until so many pauses were made; None of
            them is ever made.
        most_puts: how many PUTs storage takes at once; others are asked to slow down.
        start_lag: how many listings of runs do not show a new run yet.
    """

    def __init__(
        self,
        clock: ManualClock,
        *,
        steps: Mapping[str, Sequence[Step]] | None = None,
        part_size: int = 64 * 1024,
        url_life: float = 3600.0,
        upload_life: float = 86_400.0,
        receive_buffer: int | None = None,
        tls: ssl.SSLContext | None = None,
        storage_tls: ssl.SSLContext | None = None,
        storage_of: Callable[[int], Listening] = lambda _: "storage",
        closed_until: Mapping[str, int | None] | None = None,
        most_puts: int | None = None,
        start_lag: int = 0,
        host: str = "127.0.0.1",
        names: Mapping[str, str] | None = None,
    ) -> None:
        self.clock = clock
        self.part_size = part_size
        self.requests: list[Seen] = []
        self.connections: list[Connection] = []
        self.builds: dict[str, Build] = {}
        self.runs: list[dict[str, Any]] = []
        self.ports: dict[str, int] = {}
        self.errors: list[BaseException] = []
        """What went wrong in this server itself; has to stay empty."""
        self.stuck = 0
        """Requests that wait for the clock, or for good."""
        self.moved = 0
        """Grows whenever anything happens."""
        self.on_moment: Callable[[Moment, Seen], None] | None = None
        self.secrets: list[str] = [KEY]
        self._steps = {name: list(queue) for name, queue in (steps or {}).items()}
        self._url_life = url_life
        self._upload_life = upload_life
        self._receive_buffer = receive_buffer
        self._tls = tls
        self._storage_tls = storage_tls or tls
        self._storage_of = storage_of
        self._closed_until = dict(closed_until or {})
        self._most_puts = most_puts
        self._start_lag = start_lag
        self._listings = 0
        self._host = host
        self._names = dict(names or {})
        self._urls: dict[str, _Url] = {}
        self._count = itertools.count(1)
        self._serials = itertools.count(1)
        self._flying: dict[str, int] = dict.fromkeys(LISTENERS, 0)
        self._servers: dict[str, asyncio.Server] = {}
        self._sockets: dict[str, socket.socket] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._released = asyncio.Event()

    # --- What tests ask

    @property
    def scheme(self) -> str:
        return "https" if self._tls else "http"

    def url(self, listener: str) -> str:
        """Return the origin of a listener, under the name that the case gives it."""
        host = self._names.get(listener, self._host)
        return f"{self.scheme}://{host}:{self.ports[listener]}"

    def of(self, operation: str, part_number: int | None = None) -> list[Seen]:
        """List the requests of an operation, of one part only if that is given."""
        return [
            seen
            for seen in self.requests
            if seen.operation == operation and part_number in (None, seen.part_number)
        ]

    def count(self, name: str) -> int:
        """Count the requests of an operation, of a part (``put_part:2``), or at a listener."""
        if name in LISTENERS:
            return sum(seen.listener == name for seen in self.requests)
        operation, _, part = name.partition(":")
        return len(self.of(operation, int(part) if part else None))

    def peak(self, listener: str) -> int:
        """Count the most requests that were under way at once."""
        return max((s.in_flight for s in self.requests if s.listener == listener), default=0)

    def connections_of(self, listener: str) -> int:
        return sum(one.listener == listener for one in self.connections)

    def owns(self, task: asyncio.Task[Any]) -> bool:
        """Tell whether a task is one of this server's."""
        return task in self._tasks or "FaultServer" in getattr(task.get_coro(), "__qualname__", "")

    def descriptors(self) -> set[int]:
        """Return those of accepted connections, which are this server's own."""
        return {one.sock.fileno() for one in self.connections}

    def is_busy(self, connection: Connection) -> bool:
        """Tell whether a request on a connection has not ended."""
        return any(s.connection is connection and s.ended is None for s in self.requests)

    @property
    def in_flight(self) -> int:
        return sum(self._flying.values())

    # --- Its life

    async def __aenter__(self) -> Self:
        for name in LISTENERS:
            family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
            sock = socket.socket(family)
            if self._receive_buffer:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
            sock.bind((self._host, 0))  # bound and not listening: connections are refused
            sock.setblocking(False)  # noqa: FBT003 - the standard library's signature
            self.ports[name] = sock.getsockname()[1]
            self._sockets[name] = sock
            if name not in self._closed_until:
                await self.listen(name)
        return self

    async def listen(self, name: str) -> None:
        """Take connections from now on."""
        if name in self._servers:
            return

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._serve(name, reader, writer)  # type: ignore[arg-type] - one of LISTENERS

        self._servers[name] = await asyncio.start_server(
            serve, sock=self._sockets[name], ssl=self._tls if name == "api" else self._storage_tls
        )

    async def opened(self, pauses: int) -> None:
        """Open the listeners that were to be closed for so many pauses."""
        for name, until in self._closed_until.items():
            if until is not None and pauses >= until:
                await self.listen(name)

    def release(self) -> None:
        """Let every request that is stuck go on reading, to the end of its connection."""
        self._released.set()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for server in self._servers.values():
            server.close()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for server in self._servers.values():
            await server.wait_closed()
        for sock in self._sockets.values():
            sock.close()

    # --- Connections and requests

    async def _serve(
        self, listener: Listening, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        sock = writer.get_extra_info("socket")
        connection = Connection(listener, len(self.connections) + 1, sock)
        self.connections.append(connection)
        self.moved += 1
        try:
            while await self._request(connection, reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            connection.gone_by_peer = True
        except asyncio.CancelledError:
            pass
        except Exception as error:  # noqa: BLE001 - kept for the test, which fails for it
            self.errors.append(error)
        finally:
            connection.is_open = False
            self.moved += 1
            await hang_up(writer)
            self._tasks.discard(task)

    async def _request(
        self, connection: Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        seen = self._arrive(connection, head)
        self._tell("arrived", seen)
        step = self._step(seen)
        self._flying[connection.listener] += 1
        try:
            return await self._exchange(seen, step, reader, writer)
        finally:
            self._flying[connection.listener] -= 1
            self.moved += 1
            if seen.ended is None:
                seen.ended = next(self._count)

    def _arrive(self, connection: Connection, head: bytes) -> Seen:
        line, *rest = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        method, target, _ = line.split(" ", 2)
        headers = [(name, value.strip()) for name, _, value in (one.partition(":") for one in rest)]
        connection.requests += 1
        self.moved += 1
        seen = Seen(
            number=len(self.requests) + 1,
            listener=connection.listener,
            operation="unknown",
            method=method,
            target=target,
            headers=headers,
            connection=connection,
            at=self.clock.now,
            arrived=next(self._count),
            in_flight=self._flying[connection.listener] + 1,
            is_reused=connection.requests > 1,
        )
        seen.length = int(seen.header("content-length") or 0)
        if connection.listener == "api":
            self._name_api(seen)
        elif connection.listener != "foreign" and method == "PUT":
            seen.operation = "put_part"
            url = self._urls.get(target)
            fields = seen.query
            seen.part_number = url.part_number if url else int(fields.get("partNumber", "1"))
            seen.build_id = url.build.build_id if url else None
        self.requests.append(seen)
        if seen.operation == "cancel_upload":
            seen.alive_puts = tuple(
                put.number
                for put in self.of("put_part")
                if put.build_id == seen.build_id and put.ended is None and put.connection.is_alive
            )
        return seen

    def _name_api(self, seen: Seen) -> None:
        path = unquote(seen.target.partition("?")[0]).removeprefix("/api/v1")
        path = re.sub(r"^/project/[^/]+", "", path)
        for method, pattern, operation in _ROUTES:
            if method == seen.method and (found := pattern.fullmatch(path)):
                seen.operation = operation
                seen.build_id = found.groupdict().get("build_id") or seen.query.get("build_id")
                return

    def _step(self, seen: Seen) -> Step:
        if (
            seen.operation == "put_part"
            and self._most_puts is not None
            and seen.in_flight > self._most_puts
        ):
            return refuse(429, "TooManyRequests", _SLOWER, headers={"Retry-After": "1"})
        names = [seen.operation, "*"]
        if seen.part_number is not None:
            names.insert(0, f"{seen.operation}:{seen.part_number}")
        for name in names:
            queue = self._steps.get(name)
            if not queue:
                continue
            step = queue[0]
            if step.times is not None:
                queue[0] = attrs.evolve(step, times=step.times - 1)
                if step.times <= 1:
                    queue.pop(0)
            return step
        return Step()

    def _tell(self, moment: Moment, seen: Seen) -> None:
        self.moved += 1
        if self.on_moment is not None:
            self.on_moment(moment, seen)

    async def _exchange(
        self, seen: Seen, step: Step, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        if seen.header("transfer-encoding") is not None:
            await self._say(seen, writer, _error(501, "NotImplemented", "no Transfer-Encoding"))
            return False
        body = await self._read(seen, step, reader)
        if step.delay:
            await self._until(self.clock.now + step.delay, seen, reader)
        said = None
        if step.effect and len(body) == seen.length:
            if step.corrupt and body:
                body = bytes([body[0] ^ 1]) + body[1:]
            said = self._act(seen, body)
            if step.edit is not None:
                edited = json.dumps(step.edit(json.loads(said.body))).encode()
                said = attrs.evolve(said, body=edited)
        return await self._do(seen, step, said, reader, writer)

    async def _do(  # noqa: C901, PLR0911 - a table
        self,
        seen: Seen,
        step: Step,
        said: _Said | None,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        match step.do:
            case "rst":
                _reset(writer)
                return False
            case "cut":
                writer.transport.abort()
                return False
            case "fin":
                await _close(writer)
                return False
            case "stop" | "hold":
                await self._stay(seen, reader, reads=step.do == "hold")
                return False
            case "raw":
                seen.ended = next(self._count)
                writer.write(step.raw)
                await writer.drain()
                await _close(writer)
                return False
        await self._say(seen, writer, self._spoilt(step, said, seen), step)
        if step.cut is not None or step.framing != "length":
            await _close(writer)
            return False
        match step.then:
            case "rst":
                _reset(writer)
                return False
            case "fin":
                await _close(writer)
                return False
            case "stay":
                await self._stay(seen, reader, reads=False)
                return False
            case "read":
                while seen.received < seen.length:
                    block = await reader.read(_BLOCK)
                    if not block:
                        seen.connection.gone_by_peer = True
                        return False
                    seen.received += len(block)
                    seen.received_after_answer += len(block)
                    self.moved += 1
        return True

    async def _read(self, seen: Seen, step: Step, reader: asyncio.StreamReader) -> bytes:
        whole = seen.length
        wanted = {"all": whole, "half": whole // 2, "last": max(whole - 1, 0)}
        left = min(wanted[step.at] if isinstance(step.at, str) else step.at, whole)
        blocks = []
        size, pause = step.drip or (_BLOCK, 0.0)
        while left:
            block = await reader.readexactly(min(left, size))
            blocks.append(block)
            left -= len(block)
            seen.received += len(block)
            self.moved += 1
            if pause:
                self.clock.advance(pause)
                await asyncio.sleep(0)
        body = b"".join(blocks)
        if len(body) == whole:
            if seen.listener == "api":
                seen.body = body
                if body and seen.build_id is None:
                    with contextlib.suppress(ValueError, AttributeError):
                        seen.build_id = json.loads(body).get("build_id")
            else:
                seen.digest = hashlib.sha256(body).hexdigest()
            self._tell("read", seen)
        return body

    async def _until(self, moment: float, seen: Seen, reader: asyncio.StreamReader) -> None:
        self.stuck += 1
        self._tell("stuck", seen)
        try:
            while self.clock.now < moment:
                if reader.at_eof() or reader.exception() or self._released.is_set():
                    raise ConnectionResetError
                await asyncio.sleep(0.001)
        finally:
            self.stuck -= 1

    async def _stay(self, seen: Seen, reader: asyncio.StreamReader, *, reads: bool) -> None:
        """Never answer; to the client's end of the connection, or until the case is over."""
        self.stuck += 1
        self._tell("stuck", seen)
        try:
            while not reads and not self._released.is_set() and seen.connection.is_alive:
                await asyncio.sleep(0.001)  # without reading, an end is not noticed
        finally:
            self.stuck -= 1
        self.stuck += reads
        try:
            while block := await reader.read(_BLOCK):
                seen.received += len(block)
            seen.connection.gone_by_peer = True
        finally:
            self.stuck -= reads

    async def _say(
        self, seen: Seen, writer: asyncio.StreamWriter, said: _Said, step: Step | None = None
    ) -> None:
        framing = step.framing if step else "length"
        cut = step.cut if step else None
        headers = {
            "length": [("Content-Length", str(len(said.body)))],
            "close": [("Connection", "close")],
            "chunked": [("Transfer-Encoding", "chunked")],
        }[framing]
        lines = [f"{name}: {value}" for name, value in (*headers, *said.headers)]
        head = "\r\n".join([f"HTTP/1.1 {said.status} Whatever", *lines]) + "\r\n\r\n"
        body = said.body if cut is None else said.body[:cut]
        if framing == "chunked":
            body = b"%x\r\n" % len(said.body) + body
        seen.status = said.status
        seen.ended = next(self._count)
        self._tell("answered", seen)
        writer.write(head.encode("latin-1") + body)
        await writer.drain()

    def _spoilt(self, step: Step, said: _Said | None, seen: Seen) -> _Said:
        """Return the answer as the step changes it."""
        said = said or _Said(200, b"{}" if seen.listener == "api" else b"")
        body = said.body
        if isinstance(step.body, bytes):
            body = step.body
        elif isinstance(step.body, str):
            body = step.body.encode()
        elif step.body is not None:
            body = json.dumps(step.body).encode()
        headers = list(said.headers)
        if step.etags is not None:
            found = next((value for name, value in headers if name == "ETag"), '""').strip('"')
            headers = [one for one in headers if one[0] != "ETag"]
            headers += [(step.etag_name, etag.replace("{}", found)) for etag in step.etags]
        elif step.etag_name != "ETag":
            headers = [
                (step.etag_name if name == "ETag" else name, value) for name, value in headers
            ]
        build = self.builds.get(seen.build_id or "")
        if seen.effect and build is not None and seen.part_number is not None and step.etags:
            # A complete has to name the parts and ETags that the client was given.
            build.etags[seen.part_number] = headers[-1][1].removeprefix("W/").strip('"')
        origins = {name: self.url(name) for name in LISTENERS}
        headers += [
            (name, re.sub(r"\{(\w+)\}", lambda found: origins[found[1]], value))
            for name, value in step.headers
        ]
        return _Said(step.status or said.status, body, tuple(headers))

    # --- What the hosts do

    def _act(self, seen: Seen, body: bytes) -> _Said:
        if seen.listener == "foreign":
            return _Said(200, b"{}")
        if seen.listener != "api":
            return self._store(seen, body)
        if seen.operation != "get_upload_parts" and seen.header("x-api-key") != KEY:
            return _json(401, {"error": "Invalid API key"})
        deed = getattr(self, f"_{seen.operation}", None)
        return deed(seen) if deed else _json(404, {"error": "not found"})

    def _initiate_upload(self, seen: Seen) -> _Said:
        asked = seen.json
        serial = next(self._serials)
        size = asked["file_size"]
        multipart = asked.get("multipart", False)
        part_size = self.part_size if multipart else size
        build = Build(
            build_id=f"build-{serial}",
            upload_id=f"MARKED-UPLOAD-{serial:04}-ID/+=" if multipart else None,
            object_key=f"builds/build-{serial}/{asked['file_name']}",
            size=size,
            part_size=part_size,
            total_parts=-(-size // part_size),
            request=asked,
            began=self.clock.now,
        )
        self.builds[build.build_id] = build
        seen.build_id = build.build_id
        seen.effect = True
        ticket: dict[str, object] = {"build_id": build.build_id, "object_key": build.object_key}
        if build.upload_id is None:
            url = self._issue(build, 1)
            return _json(200, ticket | {"upload_type": "single-part", "upload_url": url})
        self.secrets.append(build.upload_id.partition("/")[0])  # however the rest is quoted
        return _json(
            200,
            ticket
            | {
                "upload_type": "multipart",
                "upload_id": build.upload_id,
                "total_parts": build.total_parts,
                "part_size": build.part_size,
            },
        )

    def _issue(self, build: Build, number: int) -> str:
        signature = f"MARKED{next(self._serials):06}" + "f0e1" * 12
        token = f"MARKED-TOKEN-{next(self._serials):06}"
        # Legal escapes that a URL library would write otherwise; the signature covers each byte.
        target = (
            f"/bucket%28a%29%7E1/{quote(build.object_key, safe='')}?X-Amz-Algorithm=AWS4"
            f"&X-Amz-Credential=MARKED-CREDENTIAL%2Fauto&X-Amz-Security-Token={token}"
            f"&X-Note=%7Ea%20b+c%28d%29&partNumber={number}&X-Amz-Signature={signature}"
        )
        self.secrets += [signature, token, "MARKED-CREDENTIAL"]
        self._urls[target] = _Url(target, build, number, self.clock.now)
        return self.url(self._storage_of(number)) + target

    def _get_upload_parts(self, seen: Seen) -> _Said:
        query = seen.query
        build = next((b for b in self.builds.values() if b.upload_id == query["upload_id"]), None)
        if build is None or not self._is_open(build):
            return _json(400, {"error": "no such upload"})
        seen.build_id = build.build_id
        numbers = [int(text) for text in query["part_numbers"].split(",")]
        urls = [{"part_number": n, "url": self._issue(build, n)} for n in numbers]
        return _json(200, {"upload_urls": urls})

    def _complete_upload(self, seen: Seen) -> _Said:
        asked = seen.json
        build = self.builds.get(asked["build_id"])
        if build is None or not self._is_open(build):
            return _json(404, {"error": "Upload not found"})
        if build.upload_id is not None:
            build.completed_with = asked["parts"]
            right = [{"part_number": n, "etag": build.etags[n]} for n in sorted(build.parts)]
            bare = [part | {"etag": part["etag"].strip('"')} for part in build.completed_with]
            if bare != right or len(right) != build.total_parts:
                return _json(400, {"error": "InvalidPart", "code": "InvalidPart"})
        elif not build.parts:
            return _json(400, {"error": "nothing was uploaded"})
        build.state = "completed"
        build.completions += 1
        seen.effect = True
        return _json(200, {"status": "success", "build_id": build.build_id})

    def _cancel_upload(self, seen: Seen) -> _Said:
        build = self.builds.get(seen.query["build_id"])
        if build is None or not self._is_open(build):
            return _json(404, {"error": "Upload not found"})
        build.state = "cancelled"
        seen.effect = True
        return _json(200, {"success": True})

    def _get_build(self, seen: Seen) -> _Said:
        build = self.builds.get(seen.build_id or "")
        if build is None or build.state == "cancelled" or self._is_over(build):
            return _json(404, {"error": "build not found"})
        status = "OK" if build.state == "completed" else "uploading"
        payload = {"build_id": build.build_id, "name": "n", "status": status, "size": build.size}
        return _json(200, payload)

    def _list_runs(self, seen: Seen) -> _Said:
        self._listings += 1
        shown = [run for run in self.runs if run["shown_from"] < self._listings]
        wanted = seen.query.get("tags", "")
        found = [run["row"] for run in shown if not wanted or wanted in run["row"]["tags"]]
        pages = {"page": 0, "page_size": 20, "total_count": len(found), "total_pages": 1}
        return _json(200, {"data": found, "pagination": pages})

    def _list_jobs(self, seen: Seen) -> _Said:
        pages = {"page": 0, "page_size": 20, "total_count": 0, "total_pages": 0}
        return _json(200, {"data": [], "pagination": pages})

    def _start_run(self, seen: Seen) -> _Said:
        serial = next(self._serials)
        row = {
            "multiplayer_run_id": f"run{serial:08}",
            "project_id": "pixel-harbor",
            "initiator": {"type": "api", "value": {"key_id": "k-1"}},
            "job_id": f"job-{serial}",
            "state": "RUNNING",
            "result": None,
            "test": {"id": f"test-{serial}", "name": "t", "type": "verification"},
            "created_at": "2026-04-11T06:12:03.114520+00:00",
            "tags": seen.json.get("additional_tags", []),
            "players": [],
        }
        self.runs.append({"row": row, "shown_from": self._listings + self._start_lag})
        seen.effect = True
        return _json(200, {"message": "queued", "job_ids": [row["job_id"]]})

    def _stop_runs(self, seen: Seen) -> _Said:
        ids = seen.json["job_ids"]
        seen.effect = True
        results = [{"job_id": n, "ok": True, "status": 200, "message": "Job stopped"} for n in ids]
        return _json(
            200,
            {
                "ok": True,
                "message": "stopped",
                "received_count": len(ids),
                "stopped_count": len(ids),
                "results": results,
            },
        )

    def _is_over(self, build: Build) -> bool:
        if build.state == "uploading" and self.clock.now - build.began > self._upload_life:
            build.state = "expired"
        return build.state == "expired"

    def _is_open(self, build: Build) -> bool:
        return build.state == "uploading" and not self._is_over(build)

    def _store(self, seen: Seen, body: bytes) -> _Said:  # noqa: PLR0911 - a list of refusals
        """Take a part, or refuse it as R2 does."""
        names = [name.lower() for name, _ in seen.headers]
        url = self._urls.get(seen.target)
        if "content-length" not in names:
            return _error(411, "MissingContentLength", "a length is required")
        if unsigned := sorted(set(names) - _ALLOWED):
            return _error(403, "AccessDenied", f"not signed: {unsigned}")
        if url is None or seen.method != "PUT":
            return _error(403, "SignatureDoesNotMatch", "this is not the address that was signed")
        if seen.at - url.issued >= self._url_life:
            return _error(403, "AccessDenied", "Request has expired")
        build, number = url.build, url.part_number
        if not self._is_open(build):
            return _error(404, "NoSuchUpload", "The specified multipart upload does not exist.")
        if len(body) != build.length_of(number):
            large = len(body) > build.length_of(number)
            return _error(400, "EntityTooLarge" if large else "EntityTooSmall", "wrong size")
        if build.upload_id is None and self.clock.now - build.written < 1:
            return _error(429, "TooManyRequests", "one write a second to one key")
        build.written = self.clock.now
        seen.effect = True
        build.parts[number] = body
        build.etags[number] = etag_of(body)
        return _Said(200, b"", (("ETag", f'"{build.etags[number]}"'),))


def _json(status: int, body: object) -> _Said:
    return _Said(status, json.dumps(body).encode(), (("Content-Type", "application/json"),))


def _error(status: int, code: str, message: str) -> _Said:
    text = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return _Said(status, text.encode(), (("Content-Type", "application/xml"),))


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.transport.abort()


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError, ssl.SSLError):
        await writer.wait_closed()
