"""Results on standard output: written in full, or reported as lost."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import sys
from typing import TextIO

from nunu_async.cli.harmless import harmless
from nunu_async.cli.output import tell

__all__ = ["result", "write"]

# A pipe that select calls writable takes so many bytes without blocking (POSIX, PIPE_BUF; 512 at
# least, 4096 on Linux). More at once would block the loop until somebody reads.
_BLOCK = getattr(select, "PIPE_BUF", 512)
# A command that was interrupted does not wait for ever for a reader that has stopped reading.
_PATIENCE = 2.0


async def result(line: str, *, is_json: bool = False) -> bool:
    """Write a line; return False, with a sentence on standard error, where that fails."""
    try:
        await write(line + "\n", is_json=is_json)
    except asyncio.CancelledError:
        tell(f"nunu-async: the result was not written: {line}")
        raise
    except OSError as error:
        tell(f"nunu-async: cannot write the result ({error.strerror}): {line}")
        return False
    return True


async def write(text: str, *, is_json: bool = False) -> None:
    """Write all of a text; while nobody reads, a signal can still end the command.

    What is for people is made harmless for terminals and CI runners; JSON stays exact.

    Standard output may be non-blocking: who shares the pipe or terminal sets that for all.

    Raises: OSError; BrokenPipeError when nobody will read any more.
    """
    if not is_json:
        text = harmless(text, styled=True)
    stream = sys.stdout
    if stream is None:
        if os.name == "nt":  # a program without a console
            return
        raise OSError(errno.EBADF, "standard output is closed")
    number = _descriptor(stream)
    if number is None:
        stream.write(text)
        stream.flush()
        return
    # Around the stream's buffer: it drops what a full pipe has not taken.
    data = memoryview(text.encode(stream.encoding, stream.errors or "strict"))
    stream.flush()
    while data:
        await _room(number)
        try:
            data = data[os.write(number, data[:_BLOCK]) :]
        except BlockingIOError:  # another process has filled it meanwhile
            await asyncio.sleep(0)


def _descriptor(stream: TextIO) -> int | None:
    """Return the descriptor to write to; None where the stream has to do it."""
    if os.name == "nt":  # a console takes UTF-16, by calls of its own
        return None
    try:
        return stream.fileno()
    except (AttributeError, OSError, ValueError):  # replaced by what has none
        return None


async def _room(number: int) -> None:
    """Wait until a pipe or terminal takes more; anything else always does. Raises: OSError."""
    try:
        if select.select((), (number,), (), 0)[1]:
            return
    except ValueError:  # a number that select has no room for
        return
    loop = asyncio.get_running_loop()
    room = asyncio.Event()
    task = asyncio.current_task()
    patience = _PATIENCE if task is not None and task.cancelling() else None
    loop.add_writer(number, room.set)
    try:
        async with asyncio.timeout(patience):
            await room.wait()
    except TimeoutError:
        raise OSError(errno.ETIMEDOUT, f"nobody has read for {_PATIENCE:g} s") from None
    finally:
        loop.remove_writer(number)
