"""Errors: they travel whole, and say what they know."""

import copy
import inspect
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from nunu_async import MultipartTicket, errors
from nunu_async.errors import (
    ApiError,
    AuthenticationError,
    BadRequest,
    CertificateError,
    ClientClosed,
    ConfigError,
    Conflict,
    ConnectError,
    DeadlineExceeded,
    DecodeError,
    InputError,
    NotFound,
    NunuError,
    PayloadTooLarge,
    PermissionDenied,
    PlanMismatch,
    ProtocolError,
    ProxyError,
    QuotaExceeded,
    RateLimited,
    RunFailed,
    ServerError,
    SourceChanged,
    SourceError,
    StallError,
    StorageError,
    TransportError,
    UploadError,
    UploadOutcomeUnknown,
    WaitError,
    WaitTimeout,
    error_for_status,
)


def _api(kind: type[ApiError], status: int) -> ApiError:
    return kind(
        status=status,
        message="Storage capacity exceeded",
        code="QUOTA_EXCEEDED",
        details={"used": 3, "capacity": 4, "needed": 5, "more": {"a": [1, None]}},
        request_id="req-1",
        method="POST",
        path="/builds/upload",
        retry_after=7.5,
        headers={"retry-after": "7.5"},
    )


def _upload_failure() -> UploadError:
    error = UploadError(
        "part 3 of 9 failed",
        build_id="b-1",
        part_number=3,
        status=403,
        code="SignatureDoesNotMatch",
        message="no",
        attempts=4,
    )
    error.cancelled = True
    return error


SAMPLES: dict[type[NunuError], NunuError] = {
    NunuError: NunuError("something"),
    ConfigError: ConfigError("no key"),
    ClientClosed: ClientClosed("closed"),
    InputError: InputError("tags", "must be a list"),
    SourceError: SourceError("/tmp/a b.zip", "is empty", errno=5),  # noqa: S108 - a text
    SourceChanged: SourceChanged("game.zip", "became shorter"),
    TransportError: TransportError("reset", method="GET", path="/runs", sent=True),
    ConnectError: ConnectError("refused", method="PUT", path="storage.example", sent=False),
    CertificateError: CertificateError("self-signed", sent=False),
    ProtocolError: ProtocolError("no", method="GET", path="/runs", sent=True),
    ProxyError: ProxyError("no", status=407, method="GET", path="/runs"),
    DeadlineExceeded: DeadlineExceeded("120 s are over", method="GET", path="/runs"),
    StallError: StallError("no byte for 60 s"),
    DecodeError: DecodeError(
        "get_build",
        ("is missing @ $.build_id", "expected str, got int @ $.name"),
        status=200,
        request_id="req-1",
        garbled=True,
    ),
    ApiError: _api(ApiError, 418),
    BadRequest: _api(BadRequest, 400),
    AuthenticationError: _api(AuthenticationError, 401),
    QuotaExceeded: _api(QuotaExceeded, 402),
    PermissionDenied: _api(PermissionDenied, 403),
    NotFound: _api(NotFound, 404),
    Conflict: _api(Conflict, 409),
    PayloadTooLarge: _api(PayloadTooLarge, 413),
    RateLimited: _api(RateLimited, 429),
    ServerError: _api(ServerError, 520),
    StorageError: StorageError(
        part_number=2, status=503, code="SlowDown", message="later", retry_after=1.5, request_id="x"
    ),
    PlanMismatch: PlanMismatch("2 parts of 5 bytes"),
    UploadError: _upload_failure(),
    UploadOutcomeUnknown: UploadOutcomeUnknown("who knows", build_id="b-1", stage="complete"),
    WaitError: WaitError("broke down", finished={"a": 1}),
    WaitTimeout: WaitTimeout(60.0, finished={"a": 1}, pending={"b": "RUNNING", "c": None}),
    RunFailed: RunFailed(("a",), finished={"a": 1}),
}

EACH = pytest.mark.parametrize("error", SAMPLES.values(), ids=lambda error: type(error).__name__)


def test_every_public_error_is_sampled_here() -> None:
    public = {getattr(errors, name) for name in errors.__all__}
    assert {found for found in public if inspect.isclass(found)} == set(SAMPLES)


@pytest.mark.parametrize(
    "travel",
    [
        *(
            pytest.param(
                lambda error, number=number: pickle.loads(pickle.dumps(error, number)),  # noqa: S301
                id=f"pickle {number}",
            )
            for number in range(pickle.HIGHEST_PROTOCOL + 1)
        ),
        pytest.param(copy.copy, id="copy"),
        pytest.param(copy.deepcopy, id="deepcopy"),
    ],
)
@EACH
def test_an_error_arrives_as_it_left(
    error: NunuError, travel: Callable[[NunuError], NunuError]
) -> None:
    arrived = travel(error)
    assert arrived is not error
    assert (type(arrived), arrived.args, str(arrived), repr(arrived), vars(arrived)) == (
        type(error),
        error.args,
        str(error),
        repr(error),
        vars(error),
    )


