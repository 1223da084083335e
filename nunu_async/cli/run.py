"""One event loop for one command, and the signals that may end it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine

from nunu_async.cli.output import tell

__all__ = ["run"]

_INTERRUPTED = 130
# SIGHUP too: a closed terminal must not leave a half-sent build reserved on the server.
_ENDING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


def run(command: Coroutine[object, object, int]) -> int:
    """Run a command to its end, or to the end of its cleaning up after a signal.

    Returns its exit code, or 128 plus the signal's number.
    """
    try:
        return asyncio.run(_supervised(command))
    except KeyboardInterrupt:  # where the loop cannot handle signals itself
        return _INTERRUPTED


async def _supervised(command: Coroutine[object, object, int]) -> int:
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(command)
    caught: list[int] = []

    def stop(number: int) -> None:
        caught.append(number)
        if len(caught) == 1:
            tell("nunu-async: stopping ...")
            task.cancel()
        else:
            tell("nunu-async: still stopping; the server has ten seconds to answer, at most")

    handled = []
    for number in _ENDING:
        try:
            loop.add_signal_handler(number, stop, number)
        except (NotImplementedError, RuntimeError):  # Windows; a loop outside the main thread
            continue
        handled.append(number)
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:  # asyncio.run's own SIGINT handling
        task.cancel()
        await asyncio.wait({task})
        raise
    finally:
        for number in handled:
            loop.remove_signal_handler(number)
    if task.cancelled():
        return 128 + caught[0] if caught else _INTERRUPTED
    return task.result()
