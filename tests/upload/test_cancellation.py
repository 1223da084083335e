"""Cancelling an upload at every turn: no task, no reservation and no build is left or lost."""

from __future__ import annotations

import asyncio

import anyio
import pytest
from doubles import Gate, ManualClock, cancel, until
from uploads import PART, MakeFile, check_nothing_is_left, client, send, start, states

from nunu_async import (
    BytesSent,
    Kept,
    NunuClient,
    PartDone,
    RetryPolicy,
    UploadError,
    UploadEvent,
    UploadStarted,
)
from nunu_async.sandbox import Fault, Sandbox


async def test_a_cancelled_scope_of_anyio_does_not_spin(
    box: Sandbox, clock: ManualClock, make_file: MakeFile
) -> None:
    """Such a scope cancels its tasks again at each turn of the loop."""
    box.add_fault(Fault(on="cancel_upload", do="stall"))
    async with client(box, clock) as nunu:

        async def request() -> None:
            with anyio.CancelScope() as scope:
                await nunu.upload_build(
                    make_file(PART),
                    name="n",
                    platform="windows",
                    multipart=True,
                    on_progress=lambda _: scope.cancel(),
                )

        task = asyncio.ensure_future(request())
        await until(lambda: box.journal.of("cancel_upload"))
        before = task.cancelling()
        for _ in range(100):
            await asyncio.sleep(0)
        assert task.cancelling() - before < 3
        clock.advance(31)
        await task


@pytest.mark.parametrize(("multipart", "verify"), [(True, False), (False, False), (True, True)])
async def test_an_upload_can_be_cancelled_at_any_turn_of_the_loop(
    clock: ManualClock, make_file: MakeFile, multipart: bool, verify: bool
) -> None:
    """Cancel after 0, 1, 2, ... turns until the upload survives untouched."""
    path = make_file(3 * PART + 1)
    before = len(asyncio.all_tasks())
    survived = False
    turns = 0
    while not survived:
        async with (
            Sandbox(part_size=PART) as box,
            client(box, clock) as nunu,
        ):
            task = start(nunu, path, multipart=multipart, verify=verify)
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            try:
                await task
                survived = True
            except asyncio.CancelledError:
                pass
            check_nothing_is_left(box)
            assert clock.waiting == 0
        turns += 1 + turns // 12  # every turn at first, then in growing steps
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == before
    assert turns > 30


@pytest.mark.parametrize("moment", [UploadStarted, BytesSent, PartDone])
async def test_an_upload_cancelled_at_an_event_is_cancelled_on_the_server(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile, moment: type[UploadEvent]
) -> None:
    reached = asyncio.Event()

    def note(event: UploadEvent) -> None:
        if isinstance(event, moment):
            reached.set()

    box.add_fault(Fault(on="put_part", latency=0.001, times=None))
    task = start(nunu, make_file(6 * PART), on_progress=note)
    await reached.wait()
    await cancel(task)
    check_nothing_is_left(box)
    assert box.journal[-1].operation == "cancel_upload"


async def test_a_stalled_upload_is_cancelled_at_once(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    box.add_fault(Fault(on="put_part", do="stall", times=None))
    task = start(nunu, make_file(8 * PART))
    await until(lambda: len(box.journal.of("put_part")) == 4)
    async with asyncio.timeout(5):
        await cancel(task)
    check_nothing_is_left(box)


async def test_a_second_cancel_changes_nothing(clock: ManualClock, make_file: MakeFile) -> None:
    gate = Gate()
    faults = [
        Fault(on="cancel_upload", latency=1),
        Fault(on="put_part", do="stall", times=None),
    ]
    async with (
        Sandbox(part_size=PART, faults=faults, sleep=gate.sleep) as box,
        client(box, clock) as nunu,
    ):
        task = start(nunu, make_file(4 * PART))
        await until(lambda: box.journal.of("put_part"))
        task.cancel()
        await until(lambda: box.journal.of("cancel_upload"))
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)
        gate.open()
        with pytest.raises(asyncio.CancelledError):
            await task
        check_nothing_is_left(box)
        assert len(box.journal.of("cancel_upload")) == 1


