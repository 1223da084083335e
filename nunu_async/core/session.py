"""Send API requests; only this module adds the API key to a request."""

from __future__ import annotations

import asyncio
import io
import logging
import ssl
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import TypeVar

import aiohttp
import attrs
from yarl import URL

from nunu_async.config import Config, Timeouts
from nunu_async.core import responses
from nunu_async.core.attempt import AttemptLoop, CurrentAttempt, OnAttempt
from nunu_async.core.clock import Clock, Deadline, time_limit
from nunu_async.core.codec import NotReady, encode, only_ready
from nunu_async.core.http_sessions import OPTIONS, HttpSessions, way_of
from nunu_async.core.proxies import NO_PROXY, Proxies, ProxyRoute
from nunu_async.core.request import InFlight, Request
from nunu_async.core.retry import Attempts, RetryPolicy, may_have_acted
from nunu_async.core.throttle import Throttle
from nunu_async.core.turns import Turns
from nunu_async.core.wire import (
    connect_timeout,
    headers_of,
    is_success,
    read_capped,
    translate,
    was_cancelled,
)
from nunu_async.errors import (
    ApiError,
    ClientClosed,
    ConfigError,
    DeadlineExceeded,
    DecodeError,
    NunuError,
    RateLimited,
    StallError,
    TransportError,
)

T = TypeVar("T")
D = TypeVar("D")

_LOG = logging.getLogger("nunu_async.core")
# Maximum concurrent cleanup requests. They bypass the queue, as slow requests in it may be why
# cleanup is needed.
_URGENT = 4
# Bytes of responses decoded per loop iteration, and the size above which a response waits its turn.
# A page of 100 runs has 96 KiB, which takes about 2 ms; up to eight pages arrive together.
_DECODED_PER_TURN = 64 * 1024
_LARGE = 8 * 1024
_MAX_BODY = 32 * 1024 * 1024
# Each string in an error's details is searched for secrets; no real error is this large.
_MAX_ERROR_BODY = 1024 * 1024


