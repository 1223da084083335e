"""Whether to try again, and when."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nunu_async.core.request import Replay
from nunu_async.core.retry import (
    Attempts,
    RetryPolicy,
    is_signature_refused,
    is_throttled,
    parse_retry_after,
    renewals,
)
from nunu_async.errors import (
    CertificateError,
    ClientClosed,
    ConfigError,
    ConnectError,
    DeadlineExceeded,
    DecodeError,
    InputError,
    NunuError,
    PlanMismatch,
    SourceChanged,
    StallError,
    StorageError,
    TransportError,
    UploadOutcomeUnknown,
    error_for_status,
)

DATE = "Sun, 06 Nov 1994 08:49:30 GMT"


def answered(status: int, retry_after: float | None = None) -> NunuError:
    return error_for_status(status)(status=status, retry_after=retry_after)


def stored(
    status: int, code: str | None = None, retry_after: float | None = None, message: str = ""
) -> NunuError:
    return StorageError(
        part_number=1, status=status, code=code, retry_after=retry_after, message=message
    )


def repeats(failure: NunuError, replay: Replay) -> bool:
    return Attempts(RetryPolicy(), 5).pause_after(failure, replay=replay, chance=0.5) is not None


@pytest.mark.parametrize(
    ("failure", "always", "unless_acted"),
    [
        (ConnectError("refused", sent=False), True, True),
        (TransportError("gone before a byte", sent=False), True, True),
        (TransportError("reset", sent=True), True, False),
        (StallError("silent"), True, False),
        (CertificateError("self-signed", sent=False), False, False),
        (DeadlineExceeded("over"), False, False),
        (DecodeError("get_build", ("not JSON",), garbled=True), True, False),
        (DecodeError("get_build", ("is missing",), garbled=False), False, False),
        (ConfigError("no key"), False, False),
        (ClientClosed("closed"), False, False),
        (InputError("tags", "no"), False, False),
        (SourceChanged("a.zip", "shorter"), False, False),
        (PlanMismatch("no"), False, False),
        (UploadOutcomeUnknown("who knows", build_id="b", stage="complete"), False, False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_a_failure_is_repeated_as_its_kind_allows(
    failure: NunuError,
    always: bool,
    unless_acted: bool,
) -> None:
    assert (repeats(failure, Replay.ALWAYS), repeats(failure, Replay.UNLESS_ACTED)) == (
        always,
        unless_acted,
    )


@pytest.mark.parametrize(
    ("status", "always", "unless_acted"),
    [
        *((status, True, True) for status in (429, 503)),
        *((status, True, False) for status in (408, 425, 500, 502, 504, 506, 507, 519)),
        *((status, True, False) for status in (*range(520, 531), 599)),  # of edges
        *((status, False, False) for status in (301, 307, 400, 401, 402, 403, 404, 405)),
        *((status, False, False) for status in (409, 410, 413, 418, 422, 501, 505, 600)),
    ],
)
def test_a_status_is_repeated_only_if_it_can_pass(
    status: int,
    always: bool,
    unless_acted: bool,
) -> None:
    failure = answered(status)
    assert (repeats(failure, Replay.ALWAYS), repeats(failure, Replay.UNLESS_ACTED)) == (
        always,
        unless_acted,
    )


@pytest.mark.parametrize(
    ("failure", "repeated"),
    [
        *((stored(status), True) for status in (408, 425, 429, 500, 502, 503, 504, 520, 529)),
        (stored(400, "ClientDisconnect"), True),
        (stored(409, "OperationAborted"), True),
        (stored(409, "ConditionalRequestConflict"), True),
        (stored(200), True),
        (stored(204), True),
        (stored(400, "RequestTimeout"), True),
        (stored(400, "SlowDown"), True),
        (stored(400, "InternalError"), True),
        (stored(400, "ServiceUnavailable"), True),
        (stored(503, "SlowDown"), True),
        (stored(400), False),
        (stored(400, "EntityTooLarge"), False),
        (stored(403, "SignatureDoesNotMatch"), False),
        (stored(403, "AccessDenied"), False),
        (stored(404, "NoSuchUpload"), False),
        (stored(307, "TemporaryRedirect"), False),
        (stored(411), False),
        (stored(501, "NotImplemented"), False),
    ],
    ids=str,
)
def test_a_storage_answer_is_repeated_by_status_or_by_code(
    failure: NunuError,
    repeated: bool,
) -> None:
    assert repeats(failure, Replay.ALWAYS) is repeated


def test_a_failure_that_passes_does_not_excuse_the_one_after_it() -> None:
    attempts = Attempts(RetryPolicy(), 5)
    first = attempts.pause_after(answered(503), replay=Replay.ALWAYS, chance=0.5)
    second = attempts.pause_after(answered(400), replay=Replay.ALWAYS, chance=0.5)
    assert (first is None, second is None) == (False, True)


@given(limit=st.integers(1, 40), chance=st.floats(0, 1, exclude_max=True))
def test_a_job_is_sent_exactly_as_often_as_its_limit_says(limit: int, chance: float) -> None:
    attempts = Attempts(RetryPolicy(), limit)
    sent = 1
    while attempts.pause_after(answered(500), replay=Replay.ALWAYS, chance=chance) is not None:
        sent += 1
        assert sent <= limit
    assert (sent, attempts.made) == (limit, limit)


seconds = st.floats(0, 1000)


@given(
    policy=st.builds(
        RetryPolicy,
        base=st.floats(0.001, 10),
        throttled_base=st.floats(0.001, 10),
        cap=st.floats(0, 100),
        max_retry_after=seconds,
    ),
    earlier=st.integers(0, 30),
    failure=st.one_of(
        st.builds(answered, st.sampled_from([429, 500, 503]), st.none() | seconds),
        st.builds(stored, st.just(503), st.sampled_from([None, "SlowDown"]), st.none() | seconds),
        st.builds(TransportError, st.just("reset")),
    ),
    chance=st.floats(0, 1, exclude_max=True),
    remaining=st.just(math.inf) | seconds,
    at_least=seconds,
)
def test_a_pause_keeps_within_its_bounds(
    policy: RetryPolicy,
    earlier: int,
    failure: NunuError,
    chance: float,
    remaining: float,
    at_least: float,
) -> None:
    attempts = Attempts(policy, 100)
    attempts.made = earlier
    asked = getattr(failure, "retry_after", None) or 0.0
    ceiling = policy.ceiling(earlier, throttled=is_throttled(failure))
    least = max(at_least, asked)
    most = max(at_least, asked, ceiling) + 0.25 * asked
    delay = attempts.pause_after(
        failure, replay=Replay.ALWAYS, chance=chance, remaining=remaining, at_least=at_least
    )
    if delay is None:
        assert asked > policy.max_retry_after or most >= remaining
    else:
        assert asked <= policy.max_retry_after
        assert least <= delay <= most
        assert delay < remaining


@pytest.mark.parametrize(
    ("retry", "ceiling"),
    [(0, 0.5), (1, 1), (2, 2), (3, 4), (4, 8), (5, 16), (6, 20), (7, 20), (10_000, 20)],
)
def test_the_ceiling_doubles_up_to_the_cap(retry: int, ceiling: float) -> None:
    assert RetryPolicy().ceiling(retry, throttled=False) == ceiling


@pytest.mark.parametrize(("retry", "ceiling"), [(0, 1), (1, 2), (4, 16), (5, 20), (6, 20)])
def test_the_ceiling_starts_higher_after_a_request_to_slow_down(retry: int, ceiling: float) -> None:
    assert RetryPolicy().ceiling(retry, throttled=True) == ceiling


@pytest.mark.parametrize("policy", [RetryPolicy(base=0), RetryPolicy(cap=0)])
def test_a_policy_may_ask_for_no_pause(policy: RetryPolicy) -> None:
    assert [policy.ceiling(retry, throttled=False) for retry in range(4)] == [0, 0, 0, 0]


def test_a_cap_below_the_base_holds_from_the_first_retry() -> None:
    assert RetryPolicy(base=5, cap=2).ceiling(0, throttled=False) == 2


def pause(
    failure: NunuError, *, chance: float = 0.0, policy: RetryPolicy | None = None, **limits: float
) -> float | None:
    attempts = Attempts(policy or RetryPolicy(), 5)
    return attempts.pause_after(failure, replay=Replay.ALWAYS, chance=chance, **limits)


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (answered(500), 0.25),
        (answered(503), 0.25),
        (answered(429), 0.5),
        (stored(503), 0.25),
        (stored(503, "SlowDown"), 0.5),
        (TransportError("reset"), 0.25),
    ],
    ids=str,
)
def test_the_first_pause_is_the_chance_of_its_ceiling(failure: NunuError, expected: float) -> None:
    assert pause(failure, chance=0.5) == expected


def test_each_pause_has_the_next_ceiling() -> None:
    attempts = Attempts(RetryPolicy(), 9)
    pauses = [
        attempts.pause_after(answered(500), replay=Replay.ALWAYS, chance=0.5) for _ in range(9)
    ]
    assert pauses == [0.25, 0.5, 1, 2, 4, 8, 10, 10, None]


@pytest.mark.parametrize(("chance", "expected"), [(0.0, 4.0), (0.5, 4.5)])
def test_a_server_s_wait_is_a_lower_bound_with_jitter_above(chance: float, expected: float) -> None:
    assert pause(answered(429, 4.0), chance=chance) == expected


def test_a_server_s_short_wait_does_not_shorten_ours() -> None:
    assert pause(answered(500, 0.0), chance=0.5) == 0.25


def test_the_longest_allowed_wait_is_kept() -> None:
    assert pause(answered(429, 120.0)) == 120.0


def test_a_longer_wait_than_allowed_ends_the_job() -> None:
    assert pause(answered(429, 120.5)) is None


@pytest.mark.parametrize(("remaining", "expected"), [(3.0, None), (3.001, 3.0)])
def test_a_pause_that_would_outlast_the_job_is_not_begun(
    remaining: float, expected: float | None
) -> None:
    assert pause(answered(429, 3.0), remaining=remaining) == expected


def test_a_job_may_ask_for_a_least_pause() -> None:
    assert pause(TransportError("reset"), at_least=1.0) == 1.0


@pytest.mark.parametrize(
    ("failure", "throttled"),
    [
        (answered(429), True),
        (stored(429), True),
        (stored(503, "SlowDown"), True),
        (stored(503, "RequestLimitExceeded"), True),
        (answered(503), False),
        (stored(503), False),
        (TransportError("reset"), False),
    ],
    ids=str,
)
def test_only_a_plea_for_fewer_requests_is_throttling(
    failure: NunuError,
    throttled: bool,
) -> None:
    assert is_throttled(failure) is throttled


@pytest.mark.parametrize(
    ("failure", "refused"),
    [
        (stored(403), True),
        (stored(403, "SignatureDoesNotMatch"), True),
        (stored(400, "ExpiredRequest"), True),
        (stored(400, "ExpiredToken"), True),
        (stored(400, "EntityTooLarge"), False),
        (stored(401), False),
        (stored(500), False),
        (answered(403), False),
    ],
    ids=str,
)
def test_only_storage_can_refuse_a_signature(
    failure: NunuError,
    refused: bool,
) -> None:
    assert is_signature_refused(failure) is refused


@pytest.mark.parametrize(
    ("failure", "times"),
    [
        (stored(403), 1),
        (stored(403, "SignatureDoesNotMatch"), 1),
        (stored(400, "ExpiredRequest"), 3),
        (stored(403, "AccessDenied", message="Request has expired"), 3),
        (stored(403, "AccessDenied"), 1),
        (stored(500), 0),
        (answered(403), 0),
    ],
    ids=str,
)
def test_a_url_that_is_only_too_old_may_be_had_anew_more_often(
    failure: NunuError, times: int
) -> None:
    assert renewals(failure) == times


@pytest.mark.parametrize(
    ("value", "date", "expected"),
    [
        pytest.param("0", None, 0.0, id="zero"),
        pytest.param("3", None, 3.0, id="digits"),
        pytest.param("3.25", None, 3.25, id="fraction"),
        pytest.param("  7 ", None, 7.0, id="spaces around"),
        pytest.param("9999999999", None, 9999999999.0, id="centuries, for the policy to refuse"),
        pytest.param("Sun, 06 Nov 1994 08:49:37 GMT", DATE, 7.0, id="IMF date"),
        pytest.param("Sunday, 06-Nov-94 08:49:37 GMT", DATE, 7.0, id="RFC 850 date"),
        pytest.param("Sun Nov  6 08:49:37 1994", DATE, 7.0, id="asctime date"),
        pytest.param("Sun, 06 Nov 1994 08:49:37", DATE, 7.0, id="date without a zone"),
        pytest.param("Sun, 06 Nov 1994 09:49:37 +0100", DATE, 7.0, id="date in another zone"),
        pytest.param(
            "Sun, 06 Nov 1994 08:49:37 GMT", "Sun Nov  6 08:49:30 1994", 7.0, id="two date forms"
        ),
        pytest.param("Sun, 06 Nov 1994 08:49:00 GMT", DATE, 0.0, id="date in the past"),
    ],
)
def test_a_retry_after_is_read(value: str, date: str | None, expected: float) -> None:
    assert parse_retry_after(value, date) == expected


@pytest.mark.parametrize(
    ("value", "date"),
    [
        (None, None),
        (None, DATE),
        ("", None),
        ("   ", None),
        ("soon", None),
        ("soon", DATE),
        ("-5", None),
        ("-0.001", None),
        ("nan", None),
        ("inf", None),
        ("-inf", None),
        ("infinity", None),
        ("1e999", None),
        ("0x10", None),
        ("3, 5", None),
        ("3s", None),
        ("Sun, 06 Nov 1994 08:49:37 GMT", None),
        ("Sun, 06 Nov 1994 08:49:37 GMT", ""),
        ("Sun, 06 Nov 1994 08:49:37 GMT", "now"),
        ("Sun, 99 Nov 1994 08:49:37 GMT", DATE),
        ("Sun, 06 Nov 99999999999999 08:49:37 GMT", DATE),
        ("Sun, 06 Nov 1994 08:49:37 +99999999", DATE),
        (",", DATE),
    ],
)
def test_a_retry_after_that_says_nothing_usable_is_absent(
    value: str | None, date: str | None
) -> None:
    assert parse_retry_after(value, date) is None


@pytest.mark.parametrize("value", ["1_0", "1e3", "+3", "\u0663"])
def test_a_retry_after_is_plain_digits_and_not_every_number_python_reads(value: str) -> None:
    assert parse_retry_after(value) is None


dates = st.one_of(
    st.text(max_size=40),
    st.from_regex(
        r"[A-Z][a-z]{2}, \d{1,3} [A-Z][a-z]{2} \d{1,12} \d{1,3}:\d\d:\d\d( ([+-]\d{1,9}|GMT))?",
        fullmatch=True,
    ),
)


@given(value=dates | st.floats().map(str) | st.integers().map(str), date=st.none() | dates)
def test_no_retry_after_breaks_the_reader(value: str, date: str | None) -> None:
    seconds = parse_retry_after(value, date)
    assert seconds is None or (math.isfinite(seconds) and seconds >= 0)


@pytest.mark.parametrize("name", ["attempts", "part_attempts"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_policy_without_a_first_attempt_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"RetryPolicy\.{name} "):
        RetryPolicy(**{name: value})


@pytest.mark.parametrize("name", ["base", "throttled_base", "cap", "max_retry_after"])
@pytest.mark.parametrize("value", [-0.001, math.nan, math.inf, -math.inf])
def test_a_policy_with_an_impossible_pause_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"RetryPolicy\.{name} "):
        RetryPolicy(**{name: value})


def test_one_attempt_means_no_retry() -> None:
    attempts = Attempts(RetryPolicy(attempts=1), 1)
    assert attempts.pause_after(answered(500), replay=Replay.ALWAYS, chance=0.5) is None
