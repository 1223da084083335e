"""Uploads from first to last, as the API pages describe them."""

import asyncio
import hashlib
import re
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from doubles import until
from sandbox_client import Client, Clock, Lab, listing

from nunu_async.sandbox.objects import safe_name

DETAILS = {
    "vcs": {"type": "git", "branch": "main", "pr": {"number": 4}},
    "app": {"version_code": 7},
    "build": {"configuration": "release", "dependencies": {"engine": "5"}},
}


@pytest.mark.parametrize("where", ["memory", "directory"])
@pytest.mark.parametrize("members", [{}, {"multipart": True}], ids=["single", "multipart"])
async def test_an_upload_arrives_whole(
    lab: Lab, tmp_path: Path, data: bytes, where: str, members: dict[str, bool]
) -> None:
    client = await lab(part_size=700_000, directory=tmp_path if where == "directory" else None)
    ticket = await client.upload(data, **members)
    assert client.box.read_object(ticket["build_id"]) == data


async def test_a_single_part_ticket_has_the_documented_members(lab: Lab) -> None:
    client = await lab()
    ticket = await client.ticket()
    assert list(ticket) == ["upload_type", "build_id", "upload_url", "object_key"]


async def test_a_multipart_ticket_has_the_documented_members(lab: Lab) -> None:
    client = await lab(part_size=4)
    ticket = await client.ticket(multipart=True, file_size=9)
    assert {name: ticket[name] for name in ("upload_type", "total_parts", "part_size")} == {
        "upload_type": "multipart",
        "total_parts": 3,
        "part_size": 4,
    }


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"file_size": 99}, "single-part"),
        ({"file_size": 100}, "multipart"),
        ({"file_size": 100, "multipart": False}, "single-part"),
        ({"file_size": 1, "multipart": True}, "multipart"),
    ],
)
async def test_the_body_or_else_the_size_decides_the_upload_type(
    lab: Lab, members: dict[str, Any], expected: str
) -> None:
    client = await lab(multipart_from=100)
    assert (await client.ticket(**members))["upload_type"] == expected


async def test_completion_answers_differ_by_upload_type(lab: Lab) -> None:
    client = await lab()
    single = await client.ticket(file_size=2)
    await client.put(single["upload_url"], b"ab")
    multi = await client.ticket(file_size=2, multipart=True)
    etag = (await client.put(await client.url(multi), b"ab")).headers["ETag"]
    answers = [await client.complete(single), await client.complete(multi, [etag])]
    assert [one.json for one in answers] == [
        {"status": "success"},
        {"build_id": multi["build_id"]},
    ]


async def test_the_etag_is_the_quoted_md5(lab: Lab) -> None:
    client = await lab()
    answer = await client.put((await client.ticket(file_size=3))["upload_url"], b"abc")
    assert answer.headers["ETag"] == f'"{hashlib.md5(b"abc", usedforsecurity=False).hexdigest()}"'


async def test_completion_takes_bare_etags(lab: Lab) -> None:
    client = await lab()
    ticket = await client.ticket(file_size=3, multipart=True)
    etag = (await client.put(await client.url(ticket), b"abc")).headers["ETag"]
    assert (await client.complete(ticket, [etag.strip('"')])).status == 200


async def test_parts_may_arrive_in_any_order_and_at_once(lab: Lab, data: bytes) -> None:
    client = await lab(part_size=100_000)
    ticket = await client.ticket(file_size=len(data), multipart=True)
    numbers = range(ticket["total_parts"], 0, -1)

    async def put(number: int) -> str:
        part = data[(number - 1) * 100_000 : number * 100_000]
        return str((await client.put(await client.url(ticket, number), part)).headers["ETag"])

    etags = await asyncio.gather(*map(put, numbers))
    await client.complete(ticket, etags[::-1])
    assert client.box.read_object(ticket["build_id"]) == data


async def test_a_part_sent_again_replaces_the_former(lab: Lab) -> None:
    client = await lab()
    ticket = await client.ticket(file_size=3)
    await client.put(ticket["upload_url"], b"old")
    await client.put(ticket["upload_url"], b"new")
    await client.complete(ticket)
    assert client.box.read_object(ticket["build_id"]) == b"new"


