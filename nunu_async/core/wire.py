"""What the session and the storage share of aiohttp: one send, one translation, one cap."""

from __future__ import annotations

import asyncio
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

__all__ = [
    "LONGEST_LINE",
    "MOST_HEADERS",
    "Response",
    "Unasked",
    "buffered",
    "connect_timeout",
    "headers_of",
    "is_success",
    "is_tls",
    "lapse",
    "limit_buffer",
    "read_capped",
    "reset",
    "reset_on_close",
    "send_once",
    "socket_of",
    "translate",
    "was_cancelled",
]

# What is read of an answer's head: each line, and how many. aiohttp's own 8,190 bytes and 128 are
# less than other clients read, and than some edges send.
LONGEST_LINE: Final = 65_536
MOST_HEADERS: Final = 512
# Bytes read from a body at a time, at most.
_BLOCK: Final = 65_536
# What transports raise that have nothing below them any more: asyncio's over TLS, once closed
# twice or closed after their connection was lost (that of 3.11.2 from `abort`, too), and uvloop's.
_GONE: Final = (AttributeError, RuntimeError)
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


_WORDS: Final = (
    (ConnectionRefusedError, "Connection refused"),
    (ConnectionResetError, "Connection reset by peer"),
    (ConnectionAbortedError, "Connection aborted"),
    (BrokenPipeError, "Broken pipe"),
    (TimeoutError, "Connection timed out"),
)


# What asyncio's pool says where it can start no thread, and after the main thread has ended.
_NO_THREAD: Final = ("new thread", "schedule new futures", "atexit after shutdown")


class Response(aiohttp.ClientResponse):
    """A response that does not show its URL, in whose query signatures and upload ids stand.

    aiohttp shows one by itself: in the warning about a response that was dropped unread, as when a
    loop ends with a request under way.
    """

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.method} {self.url.host} [{self.status}]>"


def was_cancelled() -> bool:
    """Tell whether somebody has cancelled this task, as a CancelledError alone does not say.

    aiohttp raises one of its own in who looks up a name while the session is closed.
    """
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


class _Dropped(Exception):
    """The connection went away under a request."""


class Unasked(Exception):
    """A new connection had something on it before anything was sent."""


