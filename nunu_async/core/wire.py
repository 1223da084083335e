"""aiohttp code shared by session and storage: no resends, error translation, body limits."""

from __future__ import annotations

import asyncio
import gzip
import io
import os
import re
import socket
import struct
import zlib
from contextlib import suppress
from typing import Final

import aiohttp
from aiohttp import ClientHandlerType, ClientRequest, ClientResponse
from aiohttp.http_exceptions import (
    BadStatusLine,
    ContentEncodingError,
    ContentLengthError,
    HttpProcessingError,
    LineTooLong,
    TransferEncodingError,
)

from nunu_async.core.tls import is_hopeless
from nunu_async.errors import (
    CertificateError,
    ConnectError,
    NunuError,
    ProtocolError,
    ProxyError,
    StallError,
    TransportError,
)

# Limits on the headers of a response: bytes per line, and number of headers. aiohttp's own limits,
# 8,190 and 128, are lower than those of other clients, and than what some edge proxies send.
LONGEST_LINE: Final = 65_536
MOST_HEADERS: Final = 512
# Maximum bytes per read of a body.
_BLOCK: Final = 65_536
# Raised by transports whose connection is gone: by asyncio's TLS transport if closed twice or after
# the connection was lost (in 3.11.2 by `abort`, too), and by uvloop's transports.
_GONE: Final = (AttributeError, RuntimeError)
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


_REASONS: Final = (
    (ConnectionRefusedError, "Connection refused"),
    (ConnectionResetError, "Connection reset by peer"),
    (ConnectionAbortedError, "Connection aborted"),
    (BrokenPipeError, "Broken pipe"),
    (TimeoutError, "Connection timed out"),
)


# Messages of asyncio's thread pool if it cannot start a thread, or the main thread has ended.
_NO_THREAD: Final = ("new thread", "schedule new futures", "atexit after shutdown")


class Response(aiohttp.ClientResponse):
    """A response whose `repr` hides its URL: the query may hold signatures and upload ids.

    aiohttp itself prints the `repr` in its warning about a response that was never read, for
    example if the loop ends during a request.
    """

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.method} {self.url.host} [{self.status}]>"


def was_cancelled(error: BaseException) -> bool:
    """Tell whether an error is a real cancellation of this task.

    aiohttp itself raises CancelledError when the session is closed during a DNS lookup.
    """
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and (task is None or task.cancelling() > 0)


class _Dropped(Exception):
    """The connection was lost during a request."""


class UnsolicitedData(Exception):
    """A new connection received data before anything was sent."""


