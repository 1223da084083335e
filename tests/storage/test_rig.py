"""The rig itself, with plain aiohttp: what it lets through and what it refuses."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from s3_api import API_KEY, BUILDS, PROJECT, Rig
from yarl import URL

NAME = "Harbor & Co 2.4+rc1 (win) 100%.zip"
PART = 5 << 20
DATA = os.urandom(PART) + os.urandom(PART) + b"the end"


class Caller:
    """A client that sends only what a test asks for."""

    def __init__(self, session: aiohttp.ClientSession, rig: Rig) -> None:
        self._session = session
        self._rig = rig

    async def api(
        self, method: str, path: str, *, key: str | None = API_KEY, **options: Any
    ) -> tuple[int, dict[str, Any]]:
        headers = {"X-Api-Key": key} if key else {}
        url = self._rig.url + BUILDS + path
        async with self._session.request(method, url, headers=headers, **options) as response:
            return response.status, await response.json()

    async def initiate(self, **fields: Any) -> dict[str, Any]:
        body = {"project_id": PROJECT, "name": "n", "file_name": NAME, "file_size": len(DATA)}
        body |= {"platform": "windows", "multipart": True} | fields
        status, answer = await self.api("POST", "/upload", json=body)
        assert status == 200, answer
        return answer

    async def urls(self, upload: dict[str, Any], *numbers: int) -> list[str]:
        query = {"upload_id": upload["upload_id"], "object_key": upload["object_key"]}
        query["part_numbers"] = ",".join(map(str, numbers))
        status, answer = await self.api("GET", "/upload/parts", key=None, params=query)
        assert status == 200, answer
        assert [entry["part_number"] for entry in answer["upload_urls"]] == list(numbers)
        return [entry["url"] for entry in answer["upload_urls"]]

    async def put(self, url: str, data: bytes, **headers: str) -> tuple[int, str, str]:
        headers = {"Content-Type": "application/octet-stream", **headers}
        body = io.BytesIO(data)
        async with self._session.put(URL(url, encoded=True), data=body, headers=headers) as answer:
            return answer.status, answer.headers.get("ETag", ""), await answer.text()


@pytest.fixture
async def caller(rig: Rig) -> AsyncIterator[Caller]:
    rig.part_size = PART
    async with aiohttp.ClientSession() as session:
        yield Caller(session, rig)


def part(number: int) -> bytes:
    return DATA[(number - 1) * PART : number * PART]


@pytest.mark.parametrize("quoted", [True, False])
async def test_a_multipart_upload_goes_through(rig: Rig, caller: Caller, *, quoted: bool) -> None:
    upload = await caller.initiate()
    assert (upload["total_parts"], upload["part_size"]) == (3, PART)
    parts = []
    for number, url in enumerate(await caller.urls(upload, 1, 2, 3), 1):
        status, etag, _ = await caller.put(url, part(number))
        assert status == 200
        assert etag == '"' + hashlib.md5(part(number), usedforsecurity=False).hexdigest() + '"'
        parts.append({"part_number": number, "etag": etag if quoted else etag.strip('"')})
    assert await rig.open_uploads() == [upload["object_key"]]
    body = {k: upload[k] for k in ("build_id", "upload_id", "object_key")} | {"parts": parts}
    answer = await caller.api("POST", "/upload/complete", json=body)
    assert answer == (200, {"build_id": upload["build_id"]})
    assert await rig.sha256() == hashlib.sha256(DATA).hexdigest()
    assert await rig.open_uploads() == []
    _, build = await caller.api("GET", f"/{upload['build_id']}")
    assert (build["status"], build["file_name"]) == ("ready", NAME)
    assert rig.violations == []


async def test_a_single_part_upload_goes_through(rig: Rig, caller: Caller) -> None:
    upload = await caller.initiate(multipart=False)
    assert upload["upload_type"] == "single-part"
    status, _, _ = await caller.put(upload["upload_url"], DATA)
    assert status == 200
    answer = await caller.api("POST", "/upload/complete", json={"build_id": upload["build_id"]})
    assert answer == (200, {"status": "success"})
    assert await rig.sha256() == hashlib.sha256(DATA).hexdigest()
    assert rig.violations == []


async def test_the_store_refuses_a_tampered_signature(rig: Rig, caller: Caller) -> None:
    upload = await caller.initiate()
    (url,) = await caller.urls(upload, 1)
    last = "0" if url[-1] != "0" else "1"
    status, _, text = await caller.put(url[:-1] + last, part(1))
    assert status == 403
    assert "<Code>SignatureDoesNotMatch</Code>" in text
    assert [r.status for r in rig.puts(1)] == [403]


async def test_the_store_refuses_a_url_made_for_another_part(rig: Rig, caller: Caller) -> None:
    upload = await caller.initiate()
    (url,) = await caller.urls(upload, 1)
    status, _, _ = await caller.put(url.replace("partNumber=1", "partNumber=2"), part(2))
    assert status == 403
    assert [r.status for r in rig.puts(2)] == [403]


@pytest.mark.parametrize("how", ["expire_next", "forge_next"])
async def test_the_store_refuses_a_spoiled_url_and_takes_a_fresh_one(
    rig: Rig, caller: Caller, how: str
) -> None:
    """rclone answers an expired URL with AccessDenied and 400, and a wrong signature with 403."""
    setattr(rig, how, 1)
    upload = await caller.initiate()
    spoiled, good = await caller.urls(upload, 1, 2)
    status, _, text = await caller.put(spoiled, part(1))
    if how == "expire_next":
        assert status in {400, 403}
        assert "<Code>AccessDenied</Code>" in text
    else:
        assert status == 403
        assert "<Code>SignatureDoesNotMatch</Code>" in text
    assert +rig.spoiled == {1: 1}
    assert (await caller.put(good, part(2)))[0] == 200
    (fresh,) = await caller.urls(upload, 1)
    assert (await caller.put(fresh, part(1)))[0] == 200
    assert [r.status for r in rig.puts(1)] == [status, 200]
    assert rig.asked() == {1: 2, 2: 1}
    assert rig.violations == []


@pytest.mark.parametrize(("seconds", "taken"), [(600, False), (3600, True)])
async def test_a_url_expires_by_its_own_date(
    rig: Rig, caller: Caller, seconds: int, *, taken: bool
) -> None:
    """Twenty minutes after it was signed."""
    await caller.initiate()
    url = await rig.part_url(rig.only_upload, 1, seconds=seconds, age=1200)
    status, _, _ = await caller.put(url, part(1))
    assert (status == 200) is taken


async def test_the_store_refuses_forged_parts_for_ever(rig: Rig, caller: Caller) -> None:
    rig.forged_parts = {2}
    upload = await caller.initiate()
    for _ in range(2):
        (url,) = await caller.urls(upload, 2)
        assert (await caller.put(url, part(2)))[0] == 403
    (url,) = await caller.urls(upload, 1)
    assert (await caller.put(url, part(1)))[0] == 200


async def test_the_store_needs_no_api_key_and_a_key_sent_to_it_is_noticed(
    rig: Rig, caller: Caller
) -> None:
    upload = await caller.initiate()
    one, two = await caller.urls(upload, 1, 2)
    assert (await caller.put(one, part(1)))[0] == 200
    assert rig.violations == []
    assert (await caller.put(two, part(2), **{"X-Api-Key": API_KEY}))[0] == 200
    assert any("the API key went to the store" in v for v in rig.violations)


async def test_cancelling_removes_the_parts(rig: Rig, caller: Caller) -> None:
    upload = await caller.initiate()
    (url,) = await caller.urls(upload, 1)
    assert (await caller.put(url, part(1)))[0] == 200
    query = {k: upload[k] for k in ("build_id", "upload_id", "object_key")}
    assert await caller.api("DELETE", "/upload", params=query) == (200, {"success": True})
    assert (await rig.open_uploads(), await rig.keys()) == ([], [])
    assert rig.violations == []
    status, answer = await caller.api("DELETE", "/upload", params=query)
    assert (status, answer["code"]) == (404, "UPLOAD_NOT_FOUND")
    assert (await caller.put(url, part(1)))[0] in {403, 404}
    assert any("sent when the upload was failed" in v for v in rig.violations)


@pytest.mark.parametrize("key", [None, "nunu_other"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/upload"),
        ("DELETE", "/upload"),
        ("POST", "/upload/complete"),
        ("GET", "/5b0f7c1e-2a64-4f0b-9d3c-7f1e8a90b2d4"),
    ],
)
async def test_the_api_needs_its_key(
    rig: Rig, caller: Caller, method: str, path: str, key: str | None
) -> None:
    status, answer = await caller.api(method, path, key=key)
    assert (status, answer["error"]) == (401, "Invalid API key" if key else "API key required")
    assert len(rig.violations) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"project_id": None},
        {"project_id": "elsewhere"},
        {"name": ""},
        {"name": "n" * 256},
        {"file_size": 0},
        {"file_size": "12"},
        {"file_size": True},
        {"platform": "amiga"},
        {"upload_timeout": 1441},
        {"tags": ["t" * 51]},
        {"details": {"weather": {}}},
        {"colour": "red"},
        {"description": None},
    ],
)
async def test_the_api_refuses_a_wrong_field(
    rig: Rig, caller: Caller, fields: dict[str, Any]
) -> None:
    body = {"project_id": PROJECT, "name": "n", "file_name": NAME, "file_size": 1}
    body |= {"platform": "windows"} | fields
    status, _ = await caller.api("POST", "/upload", json=body)
    assert status == 400
    assert len(rig.violations) == 1


@pytest.mark.parametrize(
    "numbers",
    [[2, 1], [1], [1, 1], [1, 2, 3], ["1", "2"], []],
    ids=["descending", "one missing", "one twice", "one too many", "text", "none"],
)
async def test_the_api_refuses_a_wrong_part_list(
    rig: Rig, caller: Caller, numbers: list[Any]
) -> None:
    upload = await caller.initiate(file_size=PART + 1)
    body = {k: upload[k] for k in ("build_id", "upload_id", "object_key")}
    parts = [{"part_number": n, "etag": "0" * 32} for n in numbers]
    status, _ = await caller.api("POST", "/upload/complete", json={**body, "parts": parts})
    assert status == 400
    assert len(rig.violations) == 1


async def test_the_store_refuses_an_etag_it_did_not_give(rig: Rig, caller: Caller) -> None:
    upload = await caller.initiate(file_size=PART)
    (url,) = await caller.urls(upload, 1)
    assert (await caller.put(url, part(1)))[0] == 200
    body = {k: upload[k] for k in ("build_id", "upload_id", "object_key")}
    body["parts"] = [{"part_number": 1, "etag": "0" * 32}]
    status, answer = await caller.api("POST", "/upload/complete", json=body)
    assert (status, "InvalidPart" in answer["error"]) == (400, True)
    assert await rig.keys() == []


@pytest.mark.parametrize("numbers", ["", "0", "4", "1,1", "one", "1,,2"])
async def test_the_api_refuses_wrong_part_numbers(rig: Rig, caller: Caller, numbers: str) -> None:
    upload = await caller.initiate()
    query = {"upload_id": upload["upload_id"], "object_key": upload["object_key"]}
    query["part_numbers"] = numbers
    status, _ = await caller.api("GET", "/upload/parts", params=query)
    assert status == 400
    assert len(rig.violations) == 1
