"""Run one command in an event loop, with signal handling."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from contextlib import suppress

from nunu_async.cli.output import echo_err

_INTERRUPTED = 130
# SIGHUP too: closing a terminal must not leave a partial upload reserved on the server. SIGBREAK is
# Ctrl-Break, which job runners on Windows send.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
_SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))


def run(command: Coroutine[object, object, int]) -> int:
    """Run a command; a signal cancels it and waits for its cleanup.

    Returns its exit code, or 128 plus the signal's number.
    """
    codes: list[int] = []

    async def supervised() -> None:
        codes.append(await _supervised(command))

    try:
        asyncio.run(supervised())
    except KeyboardInterrupt:  # outside the main thread, where no handler can be set
        return _INTERRUPTED
    except RuntimeError:
        # asyncio.run shuts the executor down in a new thread, which ulimit -u may refuse.
        if not codes:
            raise
    return codes[0]


async def _supervised(command: Coroutine[object, object, int]) -> int:
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(command)
    received: list[int] = []

    def stop(number: int) -> None:
        received.append(number)
        if len(received) == 1:
            echo_err("stopping ...")
            task.cancel()
        else:
            echo_err("still stopping; the server has ten seconds to answer, at most")

    undo_all = [_handle(loop, number, stop) for number in _SIGNALS]
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:  # asyncio.run's own SIGINT handling
        task.cancel()
        await asyncio.wait({task})
        raise
    finally:
        for undo in undo_all:
            undo()
    if task.cancelled():
        return 128 + received[0] if received else _INTERRUPTED
    return task.result()


def _handle(
    loop: asyncio.AbstractEventLoop, number: int, stop: Callable[[int], None]
) -> Callable[[], object]:
    """Make a signal call `stop` in the loop; return a function that undoes this.

    A signal that is already ignored stays ignored: `nohup` ignores SIGHUP, and a shell without
    job control ignores SIGINT for background jobs.
    """
    before = signal.getsignal(number)
    if before is signal.SIG_IGN:
        return lambda: None

    def restore() -> None:  # a program that calls `main` may have its own handlers
        if before is not None:
            signal.signal(number, before)

    def remove() -> None:
        loop.remove_signal_handler(number)
        restore()

    with suppress(RuntimeError):  # a loop outside the main thread
        try:
            loop.add_signal_handler(number, stop, number)
        except NotImplementedError:  # Windows
            with suppress(ValueError):  # outside the main thread
                signal.signal(number, lambda number, _: loop.call_soon_threadsafe(stop, number))
                return restore
        else:
            return remove
    return lambda: None
