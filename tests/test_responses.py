"""From a status, headers and bytes to an answer or an error."""

import json
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nunu_async.core.request import Request
from nunu_async.core.responses import read, request_id
from nunu_async.endpoints import builds
from nunu_async.endpoints.builds import _build, _cancelled, _part_urls, _ticket
from nunu_async.errors import (
    ApiError,
    AuthenticationError,
    BadRequest,
    Conflict,
    DecodeError,
    NotFound,
    NunuError,
    PermissionDenied,
    QuotaExceeded,
    RateLimited,
    ServerError,
)
from nunu_async.models.builds import Build, MultipartTicket, SinglePartTicket
from nunu_async.redact import Secret

KEY = "nk_live_0123456789abcdef"
UPLOAD_ID = "mpu-7Qd2LxA-9f8e7d6c"


def _completed(data: object) -> None:
    own = data.get("build_id") if isinstance(data, dict) else None
    builds._completed(data, own if isinstance(own, str) else "b")


SECRETS = (Secret(KEY), Secret(UPLOAD_ID))
NOTHING: Mapping[str, str] = {}

SINGLE = {
    "upload_type": "single-part",
    "build_id": "5b0f7c1e",
    "upload_url": "https://s.example/a?sig=1",
    "object_key": "h7f2/harbor.zip",
}
MULTIPART = {
    "upload_type": "multipart",
    "build_id": "5b0f7c1e",
    "upload_id": UPLOAD_ID,
    "object_key": "h7f2/harbor.zip",
    "total_parts": 34,
    "part_size": 104_857_600,
}


def ask(answer: Callable[[object], Any] = _completed) -> Request[Any]:
    return Request(
        operation="complete_upload", method="POST", path="/builds/upload/complete", answer=answer
    )


def answer_of(
    body: object, answer: Callable[[object], Any], status: int = 200, headers: Any = NOTHING
) -> Any:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    outcome = read(ask(answer), status, headers, raw, SECRETS)
    if isinstance(outcome, ApiError | DecodeError):
        raise outcome
    return outcome


def failure_of(
    status: int, body: object, headers: Mapping[str, str] = NOTHING, answer: Any = _completed
) -> Any:
    with pytest.raises(NunuError) as failed:
        answer_of(body, answer, status, headers)
    return failed.value


@pytest.mark.parametrize("status", [200, 201, 207])
def test_any_success_is_read(status: int) -> None:
    assert answer_of(SINGLE, _ticket, status).build_id == "5b0f7c1e"


def test_a_single_part_ticket_is_read() -> None:
    assert answer_of(SINGLE, _ticket) == SinglePartTicket(
        build_id="5b0f7c1e", object_key="h7f2/harbor.zip", upload_url="https://s.example/a?sig=1"
    )


def test_a_multipart_ticket_is_read() -> None:
    assert answer_of(MULTIPART, _ticket) == MultipartTicket(
        build_id="5b0f7c1e",
        object_key="h7f2/harbor.zip",
        upload_id=UPLOAD_ID,
        total_parts=34,
        part_size=104_857_600,
    )


@pytest.mark.parametrize(
    "body",
    [
        *({k: v for k, v in SINGLE.items() if k != name} for name in SINGLE),
        *({k: v for k, v in MULTIPART.items() if k != name} for name in MULTIPART),
        SINGLE | {"upload_type": "carrier-pigeon"},
        SINGLE | {"upload_type": None},
        SINGLE | {"build_id": None},
        SINGLE | {"build_id": 5},
        MULTIPART | {"total_parts": "34"},
        MULTIPART | {"part_size": 1.5},
        MULTIPART | {"part_size": True},
        {"error": "Storage capacity exceeded"},
        {},
        [],
        None,
        "x",
    ],
)
def test_an_inconsistent_ticket_is_refused(body: object) -> None:
    assert isinstance(failure_of(200, body, answer=_ticket), DecodeError)


def test_a_ticket_with_an_id_that_no_request_can_carry_is_refused() -> None:
    body = json.dumps(SINGLE | {"build_id": "\ud800"}).encode()
    assert isinstance(failure_of(200, body, answer=_ticket), DecodeError)


