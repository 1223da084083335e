"""The session core: sends API requests; the only place that puts the API key on one."""

from __future__ import annotations

import asyncio
import io
import logging
import ssl
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

import aiohttp
import attrs
from yarl import URL

from nunu_async.config import Config, Timeouts
from nunu_async.core import responses
from nunu_async.core.attempt import Attempt, OnAttempt, report
from nunu_async.core.clock import Clock, Deadline, time_limit
from nunu_async.core.codec import NotReady, encode, only_ready
from nunu_async.core.http_sessions import OPTIONS, HttpSessions, way_of
from nunu_async.core.proxies import DIRECT, Proxies, Way
from nunu_async.core.request import Request
from nunu_async.core.retry import Attempts, RetryPolicy, may_have_acted
from nunu_async.core.traffic import Traffic
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

__all__ = ["Session"]

T = TypeVar("T")

_LOG = logging.getLogger("nunu_async.core")
# Requests that clean up are few, and must not wait for the slow ones that made them needed.
_URGENT = 4
# Bytes of answers that are decoded in one turn of the event loop, and of one that waits for that. A
# page of 100 runs has 96 KiB, which take about 2 ms; up to eight pages arrive together.
_READ_A_TURN = 64 * 1024
_LARGE = 8 * 1024
_LARGEST_ANSWER = 32 * 1024 * 1024
# Its details are looked through for secrets, one by one: far more than a refusal has to say.
_LARGEST_REFUSAL = 1024 * 1024


@attrs.define
class _Answered:
    """What is known of one attempt by its end."""

    status: int | None = None
    request_id: str | None = None
    error: NunuError | None = None

    def told(self, request: Request[T], number: int, seconds: float) -> Attempt:
        """Return what a listener is told of it."""
        return Attempt(
            operation=request.operation,
            method=request.method,
            path=request.template or request.path,
            number=number,
            status=self.status,
            seconds=seconds,
            request_id=self.request_id,
            error=self.error,
        )


