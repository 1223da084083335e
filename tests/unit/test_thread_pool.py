"""Threads for blocking calls: few, and none that a hanging call keeps the process for."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest
from uploads import MakeFile

from nunu_async.upload.source import Source
from nunu_async.upload.threads import DaemonThreadPool


def test_a_pool_serves_many_calls_on_few_threads_and_ends() -> None:
    pool = DaemonThreadPool(3)
    seen: set[str] = set()

    def work(number: int) -> int:
        seen.add(threading.current_thread().name)
        return number * number

    futures = [pool.submit(work, n) for n in range(200)]
    assert [future.result(timeout=10) for future in futures] == [n * n for n in range(200)]
    assert 1 <= len(seen) <= 3
    failing = pool.submit(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        failing.result(timeout=10)
    pool.shutdown()
    pool.shutdown()
    with pytest.raises(RuntimeError):
        pool.submit(work, 1)


async def test_a_file_keeps_four_threads_busy_at_most_and_loses_no_read(
    make_file: MakeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = DaemonThreadPool(8)
    hung, entered = threading.Event(), threading.Semaphore(0)
    read_once = Source._pread_once

    def hang(source: Source, offset: int, length: int) -> bytes:
        if source.path.name == "hung.zip":
            entered.release()
            hung.wait(30)
        return read_once(source, offset, length)

    monkeypatch.setattr(Source, "_pread_once", hang)
    async with (
        await Source.open(make_file(10, "hung.zip"), pool) as stuck,
        await Source.open(make_file(10, "other.zip"), pool) as other,
    ):
        stuck._nowait = other._nowait = False
        reads = [asyncio.ensure_future(stuck.read(0, 10)) for _ in range(8)]
        for _ in range(20):
            assert await other.read(0, 10) == other.path.read_bytes()
        assert all(entered.acquire(timeout=10) for _ in range(4))
        assert not entered.acquire(blocking=False)
        for read in (reads[0], reads[7]):  # one whose thread hangs, and one that waits
            read.cancel()
        await asyncio.wait({reads[0], reads[7]}, timeout=10)
        assert await other.read(0, 10) == other.path.read_bytes()
        assert not entered.acquire(blocking=False)  # the thread of the first is still busy
        hung.set()
        assert await asyncio.gather(*reads[1:7]) == [stuck.path.read_bytes()] * 6
        assert stuck._threads._value == 4
    pool.shutdown()


def test_a_read_that_hangs_does_not_keep_the_process() -> None:
    code = (
        "import threading; from nunu_async.upload.threads import DaemonThreadPool;"
        "DaemonThreadPool(1).submit(threading.Event().wait); print('over')"
    )
    done = subprocess.run(  # noqa: S603 - this very interpreter
        [sys.executable, "-c", code], capture_output=True, timeout=30, check=True, text=True
    )
    assert done.stdout == "over\n"
