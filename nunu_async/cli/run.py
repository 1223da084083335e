"""One event loop for one command, and the signals that may end it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from contextlib import suppress

from nunu_async.cli.output import tell

__all__ = ["run"]

_INTERRUPTED = 130
# SIGHUP too: a closed terminal must not leave a half-sent build reserved on the server. SIGBREAK is
# Ctrl-Break, and what a job runner on Windows sends.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
_ENDING = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))


def run(command: Coroutine[object, object, int]) -> int:
    """Run a command to its end, or to the end of its cleaning up after a signal.

    Returns its exit code, or 128 plus the signal's number.
    """
    codes: list[int] = []

    async def supervised() -> None:
        codes.append(await _supervised(command))

    try:
        asyncio.run(supervised())
    except KeyboardInterrupt:  # outside the main thread, where nothing else can be done
        return _INTERRUPTED
    except RuntimeError:
        # The loop ends its threads by one more, which a limit on processes may refuse.
        if not codes:
            raise
    return codes[0]


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

    restore = [_handle(loop, number, stop) for number in _ENDING]
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:  # asyncio.run's own SIGINT handling
        task.cancel()
        await asyncio.wait({task})
        raise
    finally:
        for undo in restore:
            undo()
    if task.cancelled():
        return 128 + caught[0] if caught else _INTERRUPTED
    return task.result()


def _handle(
    loop: asyncio.AbstractEventLoop, number: int, stop: Callable[[int], None]
) -> Callable[[], object]:
    """Have the loop call `stop` when a signal comes; return what undoes that.

    Not for a signal that was ignored from the start: `nohup` has SIGHUP ignored, and a shell
    without job control SIGINT for what it runs in the background.
    """
    before = signal.getsignal(number)
    if before is signal.SIG_IGN:
        return lambda: None

    def restore() -> None:  # a program that has called `main` may have handlers of its own
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
