"""Decide whether to retry, and when. Pure; the only user of `backoff`.

Only the wait generators of `backoff` are used: its decorators call `asyncio.iscoroutinefunction`,
which Python 3.16 removes, add jitter to a wait requested by the server, and use the wall clock.
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

# 501, 505 and the other 4xx are permanent: a retry gets the same response. An unknown 5xx counts as
# a 500 (RFC 9110, 15).
_TRANSIENT_STATUS: Final = frozenset({408, 425, 429, *range(500, 600)}) - {501, 505}
# S3's codes for transient errors, whatever their status (RequestTimeout has a 400).
_TRANSIENT_CODES: Final = frozenset(
    {
        *("RequestTimeout", "SlowDown", "InternalError", "ServiceUnavailable"),
        *("RequestLimitExceeded", "BadDigest", "IncompleteBody"),  # the last two: from a lossy link
        # Cloudflare R2's codes, with status 400, 409 and 409.
        *("ClientDisconnect", "OperationAborted", "ConditionalRequestConflict"),
    }
)
# Codes for a refused URL; some stores send them with a 400.
_EXPIRED_CODES: Final = frozenset({"ExpiredRequest", "ExpiredToken"})
_REFUSED_CODES: Final = _EXPIRED_CODES | {"AccessDenied"}
# How often a part's URL is renewed: a fresh URL may expire too on a slow link; any other refusal is
# final if a fresh URL is refused as well.
_EXPIRED_RENEWALS: Final = 3
_OTHER_RENEWALS: Final = 1
_IDEMPOTENT: Final = (Replay.ALWAYS, Replay.UNTIL_READ)
_NOT_ACTED_STATUS: Final = frozenset({429, 503})
# "Busy", "locked", "too early": the server may be processing this or an earlier request, even if
# only one was sent, as an edge proxy may have duplicated it.
_IN_PROGRESS_STATUS: Final = frozenset({409, 423, 425})
_PASSING_STATUS: Final = frozenset({408, 425, 429})
_GONE_STATUS: Final = frozenset({404, 410})
# Statuses of the response to a duplicate complete request after the first one succeeded.
_DUPLICATE_STATUS: Final = frozenset({404, 409, 410})
# 5xx of an edge proxy that lost its connection to the server, whatever the body says.
_EDGE_STATUS: Final = frozenset({502, 504, *range(520, 525)})
# Redirects that ask for the same request elsewhere, so that it had no effect here. Other redirects
# may point to the result of a request that was carried out.
_REPEATING_REDIRECTS: Final = frozenset({307, 308})
# Prefix of the problem reported for a 2xx response with an error in its body.
CARRIES_ERROR: Final = "the answer carries an error"
# Tokens that a retry costs, and that a success at the first attempt adds; AWS's figures of 2026.
_TRANSIENT_COST: Final = 14
_THROTTLED_COST: Final = 5
_INCOME: Final = 1
# One retry would do for rare failures. But of 1,000 uploads on a link that breaks one request in
# twenty, one or two lose a response twice in a row; hardly any lose it three times.
_UNKNOWN_RETRIES: Final = 2
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
    """How often to retry, and how long to wait before each retry.

    The pause before retry n (from 0) is uniform in 0 .. min(`cap`, `base` * 2**n): full jitter.
    A `Retry-After` is a lower bound on the pause; a value above `max_retry_after`, or above the
    time left, raises the error at once.

    Attributes:
        attempts: maximum attempts of one API request, the first included.
        part_attempts: maximum attempts to send one part to storage, the first included.
        base: seconds; the `base` of the formula after a transient failure.
        throttled_base: seconds; replaces `base` after the server asked to slow down.
        cap: seconds; the longest pause that was not requested by the server.
        max_retry_after: seconds; the longest pause that the server may request.
        budget: tokens for all retries of a client, counted separately for the API and for storage.
            A retry costs 14, or 5 after the server asked to slow down, and is refunded if it
            succeeds; a success at the first attempt adds 1, up to this limit. Storage has this
            many tokens for each concurrent part. Once they are spent, only cleaning up and
            completing an upload are retried. None for no limit.
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
        # The generator's first value is None, for priming.
        waits = backoff.expo(base=2, factor=base, max_value=self.cap)
        return float(next(islice(waits, retry + 1, None)))


