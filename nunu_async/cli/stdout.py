"""Write results to standard output in full, or report that they were lost."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import sys
from typing import TextIO

from nunu_async.cli.harmless import harmless
from nunu_async.cli.output import echo_err, echo_lost

# A pipe that select reports as writable takes this many bytes without blocking (POSIX, PIPE_BUF; at
# least 512, 4096 on Linux). A larger write could block the event loop until the reader reads.
_BLOCK = getattr(select, "PIPE_BUF", 512)
# Seconds that an interrupted command waits for a reader that has stopped reading.
_READER_TIMEOUT = 2.0


async def echo(line: str, *, is_json: bool = False) -> None:
    """Write a line; if that fails, print it to standard error as lost."""
    try:
        await write(line + "\n", is_json=is_json)
    except asyncio.CancelledError:
        echo_err(f"the result was not written: {line}")
        raise
    except OSError as error:
        echo_lost(f"cannot write the result ({error.strerror}): {line}")


async def write(text: str, *, is_json: bool = False) -> None:
    """Write text in full; a signal can interrupt the write while the reader is slow.

    Text is made harmless for terminals and CI runners; JSON is written unchanged.

    Standard output may be non-blocking: any process that shares the pipe or terminal can do that.

    Raises: OSError; BrokenPipeError if the reader closed standard output.
    """
    if not is_json:
        text = harmless(text, styled=True)
    stream = sys.stdout
    if stream is None:
        if os.name == "nt":  # a program without a console
            return
        raise OSError(errno.EBADF, "standard output is closed")
    descriptor = _descriptor(stream)
    if descriptor is None:
        stream.write(text)
        stream.flush()
        return
    # Bypasses the stream's buffer, which drops data when a non-blocking pipe is full.
    data = memoryview(text.encode(stream.encoding, stream.errors or "strict"))
    stream.flush()
    while data:
        await _wait_until_writable(descriptor)
        try:
            data = data[os.write(descriptor, data[:_BLOCK]) :]
        except BlockingIOError:  # another process filled the pipe meanwhile
            await asyncio.sleep(0)


def _descriptor(stream: TextIO) -> int | None:
    """Return the file descriptor of a stream; None if the stream itself must be used."""
    if os.name == "nt":  # the console takes UTF-16, through its own API
        return None
    try:
        return stream.fileno()
    except (AttributeError, OSError, ValueError):  # an object without a descriptor
        return None


async def _wait_until_writable(descriptor: int) -> None:
    """Wait until a pipe or terminal is writable; files always are. Raises: OSError."""
    try:
        if select.select((), (descriptor,), (), 0)[1]:
            return
    except ValueError:  # a descriptor above FD_SETSIZE
        return
    loop = asyncio.get_running_loop()
    writable = asyncio.Event()
    task = asyncio.current_task()
    timeout = _READER_TIMEOUT if task is not None and task.cancelling() else None
    loop.add_writer(descriptor, writable.set)
    try:
        async with asyncio.timeout(timeout):
            await writable.wait()
    except TimeoutError:
        raise OSError(errno.ETIMEDOUT, f"nobody has read for {_READER_TIMEOUT:g} s") from None
    finally:
        loop.remove_writer(descriptor)
