"""What is sent again, how often, and what happens when nothing helps."""

from __future__ import annotations

import asyncio

import pytest
from doubles import ManualClock, answer, body_length, raw_server
from uploads import PART, MakeFile, client, send, start, states

from nunu_async import (
    ApiError,
    DecodeError,
    NunuClient,
    PartDone,
    Retrying,
    RetryPolicy,
    ServerError,
    StorageError,
    Timeouts,
    UploadError,
    UploadEvent,
)
from nunu_async.sandbox import Fault, Sandbox


@pytest.mark.parametrize(
    "fault",
    [
        Fault(on="put_part", part=2, do="cut", after=65536),
        Fault(on="put_part", part=2, do="cut"),
        Fault(on="put_part", part=2, status=503, headers={"Retry-After": "2"}),
        Fault(on="put_part", part=2, status=500),
        Fault(on="put_part", part=2, status=403),
        Fault(on="put_part", part=2, status=200, after=PART),
        Fault(on="put_part", part=2, do="cut", effect=True),
        Fault(
            on="put_part",
            part=2,
            status=400,
            body="<Error><Code>RequestTimeout</Code><Message>m</Message></Error>",
        ),
        Fault(on="get_upload_parts", status=503),
        Fault(on="get_upload_parts", do="cut"),
        Fault(on="get_upload_parts", do="cut", effect=True),
        Fault(on="initiate_upload", status=429),
        Fault(on="complete_upload", status=503),
        Fault(on="complete_upload", status=500),
        Fault(on="complete_upload", status=502),
        Fault(on="complete_upload", do="cut"),
        Fault(on="complete_upload", do="cut", effect=True),
        Fault(on="complete_upload", status=500, effect=True),
        Fault(on="complete_upload", status=200, body="", effect=True),
        Fault(on="complete_upload", status=200, body={"error": "x"}, effect=True),
        Fault(on="*", latency=0.08, times=None),
    ],
    ids=str,
)
async def test_a_single_fault_does_not_end_an_upload(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile, fault: Fault
) -> None:
    box.add_fault(fault)
    path = make_file(5 * PART + 1)
    build_id = (await send(nunu, path)).build_id
    assert box.read_object(build_id) == path.read_bytes()
    assert box.journal.of("cancel_upload") == []
    assert states(box) == ["completed"]


async def test_the_third_put_of_a_part_may_be_the_one_that_works(
    box: Sandbox, nunu: NunuClient, clock: ManualClock, make_file: MakeFile
) -> None:
    box.add_fault(Fault(on="put_part", part=2, do="cut", after=1000, times=2))
    path = make_file(3 * PART)
    events: list[UploadEvent] = []
    build_id = (await send(nunu, path, on_progress=events.append)).build_id
    assert box.read_object(build_id) == path.read_bytes()
    assert len(box.journal.of("put_part", 2)) == 3
    assert [e.attempt for e in events if isinstance(e, Retrying)] == [1, 2]
    assert clock.sleeps == [0.25, 0.5]  # half of 0.5 and of 1.0: chance is 0.5 here


async def test_a_failing_part_is_tried_as_often_as_the_policy_says(
    box: Sandbox, clock: ManualClock, make_file: MakeFile
) -> None:
    box.add_fault(Fault(on="put_part", part=1, status=500, times=None))
    async with client(box, clock, retry=RetryPolicy(part_attempts=3)) as nunu:
        with pytest.raises(UploadError) as caught:
            await send(nunu, make_file(2 * PART))
    assert caught.value.attempts == 3
    assert len(box.journal.of("put_part", 1)) == 3


async def test_a_single_part_waits_a_second_between_attempts(
    box: Sandbox, nunu: NunuClient, clock: ManualClock, make_file: MakeFile
) -> None:
    """Object storage takes one write a second to one key."""
    box.add_fault(Fault(on="put_part", status=503, times=3))
    clock.chance = 0.0
    await nunu.upload_build(make_file(PART), name="n", platform="linux")
    assert clock.sleeps == [1.0, 1.0, 1.0]


