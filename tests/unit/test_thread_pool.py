"""Threads for blocking calls: few, and none that a hanging call keeps the process for."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from nunu_async.upload.threads import BoundedExecutor, DaemonThreadPool


def test_readers_serve_many_calls_on_few_threads_and_end() -> None:
    readers = DaemonThreadPool(3)
    seen: set[str] = set()

    def work(number: int) -> int:
        seen.add(threading.current_thread().name)
        return number * number

    futures = [readers.submit(work, n) for n in range(200)]
    assert [future.result(timeout=10) for future in futures] == [n * n for n in range(200)]
    assert 1 <= len(seen) <= 3
    failing = readers.submit(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        failing.result(timeout=10)
    readers.shutdown()
    readers.shutdown()
    with pytest.raises(RuntimeError):
        readers.submit(work, 1)


def test_a_lane_keeps_few_threads_busy_and_loses_no_call() -> None:
    readers = DaemonThreadPool(8)
    lane, other = BoundedExecutor(readers, 2), BoundedExecutor(readers, 2)
    hung, entered = threading.Event(), threading.Semaphore(0)

    def hang() -> bool:
        entered.release()
        return hung.wait(30)

    stuck = [lane.submit(hang) for _ in range(5)]
    assert [other.submit(pow, n, 2).result(timeout=10) for n in range(20)] == [
        n * n for n in range(20)
    ]
    assert all(entered.acquire(timeout=10) for _ in range(2))
    assert sum(future.running() for future in stuck) == 2
    assert stuck[4].cancel()
    failing = lane.submit(lambda: 1 // 0)
    hung.set()
    assert all(future.result(timeout=10) for future in stuck[:4])
    with pytest.raises(ZeroDivisionError):
        failing.result(timeout=10)
    readers.shutdown()
    with pytest.raises(RuntimeError):
        lane.submit(pow, 1, 1).result(timeout=10)


def test_a_read_that_hangs_does_not_keep_the_process() -> None:
    code = (
        "import threading; from nunu_async.upload.threads import DaemonThreadPool;"
        "DaemonThreadPool(1).submit(threading.Event().wait); print('over')"
    )
    done = subprocess.run(  # noqa: S603 - this very interpreter
        [sys.executable, "-c", code], capture_output=True, timeout=30, check=True, text=True
    )
    assert done.stdout == "over\n"