@pytest.mark.parametrize(
    "body",
    [
        {"status": "success"},
        {"status": "SUCCESS"},
        {"build_id": "5b0f7c1e"},
        {"status": "success", "build_id": "5b0f7c1e", "new": 1},
    ],
)
def test_each_published_completion_is_a_success(body: object) -> None:
    assert answer_of(body, _completed) is None


@pytest.mark.parametrize(
    "body",
    [
        {"error": "internal error"},
        {"error": "internal error", "build_id": "5b0f7c1e"},
        {"status": "failed"},
        {"status": None, "build_id": None},
        {"ok": False, "status": "error", "message": "no", "error": "no"},
        {"status": 200},
        {},
        [],
        None,
        "success",
        True,
    ],
)
def test_a_success_status_alone_completes_nothing(body: object) -> None:
    failed = failure_of(200, body)
    assert (type(failed), failed.garbled) == (DecodeError, False)


def test_a_confirmed_cancellation_is_a_success() -> None:
    assert answer_of({"success": True}, _cancelled) is None


@pytest.mark.parametrize("body", [{"success": False}, {"success": "true"}, {"success": 1}, {}])
def test_a_cancellation_that_is_not_confirmed_is_refused(body: object) -> None:
    assert isinstance(failure_of(200, body, answer=_cancelled), DecodeError)


def test_part_urls_keep_the_server_s_order() -> None:
    body = {"upload_urls": [{"part_number": n, "url": f"https://s.example/{n}"} for n in (2, 1)]}
    assert [part.part_number for part in answer_of(body, _part_urls)] == [2, 1]


def test_a_part_number_may_be_written_as_text() -> None:
    body = {"upload_urls": [{"part_number": "10", "url": "https://s.example/10"}]}
    assert [part.part_number for part in answer_of(body, _part_urls)] == [10]


@pytest.mark.parametrize(
    "urls",
    [
        None,
        "",
        "abc",
        {},
        {"part_number": 1, "url": "u"},
        [None],
        [[]],
        ["u"],
        [{"part_number": 1}],
        [{"part_number": "one", "url": "u"}],
        [{"part_number": "1.0", "url": "u"}],
    ],
)
def test_part_urls_of_another_shape_are_refused(urls: object) -> None:
    assert isinstance(failure_of(200, {"upload_urls": urls}, answer=_part_urls), DecodeError)


OLD_BUILD = {
    "id": "5b0f7c1e",
    "name": "harbor",
    "platform": "web",
    "status": "ready",
    "file_name": "harbor.zip",
    "file_size": 5,
    "tags": ["rc"],
}
NEW_BUILD = {
    "build_id": "5b0f7c1e",
    "name": "harbor",
    "platform": "web",
    "status": "ready",
    "filename": "harbor.zip",
    "size": 5,
    "tags": ["rc"],
}


@pytest.mark.parametrize("body", [OLD_BUILD, NEW_BUILD], ids=["old names", "new names"])
def test_a_build_is_read_by_its_old_and_its_new_names(body: object) -> None:
    assert answer_of(body, _build) == Build(
        build_id="5b0f7c1e",
        name="harbor",
        platform="web",
        status="ready",
        filename="harbor.zip",
        size=5,
        tags=("rc",),
    )


@pytest.mark.parametrize("status", ["OK", "UNHEALTHY", "uploading", "something new"])
def test_a_build_may_have_any_status(status: str) -> None:
    assert answer_of(NEW_BUILD | {"status": status}, _build).status == status


def test_a_build_may_have_nulls_for_what_is_unknown() -> None:
    body = NEW_BUILD | {"platform": None, "last_used": None, "description": None, "details": None}
    assert answer_of(body, _build).platform is None


def test_a_build_gives_back_the_dependencies_it_was_uploaded_with() -> None:
    dependencies = {"unity": "6000.1", "plugins": {"steam": ["1.2", 3]}}
    body = NEW_BUILD | {"details": {"build": {"dependencies": dependencies}}}
    assert answer_of(body, _build).details.build.dependencies == dependencies