async def test_a_part_that_trickles_is_sent_again_on_another_connection(
    box: Sandbox, clock: ManualClock, make_file: MakeFile
) -> None:
    """The first PUT is read by 64 KiB a second at most, and the second at once."""
    size = 16 * 1024 * 1024
    got: list[bytes] = []

    async def store(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        if storage.connections == 1:
            while await reader.read(65536):
                # What the kernel has outlives the connection.
                if not any(isinstance(event, Retrying) for event in events):
                    clock.advance(1)
            return
        got.append(await reader.readexactly(body_length(head)))
        writer.write(answer(headers={"ETag": "x"}))

    path = make_file(size)
    events: list[UploadEvent] = []
    async with raw_server(store) as storage:
        ticket = {
            "upload_type": "single-part",
            "build_id": "b-1",
            "object_key": "k",
            "upload_url": f"{storage.url}/k",
        }
        box.add_fault(Fault(on="initiate_upload", status=200, body=ticket))
        done = {"success": True, "build_id": "b-1"}
        box.add_fault(Fault(on="complete_upload", status=200, body=done))
        limits = Timeouts(trickle_rate=1024 * 1024, trickle_window=60)
        async with client(box, clock, timeout=limits) as nunu:
            build = await nunu.upload_build(
                path, name="n", platform="linux", multipart=False, on_progress=events.append
            )
    assert build.build_id == "b-1"
    assert got == [path.read_bytes()]
    (retry,) = [event for event in events if isinstance(event, Retrying)]
    assert "fewer than 1048576 bytes a second left for 60 seconds" in retry.reason
    assert storage.connections == 2


async def test_a_refused_part_does_not_take_others_down(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    """It was sent and answered whole: its connection is good, and others are about to use it."""
    box.add_fault(Fault(on="put_part", status=503, after=PART, first=1, times=20))
    path = make_file(30 * PART)
    build_id = (await start(nunu, path)).build_id  # type: ignore[attr-defined]
    assert box.read_object(build_id) == path.read_bytes()
    assert len(box.journal.of("put_part")) == 50
    assert box.journal.connections("storage") <= 4


async def test_throttled_storage_gets_fewer_parts_at_once_then_more(
    clock: ManualClock, make_file: MakeFile
) -> None:
    """Two parts that are under way together are refused, which halves the width once."""
    together = asyncio.Barrier(2)
    busy = "<Code>SlowDown</Code>"
    faults = [Fault(on="put_part", part=n, status=503, body=busy, latency=1) for n in (1, 2)]
    widths: list[int] = []
    path = make_file(12 * PART)
    async with (
        Sandbox(part_size=PART, faults=faults, sleep=lambda _: together.wait()) as box,
        client(box, clock) as nunu,
    ):
        limiter = nunu._uploader.context.slots
        build_id = (
            await send(nunu, path, on_progress=lambda _: widths.append(limiter.width))
        ).build_id
        assert box.read_object(build_id) == path.read_bytes()
    assert min(widths) == 8
    assert widths[-1] == 8 + 12 // 4


# --- URLs.


async def test_a_refused_signature_gets_one_fresh_url(
    box: Sandbox, nunu: NunuClient, clock: ManualClock, make_file: MakeFile
) -> None:
    box.add_fault(Fault(on="put_part", part=2, status=403))
    build_id = (await send(nunu, make_file(3 * PART))).build_id
    assert build_id in box.uploads
    first, second = box.journal.of("put_part", 2)
    assert first.target != second.target or len(box.journal.of("get_upload_parts")) == 2
    assert clock.sleeps == []


async def test_a_url_of_another_part_is_not_used(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    """Two numbers changed places: each part would lie where the other belongs."""
    mixed = [{"part_number": n, "url": f"{box.storage_url}/k?partNumber={3 - n}"} for n in (1, 2)]
    box.add_fault(Fault(on="get_upload_parts", status=200, body={"upload_urls": mixed}, times=None))
    with pytest.raises(DecodeError, match="no URL for part 1"):
        await send(nunu, make_file(2 * PART))
    assert box.journal.of("put_part") == []
    assert states(box) == ["cancelled"]


@pytest.mark.parametrize(
    "query", ["?sig=1", "?partNumber=1&partNumber=2", "?partNumber=2&partNumber=1"]
)
async def test_one_url_is_not_used_for_two_parts(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile, query: str
) -> None:
    """The second would overwrite the first."""
    same = [{"part_number": n, "url": f"{box.storage_url}/k{query}"} for n in (1, 2)]
    box.add_fault(Fault(on="get_upload_parts", status=200, body={"upload_urls": same}, times=None))
    with pytest.raises(DecodeError, match="no URL for part"):
        await send(nunu, make_file(2 * PART))
    assert box.journal.of("put_part") == []


async def test_expired_urls_are_replaced(clock: ManualClock, make_file: MakeFile) -> None:
    """The store's own clock jumps past every URL's life after the first part."""
    wall = 1_800_000_000.0
    path = make_file(8 * PART)

    async with Sandbox(part_size=PART, url_life=3600, now=lambda: wall) as box:

        def jump(event: UploadEvent) -> None:
            nonlocal wall
            if isinstance(event, PartDone) and event.done == 1:
                wall += 3601

        async with client(box, clock) as nunu:
            build = await nunu.upload_build(
                path,
                name="n",
                platform="linux",
                multipart=True,
                upload_timeout=1440,
                concurrency=1,
                on_progress=jump,
            )
        assert box.read_object(build.build_id) == path.read_bytes()
        refused = [seen for seen in box.journal.of("put_part") if seen.status == 403]
    assert refused
    assert len({seen.target for seen in refused}) == len(refused), "a refused URL was used again"


async def test_an_old_url_is_replaced_before_it_is_used(
    clock: ManualClock, make_file: MakeFile
) -> None:
    async with Sandbox(part_size=PART) as box:

        def wait_long(event: UploadEvent) -> None:
            if isinstance(event, PartDone) and event.done == 1:
                clock.now += 3000  # without firing limits: only the age of URLs is meant

        async with client(box, clock) as nunu:
            await send(nunu, make_file(3 * PART), concurrency=1, on_progress=wait_long)
        assert len(box.journal.of("get_upload_parts")) > 1
        assert all(seen.status == 200 for seen in box.journal.of("put_part"))


async def test_a_url_that_expires_soon_is_replaced_as_soon(
    clock: ManualClock, make_file: MakeFile
) -> None:
    """It says so itself: of 100 seconds it is used for 80."""
    async with Sandbox(part_size=PART, url_life=100, now=lambda: 1_800_000_000.0) as box:

        def wait(event: UploadEvent) -> None:
            if isinstance(event, PartDone) and event.done == 1:
                clock.now += 81

        async with client(box, clock) as nunu:
            await send(nunu, make_file(3 * PART), concurrency=1, on_progress=wait)
        assert len(box.journal.of("get_upload_parts")) > 1
        assert all(seen.status == 200 for seen in box.journal.of("put_part"))


@pytest.mark.parametrize(("times", "ends"), [(3, "up"), (4, "failed")])
async def test_a_url_that_expired_again_is_replaced_again(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile, times: int, ends: str
) -> None:
    body = "<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
    box.add_fault(Fault(on="put_part", part=2, status=403, body=body, times=times))
    if ends == "up":
        await send(nunu, make_file(3 * PART))
    else:
        with pytest.raises(UploadError, match="Request has expired"):
            await send(nunu, make_file(3 * PART))
    assert len(box.journal.of("put_part", 2)) == 4


# --- In vain.


async def test_a_part_that_fails_for_good_ends_the_upload(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    xml = "<Error><Code>AccessDenied</Code><Message>no entry</Message></Error>"
    box.add_fault(Fault(on="put_part", part=2, status=403, body=xml, times=None))
    with pytest.raises(UploadError) as caught:
        await send(nunu, make_file(5 * PART))
    error = caught.value
    assert (error.part_number, error.status, error.code) == (2, 403, "AccessDenied")
    assert error.message == "no entry"
    assert error.cancelled is True
    assert error.attempts == 2
    assert isinstance(error.__cause__, StorageError)
    for word in ("part 2 of 5", "AccessDenied", "no entry", "cancelled on the server"):
        assert word in str(error)
    assert len(box.journal.of("put_part", 2)) == 2
    assert states(box) == ["cancelled"]
    assert box.journal[-1].operation == "cancel_upload"


async def test_an_upload_that_the_server_dropped_says_after_how_long(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    body = "<Error><Code>NoSuchUpload</Code></Error>"
    box.add_fault(Fault(on="put_part", part=2, status=404, body=body))
    with pytest.raises(UploadError, match=r"let go .* 0 seconds .*upload_timeout: 60 minutes"):
        await send(nunu, make_file(3 * PART), concurrency=1)
    assert len(box.journal.of("put_part")) == 2
    assert len(box.journal.of("cancel_upload")) == 1


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault(on="get_upload_parts", status=400, times=None), ApiError),
        (
            Fault(on="get_upload_parts", status=200, body={"upload_urls": []}, times=None),
            DecodeError,
        ),
        (Fault(on="get_upload_parts", status=200, body={"upload_urls": 7}), DecodeError),
        (Fault(on="complete_upload", status=400, times=None), ApiError),
        (Fault(on="complete_upload", status=500, times=None), ServerError),
    ],
    ids=["no-parts", "no-urls", "odd-urls", "refused-complete", "broken-complete"],
)
async def test_any_failure_cancels_the_upload_and_is_raised(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile, fault: Fault, error: type[Exception]
) -> None:
    box.add_fault(fault)
    with pytest.raises(error) as caught:
        await send(nunu, make_file(3 * PART))
    assert states(box) == ["cancelled"]
    assert any("cancelled on the server" in note for note in caught.value.__notes__)
