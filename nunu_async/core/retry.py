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
from typing import Final

import attrs
import backoff

from nunu_async.core.request import Replay
from nunu_async.errors import (
    ApiError,
    CertificateError,
    ConfigError,
    DeadlineExceeded,
    DecodeError,
    NunuError,
    ProxyError,
    StorageError,
    TransportError,
)

__all__ = ["Attempts", "RetryPolicy", "is_signature_refused", "is_throttled", "parse_retry_after"]

# 501, 505 and the other 4xx are answers, not accidents: a repeat gets the same one.
_TRANSIENT_STATUS: Final = frozenset({408, 425, 429, 500, 502, 503, 504, *range(520, 525)})
# S3's words for "again, please", whatever status they come with (RequestTimeout is a 400).
_TRANSIENT_CODES: Final = frozenset(
    {"RequestTimeout", "SlowDown", "InternalError", "ServiceUnavailable", "RequestLimitExceeded"}
)
# Words for a URL that was refused, which some stores send with a 400.
_REFUSED_CODES: Final = frozenset({"AccessDenied", "ExpiredRequest", "ExpiredToken"})
_NOT_ACTED_STATUS: Final = frozenset({429, 503})
_SECONDS: Final = re.compile(r"[0-9]+(\.[0-9]*)?")


def _at_least_one(_: object, attribute: attrs.Attribute[int], value: int) -> None:
    if value < 1:
        raise ConfigError(f"RetryPolicy.{attribute.name} must be at least 1, not {value!r}")


def _finite(_: object, attribute: attrs.Attribute[float], value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise ConfigError(
            f"RetryPolicy.{attribute.name} must be a finite number of seconds, not {value!r}"
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
    """

    attempts: int = attrs.field(default=5, validator=_at_least_one)
    part_attempts: int = attrs.field(default=8, validator=_at_least_one)
    base: float = attrs.field(default=0.5, validator=_finite)
    throttled_base: float = attrs.field(default=1.0, validator=_finite)
    cap: float = attrs.field(default=20.0, validator=_finite)
    max_retry_after: float = attrs.field(default=120.0, validator=_finite)

    def ceiling(self, retry: int, *, throttled: bool) -> float:
        """Return the longest pause before retry number `retry`, counted from 0."""
        base = self.throttled_base if throttled else self.base
        if base == 0 or self.cap == 0:
            return 0.0
        # The generator's first value is None: it waits to be primed.
        waits = backoff.expo(base=2, factor=base, max_value=self.cap)
        return float(next(islice(waits, retry + 1, None)))


class Attempts:
    """The count of one job's attempts, and the verdict after each failure."""

    __slots__ = ("_limit", "_policy", "made")

    def __init__(self, policy: RetryPolicy, limit: int) -> None:
        self._policy = policy
        self._limit = limit
        self.made = 0

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
        that would end after the job's deadline is not begun.
        """
        self.made += 1
        if self.made >= self._limit or not _may_repeat(failure, replay):
            return None
        ceiling = self._policy.ceiling(self.made - 1, throttled=is_throttled(failure))
        delay = max(at_least, chance * ceiling)
        asked = getattr(failure, "retry_after", None)
        if asked is not None:
            if asked > self._policy.max_retry_after:
                return None
            delay = max(delay, asked) + chance * 0.25 * asked
        return delay if delay < remaining else None


def _may_repeat(failure: NunuError, replay: Replay) -> bool:  # noqa: PLR0911 - a table
    match failure:
        case CertificateError() | DeadlineExceeded():
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
            return failure.status in _NOT_ACTED_STATUS
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


def is_signature_refused(failure: NunuError) -> bool:
    """Tell whether storage refused the URL itself, so that a fresh one may help.

    Any 403 counts: expired, altered and revoked URLs all answer it, with varying codes.
    """
    return isinstance(failure, StorageError) and (
        failure.status == 403 or failure.code in _REFUSED_CODES  # noqa: PLR2004
    )


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