async def test_a_timeout_around_an_upload_stays_a_timeout(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    box.add_fault(Fault(on="put_part", do="stall", times=None))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await send(nunu, make_file(2 * PART))
    current = asyncio.current_task()
    assert current is not None
    assert current.cancelling() == 0
    check_nothing_is_left(box)


async def test_every_place_is_free_again_after_many_cancellations(
    box: Sandbox, clock: ManualClock, make_file: MakeFile
) -> None:
    path = make_file(4 * PART)
    async with client(box, clock, storage_concurrency=3) as nunu:
        for turns in range(0, 120, 3):
            tasks = [start(nunu, path) for _ in range(3)]
            for _ in range(turns):
                await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        build_id = (await send(nunu, path)).build_id
        assert nunu._uploader.context.slots.used == 0
    assert box.read_object(build_id) == path.read_bytes()
    check_nothing_is_left(box)


async def test_a_late_part_never_arrives_after_the_delete(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    reached = asyncio.Event()
    box.add_fault(Fault(on="put_part", latency=0.005, times=None))

    def note(event: UploadEvent) -> None:
        if isinstance(event, PartDone):
            reached.set()

    task = start(nunu, make_file(12 * PART), on_progress=note)
    await reached.wait()
    await cancel(task)
    (upload,) = box.uploads.values()
    assert upload.state == "cancelled"
    assert all(seen.outcome != "open" for seen in box.journal if seen.operation == "cancel_upload")
    check_nothing_is_left(box)


async def test_cancelled_after_a_failure_it_says_the_upload_is_kept(
    box: Sandbox, clock: ManualClock, make_file: MakeFile
) -> None:
    """At each turn of the loop from the last event on, also while the journal is closed."""
    box.add_fault(Fault(on="complete_upload", status=429, times=None))
    notes: list[list[str]] = []
    async with NunuClient(
        box.api_key, base_url=box.base_url, clock=clock, retry=RetryPolicy(attempts=1)
    ) as nunu:
        for turns in range(40):
            kept = asyncio.Event()

            def note(event: UploadEvent, kept: asyncio.Event = kept) -> None:
                if isinstance(event, Kept):
                    kept.set()

            task = start(nunu, make_file(PART), name=f"n{turns}", resume=True, on_progress=note)
            await kept.wait()
            for _ in range(turns):
                await asyncio.sleep(0)
            if task.done():
                task.exception()
                break
            task.cancel()
            try:
                await task
            except asyncio.CancelledError as error:
                notes.append(getattr(error, "__notes__", []))
    assert notes
    assert all("is kept on the server with 1 of 1 parts" in "".join(texts) for texts in notes)


async def test_cancelled_during_the_cleanup_it_says_what_came_of_it(
    clock: ManualClock, make_file: MakeFile
) -> None:
    gate = Gate()
    faults = [Fault(on="cancel_upload", latency=1), Fault(on="put_part", status=400)]
    async with (
        Sandbox(part_size=PART, faults=faults, sleep=gate.sleep) as box,
        client(box, clock) as nunu,
    ):
        task = start(nunu, make_file(PART))
        await until(lambda: box.journal.of("cancel_upload"))
        task.cancel()
        await asyncio.sleep(0)
        gate.open()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
    (build_id,) = box.uploads
    note = f"the upload of build {build_id} was cancelled on the server"
    assert caught.value.__notes__ == [note]


# --- The request to cancel.


async def test_a_failed_cancellation_never_hides_the_cause(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    box.add_fault(Fault(on="put_part", status=403, times=None))
    box.add_fault(Fault(on="cancel_upload", status=400, times=None))
    with pytest.raises(UploadError) as caught:
        await send(nunu, make_file(PART))
    assert caught.value.cancelled is False
    assert "failed too" in str(caught.value)


async def test_the_request_to_cancel_is_repeated(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    box.add_fault(Fault(on="put_part", status=403, times=None))
    box.add_fault(Fault(on="cancel_upload", status=503, times=3))
    with pytest.raises(UploadError) as caught:
        await send(nunu, make_file(PART))
    assert caught.value.cancelled is True
    assert states(box) == ["cancelled"]


async def test_a_404_page_of_a_proxy_does_not_count_as_cancelled(
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


async def test_cleanup_does_not_queue_behind_other_requests(
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


async def test_a_cancellation_without_an_answer_is_given_up(
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


async def test_a_cancellation_is_not_delayed_beyond_its_limit(
    box: Sandbox, nunu: NunuClient, clock: ManualClock, make_file: MakeFile
) -> None:
    box.add_fault(Fault(on="put_part", status=403, times=None))
    box.add_fault(Fault(on="cancel_upload", status=429, headers={"Retry-After": "60"}))
    with pytest.raises(UploadError) as caught:
        await start(nunu, make_file(PART))
    assert caught.value.cancelled is False
    assert 60 not in clock.sleeps
