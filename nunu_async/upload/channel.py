"""A socket without TLS that the kernel can feed from the page cache."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Self

from nunu_async.core.wire import is_tls, reset_on_close, socket_of

__all__ = ["Channel"]


class Channel:
    """A duplicate of the descriptor of a connection's socket.

    Event loops do not let a transport's own descriptor be watched. With a duplicate the transport
    keeps reading meanwhile, which `loop.sendfile` rules out, so an early response is seen at once.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.descriptor = sock.fileno()
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._is_cut = False

    @classmethod
    def of(cls, transport: asyncio.Transport | None) -> Self | None:
        """Duplicate the transport's socket; None with TLS, or where there is no socket."""
        sock = socket_of(transport)
        if transport is None or sock is None or is_tls(transport):
            return None
        try:
            return cls(socket.socket(fileno=os.dup(sock.fileno())))
        except OSError:  # out of descriptors, or closed
            return None

    async def writable(self) -> None:
        """Wait until the socket is writable or in error, or `cut` is called."""
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
        """Make the connection end with a reset; `writable` returns at once from now on."""
        reset_on_close(self._sock)
        self._is_cut = True
        self._ready()

    def close(self) -> None:
        """Close the descriptor; may be called twice.

        The connection ends with the last descriptor of its socket.
        """
        self._sock.close()
