"""Play one case: a real client against the fault server, on a clock that never waits.

A pause passes at once and is recorded; a limit holds until time moves, and time moves only while
every request that is under way is one the server keeps waiting. So nothing here sleeps for real,
and nothing expires because the machine is busy.
"""

from __future__ import annotations

import asyncio
import gc
import io
import itertools
import logging
import os
import random
import re
import socket
import sys
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import attrs
import pytest
from disclosed import disclosed
from doubles import ManualClock, is_accepting, until
from fault_case import Cancel, Case
from fault_invariants import Evidence, check_invariants
from fault_server import KEY, FaultServer, Moment, Seen
from fault_tls import client_context, server_context

from nunu_async import NunuClient, UploadEvent
from nunu_async.cli.harmless import harmless

__all__ = ["OPERATIONS", "Played", "play"]

_played = itertools.count()
_FDS = Path("/proc/self/fd")
# Real seconds: far more than any case takes, far less than the limit of a test.
_LONGEST = 40.0
# Real seconds that the client has to become quiet in.
_SOON = 1.0
_MOST_TICKS = 5000
_TEST = "0d9c8b7a-6f5e-4d3c-8b2a-1908f7e6d5c4"
_CONFIG = "3f2e1d0c-4b5a-4697-8877-66554433aa22"


@attrs.define(kw_only=True)
class Played:
    """What came of a case."""

    case: Case
    server: FaultServer
    clock: ManualClock
    result: Any = None
    error: BaseException | None = None
    first_error: BaseException | None = None
    """Of the first call, where the operation makes two."""
    log: str = ""
    texts: dict[str, str] = attrs.field(factory=dict, repr=False)
    hooked: list[str] = attrs.field(factory=list, repr=False)
    events: list[UploadEvent] = attrs.field(factory=list)
    seconds: float = 0.0
    lookups: list[str] = attrs.field(factory=list)
    left: list[str] = attrs.field(factory=list)
    calls: int = 1

    @property
    def sleeps(self) -> list[float]:
        return self.clock.sleeps


async def _upload(nunu: NunuClient, path: Path, played: Played, **more: Any) -> object:
    asked = {"name": "n", "platform": "linux", "multipart": True, "concurrency": 1} | more
    return await nunu.upload_build(path, on_progress=played.events.append, **asked)


async def _verify(nunu: NunuClient, path: Path, played: Played, **more: Any) -> object:
    return await _upload(nunu, path, played, verify=True, **more)


async def _single(nunu: NunuClient, path: Path, played: Played, **more: Any) -> object:
    return await _upload(nunu, path, played, **({"multipart": False} | more))


async def _resume(nunu: NunuClient, path: Path, played: Played, **more: Any) -> object:
    """Upload, and once more if that fails."""
    try:
        return await _upload(nunu, path, played, resume=True, **more)
    except Exception as error:  # noqa: BLE001 - the second call's outcome is the case's
        played.first_error = error
        played.calls = 2
        return await _upload(nunu, path, played, resume=True, **more)


async def _list(nunu: NunuClient, path: Path, played: Played, **more: Any) -> object:
    return await nunu.runs.list_page(**more)


async def _get_build(nunu: NunuClient, path: Path, played: Played, **more: Any) -> object:
    return await nunu.builds.get("build-0", **more)


async def _start(nunu: NunuClient, path: Path, played: Played, **more: Any) -> object:
    return await nunu.runs.start(
        deployment_config_id=_CONFIG, **({"multiplayer_test_id": _TEST} | more)
    )


async def _stop(nunu: NunuClient, path: Path, played: Played, **more: Any) -> object:
    return await nunu.runs.stop(**({"job_ids": ["job-1", "job-2"]} | more))


OPERATIONS: dict[str, Callable[..., Any]] = {
    "upload": _upload,
    "verify": _verify,
    "single": _single,
    "resume": _resume,
    "list": _list,
    "get_build": _get_build,
    "start": _start,
    "stop": _stop,
}


