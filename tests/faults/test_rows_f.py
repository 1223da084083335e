"""Rows F that are more than a case: disks that hang, and offsets beyond 32 bits."""

from __future__ import annotations

import asyncio
import os
import random
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from doubles import ManualClock, RawServer, body_length, raw_server, until
from doubles import answer as written
from fault_case import PART, Case
from fault_play import Played, play

from nunu_async import NunuClient, StallError, UploadError
from nunu_async.config import Timeouts
from nunu_async.models.builds import PartUrl
from nunu_async.upload.plan import Part
from nunu_async.upload.source import Source
from nunu_async.upload.storage import Storage
from nunu_async.upload.threads import DaemonThreadPool

GIB = 1024**3


class HungDisk:
    """Reads of the file at `path` block on their threads until `heal`; nothing is ever cached."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path: Path | None = None
        self.blocked = 0
        self._healed = threading.Event()
        name = "pread" if hasattr(os, "pread") else "read"  # what Windows has
        real = getattr(os, name)

        def read(descriptor: int, *rest: int) -> bytes:
            if self.path and os.path.samestat(os.fstat(descriptor), self.path.stat()):
                self.blocked += 1
                self._healed.wait(60)
            block: bytes = real(descriptor, *rest)
            return block

        monkeypatch.setattr(os, "preadv", nothing_cached, raising=False)
        monkeypatch.setattr(os, name, read)

    def heal(self) -> None:
        self._healed.set()


def nothing_cached(*_: object) -> int:
    raise BlockingIOError


def another(path: Path) -> Path:
    healthy = path.with_name("healthy.zip")
    healthy.write_bytes(path.read_bytes())
    return healthy


def begin(nunu: NunuClient, path: Path, **more: Any) -> asyncio.Task[Any]:
    asked = {"name": "n", "platform": "linux", "multipart": True, "concurrency": 6} | more
    return asyncio.ensure_future(nunu.upload_build(path, **asked))


async def test_f9_a_disk_that_hangs_holds_up_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = HungDisk(monkeypatch)

    async def operation(nunu: NunuClient, path: Path, played: Played) -> object:
        healthy, disk.path = another(path), path
        hung = begin(nunu, path)
        await until(lambda: disk.blocked >= 4)
        for _ in range(3):  # parts of other files, an address, a list
            await begin(nunu, healthy, verify=True)
        await asyncio.get_running_loop().getaddrinfo("localhost", 80)
        await nunu.runs.list_page()
        assert not hung.done()
        hung.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hung
        assert disk.blocked == 4, "one file has more threads than its share"
        states = [build.state for build in played.server.builds.values()]
        assert states == ["cancelled", "completed", "completed", "completed"]
        disk.heal()
        return None

    await play(Case("F9", "others", operation=operation, size=8 * PART, files=4), tmp_path)


async def test_f9_many_files_on_a_disk_that_hangs_leave_threads_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as the client sends at once but one; the last one goes through."""
    disk = HungDisk(monkeypatch)

    async def operation(nunu: NunuClient, path: Path, played: Played) -> object:
        healthy, disk.path = another(path), path
        hung = [begin(nunu, path, concurrency=1, name=f"{n}") for n in range(3)]
        await until(lambda: disk.blocked >= 3)
        await begin(nunu, healthy)
        for task in hung:
            task.cancel()
        await asyncio.wait(hung)
        assert all(task.cancelled() for task in hung)
        disk.heal()
        return None

    settings = {"storage_concurrency": 4}
    await play(Case("F9", "files", operation=operation, settings=settings, files=4), tmp_path)


async def test_f9_a_disk_that_never_answers_ends_the_upload_by_the_stall_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = HungDisk(monkeypatch)

    async def operation(nunu: NunuClient, path: Path, played: Played) -> object:
        disk.path = path
        hung = begin(nunu, path)
        await until(lambda: disk.blocked)
        async with asyncio.timeout(20):
            while not hung.done():
                await asyncio.sleep(0.001)
                played.clock.advance(15)
        disk.heal()
        return await hung

    await play(
        Case(
            "F9",
            "for-ever",
            operation=operation,
            # The clock goes on while the DELETE is under way, in steps that are as long as it may.
            timeouts=Timeouts(cleanup=3600),
            error=UploadError,
            cause=StallError,
            attributes={"cancelled": True, "attempts": 8},
            requests={"complete_upload": 0, "cancel_upload": 1},
        ),
        tmp_path,
    )


EDGES = [2**31, 2**32, 2**32 + 2**31, 5 * GIB - 4096]


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A file of 5 GiB that takes a few blocks on disk: bytes of its own across each edge."""
    path = tmp_path / "large.zip"
    with path.open("wb") as file:
        file.truncate(5 * GIB)
        for edge in EDGES:
            file.seek(edge - 2048)
            file.write(random.Random(edge).randbytes(4096))
    return path


@pytest.fixture
async def source(large: Path) -> AsyncIterator[Source]:
    threads = DaemonThreadPool(4)
    async with await Source.open(large, threads) as opened:
        yield opened
    threads.shutdown(wait=False)


@pytest.mark.parametrize("cached", [True, False])
async def test_f11_bytes_beyond_32_bits_are_read_where_they_are(
    source: Source, monkeypatch: pytest.MonkeyPatch, cached: bool
) -> None:
    if not cached:
        monkeypatch.setattr(os, "preadv", nothing_cached, raising=False)
    found = await asyncio.gather(*(source.read(edge - 2048, 4096) for edge in EDGES))
    assert [bytes(block) for block in found] == [random.Random(n).randbytes(4096) for n in EDGES]


async def test_f11_a_part_beyond_32_bits_is_sent_from_there(source: Source) -> None:
    """At each edge a part that begins before it and ends after it, over a socket."""
    bodies: list[bytes] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        bodies.append(await reader.readexactly(body_length(head)))
        writer.write(written(200, b"", {"ETag": '"e"'}))
        await writer.drain()

    async with raw_server(take) as server:
        await _put_at_edges(server, source, lambda _: None)
    assert bodies == [random.Random(n).randbytes(4096) for n in EDGES]


async def _put_at_edges(server: RawServer, source: Source, on_sent: Callable[[int], None]) -> None:
    storage = Storage(
        clock=ManualClock(),
        timeouts=Timeouts(),
        concurrency=1,
        user_agent="test",
        allow_http=False,
        allow_loopback=True,
    )
    try:
        for number, edge in enumerate(EDGES, 1):
            part = Part(number, edge - 2048, 4096)
            url = PartUrl(part_number=number, url=f"{server.url}/part?X-Amz-Signature=s")
            await storage.put(url, part, source, on_sent)
    finally:
        await storage.close()