async def test_the_etag_of_a_replaced_part_is_refused(lab: Lab) -> None:
    client = await lab()
    ticket = await client.ticket(file_size=3, multipart=True)
    old = (await client.put(await client.url(ticket), b"old")).headers["ETag"]
    await client.put(await client.url(ticket), b"new")
    assert (await client.complete(ticket, [old])).status == 400


async def test_a_completed_build_is_described(lab: Lab, clock: Clock) -> None:
    client = await lab(now=clock.now)
    ticket = await client.upload(
        b"0123456789", name="Demo", tags=["rc"], description="first", details=DETAILS
    )
    assert (await client.build(ticket)).json == {
        "build_id": ticket["build_id"],
        "project_id": "sandbox-project",
        "name": "Demo",
        "platform": "linux",
        "status": "OK",
        "filename": "demo.zip",
        "size": 10,
        "pinned": False,
        "nunu_sdk": False,
        "tags": ["rc"],
        "created_at": "2026-05-28T20:26:40.000000+00:00",
        "last_used": None,
        "description": "first",
        "details": DETAILS,
    }


async def test_a_build_on_its_way_is_uploading(lab: Lab) -> None:
    client = await lab()
    build = (await client.build(await client.ticket())).json
    assert (build["status"], "details" in build) == ("uploading", False)


async def test_the_scoped_paths_serve_too(lab: Lab) -> None:
    client = await lab(project_id="pixel")
    body = {"name": "a", "file_name": "b", "file_size": 1, "platform": "xbox"}
    answer = await client.api("POST", "/project/pixel/builds/upload", json=body)
    assert answer.status == 200


async def test_the_object_key_quotes_the_file_name(lab: Lab) -> None:
    client = await lab()
    ticket = await client.ticket(file_name="a b/é~.zip")
    assert ticket["object_key"] == f"sandbox-project/{ticket['build_id']}/a%20b%2F%C3%A9~.zip"


@pytest.mark.parametrize(
    "name", ["a b.zip", "../../etc/passwd", "...", "é" * 255, "\U0001f3ae" * 255, "a\x00b", "+&?#"]
)
async def test_any_file_name_stays_inside_the_directory(
    lab: Lab, tmp_path: Path, name: str
) -> None:
    client = await lab(directory=tmp_path)
    ticket = await client.upload(b"0123456789", file_name=name)
    path = client.box.object_path(ticket["build_id"])
    assert path is not None
    assert path.resolve().parent == (tmp_path / ticket["build_id"]).resolve()


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("CON", "_CON"),
        ("nul", "_nul"),
        ("aux.txt", "_aux.txt"),
        ("Com1.tar.gz", "_Com1.tar.gz"),
        ("lpt9.", "_lpt9"),
        (".con", "_con"),
        ("x" * 100 + "com1.", "x" * 96 + "com1"),
        ("a" * 300 + ".zip", "a" * 96 + ".zip"),
        ("game.zip.", "game.zip"),
        ("game. .", "game._"),
        ("name ", "name_"),
        ("a:b|c*.zip", "a_b_c_.zip"),
        ("console.zip", "console.zip"),
        ("com10.zip", "com10.zip"),
        ("....", "object"),
    ],
)
def test_a_file_name_is_one_that_every_system_takes(name: str, kept: str) -> None:
    assert safe_name(name) == kept


async def test_the_directory_holds_nothing_but_the_object(
    lab: Lab, tmp_path: Path, data: bytes
) -> None:
    client = await lab(directory=tmp_path / "new" / "place", part_size=1_000_000)
    ticket = await client.upload(data, multipart=True)
    await client.box.close()
    assert listing(tmp_path) == [client.box.object_path(ticket["build_id"])]


@pytest.mark.parametrize("where", ["memory", "directory"])
async def test_the_object_is_hashed(lab: Lab, tmp_path: Path, data: bytes, where: str) -> None:
    client = await lab(directory=tmp_path if where == "directory" else None)
    ticket = await client.upload(data)
    assert client.box.object_sha256(ticket["build_id"]) == hashlib.sha256(data).hexdigest()


async def test_memory_has_no_object_paths(lab: Lab) -> None:
    client = await lab()
    assert client.box.object_path((await client.upload(b"0123456789"))["build_id"]) is None


async def test_an_unfinished_upload_has_no_object(lab: Lab) -> None:
    client = await lab()
    ticket = await client.ticket(file_size=1)
    await client.put(ticket["upload_url"], b"x")
    with pytest.raises(KeyError):
        client.box.read_object(ticket["build_id"])


