"""One API request as a value."""

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
    """As `ALWAYS`, and also after a response that does not have the documented shape."""

    TWICE_UNHEARD = "twice unheard"
    """As `UNLESS_ACTED`, plus two retries where the server may have acted."""

    NEVER = "never"
    """Never; the caller finds out itself what became of the request."""

    UNLESS_ACTED = "unless acted"
    """Only when the server cannot have acted: never connected, or it responded with 429 or 503."""


@attrs.define
class InFlight:
    """State of a request whose outcome a caller needs to know even when cancelled.

    Attributes:
        on_wire: the server may be acting on it right now.
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
        path: below the base URL, with a leading slash and its ids already in place.
        template: the path with placeholders for ids, for logs; "" where it has none.
        query: sent in this order, percent-encoded by the session.
        body: JSON data, or None for no body.
        answer: converts decoded JSON to the typed result; raises what the codec raises.
        settles: the caller finds out the outcome itself, so that an error in the body of a 2xx is
            not taken for a refusal.
        may_be_empty: a 2xx without a body is read as None instead of failing.
        needs_key: False sends this request without the API key.
        secrets: values of this request to hide in messages.
        patience: seconds for one attempt; None is the client's own limit.
        within: seconds for all attempts; None is the client's own limit.
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
