"""Faults: which requests they hit, and what the client then sees."""

import asyncio
import hashlib
import json
import socket
import sys
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from doubles import until
from sandbox_client import Client, Clock, Lab

from nunu_async.sandbox import Fault
from nunu_async.sandbox.faults import Faults

BODY = b"0123456789"


@pytest.mark.parametrize(
    "fields",
    [
        {"on": "upload"},
        {"on": ""},
        {"on": "unknown"},
        {"on": "put_part", "part": 0},
        {"on": "get_build", "part": 1},
        {"on": "put_part", "first": 0},
        {"on": "put_part", "times": 0},
        {"on": "put_part", "latency": -1.0},
        {"on": "put_part", "latency": float("nan")},
        {"on": "put_part", "latency": float("inf")},
        {"on": "put_part", "do": "cut", "after": -1},
        {"on": "put_part", "after": 5},
        {"on": "put_part", "do": "explode"},
        {"on": "put_part", "do": "answer"},
        {"on": "put_part", "do": "corrupt", "after": 5},
        {"on": "put_part", "do": "corrupt", "effect": True},
        {"on": "put_part", "do": "corrupt", "status": 200},
        {"on": "*", "do": "corrupt"},
        {"on": "initiate_upload", "do": "corrupt"},
        {"on": "put_part", "do": "cut", "status": 500},
        {"on": "put_part", "do": "pass", "status": 500},
        {"on": "put_part", "body": "x"},
        {"on": "put_part", "headers": {"Retry-After": "2"}},
        {"on": "put_part", "status": 100},
        {"on": "put_part", "status": 600},
        {"on": "put_part", "effect": True},
        {"on": "put_part", "do": "cut", "effect": True, "after": 5},
    ],
    ids=str,
)
def test_a_contradictory_fault_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="fault on"):
        Fault(**fields)


@pytest.mark.parametrize(
    ("fields", "deed"),
    [({"status": 500}, "answer"), ({"latency": 1.0}, "pass"), ({"do": "cut"}, "cut")],
)
def test_a_fault_with_a_status_answers(fields: dict[str, Any], deed: str) -> None:
    assert Fault(on="*", **fields).do == deed


@pytest.mark.parametrize(
    ("first", "times", "due"),
    [(1, 1, [1]), (3, 1, [3]), (2, 2, [2, 3]), (1, None, [1, 2, 3, 4, 5]), (4, None, [4, 5])],
)
def test_a_fault_acts_on_its_share_of_the_requests(
    first: int, times: int | None, due: list[int]
) -> None:
    faults = Faults([Fault(on="get_build", first=first, times=times, do="cut")])
    plans = [faults.plan("get_build", None) for _ in range(5)]
    assert [number for number, plan in enumerate(plans, 1) if plan.fault] == due


def test_only_matching_requests_are_counted() -> None:
    faults = Faults([Fault(on="put_part", part=2, first=2, do="cut")])
    requests = [("put_part", 1), ("put_part", 2), ("get_build", None), ("put_part", 2)]
    assert [bool(faults.plan(*one).fault) for one in requests] == [False, False, False, True]


def test_a_star_matches_everything() -> None:
    faults = Faults([Fault(on="*", times=None, do="cut")])
    assert all(faults.plan(one, None).fault for one in ("get_build", "put_part", "unknown"))


def test_latencies_add_up_and_the_first_deed_decides() -> None:
    cut, stall = Fault(on="*", do="cut", latency=2.0), Fault(on="*", do="stall", latency=4.0)
    plan = Faults([Fault(on="*", latency=1.0), cut, stall]).plan("get_build", None)
    assert (plan.latency, plan.fault) == (7.0, cut)


def test_the_same_fault_added_twice_counts_apart() -> None:
    fault = Fault(on="*", status=500)
    faults = Faults([fault, fault])
    assert [bool(faults.plan("get_build", None).fault) for _ in range(2)] == [True, False]


async def test_a_rate_limit_is_expressed(lab: Lab) -> None:
    fault = Fault(on="initiate_upload", status=429, headers={"Retry-After": "2"})
    client = await lab(faults=[fault])
    answers = [await client.initiate() for _ in range(2)]
    assert [one.status for one in answers] == [429, 200]
    assert answers[0].headers["Retry-After"] == "2"
    assert answers[0].json == {"error": "too many requests"}


async def test_a_small_unread_body_keeps_the_connection(lab: Lab) -> None:
    client = await lab(faults=[Fault(on="initiate_upload", status=429)])
    for _ in range(2):
        await client.initiate()
    assert client.box.journal.connections("api") == 1


async def test_a_fault_may_be_added_late(lab: Lab) -> None:
    client = await lab()
    await client.initiate()
    fault = Fault(on="initiate_upload", status=500)
    client.box.add_fault(fault)
    assert (await client.initiate()).status == 500
    assert client.box.faults == (fault,)


