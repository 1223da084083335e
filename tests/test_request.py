"""Any path of the API, under the same rules as the methods that know theirs."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from doubles import answer
from scripted import KEY, PROJECT, answered, json_answer

from nunu_async import (
    ApiError,
    AuthenticationError,
    ConnectError,
    DecodeError,
    InputError,
    NotFound,
    NunuClient,
    RateLimited,
    ServerError,
    TransportError,
)


@pytest.mark.parametrize(
    "body",
    [{}, {"a": [1, None, "ü", 0.5, True]}, [], [{"id": "a"}, 2], "text", 7, 0.5, True, None],
)
async def test_the_decoded_json_is_given_as_it_came(body: object) -> None:
    async with answered(json_answer(body)) as wire:
        assert await wire.nunu.request("GET", "/jobs") == body


@pytest.mark.parametrize("status", [200, 201, 202, 204, 207])
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
async def test_an_answer_without_a_body_is_none(method: str, status: int) -> None:
    async with answered(answer(status, b"")) as wire:
        assert await wire.nunu.request(method, "/jobs/1") is None
    assert wire.lines == [f"{method} /api/v1/jobs/1"]


async def test_204_without_a_length_is_none_and_keeps_the_connection() -> None:
    async with answered(b"HTTP/1.1 204 No Content\r\n\r\n") as wire:
        for _ in range(2):
            assert await wire.nunu.request("DELETE", "/tests/1") is None
        assert wire.server.connections == 1


@pytest.mark.parametrize("body", [b"<html>", b"{", b"\xff", b'{"a": 1} x', b" "])
async def test_a_body_that_is_no_json_is_named_by_method_and_path(body: bytes) -> None:
    async with answered(answer(200, body)) as wire:
        with pytest.raises(DecodeError) as caught:
            await wire.nunu.request("POST", "/jobs")
    assert caught.value.operation == "POST /jobs"
    assert caught.value.garbled
    assert len(wire.lines) == 1


@pytest.mark.parametrize(
    ("params", "query"),
    [
        (None, ""),
        ({}, ""),
        ({"page": 0}, "?page=0"),
        ({"page": -3, "page_size": 10**20}, f"?page=-3&page_size={10**20}"),
        ({"pinned": True, "all": False}, "?pinned=true&all=false"),
        ({"tags": ["a", "b"]}, "?tags=a,b"),
        ({"tags": ("a",)}, "?tags=a"),
        ({"tags": []}, "?tags="),
        ({"search": ""}, "?search="),
        ({"search": "a&b=c+d e/ü?#%"}, "?search=a%26b%3Dc%2Bd+e/%C3%BC?%23%25"),
        ({"odd name&": "x"}, "?odd+name%26=x"),
    ],
)
async def test_parameters_go_out_in_order_and_quoted(
    params: dict[str, Any] | None, query: str
) -> None:
    async with answered(json_answer([])) as wire:
        await wire.nunu.request("GET", "/jobs", params=params)
    assert wire.lines == [f"GET /api/v1/jobs{query}"]


@pytest.mark.parametrize(
    "value", [None, 1.5, b"a", ["a,b"], [1], {"a": 1}, object(), {"a"}, [["a"]]]
)
async def test_a_parameter_that_has_no_one_spelling_is_refused_by_name(value: Any) -> None:
    async with answered(json_answer([])) as wire:
        with pytest.raises(InputError) as caught:
            await wire.nunu.request("GET", "/jobs", params={"tags": value})
    assert caught.value.field == "tags"
    assert wire.lines == []


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        ({}, b"{}"),
        ({"a": "ü", "b": [1, None, True]}, '{"a": "ü", "b": [1, null, true]}'.encode()),
        (None, b""),
    ],
)
async def test_a_body_goes_out_as_json(body: dict[str, object] | None, sent: bytes) -> None:
    async with answered(json_answer({})) as wire:
        await wire.nunu.request("PATCH", "/tests/1", json=body)
    assert wire.lines == ["PATCH /api/v1/tests/1"]
    assert wire.bodies == [sent]
    assert wire.header("Content-Type") == (None if body is None else "application/json")
    assert wire.header("X-Api-Key") == KEY


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1}, "\ud800"])
async def test_a_body_that_json_cannot_carry_is_refused(value: object) -> None:
    async with answered(json_answer({})) as wire:
        with pytest.raises(InputError) as caught:
            await wire.nunu.request("POST", "/tests", json={"a": value})
    assert caught.value.field == "body"
    assert wire.lines == []


@pytest.mark.parametrize("method", ["get", "Get", "GET"])
async def test_a_method_counts_in_any_case(method: str) -> None:
    async with answered(json_answer({})) as wire:
        await wire.nunu.request(method, "/jobs")
    assert wire.lines == ["GET /api/v1/jobs"]


@pytest.mark.parametrize("method", ["", "HEAD", "CONNECT", "TRACE", "GET /x", "GET\r\nX: y", "ü"])
async def test_a_method_that_the_api_does_not_have_is_refused(method: str) -> None:
    async with answered(json_answer({})) as wire:
        with pytest.raises(InputError) as caught:
            await wire.nunu.request(method, "/jobs")
    assert caught.value.field == "method"
    assert wire.lines == []


@pytest.mark.parametrize(
    "path",
    [
        *("", "jobs", "//other.example/x", "//", "http://other.example/", "https://nunu.ai/api/v1"),
        *("/jobs?x=1", "/jobs?", "/jobs#x", "?x=1", "#"),
        *("/..", "/../x", "/a/../b", "/a/..", "/.", "/a/./b", "/a/."),
        *("/%2e%2e/x", "/%2E%2E", "/a/%2e%2E", "/a/.%2e/b", "/%2e", "/a/%2e./b"),
        *("/a b", "/a\n", "/a\r\nX-Other: y", "/a\t", "/\x00", "/ü", "/a\u2028b"),
        *("\\\\other.example\\x", "/\\other.example"),
    ],
)
async def test_a_path_that_could_lead_elsewhere_is_refused(path: str) -> None:
    async with answered(json_answer({})) as wire:
        with pytest.raises(InputError) as caught:
            await wire.nunu.request("GET", path)
    assert caught.value.field == "path"
    assert wire.lines == []
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("params", ["a=b", [("a", "b")], [["a", "b"]], 5, {5: "a"}, {("a",): "b"}])
async def test_parameters_that_are_no_dictionary_of_text_are_refused(params: Any) -> None:
    async with answered(json_answer({})) as wire:
        with pytest.raises(InputError) as caught:
            await wire.nunu.request("GET", "/runs", params=params)
    assert caught.value.field == "params"
    assert wire.lines == []


@pytest.mark.parametrize(
    ("method", "path", "words"),
    [
        (None, "/runs", "method: must be one of DELETE, GET, PATCH, POST, PUT, not None"),
        (b"GET", "/runs", "method: must be one of DELETE, GET, PATCH, POST, PUT, not b'GET'"),
        ("GET", None, "path: must be a path as text, not None"),
        ("GET", ["/runs"], "path: must be a path as text, not list"),
        ("GET", "runs", "path: must begin with /, and one only, not 'runs'"),
        ("GET", "/runs?page=1", "path: give the query as params: '/runs?page=1'"),
        ("GET", "/a b", "path: must be quoted, without a fragment: '/a b'"),
        (
            "GET",
            "/api/v1/runs",
            "path: is below /api/v1 already, so leave that out: '/api/v1/runs'",
        ),
    ],
)
async def test_a_refusal_says_what_to_write_instead(method: Any, path: Any, words: str) -> None:
    async with answered(json_answer({})) as wire:
        with pytest.raises(InputError) as caught:
            await wire.nunu.request(method, path)
    assert str(caught.value) == words
    assert wire.lines == []


@pytest.mark.parametrize(
    "path", ["/runs/..%2fbuilds", "/a%2F..%2Fb", "/a/..%5cb", "/a\\..\\b", "/..\\b"]
)
async def test_a_step_up_behind_a_quoted_slash_is_refused_too(path: str) -> None:
    """Proxies commonly unquote a path, and some take a backslash for a slash, before they route."""
    async with answered(json_answer({})) as wire:
        with pytest.raises(InputError):
            await wire.nunu.request("GET", path)
    assert wire.lines == []


@pytest.mark.parametrize(
    "path",
    ["/jobs", "/jobs/", "/a/b/c", "/a..b", "/...", "/a%20b", "/a%2Fb", "/~x", "/a;b=c", "/a:b@c"],
)
async def test_a_path_goes_out_byte_for_byte(path: str) -> None:
    for family in ({}, {"project_id": PROJECT, "path_style": "project"}):
        async with answered(json_answer({}), **family) as wire:
            await wire.nunu.request("GET", path)
        base = f"/api/v1/project/{PROJECT}" if family else "/api/v1"
        assert wire.lines == [f"GET {base}{path}"]


@pytest.mark.parametrize(
    ("method", "requests"), [("GET", 5), ("DELETE", 5), ("POST", 1), ("PUT", 1), ("PATCH", 1)]
)
@pytest.mark.parametrize(
    "lost", [None, json_answer({"error": "oops"}, 500)], ids=["dropped", "500"]
)
async def test_only_what_does_no_harm_twice_is_sent_twice(
    method: str, requests: int, lost: bytes | None
) -> None:
    async with answered(lost) as wire:
        with pytest.raises((TransportError, ServerError)):
            await wire.nunu.request(method, "/jobs")
    assert len(wire.lines) == requests
    assert len(wire.clock.sleeps) == requests - 1


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("status", [429, 503])
async def test_what_the_server_did_not_act_on_is_sent_again(method: str, status: int) -> None:
    async with answered(json_answer({"error": "wait"}, status), json_answer({"a": 1})) as wire:
        assert await wire.nunu.request(method, "/jobs", json={"b": 2}) == {"a": 1}
    assert len(wire.lines) == 2
    assert wire.bodies == [b'{"b": 2}'] * 2


async def test_waiting_that_was_asked_for_is_done() -> None:
    async with answered(json_answer({}, 429, Retry_After="3"), json_answer({})) as wire:
        await wire.nunu.request("POST", "/jobs")
    (pause,) = wire.clock.sleeps
    assert pause >= 3


async def test_an_error_is_typed_and_tells_all_it_knows() -> None:
    body = {"error": "version conflict", "code": "STALE", "details": {"latest_version": 4}}
    async with answered(json_answer(body, 409, X_Request_Id="req-1")) as wire:
        with pytest.raises(ApiError) as caught:
            await wire.nunu.request("PATCH", "/tests/1", json={"expected_version": 3})
    error = caught.value
    assert (error.status, error.code, error.message) == (409, "STALE", "version conflict")
    assert error.details == {"latest_version": 4}
    assert (error.method, error.path) == ("PATCH", "/tests/1")
    assert error.response.request_id == "req-1"


@pytest.mark.parametrize(
    ("status", "kind"), [(401, AuthenticationError), (404, NotFound), (418, ApiError)]
)
async def test_an_error_has_the_class_of_its_status(status: int, kind: type[ApiError]) -> None:
    async with answered(json_answer({"error": "no"}, status)) as wire:
        with pytest.raises(ApiError) as caught:
            await wire.nunu.request("GET", "/jobs")
    assert type(caught.value) is kind


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(status: int) -> None:
    async with answered(
        answer(status, b"", {"Location": "https://other.example/x?sig=a1b2c3d4e5f6"})
    ) as wire:
        with pytest.raises(ApiError) as caught:
            await wire.nunu.request("GET", "/minions/download")
    assert len(wire.lines) == 1
    assert "other.example" in caught.value.message
    assert "a1b2c3d4e5f6" not in f"{caught.value} {caught.value!r} {caught.value.headers}"


@pytest.mark.parametrize("status", [400, 429])
async def test_a_key_that_the_server_echoes_is_shown_nowhere(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    body = {"error": f"bad key {KEY}", "code": "X", "details": {"key": KEY, KEY: [KEY]}}
    caplog.set_level(logging.DEBUG)
    async with answered(json_answer(body, status, X_Echo=KEY, X_Request_Id=KEY)) as wire:
        with pytest.raises(ApiError) as caught:
            await wire.nunu.request("GET", "/jobs", params={"search": "private words"})
    error = caught.value
    shown = f"{error} {error!r} {error.details} {error.headers} {error.response!r} {caplog.text}"
    assert KEY not in shown
    assert "private words" not in shown


@pytest.mark.parametrize("given", ["params", "json"])
async def test_an_upload_id_that_the_server_echoes_is_shown_nowhere(
    given: str, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "mpu-7Qd2LxA-9f8e7d6c"
    body = {"error": f"upload {secret} is busy", "details": {secret: [secret]}}
    caplog.set_level(logging.DEBUG)
    members: Any = {given: {"upload_id": secret, "build_id": "the-build"}}
    async with answered(json_answer(body, 503, X_Echo=secret)) as wire:
        with pytest.raises(ServerError) as caught:
            await wire.nunu.request("DELETE", "/builds/upload", **members)
    assert secret.encode() in wire.bodies[0] + wire.lines[0].encode()
    error = caught.value
    assert secret not in f"{error} {error!r} {error.details} {error.headers} {caplog.text}"


@pytest.mark.parametrize("style", ["key", "project"])
async def test_the_one_path_below_no_project_stays_so(style: Any) -> None:
    async with answered(json_answer({}), project_id=PROJECT, path_style=style) as wire:
        await wire.nunu.request("GET", "/minions/download", params={"platform": "linux-x86_64"})
        await wire.nunu.request("GET", "/minions/downloads")
    base = "/api/v1" if style == "key" else f"/api/v1/project/{PROJECT}"
    assert wire.lines == [
        "GET /api/v1/minions/download?platform=linux-x86_64",
        f"GET {base}/minions/downloads",
    ]


async def test_a_body_nested_beyond_python_s_limit_is_refused() -> None:
    body: dict[str, object] = {}
    for _ in range(100_000):
        body = {"a": body}
    async with answered(json_answer({})) as wire:
        with pytest.raises(InputError, match="nested too deep"):
            await wire.nunu.request("POST", "/tests", json=body)
    assert wire.lines == []


async def test_a_garbled_answer_that_echoes_the_key_does_not_show_it() -> None:
    async with answered(answer(200, KEY.encode(), {"X-Echo": KEY})) as wire:
        with pytest.raises(DecodeError) as caught:
            await wire.nunu.request("POST", "/jobs")
    assert KEY not in f"{caught.value} {caught.value.headers} {caught.value.problems}"


async def test_429_is_raised_after_all_attempts() -> None:
    async with answered(json_answer({"error": "slow down"}, 429)) as wire:
        with pytest.raises(RateLimited):
            await wire.nunu.request("GET", "/jobs")
    assert len(wire.lines) == 5


async def test_a_server_that_is_not_there_is_a_connect_error() -> None:
    async with answered(json_answer({})) as wire:
        pass
    async with NunuClient(KEY, base_url=wire.server.url, clock=wire.clock) as nunu:
        with pytest.raises(ConnectError):
            await nunu.request("POST", "/jobs")
    assert len(wire.clock.sleeps) == 4


@pytest.mark.parametrize("params", [{"search": "\ud800"}, {"\ud800": "x"}, {"tags": ["\udfff"]}])
async def test_a_parameter_that_no_url_can_carry_is_refused(params: dict[str, Any]) -> None:
    async with answered(json_answer({})) as wire:
        with pytest.raises(InputError):
            await wire.nunu.request("GET", "/jobs", params=params)
    assert wire.lines == []
