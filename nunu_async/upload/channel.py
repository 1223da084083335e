"""A plain socket that the kernel can feed from the page cache."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Self

from nunu_async.core.wire import is_tls, reset_on_close, socket_of

__all__ = ["Channel"]


class Channel:
    """A connection's socket under a descriptor of our own, beside its transport.

    Event loops let nobody watch a transport's descriptor. With a copy of it the transport goes on
    reading meanwhile, which `loop.sendfile` forbids: an answer that comes early is heard at once.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.descriptor = sock.fileno()
        self._loop = asyncio.get_running_loop()
        self._turn: asyncio.Future[None] | None = None
        self._woken = False

    @classmethod
    def of(cls, transport: asyncio.Transport | None) -> Self | None:
        """Return one; None where bytes are changed on their way (TLS), or there is no socket."""
        sock = socket_of(transport)
        if transport is None or sock is None or is_tls(transport):
            return None
        try:
            return cls(socket.socket(fileno=os.dup(sock.fileno())))
        except OSError:  # out of descriptors, or gone
            return None

    async def writable(self) -> None:
        """Wait until the socket takes bytes, or is in error, or `cut` was called."""
        if self._woken:
            return
        turn = self._turn = self._loop.create_future()
        self._loop.add_writer(self.descriptor, self._ready)
        try:
            await turn
        finally:
            self._turn = None
            self._loop.remove_writer(self.descriptor)

    def _ready(self) -> None:
        if self._turn is not None and not self._turn.done():
            self._turn.set_result(None)

    def cut(self) -> None:
        """Let nobody wait here from now on, and the connection end by a reset."""
        reset_on_close(self._sock)
        self._woken = True
        self._ready()

    def close(self) -> None:
        """Let go of the descriptor; may be called twice.

        The connection ends with the last one of its socket.
        """
        self._sock.close()
