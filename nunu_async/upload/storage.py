"""Presigned PUTs: exact length, no API key, no redirects; returns the ETag."""

from __future__ import annotations

import asyncio
import os
import re
import ssl
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from html import unescape
from typing import Final
from urllib.parse import unquote

import attrs
from yarl import URL

from nunu_async.config import Timeouts, address_of, is_loopback
from nunu_async.core.cancellation import finish
from nunu_async.core.clock import Clock, Timer, time_limit
from nunu_async.core.http_sessions import OPTIONS, HttpSessions
from nunu_async.core.proxies import Proxies, ProxyRoute
from nunu_async.core.responses import request_id
from nunu_async.core.retry import parse_retry_after
from nunu_async.core.turns import Turns
from nunu_async.core.wire import (
    connect_timeout,
    headers_of,
    is_success,
    read_capped,
    translate,
    was_cancelled,
    yield_to_loop,
)
from nunu_async.errors import ClientClosed, NunuError, SourceError, StallError, StorageError
from nunu_async.models.builds import PartUrl
from nunu_async.redact import Secret, sanitize
from nunu_async.upload.bandwidth import BandwidthLimiter
from nunu_async.upload.body import BYTES_A_TURN, OnSent, PartBody, keep_freed_memory
from nunu_async.upload.plan import Part
from nunu_async.upload.source import Source
from nunu_async.upload.stall import StallDetector

__all__ = ["Storage", "Stored", "md5_of", "refusal_of"]

_LARGEST_ERROR: Final = 64 * 1024
_LONGEST_URL: Final = 8 * 1024
# Parts that are hashed at the same time: each keeps a processor busy, and one is left to the event
# loop, which is scheduled late otherwise. A container's CPU quota is not considered.
_PROCESSORS: Final = (
    len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
)
_HASHED_AT_ONCE: Final = max(1, min(4, _PROCESSORS - 1))
# Signatures, tokens and upload ids are longer; dates, part numbers and names of hashes are not.
_SHORTEST_SIGNED: Final = 17
# Names of parameters that are secret even if short; under 6 characters nothing can be redacted.
_SIGNS = re.compile(
    "signature|(^|[-_.])sig$|token|credential|secret|access.?key|policy|upload.?id", re.IGNORECASE
)
_XML = {
    name: re.compile(rf"<{name}>([^<]{{0,1000}})</{name}>", re.IGNORECASE)
    for name in ("Code", "Message")
}

_MD5: Final = re.compile(r"[0-9a-f]{32}", re.IGNORECASE)
# With these encryptions an ETag may have 32 hex digits and still be no MD5. Source: Amazon S3 API
# reference, "Object", ETag.
_KEY_OF_CUSTOMER: Final = "x-amz-server-side-encryption-customer-algorithm"
_ENCRYPTION: Final = "x-amz-server-side-encryption"


@attrs.frozen
class Stored:
    """A part that is in storage."""

    etag: str
    """Without quotes."""
    verified: bool
    """Whether the ETag was compared with the MD5 of the part in the file, and matched."""
    is_md5: bool = False
    """Whether the ETag is the MD5 of the bytes, as far as the response shows."""
    status: int = 200
    request_id: str | None = None


@attrs.frozen
class _Accepted:
    """A successful response to a PUT."""

    status: int
    headers: dict[str, str]
    etags: list[str]
    whole: bool
    """Whether it came after all bytes of the part had been acknowledged."""


