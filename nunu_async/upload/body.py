"""A part's bytes on their way from the file to one connection."""

from __future__ import annotations

import asyncio
import math
import socket
import struct
import sys
from collections.abc import Callable
from typing import Final

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import StreamWriter

from nunu_async.core.turns import Turns
from nunu_async.core.wire import buffered, lapse, limit_buffer, reset, socket_of
from nunu_async.errors import NunuError, SourceError
from nunu_async.upload.channel import Channel
from nunu_async.upload.pace import Pace
from nunu_async.upload.plan import Part
from nunu_async.upload.source import Source
from nunu_async.upload.watch import Progress

if sys.platform == "win32":

    def _unacknowledged(sock: socket.socket) -> int:  # noqa: ARG001 - the system does not tell
        return 0

elif sys.platform == "darwin":
    # What is not acknowledged, too. Source: sys/socket.h; the `socket` module has no name for it.
    _SO_NWRITE: Final = 0x1024

    def _unacknowledged(sock: socket.socket) -> int:
        return sock.getsockopt(socket.SOL_SOCKET, _SO_NWRITE)

else:
    import fcntl
    import termios

    # Bytes the kernel still holds for the peer: SIOCOUTQ, which Linux numbers as TIOCOUTQ.
    _OUTQ: int | None = getattr(termios, "TIOCOUTQ", None)

    def _unacknowledged(sock: socket.socket) -> int:
        if _OUTQ is None:
            return 0
        return int(struct.unpack("i", fcntl.ioctl(sock.fileno(), _OUTQ, b"\0\0\0\0"))[0])


__all__ = ["BLOCK", "BYTES_A_TURN", "OnSent", "PartBody", "keep_freed_memory"]

# 256 KiB: the smallest block at which the cost for each byte had flattened when 1 GiB went to
# loopback in 16 MiB parts, 4 at once; four times the transport's own high-water mark.
BLOCK: Final = 256 * 1024
_FIRST: Final = 16 * 1024
# What all parts of a client may send in one turn of the event loop, where it has to read and
# encrypt the bytes: that takes a third of a millisecond.
BYTES_A_TURN: Final = 256 * 1024
# What the kernel sends by itself takes the loop a quarter of the time that other bytes take.
_CHEAPER: Final = 4
# What the kernel is given to send in one go, where it sends the file itself: at first, and at most.
# It grows while the socket takes it all, so that few bytes are looked for that do not leave yet.
_LEAST: Final = 64 * 1024
_MOST: Final = _CHEAPER * BYTES_A_TURN

# Of freed memory the process keeps up to twice as much.
_KEPT: Final = 4 * 1024 * 1024

OnSent = Callable[[int], None]


def keep_freed_memory() -> None:
    """Have glibc keep the memory of blocks that were sent for the next ones.

    It returns freed blocks to the system above a size that depends on what the process has done
    before. Then each block is made of pages that the system has to zero first: over TLS that was
    up to as much again as all else that sending costs, in one process and not in the next. To free
    one larger block raises that size, for the whole process and as long as it lives: it may hold
    on to blocks of up to 4 MiB that others free. Source: mallopt(3), M_MMAP_THRESHOLD. Without
    effect where the environment sets it, in other C libraries, and in free-threaded Python.
    """
    bytes(_KEPT)  # zeroed by the system when it is touched, which it is not