class RetryBudget:
    """A token bucket for retries, so that an outage does not multiply every request.

    Attributes:
        left: tokens, from 0 to the capacity; infinite without a limit.
    """

    __slots__ = ("_capacity", "left")

    def __init__(self, capacity: int | None) -> None:
        self._capacity: float = math.inf if capacity is None else capacity
        self.left = self._capacity

    def take(self, cost: int) -> bool:
        """Pay for a retry; if too few tokens are left, take none and return False."""
        if cost > self.left:
            return False
        self.left -= cost
        return True

    def give(self, amount: int) -> None:
        """Add tokens, up to the capacity."""
        self.left = min(self._capacity, self.left + amount)


@attrs.define(eq=False)
class Attempts:
    """Count the attempts of one job, and decide after each failure whether to retry.

    Attributes:
        limit: maximum attempts, the first included.
        budget: pays for retries; if None, they are free.
        made: number of failed attempts.
    """

    _policy: RetryPolicy
    _limit: int
    _budget: RetryBudget | None = None
    _paid: int = attrs.field(init=False, default=0)
    _unknown: int = attrs.field(init=False, default=0)
    made: int = attrs.field(init=False, default=0)

    def succeeded(self) -> None:
        """Credit the retry budget for a success; refund the last retry's cost."""
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

        `chance` in [0, 1) is the jitter, `remaining` the seconds left for the whole job. Never
        returns a wait that would end after the job's deadline. A failure that is not retried
        because the budget is spent gets a note, and `retry_budget_exhausted`.
        """
        self.made += 1
        if replay is Replay.TWICE_UNHEARD:
            replay = Replay.ALWAYS if self._unknown < _UNKNOWN_RETRIES else Replay.UNLESS_ACTED
            self._unknown += may_have_acted(failure)
        if self.made >= self._limit or not _may_retry(failure, replay):
            return None
        ceiling = self._policy.ceiling(self.made - 1, throttled=is_throttled(failure))
        delay = max(at_least, chance * ceiling)
        retry_after = getattr(failure, "retry_after", None)
        if retry_after is not None:
            if retry_after > self._policy.max_retry_after:
                return None
            delay = max(delay, retry_after) + chance * 0.25 * retry_after
        if delay >= remaining:
            return None
        if self._budget is not None:
            self._paid = _THROTTLED_COST if is_throttled(failure) else _TRANSIENT_COST
            if not self._budget.take(self._paid):
                failure.retry_budget_exhausted = True
                failure.add_note("not tried again: the client's retry budget is spent")
                return None
        return delay


def _may_retry(failure: NunuError, replay: Replay) -> bool:  # noqa: PLR0911 - a table
    match failure:
        case CertificateError() | DeadlineExceeded() | ProtocolError():
            return False
        case _ if replay is Replay.NEVER:
            return False
        case ProxyError():
            return failure.status in _TRANSIENT_STATUS
        case DecodeError():
            return replay is Replay.UNTIL_READ or (replay is Replay.ALWAYS and failure.garbled)
        case TransportError():
            return replay in _IDEMPOTENT or not failure.sent
        case ApiError():
            if replay in _IDEMPOTENT:
                return failure.status in _TRANSIENT_STATUS
            return failure.status in _NOT_ACTED_STATUS and not failure.in_success
        case StorageError():
            # A 2xx becomes a StorageError if it cannot be trusted: no ETag, or sent too early.
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
    """Tell whether the server may have carried out a failed request."""
    match failure:
        case TransportError():
            return failure.sent
        case ApiError():
            # A 408 may come from an edge proxy that had already forwarded the request.
            if failure.status in _NOT_ACTED_STATUS:
                return failure.in_success
            return failure.status >= 500 or failure.status == 408  # noqa: PLR2004 - HTTP's classes
        case _:
            return isinstance(failure, DecodeError)


def is_in_progress(failure: NunuError) -> bool:
    """Tell whether the response may mean that the server is still processing the request."""
    return isinstance(failure, ApiError) and failure.status in _IN_PROGRESS_STATUS


def may_pass(failure: NunuError) -> bool:
    """Tell whether a retry of an idempotent request could succeed.

    Covers more failures than `Attempts` retries: for jobs with their own time limit, like cleanup.
    """
    if isinstance(failure, ApiError):
        # A 404 page from an edge proxy that cannot reach the API may be temporary.
        is_edge_page = isinstance(failure, NotFound) and not failure.explained
        status = failure.status
        return is_edge_page or status >= 500 or is_in_progress(failure) or status in (408, 429)  # noqa: PLR2004 - HTTP's class
    return isinstance(failure, TransportError | DecodeError) and not isinstance(
        failure, CertificateError | ProtocolError
    )


def is_passing(error: NunuError) -> bool:
    """Return whether polling continues after an error."""
    match error:
        case CertificateError():
            return False
        case TransportError():
            return True
        case ApiError():
            return error.status in _PASSING_STATUS or error.status >= 500  # noqa: PLR2004 - server's
        case DecodeError():
            return error.garbled
        case _:
            return False


def is_gone(failure: NunuError) -> bool:
    """Return whether the API says that a resource does not exist, or no longer exists."""
    # An edge proxy's own error page would not prove it.
    return isinstance(failure, ApiError) and failure.status in _GONE_STATUS and failure.explained


def may_be_duplicate(failure: ApiError) -> bool:
    """Return whether the failed request may be a duplicate of a complete that succeeded."""
    return failure.status in _DUPLICATE_STATUS


def had_no_effect(failure: NunuError) -> bool:
    """Return whether a failed request certainly had no effect."""
    if isinstance(failure, TransportError):
        return not failure.sent
    return (
        isinstance(failure, ApiError)
        and 400 <= failure.status < 500  # noqa: PLR2004 - HTTP's client errors
        and failure.status != 408  # noqa: PLR2004 - an edge proxy may have forwarded it
        and not is_in_progress(failure)
        # an edge proxy's "no such page" is not the API's "no such upload"
        and (failure.explained or not isinstance(failure, NotFound))
    )


def was_explained(failure: NunuError) -> bool:
    """Return whether the API itself refused the request, by its error body or by HTTP's rules."""
    if is_in_progress(failure):
        return False
    if isinstance(failure, DecodeError):
        return any(problem.startswith(CARRIES_ERROR) for problem in failure.problems)
    if not isinstance(failure, ApiError):
        return False
    if failure.status < 400:  # noqa: PLR2004 - HTTP's redirects
        return failure.status in _REPEATING_REDIRECTS
    return failure.explained and failure.status not in _EDGE_STATUS