async def test_uploads_tell_their_story(lab: Lab) -> None:
    client = await lab(part_size=6)
    ticket = await client.ticket(multipart=True)
    etag = (await client.put(await client.url(ticket, 2), b"6789")).headers["ETag"]
    upload = client.box.uploads[ticket["build_id"]]
    assert (upload.upload_id, upload.state, upload.total_parts, upload.parts) == (
        ticket["upload_id"],
        "uploading",
        2,
        {2: etag.strip('"')},
    )
    assert upload.request["file_name"] == upload.file_name == "demo.zip"


async def test_the_environment_points_here(lab: Lab) -> None:
    box = (await lab(api_key="k", project_id="p")).box
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/api/v1", box.base_url)
    assert box.environment == {
        "NUNU_BASE_URL": box.base_url,
        "NUNU_API_KEY": "k",
        "NUNU_PROJECT_ID": "p",
    }


async def test_api_and_storage_are_two_origins(lab: Lab) -> None:
    client = await lab()
    ticket = await client.ticket()
    assert ticket["upload_url"].startswith(client.box.storage_url + "/")
    assert not client.box.base_url.startswith(client.box.storage_url)


async def test_an_upload_can_be_cancelled(lab: Lab) -> None:
    client = await lab()
    ticket = await client.ticket(multipart=True)
    assert (await client.cancel(ticket)).json == {"success": True}
    assert client.box.uploads[ticket["build_id"]].state == "cancelled"


async def test_a_cancelled_upload_leaves_no_parts(lab: Lab, tmp_path: Path) -> None:
    client = await lab(directory=tmp_path, part_size=5)
    ticket = await client.ticket(multipart=True)
    await client.put(await client.url(ticket), b"01234")
    assert len([path for path in listing(tmp_path) if path.is_file()]) == 1
    await client.cancel(ticket)
    assert listing(tmp_path) == [tmp_path / ".parts"]


async def test_parts_left_over_are_deleted_at_the_close(lab: Lab, tmp_path: Path) -> None:
    client = await lab(directory=tmp_path)
    await client.put((await client.ticket(file_size=1))["upload_url"], b"x")
    await client.box.close()
    assert listing(tmp_path) == []


async def _over(client: Client, clock: Clock, ticket: Any, how: str) -> None:
    if how == "cancelled":
        await client.cancel(ticket)
    elif how == "completed":
        await client.put(ticket["upload_url"], b"0123456789")
        await client.complete(ticket)
    else:
        clock.time += 600


@pytest.mark.parametrize("how", ["cancelled", "completed", "expired"])
async def test_an_upload_that_is_over_takes_nothing_more(lab: Lab, clock: Clock, how: str) -> None:
    client = await lab(now=clock.now)
    ticket = await client.ticket()
    await _over(client, clock, ticket, how)
    put = await client.put(ticket["upload_url"], b"9876543210")
    assert (put.status, put.code) == (404, "NoSuchUpload")
    for answer in (await client.complete(ticket), await client.cancel(ticket)):
        assert answer.status == 404
        assert answer.json == {"error": "Upload not found", "code": "UPLOAD_NOT_FOUND"}
    assert client.box.uploads[ticket["build_id"]].state == how


@pytest.mark.parametrize(
    ("members", "minutes"),
    [({}, 10), ({"multipart": True}, 60), ({"upload_timeout": 3}, 3)],
)
async def test_an_upload_lives_as_long_as_its_timeout(
    lab: Lab, clock: Clock, members: dict[str, Any], minutes: int
) -> None:
    client = await lab(now=clock.now)
    build_id = (await client.ticket(**members))["build_id"]
    clock.time += minutes * 60 - 1
    before = client.box.uploads[build_id].state
    clock.time += 1
    assert (before, client.box.uploads[build_id].state) == ("uploading", "expired")


async def test_nothing_is_stored_when_the_cancel_comes_during_the_put(
    lab: Lab, tmp_path: Path
) -> None:
    client = await lab(directory=tmp_path)
    ticket = await client.ticket(file_size=8)
    reached, resume = asyncio.Event(), asyncio.Event()

    async def body() -> Any:
        yield b"0123"
        reached.set()
        await resume.wait()
        yield b"4567"

    put = asyncio.create_task(
        client.send("PUT", ticket["upload_url"], data=body(), headers={"Content-Length": "8"})
    )
    await reached.wait()
    await client.cancel(ticket)
    resume.set()
    assert (await put).code == "NoSuchUpload"
    assert listing(tmp_path) == [tmp_path / ".parts"]
    assert client.box.uploads[ticket["build_id"]].parts == {}


