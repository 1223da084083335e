"""An API request as an immutable value."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

import attrs

from nunu_async.redact import Secret

T = TypeVar("T")


class Replay(enum.Enum):
    """When a request may be retried."""

    ALWAYS = "always"
    """Idempotent: GET, part PUT, cancel."""

    UNTIL_READ = "until read"
    """Like `ALWAYS`, and also after a response that does not have the documented shape."""

    TWICE_UNHEARD = "twice unheard"
    """Like `UNLESS_ACTED`, plus two retries after failures where the server may have acted."""

    NEVER = "never"
    """Never; the caller itself determines the outcome of the request."""

    UNLESS_ACTED = "unless acted"
    """Only if the server cannot have acted: no connection, or a response with 429 or 503."""


@attrs.define
class InFlight:
    """State of a request whose outcome a caller needs to know even when cancelled.

    Attributes:
        on_wire: an attempt is in flight, and the server may be acting on it.
        unheard: number of failed attempts on which the server may have acted.
        last: the caller was cancelled: start no further attempt.
        unsent: the caller was cancelled while nothing was on the wire.
    """

    on_wire: bool = False
    unheard: int = 0
    last: bool = False
    unsent: bool = False


@attrs.frozen(kw_only=True)
class Request(Generic[T]):
    """What to send, and how to decode the response.

    Attributes:
        operation: the API's own name, for messages and logs.
        path: path below the base URL, with a leading slash and with ids filled in.
        template: the path with placeholders for ids, for logs; "" if it has no ids.
        query: parameters, sent in this order and percent-encoded by the session.
        body: JSON data, or None for no body.
        answer: converts decoded JSON to the typed result; raises what the codec raises.
        settles: the caller determines the outcome itself, so an error in the body of a 2xx is not
            treated as a refusal.
        may_be_empty: a 2xx without a body is read as None instead of failing.
        needs_key: False sends this request without the API key.
        secrets: values of this request to hide in messages.
        patience: seconds for one attempt; None uses the client's own limit.
        within: seconds for all attempts; None uses the client's own limit.
        urgent: bypasses the queue of other requests; for cleanup.
        flight: where the session records whether the request is on the wire.
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
    flight: InFlight | None = None