@pytest.mark.parametrize(
    ("body", "kind", "raw"),
    [
        ({"error": "no"}, "application/json", b'{"error": "no"}'),
        ("<html>", "text/plain", b"<html>"),
        (b"\x00", "application/octet-stream", b"\x00"),
        ("", "text/plain", b""),
    ],
    ids=str,
)
async def test_a_fault_answers_with_its_body(lab: Lab, body: Any, kind: str, raw: bytes) -> None:
    client = await lab(faults=[Fault(on="*", status=502, body=body)])
    answer = await client.initiate()
    assert (answer.headers["Content-Type"].partition(";")[0], answer.raw) == (kind, raw)


async def test_a_fault_may_set_the_content_type(lab: Lab) -> None:
    headers = {"content-type": "text/html"}
    client = await lab(faults=[Fault(on="*", status=502, body="<html>", headers=headers)])
    assert (await client.initiate()).headers.getall("Content-Type") == ["text/html"]


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (403, "AccessDenied"),
        (404, "NoSuchUpload"),
        (500, "InternalError"),
        (503, "SlowDown"),
        (507, "InternalError"),
        (418, "InvalidRequest"),
    ],
)
async def test_storage_answers_faults_in_xml(lab: Lab, status: int, code: str) -> None:
    client = await lab(faults=[Fault(on="put_part", status=status)])
    answer = await client.put((await client.ticket())["upload_url"], BODY)
    assert (answer.status, answer.code) == (status, code)
    assert b"<Message>" in answer.raw


async def test_latency_goes_through_the_given_sleep(lab: Lab, clock: Clock) -> None:
    client = await lab(sleep=clock.sleep, faults=[Fault(on="*", times=None, latency=0.08)])
    await client.upload(BODY)
    assert clock.slept == [0.08] * 3


async def test_an_early_answer_leaves_the_body_unread(lab: Lab) -> None:
    client = await lab(faults=[Fault(on="put_part", status=403)])
    size = 50_000_000
    ticket = await client.ticket(file_size=size)
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < size:
            sent += 100_000
            yield bytes(100_000)
            await asyncio.sleep(0)

    answer = await client.send(
        "PUT", ticket["upload_url"], data=body(), headers={"Content-Length": str(size)}
    )
    seen = client.box.journal[-1]
    assert (answer.status, seen.received, seen.outcome) == (403, 0, "answered")
    assert answer.headers["Connection"] == "close"
    assert sent < size


async def test_an_answer_may_come_amid_the_body(lab: Lab) -> None:
    client = await lab(faults=[Fault(on="put_part", status=503, after=70_000)])
    ticket = await client.ticket(file_size=200_000)
    assert (await client.put(ticket["upload_url"], bytes(200_000))).status == 503
    assert client.box.journal[-1].received == 70_000


async def test_the_third_put_of_part_2_is_cut_after_64_kib(lab: Lab) -> None:
    fault = Fault(on="put_part", part=2, first=3, do="cut", after=64 * 1024)
    client = await lab(part_size=200_000, faults=[fault])
    ticket = await client.ticket(multipart=True, file_size=400_000)
    urls = [await client.url(ticket, number) for number in (1, 2)]
    for url in (urls[0], urls[1], urls[1]):
        assert (await client.put(url, bytes(200_000))).status == 200
    with pytest.raises(aiohttp.ClientError):
        await client.put(urls[1], bytes(200_000))
    seen = client.box.journal.of("put_part", 2)[2]
    assert (seen.outcome, seen.received, seen.status) == ("cut", 65_536, None)
    assert (await client.put(urls[1], bytes(200_000))).status == 200


async def test_a_cut_resets_the_connection(lab: Lab) -> None:
    client = await lab(faults=[Fault(on="put_part", do="cut", after=4)])
    reader, writer = await _begin_put(client)
    writer.write(b"0123")
    try:
        assert await reader.read() == b""
        # Windows' own loop shuts a socket down before it closes it.
        assert sys.platform == "win32"
    except ConnectionResetError:
        pass
    writer.close()


async def test_a_cut_stores_nothing(lab: Lab) -> None:
    client = await lab(faults=[Fault(on="put_part", do="cut", after=10)])
    ticket = await client.ticket()
    with pytest.raises(aiohttp.ClientError):
        await client.put(ticket["upload_url"], BODY)
    assert client.box.uploads[ticket["build_id"]].parts == {}


