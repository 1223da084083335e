"""Nothing is left behind on the server, and nothing that may exist is deleted."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable

import pytest
from doubles import Gate, ManualClock, completion_of, until
from uploads import PART, MakeFile, client, start, states

from nunu_async import (
    Cancelled,
    ClientClosed,
    Completed,
    CompletedPart,
    DecodeError,
    InputError,
    MultipartTicket,
    NunuClient,
    PartDone,
    UploadError,
    UploadEvent,
    UploadOutcomeUnknown,
    UploadStarted,
)
from nunu_async.sandbox import Fault, Sandbox
from nunu_async.upload.source import Source
from nunu_async.upload.threads import BoundedExecutor, DaemonThreadPool

PAGE = "<html>who knows</html>"


@pytest.mark.parametrize(
    "fault",
    [
        Fault(on="complete_upload", status=500, body=PAGE, effect=True),
        Fault(on="complete_upload", status=501, body=PAGE, effect=True),
        Fault(on="complete_upload", status=503, body=PAGE, effect=True),
        Fault(on="complete_upload", status=503, effect=True),
        Fault(on="complete_upload", status=500, effect=True),
        Fault(on="complete_upload", status=502, effect=True),
        Fault(on="complete_upload", status=504, effect=True),
        Fault(on="complete_upload", status=404, body=PAGE, effect=True),
        Fault(on="complete_upload", status=303, headers={"Location": "/"}, effect=True),
        Fault(on="complete_upload", status=200, body={"build_id": "another"}, effect=True),
        Fault(on="complete_upload", do="cut", effect=True),
    ],
    ids=str,
)
@pytest.mark.parametrize("lookup", [404, 500, 403])
async def test_a_build_that_may_be_complete_is_never_deleted(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile, fault: Fault, lookup: int
) -> None:
    """It was completed unheard, and the service will not show it."""
    box.add_fault(fault)
    box.add_fault(Fault(on="get_build", status=lookup, times=None))
    with pytest.raises(UploadOutcomeUnknown):
        await start(nunu, make_file(2 * PART))
    assert box.journal.of("cancel_upload") == []
    assert states(box) == ["completed"]


@pytest.mark.parametrize("answer", [{"size": 1}, {"build_id": "another"}, {"status": "UNHEALTHY"}])
async def test_another_build_is_no_proof_that_this_one_is_complete(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile, answer: dict[str, object]
) -> None:
    box.add_fault(Fault(on="complete_upload", do="cut", times=None))
    path = make_file(2 * PART)
    build = {"build_id": "b", "status": "OK", "size": 2 * PART} | answer
    box.add_fault(Fault(on="get_build", status=200, body=build, times=None))
    with pytest.raises(UploadOutcomeUnknown):
        await start(nunu, path)
    assert states(box) == ["uploading"]


async def test_cancelling_while_a_refused_complete_pauses_frees_the_upload_at_once(
    box: Sandbox, make_file: MakeFile
) -> None:
    pausing = asyncio.Event()

    class Patient(ManualClock):
        async def sleep(self, delay: float) -> None:
            pausing.set()
            await asyncio.Event().wait()

    box.add_fault(Fault(on="complete_upload", status=429, headers={"Retry-After": "60"}))
    async with client(box, Patient()) as nunu:
        task = start(nunu, make_file(PART))
        await pausing.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert states(box) == ["cancelled"]


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


async def test_cancelling_between_two_initiates_begins_no_second(
    box: Sandbox, make_file: MakeFile
) -> None:
    pausing = asyncio.Event()

    class Patient(ManualClock):
        async def sleep(self, delay: float) -> None:
            pausing.set()
            await asyncio.Event().wait()

    box.add_fault(Fault(on="initiate_upload", status=503, headers={"Retry-After": "3"}))
    async with client(box, Patient()) as nunu:
        task = start(nunu, make_file(PART), auto_delete=True)
        await pausing.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert box.journal.operations() == ["initiate_upload"]


@pytest.mark.parametrize("by_error", [False, True])
async def test_closing_the_client_ends_its_uploads_properly(
    box: Sandbox, clock: ManualClock, make_file: MakeFile, by_error: bool
) -> None:
    box.add_fault(Fault(on="put_part", do="stall", times=None))
    nunu = client(box, clock)
    task = start(nunu, make_file(4 * PART))
    await until(lambda: len(box.journal.of("put_part")) == 4)
    if by_error:
        with pytest.raises(ZeroDivisionError):
            async with nunu:
                raise ZeroDivisionError
    else:
        await nunu.close()
    with pytest.raises(ClientClosed, match="cancelled on the server"):
        await task
    assert states(box) == ["cancelled"]
    assert task.cancelling() == 0
    with pytest.raises(ClientClosed):
        await start(nunu, make_file(PART))


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


async def test_an_answer_without_ids_is_an_error_and_nothing_more(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    box.add_fault(Fault(on="initiate_upload", status=200, body={"upload_type": "multipart"}))
    with pytest.raises(DecodeError):
        await start(nunu, make_file(PART))
    assert box.journal.operations() == ["initiate_upload"]


async def test_cleaning_up_does_not_queue_behind_other_requests(
    clock: ManualClock, make_file: MakeFile
) -> None:
    gate = Gate()
    faults = [
        Fault(on="get_build", latency=1, times=None),
        Fault(on="put_part", status=400, times=None),
    ]
    async with (
        Sandbox(part_size=PART, faults=faults, sleep=gate.sleep) as box,
        client(box, clock, api_concurrency=2) as nunu,
    ):
        slow = asyncio.ensure_future(nunu.builds.get("x"))
        task = start(nunu, make_file(PART), multipart=False)
        await until(lambda: box.journal.of("initiate_upload"))
        slower = asyncio.ensure_future(nunu.builds.get("y"))
        with pytest.raises(UploadError) as caught:
            await task
        assert caught.value.cancelled is True
        gate.open()
        await asyncio.wait({slow, slower})
        assert slow.exception() is not None
        assert slower.exception() is not None


async def test_a_cancellation_that_is_never_answered_is_given_up(
    box: Sandbox, nunu: NunuClient, clock: ManualClock, make_file: MakeFile
) -> None:
    box.add_fault(Fault(on="put_part", status=403, times=None))
    box.add_fault(Fault(on="cancel_upload", do="stall", times=None))
    task = start(nunu, make_file(PART))
    await until(lambda: any(s.outcome == "stalled" for s in box.journal.of("cancel_upload")))
    await until(lambda: clock.waiting)
    clock.advance(30)
    with pytest.raises(UploadError) as caught:
        await task
    assert caught.value.cancelled is False


async def test_a_cancellation_is_not_put_off_beyond_its_limit(
    box: Sandbox, nunu: NunuClient, clock: ManualClock, make_file: MakeFile
) -> None:
    box.add_fault(Fault(on="put_part", status=403, times=None))
    box.add_fault(Fault(on="cancel_upload", status=429, headers={"Retry-After": "60"}))
    with pytest.raises(UploadError) as caught:
        await start(nunu, make_file(PART))
    assert caught.value.cancelled is False
    assert 60 not in clock.sleeps


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


async def test_cancelled_opens_leak_no_descriptor(
    make_file: MakeFile, open_descriptors: Callable[[], int]
) -> None:
    path = make_file(10)
    readers = DaemonThreadPool(2)
    before = open_descriptors()
    for turns in range(40):
        task = asyncio.ensure_future(Source.open(path, readers))
        for _ in range(turns % 4):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.result().close()
    readers.shutdown()
    await until(lambda: open_descriptors() <= before)


async def test_a_listener_that_closes_the_client_does_not_hang(
    box: Sandbox, clock: ManualClock, make_file: MakeFile
) -> None:
    nunu = client(box, clock)

    async def close(event: UploadEvent) -> None:
        if isinstance(event, PartDone):
            await nunu.close()

    task = start(nunu, make_file(3 * PART), on_progress=close)
    with pytest.raises(ClientClosed):
        await task
    assert states(box) == ["cancelled"]
    await nunu.close()


@pytest.mark.parametrize("calls", [2, 3])
async def test_closing_again_meanwhile_does_not_break_the_cleaning_up(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile, calls: int
) -> None:
    """As a signal handler and the end of an `async with` do it: the second must wait, too."""
    box.add_fault(Fault(on="put_part", do="stall", times=None))
    task = start(nunu, make_file(PART))
    await until(lambda: any(seen.outcome == "stalled" for seen in box.journal))
    await asyncio.gather(*(nunu.close() for _ in range(calls)))
    with pytest.raises(ClientClosed, match="was cancelled on the server"):
        await task
    assert states(box) == ["cancelled"]


async def test_a_listener_told_of_the_end_that_a_close_brought_may_close_again(
    box: Sandbox, clock: ManualClock, make_file: MakeFile
) -> None:
    nunu = client(box, clock)

    async def close(event: UploadEvent) -> None:
        if isinstance(event, Cancelled):
            await nunu.close()

    box.add_fault(Fault(on="put_part", do="stall", times=None))
    task = start(nunu, make_file(PART), on_progress=close)
    await until(lambda: any(seen.outcome == "stalled" for seen in box.journal))
    async with asyncio.timeout(10):  # and time stands still on the clock of its limits
        await nunu.close()
        with pytest.raises(ClientClosed):
            await task
    assert states(box) == ["cancelled"]


async def test_a_listener_may_upload_another_file(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    files = [make_file(PART, "second.zip")]

    async def go_on(event: UploadEvent) -> None:
        if isinstance(event, Completed) and files:
            await nunu.upload_build(files.pop(), name="second", platform="linux")

    first = await nunu.upload_build(
        make_file(PART), name="first", platform="linux", on_progress=go_on
    )
    assert states(box) == ["completed"] * 2
    assert first.build_id == next(iter(box.uploads))


@pytest.mark.parametrize("event_of", [UploadStarted, Completed])
@pytest.mark.parametrize("several", [False, True], ids=["one", "many"])
async def test_listeners_upload_while_as_many_uploads_are_under_way_as_may_be(
    box: Sandbox, make_file: MakeFile, event_of: type[UploadEvent], several: bool
) -> None:
    """And so do the listeners of those."""
    paths = [make_file(PART, f"{number}.zip") for number in range(3)]
    arrived = asyncio.Event()
    waiting = 0
    async with NunuClient(box.api_key, base_url=box.base_url, storage_concurrency=3) as nunu:

        async def outer(event: UploadEvent) -> None:
            nonlocal waiting
            if isinstance(event, event_of):
                waiting += 1
                if waiting == 3:
                    arrived.set()
                await arrived.wait()  # until each admission is taken
                await upload(inner)

        async def inner(event: UploadEvent) -> None:
            if isinstance(event, event_of):
                await upload(None)

        async def upload(listener: Callable[[UploadEvent], Awaitable[None]] | None) -> None:
            if several:
                results = await nunu.upload_builds(
                    paths,
                    platform="linux",
                    on_progress=None if listener is None else lambda _, event: listener(event),
                )
                assert all(result.ok for result in results)
            else:
                await nunu.upload_build(paths[0], name="n", platform="linux", on_progress=listener)

        async with asyncio.timeout(20):
            await asyncio.gather(
                *(
                    nunu.upload_build(path, name="n", platform="linux", on_progress=outer)
                    for path in paths
                )
            )
    assert states(box) == ["completed"] * (3 + 9 + 27 if several else 9)


async def test_a_task_that_outlives_the_listener_waits_its_turn(
    box: Sandbox, make_file: MakeFile
) -> None:
    path = make_file(PART)
    later: list[asyncio.Task[object]] = []
    async with NunuClient(box.api_key, base_url=box.base_url, storage_concurrency=1) as nunu:

        def listener(event: UploadEvent) -> None:
            if isinstance(event, Completed):
                later.extend(start(nunu, path) for _ in range(5))

        await nunu.upload_build(path, name="n", platform="linux", on_progress=listener)
        await asyncio.gather(*later)
    assert states(box) == ["completed"] * 6
    assert box.journal.peak("storage") == 1


def test_readers_serve_many_calls_on_few_threads_and_end() -> None:
    readers = DaemonThreadPool(3)
    seen: set[str] = set()

    def work(number: int) -> int:
        seen.add(threading.current_thread().name)
        return number * number

    futures = [readers.submit(work, n) for n in range(200)]
    assert [future.result(timeout=10) for future in futures] == [n * n for n in range(200)]
    assert 1 <= len(seen) <= 3
    failing = readers.submit(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        failing.result(timeout=10)
    readers.shutdown()
    readers.shutdown()
    with pytest.raises(RuntimeError):
        readers.submit(work, 1)


def test_a_lane_keeps_few_threads_busy_and_loses_no_call() -> None:
    readers = DaemonThreadPool(8)
    lane, other = BoundedExecutor(readers, 2), BoundedExecutor(readers, 2)
    hung, entered = threading.Event(), threading.Semaphore(0)

    def hang() -> bool:
        entered.release()
        return hung.wait(30)

    stuck = [lane.submit(hang) for _ in range(5)]
    assert [other.submit(pow, n, 2).result(timeout=10) for n in range(20)] == [
        n * n for n in range(20)
    ]
    assert all(entered.acquire(timeout=10) for _ in range(2))
    assert sum(future.running() for future in stuck) == 2
    assert stuck[4].cancel()
    failing = lane.submit(lambda: 1 // 0)
    hung.set()
    assert all(future.result(timeout=10) for future in stuck[:4])
    with pytest.raises(ZeroDivisionError):
        failing.result(timeout=10)
    readers.shutdown()
    with pytest.raises(RuntimeError):
        lane.submit(pow, 1, 1).result(timeout=10)


def test_a_read_that_hangs_does_not_keep_the_process() -> None:
    code = (
        "import threading; from nunu_async.upload.threads import DaemonThreadPool;"
        "DaemonThreadPool(1).submit(threading.Event().wait); print('over')"
    )
    done = subprocess.run(  # noqa: S603 - this very interpreter
        [sys.executable, "-c", code], capture_output=True, timeout=30, check=True, text=True
    )
    assert done.stdout == "over\n"


async def test_a_complete_that_cannot_be_written_has_asked_for_nothing(
    box: Sandbox, nunu: NunuClient, clock: ManualClock
) -> None:
    """No request can hold it: the upload may still be cancelled."""
    ticket = MultipartTicket(
        build_id="b", object_key="o", upload_id="mpu-0001", total_parts=1, part_size=5
    )
    completion = completion_of(nunu, clock)
    with pytest.raises(InputError):
        await completion.run(ticket, 5, [CompletedPart(part_number=1, etag="\ud800")])
    assert completion.may_cancel
    assert len(box.journal) == 0
