"""Whether to try again, and when. Pure; the only user of `backoff`.

Only its wait generators are used: the decorators call `asyncio.iscoroutinefunction`, which
Python 3.16 removes, jitter a wait that the server asked for, and measure by the wall clock.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import Any, Final

import attrs
import backoff

from nunu_async.config import is_number
from nunu_async.core.request import Replay
from nunu_async.errors import (
    ApiError,
    CertificateError,
    ConfigError,
    DeadlineExceeded,
    DecodeError,
    NotFound,
    NunuError,
    ProtocolError,
    ProxyError,
    StorageError,
    TransportError,
)

__all__ = [
    "Attempts",
    "RetryBudget",
    "RetryPolicy",
    "is_expired",
    "is_in_progress",
    "is_signature_refused",
    "is_throttled",
    "may_have_acted",
    "may_pass",
    "parse_retry_after",
    "pause_between",
    "renewals",
]

# 501, 505 and the other 4xx are answers, not accidents: a repeat gets the same one. A 5xx that is
# not listed anywhere is a 500 (RFC 9110, 15).
_TRANSIENT_STATUS: Final = frozenset({408, 425, 429, *range(500, 600)}) - {501, 505}
# S3's words for "again, please", whatever status they come with (RequestTimeout is a 400).
_TRANSIENT_CODES: Final = frozenset(
    {
        *("RequestTimeout", "SlowDown", "InternalError", "ServiceUnavailable"),
        *("RequestLimitExceeded", "BadDigest", "IncompleteBody"),  # the last two: a lossy link
        # R2's: 400, 409 and 409.
        *("ClientDisconnect", "OperationAborted", "ConditionalRequestConflict"),
    }
)
# Words for a URL that was refused, which some stores send with a 400.
_EXPIRED_CODES: Final = frozenset({"ExpiredRequest", "ExpiredToken"})
_REFUSED_CODES: Final = _EXPIRED_CODES | {"AccessDenied"}
# How often a part's URL is had anew: one that is only too old may be so again on a slow link, one
# that is refused otherwise is refused for good if a fresh one is.
_EXPIRED_RENEWALS: Final = 3
_OTHER_RENEWALS: Final = 1
_NOT_ACTED_STATUS: Final = frozenset({429, 503})
# "Busy", "locked", "too early": the server may be at work on this or an earlier request, also where
# this was the only one, as an edge may have sent it twice.
_IN_PROGRESS_STATUS: Final = frozenset({409, 423, 425})
# What retries cost, and what a success at the first try brings; AWS's own figures of 2026.
_TRANSIENT_COST: Final = 14
_THROTTLED_COST: Final = 5
_INCOME: Final = 1
# One would do for a rare accident. Of 1,000 uploads on a link that spoils one request in twenty,
# one or two lose an answer twice in a row; three times, hardly any.
_UNHEARD_REPEATS: Final = 2
_SECONDS: Final = re.compile(r"[0-9]+(\.[0-9]*)?")


def _at_least_one(_: object, attribute: attrs.Attribute[int], value: int) -> None:
    if type(value) is not int or value < 1:
        raise ConfigError(
            f"RetryPolicy.{attribute.name} must be a whole number, at least 1, not {value!r}"
        )


def _finite(_: object, attribute: attrs.Attribute[float], value: float) -> None:
    if not (is_number(value) and value >= 0):
        raise ConfigError(
            f"RetryPolicy.{attribute.name} must be a finite number of seconds, not {value!r}"
        )


def _amount(_: object, attribute: attrs.Attribute[Any], value: int | None) -> None:
    if value is not None and not (type(value) is int and value >= 0):
        raise ConfigError(
            f"RetryPolicy.{attribute.name} must be a whole number or None, not {value!r}"
        )


@attrs.frozen(kw_only=True)
class RetryPolicy:
    """How often and how patiently to try again.

    The pause before retry n (from 0) is uniform in 0 .. min(`cap`, `base` * 2**n): full jitter.
    A `Retry-After` is a lower bound on it; one above `max_retry_after`, or above the time left,
    ends the call at once with the error itself.

    Attributes:
        attempts: sends of one API request, the first included.
        part_attempts: sends of one part to storage, the first included.
        base: seconds, after a transient failure.
        throttled_base: seconds, after the server said to slow down.
        cap: seconds, the longest pause of our own making.
        max_retry_after: seconds, the longest pause a server may ask for.
        budget: what all retries of a client are paid from, for the API and for storage each: one
            costs 14, or 5 after the server said to slow down, and has its price back if it
            succeeds; a first attempt that succeeds adds 1, up to this. Storage has as much for
            each part that may be under way. Where it is spent, nothing is tried again but what
            cleans up or completes an upload. None sets no such limit.
    """

    attempts: int = attrs.field(default=5, validator=_at_least_one)
    part_attempts: int = attrs.field(default=8, validator=_at_least_one)
    base: float = attrs.field(default=0.5, validator=_finite)
    throttled_base: float = attrs.field(default=1.0, validator=_finite)
    cap: float = attrs.field(default=20.0, validator=_finite)
    max_retry_after: float = attrs.field(default=120.0, validator=_finite)
    budget: int | None = attrs.field(default=500, validator=_amount)

    def ceiling(self, retry: int, *, throttled: bool) -> float:
        """Return the longest pause before retry number `retry`, counted from 0."""
        base = self.throttled_base if throttled else self.base
        if base == 0 or self.cap == 0:
            return 0.0
        # The generator's first value is None: it waits to be primed.
        waits = backoff.expo(base=2, factor=base, max_value=self.cap)
        return float(next(islice(waits, retry + 1, None)))


class RetryBudget:
    """Tokens that retries are paid with, so that an outage does not multiply every request.

    Attributes:
        left: from 0 to the capacity; infinite where there is no limit.
    """

    __slots__ = ("_capacity", "left")

    def __init__(self, capacity: int | None) -> None:
        self._capacity: float = math.inf if capacity is None else capacity
        self.left = self._capacity

    def take(self, cost: int) -> bool:
        """Pay for a retry; False, and nothing is taken, where too little is left."""
        if cost > self.left:
            return False
        self.left -= cost
        return True

    def give(self, amount: int) -> None:
        """Put tokens in; what is above the capacity is lost."""
        self.left = min(self._capacity, self.left + amount)


class Attempts:
    """The count of one job's attempts, and the verdict after each failure.

    Retries are paid from `budget`; without one they are free.
    """

    __slots__ = ("_budget", "_limit", "_paid", "_policy", "_unheard", "made")

    def __init__(self, policy: RetryPolicy, limit: int, budget: RetryBudget | None = None) -> None:
        self._policy = policy
        self._limit = limit
        self._budget = budget
        self._paid = 0
        self._unheard = 0
        self.made = 0

    def succeeded(self) -> None:
        """Give the budget its due for an attempt that succeeded, after `made` that did not."""
        if self._budget is not None:
            self._budget.give(self._paid if self.made else _INCOME)

    def pause_after(
        self,
        failure: NunuError,
        *,
        replay: Replay,
        chance: float,
        remaining: float = math.inf,
        at_least: float = 0.0,
    ) -> float | None:
        """Count a failed attempt; return the seconds to wait before the next, or None to give up.

        `chance` in [0, 1) is the jitter; `remaining` the seconds left for the whole job. A wait
        that would end after the job's deadline is not begun. A failure that is not tried again
        for want of budget says so, in a note and in `retry_budget_exhausted`.
        """
        self.made += 1
        if replay is Replay.TWICE_UNHEARD:
            replay = Replay.ALWAYS if self._unheard < _UNHEARD_REPEATS else Replay.UNLESS_ACTED
            self._unheard += may_have_acted(failure)
        if self.made >= self._limit or not _may_repeat(failure, replay):
            return None
        ceiling = self._policy.ceiling(self.made - 1, throttled=is_throttled(failure))
        delay = max(at_least, chance * ceiling)
        asked = getattr(failure, "retry_after", None)
        if asked is not None:
            if asked > self._policy.max_retry_after:
                return None
            delay = max(delay, asked) + chance * 0.25 * asked
        if delay >= remaining:
            return None
        if self._budget is not None:
            self._paid = _THROTTLED_COST if is_throttled(failure) else _TRANSIENT_COST
            if not self._budget.take(self._paid):
                failure.retry_budget_exhausted = True
                failure.add_note("not tried again: the client's retry budget is spent")
                return None
        return delay


def _may_repeat(failure: NunuError, replay: Replay) -> bool:  # noqa: PLR0911 - a table
    match failure:
        case CertificateError() | DeadlineExceeded() | ProtocolError():
            return False
        case _ if replay is Replay.NEVER:
            return False
        case ProxyError():
            return failure.status in _TRANSIENT_STATUS
        case TransportError():
            return replay is Replay.ALWAYS or not failure.sent
        case ApiError():
            if replay is Replay.ALWAYS:
                return failure.status in _TRANSIENT_STATUS
            return failure.status in _NOT_ACTED_STATUS and not failure.in_success
        case DecodeError():
            return replay is Replay.ALWAYS and failure.garbled
        case StorageError():
            # A 2xx becomes a StorageError when it cannot be trusted: no ETag, or too early.
            return (
                200 <= failure.status < 300  # noqa: PLR2004 - HTTP's success class
                or failure.status in _TRANSIENT_STATUS
                or failure.code in _TRANSIENT_CODES
            )
        case _:
            return False


def is_throttled(failure: NunuError) -> bool:
    """Tell whether the server asked for fewer requests."""
    return getattr(failure, "status", 0) == 429 or getattr(failure, "code", None) in {  # noqa: PLR2004
        "SlowDown",
        "RequestLimitExceeded",
    }


def may_have_acted(failure: NunuError) -> bool:
    """Tell whether the server may have done what a failed request asked for."""
    match failure:
        case TransportError():
            return failure.sent
        case ApiError():
            # A 408 may come from an edge that had already passed the request on.
            if failure.status in _NOT_ACTED_STATUS:
                return failure.in_success
            return failure.status >= 500 or failure.status == 408  # noqa: PLR2004 - HTTP's classes
        case _:
            return isinstance(failure, DecodeError)


def is_in_progress(failure: NunuError) -> bool:
    """Tell whether the answer may mean that the server is at work on what was asked for."""
    return isinstance(failure, ApiError) and failure.status in _IN_PROGRESS_STATUS


def may_pass(failure: NunuError) -> bool:
    """Tell whether another try of something that may be repeated at will could succeed.

    More than `Attempts` repeats: for what has a time limit of its own, such as cleaning up.
    """
    if isinstance(failure, ApiError):
        # The page of an edge that has lost its server may be gone a moment later.
        of_an_edge = isinstance(failure, NotFound) and not failure.explained
        status = failure.status
        return of_an_edge or status >= 500 or is_in_progress(failure) or status in (408, 429)  # noqa: PLR2004 - HTTP's class
    return isinstance(failure, TransportError | DecodeError) and not isinstance(
        failure, CertificateError | ProtocolError
    )


def pause_between(tries: int, *, first: float, longest: float, chance: float) -> float:
    """Return the seconds to wait after so many tries: doubling, and varied by a quarter."""
    return min(math.ldexp(first, min(tries - 1, 20)), longest) * (0.75 + 0.5 * chance)


def is_signature_refused(failure: NunuError) -> bool:
    """Tell whether storage refused the URL itself, so that a fresh one may help.

    Any 403 counts: expired, altered and revoked URLs all answer it, with varying codes.
    """
    return isinstance(failure, StorageError) and (
        failure.status == 403 or failure.code in _REFUSED_CODES  # noqa: PLR2004
    )


def is_expired(failure: NunuError) -> bool:
    """Tell whether storage refused a URL because of its age."""
    told = str(getattr(failure, "message", "")).lower()
    return is_signature_refused(failure) and (
        getattr(failure, "code", None) in _EXPIRED_CODES or "expired" in told
    )


def renewals(failure: NunuError) -> int:
    """Return how many fresh URLs a part may have had when its URL is refused so again."""
    if not is_signature_refused(failure):
        return 0
    return _EXPIRED_RENEWALS if is_expired(failure) else _OTHER_RENEWALS


def parse_retry_after(value: str | None, date: str | None = None) -> float | None:
    """Return a `Retry-After` header in seconds, or None where it says nothing usable.

    Digits with an optional fraction, or an HTTP date, which is read against the answer's own
    `Date` header because clocks disagree, and is None without one. Negative, infinite and
    unreadable values are None, and so are several that differ.
    Source: RFC 9110, 10.2.3.
    """
    if value is None:
        return None
    text = value.strip()
    if _SECONDS.fullmatch(text):
        seconds = float(text)
        return seconds if math.isfinite(seconds) else None
    asked, told = _http_date(text), _http_date(date or "")
    if asked is None or told is None:
        return None
    return max(0.0, (asked - told).total_seconds())


def _http_date(text: str) -> datetime | None:
    try:
        parsed = parsedate_to_datetime(text)
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
