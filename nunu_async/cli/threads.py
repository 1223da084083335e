"""Run blocking work beside the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

from nunu_async.upload.threads import DaemonThreadPool

T = TypeVar("T")


async def beside_the_loop(function: Callable[[Callable[[], bool]], T]) -> T:
    """Run a blocking function on a daemon thread; its argument returns True once it should stop.

    On cancellation the thread is abandoned, as it may be stuck on a hung disk, and does not keep
    the process alive; a thread of asyncio's default executor would.
    """
    stopped = threading.Event()
    threads = DaemonThreadPool(1)
    try:
        return await asyncio.get_running_loop().run_in_executor(threads, function, stopped.is_set)
    finally:
        stopped.set()
        threads.shutdown()