async def send_once(request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
    """Keep aiohttp from resending a request on its own.

    aiohttp 3.14 resends GET, PUT and DELETE at once, without a pause and not counted as an attempt,
    when the connection drops before a response (`ClientSession._request`, the `except
    (ClientOSError, ServerDisconnectedError)` branch). A client middleware is the public way to
    prevent that: after any other exception, aiohttp does not resend.
    """
    try:
        return await handler(request)
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
        raise  # nothing was sent, and aiohttp does not resend these
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _Dropped(_cause(error)) from None


def translate(error: BaseException, method: str, path: str) -> NunuError:
    """Convert any exception of a request to a NunuError; a NunuError is returned as it is.

    Raise the result after the `except` block, not in it, so that aiohttp's error does not remain as
    `__context__`: its `str`, its `repr` and the frames of its traceback hold full URLs and headers,
    signatures and keys included. The result keeps only a class name and the system's own text.
    """
    if isinstance(error, NunuError):
        return error.with_traceback(None)  # its frames hold the response
    where = f"{method} {path}"
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return ProxyError(
            f"{where}: the proxy answered {error.status} to the request for a tunnel",
            status=error.status,
            method=method,
            path=path,
        )
    kind, reason = _meaning(error)
    sent = not issubclass(kind, ConnectError)
    return kind(f"{where}: {reason}", method=method, path=path, sent=sent)


def _meaning(  # noqa: C901, PLR0911 - a list of cases
    error: BaseException,
) -> tuple[type[TransportError], str]:
    match error:
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ServerFingerprintMismatch():
            return CertificateError, "the server's certificate is not to be trusted"
        case aiohttp.ClientConnectorSSLError() if is_hopeless(error.os_error):
            tls = f"({getattr(error.os_error, 'reason', '')}) with {error.host}:{error.port}"
            return CertificateError, f"there is no TLS that both sides take {tls}"
        case aiohttp.ClientConnectorError():
            proxy = "the proxy " if isinstance(error, aiohttp.ClientProxyConnectionError) else ""
            peer = f"{proxy}{error.host}:{error.port}"
            return ConnectError, f"cannot connect to {peer} ({_cause(error.os_error)})"
        case aiohttp.ConnectionTimeoutError():
            return ConnectError, "no connection within the connect timeout"
        case aiohttp.ClientResponseError() if isinstance(error.__cause__, HttpProcessingError):
            return _malformed(error.__cause__)
        case UnsolicitedData():
            return ConnectError, "the server spoke before it was asked"
        case aiohttp.ClientPayloadError():
            reason = "the answer's body broke off, or is not in the form that its headers say"
            return TransportError, reason
        case _Dropped():
            return TransportError, f"the connection was lost ({error})"
        # aiohttp uses threads for DNS lookups only.
        case RuntimeError() if any(text in str(error) for text in _NO_THREAD):
            return ConnectError, (
                "the host's name cannot be looked up, because no thread can be started (a limit on "
                "processes or threads, or the program is ending)"
            )
        case TimeoutError():
            return StallError, "no answer in time"
        case _:  # any exception: a bare AttributeError was seen to escape from a read
            return TransportError, f"the exchange failed ({_cause(error)})"


def _malformed(error: BaseException) -> tuple[type[TransportError], str]:
    """Return the error class, and the HTTP rule that a response violates.

    The class is ProtocolError if a retry would fail in the same way. The rule is never in aiohttp's
    own text, which quotes the response.
    """
    cause = error.__cause__ or error
    text = str(getattr(cause, "message", ""))
    match cause:
        case LineTooLong():
            return ProtocolError, f"a line of the answer's headers is over {LONGEST_LINE:,} bytes"
        case BadStatusLine():
            # Perhaps the rest of another response, which a new connection would not have.
            return TransportError, "the answer does not begin with a status line of HTTP/1"
        case _ if text.startswith("Too many headers"):
            return ProtocolError, f"the answer has over {MOST_HEADERS} headers"
        case ContentEncodingError():
            return ProtocolError, "the answer is compressed in a way that was not asked for"
        case TransferEncodingError() | ContentLengthError():
            return TransportError, "the answer's body is not in the form that its headers say"
    # llhttp's own message; a quotation of the response follows it.
    rule = text.partition(":")[0]
    if not re.fullmatch("[A-Za-z' -]{1,80}", rule) or rule.startswith("Invalid HTTP header"):
        rule = "invalid header"
    kind = TransportError if "chunk" in rule else ProtocolError
    return kind, f"the answer breaks HTTP's rules ({rule})"


def _cause(error: BaseException) -> str:
    """Describe a system error, but never in its own text, which may hold an address."""
    if isinstance(error, socket.gaierror):
        if error.errno == socket.EAI_AGAIN:
            return "the host's name cannot be looked up at the moment"
        return "the host's name is not known"
    # On Windows `os.strerror` knows none of the error numbers of sockets.
    reason = next((reason for kind, reason in _REASONS if isinstance(error, kind)), "")
    if reason or not isinstance(error, OSError) or error.errno is None:
        return reason or type(error).__name__
    if getattr(error, "winerror", None):
        return error.strerror or type(error).__name__
    try:
        return os.strerror(error.errno)
    except (ValueError, OverflowError):
        return type(error).__name__


def headers_of(response: ClientResponse) -> dict[str, str]:
    """Return headers with lower-case names; different values of one name are joined by commas."""
    headers = {name.lower(): value for name, value in response.headers.items()}
    if len(headers) == len(response.headers):
        return headers
    values_of: dict[str, dict[str, None]] = {}
    for name, value in response.headers.items():
        values_of.setdefault(name.lower(), {})[value] = None
    return {name: ", ".join(values) for name, values in values_of.items()}


async def read_capped(response: ClientResponse, limit: int, *, cut: bool = False) -> bytes:
    """Read a body of at most `limit` decoded bytes; with `cut`, the start of a longer body.

    The status alone makes an error response a definite refusal. Its body may break off or be too
    long without an exception: then the part that was received, up to `limit`, is returned.

    Raises: TransportError for a longer body; half a MiB compressed can hold half a GiB.
    """
    is_error = not is_success(response.status)
    blocks: list[bytes] = []
    left = limit
    try:
        while block := await response.content.read(_BLOCK):
            blocks.append(block[:left])
            if len(block) > left:
                response.close()
                if cut or is_error:
                    break
                raise TransportError(
                    f"{response.method} {response.url.host}: the answer is longer than {limit} "
                    "bytes",
                    method=response.method,
                )
            left -= len(block)
        body = b"".join(blocks)
        if body and response.headers.get("Content-Encoding", "").strip().lower() == "x-gzip":
            body = _decompress(body, limit)  # the old name of gzip (RFC 9110, 8.4.1.3)
    except Exception:
        if not is_error:
            raise
        response.close()
        body = b"".join(blocks)
    return body


def _decompress(body: bytes, limit: int) -> bytes:
    try:
        content = gzip.GzipFile(fileobj=io.BytesIO(body)).read(limit + 1)
    except EOFError:
        raise TransportError("the answer's gzip is cut off") from None
    except (OSError, zlib.error):
        raise TransportError("the answer is no gzip, though its headers say so") from None
    if len(content) > limit:
        raise TransportError(f"the answer is longer than {limit} bytes")
    return content


def is_success(status: int) -> bool:
    """Tell whether an HTTP status is a 2xx."""
    return 200 <= status < 300  # noqa: PLR2004 - the class itself


def connect_timeout(seconds: float) -> aiohttp.ClientTimeout:
    """Return aiohttp timeouts that limit only connecting, DNS lookup included.

    `connect` would also count waiting for a pooled connection, but no request waits for one: both
    gates admit only as many requests as their pool has connections.
    """
    return aiohttp.ClientTimeout(total=None, connect=seconds, sock_connect=seconds)


async def yield_to_loop() -> None:
    """Yield to the event loop twice, enough for an aborted transport to close its socket."""
    for _ in range(2):
        await asyncio.sleep(0)


# Only the functions below call transport methods that raise once the connection is gone.


def socket_of(transport: asyncio.Transport | None) -> socket.socket | None:
    """Return a transport's socket; None if there is none, or the connection is gone."""
    try:
        return transport.get_extra_info("socket") if transport is not None else None
    except _GONE:
        return None


def is_tls(transport: asyncio.Transport) -> bool:
    """Tell whether a transport uses TLS."""
    try:
        return transport.get_extra_info("sslcontext") is not None
    except _GONE:
        return True  # plain transports never raise here


def buffered(transport: asyncio.Transport | None) -> int:
    """Return the number of bytes not yet passed to the kernel; 0 if the connection is gone."""
    try:
        return transport.get_write_buffer_size() if transport is not None else 0
    except _GONE:
        return 0


def limit_buffer(transport: asyncio.Transport, high: int | None = None) -> None:
    """Set the buffered bytes above which writers wait; None sets the transport's default."""
    with suppress(*_GONE):
        transport.set_write_buffer_limits(high=high)


def reset(transport: asyncio.Transport, sock: socket.socket | None) -> None:
    """Abort a connection so that no further byte reaches the peer, not even from the kernel.

    Takes effect within `yield_to_loop`. `sock` is the transport's socket, taken while connected.
    """
    try:
        current = transport.get_extra_info("socket")
    except _GONE:
        # The transport may still be flushing, for as long as a TLS shutdown may take, and cannot be
        # aborted. But it closes its socket once a read shows that the socket is shut down.
        if sock is not None:
            reset_on_close(sock)
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        return
    if current is not None:
        reset_on_close(current)
    with suppress(*_GONE):
        transport.abort()


def reset_on_close(sock: socket.socket) -> None:
    """Make closing a socket send an RST, which also drops data that the kernel has not sent."""
    # ValueError: raised by uvloop's socket once closed.
    with suppress(OSError, AttributeError, ValueError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