@pytest.mark.parametrize("details", ["", "abc", [], [{"vcs": None}], 5, True, {"vcs": []}])
def test_a_build_with_details_of_another_shape_is_refused(details: object) -> None:
    assert isinstance(failure_of(200, NEW_BUILD | {"details": details}, answer=_build), DecodeError)


@pytest.mark.parametrize("body", [{}, {"id": None}, {"id": 5}, [], None, "5b0f7c1e"])
def test_a_build_without_an_id_is_refused(body: object) -> None:
    assert isinstance(failure_of(200, body, answer=_build), DecodeError)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        pytest.param(204, b"", id="204"),
        pytest.param(200, b"", id="empty"),
        pytest.param(200, b"<html>welcome</html>", id="HTML"),
        pytest.param(200, b'{"status": "succ', id="cut"),
        pytest.param(200, b"[" * 100_000, id="deep"),
        pytest.param(200, b'{"build_id": ' + b"9" * 5000 + b"}", id="5,000 digits"),
    ],
)
def test_a_success_without_json_is_garbled(status: int, body: bytes) -> None:
    failed = failure_of(status, body)
    assert (type(failed), failed.garbled, failed.status) == (DecodeError, True, status)


def test_a_decode_error_has_operation_paths_and_request_id() -> None:
    failed = failure_of(200, {"status": 1, "build_id": 2}, {"x-request-id": "req-1"})
    assert (failed.operation, sorted(failed.problems), failed.request_id) == (
        "complete_upload",
        ["expected a string, got int @ $.build_id", "expected a string, got int @ $.status"],
        "req-1",
    )


def test_a_problem_of_many_words_keeps_its_path() -> None:
    failed = failure_of(200, {"upload_type": KEY + "\n" + "y" * 600}, answer=_ticket)
    (problem,) = failed.problems
    assert problem.startswith("neither single-part nor multipart: '***\\")
    assert problem.endswith("yyy... @ $.upload_type")
    assert len(problem) < 530


@pytest.mark.parametrize("before", range(440, 501, 3))
def test_no_piece_of_an_echoed_key_is_left_where_a_problem_is_cut(before: int) -> None:
    failed = failure_of(200, {"upload_type": "x" * before + KEY + "y" * 600}, answer=_ticket)
    assert "nk_" not in str(failed)


@pytest.mark.parametrize(
    ("status", "body", "kind", "message", "code", "details"),
    [
        pytest.param(
            402,
            {"error": "full", "code": "QUOTA_EXCEEDED", "details": {"used": 3}},
            QuotaExceeded,
            "full",
            "QUOTA_EXCEEDED",
            {"used": 3},
            id="error, code, details",
        ),
        pytest.param(
            409,
            {"error": "version conflict", "expected_version": 3, "latest_version": 5},
            Conflict,
            "version conflict",
            None,
            {"expected_version": 3, "latest_version": 5},
            id="details beside the error",
        ),
        pytest.param(
            500,
            {"ok": False, "started_count": 0, "results": [{"device_label": "a", "error": "no"}]},
            ServerError,
            "no explanation in the answer",
            None,
            {"started_count": 0, "results": [{"device_label": "a", "error": "no"}]},
            id="the result object alone",
        ),
        pytest.param(
            401,
            {"error": "Invalid API key"},
            AuthenticationError,
            "Invalid API key",
            None,
            {},
            id="error alone",
        ),
        pytest.param(
            404,
            {"ok": False, "status": "error", "message": "longer", "error": "not found"},
            NotFound,
            "not found",
            None,
            {},
            id="ok, status, message, error",
        ),
        pytest.param(
            400, {"ok": False, "message": "no"}, BadRequest, "no", None, {}, id="message alone"
        ),
        pytest.param(
            400,
            {"error": {"a": 1}, "message": "no", "code": 5, "details": [1]},
            BadRequest,
            "no",
            None,
            {"error": {"a": 1}, "details": [1]},
            id="members of other types",
        ),
        pytest.param(
            400,
            {"error": "no", "details": "name is taken", "field": "name"},
            BadRequest,
            "no",
            None,
            {"details": "name is taken", "field": "name"},
            id="details as text",
        ),
        pytest.param(
            400,
            {"error": "no", "details": ["a", {"path": "b"}]},
            BadRequest,
            "no",
            None,
            {"details": ["a", {"path": "b"}]},
            id="details as a list",
        ),
        pytest.param(
            400,
            {"error": {"message": "no", "code": "X"}, "details": {"b": 2}},
            BadRequest,
            "no",
            "X",
            {"error": {"message": "no", "code": "X"}, "b": 2},
            id="an object as the error",
        ),
        pytest.param(
            400, {"error": "no", "details": None}, BadRequest, "no", None, {}, id="null as details"
        ),
        pytest.param(
            403, {"error": "expired", "code": ""}, PermissionDenied, "expired", None, {}, id="blank"
        ),
    ],
)
def test_each_published_error_shape_is_read(
    status: int,
    body: object,
    kind: type[ApiError],
    message: str,
    code: str | None,
    details: object,
) -> None:
    failed = failure_of(status, body)
    assert (type(failed), failed.message, failed.code, failed.details) == (
        kind,
        message,
        code,
        details,
    )


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"null", b'"no"', b'{"error": null}'])
def test_an_error_without_words_says_so(body: bytes) -> None:
    assert failure_of(500, body).message == ServerError.default_message


