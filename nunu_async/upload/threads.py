"""A thread pool for reading files that never delays process exit."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class DaemonThreadPool(Executor):
    """An executor with at most `threads` daemon threads, started on demand.

    If no more can be started, e.g. at a process limit or during interpreter shutdown, the existing
    ones do all the work; without any, `submit` runs each call itself.

    ThreadPoolExecutor joins its threads at interpreter exit, even after `shutdown(wait=False)`: a
    read on a hung disk would keep the process alive.
    """

    def __init__(self, threads: int) -> None:
        self._max_threads = threads
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._started = 0
        self._idle = 0
        self._closed = False

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Queue a call. Raises: RuntimeError after `shutdown`."""
        future: Future[R] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001 - the future carries it
                future.set_exception(error)

        with self._lock:
            if self._closed:
                raise RuntimeError("the readers are closed")
            if self._idle:
                self._idle -= 1
            elif self._started < self._max_threads:
                self._start()
            has_threads = self._started > 0
            if has_threads:
                self._work.put(run)
        if not has_threads:
            run()
        return future

    def _start(self) -> None:
        name = f"nunu-read-{self._started + 1}"
        try:
            threading.Thread(target=self._serve, name=name, daemon=True).start()
        except (RuntimeError, MemoryError):
            return
        self._started += 1  # only now: calls queued for a thread that did not start would hang

    def _serve(self) -> None:
        while (run := self._work.get()) is not None:
            run()
            del run  # or its file stays referenced until the next call
            with self._lock:
                if self._work.empty():
                    self._idle += 1

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002 - the base's signature; calls under way are left alone
        """Accept no more calls; threads end after the queued ones. Never waits."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for _ in range(self._started):
                self._work.put(None)