async def play(case: Case, directory: Path, *, soon: float = _SOON) -> Played:
    """Play a case, and check what it expects and every invariant.

    The client has to be quiet within `soon` real seconds.
    """
    gc.collect()
    # The collections of each case need not look through what earlier cases left to stay. Freezing
    # keeps what the last case has not released yet, so it is not done every time.
    if next(_played) % 20 == 0:
        gc.freeze()
    path = directory / "game.zip"
    content = random.Random(case.size).randbytes(case.size)
    path.write_bytes(content)
    clock = case.clock()
    tls = server_context(case.tls) if case.tls else None
    loop = asyncio.get_running_loop()
    storage_tls = server_context(case.storage_tls) if case.storage_tls else None
    async with FaultServer(
        clock,
        steps=case.steps,
        tls=tls,
        storage_tls=storage_tls,
        names=case.names,
        **case.server,
    ) as server:
        played = Played(case=case, server=server, clock=clock)
        pause = clock.sleep

        async def sleep(delay: float) -> None:
            await server.opened(len(clock.sleeps) + 1)
            await pause(delay)

        clock.sleep = sleep  # type: ignore[method-assign] - the moment in which a host comes up
        with _everything_logged(played), _resolved(loop, case, played), _hooked(played):
            await _go(case, server, clock, path, played, soon)
        assert not server.errors, server.errors
        check_expected(played)
        check_invariants(
            Evidence.of_server(
                server,
                content=content,
                secrets={*server.secrets, *case.secrets},
                texts=played.texts,
                hooked="\n".join(played.hooked),
                printed=harmless(_printed(played)),
                left=played.left,
                policy=case.retry,
                sleeps=clock.sleeps,
                seconds=played.seconds,
                longest=case.seconds[1] if case.seconds else None,
                calls=played.calls,
                allowed=case.allow,
                files=case.files,
            )
        )
    if case.also is not None:
        case.also(played)
    return played


@contextmanager
def _hooked(played: Played) -> Iterator[None]:
    """Put hooks on every aiohttp session, as tracing libraries do; they note all but headers.

    The key is in the headers of an API request, which a hook of the process can read.
    """
    config = aiohttp.TraceConfig()

    async def note(_session: object, _context: object, params: Any) -> None:
        shown = (getattr(params, name, "") for name in ("method", "url", "chunk", "exception"))
        played.hooked.append(" ".join(map(str, shown)))

    for signal in (
        *(config.on_request_start, config.on_request_chunk_sent, config.on_request_end),
        *(config.on_request_exception, config.on_request_redirect),
        *(config.on_response_chunk_received, config.on_request_headers_sent),
    ):
        signal.append(note)
    made = aiohttp.ClientSession.__init__

    def patched(self: aiohttp.ClientSession, *args: Any, **kwargs: Any) -> None:
        kwargs["trace_configs"] = [*(kwargs.get("trace_configs") or ()), config]
        made(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aiohttp.ClientSession, "__init__", patched)
        yield


def _printed(played: Played) -> str:
    """Return the errors of a case with their notes, each at the start of a line."""
    errors = [error for error in (played.error, played.first_error) if error is not None]
    lines = [line for error in errors for line in (str(error), *getattr(error, "__notes__", ()))]
    lines += [str(getattr(error, "message", "")) for error in errors]
    return "\n".join(lines)


