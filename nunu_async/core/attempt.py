"""What a caller is told of each attempt, for metrics and traces."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import TypeAlias

import attrs

from nunu_async.errors import ConfigError, NunuError

__all__ = ["Attempt", "OnAttempt", "checked", "report"]

_LOG = logging.getLogger("nunu_async.core")
_IS_COROUTINE_FUNCTION = 0x80  # inspect.CO_COROUTINE; loading inspect takes longer than all of this

_NO_FUNCTION = "on_attempt must be a function, and not a coroutine function"


@attrs.frozen(kw_only=True)
class Attempt:
    """One attempt of an API call, or of a part on its way to storage.

    It holds no query, no key and no id that is a credential. Where both `status` and `error` are
    None, the attempt was cancelled.

    Attributes:
        operation: the API's name for the call, or ``put_part``.
        method: the HTTP method.
        path: the path below the base URL, with names in place of ids where it has any; "" for a
            part, whose address is a credential.
        number: 1 for the first attempt of a call or part.
        status: of the HTTP answer; None where there was none.
        seconds: from the request to its last byte or its failure, by the client's clock.
        request_id: what the server called the request, if it said so.
        error: what the attempt failed with.
        part_number: of a part, from 1; None for a call.
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
    """Return the listener, if it is one.

    Raises: ConfigError.
    """
    if listener is None:
        return None
    given: object = listener  # which need not be what its type says
    code = getattr(getattr(given, "__func__", given), "__code__", None)
    if not callable(given) or getattr(code, "co_flags", 0) & _IS_COROUTINE_FUNCTION:
        raise ConfigError(_NO_FUNCTION)
    return listener


def report(listener: OnAttempt, attempt: Attempt) -> None:
    """Call the listener; what it raises is logged, and ends nothing."""
    try:
        told: object = listener(attempt)  # type: ignore[func-returns-value] # as its type says
        if isinstance(told, Coroutine):
            told.close()
            raise TypeError(_NO_FUNCTION)
    except Exception:  # noqa: BLE001 - whatever it is, the call goes on
        _LOG.exception("on_attempt raised an exception")
