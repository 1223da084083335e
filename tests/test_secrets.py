"""Neither key, signature nor upload id is ever shown, whatever goes wrong."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from disclosed import MARKED_KEY as KEY
from disclosed import disclosed
from doubles import ManualClock, answer, body_length, raw_server, until
from yarl import URL

from nunu_async import (
    ConfigError,
    MultipartTicket,
    NunuClient,
    NunuError,
    RetryPolicy,
    Timeouts,
    TransportError,
    UploadError,
    UploadEvent,
)
from nunu_async.core.wire import Response
from nunu_async.sandbox import Fault, Sandbox

PART = 64 * 1024


@pytest.fixture
def everything_logged() -> Iterator[io.StringIO]:
    """Every logger's records at DEBUG, as text."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(name)s %(message)s %(args)s"))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield stream
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def test_what_the_library_holds_is_disclosed_and_what_a_test_holds_is_not() -> None:
    """Wherever either lies; else no test here would find a key."""
    mine = "MARKED-MINE"
    with pytest.raises(ConfigError) as caught:
        RetryPolicy(attempts=-707)
    text = disclosed(caught.value)
    assert mine not in text
    assert re.search("^_at_least_one .*'value': -707", text, re.MULTILINE)


FAULTS = [
    [],
    [Fault(on="initiate_upload", status=500, body={"error": f"key {KEY}"}, times=None)],
    [Fault(on="initiate_upload", do="cut", times=None)],
    [Fault(on="initiate_upload", status=302, headers={"Location": f"https://x/?k={KEY}"})],
    [Fault(on="initiate_upload", status=200, body={"upload_type": KEY})],
    [Fault(on="get_upload_parts", status=400, body={"error": "x"}, times=None)],
    [Fault(on="get_upload_parts", do="cut", times=None)],
    [Fault(on="get_upload_parts", status=200, body={"upload_urls": [7]}, times=None)],
    [Fault(on="put_part", status=403, times=None)],
    [Fault(on="put_part", status=500, times=None)],
    [Fault(on="put_part", do="cut", times=None)],
    [Fault(on="put_part", status=307, headers={"Location": "https://x/y"}, times=None)],
    [Fault(on="complete_upload", status=400, times=None)],
    [Fault(on="complete_upload", do="cut", times=None), Fault(on="get_build", status=500)],
    [Fault(on="put_part", status=403, times=None), Fault(on="cancel_upload", status=400)],
]


@pytest.mark.parametrize("faults", FAULTS, ids=range(len(FAULTS)))
@pytest.mark.parametrize(("multipart", "resume"), [(True, False), (True, True), (False, False)])
async def test_nothing_secret_is_shown_whatever_fails(
    clock: ManualClock,
    make_file: Callable[..., Path],
    everything_logged: io.StringIO,
    capfd: pytest.CaptureFixture[str],
    faults: list[Fault],
    multipart: bool,
    resume: bool,
) -> None:
    """The whole way of an upload, with every logger at DEBUG and asyncio's own debug mode on.

    One that is to be resumed goes it twice.
    """
    path = make_file(3 * PART)
    asyncio.get_running_loop().set_debug(True)
    events: list[UploadEvent] = []
    text: list[str] = []
    async with Sandbox(api_key=KEY, part_size=PART, faults=faults) as box:
        async with NunuClient(
            KEY, base_url=box.base_url, clock=clock, retry=RetryPolicy(attempts=2, part_attempts=2)
        ) as nunu:
            for _ in range(1 + resume):
                try:
                    await nunu.upload_build(
                        path,
                        name="n",
                        platform="linux",
                        multipart=multipart,
                        resume=resume,
                        on_progress=events.append,
                    )
                except NunuError as error:
                    text.append(disclosed(error))
            text += [repr(nunu), repr(vars(nunu)), repr(events)]
        secrets = [KEY, "X-Amz-Signature=", *(u.upload_id for u in box.uploads.values())]
        for seen in box.journal:
            if seen.origin == "storage":
                assert "x-api-key" not in seen.headers
                assert KEY not in f"{seen.target} {dict(seen.headers)}"
    gc.collect()
    out, err = capfd.readouterr()
    text += [everything_logged.getvalue(), out, err]
    for secret in filter(None, secrets):
        for piece in text:
            at = piece.find(secret)
            assert at < 0, f"shown: ...{piece[max(0, at - 200) : at + 60]}..."