def test_an_error_tells_what_was_asked() -> None:
    failed = failure_of(429, {"error": "slow"})
    assert (failed.method, failed.path, failed.status) == ("POST", "/builds/upload/complete", 429)


def test_a_page_from_the_edge_is_an_error_like_any_other() -> None:
    page = b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n" + b"<hr>" * 1000
    failed = failure_of(502, page, {"content-type": "text/html"})
    assert type(failed) is ServerError
    assert "502 Bad Gateway" in failed.message


def test_a_page_from_the_edge_is_cut_and_kept_on_one_line() -> None:
    message = failure_of(502, b"<html>\r\n\x1b[2J" + b"<hr>" * 1000).message
    assert len(message) <= 500
    assert message.isprintable()


@pytest.mark.parametrize("body", [b"\xff\xfe\x00", b'{"error": "\\ud800\\u202e"}'])
def test_an_error_of_broken_text_is_printable(body: bytes) -> None:
    assert str(failure_of(500, body)).isprintable()


@pytest.mark.parametrize("depth", [500, 990, 3000, 100_000])
def test_an_error_as_deep_as_it_likes_is_still_an_error(depth: int) -> None:
    body = b'{"error": "no", "details": ' + b'{"a":' * depth + b"1" + b"}" * depth + b"}"
    assert type(failure_of(500, body)) is ServerError


@given(status=st.integers(300, 599), body=st.binary(max_size=80))
def test_every_other_status_is_an_api_error(status: int, body: bytes) -> None:
    failed = failure_of(status, body)
    assert isinstance(failed, ApiError)
    assert failed.status == status


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_names_only_the_host(status: int) -> None:
    location = "https://user:hunter2@evil.example:8443/take/it?sig=a1b2c3d4#x"
    failed = failure_of(status, b"", {"location": location})
    assert failed.message == "redirected to evil.example:8443; redirects are never followed"


def test_a_redirect_keeps_no_signed_address() -> None:
    location = "https://user:hunter2@evil.example/take/it?sig=a1b2c3d4"
    failed = failure_of(307, b"", {"location": location})
    assert "a1b2c3d4" not in repr(vars(failed))
    assert "hunter2" not in repr(vars(failed))


