"""Stand-ins that tests pass in: a clock that never waits, a server that follows a script."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import os
import socket
import ssl
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest

from nunu_async import NunuClient, RetryPolicy
from nunu_async.config import Timeouts
from nunu_async.core.clock import Clock
from nunu_async.core.proxies import Proxies
from nunu_async.errors import NunuError
from nunu_async.upload.completion import Completion
from nunu_async.upload.source import Identity
from nunu_async.upload.storage import Storage


def _knows_queued() -> bool:
    """Return whether the kernel says how many bytes a peer has not acknowledged."""
    try:
        import termios  # noqa: PLC0415 - not on Windows
    except ImportError:
        return False
    return sys.platform in {"linux", "darwin"} and hasattr(termios, "TIOCOUTQ")


needs_queued = pytest.mark.skipif(
    not _knows_queued(), reason="the system does not say what is unacknowledged"
)


@attrs.define(order=True)
class _Timer:
    at: float
    number: int
    callback: Callable[[], None] = attrs.field(order=False)
    cancelled: bool = attrs.field(default=False, order=False)

    def cancel(self) -> None:
        self.cancelled = True


class ManualClock:
    """A `Clock` whose pauses pass at once, and whose limits hold until time moves.

    `sleep` moves the time itself, as a pause would; `advance` moves it as a stall would.
    """

    def __init__(self, chance: float = 0.5) -> None:
        self.now = 1000.0
        self.chance = chance
        self.sleeps: list[float] = []
        self._timers: list[_Timer] = []
        self._numbers = itertools.count()

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, delay: float) -> None:
        self.sleeps.append(delay)
        self.advance(delay)
        await asyncio.sleep(0)

    def call_later(self, delay: float, callback: Callable[[], None]) -> _Timer:
        timer = _Timer(self.now + delay, next(self._numbers), callback)
        heapq.heappush(self._timers, timer)
        return timer

    def random(self) -> float:
        return self.chance

    def advance(self, seconds: float) -> None:
        """Move the time, and fire the timers that are due."""
        end = self.now + seconds
        while self._timers and self._timers[0].at <= end:
            timer = heapq.heappop(self._timers)
            self.now = max(self.now, timer.at)
            if not timer.cancelled:
                timer.callback()
        self.now = end

    @property
    def waiting(self) -> int:
        """How many limits are armed."""
        return sum(not timer.cancelled for timer in self._timers)


@attrs.define
class Gate:
    """For `Sandbox(sleep=gate.sleep)`: a fault's latency lasts until the test opens the gate."""

    reached: asyncio.Event = attrs.field(factory=asyncio.Event)
    _opened: asyncio.Event = attrs.field(factory=asyncio.Event)

    async def sleep(self, _: float) -> None:
        self.reached.set()
        await self._opened.wait()

    def open(self) -> None:
        self._opened.set()


Exchange = Callable[[asyncio.StreamReader, asyncio.StreamWriter, bytes], Awaitable[None]]


@attrs.define
class RawServer:
    """What a raw server has seen."""

    port: int = 0
    heads: list[bytes] = attrs.field(factory=list)
    """The request heads, in order, byte for byte."""
    connections: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def storage_for(
    clock: Clock,
    *,
    tls: ssl.SSLContext | None = None,
    proxies: Proxies | None = None,
    allow_http: bool = False,
    max_bandwidth: float | None = None,
    concurrency: int = 4,
    **limits: float,
) -> AsyncIterator[Storage]:
    """Open a `Storage` for servers on this machine; `limits` are those of `Timeouts`."""
    storage = Storage(
        clock=clock,
        timeouts=Timeouts(**limits),
        concurrency=concurrency,
        user_agent="test",
        allow_http=allow_http,
        allow_loopback=True,
        tls=tls,
        proxies=proxies or Proxies(),
        max_bandwidth=max_bandwidth,
    )
    try:
        yield storage
    finally:
        await storage.close()


class LoopTurns:
    """Numbers the turns of the running event loop, and counts what happens in each."""

    def __init__(self) -> None:
        self.seen: Counter[int] = Counter()
        self.number = 0
        self._loop = asyncio.get_running_loop()
        self._next = self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self.number += 1
        self._next = self._loop.call_soon(self._turn)

    def note(self, count: int = 1) -> None:
        """Take note that something happened now."""
        self.seen[self.number] += count

    @property
    def most(self) -> int:
        """How often it happened in one turn."""
        return max(self.seen.values())

    def stop(self) -> None:
        self._next.cancel()


@asynccontextmanager
async def counting_turns() -> AsyncIterator[LoopTurns]:
    loop = LoopTurns()
    try:
        yield loop
    finally:
        loop.stop()


