"""One API request as a value."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

import attrs

from nunu_async.redact import Secret

__all__ = ["Flight", "Replay", "Request"]

T = TypeVar("T")


class Replay(enum.Enum):
    """When a request may be sent a second time."""

    ALWAYS = "always"
    """Twice does what once does: GET, part PUT, cancel."""

    TWICE_UNHEARD = "twice unheard"
    """As `UNLESS_ACTED`, and twice where the server may have acted."""

    NEVER = "never"
    """For a caller that settles by itself what became of it."""

    UNLESS_ACTED = "unless acted"
    """Only when the server cannot have acted: never connected, or it answered 429 or 503."""


@attrs.define
class Flight:
    """How a request that must not be left unheard stands, for a caller that is cancelled.

    Attributes:
        on_wire: the server may be acting on it right now.
        unheard: attempts that failed, and on which the server may have acted all the same.
        last: set by the caller: no further attempt is to begin.
    """

    on_wire: bool = False
    unheard: int = 0
    last: bool = False


@attrs.frozen(kw_only=True)
class Request(Generic[T]):
    """What to ask, and how to read the answer.

    Attributes:
        operation: the API's own name for it, for messages and logs.
        path: below the base URL, with a leading slash and its ids already in place.
        template: the path with names in place of ids, for logs; "" where it has none.
        query: sent in this order, percent-encoded by the session.
        body: JSON data, or None for no body.
        answer: makes the typed answer of decoded JSON; raises what the codec raises.
        settles: the caller finds out what became of it, and takes no refusal that comes with a
            2xx for one.
        may_be_empty: a 2xx without a body is read as None, and not as a broken answer.
        needs_key: False keeps the API key off this request.
        secrets: values of this request that no message may repeat.
        patience: seconds for one attempt; None is the client's own limit.
        within: seconds for all attempts; None is the client's own limit.
        urgent: does not queue behind other requests; for cleaning up.
        flight: where the session notes whether the request is on the wire.
    """

    operation: str
    method: str
    path: str
    answer: Callable[[object], T]
    template: str = ""
    query: tuple[tuple[str, str], ...] = attrs.field(default=(), repr=False)
    body: Mapping[str, object] | None = attrs.field(default=None, repr=False)
    replay: Replay = Replay.UNLESS_ACTED
    settles: bool = False
    may_be_empty: bool = False
    needs_key: bool = True
    secrets: tuple[Secret, ...] = ()
    patience: float | None = None
    within: float | None = None
    urgent: bool = False
    flight: Flight | None = None
