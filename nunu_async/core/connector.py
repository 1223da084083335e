"""A connection pool that discards idle connections holding unsolicited data."""

from __future__ import annotations

import asyncio
import select
import socket
import sys
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection

from nunu_async.core.wire import UnsolicitedData, is_tls, socket_of

if TYPE_CHECKING:
    import ssl

    from aiohttp.tracing import Trace

# Seconds for which DNS results are cached. The pauses between the attempts of one part add up to 26
# seconds on average, so a host that has moved is looked up again before the last attempt.
NAME_LIFE: Final = 10
# TCP keep-alive: idle seconds before the first probe, and between probes. The first option has
# another name on macOS.
_KEEPALIVE: Final = ((("TCP_KEEPIDLE", "TCP_KEEPALIVE"), 45), (("TCP_KEEPINTVL",), 15))
# Loop iterations that a Proactor needs to pass received data to the protocol: two per read, and TLS
# may have several records pending, such as the server's session tickets.
_ITERATIONS: Final = 8


class Connector(aiohttp.TCPConnector):
    """A connector that never returns a connection with unread data.

    A server or edge proxy that responds twice, or that announces the timeout of an idle connection,
    leaves an unread response on the connection. aiohttp 3.14 checks for unread data when a
    connection returns to the pool, not when it is taken out (`BaseConnector._get`), and would use
    that data as the response to the next request. No client can recognise a stray response that
    arrives after the next request was sent.
    """

    def __init__(self, limit: int, tls: ssl.SSLContext | None) -> None:
        super().__init__(
            limit=limit, ttl_dns_cache=NAME_LIFE, ssl=tls or True, socket_factory=_keepalive_socket
        )
        self._used: weakref.WeakSet[ResponseHandler] = weakref.WeakSet()

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - the base's signature
    ) -> Connection:
        """Return a connection without unread data, from the pool or new.

        Raises: UnsolicitedData if even a new connection has unread data.
        """
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol = connection.protocol
            assert protocol is not None  # noqa: S101 - for the type checker: it was just taken
            if _reads_ahead(asyncio.get_running_loop()):
                try:
                    for _ in range(_ITERATIONS):
                        await asyncio.sleep(0)
                except asyncio.CancelledError:
                    connection.close()
                    raise
            is_new = protocol not in self._used
            if not (protocol.should_close or _has_data(connection.transport, is_new=is_new)):
                self._used.add(protocol)
                return connection
            connection.close()
            if is_new:
                raise UnsolicitedData


def _keepalive_socket(
    address: tuple[int, int, int, str, tuple[object, ...]],
) -> socket.socket:
    """Create a socket with TCP keep-alive.

    Completing a build may take minutes without any traffic, and many NATs drop connections that are
    idle for that long. Source: RFC 5382, REQ-5.
    """
    family, kind, protocol, *_ = address
    sock = socket.socket(family, kind, protocol)
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for names, seconds in _KEEPALIVE:
            option = next((getattr(socket, n) for n in names if hasattr(socket, n)), None)
            if option is not None:
                sock.setsockopt(socket.IPPROTO_TCP, option, seconds)
    return sock


def _reads_ahead(loop: asyncio.AbstractEventLoop) -> bool:
    """Tell whether the loop reads ahead, so that received data is no longer in the kernel."""
    return sys.platform == "win32" and isinstance(loop, asyncio.ProactorEventLoop)


def _has_data(transport: asyncio.Transport | None, *, is_new: bool) -> bool:
    """Tell whether the kernel holds data, or EOF, for a connection that should be silent."""
    sock = socket_of(transport)
    # A new TLS connection may hold the server's session tickets, which is legitimate.
    if transport is None or sock is None or (is_new and is_tls(transport)):
        return False
    return _is_readable(sock.fileno())


if sys.platform == "win32":

    def _is_readable(descriptor: int) -> bool:
        return bool(select.select([descriptor], [], [], 0)[0])

else:

    def _is_readable(descriptor: int) -> bool:
        poller = select.poll()  # unlike `select`, accepts descriptors above 1023
        poller.register(descriptor, select.POLLIN)
        return bool(poller.poll(0))