def completion_of(nunu: NunuClient, clock: Clock) -> Completion:
    """Make a `Completion` without a listener."""
    return Completion(
        builds=nunu.builds,
        clock=clock,
        policy=RetryPolicy(),
        timeouts=Timeouts(),
        on_retry=_no_listener,
    )


async def _no_listener(attempt: int, delay: float, failure: NunuError) -> None:
    pass


async def hang_up(writer: asyncio.StreamWriter) -> None:
    """Reset a server's connection and consume the error it ends with.

    A reset by the client is the server's own error, which asyncio would log as never retrieved
    whenever the garbage collector takes the stream's future before its protocol.
    """
    writer.transport.abort()
    with contextlib.suppress(OSError, asyncio.CancelledError):  # it ends all the same
        await writer.wait_closed()


@asynccontextmanager
async def raw_server(
    exchange: Exchange, tls: ssl.SSLContext | None = None
) -> AsyncIterator[RawServer]:
    """Serve every request with `exchange(reader, writer, head)`, on bare sockets.

    aiohttp's own test server hides what its client does to a socket; this one does not.
    """
    seen = RawServer()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        seen.connections += 1
        # asyncio does so itself but for what Windows' own loop has accepted: there a second answer
        # would wait until the first is acknowledged.
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while not writer.is_closing():
                    head = await reader.readuntil(b"\r\n\r\n")
                    seen.heads.append(head)
                    await exchange(reader, writer, head)
        except asyncio.CancelledError:
            pass
        finally:
            await hang_up(writer)
            tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    seen.port = server.sockets[0].getsockname()[1]
    try:
        yield seen
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await server.wait_closed()


def answer(status: int = 200, body: bytes = b"{}", headers: dict[str, str] | None = None) -> bytes:
    """Write an HTTP/1.1 answer."""
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def body_length(head: bytes) -> int:
    """Return a request's Content-Length, 0 if it has none."""
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    return 0


async def cancel(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks, and wait until each has ended by that."""
    for task in tasks:
        task.cancel()
    for task in tasks:
        with pytest.raises(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Let the loop turn until `condition` holds; fail after `seconds`.

    The turns wait for sockets, so this is bounded by what the test does and not by a pause.
    """
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.001)


def ctime(path: Path) -> int:
    with path.open("rb") as file:
        found = Identity.of(os.fstat(file.fileno()), file.fileno()).ctime_ns
    assert found is not None
    return found


def ctime_moves(path: Path, change: Callable[[], object]) -> None:
    """Do `change` until the system's clock has moved, by which it sets a ctime."""
    before = ctime(path)
    while ctime(path) == before:
        change()


def change_mode(path: Path) -> None:
    """Change it twice: Windows has but one bit of it."""
    path.chmod(0o400)
    path.chmod(0o600)


def is_accepting(task: asyncio.Task[Any]) -> bool:
    """Tell whether this is how the loop of Windows waits for a listening socket's next client."""
    return "accept_coro" in getattr(task.get_coro(), "__qualname__", "")


def _nothing() -> None:
    pass


class _ForgettingTimer(_Timer):
    """As those of the event loop: what was called off holds on to nothing."""

    def cancel(self) -> None:
        super().cancel()
        self.callback = _nothing


class HeldClock(ManualClock):
    """A `ManualClock` whose pauses hold, too, until time moves."""

    def __init__(self, chance: float = 0.5) -> None:
        super().__init__(chance)
        self._ends: list[float] = []

    def call_later(self, delay: float, callback: Callable[[], None]) -> _Timer:
        timer = _ForgettingTimer(self.now + delay, next(self._numbers), callback)
        heapq.heappush(self._timers, timer)
        return timer

    @property
    def asleep(self) -> int:
        """How many pauses are not over."""
        return len(self._ends)

    async def sleep(self, delay: float) -> None:
        self.sleeps.append(delay)
        over = asyncio.get_running_loop().create_future()
        end = self.now + delay
        self._ends.append(end)

        def wake() -> None:
            self._ends.remove(end)
            if not over.done():
                over.set_result(None)

        timer = self.call_later(delay, wake)
        try:
            await over
        except asyncio.CancelledError:
            timer.cancel()
            if not over.done() or over.cancelled():
                self._ends.remove(end)
            raise

    async def tick(self, seconds: float = 20.0) -> None:
        """Wait until something pauses, then move to the end of the pause that ends first."""
        await until(lambda: self._ends, seconds)
        self.advance(min(self._ends) - self.now)

    async def settle(self, seconds: float = 20.0) -> None:
        """Wait until something pauses."""
        await until(lambda: self._ends, seconds)
