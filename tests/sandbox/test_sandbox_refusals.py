"""What the API refuses."""

import io
from typing import Any

import pytest
from sandbox_client import Client, Lab


class _LeftOut:
    """No member at all; shown in the same way in every process."""

    def __repr__(self) -> str:
        return "left out"


OMIT = _LeftOut()


def _body(**members: Any) -> dict[str, Any]:
    body = {"name": "a", "file_name": "b.zip", "file_size": 1, "platform": "linux"} | members
    return {name: value for name, value in body.items() if value is not OMIT}


@pytest.mark.parametrize(
    "members",
    [
        {"name": OMIT},
        {"file_name": OMIT},
        {"file_size": OMIT},
        {"platform": OMIT},
        {"name": ""},
        {"name": "a" * 256},
        {"name": None},
        {"name": 5},
        {"file_name": ""},
        {"file_name": "a" * 256},
        {"file_size": 0},
        {"file_size": -1},
        {"file_size": 1.0},
        {"file_size": "1"},
        {"file_size": True},
        {"platform": "web"},
        {"platform": "Windows"},
        {"platform": ["linux"]},
        {"description": "a" * 1001},
        {"description": None},
        {"multipart": 1},
        {"multipart": "true"},
        {"auto_delete": None},
        {"deletion_policy": "newest"},
        {"upload_timeout": 0},
        {"upload_timeout": 1441},
        {"upload_timeout": 1.5},
        {"upload_timeout": True},
        {"tags": "rc"},
        {"tags": [""]},
        {"tags": ["a" * 51]},
        {"tags": [1]},
        {"details": []},
        {"details": {"vcs": "git"}},
        {"details": {"vcs": {"type": "cvs"}}},
        {"details": {"vcs": {"pr": {"number": "4"}}}},
        {"details": {"app": {"version_code": 1.5}}},
        {"details": {"upload": {"method": "magic"}}},
        {"project_id": "another"},
        {"project_id": 5},
    ],
    ids=str,
)
async def test_a_bad_member_is_refused(lab: Lab, members: dict[str, Any]) -> None:
    client = await lab()
    answer = await client.api("POST", "/builds/upload", json=_body(**members))
    (name,) = members
    assert answer.status == 400
    assert name in answer.json["error"]


@pytest.mark.parametrize(
    "members",
    [
        {"name": "a" * 255, "file_name": "é" * 255},
        {"description": ""},
        {"description": "a" * 1000},
        {"upload_timeout": 1},
        {"upload_timeout": 1440},
        {"tags": []},
        {"tags": ["a" * 50] * 100},
        {"details": {}},
        {"details": {"house": {"rule": 1}}},
        {"project_id": "sandbox-project"},
        {"deletion_policy": "oldest"},
        {"surprise": None},
    ],
    ids=str,
)
async def test_a_member_at_its_bound_is_taken(lab: Lab, members: dict[str, Any]) -> None:
    client = await lab()
    answer = await client.api("POST", "/builds/upload", json=_body(**members))
    assert answer.status == 200


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"\xff",
        b"\xef\xbb\xbf{}",
        b'{"file_size": NaN}',
        b'{"name": "\\ud800"}',
        b"[" * 100_000,
        b'{"file_size": ' + b"9" * 5000 + b"}",
    ],
    ids=lambda raw: repr(raw[:20]),
)
async def test_a_body_that_is_no_json_object_is_refused(lab: Lab, raw: bytes) -> None:
    client = await lab()
    headers = {"Content-Type": "application/json"}
    answer = await client.api("POST", "/builds/upload", data=raw, headers=headers)
    assert answer.status == 400
    assert list(answer.json) == ["error"]


@pytest.mark.parametrize("path", ["/builds/upload", "/builds/upload/complete"])
async def test_another_content_type_is_refused(lab: Lab, path: str) -> None:
    client = await lab()
    headers = {"Content-Type": "text/plain"}
    answer = await client.api("POST", path, data=b"{}", headers=headers)
    assert "Content-Type" in answer.json["error"]


async def test_a_charset_does_not_hurt(lab: Lab) -> None:
    client = await lab()
    answer = await client.api(
        "POST",
        "/builds/upload",
        data=b'{"name":"a","file_name":"b","file_size":1,"platform":"linux"}',
        headers={"Content-Type": "Application/JSON; charset=utf-8"},
    )
    assert answer.status == 200


async def test_a_body_over_the_limit_is_refused(lab: Lab) -> None:
    client = await lab()
    answer = await client.api("POST", "/builds/upload", data=io.BytesIO(b" " * (1024 * 1024 + 1)))
    assert answer.status == 413