class Storage:
    """Sends to the object storage that presigned URLs lead to.

    Requests are confidential: no other library's hook sees them, and they carry no cookies, no
    `.netrc` credentials and no headers but ours; never the API key.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        timeouts: Timeouts,
        concurrency: int,
        user_agent: str,
        allow_http: bool,
        allow_loopback: bool,
        tls: ssl.SSLContext | None = None,
        proxies: Proxies | None = None,
        max_bandwidth: float | None = None,
    ) -> None:
        self._clock = clock
        self._timeouts = timeouts
        self._user_agent = user_agent
        self._allow_http = allow_http
        self._allow_loopback = allow_loopback
        self._sessions = HttpSessions(concurrency, tls)
        self._proxies = proxies or Proxies()
        self._pace = BandwidthLimiter(clock, max_bandwidth)
        self._turns = Turns(BYTES_A_TURN)
        keep_freed_memory()
        # Acquired by threads only while they hash: one that waits for a disk does not block the
        # others.
        self._processors = threading.Semaphore(_HASHED_AT_ONCE)
        self._closed = False

    async def put(
        self,
        address: PartUrl,
        part: Part,
        source: Source,
        on_sent: OnSent,
        *,
        verify: bool = False,
        secrets: tuple[Secret, ...] = (),
    ) -> Stored:
        """Send one part once; return how it was stored.

        `on_sent` is called with the part's bytes handed over so far. With `verify`, an ETag that is
        an MD5 has to be that of the part in the file; then an early response is accepted, too. No
        error repeats the `secrets`, or the URL's signature. When this raises, cancellation
        included, the connection is already cut off.

        Raises: StorageError when storage refuses, or accepts what it cannot have read, or stored
        something else, or the URL must not be used; StallError; TransportError; SourceError;
        ConfigError for a proxy that cannot be used.
        """
        problem = refusal_of(
            address.url, allow_http=self._allow_http, allow_loopback=self._allow_loopback
        )
        if problem:
            message = f"nothing was sent: the presigned address {problem}"
            raise StorageError(part_number=part.number, status=0, message=message)
        way = self._proxies.way_to(address.url).checked()
        # Opening a connection takes the loop a while, and many may be opened at the same time.
        await self._turns.ready(BYTES_A_TURN)
        body = PartBody(source, part, on_sent, self._pace, self._turns)
        # Read independently of what is sent, so that storage must have just what the file holds.
        hashing = asyncio.create_task(self._md5(source, part)) if verify else None
        try:
            outcome = await self._stored(address, way, part, body, hashing, secrets)
        finally:
            if hashing is not None:
                hashing.cancel()
                await asyncio.gather(hashing, return_exceptions=True)
        if isinstance(outcome, Stored):
            return outcome
        raise outcome  # here: other frames hold the response

    async def _stored(
        self,
        address: PartUrl,
        way: ProxyRoute,
        part: Part,
        body: PartBody,
        hashing: asyncio.Task[str] | None,
        secrets: tuple[Secret, ...],
    ) -> Stored | NunuError:
        """Send a part and check the response; return an error found after it was received."""
        accepted = await self._send(address, way, part, body, secrets)
        if isinstance(accepted, StorageError):
            return accepted
        try:
            # An ETag proves nothing about a part that was not fully handed over.
            is_sent = body.sent == part.length
            md5 = await hashing if hashing is not None and is_sent else None
        except Exception as error:  # noqa: BLE001 - any error is translated
            failure = translate(error, "PUT", f"to storage (part {part.number})")
            if isinstance(failure, SourceError):
                failure.part_number = part.number
            return failure
        verdict = _verdict(part.number, accepted, md5)
        storage_id = request_id(accepted.headers, _hidden(address.url, secrets))
        if isinstance(verdict, StorageError):
            verdict.request_id = storage_id
            return verdict
        return attrs.evolve(verdict, status=accepted.status, request_id=storage_id)

    async def _md5(self, source: Source, part: Part) -> str:
        """Hash a part. Raises: StallError when the file cannot be read in time; SourceError."""
        limit = self._timeouts.stall
        try:
            return await source.md5(
                part.offset,
                part.length,
                processors=self._processors,
                within=lambda: time_limit(self._clock, limit),
            )
        except TimeoutError:
            message = f"part {part.number}: no byte was read for its MD5 in {limit:g} seconds"
            raise StallError(message, method="PUT") from None

    async def _send(
        self,
        address: PartUrl,
        way: ProxyRoute,
        part: Part,
        body: PartBody,
        secrets: tuple[Secret, ...],
    ) -> _Accepted | StorageError:
        """Send a part with stall detection; cut the connection off on failure."""
        try:
            async with self._stall_watch(body, part):
                return await self._exchange(address, way, part, body, secrets)
        except BaseException as error:
            await finish(body.cut_off())
            if body.error is None or not isinstance(error, NunuError):
                if isinstance(error, NunuError):
                    error.__context__ = None  # what a stall interrupted: aiohttp's own frames
                raise
            raise body.error from None  # and not aiohttp's wrapping of it

    async def _exchange(
        self,
        address: PartUrl,
        way: ProxyRoute,
        part: Part,
        body: PartBody,
        secrets: tuple[Secret, ...],
    ) -> _Accepted | StorageError:
        headers = {
            "Content-Length": str(part.length),
            "Accept-Encoding": "identity",
            "User-Agent": self._user_agent,
        }
        try:
            if self._closed:
                raise ClientClosed("this client is closed; make a new one")
            async with self._sessions.take(confidential=True).put(
                # The query is a credential: never in a local, and never re-quoted, as aiohttp
                # would with a plain string; the signature covers every byte.
                URL(address.url, encoded=True),
                data=body,
                headers=headers | way.passing(),
                timeout=connect_timeout(self._timeouts.connect),
                proxy=way.proxy,
                proxy_headers=way.asking(),
                **OPTIONS,
            ) as response:
                try:
                    if not body.handed_over:
                        await yield_to_loop()  # the body's own task may be one iteration behind
                    # Storage can only have read what it received, and its response acknowledges all
                    # of that.
                    whole = body.handed_over and not body.queued()
                    answer = await read_capped(response, _LARGEST_ERROR, cut=True)
                    if whole:
                        body.answered()
                    else:
                        # Before the connection could go back to the pool. A part that was sent
                        # whole and refused leaves a good one, which other parts may use at once.
                        await body.cut_off()
                    status, received = response.status, headers_of(response)
                    etags = response.headers.getall("ETag", [])
                finally:
                    del response  # its repr has the query, and frames keep locals
                if not is_success(status):
                    hidden = _hidden(address.url, secrets)
                    return _refusal(part.number, status, received, answer, hidden)
                return _Accepted(status, received, etags, whole)
        except asyncio.CancelledError as error:
            if was_cancelled():
                raise
            failure = translate(error, "PUT", f"to storage (part {part.number})")
        except Exception as error:  # noqa: BLE001 - any error is translated
            failure = translate(error, "PUT", f"to storage (part {part.number})")
        raise failure

    @asynccontextmanager
    async def _stall_watch(self, body: PartBody, part: Part) -> AsyncIterator[None]:
        """Raise StallError in the `async with` block when no byte, or too few, moved for too long.

        aiohttp has no write timeout, and its read timeout starts when the last byte is queued and
        not when it is sent; so progress is checked from outside.
        """
        watch = StallDetector(self._timeouts, self._clock.monotonic())
        stalled = ""
        timer: Timer
        try:
            async with asyncio.timeout(None) as scope:

                def check() -> None:
                    nonlocal stalled, timer
                    stalled = watch.problem(self._clock.monotonic(), body.progress())
                    if stalled:
                        scope.reschedule(0.0)
                    else:
                        timer = self._clock.call_later(watch.every, check)

                timer = self._clock.call_later(watch.every, check)
                try:
                    yield
                finally:
                    timer.cancel()
        except TimeoutError:
            raise StallError(f"part {part.number}: {stalled}", method="PUT") from None

    async def close(self) -> None:
        """Close the connections; may be called twice."""
        self._closed = True
        await self._sessions.close()


def refusal_of(  # noqa: PLR0911 - a list of refusals
    url: str, *, allow_http: bool, allow_loopback: bool
) -> str:
    """Return what is wrong with a URL that no server should hand out; "" if nothing is.

    Plain http only where the caller allowed it; this machine only for an API that runs on it: no
    other server's response may make us talk to local services.
    """
    try:
        target = URL(url, encoded=True)
        host = target.host or ""
    except ValueError:
        return "cannot be read as a URL"
    if len(url) > _LONGEST_URL or not url.isprintable() or " " in url or not url.isascii():
        return "is over 8 KiB long or holds characters that no URL has"
    if target.user is not None or target.password is not None:
        return "holds user info"
    if target.scheme not in {"http", "https"} or not host:
        return "is not an http or https URL"
    name = host.lower().rstrip(".")
    address = address_of(name)
    if address is not None and (address.is_link_local or address.is_multicast):
        return "leads to where no storage is"  # but a cloud's metadata service is
    here = address is not None and (address.is_loopback or address.is_unspecified)
    if here or is_loopback(name):
        return "" if allow_loopback else "leads to this machine"
    if target.scheme == "http" and not allow_http:
        return f"is plain http to {sanitize(host)}"
    return ""


def _verdict(part_number: int, accepted: _Accepted, md5: str | None) -> Stored | StorageError:
    """Return what was stored, if it is certain to be the whole part; else the error to raise.

    `md5` is that of the part, None without `verify`.
    """
    whole, status = accepted.whole, accepted.status
    etag = _etag(accepted.etags, part_number, status)
    etag_md5 = md5_of(etag, accepted.headers) if isinstance(etag, str) else None
    stored = etag_md5 if md5 is not None else None
    if isinstance(etag, str) and stored is not None and stored == md5:
        return Stored(etag, verified=True, is_md5=True)  # also when the answer came early
    if whole and stored is None:
        if isinstance(etag, str):
            return Stored(etag, verified=False, is_md5=etag_md5 is not None)
        return etag
    message = (
        f"stored other bytes than were sent: their MD5 is {stored}, not {md5}"
        if whole
        else "accepted the part before all of it was sent"
    )
    return StorageError(part_number=part_number, status=status, message=message)


def md5_of(etag: str, headers: Mapping[str, str]) -> str | None:
    """Return an ETag without quotes in lower case if it is an MD5; None if it is not.

    An ETag of several parts (``...-2``) is not, nor is that of an object encrypted with a key of
    the customer's or of a key service.
    """
    encryption = headers.get(_ENCRYPTION, "").lower()
    if _KEY_OF_CUSTOMER in headers or encryption.startswith("aws:kms"):
        return None
    return etag.lower() if _MD5.fullmatch(etag) else None


def _hidden(url: str, secrets: tuple[Secret, ...]) -> tuple[Secret, ...]:
    """Return `secrets` and the values of a presigned URL that no message may repeat either.

    Gateways echo what they are sent. Values one by one, as written and unquoted: an echo may be
    quoted differently.
    """
    query = url.partition("?")[2].partition("#")[0]
    found: dict[str, None] = {}
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        for form in (value, unquote(value)):
            if len(form) >= _SHORTEST_SIGNED or (form and _SIGNS.search(unquote(name))):
                found[form] = None
    return (*secrets, *(Secret(form) for form in found))


def _refusal(
    part_number: int,
    status: int,
    headers: dict[str, str],
    answer: bytes,
    hidden: tuple[Secret, ...],
) -> StorageError:
    # No XML parser: a response can be anything, and only two elements are needed.
    text = answer.decode("utf-8", "replace")
    found = {
        name: unescape(match.group(1)) if (match := rx.search(text)) else ""
        for name, rx in _XML.items()
    }
    message = found["Message"] or ("" if text.lstrip().startswith("<") else text.strip())
    if 300 <= status < 400:  # noqa: PLR2004 - HTTP's redirect class
        message = "a redirect; redirects are never followed"
    return StorageError(
        part_number=part_number,
        status=status,
        code=sanitize(found["Code"], hidden, limit=100) or None,
        message=sanitize(message, hidden),
        retry_after=parse_retry_after(headers.get("retry-after"), headers.get("date")),
        request_id=request_id(headers, hidden),
    )


def _etag(found: list[str], part_number: int, status: int) -> str | StorageError:
    """Return the one ETag without quotes; the rest of it is opaque."""
    etags = {value.strip().removeprefix("W/").strip('"') for value in found} - {""}
    problem = ""
    if len(etags) != 1:
        problem = "accepted the part without an ETag" if not etags else "gave several ETags"
    elif not all(etag.isprintable() for etag in etags):
        # Bytes that are not UTF-8 cannot be written as JSON: the upload could not be completed.
        problem = "gave an ETag that is no text"
    if problem:
        return StorageError(part_number=part_number, status=status, message=problem)
    return etags.pop()
