"""The request body of one part: read from the file, written to one connection."""

from __future__ import annotations

import asyncio
import math
import os
import socket
import struct
import sys
from collections.abc import Callable
from typing import Final, Self

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import StreamWriter

from nunu_async.core.turns import Turns
from nunu_async.core.wire import (
    buffered,
    is_tls,
    limit_buffer,
    reset,
    reset_on_close,
    socket_of,
    yield_to_loop,
)
from nunu_async.errors import NunuError, SourceError
from nunu_async.upload.limits import BandwidthLimiter
from nunu_async.upload.plan import Part
from nunu_async.upload.source import Source
from nunu_async.upload.stall import TransferStats

if sys.platform == "win32":

    def _unacknowledged(sock: socket.socket) -> int:  # noqa: ARG001 - no such query
        return 0

elif sys.platform == "darwin":
    # Counts unacknowledged bytes, like SIOCOUTQ below. Source: sys/socket.h; not in `socket`.
    _SO_NWRITE: Final = 0x1024

    def _unacknowledged(sock: socket.socket) -> int:
        return sock.getsockopt(socket.SOL_SOCKET, _SO_NWRITE)

else:
    import fcntl
    import termios

    # SIOCOUTQ counts unacknowledged bytes; on Linux it has the same number as TIOCOUTQ.
    _OUTQ: int | None = getattr(termios, "TIOCOUTQ", None)

    def _unacknowledged(sock: socket.socket) -> int:
        if _OUTQ is None:
            return 0
        return int(struct.unpack("i", fcntl.ioctl(sock.fileno(), _OUTQ, b"\0\0\0\0"))[0])


# The cost per byte stops falling at 256 KiB (measured: 1 GiB to loopback in 16 MiB parts, 4 at a
# time). This is four times the transport's own high-water mark.
BLOCK: Final = 256 * 1024
_FIRST_BLOCK: Final = 16 * 1024
# Bytes that all parts of a client together may send per event loop iteration if they are read and
# encrypted on the loop: about a third of a millisecond of work.
BYTES_A_TURN: Final = 256 * 1024
# Sending by sendfile takes a quarter of the loop time per byte.
_SENDFILE_DISCOUNT: Final = 4
# Initial and maximum bytes per sendfile call. The size doubles while the socket accepts all of it,
# so that the page cache is rarely probed for bytes that cannot be sent yet.
_MIN_SENDFILE: Final = 64 * 1024
_MAX_SENDFILE: Final = _SENDFILE_DISCOUNT * BYTES_A_TURN

# Bytes; glibc then keeps up to twice as much freed memory in the process.
_FREED_BLOCK: Final = 4 * 1024 * 1024

OnSent = Callable[[int], None]


def keep_freed_memory() -> None:
    """Make glibc reuse the memory of sent blocks.

    By default, glibc returns freed blocks to the system if they exceed a threshold that depends on
    the process's history. New blocks then consist of new pages that the kernel has to zero: over
    TLS this could double the cost of sending, in some processes and not in others. Freeing one
    larger block raises the threshold for the whole process and its lifetime: freed blocks of up to
    4 MiB may be kept, whichever code they belong to. Source: mallopt(3), M_MMAP_THRESHOLD. No
    effect if the environment sets the threshold, with other C libraries, or in free-threaded
    Python.
    """
    bytes(_FREED_BLOCK)  # never touched, so the kernel never has to zero it