@pytest.mark.parametrize(
    ("location", "named"),
    [
        (None, "the same host"),
        ("/elsewhere", "the same host"),
        ("//evil.example/a", "evil.example"),
        ("https://[::1", "an unreadable address"),
        (f"https://{KEY}.example/", "***.example"),
    ],
)
def test_a_redirect_to_an_odd_place_is_named(location: str | None, named: str) -> None:
    failed = failure_of(307, b"", {} if location is None else {"location": location})
    assert failed.message == f"redirected to {named}; redirects are never followed"


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        pytest.param(401, {"error": f"bad key {KEY}"}, {}, id="message"),
        pytest.param(401, {"error": "bad", "code": KEY}, {}, id="code"),
        pytest.param(401, {"error": "bad", "details": {"key": KEY}}, {}, id="details"),
        pytest.param(401, {"error": "bad", "details": {KEY: [{"a": KEY}]}}, {}, id="deep details"),
        pytest.param(401, {"error": "bad"}, {"x-echo": f"key={KEY}"}, id="header"),
        pytest.param(401, {"error": "bad"}, {"x-request-id": KEY}, id="request id"),
        pytest.param(502, f"<p>{KEY}</p>".encode(), {}, id="page"),
        pytest.param(307, b"", {"location": f"https://a.example/?k={KEY}"}, id="location"),
        pytest.param(200, {"upload_type": KEY}, {}, id="decode-error"),
        pytest.param(
            200, {"upload_type": 5}, {"x-request-id": KEY}, id="decode-error's request id"
        ),
    ],
)
def test_a_key_that_the_server_echoes_is_hidden(
    status: int, body: object, headers: dict[str, str]
) -> None:
    failed = failure_of(status, body, headers, answer=_ticket)
    assert KEY not in f"{failed} {failed!r}"
    assert KEY.encode() not in pickle.dumps(failed)


def test_an_upload_id_that_the_server_echoes_is_hidden() -> None:
    assert UPLOAD_ID not in repr(vars(failure_of(400, {"error": f"no upload {UPLOAD_ID}"})))


@pytest.mark.parametrize("before", range(470, 501, 3))
def test_no_piece_of_an_echoed_key_is_left_where_a_page_is_cut(before: int) -> None:
    page = b"x" * before + KEY.encode() + b"y" * 600
    assert "nk_" not in str(failure_of(502, page))


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"x-request-id": ""}, None),
        ({"x-request-id": "a"}, "a"),
        ({"request-id": "b"}, "b"),
        ({"x-amz-request-id": "c"}, "c"),
        ({"cf-ray": "d"}, "d"),
        ({"cf-ray": "d", "x-request-id": "a"}, "a"),
        ({"x-request-id": "", "cf-ray": "d"}, "d"),
        ({"x-request-id": "a\x1b[2J"}, "a\\x1b[2J"),
        ({"x-request-id": "a" * 200}, "a" * 125 + "..."),
    ],
)
def test_a_request_id_is_taken_from_the_first_header_that_has_one(
    headers: dict[str, str], expected: str | None
) -> None:
    assert request_id(headers) == expected


def test_an_error_says_how_the_server_called_the_request() -> None:
    failed = failure_of(500, {"error": "no"}, {"cf-ray": "8f1"})
    assert failed.request_id == "8f1"
    assert str(failed).endswith("(request 8f1)")


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "Sun, 06 Nov 1994 08:49:37 GMT"}, None),
        (
            {
                "retry-after": "Sun, 06 Nov 1994 08:49:37 GMT",
                "date": "Sun, 06 Nov 1994 08:49:30 GMT",
            },
            7.0,
        ),
    ],
)
def test_an_error_says_how_long_to_wait(headers: dict[str, str], expected: float | None) -> None:
    failed = failure_of(429, {"error": "slow"}, headers)
    assert (type(failed), failed.retry_after) == (RateLimited, expected)


def test_an_error_keeps_the_headers() -> None:
    assert failure_of(500, b"", {"server": "edge\x00"}).headers == {"server": "edge\\x00"}


@pytest.mark.parametrize(
    "members",
    [
        {"secrets": (Secret(UPLOAD_ID),)},
        {"body": {"upload_id": UPLOAD_ID}},
        {"query": (("upload_id", UPLOAD_ID),)},
    ],
    ids=["secrets", "body", "query"],
)
def test_a_request_does_not_show_its_upload_id(members: dict[str, Any]) -> None:
    assert UPLOAD_ID not in repr(attrs.evolve(ask(), **members))