async def send_once(request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
    """Keep aiohttp from sending a request a second time on its own.

    aiohttp 3.14 repeats GET, PUT and DELETE at once, without a pause and outside our count, when
    the connection drops before an answer (`ClientSession._request`, the `except (ClientOSError,
    ServerDisconnectedError)` branch). A client middleware is the public place to stand between:
    an exception that is neither of the two goes straight through.
    """
    try:
        return await handler(request)
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
        raise  # nothing was sent, and aiohttp does not repeat these
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _Dropped(_cause(error)) from None


def translate(  # noqa: C901, PLR0912 - a list of cases
    error: BaseException, method: str, path: str
) -> NunuError:
    """Make ours of any exception of a request; ours stay as they are.

    To be raised after the `except` block and not in it: `str` and `repr` of aiohttp's errors, and
    the frames in their tracebacks, hold full URLs and headers, signatures and keys included, and
    must not hang on as `__context__`. Only a class name and the system's own words carry over.
    """
    where = f"{method} {path}"
    kind: type[TransportError] = TransportError
    sent = True
    match error:
        case NunuError():
            return error.with_traceback(None)  # whose frames hold the answer
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ServerFingerprintMismatch():
            kind, sent = CertificateError, False
            told = "the server's certificate is not to be trusted"
        case aiohttp.ClientConnectorSSLError() if is_hopeless(error.os_error):
            kind, sent = CertificateError, False
            reason = getattr(error.os_error, "reason", "")
            told = f"there is no TLS that both sides take ({reason}) with {error.host}:{error.port}"
        case aiohttp.ClientHttpProxyError():
            return ProxyError(
                f"{where}: the proxy answered {error.status} to the request for a tunnel",
                status=error.status,
                method=method,
                path=path,
            )
        case aiohttp.ClientProxyConnectionError():
            kind, sent = ConnectError, False
            told = (
                f"cannot connect to the proxy {error.host}:{error.port} ({_cause(error.os_error)})"
            )
        case aiohttp.ClientConnectorError():
            kind, sent = ConnectError, False
            told = f"cannot connect to {error.host}:{error.port} ({_cause(error.os_error)})"
        case aiohttp.ConnectionTimeoutError():
            kind, sent = ConnectError, False
            told = "no connection within the connect timeout"
        case aiohttp.ClientResponseError() if isinstance(error.__cause__, HttpProcessingError):
            kind, told = _malformed(error.__cause__)
        case Unasked():
            kind, sent = ConnectError, False
            told = "the server spoke before it was asked"
        case aiohttp.ClientPayloadError():
            told = "the answer's body broke off, or is not in the form that its headers say"
        case _Dropped():
            told = f"the connection was lost ({error})"
        # Threads look up names, and nothing else that aiohttp does needs one.
        case RuntimeError() if any(words in str(error) for words in _NO_THREAD):
            kind, sent = ConnectError, False
            told = (
                "the host's name cannot be looked up, because no thread can be started (a limit on "
                "processes or threads, or the program is ending)"
            )
        case TimeoutError():
            kind = StallError
            told = "no answer in time"
        case _:  # anything at all: a bare AttributeError was seen to escape from a read
            told = f"the exchange failed ({_cause(error)})"
    return kind(f"{where}: {told}", method=method, path=path, sent=sent)


def _malformed(error: BaseException) -> tuple[type[TransportError], str]:
    """Say which rule of HTTP an answer breaks, and whether another one would break it again.

    Never with aiohttp's own text, which quotes the answer.
    """
    cause = error.__cause__ or error
    text = str(getattr(cause, "message", ""))
    match cause:
        case LineTooLong():
            return ProtocolError, f"a line of the answer's headers is over {LONGEST_LINE:,} bytes"
        case BadStatusLine():
            # Perhaps what was left of another answer: a new connection may have none of it.
            return TransportError, "the answer does not begin with a status line of HTTP/1"
        case _ if text.startswith("Too many headers"):
            return ProtocolError, f"the answer has over {MOST_HEADERS} headers"
        case ContentEncodingError():
            return ProtocolError, "the answer is compressed in a way that was not asked for"
        case TransferEncodingError() | ContentLengthError():
            return TransportError, "the answer's body is not in the form that its headers say"
    # llhttp's own sentence, and then a quotation.
    rule = text.partition(":")[0]
    if not re.fullmatch("[A-Za-z' -]{1,80}", rule) or rule.startswith("Invalid HTTP header"):
        rule = "invalid header"
    kind = TransportError if "chunk" in rule else ProtocolError
    return kind, f"the answer breaks HTTP's rules ({rule})"


def _cause(error: BaseException) -> str:
    """Say what an error of the system means; never with its own text, which may hold an address."""
    if isinstance(error, socket.gaierror):
        if error.errno == socket.EAI_AGAIN:
            return "the host's name cannot be looked up at the moment"
        return "the host's name is not known"
    # Windows numbers those of sockets so that `os.strerror` knows none of them.
    words = next((words for kind, words in _WORDS if isinstance(error, kind)), "")
    if words or not isinstance(error, OSError) or error.errno is None:
        return words or type(error).__name__
    if getattr(error, "winerror", None):
        return error.strerror or type(error).__name__
    try:
        return os.strerror(error.errno)
    except (ValueError, OverflowError):
        return type(error).__name__


def headers_of(response: ClientResponse) -> dict[str, str]:
    """Return an answer's headers, names in lower case; one that differs from itself is a list."""
    headers = {name.lower(): value for name, value in response.headers.items()}
    if len(headers) == len(response.headers):
        return headers
    found: dict[str, dict[str, None]] = {}
    for name, value in response.headers.items():
        found.setdefault(name.lower(), {})[value] = None
    return {name: ", ".join(values) for name, values in found.items()}


async def read_capped(response: ClientResponse, limit: int, *, cut: bool = False) -> bytes:
    """Read a body of at most `limit` decoded bytes; with `cut`, the start of a longer one.

    What a refusal is, its status has said already: a body that breaks off, or is too long, must
    not turn a definite no into a lost answer, so of that as much is read as comes.

    Raises: TransportError for a longer one; a compressed half MiB can hold half a GiB.
    """
    refused = not is_success(response.status)
    blocks: list[bytes] = []
    left = limit
    try:
        while block := await response.content.read(_BLOCK):
            blocks.append(block[:left])
            if len(block) > left:
                response.close()
                if cut or refused:
                    break
                raise TransportError(
                    f"{response.method} {response.url.host}: the answer is longer than {limit} "
                    "bytes",
                    method=response.method,
                )
            left -= len(block)
        body = b"".join(blocks)
        if body and response.headers.get("Content-Encoding", "").strip().lower() == "x-gzip":
            body = _unpacked(body, limit)  # the old name of gzip (RFC 9110, 8.4.1.3)
    except Exception:
        if not refused:
            raise
        response.close()
        body = b"".join(blocks)
    return body


def _unpacked(body: bytes, limit: int) -> bytes:
    found = b""
    while body:  # one member after the other
        reading = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        try:
            found += reading.decompress(body, limit + 1 - len(found))
        except zlib.error:
            raise TransportError("the answer is no gzip, though its headers say so") from None
        if len(found) > limit:
            raise TransportError(f"the answer is longer than {limit} bytes")
        if not reading.eof:
            raise TransportError("the answer's gzip is cut off")
        body = reading.unused_data
    return found


def is_success(status: int) -> bool:
    """Tell whether a status is of HTTP's success class."""
    return 200 <= status < 300  # noqa: PLR2004 - the class itself


def connect_timeout(seconds: float) -> aiohttp.ClientTimeout:
    """Return aiohttp's limits: on connecting alone, name look-up included.

    `connect` would count the queue for a pooled connection too; there is none, because both gates
    are as wide as their pools.
    """
    return aiohttp.ClientTimeout(total=None, connect=seconds, sock_connect=seconds)


async def lapse() -> None:
    """Give the loop two turns: enough for an aborted transport to have closed its socket."""
    for _ in range(2):
        await asyncio.sleep(0)


# Nothing else asks a transport anything that one which is gone may not bear.


def socket_of(transport: asyncio.Transport | None) -> socket.socket | None:
    """Return a transport's socket; None where there is none, or it can no more be asked for it."""
    try:
        return transport.get_extra_info("socket") if transport is not None else None
    except _GONE:
        return None


def is_tls(transport: asyncio.Transport) -> bool:
    """Tell whether bytes are changed on their way."""
    try:
        return transport.get_extra_info("sslcontext") is not None
    except _GONE:
        return True  # of those without, none forgets


def buffered(transport: asyncio.Transport | None) -> int:
    """Return the bytes that a transport has still to give to the kernel; 0 for one that is gone."""
    try:
        return transport.get_write_buffer_size() if transport is not None else 0
    except _GONE:
        return 0


def limit_buffer(transport: asyncio.Transport, high: int | None = None) -> None:
    """Set above how many buffered bytes writers have to wait; None is the transport's own."""
    with suppress(*_GONE):
        transport.set_write_buffer_limits(high=high)


def reset(transport: asyncio.Transport, sock: socket.socket | None) -> None:
    """End a connection so that no further byte reaches the peer, of the kernel's neither.

    Takes effect within `lapse`. `sock` is the transport's, asked for when the connection was taken.
    """
    try:
        known = transport.get_extra_info("socket")
    except _GONE:
        # It may be flushing still, for as long as a TLS shutdown may take, and takes no orders. But
        # it closes a socket that takes nothing, and a read shows it that.
        if sock is not None:
            reset_on_close(sock)
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        return
    if known is not None:
        reset_on_close(known)
    with suppress(*_GONE):
        transport.abort()


def reset_on_close(sock: socket.socket) -> None:
    """Let a socket's end be a reset, which also drops what the kernel holds for the peer."""
    # A ValueError: uvloop's own, once it is closed.
    with suppress(OSError, AttributeError, ValueError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
