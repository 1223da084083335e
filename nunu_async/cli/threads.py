"""What may take long outside the network, beside the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

from nunu_async.upload.readers import Readers

__all__ = ["beside_the_loop"]

T = TypeVar("T")


async def beside_the_loop(function: Callable[[Callable[[], bool]], T]) -> T:
    """Run a function on a thread, with a question that it can ask: whether to give up.

    When this is cancelled, the thread is not waited for, and does not keep the process: it may be
    stuck on a disk that hangs. asyncio's own threads would.
    """
    stopped = threading.Event()
    threads = Readers(1)
    try:
        return await asyncio.get_running_loop().run_in_executor(threads, function, stopped.is_set)
    finally:
        stopped.set()
        threads.shutdown()