@attrs.define(kw_only=True, eq=False, repr=False, slots=False)
class Session:
    """Sends API requests, with limits on concurrency, attempts and time.

    Bound to the event loop of its first request. At most `concurrency` requests are in flight; the
    others wait at the gate, before any time limit starts.

    Args:
        loader: decodes responses that would block the event loop for too long.
        http: the caller's own session, which stays open.
    """

    _config: Config
    _clock: Clock
    _policy: RetryPolicy
    _timeouts: Timeouts
    _concurrency: int
    _user_agent: str
    _loader: Executor
    _http: aiohttp.ClientSession | None = None
    _tls: ssl.SSLContext | None = None
    _proxies: Proxies = attrs.field(factory=Proxies)
    _on_attempt: OnAttempt | None = None

    def __attrs_post_init__(self) -> None:
        url = self._config.base_url
        self._base = URL(url, encoded=True)
        self._origin = len(url) - len(self._base.raw_path)
        self._traffic = Throttle(self._clock, self._policy)
        self._connect_timeout = connect_timeout(self._timeouts.connect)
        self._decode_turns = Turns(_DECODED_PER_TURN)
        self._sessions = HttpSessions(self._concurrency + _URGENT, self._tls, self._http)
        self._route = (
            self._proxies.way_to(url)
            if self._http is None
            else way_of(self._http, url, self._proxies)
        ).checked()
        self._gate = asyncio.Semaphore(self._concurrency)
        self._urgent = asyncio.Semaphore(_URGENT)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    async def send(self, request: Request[T]) -> T:
        """Send a request, with retries; return its typed result.

        Raises: ApiError, DecodeError, TransportError; DeadlineExceeded when the call's time limit
        is reached; ClientClosed; ConfigError in another event loop than that of the first call.
        """
        flight = request.flight or InFlight()
        # Cleanup is rare and must be done: it neither queues nor draws on the retry budget.
        budget = None if request.urgent else self._traffic.budget
        attempts = AttemptLoop(
            clock=self._clock,
            rules=Attempts(self._policy, self._policy.attempts, budget),
            replay=request.replay,
            throttle=self._traffic,
            on_attempt=self._on_attempt,
            operation=request.operation,
            method=request.method,
            path=request.template or request.path,
        )
        async for attempt in attempts:
            self._check_open(attempts.failure)
            async with self._urgent if request.urgent else self._gate:
                # Set only now, so that no time limit counts the time in our own queue.
                if attempts.deadline is None:
                    seconds = request.within or max(self._timeouts.call, request.patience or 0.0)
                    attempts.deadline = Deadline(self._clock, seconds)
                deadline = attempts.deadline
                if not request.urgent:
                    pause = await self._traffic.ready(deadline.at)
                    if pause is not None:
                        remaining = deadline.remaining()
                        raise attempts.failure or _rate_limited(request, pause, remaining)
                    self._check_open(attempts.failure)
                with attempt:
                    flight.on_wire = True
                    try:
                        return await self._attempt(request, deadline, attempt)
                    finally:
                        flight.on_wire = False
            failure = attempt.failure
            flight.unheard += may_have_acted(failure)
            attempts.is_last = flight.last
            if self._closed and not flight.last and isinstance(failure, TransportError):
                raise ClientClosed(
                    f"this client was closed during {request.operation}, which may have been done"
                ) from failure
        raise attempt.failure

    async def pause(self, seconds: float) -> None:
        """Pause between two lookups for about `seconds`; jitter spreads concurrent lookups."""
        await self._clock.sleep(seconds * (0.75 + 0.5 * self._clock.random()))

    async def _attempt(self, request: Request[T], deadline: Deadline, attempt: CurrentAttempt) -> T:
        patience = request.patience or self._timeouts.attempt
        remaining = deadline.remaining()
        limit = min(patience, remaining)
        outcome: T | NunuError
        try:
            async with time_limit(self._clock, limit):
                try:
                    outcome = await self._exchange(request, attempt)
                except asyncio.CancelledError as error:
                    # The TimeoutError of a caller's timeout has this as its cause, frames included.
                    raise error.with_traceback(None) from None
        except TimeoutError:
            kind = DeadlineExceeded if remaining <= patience else StallError
            message = f"{request.method} {request.path}: no answer within {limit:g} seconds"
            outcome = kind(message, method=request.method, path=request.path)
        # Raised here, not where the error occurred: error trackers record each frame's locals, and
        # those frames hold the key, or a response that echoes it.
        if isinstance(outcome, NunuError):
            raise outcome
        return outcome

    async def _exchange(
        self, request: Request[T], attempt: CurrentAttempt
    ) -> T | ApiError | DecodeError:
        began = self._clock.monotonic()
        try:
            http = self._sessions.take(confidential=bool(request.secrets))
            route = NO_PROXY if self._sessions.is_given(http) else self._route
            async with http.request(
                request.method,
                # URL, body and headers are built in the call, so that no local holds them.
                self._address(request),
                data=None if request.body is None else io.BytesIO(encode(request.body)),
                headers=self._headers(request, route),
                # aiohttp would send application/octet-stream for a POST even without a body.
                skip_auto_headers=None if request.method == "GET" else ("Content-Type",),
                timeout=self._connect_timeout,
                proxy=route.proxy,
                proxy_headers=route.asking(),
                **OPTIONS,
            ) as response:
                try:
                    limit = _MAX_BODY if is_success(response.status) else _MAX_ERROR_BODY
                    body = await read_capped(response, limit)
                    headers = headers_of(response)
                    attempt.status = response.status
                finally:
                    del response  # it holds the query, and errors keep the locals of frames
                if len(body) > _LARGE:
                    await self._decode_turns.ready(len(body))
                secrets = (self._config.api_key, *request.secrets)
                if self._on_attempt is not None:
                    attempt.request_id = responses.request_id(headers, secrets)
                try:
                    with only_ready():
                        return responses.read(request, attempt.status, headers, body, secrets)
                except NotReady:
                    pass
                return await self._in_thread(
                    partial(responses.read, request, attempt.status, headers, body, secrets)
                )
        except (asyncio.CancelledError, Exception) as error:
            if was_cancelled(error):
                raise
            failure = translate(error, request.method, request.path)
        finally:
            headers, body = {}, b""  # as with `response`: they may echo the key
            _LOG.debug(
                "%s %s attempt %d: %s in %.0f ms",
                request.method,
                request.template or request.path,
                attempt.number,
                attempt.status or "no answer",
                1000 * (self._clock.monotonic() - began),
            )
        raise failure

    async def _in_thread(self, decode: Callable[[], D]) -> D:
        try:
            decoding = asyncio.get_running_loop().run_in_executor(self._loader, decode)
        except RuntimeError:  # the client was closed, but the response must still be decoded
            return decode()
        return await decoding

    def _address(self, request: Request[T]) -> URL:
        path = self._config.url(request.path)[self._origin :]
        # Derived from one URL object, so that host and port are parsed only once, for aiohttp.
        address = self._base.with_path(path, encoded=True)
        return address.with_query(request.query) if request.query else address

    def _headers(self, request: Request[T], route: ProxyRoute) -> dict[str, str]:
        headers = {
            "Accept": "application/json",
            # Fixed, because aiohttp's own value depends on which decoders are installed.
            "Accept-Encoding": "gzip",
            "User-Agent": self._user_agent,
            **route.passing(),
        }
        if request.body is not None:
            headers["Content-Type"] = "application/json"
        if request.needs_key:
            headers["X-Api-Key"] = self._config.api_key.reveal()
        return headers

    def _check_open(self, failure: NunuError | None = None) -> None:
        """Raise ClientClosed or ConfigError; or `failure`, if the caller's session was closed."""
        loop = asyncio.get_running_loop()
        if self._closed:
            raise ClientClosed("this client is closed; make a new one")
        if self._sessions.given_is_closed:
            raise failure or ClientClosed("the session that was passed in is closed")
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise ConfigError(
                "this client was first used in another event loop; make one for each loop"
            )

    async def close(self) -> None:
        """Close the connections, but not those of a caller's session; may be called twice."""
        self._closed = True
        await self._sessions.close()


def _rate_limited(request: Request[T], pause: float, remaining: float) -> RateLimited:
    """Return the error for a request not sent because the server throttled another request."""
    return RateLimited(
        status=429,
        message=f"not sent: the server asked this client to wait {pause:.3g} seconds more, and "
        f"the call has {remaining:.3g}",
        method=request.method,
        path=request.path,
        retry_after=pause,
    )