def test_an_upload_id_does_not_travel_with_an_error() -> None:
    ticket = MultipartTicket(
        build_id="b", object_key="k", upload_id="MARKED", total_parts=0, part_size=0
    )
    error = DecodeError("initiate_upload", ("is missing @ $.total_parts",), leftover=ticket)
    assert b"MARKED" not in pickle.dumps(error)
    arrived = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert (arrived.leftover, str(arrived)) == (None, str(error))
    assert error.leftover is ticket


@EACH
def test_an_error_shows_its_name_and_its_sentence(error: NunuError) -> None:
    assert repr(error).startswith(f"{type(error).__name__}(")
    assert error.args[0] in str(error)


@EACH
def test_an_error_is_caught_as_the_library_s_own(error: NunuError) -> None:
    assert isinstance(error, NunuError)


def test_notes_travel_with_an_error() -> None:
    error = SourceError("game.zip", "is empty")
    error.add_note("while uploading 2 of 3")
    arrived = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert arrived.__notes__ == ["while uploading 2 of 3"]


@pytest.mark.parametrize(
    ("kind", "parent"),
    [
        (ClientClosed, ConfigError),
        (InputError, ValueError),
        (SourceChanged, SourceError),
        (ConnectError, TransportError),
        (CertificateError, ConnectError),
        (ProxyError, ConnectError),
        (DeadlineExceeded, TransportError),
        (StallError, TransportError),
        (QuotaExceeded, ApiError),
        (ServerError, ApiError),
        (UploadOutcomeUnknown, UploadError),
    ],
)
def test_an_error_is_caught_with_its_family(kind: type, parent: type) -> None:
    assert issubclass(kind, parent)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, BadRequest),
        (401, AuthenticationError),
        (402, QuotaExceeded),
        (403, PermissionDenied),
        (404, NotFound),
        (409, Conflict),
        (413, PayloadTooLarge),
        (429, RateLimited),
        (500, ServerError),
        (501, ServerError),
        (502, ServerError),
        (503, ServerError),
        (520, ServerError),
        (599, ServerError),
        (301, ApiError),
        (307, ApiError),
        (405, ApiError),
        (418, ApiError),
        (422, ApiError),
        (451, ApiError),
        (499, ApiError),
    ],
)
def test_a_status_has_its_class(status: int, kind: type[ApiError]) -> None:
    assert error_for_status(status) is kind


def test_an_api_error_says_what_was_asked_and_what_came() -> None:
    assert str(SAMPLES[QuotaExceeded]) == (
        "POST /builds/upload answered 402 QUOTA_EXCEEDED: Storage capacity exceeded (request req-1)"
        "; 3 of 4 bytes are used, 5 are needed"
    )


def test_an_api_error_without_words_says_so() -> None:
    error = ApiError(status=499, method="GET", path="/runs")
    assert str(error) == "GET /runs answered 499: no explanation in the answer"


def test_an_api_error_does_not_share_the_caller_s_details() -> None:
    details: dict[str, object] = {"used": 1}
    error = QuotaExceeded(status=402, details=details)
    details["used"] = 2
    assert error.used == 1


def test_a_quota_error_tells_its_bytes() -> None:
    error = QuotaExceeded(status=402, details={"used": 3, "capacity": 4, "needed": 5})
    assert (error.used, error.capacity, error.needed) == (3, 4, 5)


@pytest.mark.parametrize("value", [None, "3", True, 1.5, [3], {}])
def test_a_quota_error_keeps_silent_about_what_is_not_a_number_of_bytes(value: Any) -> None:
    error = QuotaExceeded(status=402, details={"used": value, "capacity": value, "needed": value})
    assert (error.used, error.capacity, error.needed) == (None, None, None)


def test_a_quota_error_without_details_has_no_bytes() -> None:
    error = QuotaExceeded(status=402)
    assert (error.used, error.capacity, error.needed) == (None, None, None)


@pytest.mark.parametrize(
    ("cancelled", "message"),
    [
        (True, "it failed; the upload was cancelled on the server"),
        (False, "it failed; cancelling the upload on the server failed too"),
        (None, "it failed"),
    ],
)
def test_an_upload_error_tells_what_became_of_the_reservation(
    cancelled: bool | None,
    message: str,
) -> None:
    error = UploadError("it failed", build_id="b-1")
    error.cancelled = cancelled
    assert str(error) == message


def test_an_upload_error_starts_with_cancelling_not_tried() -> None:
    assert UploadError("it failed", build_id="b-1").cancelled is None


def test_a_storage_error_names_part_status_and_code() -> None:
    error = StorageError(part_number=2, status=503, code="SlowDown", message="later")
    assert str(error) == "part 2: storage answered 503 SlowDown: later"


def test_a_decode_error_lists_every_problem() -> None:
    error = DecodeError("get_build", ("one", "two"), status=200)
    assert str(error) == "get_build: cannot read the answer (200): one; two"
