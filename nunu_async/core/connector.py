"""Connections that are used again, unless something lies on them that nobody asked for."""

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

from nunu_async.core.wire import Unasked, is_tls, socket_of

if TYPE_CHECKING:
    import ssl

    from aiohttp.tracing import Trace

__all__ = ["Connector"]

# Seconds for which the addresses of a name are used. The pauses between the attempts of one part
# come to 26 on average: a host that has moved is looked up anew before the last of them.
NAME_LIFE: Final = 10
# Seconds without a byte before the first probe, and between two. macOS has another name for one.
_PROBES: Final = ((("TCP_KEEPIDLE", "TCP_KEEPALIVE"), 45), (("TCP_KEEPINTVL",), 15))
# Turns of the loop in which a Proactor gives what it has read to the protocol: each read needs two,
# and TLS may have several records lying there, as the server's tickets are.
_TURNS: Final = 8


class Connector(aiohttp.TCPConnector):
    """A pool that gives out no connection on which there are bytes already.

    A server, or an edge before it, that answers a request twice, or tells an idle connection that
    its time is over, leaves an answer on it. aiohttp 3.14 looks for such bytes when a connection
    goes back to the pool and not when it is taken out (`BaseConnector._get`), and would hand them
    to the next request as its answer. An answer that comes when that request is already on its way
    is like a right one, and no client can tell.
    """

    def __init__(self, limit: int, tls: ssl.SSLContext | None) -> None:
        super().__init__(
            limit=limit, ttl_dns_cache=NAME_LIFE, ssl=tls or True, socket_factory=_kept_alive
        )
        self._used: weakref.WeakSet[ResponseHandler] = weakref.WeakSet()

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - the base's signature
    ) -> Connection:
        """Give a connection on which nothing was said, from the pool or new.

        Raises: Unasked where even a new one has something on it.
        """
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol = connection.protocol
            assert protocol is not None  # noqa: S101 - for the type checker: it was just taken
            if _reads_ahead(asyncio.get_running_loop()):
                try:
                    for _ in range(_TURNS):
                        await asyncio.sleep(0)
                except asyncio.CancelledError:
                    connection.close()
                    raise
            is_new = protocol not in self._used
            if not (protocol.should_close or _has_news(connection.transport, is_new=is_new)):
                self._used.add(protocol)
                return connection
            connection.close()
            if is_new:
                raise Unasked


def _kept_alive(
    address: tuple[int, int, int, str, tuple[object, ...]],
) -> socket.socket:
    """Make a socket whose idle connection is not forgotten on the way.

    A build may take minutes to complete, without a byte; many NATs drop a connection that was
    silent for as long. Source: RFC 5382, REQ-5.
    """
    family, kind, protocol, *_ = address
    sock = socket.socket(family, kind, protocol)
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for names, seconds in _PROBES:
            option = next((getattr(socket, n) for n in names if hasattr(socket, n)), None)
            if option is not None:
                sock.setsockopt(socket.IPPROTO_TCP, option, seconds)
    return sock


def _reads_ahead(loop: asyncio.AbstractEventLoop) -> bool:
    """Tell whether a read is always under way, so that bytes that came are not the kernel's."""
    return sys.platform == "win32" and isinstance(loop, asyncio.ProactorEventLoop)


def _has_news(transport: asyncio.Transport | None, *, is_new: bool) -> bool:
    """Tell whether the kernel has bytes, or the end, of a connection that should be silent."""
    sock = socket_of(transport)
    # Under TLS a new one may hold the server's tickets, which nobody asks for.
    if transport is None or sock is None or (is_new and is_tls(transport)):
        return False
    return _is_readable(sock.fileno())


if sys.platform == "win32":

    def _is_readable(descriptor: int) -> bool:
        return bool(select.select([descriptor], [], [], 0)[0])

else:

    def _is_readable(descriptor: int) -> bool:
        looking = select.poll()  # knows descriptors above 1023, unlike `select`
        looking.register(descriptor, select.POLLIN)
        return bool(looking.poll(0))
