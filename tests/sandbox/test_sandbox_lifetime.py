"""The journal, and the sandbox's start and close."""

import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from doubles import until
from sandbox_client import Client, Clock, Lab, listing

from nunu_async import sandbox
from nunu_async.sandbox import Fault, Sandbox


async def test_the_journal_holds_every_request_in_order(lab: Lab) -> None:
    client = await lab()
    ticket = await client.upload(b"0123456789", multipart=True)
    await client.build(ticket)
    journal = client.box.journal
    assert journal.operations() == [
        "initiate_upload",
        "get_upload_parts",
        "put_part",
        "complete_upload",
        "get_build",
    ]
    assert [seen.number for seen in journal] == [1, 2, 3, 4, 5]
    assert {seen.build_id for seen in journal} == {ticket["build_id"]}
    assert {(seen.status, seen.outcome) for seen in journal} == {(200, "answered")}


async def test_a_seen_request_tells_what_arrived(lab: Lab) -> None:
    client = await lab()
    await client.initiate(name="x", platform="xbox")
    seen = client.box.journal[0]
    assert (seen.origin, seen.method, seen.target) == ("api", "POST", "/api/v1/builds/upload")
    assert isinstance(seen.body, dict)
    assert seen.body["platform"] == "xbox"
    assert seen.headers["x-API-key"] == client.box.api_key
    assert seen.received == int(seen.headers["content-length"])


async def test_the_journal_numbers_each_part(lab: Lab) -> None:
    client = await lab(part_size=4)
    await client.upload(b"0123456789", multipart=True)
    journal = client.box.journal
    assert [seen.part_number for seen in journal.of("put_part")] == [1, 2, 3]
    assert [seen.received for seen in journal.of("put_part", 3)] == [2]


async def test_a_single_part_put_is_part_1(lab: Lab) -> None:
    client = await lab()
    await client.upload(b"0123456789")
    assert len(client.box.journal.of("put_part", 1)) == 1


async def test_requests_at_once_are_counted(lab: Lab) -> None:
    arrived, resume = 0, asyncio.Event()

    async def together(_: float) -> None:
        nonlocal arrived
        arrived += 1
        if arrived == 4:
            resume.set()
        await resume.wait()

    client = await lab(sleep=together, faults=[Fault(on="get_build", times=None, latency=1.0)])
    await asyncio.gather(*(client.build({"build_id": "x"}) for _ in range(4)))
    await client.build({"build_id": "x"})
    journal = client.box.journal
    assert [seen.in_flight for seen in journal] == [1, 2, 3, 4, 1]
    assert (journal.peak("api"), journal.peak("storage")) == (4, 0)
    assert (journal.connections("api"), journal.connections("storage")) == (4, 0)


async def test_a_kept_connection_is_one_connection(lab: Lab) -> None:
    client = await lab()
    for _ in range(3):
        await client.initiate()
    assert client.box.journal.connections("api") == 1
    assert client.box.journal.connections_open("api") == 1


async def test_a_new_connection_is_counted_apart(lab: Lab) -> None:
    client = await lab()
    for _ in range(3):
        async with aiohttp.ClientSession() as session:
            await Client(client.box, session).initiate()
    assert client.box.journal.connections("api") == 3


async def test_a_peer_that_leaves_is_noticed(lab: Lab) -> None:
    client = await lab()
    host, port = client.box.base_url.split("/")[2].split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /api/v1/builds/upload HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc")
    await until(lambda: len(client.box.journal) == 1)
    writer.transport.abort()
    seen = client.box.journal[0]
    await until(lambda: seen.outcome != "open")
    assert (seen.outcome, seen.received, seen.status) == ("gone", 3, None)
    await client.initiate()
    assert client.box.journal[1].in_flight == 1


async def test_the_api_continues_when_asked_to(lab: Lab) -> None:
    client = await lab()
    body = {"name": "a", "file_name": "b", "file_size": 1, "platform": "linux"}
    answer = await client.api("POST", "/builds/upload", json=body, expect100=True)
    assert answer.status == 200


