"""The pipeline, over real sockets against the sandbox."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
from doubles import Gate, ManualClock, answer, body_length, raw_server, until
from uploads import PART, MakeFile, client, send, states

from nunu_async import (
    ApiError,
    AuthenticationError,
    BuildDetails,
    BytesSent,
    Cancelled,
    CommitDetails,
    Completed,
    Completing,
    DecodeError,
    InitiateUpload,
    InputError,
    NunuClient,
    PartDone,
    PlanMismatch,
    QuotaExceeded,
    Retrying,
    RetryPolicy,
    ServerError,
    SourceChanged,
    SourceError,
    StorageError,
    Timeouts,
    TransportError,
    UploadError,
    UploadEvent,
    UploadOutcomeUnknown,
    UploadStarted,
    VcsDetails,
)
from nunu_async.sandbox import Fault, Sandbox

# --- it arrives


@pytest.mark.parametrize("size", [1, PART - 1, PART, PART + 1, 7 * PART, 7 * PART + 12345])
@pytest.mark.parametrize("multipart", [True, False])
async def test_a_build_arrives_byte_for_byte(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile, size: int, multipart: bool
) -> None:
    path = make_file(size)
    build = await send(nunu, path, multipart=multipart)
    assert box.read_object(build.build_id) == path.read_bytes()
    assert build.size == size
    assert build.upload_type == ("multipart" if multipart else "single-part")
    assert build.parts == (-(-size // PART) if multipart else 1)
    assert build.object_key == box.uploads[build.build_id].object_key


async def test_every_documented_field_is_sent(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    await nunu.upload_build(
        make_file(10, "game.apk"),
        name="Nightly",
        description="a build",
        tags=["rc", "nightly"],
        auto_delete=True,
        deletion_policy="oldest",
        upload_timeout=180,
        details=BuildDetails(vcs=VcsDetails(branch="main", commit=CommitDetails(hash="9fceb02"))),
    )
    (seen,) = box.journal.of("initiate_upload")
    assert seen.body == {
        "project_id": box.project_id,
        "name": "Nightly",
        "file_name": "game.apk",
        "file_size": 10,
        "platform": "android",
        "description": "a build",
        "multipart": False,
        "auto_delete": True,
        "deletion_policy": "oldest",
        "upload_timeout": 180,
        "tags": ["rc", "nightly"],
        "details": {"vcs": {"branch": "main", "commit": {"hash": "9fceb02"}}},
    }


async def test_multipart_is_asked_for_above_128_mib(clock: ManualClock, tmp_path: Path) -> None:
    """The question only: storage is full, so that nothing large is sent."""
    async with Sandbox(capacity=1) as box, client(box, clock) as nunu:
        for size in (128 * 1024 * 1024, 128 * 1024 * 1024 + 1):
            path = tmp_path / f"{size}.exe"
            path.touch()
            os.truncate(path, size)
            with pytest.raises(QuotaExceeded):
                await nunu.upload_build(path, name="n")
    asked = [seen.body["multipart"] for seen in box.journal]  # type: ignore[index]
    assert asked == [False, True]


@pytest.mark.parametrize("wanted", [True, False])
async def test_whatever_the_server_answers_is_obeyed(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile, wanted: bool
) -> None:
    """Asked for one kind of upload, the server hands out the other."""
    path = make_file(3 * PART)
    ticket = await nunu.builds.initiate_upload(
        InitiateUpload(
            name="n",
            file_name=path.name,
            file_size=3 * PART,
            platform="linux",
            multipart=not wanted,
        )
    )
    box.add_fault(Fault(on="initiate_upload", status=200, body=ticket.to_dict()))
    build = await send(nunu, path, multipart=wanted)
    assert build.upload_type == ("single-part" if wanted else "multipart")
    assert box.read_object(build.build_id) == path.read_bytes()


# --- concurrency


async def test_parts_go_up_at_once_but_never_more_than_asked(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    box.add_fault(Fault(on="put_part", latency=0.02, times=None))
    await send(nunu, make_file(16 * PART), concurrency=3)
    assert box.journal.peak("storage") == 3


async def test_ten_files_share_the_limit_of_the_client(
    box: Sandbox, clock: ManualClock, make_file: MakeFile
) -> None:
    box.add_fault(Fault(on="put_part", latency=0.01, times=None))
    paths = [make_file(6 * PART + n, f"{n}.zip") for n in range(10)]
    async with client(box, clock, storage_concurrency=5) as nunu:
        builds = await asyncio.gather(*(send(nunu, path, concurrency=4) for path in paths))
    assert box.journal.peak("storage") == 5
    assert box.journal.connections("storage") <= 5
    for path, build in zip(paths, builds, strict=True):
        assert box.read_object(build.build_id) == path.read_bytes()


async def test_a_slow_part_delays_only_itself(
    make_file: MakeFile,
) -> None:
    """While part 1 hangs at the storage, every other part is sent: there is no barrier."""
    gate = Gate()
    async with (
        Sandbox(
            part_size=PART, faults=[Fault(on="put_part", part=1, latency=1)], sleep=gate.sleep
        ) as slow,
        client(slow, ManualClock()) as other,
    ):
        task = asyncio.ensure_future(send(other, make_file(24 * PART), concurrency=4))
        await until(lambda: sum(s.status == 200 for s in slow.journal.of("put_part")) == 23)
        gate.open()
        await task


async def test_urls_are_signed_just_ahead_of_need(
    make_file: MakeFile,
) -> None:
    """With every sender busy, two batches wait beyond what is being sent, and none is asked for."""
    gate = Gate()
    async with (
        Sandbox(
            part_size=PART, faults=[Fault(on="put_part", latency=1, times=None)], sleep=gate.sleep
        ) as slow,
        client(slow, ManualClock()) as other,
    ):
        task = asyncio.ensure_future(send(other, make_file(60 * PART), concurrency=4))
        await until(lambda: len(slow.journal.of("put_part")) == 4)
        await until(lambda: len(slow.journal.of("get_upload_parts")) == 3)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(slow.journal.of("get_upload_parts")) == 3
        gate.open()
        await task
    for seen in slow.journal.of("get_upload_parts"):
        numbers = seen.target.partition("part_numbers=")[2].replace("%2C", ",").split(",")
        assert 1 <= len(numbers) <= 10


async def test_a_slow_api_does_not_keep_senders_waiting_once_for_each_batch(
    make_file: MakeFile,
) -> None:
    gate = Gate()
    fault = Fault(on="get_upload_parts", latency=1, times=None)
    async with (
        Sandbox(part_size=PART, faults=[fault], sleep=gate.sleep) as slow,
        client(slow, ManualClock()) as other,
    ):
        task = asyncio.ensure_future(send(other, make_file(12 * PART), concurrency=4))
        await until(lambda: slow.journal.peak("api") == 3)
        assert slow.journal.of("put_part") == []
        gate.open()
        await task
        assert len(slow.journal.of("get_upload_parts")) == 3


# --- it survives


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
async def test_one_accident_does_not_end_an_upload(
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


async def test_a_refused_signature_gets_one_fresh_url(
    box: Sandbox, nunu: NunuClient, clock: ManualClock, make_file: MakeFile
) -> None:
    box.add_fault(Fault(on="put_part", part=2, status=403))
    build_id = (await send(nunu, make_file(3 * PART))).build_id
    assert build_id in box.uploads
    first, second = box.journal.of("put_part", 2)
    assert first.target != second.target or len(box.journal.of("get_upload_parts")) == 2
    assert clock.sleeps == []


async def test_an_address_of_another_part_is_not_sent_to(
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
async def test_one_address_is_not_used_for_two_parts(
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


async def test_storage_that_is_throttled_gets_fewer_parts_at_once_and_then_more(
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
        slots = nunu._uploader.context.slots
        build_id = (
            await send(nunu, path, on_progress=lambda _: widths.append(slots.width))
        ).build_id
        assert box.read_object(build_id) == path.read_bytes()
    assert min(widths) == 8
    assert widths[-1] == 8 + 12 // 4


# --- it verifies, where asked


@pytest.mark.parametrize("multipart", [True, False])
async def test_a_part_that_arrived_otherwise_is_sent_again(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile, multipart: bool
) -> None:
    path = make_file(3 * PART)
    number = 2 if multipart else 1
    box.add_fault(Fault(on="put_part", part=number, do="corrupt", times=2))
    events: list[UploadEvent] = []
    build = await nunu.upload_build(
        path,
        name="n",
        platform="linux",
        multipart=multipart,
        verify=True,
        on_progress=events.append,
    )
    assert box.read_object(build.build_id) == path.read_bytes()
    assert build.verified == build.parts
    retries = [event for event in events if isinstance(event, Retrying)]
    assert [(e.part_number, e.attempt) for e in retries] == [(number, 1), (number, 2)]
    assert all("stored other bytes than were sent" in event.reason for event in retries)
    assert len(box.journal.of("put_part", number)) == 3


async def test_unasked_nothing_is_verified(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    path = make_file(3 * PART)
    box.add_fault(Fault(on="put_part", part=2, do="corrupt"))
    build = await send(nunu, path)
    assert build.verified is None
    assert box.read_object(build.build_id) != path.read_bytes()


async def test_a_part_that_always_arrives_otherwise_ends_the_upload(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    box.add_fault(Fault(on="put_part", part=2, do="corrupt", times=None))
    with pytest.raises(UploadError, match=r"part 2 of 3 .* stored other bytes") as caught:
        await send(nunu, make_file(3 * PART), verify=True)
    assert (caught.value.part_number, caught.value.attempts) == (2, 8)
    assert caught.value.cancelled is True
    assert len(box.journal.of("put_part", 2)) == 8
    assert box.journal.of("complete_upload") == []


async def test_the_md5_of_a_part_begins_anew_with_each_attempt(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    for part, after in ((1, 1), (2, 1000), (3, PART - 1)):
        box.add_fault(Fault(on="put_part", part=part, do="cut", after=after))
    box.add_fault(Fault(on="put_part", part=4, status=500, after=PART))
    path = make_file(5 * PART)
    build = await send(nunu, path, verify=True, concurrency=2)
    assert (build.parts, build.verified) == (5, 5)
    assert box.read_object(build.build_id) == path.read_bytes()


async def test_an_etag_that_is_no_md5_verifies_nothing_and_fails_nothing(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    etag = {"ETag": '"d41d8cd98f00b204e9800998ecf8427e-1"'}
    box.add_fault(Fault(on="put_part", status=200, headers=etag, body="", effect=True))
    path = make_file(PART)
    build = await nunu.upload_build(path, name="n", platform="linux", verify=True)
    assert (build.parts, build.verified) == (1, 0)
    assert box.read_object(build.build_id) == path.read_bytes()


# --- a peer that trickles


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


# --- it gives up, and tidies up


async def test_a_hopeless_part_ends_the_upload_and_says_why(
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


async def test_an_upload_that_the_server_has_let_go_of_says_after_how_long(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    body = "<Error><Code>NoSuchUpload</Code></Error>"
    box.add_fault(Fault(on="put_part", part=2, status=404, body=body))
    with pytest.raises(UploadError, match=r"let go .* 0 seconds .*upload_timeout: 60 minutes"):
        await send(nunu, make_file(3 * PART), concurrency=1)
    assert len(box.journal.of("put_part")) == 2
    assert len(box.journal.of("cancel_upload")) == 1


async def test_a_part_that_never_works_is_tried_as_often_as_the_policy_says(
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


async def test_a_single_part_whose_url_is_refused_is_reserved_once_more(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    box.add_fault(Fault(on="put_part", status=403))
    told: list[UploadEvent] = []
    path = make_file(PART)
    build = await nunu.upload_build(path, name="n", platform="linux", on_progress=told.append)
    assert sorted(states(box)) == ["cancelled", "completed"]
    assert box.object_sha256(build.build_id) == hashlib.sha256(path.read_bytes()).hexdigest()
    started = [event.build_id for event in told if isinstance(event, UploadStarted)]
    assert len(set(started)) == 2
    assert started[-1] == build.build_id
    assert not any(isinstance(event, Cancelled) for event in told)
    sent = [event.sent for event in told if isinstance(event, BytesSent)]
    assert (sent[-1], max(sent)) == (PART, PART)


async def test_a_single_part_is_reserved_no_third_time(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    box.add_fault(Fault(on="put_part", status=403, times=None))
    with pytest.raises(UploadError, match="a fresh URL was refused too") as caught:
        await nunu.upload_build(make_file(PART), name="n", platform="linux")
    assert caught.value.attempts == 1
    assert box.journal.of("get_upload_parts") == []
    assert states(box) == ["cancelled", "cancelled"]


async def test_a_single_part_that_is_refused_otherwise_is_not_reserved_again(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    box.add_fault(Fault(on="put_part", status=400, times=None))
    with pytest.raises(UploadError):
        await nunu.upload_build(make_file(PART), name="n", platform="linux")
    assert states(box) == ["cancelled"]


async def test_a_failed_cancellation_is_told_and_never_in_place_of_the_cause(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    box.add_fault(Fault(on="put_part", status=403, times=None))
    box.add_fault(Fault(on="cancel_upload", status=400, times=None))
    with pytest.raises(UploadError) as caught:
        await send(nunu, make_file(PART))
    assert caught.value.cancelled is False
    assert "failed too" in str(caught.value)


async def test_cancelling_on_the_server_is_tried_again(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    box.add_fault(Fault(on="put_part", status=403, times=None))
    box.add_fault(Fault(on="cancel_upload", status=503, times=3))
    with pytest.raises(UploadError) as caught:
        await send(nunu, make_file(PART))
    assert caught.value.cancelled is True
    assert states(box) == ["cancelled"]


async def test_the_page_of_an_edge_is_no_word_that_an_upload_is_gone(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    box.add_fault(Fault(on="put_part", status=403, times=None))
    page = "<html>no such page</html>"
    box.add_fault(Fault(on="cancel_upload", status=404, body=page, times=None))
    with pytest.raises(UploadError) as caught:
        await send(nunu, make_file(PART))
    assert caught.value.cancelled is False
    assert states(box) == ["uploading"]


async def test_an_upload_that_is_gone_already_counts_as_cancelled(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    box.add_fault(Fault(on="put_part", status=403, times=None))
    box.add_fault(Fault(on="cancel_upload", status=404, effect=True))
    with pytest.raises(UploadError) as caught:
        await send(nunu, make_file(PART))
    assert caught.value.cancelled is True


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
async def test_after_any_failure_the_upload_is_cancelled_and_the_cause_raised(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile, fault: Fault, error: type[Exception]
) -> None:
    box.add_fault(fault)
    with pytest.raises(error) as caught:
        await send(nunu, make_file(3 * PART))
    assert states(box) == ["cancelled"]
    assert any("cancelled on the server" in note for note in caught.value.__notes__)


async def test_a_failed_initiate_deletes_nothing(clock: ManualClock, make_file: MakeFile) -> None:
    async with Sandbox(capacity=100) as box, client(box, clock) as nunu:
        with pytest.raises(QuotaExceeded) as caught:
            await send(nunu, make_file(PART))
        assert caught.value.needed == PART
        assert caught.value.capacity == 100
        assert box.journal.operations() == ["initiate_upload"]


async def test_a_wrong_key_is_an_authentication_error(
    box: Sandbox, clock: ManualClock, make_file: MakeFile
) -> None:
    async with NunuClient("nunu_wrong_key", base_url=box.base_url, clock=clock) as nunu:
        with pytest.raises(AuthenticationError, match="Invalid API key"):
            await send(nunu, make_file(PART))
    assert box.journal.operations() == ["initiate_upload"]


async def test_an_unsettled_complete_deletes_nothing(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    """Every answer is lost and the build cannot be asked for: it may exist, so it is let be."""
    box.add_fault(Fault(on="complete_upload", do="cut", times=None))
    box.add_fault(Fault(on="get_build", status=500, times=None))
    with pytest.raises(UploadOutcomeUnknown) as caught:
        await send(nunu, make_file(2 * PART))
    assert caught.value.cancelled is None
    assert box.journal.of("cancel_upload") == []


async def test_a_complete_that_worked_unheard_is_found_by_asking_for_the_build(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    box.add_fault(Fault(on="complete_upload", do="cut", effect=True))
    path = make_file(2 * PART)
    build_id = (await send(nunu, path)).build_id
    assert len(box.journal.of("complete_upload")) == 1
    assert len(box.journal.of("get_build")) == 1
    assert box.read_object(build_id) == path.read_bytes()


@pytest.mark.parametrize(("status", "requests"), [(503, 5), (429, 5), (500, 5), (400, 1)])
async def test_a_complete_that_fails_for_good_is_tried_as_often_as_the_policy_says(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile, status: int, requests: int
) -> None:
    """One count, and not one for each layer; then the upload is cancelled: nothing was built."""
    box.add_fault(Fault(on="complete_upload", status=status, times=None))
    with pytest.raises(ApiError):
        await send(nunu, make_file(PART))
    assert len(box.journal.of("complete_upload")) == requests
    assert states(box) == ["cancelled"]


async def test_a_second_complete_that_is_unknown_deletes_nothing(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    """The first worked unheard, and the service will not show the build: 404 proves nothing."""
    box.add_fault(Fault(on="complete_upload", do="cut", effect=True))
    box.add_fault(Fault(on="get_build", status=404, times=None))
    with pytest.raises(UploadOutcomeUnknown):
        await send(nunu, make_file(2 * PART))
    assert box.journal.of("cancel_upload") == []
    assert states(box) == ["completed"]


# --- the file


async def test_a_file_that_grows_meanwhile_is_not_completed(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    path = make_file(3 * PART)

    def grow(event: UploadEvent) -> None:
        if isinstance(event, PartDone) and event.done == 1:
            with path.open("ab") as file:
                file.write(b"more")

    with pytest.raises(SourceChanged):
        await send(nunu, path, on_progress=grow)
    assert box.journal.of("complete_upload") == []
    assert states(box) == ["cancelled"]


async def test_a_file_that_shrinks_meanwhile_is_not_completed(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    path = make_file(8 * PART)

    def shrink(event: UploadEvent) -> None:
        if isinstance(event, PartDone) and event.done == 1:
            os.truncate(path, PART)

    with pytest.raises(SourceChanged):
        await send(nunu, path, on_progress=shrink, concurrency=1)
    assert states(box) == ["cancelled"]


async def test_a_file_rewritten_in_place_is_not_completed(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    path = make_file(3 * PART)

    def touch(event: UploadEvent) -> None:
        if isinstance(event, Completing):
            return
        if isinstance(event, PartDone) and event.done == 1:
            os.utime(path, ns=(1, 1))

    with pytest.raises(SourceChanged):
        await send(nunu, path, on_progress=touch)
    assert states(box) == ["cancelled"]


async def test_a_file_that_changes_is_noticed_at_the_next_part(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    """Not at the end: the rest may be hours of sending."""
    path = make_file(12 * PART)

    def rewrite(event: UploadEvent) -> None:
        if isinstance(event, PartDone) and event.done == 1:
            os.utime(path, ns=(1, 1))

    with pytest.raises(SourceChanged):
        await send(nunu, path, concurrency=1, on_progress=rewrite)
    assert len(box.journal.of("put_part")) <= 3
    assert states(box) == ["cancelled"]


async def test_a_file_deleted_meanwhile_still_arrives(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    """One descriptor is opened before anything is sent, and used to the end."""
    path = make_file(4 * PART)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    # Windows deletes no file that is open.
    outcome = pytest.raises(PermissionError) if os.name == "nt" else nullcontext()

    def unlink(event: UploadEvent) -> None:
        if isinstance(event, UploadStarted):
            with outcome:
                path.unlink()

    build_id = (await send(nunu, path, on_progress=unlink)).build_id
    assert box.object_sha256(build_id) == digest


@pytest.mark.parametrize(
    "kind",
    [
        *("missing", "empty", "directory"),
        pytest.param(
            "fifo",
            marks=pytest.mark.skipif(os.name == "nt", reason="Windows has no pipes among files"),
        ),
    ],
)
async def test_a_file_that_cannot_be_uploaded_is_refused_before_anything_is_sent(
    box: Sandbox, nunu: NunuClient, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "build.exe"
    if kind == "empty":
        path.touch()
    elif kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    with pytest.raises(SourceError, match=re.escape(str(path))):
        await nunu.upload_build(path, name="n")
    assert len(box.journal) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "x" * 256},
        {"name": "a\nb"},
        {"description": "x" * 1001},
        {"tags": ["ok", ""]},
        {"tags": ["x" * 51]},
        {"tags": "bare"},
        {"upload_timeout": 0},
        {"upload_timeout": 1441},
        {"platform": "web"},
        {"deletion_policy": "newest"},
        {"concurrency": 0},
        {"multipart": "yes"},
    ],
    ids=str,
)
async def test_an_argument_outside_the_documented_limits_is_refused_before_anything_is_sent(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile, wrong: dict[str, object]
) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        await send(nunu, make_file(10), **wrong)
    assert len(box.journal) == 0


async def test_an_extension_that_decides_nothing_is_refused_with_the_choices(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    with pytest.raises(InputError, match=r"windows, macos, linux"):
        await nunu.upload_build(make_file(10, "game.zip"), name="n")
    assert len(box.journal) == 0


async def test_a_part_plan_that_does_not_fit_the_file_ends_before_the_first_byte(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    ticket = {
        "upload_type": "multipart",
        "build_id": "b-1",
        "object_key": "k",
        "upload_id": "mpu-000001",
        "total_parts": 1_000_000_000,
        "part_size": PART,
    }
    box.add_fault(Fault(on="initiate_upload", status=200, body=ticket))
    with pytest.raises(PlanMismatch):
        await send(nunu, make_file(3 * PART))
    assert box.journal.operations() == ["initiate_upload", "cancel_upload"]


# --- what it tells


async def test_events_come_in_order_and_end_with_the_build(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    events: list[UploadEvent] = []
    path = make_file(5 * PART + 3)
    build = await send(nunu, path, on_progress=events.append)
    assert events[0] == UploadStarted(
        build_id=build.build_id, upload_type="multipart", size=path.stat().st_size, parts=6
    )
    assert isinstance(events[-1], Completed)
    assert isinstance(events[-2], Completing)
    assert sorted(e.part_number for e in events if isinstance(e, PartDone)) == [1, 2, 3, 4, 5, 6]
    assert [e.done for e in events if isinstance(e, PartDone)] == [1, 2, 3, 4, 5, 6]
    counts = [e.sent for e in events if isinstance(e, BytesSent)]
    assert counts == sorted(counts)
    assert counts[-1] == path.stat().st_size


async def test_the_byte_count_falls_back_when_a_part_is_sent_again(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    events: list[UploadEvent] = []
    box.add_fault(Fault(on="put_part", part=2, status=500, after=PART))
    size = 3 * PART
    await send(nunu, make_file(size), concurrency=1, on_progress=events.append)
    counts = [e.sent for e in events if isinstance(e, BytesSent)]
    assert counts != sorted(counts)
    assert max(counts) <= size
    assert counts[-1] == size


async def test_a_coroutine_function_may_listen(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    events: list[UploadEvent] = []

    async def listen(event: UploadEvent) -> None:
        await asyncio.sleep(0)
        events.append(event)

    await send(nunu, make_file(3 * PART), on_progress=listen)
    assert isinstance(events[0], UploadStarted)
    assert isinstance(events[-1], Completed)


async def test_a_listener_that_raises_ends_the_upload_cleanly(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    def explode(event: UploadEvent) -> None:
        if isinstance(event, PartDone):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await send(nunu, make_file(5 * PART), on_progress=explode)
    assert states(box) == ["cancelled"]


async def test_a_failed_upload_ends_with_a_cancelled_event(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    events: list[UploadEvent] = []
    box.add_fault(Fault(on="put_part", status=403, times=None))
    with pytest.raises(UploadError):
        await send(nunu, make_file(PART), on_progress=events.append)
    assert isinstance(events[-1], Cancelled)
    assert events[-1].on_server


# --- one failure, many files


async def test_one_failed_upload_leaves_its_siblings_alone(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    box.add_fault(Fault(on="initiate_upload", status=400, first=2))
    paths = [make_file(3 * PART + n, f"{n}.zip") for n in range(4)]
    results = await asyncio.gather(*(send(nunu, p) for p in paths), return_exceptions=True)
    assert sum(isinstance(result, ApiError) for result in results) == 1
    assert states(box) == ["completed"] * 3


async def test_the_client_can_be_closed_while_nothing_runs_and_no_descriptor_is_left(
    make_file: MakeFile, open_descriptors: Callable[[], int]
) -> None:
    before = open_descriptors()
    async with Sandbox(part_size=PART) as box, client(box, ManualClock()) as nunu:
        await asyncio.gather(*(send(nunu, make_file(3 * PART, f"{n}.zip")) for n in range(8)))
    await asyncio.sleep(0)
    assert open_descriptors() <= before


@pytest.fixture
async def lost_server() -> str:
    """An address where nobody listens."""
    async with Sandbox() as box:
        return box.base_url


async def test_an_unreachable_server_is_a_transport_error(
    lost_server: str, clock: ManualClock, make_file: MakeFile
) -> None:
    async with NunuClient("nunu_some_key", base_url=lost_server, clock=clock) as nunu:
        with pytest.raises(TransportError):
            await send(nunu, make_file(10))


@pytest.mark.parametrize("odd", ["x\r\nWARNING forged", "x\x1b[2J", "x\u202ey", 1000 * "x"])
async def test_a_build_id_that_no_message_could_show_is_refused_and_freed(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile, caplog: pytest.LogCaptureFixture, odd: str
) -> None:
    """It would stand in notes, messages and logs, as the server wrote it."""
    ticket = {"build_id": odd, "object_key": "k", "upload_type": "single-part", "upload_url": "u"}
    box.add_fault(Fault(on="initiate_upload", status=200, body=ticket))
    box.add_fault(Fault(on="cancel_upload", status=400))
    with pytest.raises(DecodeError, match=r"\$\.build_id") as caught:
        await send(nunu, make_file(PART))
    texts = [str(caught.value), *caught.value.__notes__, *(r.getMessage() for r in caplog.records)]
    assert any("could not be cancelled" in text for text in texts)
    for text in texts:
        assert text.isprintable()
        assert len(text) < 1000
    assert box.journal.operations() == ["initiate_upload", "cancel_upload"]


async def test_retries_of_a_complete_are_told_while_they_happen(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    """The server may assemble a build for minutes, and who waits for it wants to know."""
    box.add_fault(Fault(on="complete_upload", status=409, times=3))
    sent: list[tuple[str, int]] = []

    def listen(event: UploadEvent) -> None:
        if isinstance(event, Retrying | Completed):
            sent.append((type(event).__name__, len(box.journal.of("complete_upload"))))

    await send(nunu, make_file(3 * PART), on_progress=listen)
    assert sent == [("Retrying", 1), ("Retrying", 2), ("Retrying", 3), ("Completed", 4)]


async def test_a_listener_that_fails_at_a_retry_of_a_complete_deletes_nothing(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    box.add_fault(Fault(on="complete_upload", status=409, effect=True))
    box.add_fault(Fault(on="get_build", status=503))

    def listen(event: UploadEvent) -> None:
        assert not isinstance(event, Retrying), "as a listener may fail"

    with pytest.raises(AssertionError, match="as a listener may fail") as caught:
        await send(nunu, make_file(3 * PART), on_progress=listen)
    assert "may be complete, and was let be" in "".join(caught.value.__notes__)
    assert states(box) == ["completed"]
