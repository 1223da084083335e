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
from nunu_async.upload.body import BYTES_A_TURN, OnSent, PartBody, keep_freed_memory
from nunu_async.upload.limits import BandwidthLimiter
from nunu_async.upload.plan import Part
from nunu_async.upload.source import Source
from nunu_async.upload.stall import StallDetector

_LARGEST_ERROR: Final = 64 * 1024
_LONGEST_URL: Final = 8 * 1024
# Maximum number of parts hashed in parallel: each occupies a CPU core, and one core is left to the
# event loop, which would otherwise lag. A container's CPU quota is not considered.
_PROCESSORS: Final = (
    len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
)
_HASHED_AT_ONCE: Final = max(1, min(4, _PROCESSORS - 1))
# Query values from this length on are redacted: signatures, tokens and upload ids. Dates, part
# numbers and hash names are shorter.
_SHORTEST_SIGNED: Final = 17
# Query parameters whose values are secret even if short; under 6 characters nothing can be
# redacted.
_SIGNS = re.compile(
    "signature|(^|[-_.])sig$|token|credential|secret|access.?key|policy|upload.?id", re.IGNORECASE
)
_XML = {
    name: re.compile(rf"<{name}>([^<]{{0,1000}})</{name}>", re.IGNORECASE)
    for name in ("Code", "Message")
}

_MD5: Final = re.compile(r"[0-9a-f]{32}", re.IGNORECASE)
# With these kinds of encryption, an ETag may have 32 hex digits without being an MD5. Source:
# Amazon S3 API reference, "Object", ETag.
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


@attrs.frozen(repr=False)
class _Put:
    """A part to send, and its destination."""

    part: Part
    address: PartUrl
    route: ProxyRoute
    body: PartBody
    secrets: tuple[Secret, ...]

    def translate(self, error: BaseException) -> NunuError:
        """Convert any exception to a NunuError."""
        return translate(error, "PUT", f"to storage (part {self.part.number})")


@attrs.frozen(repr=False)
class _Answer:
    """A response to a PUT."""

    status: int
    headers: dict[str, str]
    etags: list[str]
    body: bytes
    whole: bool
    """Whether all bytes of the part had been acknowledged before the response."""


