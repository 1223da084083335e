"""The attempt loop of API calls, parts and complete requests, and a record of each attempt."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Self, TypeAlias

import attrs

from nunu_async.core.clock import Clock, Deadline
from nunu_async.core.request import Replay
from nunu_async.core.retry import Attempts
from nunu_async.core.throttle import Throttle
from nunu_async.errors import (
    ApiError,
    ConfigError,
    DecodeError,
    NunuError,
    StorageError,
    TransportError,
)

_LOG = logging.getLogger("nunu_async.core")
_IS_COROUTINE_FUNCTION = 0x80  # inspect.CO_COROUTINE; importing inspect costs more than this module

# Failures that may be retried; `core.retry` decides which of them are.
_FAILURES = (ApiError, DecodeError, StorageError, TransportError)
_NO_FUNCTION = "on_attempt must be a function, and not a coroutine function"


@attrs.frozen(kw_only=True)
class Attempt:
    """One attempt of an API call, or of a part's PUT to storage.

    It holds no query, no key and no id that is a credential. Both `status` and `error` are None
    if the attempt was cancelled.

    Attributes:
        operation: the API's name for the call, or ``put_part``.
        method: the HTTP method.
        path: the path below the base URL, with placeholders in place of any ids; "" for a part,
            whose URL is a credential.
        number: 1 for the first attempt of a call or part.
        status: HTTP status; None without a response.
        seconds: from sending to the last byte received or the failure, by the client's clock.
        request_id: the server's id for the request, if it sent one.
        error: the failure, or None.
        part_number: 1-based; None for an API call.
    """

    operation: str
    method: str
    path: str
    number: int
    status: int | None
    seconds: float
    request_id: str | None = None
    error: NunuError | None = None
    part_number: int | None = None


OnAttempt: TypeAlias = Callable[[Attempt], None]
OnRetry: TypeAlias = Callable[[int, float, NunuError], Awaitable[None]]
"""Called with the number of a failed attempt, the seconds until the next, and the failure."""


def checked(listener: OnAttempt | None) -> OnAttempt | None:
    """Validate a listener, and return it.

    Raises: ConfigError for anything but a plain callable.
    """
    if listener is None:
        return None
    function: object = listener  # callers may not run a type checker
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    if not callable(function) or getattr(code, "co_flags", 0) & _IS_COROUTINE_FUNCTION:
        raise ConfigError(_NO_FUNCTION)
    return listener


@attrs.define(kw_only=True, eq=False, repr=False)
class AttemptLoop:
    """The attempts of one job; only this class retries.

    Yields an attempt; after a failure that may be retried, pauses and yields another one::

        async for attempt in attempts:
            with attempt:
                return await send()
        raise attempt.failure

    Attributes:
        rules: decides which failures are retried, how often, and after which pause.
        throttle: shares the pauses requested by a server with other jobs.
        deadline: no pause may last beyond it; None for no limit.
        at_least: minimum seconds before a retry.
        is_last: whether there is no retry, whatever the latest failure is.
        on_retry: called before each pause; without it, the retry is logged.
        on_attempt: called after each attempt, with an `Attempt` built from `operation` etc.
        number: number of the latest attempt, 1-based.
    """

    clock: Clock
    rules: Attempts
    replay: Replay
    throttle: Throttle | None = None
    deadline: Deadline | None = None
    at_least: float = 0.0
    on_retry: OnRetry | None = None
    on_attempt: OnAttempt | None = None
    operation: str = ""
    method: str = ""
    path: str = ""
    part_number: int | None = None
    is_last: bool = False
    number: int = attrs.field(init=False, default=0)
    _failed: CurrentAttempt | None = attrs.field(init=False, default=None)
    _chosen_delay: float | None = attrs.field(init=False, default=None)

    @property
    def failure(self) -> NunuError | None:
        """The exception of the latest failed attempt."""
        return None if self._failed is None else self._failed.failure

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> CurrentAttempt:
        if self._failed is not None:
            await self._pause_after(self._failed)
        self.number += 1
        return CurrentAttempt(self, self.number)

    async def _pause_after(self, failed: CurrentAttempt) -> None:
        failure = failed.failure
        delay = self._chosen_delay
        if delay is None:
            if not self.is_last:
                delay = self.rules.pause_after(
                    failure,
                    replay=self.replay,
                    chance=self.clock.random(),
                    remaining=math.inf if self.deadline is None else self.deadline.remaining(),
                    at_least=self.at_least,
                )
            if self.throttle is not None:
                self.throttle.failed(failure, failed.began, delay)
        if delay is None:
            raise StopAsyncIteration
        if self.on_retry is None:
            message = "%s: attempt %d failed, next in %.2f s: %s"
            _LOG.warning(message, self.operation, self.number, delay, failure)
        else:
            await self.on_retry(self.number, delay, failure)
        if self._chosen_delay != 0:
            await self.clock.sleep(delay)
        self._chosen_delay = None

    def retry_at_once(self) -> None:
        """Retry without a pause or budget cost; the retry counts towards the attempt limit."""
        self.rules.made += 1
        self._chosen_delay = 0.0

    def retry_in(self, delay: float) -> None:
        """Retry after `delay` seconds; the retry does not count towards the attempt limit."""
        self._chosen_delay = delay

    def ended(self, attempt: CurrentAttempt, error: BaseException | None) -> bool:
        """Record how an attempt ended; return whether its error may be retried."""
        if isinstance(error, _FAILURES):
            attempt.failure = error
            self._failed = attempt
        elif error is None:
            self._failed = None
            self.rules.succeeded()
            if self.throttle is not None:
                self.throttle.succeeded(attempt.began)
        if self.on_attempt is not None:
            if self.part_number is not None and error is not None:  # of storage, or of a proxy
                attempt.status = getattr(error, "status", None) or None
                attempt.request_id = getattr(error, "request_id", None)
            record = Attempt(
                operation=self.operation,
                method=self.method,
                path=self.path,
                number=attempt.number,
                status=attempt.status,
                seconds=self.clock.monotonic() - attempt.began,
                request_id=attempt.request_id,
                error=error if isinstance(error, NunuError) else None,
                part_number=self.part_number,
            )
            _report(self.on_attempt, record)
        return self._failed is attempt


@attrs.define(eq=False, repr=False)
class CurrentAttempt:
    """One attempt, used as a context manager that suppresses failures which may be retried.

    Attributes:
        number: 1 for the first attempt.
        status: HTTP status, for `on_attempt`; set by the code that sends the request, like
            `request_id`.
        began: monotonic time at which the `with` block was entered.
        failure: the exception that the block raised; set only after a failure.
    """

    _loop: AttemptLoop
    number: int
    status: int | None = None
    request_id: str | None = None
    began: float = attrs.field(init=False)
    failure: NunuError = attrs.field(init=False)

    def __enter__(self) -> None:
        self.began = self._loop.clock.monotonic()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        return self._loop.ended(self, error)


def _report(listener: OnAttempt, attempt: Attempt) -> None:
    """Call the listener; an exception it raises is logged, and the call goes on."""
    try:
        result: object = listener(attempt)  # type: ignore[func-returns-value] # despite its type
        if isinstance(result, Coroutine):
            result.close()
            raise TypeError(_NO_FUNCTION)
    except Exception:  # noqa: BLE001 - a listener must not fail the call
        _LOG.exception("on_attempt raised an exception")
