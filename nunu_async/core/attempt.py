"""The record of each attempt that `on_attempt` receives, for metrics and traces."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import TypeAlias

import attrs

from nunu_async.errors import ConfigError, NunuError

__all__ = ["Attempt", "OnAttempt", "checked", "report"]

_LOG = logging.getLogger("nunu_async.core")
_IS_COROUTINE_FUNCTION = 0x80  # inspect.CO_COROUTINE; importing inspect costs more than all of this

_NO_FUNCTION = "on_attempt must be a function, and not a coroutine function"


@attrs.frozen(kw_only=True)
class Attempt:
    """One attempt of an API call, or of a part on its way to storage.

    It holds no query, no key and no id that is a credential. Both `status` and `error` are None
    if the attempt was cancelled.

    Attributes:
        operation: the API's name for the call, or ``put_part``.
        method: the HTTP method.
        path: the path below the base URL, with placeholders for ids if it has any; "" for a part,
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


def checked(listener: OnAttempt | None) -> OnAttempt | None:
    """Return the listener once validated.

    Raises: ConfigError for anything but a plain callable.
    """
    if listener is None:
        return None
    function: object = listener  # callers may not run a type checker
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    if not callable(function) or getattr(code, "co_flags", 0) & _IS_COROUTINE_FUNCTION:
        raise ConfigError(_NO_FUNCTION)
    return listener


def report(listener: OnAttempt, attempt: Attempt) -> None:
    """Call the listener; an exception it raises is logged, and the call goes on."""
    try:
        result: object = listener(attempt)  # type: ignore[func-returns-value] # as its type says
        if isinstance(result, Coroutine):
            result.close()
            raise TypeError(_NO_FUNCTION)
    except Exception:  # noqa: BLE001 - a listener must not fail the call
        _LOG.exception("on_attempt raised an exception")