@attrs.define(kw_only=True, eq=False, repr=False, slots=False)
class Storage:
    """Sends parts to object storage through presigned URLs.

    Requests are confidential: no other library's hook sees them, and they carry no cookies, no
    `.netrc` credentials and no headers but ours; never the API key.
    """

    _clock: Clock
    _timeouts: Timeouts
    _concurrency: int
    _user_agent: str
    _allow_http: bool
    _allow_loopback: bool
    _tls: ssl.SSLContext | None = None
    _proxies: Proxies = attrs.field(factory=Proxies)
    _max_bandwidth: float | None = None

    def __attrs_post_init__(self) -> None:
        self._sessions = HttpSessions(self._concurrency, self._tls)
        self._pace = BandwidthLimiter(self._clock, self._max_bandwidth)
        self._turns = Turns(BYTES_A_TURN)
        keep_freed_memory()
        # Acquired by threads only while they hash: a thread that waits for a disk does not block
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

        `on_sent` is called with the number of the part's bytes handed over so far. With `verify`,
        an ETag that is an MD5 must match the part in the file; if it does, an early response is
        accepted too. Errors never contain the `secrets` or the URL's signature. When this raises or
        is cancelled, no more bytes of the part are sent.

        Raises: StorageError if storage refuses the part, accepts it before receiving all of it, or
        stored other bytes, or if the URL must not be used; StallError; TransportError; SourceError;
        ConfigError if a proxy cannot be used.
        """
        problem = refusal_of(
            address.url, allow_http=self._allow_http, allow_loopback=self._allow_loopback
        )
        if problem:
            message = f"nothing was sent: the presigned address {problem}"
            raise StorageError(part_number=part.number, status=0, message=message)
        route = self._proxies.way_to(address.url).checked()
        # Opening a connection occupies the loop for a while, and many may be opened at once.
        await self._turns.ready(BYTES_A_TURN)
        body = PartBody(source, part, on_sent, self._pace, self._turns)
        # The file is read separately for the MD5, so that storage is verified against the file
        # itself and not against the sent bytes.
        hashing = asyncio.create_task(self._md5(source, part)) if verify else None
        try:
            outcome = await self._stored(_Put(part, address, route, body, secrets), hashing)
        finally:
            if hashing is not None:
                hashing.cancel()
                await asyncio.gather(hashing, return_exceptions=True)
        if isinstance(outcome, Stored):
            return outcome
        raise outcome  # raised here, as inner frames hold the response

    async def _stored(self, put: _Put, hashing: asyncio.Task[str] | None) -> Stored | NunuError:
        """Send a part and check the response; return an error found after it was received."""
        answer = await self._send(put)
        number = put.part.number
        hidden = _hidden(put.address.url, put.secrets)
        if not is_success(answer.status):
            return _refusal(number, answer, hidden)
        try:
            # An ETag proves nothing about a part that was not fully handed over.
            is_sent = put.body.sent == put.part.length
            md5 = await hashing if hashing is not None and is_sent else None
        except Exception as error:  # noqa: BLE001 - any error is translated
            failure = put.translate(error)
            if isinstance(failure, SourceError):
                failure.part_number = number
            return failure
        status, storage_id = answer.status, request_id(answer.headers, hidden)
        verdict = _verdict(answer, md5)
        if isinstance(verdict, Stored):
            return attrs.evolve(verdict, status=status, request_id=storage_id)
        return StorageError(
            part_number=number, status=status, message=verdict, request_id=storage_id
        )

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

    async def _send(self, put: _Put) -> _Answer:
        """Send a part with stall detection; reset the connection on failure."""
        body = put.body
        try:
            async with self._stall_watch(put):
                return await self._exchange(put)
        except BaseException as error:
            await finish(body.cut_off())
            if body.error is None or not isinstance(error, NunuError):
                if isinstance(error, NunuError):
                    error.__context__ = None  # drops aiohttp's frames, which a stall interrupted
                raise
            raise body.error from None  # instead of aiohttp's wrapper

    async def _exchange(self, put: _Put) -> _Answer:
        body = put.body
        headers = {
            "Content-Length": str(put.part.length),
            "Accept-Encoding": "identity",
            "User-Agent": self._user_agent,
        }
        try:
            if self._closed:
                raise ClientClosed("this client is closed; make a new one")
            async with self._sessions.take(confidential=True).put(
                # The query is a credential, so it is never kept in a local. `encoded`: aiohttp
                # would re-quote a plain string, but the signature covers every byte.
                URL(put.address.url, encoded=True),
                data=body,
                headers=headers | put.route.passing(),
                timeout=connect_timeout(self._timeouts.connect),
                proxy=put.route.proxy,
                proxy_headers=put.route.asking(),
                **OPTIONS,
            ) as response:
                try:
                    if not body.handed_over:
                        await yield_to_loop()  # the body's task may be one iteration behind
                    # Storage can have read only what it has received, and the packets of its
                    # response acknowledge all of that.
                    whole = body.handed_over and not body.queued()
                    text = await read_capped(response, _LARGEST_ERROR, cut=True)
                    if whole:
                        body.answered()
                    else:
                        # Before the connection could return to the pool. If a part was sent whole,
                        # even if refused, the connection stays good, and other parts may reuse it.
                        await body.cut_off()
                    etags = response.headers.getall("ETag", [])
                    return _Answer(response.status, headers_of(response), etags, text, whole)
                finally:
                    del response  # its repr contains the query, and frames keep locals
        except (asyncio.CancelledError, Exception) as error:
            if was_cancelled(error):
                raise
            failure = put.translate(error)
        raise failure

    @asynccontextmanager
    async def _stall_watch(self, put: _Put) -> AsyncIterator[None]:
        """Raise StallError in the `async with` block if no bytes, or too few, move for too long.

        aiohttp has no write timeout, and its read timeout starts when the last byte is queued, not
        when it is sent; so a timer checks the progress.
        """
        watch = StallDetector(self._timeouts, self._clock.monotonic())
        stalled = ""
        timer: Timer
        try:
            async with asyncio.timeout(None) as scope:

                def check() -> None:
                    nonlocal stalled, timer
                    stalled = watch.problem(self._clock.monotonic(), put.body.progress())
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
            raise StallError(f"part {put.part.number}: {stalled}", method="PUT") from None

    async def close(self) -> None:
        """Close the connections; may be called twice."""
        self._closed = True
        await self._sessions.close()


def refusal_of(  # noqa: PLR0911 - a list of refusals
    url: str, *, allow_http: bool, allow_loopback: bool
) -> str:
    """Return why a presigned URL must not be used; "" if it may be.

    Plain http needs `allow_http`. This machine needs `allow_loopback`, for an API that runs on it:
    a remote server's response must not make us talk to local services.
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
        return "leads to where no storage is"  # e.g. a cloud's metadata service
    here = address is not None and (address.is_loopback or address.is_unspecified)
    if here or is_loopback(name):
        return "" if allow_loopback else "leads to this machine"
    if target.scheme == "http" and not allow_http:
        return f"is plain http to {sanitize(host)}"
    return ""