class Session:
    """One request in, one typed answer out: gate, attempts, deadline.

    Bound to the event loop of its first request. At most `concurrency` requests are under way at
    once; the others wait at the gate before any time limit starts.

    Args:
        loader: loads and generates the code that decodes, which takes too long for the event loop.
    """

    def __init__(  # noqa: PLR0913 - what it is made of
        self,
        config: Config,
        *,
        clock: Clock,
        policy: RetryPolicy,
        timeouts: Timeouts,
        concurrency: int,
        user_agent: str,
        loader: Executor,
        http: aiohttp.ClientSession | None = None,
        tls: ssl.SSLContext | None = None,
        proxies: Proxies | None = None,
        on_attempt: OnAttempt | None = None,
    ) -> None:
        self._config = config
        self._on_attempt = on_attempt
        self._base = URL(config.base_url, encoded=True)
        self._origin = len(config.base_url) - len(self._base.raw_path)
        self._clock = clock
        self._policy = policy
        self._traffic = Traffic(clock, policy)
        self._timeouts = timeouts
        self._connecting = connect_timeout(timeouts.connect)
        self._concurrency = concurrency
        self._user_agent = user_agent
        self._loader = loader
        self._reading = Turns(_READ_A_TURN)
        self._sessions = HttpSessions(concurrency + _URGENT, tls, http)
        proxies = proxies or Proxies()
        self._way = (
            proxies.way_to(config.base_url)
            if http is None
            else way_of(http, config.base_url, proxies)
        ).checked()
        self._gate = asyncio.Semaphore(concurrency)
        self._urgent = asyncio.Semaphore(_URGENT)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    async def send(self, request: Request[T]) -> T:  # noqa: C901 - one loop, read downwards
        """Send until there is an answer or a reason to stop.

        Raises: ApiError, DecodeError, TransportError; DeadlineExceeded when the call's whole time
        is spent; ClientClosed; ConfigError from another event loop than the first.
        """
        # What cleans up is few, and owed: it neither waits for others nor pays as they do.
        budget = None if request.urgent else self._traffic.budget
        attempts = Attempts(self._policy, self._policy.attempts, budget)
        deadline: Deadline | None = None
        failure: ApiError | DecodeError | TransportError | None = None
        while True:
            self._check_open(failure)
            async with self._urgent if request.urgent else self._gate:
                # Only now: waiting at our own gate is nobody's timeout.
                if deadline is None:
                    deadline = Deadline(self._clock, self._within(request))
                await self._cleared(request, deadline, failure)
                began = self._clock.monotonic()
                if request.flight is not None:
                    request.flight.on_wire = True
                answered = _Answered()
                try:
                    answer = await self._attempt(request, deadline, attempts.made + 1, answered)
                    attempts.succeeded()
                    self._traffic.succeeded(began)
                    return answer
                except (ApiError, DecodeError, TransportError) as error:
                    failure = answered.error = error
                    if request.flight is not None and may_have_acted(error):
                        request.flight.unheard += 1
                finally:
                    if request.flight is not None:
                        request.flight.on_wire = False
                    if self._on_attempt is not None:
                        seconds = self._clock.monotonic() - began
                        report(self._on_attempt, answered.told(request, attempts.made + 1, seconds))
            delay = attempts.pause_after(
                failure,
                replay=request.replay,
                chance=self._clock.random(),
                remaining=deadline.remaining(),
            )
            self._traffic.failed(failure, began, delay)
            if request.flight is not None and request.flight.last:
                raise failure
            if self._closed and isinstance(failure, TransportError):
                raise ClientClosed(
                    f"this client was closed during {request.operation}, which may have been done"
                ) from failure
            if delay is None:
                raise failure
            _LOG.warning(
                "%s: attempt %d failed, next in %.2f s: %s",
                request.operation,
                attempts.made,
                delay,
                failure,
            )
            await self._clock.sleep(delay)

    async def pause(self, seconds: float) -> None:
        """Pause between two looks, for about `seconds`: many at once are not to look in step."""
        await self._clock.sleep(seconds * (0.75 + 0.5 * self._clock.random()))

    async def _cleared(
        self, request: Request[T], deadline: Deadline, failure: NunuError | None
    ) -> None:
        """Wait while the server wants no requests."""
        pause = None if request.urgent else await self._traffic.ready(deadline.at)
        if pause is not None:
            raise failure or _held(request, pause, deadline.remaining())
        self._check_open(failure)

    def _within(self, request: Request[T]) -> float:
        return request.within or max(self._timeouts.call, request.patience or 0.0)

    async def _attempt(
        self,
        request: Request[T],
        deadline: Deadline,
        number: int,
        answered: _Answered,
    ) -> T:
        patience = request.patience or self._timeouts.attempt
        remaining = deadline.remaining()
        failure: ApiError | DecodeError | None = None
        try:
            async with time_limit(self._clock, min(patience, remaining)):
                try:
                    outcome = await self._exchange(request, number, answered)
                except asyncio.CancelledError as error:
                    # A limit of the caller's keeps it as the cause of its own error.
                    raise error.with_traceback(None) from None
                if not isinstance(outcome, ApiError | DecodeError):
                    return outcome
                failure = outcome
        except TimeoutError:
            pass  # told below
        # As above, errors are raised here and not where they were found: those frames hold the key,
        # or an answer that echoes it, and error trackers record the locals of frames.
        if failure is not None:
            raise failure
        spent = DeadlineExceeded if remaining <= patience else StallError
        raise spent(
            f"{request.method} {request.path}: no answer within "
            f"{min(patience, remaining):g} seconds",
            method=request.method,
            path=request.path,
        )

    async def _exchange(
        self, request: Request[T], number: int, answered: _Answered
    ) -> T | ApiError | DecodeError:
        began = self._clock.monotonic()
        try:
            http = self._sessions.take(confidential=bool(request.secrets))
            way = DIRECT if self._sessions.is_given(http) else self._way
            async with http.request(
                request.method,
                # This, the body and the headers are made in the call, to be in no local.
                self._address(request),
                data=None if request.body is None else io.BytesIO(encode(request.body)),
                headers=self._headers(request, way),
                # aiohttp would call the body of a POST octets even where there is none.
                skip_auto_headers=None if request.method == "GET" else ("Content-Type",),
                timeout=self._connecting,
                proxy=way.proxy,
                proxy_headers=way.asking(),
                **OPTIONS,
            ) as response:
                try:
                    most = _LARGEST_ANSWER if is_success(response.status) else _LARGEST_REFUSAL
                    answer = await read_capped(response, most)
                    headers = headers_of(response)
                    answered.status = response.status
                finally:
                    del response  # it shows the query, and an error keeps the locals of its frames
                if len(answer) > _LARGE:
                    await self._reading.ready(len(answer))
                hidden = (self._config.api_key, *request.secrets)
                if self._on_attempt is not None:
                    answered.request_id = responses.request_id(headers, hidden)
                while True:
                    try:
                        with only_ready():
                            return responses.read(request, answered.status, headers, answer, hidden)
                    except NotReady as needed:
                        prepare = needed.prepare
                    await self._prepare(prepare)
        except asyncio.CancelledError as error:
            if was_cancelled():
                raise
            failure = translate(error, request.method, request.path)
        except Exception as error:  # noqa: BLE001 - whatever it is, ours is what leaves
            failure = translate(error, request.method, request.path)
        finally:
            headers, answer = {}, b""  # as with `response`: they may echo the key
            _LOG.debug(
                "%s %s attempt %d: %s in %.0f ms",
                request.method,
                request.template or request.path,
                number,
                answered.status or "no answer",
                1000 * (self._clock.monotonic() - began),
            )
        raise failure

    async def _prepare(self, prepare: Callable[[], None]) -> None:
        try:
            loading = asyncio.get_running_loop().run_in_executor(self._loader, prepare)
        except RuntimeError:  # closed meanwhile: what was answered is still to be read
            prepare()
        else:
            await loading

    def _address(self, request: Request[T]) -> URL:
        path = self._config.url(request.path)[self._origin :]
        # From a URL that is there: host and port, which aiohttp asks for, are read from it once.
        address = self._base.with_path(path, encoded=True)
        return address.with_query(request.query) if request.query else address

    def _headers(self, request: Request[T], way: Way) -> dict[str, str]:
        headers = {
            "Accept": "application/json",
            # Fixed: aiohttp's own value grows with whatever decoders happen to be installed.
            "Accept-Encoding": "gzip",
            "User-Agent": self._user_agent,
            **way.passing(),
        }
        if request.body is not None:
            headers["Content-Type"] = "application/json"
        if request.needs_key:
            headers["X-Api-Key"] = self._config.api_key.reveal()
        return headers

    def _check_open(self, failure: NunuError | None = None) -> None:
        """Raise: ClientClosed; ConfigError; `failure` where there was one before."""
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


def _held(request: Request[T], pause: float, remaining: float) -> RateLimited:
    """Return the error of a request that did not go out, because of what another was told."""
    return RateLimited(
        status=429,
        message=f"not sent: the server asked this client to wait {pause:.3g} seconds more, and "
        f"the call has {remaining:.3g}",
        method=request.method,
        path=request.path,
        retry_after=pause,
    )