class Channel:
    """A duplicate descriptor of a socket without TLS, for sendfile.

    Event loops do not allow watching a transport's own descriptor. With a duplicate, unlike with
    `loop.sendfile`, the transport keeps reading during the transfer, so an early response is seen
    at once.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.descriptor = sock.fileno()
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._is_cut = False

    @classmethod
    def of(cls, transport: asyncio.Transport | None) -> Self | None:
        """Duplicate the transport's socket; None if it uses TLS or has no socket."""
        sock = socket_of(transport)
        if transport is None or sock is None or is_tls(transport):
            return None
        try:
            return cls(socket.socket(fileno=os.dup(sock.fileno())))
        except OSError:  # out of descriptors, or closed
            return None

    async def writable(self) -> None:
        """Wait until the socket is writable or has an error, or until `cut` is called."""
        if self._is_cut:
            return
        waiter = self._waiter = self._loop.create_future()
        self._loop.add_writer(self.descriptor, self._ready)
        try:
            await waiter
        finally:
            self._waiter = None
            self._loop.remove_writer(self.descriptor)

    def _ready(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def cut(self) -> None:
        """Make closing reset the connection; from now on `writable` returns at once."""
        reset_on_close(self._sock)
        self._is_cut = True
        self._ready()

    def close(self) -> None:
        """Close the descriptor; may be called twice.

        The connection ends when the last descriptor of its socket is closed.
        """
        self._sock.close()


class PartBody(aiohttp.Payload):
    """A request body that sends one part of the file over one connection.

    `write_with_length` is aiohttp's hook for a body that writes itself. Unlike an async generator,
    it gives access to the transport (to detect stalls, and to reset a failed attempt) and shows
    whether the whole length was handed over.
    """

    def __init__(
        self, source: Source, part: Part, on_sent: OnSent, pace: BandwidthLimiter, turns: Turns
    ) -> None:
        super().__init__(part, content_type="application/octet-stream")
        self._size = part.length
        self._consumed = True  # so that aiohttp never sends it again
        self._source = source
        self._part = part
        self._on_sent = on_sent
        self._pace = pace
        self._turns = turns
        self._is_held = False
        self._channel: Channel | None = None
        self._writer: AbstractStreamWriter | None = None
        self._first_transport: asyncio.Transport | None = None
        self._sock: socket.socket | None = None
        self._answered = False
        self._write_ended = asyncio.Event()
        self._given = 0
        self._allowed = 0  # bytes that the bandwidth limit allows beyond `sent`
        self._since_miss = math.inf
        self.sent = 0
        self.handed_over = False
        """Whether the transport has reported that the kernel has every byte."""
        self.error: NunuError | None = None

    @property
    def _transport(self) -> asyncio.Transport | None:
        # Also None once the connection is lost: a closed transport must not be queried.
        return getattr(self._writer, "transport", None)

    def progress(self) -> TransferStats:
        """Return counters that change with every byte sent, including the kernel's if known."""
        return TransferStats(
            self._given,
            buffered(self._transport),
            self.queued(),
            self.handed_over,
            paced=self._pace.is_limited,
            held=self._is_held,
        )

    def queued(self) -> int:
        """Return the number of bytes that the peer has not acknowledged; 0 if unknown."""
        sock = socket_of(self._transport)
        if sock is None:
            return 0
        try:
            return _unacknowledged(sock)
        except (OSError, ValueError, AttributeError):
            return 0

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Write the part; aiohttp itself calls `write_with_length`."""
        await self.write_with_length(writer, None)

    async def write_with_length(
        self,
        writer: AbstractStreamWriter,
        content_length: int | None,  # noqa: ARG002 - ours is the planned length
    ) -> None:
        """Write the part and wait until the kernel has it. Raises: SourceError; SourceChanged."""
        self._writer = writer
        self._first_transport = self._transport
        self._sock = socket_of(self._first_transport)
        try:
            await self._write_all(writer)
            self.handed_over = True
        except NunuError as error:
            # aiohttp wraps a body's exceptions in its own; `Storage.put` raises the original.
            self.error = error
            if isinstance(error, SourceError):
                error.part_number = self._part.number
            raise
        finally:
            self._write_ended.set()

    async def _write_all(self, writer: AbstractStreamWriter) -> None:
        if self._source.sends:
            self._channel = Channel.of(self._first_transport)
        if self._channel is not None:
            await self._write_blocks(writer, _FIRST_BLOCK)  # sends the request's headers too
        while self.sent < self._part.length:
            if self._channel is not None and self._source.is_warm(self._since_miss):
                await self._flush(writer)  # or sendfile would overtake buffered bytes
                await self._send_cached(self._channel)
            await self._write_blocks(writer, BLOCK)

    async def _send_cached(self, channel: Channel) -> None:
        """Send bytes by sendfile until some are not in the page cache."""
        size = _MIN_SENDFILE
        while wanted := self._pace.grain(min(size, self._part.length - self.sent)):
            await self._wait_to_send(wanted, -(-wanted // _SENDFILE_DISCOUNT))
            if self._is_gone():
                raise aiohttp.ClientConnectionResetError("the connection is closed")
            # Probe right before sending: pages may be evicted at any time.
            length = self._source.cached(self._part.offset + self.sent, wanted)
            if not length:
                self._on_miss()
                return
            try:
                sent = self._source.send(channel.descriptor, self._part.offset + self.sent, length)
            except BlockingIOError:
                await channel.writable()
                continue
            except OSError:
                await yield_to_loop()  # an early response may not have been read yet
                raise
            if not sent:
                return
            self._given += sent
            self._since_miss += sent
            self._advance(sent)
            if sent < length:
                size = max(sent, _MIN_SENDFILE)
                await channel.writable()
            else:
                size = min(2 * size, _MAX_SENDFILE)

    async def _write_blocks(self, writer: AbstractStreamWriter, count: int) -> None:
        """Read and write the next `count` bytes, or as many as are left."""
        assert isinstance(writer, StreamWriter)  # noqa: S101 - aiohttp's only writer; `drain`
        size = self._pace.grain(BLOCK)
        end = min(self.sent + count, self._part.length)
        while self.sent < end:
            length = min(size, end - self.sent)
            block = await self._source.read(self._part.offset + self.sent, length, self._on_miss)
            self._since_miss += length
            await self._wait_to_send(length, length)
            self._given += length
            await writer.write(block, drain=False)
            # A transport that fails immediately drops the block; the only sign is that it is
            # closing.
            if self._is_gone():
                await yield_to_loop()  # an early response may not have been read yet
                raise aiohttp.ClientConnectionResetError("the connection is closed")
            if self.sent + length < self._part.length:
                await writer.drain()
            else:  # not `drain`: only `_flush` raises errors that occur from here on
                await self._flush(writer)
            self._advance(length)

    def _on_miss(self) -> None:
        self._since_miss = 0

    async def _wait_to_send(self, count: int, work: int) -> None:
        """Wait until the bandwidth limit allows `count` bytes and the loop has room for `work`."""
        due = count - self._allowed
        self._is_held = True
        try:
            if due > 0:
                await self._pace.turn(due, self._is_gone)
                self._allowed += due
            await self._turns.ready(work)
        finally:
            self._is_held = False

    def _advance(self, count: int) -> None:
        self.sent += count
        self._allowed -= count
        self._on_sent(self.sent)

    def _is_gone(self) -> bool:
        transport = self._transport
        return transport is None or transport.is_closing()

    async def _flush(self, writer: AbstractStreamWriter) -> None:
        """Wait until the transport's own buffer is empty.

        A response received before that does not acknowledge the whole part, even if it is a 2xx.
        """
        transport = self._transport
        if transport is None:
            return
        # Not if the buffer is empty: TLS transports pause at `size >= high`, so with a limit of 0
        # an empty buffer would pause and never resume.
        if buffered(transport):
            limit_buffer(transport, 0)
            try:
                await writer.drain()  # raises if the connection is lost with bytes still buffered
            finally:
                limit_buffer(transport)

    def answered(self) -> None:
        """Record that the exchange is finished; the connection may already carry another part."""
        self._answered = True
        if self._channel is not None:
            self._channel.close()

    async def cut_off(self) -> None:
        """Reset the connection, so that no further byte of this attempt reaches the peer.

        A normal close would first flush the buffers, and a late copy of a part must not arrive
        after the upload was cancelled. A reset also drops the kernel's buffer. Waits until writing
        has ended.

        aiohttp may already have closed and dropped the connection. If the peer reads nothing, that
        close never finishes, so the transport itself is reset.
        """
        if self._first_transport is not None and not self._answered:
            reset(self._first_transport, self._sock)
        if self._channel is not None:
            self._channel.cut()
        if self._writer is not None:
            await self._write_ended.wait()
        if self._channel is not None:  # last: resets a connection that aiohttp closed gracefully
            self._channel.close()
        await yield_to_loop()

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:  # noqa: ARG002
        """Raise TypeError; the base class requires this method."""
        raise TypeError("a part is never held as text")