@pytest.mark.parametrize("timeouts", [Timeouts(attempt=1), Timeouts(call=1)])
async def test_a_call_that_runs_out_of_time_shows_nothing(
    clock: ManualClock, timeouts: Timeouts
) -> None:
    async def silent(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        await reader.read()

    async with (
        raw_server(silent) as server,
        NunuClient(
            KEY,
            base_url=server.url,
            clock=clock,
            timeout=timeouts,
            retry=RetryPolicy(attempts=1),
        ) as nunu,
    ):
        call = asyncio.ensure_future(nunu.builds.get("b"))
        await until(lambda: server.heads)
        clock.advance(1)
        with pytest.raises(NunuError) as caught:
            await call
    assert KEY not in disclosed(caught.value)


async def test_a_stalled_part_shows_nothing(
    clock: ManualClock, make_file: Callable[..., Path]
) -> None:
    fault = Fault(on="put_part", do="stall", times=None)
    async with (
        Sandbox(api_key=KEY, part_size=64 * 1024 * 1024, faults=[fault]) as box,
        NunuClient(
            KEY, base_url=box.base_url, clock=clock, retry=RetryPolicy(part_attempts=1)
        ) as nunu,
    ):
        path = make_file(1)
        with path.open("r+b") as file:
            file.truncate(40 * 1024 * 1024)
        put = asyncio.ensure_future(
            nunu.upload_build(path, name="n", platform="linux", multipart=True)
        )
        await until(lambda: any(seen.outcome == "stalled" for seen in box.journal))
        while not put.done():
            clock.advance(20)
            await asyncio.sleep(0.001)
        with pytest.raises(NunuError) as caught:
            await put
        text = disclosed(caught.value)
        for secret in (KEY, "X-Amz-Signature=", *(u.upload_id for u in box.uploads.values())):
            assert secret is None or secret not in text


@pytest.mark.parametrize(
    ("settings", "environ"),
    [
        ({"api_key": KEY, "project_id": "no such"}, {}),
        ({"project_id": "no such"}, {"NUNU_API_KEY": KEY}),
        ({"api_key": KEY, "base_url": f"https://user:{KEY}@nunu.test"}, {}),
        ({"base_url": KEY}, {"NUNU_API_TOKEN": KEY}),
        ({"api_key": f"{KEY} {KEY}"}, {}),
        ({"api_key": KEY, "storage_concurrency": 0}, {}),
        ({"api_key": KEY, "timeout": -1}, {}),
        ({"api_key": KEY}, {"SSL_CERT_FILE": "/nowhere"}),
        ({}, {"NUNU_API_KEY": KEY, "SSL_CERT_DIR": "/nowhere"}),
        ({"api_key": KEY}, {"HTTPS_PROXY": f"socks5://user:{KEY}@127.0.0.1"}),
    ],
)
def test_settings_that_cannot_work_show_nothing(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], environ: dict[str, str]
) -> None:
    """Nor does the client that was not made, which is a local of the frame as well."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        NunuClient(**settings)
    text = disclosed(caught.value)
    assert KEY not in text
    assert "NunuClient" in text


async def test_an_answer_that_cannot_be_read_shows_nothing(clock: ManualClock) -> None:
    async def odd(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        writer.write(answer(body=f'{{"build_id": 7, "{KEY}": 1}}'.encode(), headers={"X": KEY}))

    async with (
        raw_server(odd) as server,
        NunuClient(KEY, base_url=server.url, clock=clock) as nunu,
    ):
        with pytest.raises(NunuError) as caught:
            await nunu.builds.get("b")
    assert KEY not in disclosed(caught.value)


CUT = b'HTTP/1.1 200 OK\r\nETag: "e"\r\nContent-Length: 100\r\n\r\n{"upload_urls"'
ENDLESS = b"HTTP/1.1 200 OK\r\nContent-Length: 40000000\r\n\r\n" + bytes(34 * 1024 * 1024)


@pytest.mark.parametrize("response", [CUT, ENDLESS], ids=["cut", "too long"])
async def test_an_answer_that_breaks_off_does_not_show_what_was_asked(
    clock: ManualClock, response: bytes
) -> None:
    """An upload id in the query: aiohttp's own response would show it, as a local of a frame."""

    async def odd(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        writer.write(response)
        await writer.drain()
        writer.close()

    ticket = MultipartTicket(
        build_id="b", object_key="k", total_parts=1, part_size=1, upload_id="MARKED_UPLOAD_ID"
    )
    once = RetryPolicy(attempts=1)
    async with (
        raw_server(odd) as server,
        NunuClient(KEY, base_url=server.url, clock=clock, retry=once) as nunu,
    ):
        with pytest.raises(TransportError) as caught:
            await nunu.builds.get_upload_parts(ticket, [1])
    text = disclosed(caught.value)
    assert "_exchange" in text
    assert ticket.upload_id not in text
    assert KEY not in text


async def test_storage_that_breaks_off_does_not_show_the_address(
    clock: ManualClock, make_file: Callable[..., Path]
) -> None:
    async def odd(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        await reader.readexactly(body_length(head))
        if head.startswith(b"PUT"):
            writer.write(CUT)
            writer.close()
        elif head.startswith(b"POST /api/v1/builds/upload "):
            url = f"http://127.0.0.1:{server.port}/key?X-Amz-Signature=MARKED_SIGNATURE"
            ticket = {"build_id": "b", "object_key": "k", "upload_url": url}
            writer.write(answer(body=json.dumps(ticket | {"upload_type": "single-part"}).encode()))
        else:
            writer.write(answer())

    async with (
        raw_server(odd) as server,
        NunuClient(KEY, base_url=server.url, clock=clock) as nunu,
    ):
        with pytest.raises(UploadError) as caught:
            await nunu.upload_build(make_file(1000), name="n", platform="linux")
    text = disclosed(caught.value)
    assert "_exchange" in text
    assert "MARKED_SIGNATURE" not in text


@pytest.mark.parametrize("ends", ["cancelled", "timed out"])
async def test_a_call_that_the_caller_ends_shows_nothing(clock: ManualClock, ends: str) -> None:
    """The error of `asyncio.timeout` has the cancellation as its cause, with all of its frames."""
    asked = asyncio.Event()

    async def exchange(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        asked.set()
        await asyncio.Event().wait()

    async with (
        raw_server(exchange) as server,
        NunuClient(KEY, base_url=server.url, clock=clock) as nunu,
    ):

        async def call() -> None:
            async with asyncio.timeout(None) as limit:
                limits.append(limit)
                await nunu.runs.list_page()

        limits: list[asyncio.Timeout] = []
        task = asyncio.ensure_future(call())
        await asked.wait()
        if ends == "cancelled":
            task.cancel()
        else:
            limits[0].reschedule(0.0)
        with pytest.raises((asyncio.CancelledError, TimeoutError)) as caught:
            await task
    assert KEY not in disclosed(caught.value)


def test_a_response_shows_no_query() -> None:
    """aiohttp shows one by itself when a loop ends with a request under way."""
    url = URL("https://u:p@storage.example/b/k?X-Amz-Signature=MARKED", encoded=True)
    response = Response.__new__(Response)
    response.method, response._url, response.status = "PUT", url, None  # type: ignore[assignment, misc] - as before an answer
    response._connection, response._cache = None, {}
    response._closed = True
    assert repr(response) == "<Response PUT storage.example [None]>"