class PartBody(aiohttp.Payload):
    """A part's bytes on their way from the file to one connection.

    `write_with_length` is aiohttp's own way for a body to write itself. It gives what an async
    generator cannot: the transport, for the stall watch and for cutting a failed attempt off, and
    the certainty whether the whole length was handed over.
    """

    def __init__(
        self, source: Source, part: Part, on_sent: OnSent, pace: Pace, turns: Turns
    ) -> None:
        super().__init__(part, content_type="application/octet-stream")
        self._size = part.length
        self._consumed = True  # aiohttp must never take it for one it can send again
        self._source = source
        self._part = part
        self._on_sent = on_sent
        self._pace = pace
        self._turns = turns
        self._is_held = False
        self._channel: Channel | None = None
        self._writer: AbstractStreamWriter | None = None
        self._wire: asyncio.Transport | None = None
        self._sock: socket.socket | None = None
        self._answered = False
        self._left = asyncio.Event()
        self._given = 0
        self._paid = 0  # bytes that may leave, as far as the pace goes
        self._since_miss = math.inf
        self.sent = 0
        self.handed_over = False
        """Whether every byte has left for the kernel; said by the transport, never assumed."""
        self.error: NunuError | None = None

    @property
    def _transport(self) -> asyncio.Transport | None:
        # None again once the connection is lost: a transport that is gone must not be asked.
        return getattr(self._writer, "transport", None)

    def progress(self) -> Progress:
        """Return figures that change when a byte leaves, down to the kernel where it tells."""
        return Progress(
            self._given,
            buffered(self._transport),
            self.queued(),
            self.handed_over,
            paced=self._pace.is_limited,
            held=self._is_held,
        )

    def queued(self) -> int:
        """Return the bytes that the peer has not acknowledged; 0 where the kernel does not tell."""
        sock = socket_of(self._transport)
        if sock is None:
            return 0
        try:
            return _unacknowledged(sock)
        except (OSError, ValueError, AttributeError):
            return 0

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Write the part; aiohttp calls the other one."""
        await self.write_with_length(writer, None)

    async def write_with_length(
        self,
        writer: AbstractStreamWriter,
        content_length: int | None,  # noqa: ARG002 - ours is the planned length
    ) -> None:
        """Write the part and wait until the kernel has it. Raises: SourceError; SourceChanged."""
        self._writer = writer
        self._wire = self._transport
        self._sock = socket_of(self._wire)
        try:
            await self._write_all(writer)
            self.handed_over = True
        except NunuError as error:
            # aiohttp wraps what a body raises in an error of its own; `put` raises this one.
            self.error = error
            if isinstance(error, SourceError):
                error.part_number = self._part.number
            raise
        finally:
            self._left.set()

    async def _write_all(self, writer: AbstractStreamWriter) -> None:
        if self._source.sends:
            self._channel = Channel.of(self._wire)
        if self._channel is not None:
            await self._write_blocks(writer, _FIRST)  # takes the request's head along
        while self.sent < self._part.length:
            if self._channel is not None and self._source.is_warm(self._since_miss):
                await self._flush(writer)  # nothing may overtake what the transport still has
                await self._send_cached(self._channel)
            await self._write_blocks(writer, BLOCK)

    async def _send_cached(self, channel: Channel) -> None:
        """Have the kernel send bytes up to the first ones that the page cache does not hold."""
        size = _LEAST
        while wanted := self._pace.grain(min(size, self._part.length - self.sent)):
            await self._hold(wanted, -(-wanted // _CHEAPER))
            if self._is_gone():
                raise aiohttp.ClientConnectionResetError("the connection is closed")
            # Looked for right before they are sent: pages may be dropped at any time.
            length = self._source.cached(self._part.offset + self.sent, wanted)
            if not length:
                self._missed()
                return
            try:
                sent = self._source.send(channel.descriptor, self._part.offset + self.sent, length)
            except BlockingIOError:
                await channel.writable()
                continue
            except OSError:
                await lapse()  # the answer that came before the end may not be read yet
                raise
            if not sent:
                return
            self._given += sent
            self._since_miss += sent
            self._went(sent)
            if sent < length:
                size = max(sent, _LEAST)
                await channel.writable()
            else:
                size = min(2 * size, _MOST)

    async def _write_blocks(self, writer: AbstractStreamWriter, count: int) -> None:
        """Read and write the next `count` bytes, or what there is."""
        assert isinstance(writer, StreamWriter)  # noqa: S101 - aiohttp's only one, which can wait
        size = self._pace.grain(BLOCK)
        end = min(self.sent + count, self._part.length)
        while self.sent < end:
            length = min(size, end - self.sent)
            block = await self._source.read(self._part.offset + self.sent, length, self._missed)
            self._since_miss += length
            await self._hold(length, length)
            self._given += length
            await writer.write(block, drain=False)
            # A transport that fails at once says so by nothing else, and has dropped the block.
            if self._is_gone():
                await lapse()  # as above
                raise aiohttp.ClientConnectionResetError("the connection is closed")
            if self.sent + length < self._part.length:
                await writer.drain()
            else:  # at once: what happens to it from now on is told by this wait only
                await self._flush(writer)
            self._went(length)

    def _missed(self) -> None:
        self._since_miss = 0

    async def _hold(self, count: int, work: int) -> None:
        """Wait until `count` bytes may leave this client, and for a turn of the loop with room."""
        due = count - self._paid
        self._is_held = True
        try:
            if due > 0:
                await self._pace.turn(due, self._is_gone)
                self._paid += due
            await self._turns.ready(work)
        finally:
            self._is_held = False

    def _went(self, count: int) -> None:
        self.sent += count
        self._paid -= count
        self._on_sent(self.sent)

    def _is_gone(self) -> bool:
        transport = self._transport
        return transport is None or transport.is_closing()

    async def _flush(self, writer: AbstractStreamWriter) -> None:
        """Wait until the transport's own buffer is empty.

        An answer that comes before that is not one to the whole part, however well it reads.
        """
        transport = self._transport
        if transport is None:
            return
        # Only with bytes in it: TLS transports pause at `size >= high`, so that an empty buffer
        # with the limit at 0 pauses, and nothing that we do would ever resume it.
        if buffered(transport):
            limit_buffer(transport, 0)
            try:
                await writer.drain()  # raises if the connection is lost with bytes still in it
            finally:
                limit_buffer(transport)

    def answered(self) -> None:
        """Take note that the exchange is over: the connection may carry another part by now."""
        self._answered = True
        if self._channel is not None:
            self._channel.close()

    async def cut_off(self) -> None:
        """Make sure that no further byte of this attempt reaches the peer; wait until it is so.

        A plain close would first flush what is buffered, and a late copy of a part must not
        arrive after the upload was cancelled. A reset also drops what the kernel holds.

        By now aiohttp may have closed the connection and let go of it; to a peer that takes
        nothing that close has no end, so it is the transport itself that is reset.
        """
        if self._wire is not None and not self._answered:
            reset(self._wire, self._sock)
        if self._channel is not None:
            self._channel.cut()
        if self._writer is not None:
            await self._left.wait()
        if self._channel is not None:  # last: what aiohttp has closed in order ends here, by force
            self._channel.close()
        await lapse()

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:  # noqa: ARG002
        """Refuse, as the base class wants a way."""
        raise TypeError("a part is never held as text")