async def _go(
    case: Case,
    server: FaultServer,
    clock: ManualClock,
    path: Path,
    played: Played,
    soon: float,
) -> None:
    loop = asyncio.get_running_loop()
    complaints: list[str] = []

    def complain(_: object, context: dict[str, Any]) -> None:
        if "incoming connection" not in context["message"]:  # the server's own, of a handshake
            complaints.append(f"{context}")

    loop.set_exception_handler(complain)
    before = _inventory(server)
    began = clock.now
    settings = {
        "base_url": server.url("api"),
        "clock": clock,
        "timeout": case.timeouts,
        "retry": case.retry,
        "ssl_context": client_context() if case.tls else None,
    }
    nunu = NunuClient(KEY, **(settings | dict(case.settings)))
    try:
        operation = OPERATIONS[case.operation] if isinstance(case.operation, str) else None
        asked = operation or case.operation
        assert callable(asked)
        task = asyncio.ensure_future(asked(nunu, path, played, **case.options))
        if case.cancel is not None:
            server.on_moment = _canceller(task, case.cancel)
        with _short_stacks():
            await _drive(task, server, clock, case)
        try:
            played.result = task.result()
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - examined below
            played.error = error
        played.seconds = clock.now - began
        del task
        played.left += await _left_over(server, before, soon, busy_only=True)
    finally:
        played.texts["repr of the client"] = f"{nunu!r} {vars(nunu)!r}"
        await nunu.close()
    del nunu
    if played.error is not None:
        played.texts["error"] = disclosed(played.error)
    if played.first_error is not None:
        played.texts["first error"] = disclosed(played.first_error)
    played.texts["events"] = repr(played.events)
    played.texts["result"] = repr(played.result)
    played.left += await _left_over(server, before, soon, busy_only=False)
    server.release()
    gc.collect()
    await asyncio.sleep(0)
    played.left += complaints
    assert not isinstance(clock, ManualClock) or clock.waiting == 0, "a limit is still armed"


async def _drive(
    task: asyncio.Future[Any], server: FaultServer, clock: ManualClock, case: Case
) -> None:
    """Move the time while nothing else moves, until the task is done."""
    limits = case.timeouts
    tick = min(limits.stall, limits.answer) / 8
    calm = moved = ticks = 0
    async with asyncio.timeout(_LONGEST):
        while not task.done():
            await asyncio.wait({task}, timeout=0.001)
            calm = calm + 1 if moved == server.moved else 0
            moved = server.moved
            if server.stuck and server.stuck == server.in_flight and calm >= 3:
                clock.advance(tick)
                ticks += 1
                calm = 0  # what that has ended takes a few turns to show
                assert ticks < _MOST_TICKS, "the case does not end"


def _canceller(task: asyncio.Future[Any], cancel: Cancel) -> Callable[[Moment, Seen], None]:
    seen_so_far = 0

    def on_moment(moment: Moment, seen: Seen) -> None:
        nonlocal seen_so_far
        if moment != cancel.moment or seen.operation != cancel.operation:
            return
        if cancel.part not in (None, seen.part_number):
            return
        seen_so_far += 1
        if seen_so_far == cancel.nth:
            loop = asyncio.get_running_loop()
            task.cancel()
            for _ in range(cancel.times - 1):
                loop.call_soon(task.cancel)

    return on_moment


# --- What is expected


def check_expected(played: Played) -> None:
    """Compare the outcome and the counts with what the case says."""
    _check_outcome(played)
    _check_counts(played)


def _check_outcome(played: Played) -> None:
    case, error = played.case, played.error
    if case.error is None:
        if error is not None:
            raise error
    else:
        assert error is not None, f"returned {played.result!r}, and {case.error} was expected"
        if type(error) is not case.error:
            raise error
    if case.cause is not None:
        assert error is not None
        assert type(error.__cause__) is case.cause, repr(error.__cause__)
    if case.match:
        text = f"{error} {getattr(error, '__notes__', '')}"
        assert re.search(case.match, text), text
    outcome = played.result if error is None else error
    for name, value in case.attributes.items():
        assert getattr(outcome, name) == value, f"{name} is {getattr(outcome, name)!r}"


def _check_counts(played: Played) -> None:
    case, server = played.case, played.server
    log = [(s.operation, s.part_number, s.status, s.received) for s in server.requests]
    for name, count in case.requests.items():
        assert _fits(server.count(name), count), f"{server.count(name)} of {name}: {log}"
    for name, count in case.connections.items():
        made = server.connections_of(name)
        assert _fits(made, count), f"{made} connections to {name}"
    for name, count in case.peak.items():
        assert _fits(server.peak(name), count), f"{server.peak(name)} at once at {name}"
    if isinstance(case.sleeps, Sequence) and not isinstance(case.sleeps, tuple):
        assert played.sleeps == list(case.sleeps)
    elif case.sleeps is not None:
        assert _fits(len(played.sleeps), case.sleeps), played.sleeps
    if case.seconds is not None:
        assert case.seconds[0] <= played.seconds <= case.seconds[1], played.seconds