def _verdict(answer: _Answer, md5: str | None) -> Stored | str:
    """Return what was stored if it is certain to be the whole part, else the problem.

    `md5` is the part's MD5; None without `verify`.
    """
    etag, problem = _etag(answer.etags)
    etag_md5 = md5_of(etag, answer.headers)
    if md5 is not None and md5 == etag_md5:
        return Stored(etag, verified=True, is_md5=True)  # even if the response came early
    if not answer.whole:
        return "accepted the part before all of it was sent"
    if md5 is not None and etag_md5 is not None:
        return f"stored other bytes than were sent: their MD5 is {etag_md5}, not {md5}"
    return problem or Stored(etag, verified=False, is_md5=etag_md5 is not None)


def md5_of(etag: str, headers: Mapping[str, str]) -> str | None:
    """Return an unquoted ETag in lower case if it is an MD5, else None.

    A multipart ETag (``...-2``) is not one, nor is that of an object encrypted with a
    customer-provided key or a KMS key.
    """
    encryption = headers.get(_ENCRYPTION, "").lower()
    if _KEY_OF_CUSTOMER in headers or encryption.startswith("aws:kms"):
        return None
    return etag.lower() if _MD5.fullmatch(etag) else None


def _hidden(url: str, secrets: tuple[Secret, ...]) -> tuple[Secret, ...]:
    """Return `secrets` plus the secret values in a presigned URL, for redaction.

    Gateways echo what they receive. Each value is included as written and unquoted, as an echo may
    be quoted differently.
    """
    query = url.partition("?")[2].partition("#")[0]
    found: dict[str, None] = {}
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        for form in (value, unquote(value)):
            if len(form) >= _SHORTEST_SIGNED or (form and _SIGNS.search(unquote(name))):
                found[form] = None
    return (*secrets, *(Secret(form) for form in found))


def _refusal(part_number: int, answer: _Answer, hidden: tuple[Secret, ...]) -> StorageError:
    # No XML parser: a response can be anything, and only two elements are needed.
    text = answer.body.decode("utf-8", "replace")
    found = {
        name: unescape(match.group(1)) if (match := rx.search(text)) else ""
        for name, rx in _XML.items()
    }
    message = found["Message"] or ("" if text.lstrip().startswith("<") else text.strip())
    if 300 <= answer.status < 400:  # noqa: PLR2004 - HTTP's redirect class
        message = "a redirect; redirects are never followed"
    return StorageError(
        part_number=part_number,
        status=answer.status,
        code=sanitize(found["Code"], hidden, limit=100) or None,
        message=sanitize(message, hidden),
        retry_after=parse_retry_after(
            answer.headers.get("retry-after"), answer.headers.get("date")
        ),
        request_id=request_id(answer.headers, hidden),
    )


def _etag(found: list[str]) -> tuple[str, str]:
    """Return the only ETag without quotes, and ""; or "" and the problem. ETags are opaque."""
    etags = {value.strip().removeprefix("W/").strip('"') for value in found} - {""}
    if not etags:
        return "", "accepted the part without an ETag"
    if len(etags) > 1:
        return "", "gave several ETags"
    etag = etags.pop()
    # Bytes that are not UTF-8 cannot be encoded as JSON, so the upload could not be completed.
    return (etag, "") if etag.isprintable() else ("", "gave an ETag that is no text")
