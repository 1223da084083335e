"""Run blocking work without blocking the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

from nunu_async.upload.threads import DaemonThreadPool

T = TypeVar("T")


async def beside_the_loop(function: Callable[[Callable[[], bool]], T]) -> T:
    """Run a blocking function in a daemon thread.

    The function gets a callable that returns True once it should stop. On cancellation the thread
    is abandoned, as it may hang in disk I/O. Unlike a thread of asyncio's default executor, it does
    not keep the process alive.
    """
    stopped = threading.Event()
    threads = DaemonThreadPool(1)
    try:
        return await asyncio.get_running_loop().run_in_executor(threads, function, stopped.is_set)
    finally:
        stopped.set()
        threads.shutdown()