def _fits(found: int, wanted: Any) -> bool:
    least, most = (wanted, wanted) if isinstance(wanted, int) else wanted
    return bool(least <= found <= most)


# --- What is left of it


def _inventory(server: FaultServer) -> dict[str, set[Any]]:
    return {
        "task": _tasks(server),
        "thread": {thread.name for thread in threading.enumerate()},
        "descriptor": _descriptors(server),
    }


def _tasks(server: FaultServer) -> set[Any]:
    return {
        task
        for task in asyncio.all_tasks()
        if task is not asyncio.current_task() and not server.owns(task) and not is_accepting(task)
    }


def _descriptors(server: FaultServer) -> set[Any]:
    """List open descriptors with what they are, without those of the server's connections."""
    found = set()
    with suppress(FileNotFoundError):
        for name in os.listdir(_FDS):  # noqa: PTH208 - names are all that is wanted
            with suppress(OSError):
                found.add((name, os.readlink(_FDS / name)))  # noqa: PTH115 - as above
    return {one for one in found if int(one[0]) not in server.descriptors()}


async def _left_over(
    server: FaultServer, before: Mapping[str, set[Any]], soon: float, *, busy_only: bool
) -> list[str]:
    """List what of the client is still there; it has a moment to go.

    With `busy_only`, while the client is still open: its pools may be.
    """

    def look() -> list[str]:
        found = [f"task {task!r}" for task in _tasks(server) - before["task"]]
        found += [
            f"connection {connection}"
            for connection in server.connections
            if connection.is_alive and (not busy_only or server.is_busy(connection))
        ]
        if not busy_only:
            threads = {thread.name for thread in threading.enumerate()}
            # The loop's own pool, which ends with the loop.
            odd = {name for name in threads - before["thread"] if not name.startswith("asyncio_")}
            found += [f"thread {name}" for name in odd]
            found += [f"descriptor {one}" for one in _descriptors(server) - before["descriptor"]]
        return found

    with suppress(TimeoutError):
        await until(lambda: not look(), soon)
    return look()


# --- What is shown of it


@contextmanager
def _everything_logged(played: Played) -> Iterator[None]:
    """Keep every logger's records at DEBUG, and all warnings.

    asyncio's debug mode, which tells more, makes a case a fifth dearer: one in three has it.
    """
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s %(args)s"))
    root = logging.getLogger()
    level = root.level
    loop = asyncio.get_running_loop()
    debug = loop.get_debug()
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    loop.set_debug(debug or zlib.crc32(played.case.id.encode()) % 3 == 0)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
    finally:
        loop.set_debug(debug)
        loop.set_exception_handler(None)
        root.removeHandler(handler)
        root.setLevel(level)
        played.log = stream.getvalue()
        played.texts["log"] = played.log
    messages = [str(warning.message) for warning in caught]
    played.texts["warnings"] = "\n".join(messages)
    played.left += [f"warning {text}" for text in messages]


@contextmanager
def _short_stacks() -> Iterator[None]:
    """Let asyncio's debug mode note two frames of each future's origin, not pytest's sixty."""
    sys.tracebacklimit = 2
    try:
        yield
    finally:
        del sys.tracebacklimit


@contextmanager
def _resolved(loop: Any, case: Case, played: Played) -> Iterator[None]:
    """Answer look-ups of names as the case says; addresses go their usual way."""
    usual = loop.getaddrinfo
    queues = {host: list(answers) for host, answers in case.resolver.items()}

    async def getaddrinfo(host: str, port: int, **how: Any) -> Any:
        queue = queues.get(host)
        if queue is None:
            return await usual(host, port, **how)
        played.lookups.append(host)
        addresses = queue.pop(0) if len(queue) > 1 else queue[0]
        if not addresses:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [
            (
                socket.AF_INET6 if ":" in address else socket.AF_INET,
                socket.SOCK_STREAM,
                socket.IPPROTO_TCP,
                "",
                (address, port, 0, 0) if ":" in address else (address, port),
            )
            for address in addresses
        ]

    if not queues:
        yield
        return
    loop.getaddrinfo = getaddrinfo
    try:
        yield
    finally:
        del loop.getaddrinfo