async def test_a_corrupted_part_is_stored_so_and_its_etag_says_it(lab: Lab) -> None:
    client = await lab(faults=[Fault(on="put_part", do="corrupt", latency=0.0)])
    ticket = await client.ticket()
    stored = bytes([BODY[0] ^ 1]) + BODY[1:]
    for held in (stored, BODY):
        answer = await client.put(ticket["upload_url"], BODY)
        etag = hashlib.md5(held, usedforsecurity=False).hexdigest()
        assert (answer.status, answer.headers["ETag"]) == (200, f'"{etag}"')
        assert client.box.uploads[ticket["build_id"]].parts == {1: etag}
    assert [seen.received for seen in client.box.journal.of("put_part")] == [len(BODY)] * 2


@pytest.mark.parametrize("operation", ["initiate_upload", "get_build"])
async def test_the_api_can_be_cut_too(lab: Lab, operation: str) -> None:
    client = await lab(faults=[Fault(on=operation, do="cut", times=None)])
    with pytest.raises(aiohttp.ClientError):
        await (
            client.initiate() if operation == "initiate_upload" else client.build({"build_id": 1})
        )
    assert client.box.uploads == {}


async def test_a_lost_answer_leaves_its_effect(lab: Lab) -> None:
    fault = Fault(on="complete_upload", effect=True, do="cut")
    client = await lab(faults=[fault])
    ticket = await client.ticket()
    await client.put(ticket["upload_url"], BODY)
    with pytest.raises(aiohttp.ClientError):
        await client.complete(ticket)
    assert client.box.read_object(ticket["build_id"]) == BODY
    assert (await client.complete(ticket)).status == 404


async def test_an_effect_may_be_answered_with_an_error(lab: Lab) -> None:
    client = await lab(faults=[Fault(on="cancel_upload", effect=True, status=500)])
    ticket = await client.ticket()
    assert (await client.cancel(ticket)).status == 500
    assert client.box.uploads[ticket["build_id"]].state == "cancelled"


@pytest.mark.usefixtures("no_task_left")
async def test_a_stall_reads_so_far_and_never_answers(lab: Lab) -> None:
    client = await lab(faults=[Fault(on="put_part", do="stall", after=4)])
    _, writer = await _begin_put(client)
    writer.write(b"01234567")
    journal = client.box.journal
    await until(lambda: journal[-1].outcome == "stalled")
    assert (journal[-1].received, journal[-1].status) == (4, None)
    writer.close()
    await client.session.close()
    await asyncio.wait_for(client.box.close(), 5)


async def test_a_stalled_sender_is_held_back(lab: Lab) -> None:
    client = await lab(faults=[Fault(on="put_part", do="stall")])
    size = 200_000_000
    ticket = await client.ticket(file_size=size)
    sent, moved = 0, asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < size:
            sent += 1_000_000
            moved.set()
            yield bytes(1_000_000)

    headers = {"Content-Length": str(size)}
    put = asyncio.create_task(
        client.send("PUT", ticket["upload_url"], data=body(), headers=headers)
    )
    for _ in range(2000):  # turns of the loop, no time
        await asyncio.sleep(0)
    assert moved.is_set()
    assert sent < size / 2
    put.cancel()
    with pytest.raises(asyncio.CancelledError):
        await put


@pytest.mark.usefixtures("no_task_left")
async def test_closing_ends_whatever_is_open(lab: Lab) -> None:
    async def for_ever(_: float) -> None:
        await asyncio.Event().wait()

    faults = [
        Fault(on="get_build", do="stall"),
        Fault(on="initiate_upload", first=2, latency=1.0),
    ]
    client = await lab(sleep=for_ever, faults=faults)
    reader, writer = await _begin_put(client)
    open_requests = [
        asyncio.create_task(client.build({"build_id": "x"})),
        asyncio.create_task(client.initiate()),
    ]
    await until(lambda: len(client.box.journal) == 4)
    await asyncio.wait_for(client.box.close(), 5)
    results = await asyncio.gather(*open_requests, return_exceptions=True)
    assert [isinstance(one, aiohttp.ClientError) for one in results] == [True, True]
    assert await reader.read() == b""
    writer.close()
    await client.session.close()
    assert {seen.outcome for seen in list(client.box.journal)[1:]} == {"stalled", "gone"}


async def _begin_put(client: Client) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send the head of a PUT of 10 bytes by hand."""
    url = (await client.ticket())["upload_url"]
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    target = url.removeprefix(client.box.storage_url)
    writer.write(
        f"PUT {target} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: 10\r\n\r\n".encode()
    )
    return reader, writer


async def test_a_json_fault_body_is_what_the_client_reads(lab: Lab) -> None:
    body = {"error": "Storage capacity exceeded", "code": "QUOTA_EXCEEDED"}
    client = await lab(faults=[Fault(on="initiate_upload", status=402, body=body)])
    assert json.loads((await client.initiate()).raw) == body
