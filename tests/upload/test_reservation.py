"""Requests that reserve a build: when they go out, and when what they reserved is freed."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from doubles import Gate, HeldClock, ManualClock, answer, until
from scripted import LOST_ANSWERS, answered
from uploads import PART, MakeFile, check_nothing_is_left, client, send, start, states

from nunu_async import (
    ApiError,
    BytesSent,
    Cancelled,
    ConnectError,
    DecodeError,
    InitiateUpload,
    NunuClient,
    PlanMismatch,
    QuotaExceeded,
    TransportError,
    UploadError,
    UploadEvent,
    UploadOutcomeUnknown,
    UploadStarted,
)
from nunu_async.sandbox import Fault, Sandbox

PLAIN = InitiateUpload(name="n", file_name="f.zip", file_size=5, platform="linux")


DELETING = InitiateUpload(
    name="n", file_name="f.zip", file_size=5, platform="linux", auto_delete=True
)


# --- When.


async def test_uploads_that_cannot_send_yet_reserve_nothing(
    clock: ManualClock, make_file: MakeFile
) -> None:
    gate = Gate()
    fault = Fault(on="put_part", latency=1, times=None)
    async with (
        Sandbox(part_size=PART, faults=[fault], sleep=gate.sleep) as box,
        client(box, clock, storage_concurrency=3) as nunu,
    ):
        path = make_file(PART)
        tasks = [start(nunu, path, multipart=False) for _ in range(20)]
        await until(lambda: len(box.journal.of("put_part")) == 3)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(box.journal.of("initiate_upload")) == 3
        gate.open()
        await asyncio.gather(*tasks)
        assert states(box) == ["completed"] * 20


async def test_cancelled_uploads_that_were_queued_reserve_nothing(
    clock: ManualClock, make_file: MakeFile
) -> None:
    gate = Gate()
    fault = Fault(on="initiate_upload", latency=1, times=None)
    async with (
        Sandbox(part_size=PART, faults=[fault], sleep=gate.sleep) as box,
        client(box, clock, api_concurrency=2) as nunu,
    ):
        path = make_file(PART)
        tasks = [start(nunu, path) for _ in range(12)]
        await until(lambda: len(box.journal.of("initiate_upload")) == 2)
        for task in tasks:
            task.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        gate.open()
        await asyncio.wait(tasks)
        assert len(box.journal.of("initiate_upload")) == 2
        assert states(box) == ["cancelled"] * 2


async def test_a_429_for_a_cancelled_initiate_holds_back_other_requests(
    clock: ManualClock, make_file: MakeFile
) -> None:
    gate = Gate()
    fault = Fault(
        on="initiate_upload", status=429, headers={"Retry-After": "3"}, latency=1, times=1
    )
    async with (
        Sandbox(part_size=PART, faults=[fault], sleep=gate.sleep) as box,
        client(box, clock) as nunu,
    ):
        task = start(nunu, make_file(PART))
        await gate.reached.wait()
        task.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        gate.open()
        with pytest.raises(asyncio.CancelledError):
            await task
        before = clock.now
        await nunu.jobs.list_page()
        assert clock.now - before >= 3


async def test_a_failed_initiate_deletes_nothing(clock: ManualClock, make_file: MakeFile) -> None:
    async with Sandbox(capacity=100) as box, client(box, clock) as nunu:
        with pytest.raises(QuotaExceeded) as caught:
            await send(nunu, make_file(PART))
        assert caught.value.needed == PART
        assert caught.value.capacity == 100
        assert box.journal.operations() == ["initiate_upload"]


# --- With an answer that cannot be used.


@pytest.mark.parametrize(
    "spoilt",
    [{"upload_type": "quantum"}, {"total_parts": None}, {"part_size": "much"}, {"part_size": 0}],
    ids=str,
)
async def test_a_reservation_that_cannot_be_used_is_freed(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile, spoilt: dict[str, object]
) -> None:
    ticket = {
        "upload_type": "multipart",
        "build_id": "b-1",
        "object_key": "k",
        "upload_id": "mpu-000001",
        "total_parts": 2,
        "part_size": PART,
    }
    box.add_fault(Fault(on="initiate_upload", status=200, body=ticket | spoilt))
    with pytest.raises(Exception, match=r"parts|read the answer"):
        await start(nunu, make_file(2 * PART))
    (seen,) = box.journal.of("cancel_upload")
    assert "build_id=b-1" in seen.target
    assert "upload_id=mpu-000001" in seen.target


async def test_an_answer_without_ids_is_an_error(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    box.add_fault(Fault(on="initiate_upload", status=200, body={"upload_type": "multipart"}))
    with pytest.raises(DecodeError):
        await start(nunu, make_file(PART))
    assert box.journal.operations() == ["initiate_upload"]


async def test_a_part_plan_that_does_not_fit_the_file_is_refused(
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


@pytest.mark.parametrize("odd", ["x\r\nWARNING forged", "x\x1b[2J", "x\u202ey", 1000 * "x"])
async def test_an_unprintable_build_id_is_refused_and_freed(
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


# --- With an answer that is lost.


@pytest.mark.parametrize("lost", LOST_ANSWERS.values(), ids=LOST_ANSWERS)
async def test_a_lost_initiate_that_deletes_is_not_repeated(
    lost: bytes | None,
) -> None:
    async with answered(lost) as wire:
        with pytest.raises(UploadOutcomeUnknown, match="look at the builds") as caught:
            await wire.nunu.builds.initiate_upload(DELETING)
    assert (caught.value.stage, caught.value.build_id) == ("initiate", "")
    assert isinstance(caught.value.__cause__, ApiError | DecodeError | TransportError)
    assert len(wire.lines) == 1


@pytest.mark.parametrize("lost", LOST_ANSWERS.values(), ids=LOST_ANSWERS)
async def test_a_lost_initiate_that_deletes_nothing_is_not_repeated(lost: bytes | None) -> None:
    async with answered(lost) as wire:
        with pytest.raises((ApiError, DecodeError, TransportError)):
            await wire.nunu.builds.initiate_upload(PLAIN)
    assert len(wire.lines) == 1


@pytest.mark.parametrize(("status", "sent"), [(402, 1), (429, 5), (503, 5)])
async def test_a_refused_initiate_that_deletes_raises_the_refusal(status: int, sent: int) -> None:
    async with answered(answer(status)) as wire:
        with pytest.raises(ApiError) as caught:
            await wire.nunu.builds.initiate_upload(DELETING)
    assert caught.value.status == status
    assert len(wire.lines) == sent


async def test_an_initiate_that_was_not_sent_is_a_connect_error(clock: ManualClock) -> None:
    async with NunuClient("nunu_key_0001", base_url="http://127.0.0.1:9", clock=clock) as nunu:
        with pytest.raises(ConnectError):
            await nunu.builds.initiate_upload(DELETING)


async def test_an_upload_that_may_have_deleted_others_says_so(
    clock: ManualClock, make_file: Callable[..., Path]
) -> None:
    faults = [Fault(on="initiate_upload", do="cut", effect=True)]
    async with (
        Sandbox(faults=faults) as box,
        NunuClient(box.api_key, base_url=box.base_url, clock=clock) as nunu,
    ):
        with pytest.raises(UploadOutcomeUnknown) as caught:
            await nunu.upload_build(make_file(9), name="n", platform="linux", auto_delete=True)
        assert box.journal.operations() == ["initiate_upload"]
    assert caught.value.cancelled is None


@pytest.mark.parametrize("times", [1, 2, 3])
async def test_an_upload_reserves_again_after_a_lost_answer(
    clock: ManualClock, make_file: Callable[..., Path], times: int
) -> None:
    """Twice at most: each may leave a reservation that cannot be freed."""
    faults = [Fault(on="initiate_upload", do="cut", effect=True, times=times)]
    async with (
        Sandbox(faults=faults) as box,
        NunuClient(box.api_key, base_url=box.base_url, clock=clock) as nunu,
    ):
        uploading = nunu.upload_build(make_file(9), name="n", platform="linux")
        if times < 3:
            assert (await uploading).possible_orphans == times
        else:
            with pytest.raises(TransportError):
                await uploading
        assert len(box.journal.of("initiate_upload")) == min(times + 1, 3)


async def test_a_refusal_after_a_lost_reservation_mentions_it(
    clock: ManualClock, make_file: Callable[..., Path]
) -> None:
    """The space that it wants may be taken by that very reservation."""
    faults = [
        Fault(on="initiate_upload", do="cut", effect=True),
        Fault(on="initiate_upload", first=2, status=402),
    ]
    async with (
        Sandbox(faults=faults) as box,
        NunuClient(box.api_key, base_url=box.base_url, clock=clock) as nunu,
    ):
        with pytest.raises(QuotaExceeded) as caught:
            await nunu.upload_build(make_file(9), name="n", platform="linux")
    (note,) = caught.value.__notes__
    assert "up to 1 reservations" in note


async def test_an_upload_without_a_lost_answer_has_no_orphans(
    clock: ManualClock, make_file: Callable[..., Path]
) -> None:
    async with (
        Sandbox(faults=[Fault(on="initiate_upload", status=503)]) as box,
        NunuClient(box.api_key, base_url=box.base_url, clock=clock) as nunu,
    ):
        build = await nunu.upload_build(make_file(9), name="n", platform="linux")
        assert build.possible_orphans == 0
        assert len(box.uploads) == 1


# --- Cancelled meanwhile.


async def test_cancelling_during_an_initiate_leaves_no_reservation(
    clock: ManualClock, make_file: MakeFile
) -> None:
    gate = Gate()
    fault = Fault(on="initiate_upload", latency=1)
    async with (
        Sandbox(part_size=PART, faults=[fault], sleep=gate.sleep) as box,
        client(box, clock) as nunu,
    ):
        task = start(nunu, make_file(PART))
        await until(lambda: box.journal.of("initiate_upload"))
        task.cancel()
        await asyncio.sleep(0)
        gate.open()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert box.journal.operations() == ["initiate_upload", "cancel_upload"]
        check_nothing_is_left(box)


async def test_cancelled_during_it_an_invalid_reservation_is_freed(
    clock: ManualClock, make_file: MakeFile
) -> None:
    """Its answer says nothing of parts, and still names the build."""
    gate = Gate()
    async with (
        Sandbox(part_size=PART, sleep=gate.sleep) as box,
        client(box, clock) as nunu,
    ):
        body = {"build_id": "b", "object_key": "k", "upload_type": "multipart", "upload_id": "u"}
        box.add_fault(Fault(on="initiate_upload", latency=1, status=200, body=body))
        task = start(nunu, make_file(PART))
        await until(lambda: box.journal.of("initiate_upload"))
        task.cancel()
        await asyncio.sleep(0)
        gate.open()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert box.journal.operations() == ["initiate_upload", "cancel_upload"]
        assert box.journal[-1].build_id == "b"


async def test_cancelling_between_two_initiates_sends_no_second(
    box: Sandbox, make_file: MakeFile
) -> None:
    clock = HeldClock()
    box.add_fault(Fault(on="initiate_upload", status=503, headers={"Retry-After": "3"}))
    async with client(box, clock) as nunu:
        task = start(nunu, make_file(PART), auto_delete=True)
        await clock.settle()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert box.journal.operations() == ["initiate_upload"]


# --- Once more, for a single part.


async def test_a_single_part_with_a_refused_url_is_reserved_again(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    box.add_fault(Fault(on="put_part", status=403))
    events: list[UploadEvent] = []
    path = make_file(PART)
    build = await nunu.upload_build(path, name="n", platform="linux", on_progress=events.append)
    assert sorted(states(box)) == ["cancelled", "completed"]
    assert box.object_sha256(build.build_id) == hashlib.sha256(path.read_bytes()).hexdigest()
    started = [event.build_id for event in events if isinstance(event, UploadStarted)]
    assert len(set(started)) == 2
    assert started[-1] == build.build_id
    assert not any(isinstance(event, Cancelled) for event in events)
    sent = [event.sent for event in events if isinstance(event, BytesSent)]
    assert (sent[-1], max(sent)) == (PART, PART)


async def test_a_single_part_is_not_reserved_a_third_time(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    box.add_fault(Fault(on="put_part", status=403, times=None))
    with pytest.raises(UploadError, match="a fresh URL was refused too") as caught:
        await nunu.upload_build(make_file(PART), name="n", platform="linux")
    assert caught.value.attempts == 1
    assert box.journal.of("get_upload_parts") == []
    assert states(box) == ["cancelled", "cancelled"]


async def test_a_single_part_refused_otherwise_is_not_reserved_again(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    box.add_fault(Fault(on="put_part", status=400, times=None))
    with pytest.raises(UploadError):
        await nunu.upload_build(make_file(PART), name="n", platform="linux")
    assert states(box) == ["cancelled"]
