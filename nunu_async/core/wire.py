"""What the session and the storage share of aiohttp: one send, one translation, one cap."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
from aiohttp import ClientHandlerType, ClientRequest, ClientResponse

from nunu_async.errors import (
    CertificateError,
    ConnectError,
    NunuError,
    StallError,
    TransportError,
)

__all__ = ["lapse", "read_capped", "send_once", "translated"]


class _Dropped(Exception):
    """The connection went away under a request."""


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


@contextmanager
def translated(method: str, path: str) -> Iterator[None]:
    """Turn every foreign exception of a request into ours.

    Chains are cut: `str` and `repr` of aiohttp's errors hold full URLs and request headers,
    signatures and keys included. Only a class name and the system's own words are carried over.
    """
    where = f"{method} {path}"
    try:
        yield
    except NunuError:
        raise
    except (aiohttp.ClientConnectorCertificateError, aiohttp.ServerFingerprintMismatch):
        raise CertificateError(
            f"{where}: the server's certificate is not to be trusted",
            method=method,
            path=path,
            sent=False,
        ) from None
    except aiohttp.ClientConnectorError as error:
        raise ConnectError(
            f"{where}: cannot connect to {error.host}:{error.port} ({_cause(error.os_error)})",
            method=method,
            path=path,
            sent=False,
        ) from None
    except aiohttp.ConnectionTimeoutError:
        raise ConnectError(
            f"{where}: no connection within the connect timeout",
            method=method,
            path=path,
            sent=False,
        ) from None
    except _Dropped as error:
        raise TransportError(
            f"{where}: the connection was lost ({error})", method=method, path=path
        ) from None
    except TimeoutError:
        raise StallError(f"{where}: no answer in time", method=method, path=path) from None
    except Exception as error:  # noqa: BLE001 - a bare AttributeError was seen to escape a read
        raise TransportError(
            f"{where}: the exchange failed ({_cause(error)})", method=method, path=path
        ) from None


def _cause(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        try:
            return os.strerror(error.errno)
        except (ValueError, OverflowError):
            pass
    return type(error).__name__


async def read_capped(response: ClientResponse, limit: int) -> bytes:
    """Read a whole body of at most `limit` decoded bytes.

    Raises: TransportError for a longer one; a compressed half MiB can hold half a GiB.
    """
    blocks: list[bytes] = []
    size = 0
    async for block in response.content.iter_chunked(65_536):
        size += len(block)
        if size > limit:
            response.close()
            raise TransportError(
                f"{response.method} {response.url.host}: the answer is longer than {limit} bytes",
                method=response.method,
            )
        blocks.append(block)
    return b"".join(blocks)


async def lapse() -> None:
    """Give the loop two turns: enough for an aborted transport to have closed its socket."""
    for _ in range(2):
        await asyncio.sleep(0)