@pytest.mark.usefixtures("no_task_left")
async def test_closing_amid_a_put_is_prompt_and_clean(lab: Lab, tmp_path: Path) -> None:
    client = await lab(directory=tmp_path)
    size = 1_000_000_000
    url = (await client.ticket(file_size=size))["upload_url"]

    async def body() -> AsyncIterator[bytes]:
        while True:
            yield bytes(1_000_000)

    headers = {"Content-Length": str(size)}
    put = asyncio.create_task(client.send("PUT", url, data=body(), headers=headers))
    await until(lambda: len(client.box.journal) == 2)
    seen = client.box.journal[1]
    await until(lambda: seen.received > 5_000_000)
    await asyncio.wait_for(client.box.close(), 5)
    with pytest.raises(aiohttp.ClientError):
        await put
    assert (seen.outcome, listing(tmp_path)) == ("gone", [])
    await client.session.close()


@pytest.mark.usefixtures("no_task_left")
async def test_closing_does_not_wait_for_an_unread_body(lab: Lab) -> None:
    client = await lab(faults=[Fault(on="put_part", status=403)])
    host, port = client.box.storage_url.split("/")[2].split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"PUT /x HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nabc")
    await reader.readuntil(b"</Error>")
    _, half_a_head = await asyncio.open_connection(host, int(port))
    half_a_head.write(b"PUT /x HT")
    await asyncio.wait_for(client.box.close(), 5)
    writer.close()
    half_a_head.close()


@pytest.mark.usefixtures("no_task_left")
async def test_start_and_close_work_by_hand() -> None:
    box = Sandbox()
    await box.start()
    assert box.base_url
    await box.close()
    await box.close()


async def test_closing_before_the_start_does_nothing() -> None:
    await Sandbox().close()


async def test_a_second_start_is_refused() -> None:
    async with Sandbox() as box:
        with pytest.raises(RuntimeError, match="already started"):
            await box.start()
    with pytest.raises(RuntimeError, match="already started"):
        await box.start()


async def test_there_is_no_url_before_the_start() -> None:
    with pytest.raises(RuntimeError, match="not started"):
        _ = Sandbox().base_url


@pytest.mark.usefixtures("no_task_left")
@pytest.mark.parametrize("which", ["port", "storage_port"])
async def test_a_taken_port_leaves_nothing_behind(which: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings: dict[str, Any] = {which: taken.getsockname()[1]}
        box = Sandbox(directory=tmp_path, **settings)
        with pytest.raises(OSError, match="attempting to bind") as caught:
            await box.start()
        assert caught.value.errno == errno.EADDRINUSE
    assert listing(tmp_path) == []


async def test_given_ports_are_used() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as two,
    ):
        ports = one.getsockname()[1], two.getsockname()[1]
    async with Sandbox(port=ports[0], storage_port=ports[1]) as box:
        assert box.base_url == f"http://127.0.0.1:{ports[0]}/api/v1"
        assert box.storage_url == f"http://127.0.0.1:{ports[1]}"


async def test_objects_outlive_the_sandbox(tmp_path: Path) -> None:
    async with Sandbox(directory=tmp_path) as box, aiohttp.ClientSession() as session:
        ticket = await Client(box, session).upload(b"0123456789")
    assert box.read_object(ticket["build_id"]) == b"0123456789"


@pytest.mark.parametrize(
    "settings",
    [
        {"api_key": ""},
        {"project_id": "a/b"},
        {"project_id": ""},
        {"part_size": 0},
        {"capacity": -1},
        {"url_life": 0},
        {"max_file_size": 0},
    ],
    ids=str,
)
def test_an_impossible_setting_is_refused(settings: dict[str, Any]) -> None:
    (name,) = settings
    with pytest.raises(ValueError, match=name):
        Sandbox(**settings)


def test_the_package_names_its_interface() -> None:
    assert sandbox.__all__ == sorted(sandbox.__all__)
    assert all(hasattr(sandbox, name) for name in sandbox.__all__)


async def test_the_clock_is_the_one_given(lab: Lab, clock: Clock) -> None:
    client = await lab(now=clock.now)
    ticket = await client.ticket()
    assert client.box.uploads[ticket["build_id"]].created == clock.time