async def test_a_file_over_the_limit_is_refused(lab: Lab) -> None:
    client = await lab(max_file_size=5)
    answers = [await client.initiate(file_size=size) for size in (5, 6)]
    assert [one.status for one in answers] == [200, 413]
    assert "error" in answers[1].json


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/builds/upload"),
        ("POST", "/builds/upload/complete"),
        ("DELETE", "/builds/upload"),
        ("GET", "/builds/5b0f7c1e-2a64-4f0b-9d3c-7f1e8a90b2d4"),
    ],
)
@pytest.mark.parametrize(
    ("key", "error"), [(None, "API key required"), ("wrong", "Invalid API key")]
)
async def test_the_key_is_checked_first(
    lab: Lab, method: str, path: str, key: str | None, error: str
) -> None:
    client = await lab()
    for prefix in ("", "/project/another"):
        answer = await client.api(method, prefix + path, key=key)
        assert (answer.status, answer.json) == (401, {"error": error})


async def test_another_project_in_the_path_is_refused_before_the_body(lab: Lab) -> None:
    client = await lab()
    answer = await client.api("POST", "/project/another/builds/upload", data=b"{")
    assert answer.status == 403


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/builds/upload"),
        ("PUT", "/builds/upload"),
        ("POST", "/builds/upload/"),
        ("POST", "/builds/upload/parts"),
        ("GET", "/project/sandbox-project"),
        ("GET", "/builds/a/b"),
        ("PATCH", "/builds/a"),
    ],
)
async def test_an_unknown_route_is_not_found(lab: Lab, method: str, path: str) -> None:
    client = await lab()
    answer = await client.api(method, path)
    assert (answer.status, answer.json) == (404, {"error": "not found"})
    assert client.box.journal.operations() == ["unknown"]


async def test_an_unknown_build_is_not_found(lab: Lab) -> None:
    client = await lab()
    answer = await client.build({"build_id": "nope"})
    assert (answer.status, answer.json) == (404, {"error": "build not found"})


@pytest.mark.parametrize("how", ["cancelled", "unknown"])
async def test_a_build_that_never_came_to_be_is_not_found(lab: Lab, how: str) -> None:
    client = await lab()
    ticket = await client.ticket()
    if how == "cancelled":
        await client.cancel(ticket)
    else:
        ticket["build_id"] = ticket["build_id"][::-1]
    assert (await client.build(ticket)).status == 404


@pytest.mark.parametrize(
    "numbers", ["", "0", "-1", "1,", ",1", "1,,2", "a", "1.0", "1, 2", "01", "+1", "4", "1,1", "٣"]
)
async def test_a_bad_part_list_is_refused(lab: Lab, numbers: str) -> None:
    client = await lab(part_size=4)
    ticket = await client.ticket(multipart=True)  # 3 parts
    assert (await client.parts(ticket, numbers)).status == 400


async def test_part_urls_come_in_the_order_asked_for(lab: Lab) -> None:
    client = await lab(part_size=4)
    urls = (await client.parts(await client.ticket(multipart=True), "3,1")).json["upload_urls"]
    assert [one["part_number"] for one in urls] == [3, 1]


@pytest.mark.parametrize("name", ["upload_id", "object_key", "part_numbers"])
async def test_part_urls_need_every_parameter(lab: Lab, name: str) -> None:
    client = await lab()
    ticket = await client.ticket(multipart=True)
    params = {**ticket, "part_numbers": "1", "total_parts": "1", "part_size": "1"}
    del params[name]
    answer = await client.api("GET", "/builds/upload/parts", params=params)
    assert (answer.status, name in answer.json["error"]) == (400, True)


@pytest.mark.parametrize("name", ["upload_id", "object_key"])
async def test_part_urls_need_matching_credentials(lab: Lab, name: str) -> None:
    client = await lab()
    ticket = await client.ticket(multipart=True)
    ticket[name] = (await client.ticket(multipart=True))[name]
    assert (await client.parts(ticket, "1")).status == 400


async def test_part_urls_do_not_look_at_the_key(lab: Lab) -> None:
    client = await lab()
    ticket = await client.ticket(multipart=True)
    query = {name: ticket[name] for name in ("upload_id", "object_key")} | {"part_numbers": "1"}
    answer = await client.api("GET", "/builds/upload/parts", key="wrong", params=query)
    assert answer.status == 200


async def test_part_urls_end_with_the_upload(lab: Lab) -> None:
    client = await lab()
    ticket = await client.ticket(multipart=True)
    await client.cancel(ticket)
    assert (await client.parts(ticket, "1")).status == 400