async def test_a_put_that_breaks_off_leaves_the_former_part(lab: Lab, tmp_path: Path) -> None:
    client = await lab(directory=tmp_path)
    ticket = await client.ticket(file_size=8)
    await client.put(ticket["upload_url"], b"01234567")

    async def body() -> Any:
        yield b"9999"
        await until(lambda: client.box.journal[-1].received == 4)
        raise ConnectionAbortedError

    with pytest.raises(aiohttp.ClientError):
        await client.send("PUT", ticket["upload_url"], data=body(), headers={"Content-Length": "8"})
    await until(lambda: client.box.journal[-1].outcome != "open")
    assert client.box.journal[-1].outcome == "gone"
    await client.complete(ticket)
    assert client.box.read_object(ticket["build_id"]) == b"01234567"


async def test_two_completions_at_once_count_once(lab: Lab, tmp_path: Path) -> None:
    client = await lab(directory=tmp_path, part_size=5)
    ticket = await client.ticket(multipart=True)
    etags = [
        (await client.put(await client.url(ticket, number), part)).headers["ETag"]
        for number, part in ((1, b"01234"), (2, b"56789"))
    ]
    answers = await asyncio.gather(*(client.complete(ticket, etags) for _ in range(4)))
    assert sorted(one.status for one in answers) == [200, 404, 404, 404]


async def test_parts_that_cannot_be_joined_are_kept(lab: Lab, tmp_path: Path) -> None:
    client = await lab(directory=tmp_path, part_size=4)
    ticket = await client.ticket(multipart=True)

    async def put(number: int, part: bytes) -> str:
        return (await client.put(await client.url(ticket, number), part)).headers["ETag"]

    etags = [await put(number, part) for number, part in ((1, b"0123"), (2, b"4567"), (3, b"89"))]
    (tmp_path / ".parts" / f"{ticket['build_id']}.3").unlink()
    assert (await client.complete(ticket, etags)).status == 500
    await put(3, b"89")
    assert (await client.complete(ticket, etags)).status == 200
    assert client.box.read_object(ticket["build_id"]) == b"0123456789"


async def test_the_quota_counts_reservations(lab: Lab) -> None:
    client = await lab(capacity=100)
    await client.ticket(file_size=70)
    answer = await client.initiate(file_size=31)
    assert answer.status == 402
    assert answer.json == {
        "error": "Storage capacity exceeded",
        "code": "QUOTA_EXCEEDED",
        "details": {"used": 70, "capacity": 100, "needed": 31},
    }


async def test_a_build_may_fill_the_quota_exactly(lab: Lab) -> None:
    client = await lab(capacity=10)
    assert (await client.initiate(file_size=10)).status == 200


async def test_a_cancelled_upload_frees_its_reservation(lab: Lab) -> None:
    client = await lab(capacity=10)
    await client.cancel(await client.ticket())
    assert (await client.initiate()).status == 200


async def test_an_expired_upload_frees_its_reservation(lab: Lab, clock: Clock) -> None:
    client = await lab(capacity=10, now=clock.now)
    await client.ticket(upload_timeout=1)
    clock.time += 60
    assert (await client.initiate()).status == 200


async def test_auto_delete_evicts_the_oldest_builds_first(lab: Lab, tmp_path: Path) -> None:
    client = await lab(capacity=30, directory=tmp_path)
    builds = [await client.upload(b"0123456789") for _ in range(3)]
    await client.ticket(file_size=15, auto_delete=True)
    assert [(await client.build(one)).status for one in builds] == [404, 404, 200]
    assert [(tmp_path / one["build_id"]).exists() for one in builds] == [False, False, True]


async def test_auto_delete_evicts_nothing_in_vain(lab: Lab) -> None:
    client = await lab(capacity=30)
    build = await client.upload(b"0123456789")
    await client.ticket(file_size=10)
    assert (await client.initiate(file_size=21, auto_delete=True)).status == 402
    assert (await client.build(build)).status == 200