def pause_between(tries: int, *, first: float, longest: float, chance: float) -> float:
    """Return the seconds to wait after `tries` attempts: doubling, with 25 % jitter."""
    return min(math.ldexp(first, min(tries - 1, 20)), longest) * (0.75 + 0.5 * chance)


def is_signature_refused(failure: NunuError) -> bool:
    """Tell whether storage refused the URL itself, so that a fresh one may help.

    Any 403 counts: expired, altered and revoked URLs all cause one, with varying codes.
    """
    return isinstance(failure, StorageError) and (
        failure.status == 403 or failure.code in _REFUSED_CODES  # noqa: PLR2004
    )


def is_expired(failure: NunuError) -> bool:
    """Tell whether storage refused a URL because of its age."""
    message = str(getattr(failure, "message", "")).lower()
    return is_signature_refused(failure) and (
        getattr(failure, "code", None) in _EXPIRED_CODES or "expired" in message
    )


def renewals(failure: NunuError) -> int:
    """Return how often a part's URL may be renewed before this refusal is final."""
    if not is_signature_refused(failure):
        return 0
    return _EXPIRED_RENEWALS if is_expired(failure) else _OTHER_RENEWALS


def parse_retry_after(value: str | None, date: str | None = None) -> float | None:
    """Return a `Retry-After` header in seconds, or None if it is unusable.

    Accepts digits with an optional fraction, or an HTTP date, which is compared with the response's
    own `Date` header because clocks disagree; without that header, the result is None. It is also
    None for negative, infinite, unreadable and several different values.
    Source: RFC 9110, 10.2.3.
    """
    if value is None:
        return None
    text = value.strip()
    if _SECONDS.fullmatch(text):
        seconds = float(text)
        return seconds if math.isfinite(seconds) else None
    until, now = _http_date(text), _http_date(date or "")
    if until is None or now is None:
        return None
    return max(0.0, (until - now).total_seconds())


def _http_date(text: str) -> datetime | None:
    try:
        parsed = parsedate_to_datetime(text)
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