async def _stored(client: Client) -> tuple[Any, list[dict[str, Any]]]:
    ticket = await client.ticket(multipart=True)
    parts = []
    for number, data in ((1, b"0123"), (2, b"4567"), (3, b"89")):
        etag = (await client.put(await client.url(ticket, number), data)).headers["ETag"]
        parts.append({"part_number": number, "etag": etag})
    return ticket, parts


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p[:2],
        lambda p: p[1:],
        lambda p: p[::-1],
        lambda p: [*p, {"part_number": 4, "etag": "x"}],
        lambda p: [p[0], p[0], p[1], p[2]],
        lambda p: [{**p[0], "etag": p[1]["etag"]}, *p[1:]],
        lambda p: [{**p[0], "etag": ""}, *p[1:]],
        lambda p: [{**p[0], "etag": '"'}, *p[1:]],
        lambda p: [{**p[0], "etag": '"' + p[0]["etag"] + '"'}, *p[1:]],
        lambda p: [{**p[0], "etag": None}, *p[1:]],
        lambda p: [{**p[0], "part_number": "1"}, *p[1:]],
        lambda p: [{**p[0], "part_number": True}, *p[1:]],
        lambda p: [{"etag": p[0]["etag"]}, *p[1:]],
        lambda _: [],
        lambda _: None,
        lambda _: {},
        lambda _: [1, 2, 3],
    ],
)
async def test_a_bad_part_list_does_not_complete(lab: Lab, change: Any) -> None:
    client = await lab(part_size=4)
    ticket, parts = await _stored(client)
    body = {name: ticket[name] for name in ("build_id", "upload_id", "object_key")}
    answer = await client.api(
        "POST", "/builds/upload/complete", json={**body, "parts": change(parts)}
    )
    assert answer.status == 400
    assert client.box.uploads[ticket["build_id"]].state == "uploading"


@pytest.mark.parametrize(
    "names",
    [
        (),
        ("build_id",),
        ("build_id", "upload_id"),
        ("build_id", "object_key"),
        ("build_id", "parts"),
        ("build_id", "upload_id", "parts"),
        ("build_id", "object_key", "parts"),
        ("upload_id", "object_key", "parts"),
    ],
    ids=str,
)
async def test_a_multipart_completion_needs_every_member(lab: Lab, names: tuple[str, ...]) -> None:
    client = await lab(part_size=4)
    ticket, parts = await _stored(client)
    body = {name: {**ticket, "parts": parts}[name] for name in names}
    assert (await client.api("POST", "/builds/upload/complete", json=body)).status == 400


@pytest.mark.parametrize("name", ["build_id", "upload_id", "object_key"])
async def test_completion_needs_matching_credentials(lab: Lab, name: str) -> None:
    client = await lab(part_size=4)
    ticket, parts = await _stored(client)
    ticket[name] = "other"
    answer = await client.complete(ticket, [part["etag"] for part in parts])
    assert (answer.status, answer.json["code"]) == (404, "UPLOAD_NOT_FOUND")


async def test_a_missing_part_does_not_complete(lab: Lab) -> None:
    client = await lab()
    ticket = await client.ticket(multipart=True)
    assert (await client.complete(ticket, ["0" * 32])).status == 400


async def test_a_single_part_upload_without_its_put_does_not_complete(lab: Lab) -> None:
    client = await lab()
    assert (await client.complete(await client.ticket())).status == 400


@pytest.mark.parametrize("name", ["build_id", "object_key", "upload_id"])
async def test_a_cancel_needs_every_parameter(lab: Lab, name: str) -> None:
    client = await lab()
    ticket = await client.ticket(multipart=True)
    assert (await client.cancel({**ticket, name: ""})).status in (400, 404)
    del ticket[name]
    assert (await client.cancel(ticket)).status == 400


@pytest.mark.parametrize("name", ["build_id", "object_key", "upload_id"])
async def test_a_cancel_needs_matching_credentials(lab: Lab, name: str) -> None:
    client = await lab()
    ticket = await client.ticket(multipart=True)
    answer = await client.cancel(ticket, **{name: "other"})
    assert (answer.status, answer.json["code"]) == (404, "UPLOAD_NOT_FOUND")


async def test_a_refused_body_keeps_the_connection(lab: Lab) -> None:
    client = await lab()
    for _ in range(3):
        await client.api("POST", "/builds/upload", key=None, json=_body())
    assert client.box.journal.connections("api") == 1
