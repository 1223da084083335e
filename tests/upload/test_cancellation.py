"""Cancelling an upload at every turn: nothing runs on, nothing is left behind, nothing is lost."""

from __future__ import annotations

import asyncio

import anyio
import pytest
from doubles import Gate, HeldClock, ManualClock, until
from uploads import PART, MakeFile, client, send, start, states

from nunu_async import (
    BytesSent,
    Completed,
    Completing,
    Kept,
    NunuClient,
    PartDone,
    RetryPolicy,
    UploadEvent,
    UploadStarted,
)
from nunu_async.sandbox import Fault, Sandbox


async def cancelled(task: asyncio.Task[object]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def check_ledger(box: Sandbox) -> None:
    """No upload is left open, and no DELETE came for one that was complete."""
    for upload in box.uploads.values():
        assert upload.state in {"completed", "cancelled"}, upload
    for seen in box.journal.of("cancel_upload"):
        assert seen.status == 200
    late = [
        put.number
        for put in box.journal.of("put_part")
        for cancel in box.journal.of("cancel_upload")
        if put.build_id == cancel.build_id and put.number > cancel.number and put.status == 200
    ]
    assert not late, "a part was accepted after the upload was cancelled"


async def test_a_scope_of_anyio_that_is_cancelled_takes_no_core_meanwhile(
    box: Sandbox, clock: ManualClock, make_file: MakeFile
) -> None:
    """Such a scope cancels what is in it anew at each turn of the loop."""
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
            check_ledger(box)
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
    await cancelled(task)
    check_ledger(box)
    assert box.journal[-1].operation == "cancel_upload"


async def test_cancelling_while_initiate_is_unanswered_leaves_no_reservation(
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
        check_ledger(box)


async def test_a_reservation_that_cannot_be_read_is_freed_when_cancelled_too(
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


async def test_a_complete_under_way_is_heard_before_anything_is_deleted(
    clock: ManualClock, make_file: MakeFile
) -> None:
    """The build exists by then: it must not be deleted."""
    gate = Gate()
    fault = Fault(on="complete_upload", latency=1)
    async with (
        Sandbox(part_size=PART, faults=[fault], sleep=gate.sleep) as box,
        client(box, clock) as nunu,
    ):
        path = make_file(2 * PART)
        task = start(nunu, path)
        await until(lambda: box.journal.of("complete_upload"))
        task.cancel()
        for _ in range(10):
            await asyncio.sleep(0)
        assert not task.done()
        gate.open()
        with pytest.raises(asyncio.CancelledError):
            await task
        (upload,) = box.uploads.values()
        assert upload.state == "completed"
        assert box.journal.of("cancel_upload") == []
        assert box.read_object(upload.build_id) == path.read_bytes()


async def test_a_complete_that_is_never_answered_does_not_hold_the_caller_for_ever(
    box: Sandbox, nunu: NunuClient, clock: ManualClock, make_file: MakeFile
) -> None:
    box.add_fault(Fault(on="complete_upload", do="stall"))
    task = start(nunu, make_file(PART))
    await until(lambda: any(s.outcome == "stalled" for s in box.journal.of("complete_upload")))
    before = clock.waiting
    task.cancel()
    await until(lambda: clock.waiting > before)  # the limit on hearing it out is armed
    clock.advance(8)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert box.journal.of("cancel_upload") == []


async def test_a_stalled_upload_is_cancelled_at_once(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    box.add_fault(Fault(on="put_part", do="stall", times=None))
    task = start(nunu, make_file(8 * PART))
    await until(lambda: len(box.journal.of("put_part")) == 4)
    async with asyncio.timeout(5):
        await cancelled(task)
    check_ledger(box)


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
        check_ledger(box)
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
    check_ledger(box)


async def test_every_slot_is_free_again_after_many_cancellations(
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
    check_ledger(box)


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
    await cancelled(task)
    (upload,) = box.uploads.values()
    assert upload.state == "cancelled"
    assert all(seen.outcome != "open" for seen in box.journal if seen.operation == "cancel_upload")
    check_ledger(box)


async def test_cancelling_between_two_completes_begins_no_third(
    box: Sandbox, make_file: MakeFile
) -> None:
    """The server answered 500 and has no build: the upload is let go at once."""
    pausing = asyncio.Event()

    class Patient(ManualClock):
        async def sleep(self, delay: float) -> None:
            pausing.set()
            await asyncio.Event().wait()

    box.add_fault(Fault(on="complete_upload", status=500))
    async with client(box, Patient()) as nunu:
        task = start(nunu, make_file(PART))
        await pausing.wait()
        await cancelled(task)
    assert len(box.journal.of("complete_upload")) == 1
    assert states(box) == ["cancelled"]


@pytest.mark.parametrize("resume", [False, True])
async def test_a_cancellation_after_the_end_says_that_the_build_is_there(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile, resume: bool
) -> None:
    """In each turn of the loop from the last event on; or nobody would know of the build."""
    path = make_file(2 * PART)
    notes: list[list[str]] = []
    for turns in range(40):
        over = asyncio.Event()

        def note(event: UploadEvent, over: asyncio.Event = over) -> None:
            if isinstance(event, Completed):
                over.set()

        task = start(nunu, path, resume=resume, on_progress=note)
        await over.wait()
        for _ in range(turns):
            await asyncio.sleep(0)
        if task.done():
            break
        task.cancel()
        try:
            await task
        except asyncio.CancelledError as error:
            *_, upload = box.uploads.values()
            notes.append(
                [note.replace(upload.build_id, "B") for note in getattr(error, "__notes__", [])]
            )
    assert set(states(box)) == {"completed"}
    assert all(note == ["build B is complete"] for note in notes)
    assert len(notes) >= resume


async def test_a_cancellation_after_a_failure_says_that_the_upload_is_kept(
    box: Sandbox, clock: ManualClock, make_file: MakeFile
) -> None:
    """In each turn of the loop from the last event on, the closing of the journal included."""
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
    assert all("is kept on the server with 1 of 1 parts" in "".join(told) for told in notes)


async def test_a_listener_that_raises_at_the_end_says_that_the_build_is_there(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    def fail(event: UploadEvent) -> None:
        if isinstance(event, Completed):
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full") as caught:
        await start(nunu, make_file(PART), on_progress=fail)
    (build_id,) = box.uploads
    assert caught.value.__notes__ == [f"build {build_id} is complete"]


async def test_a_cancellation_during_the_cleanup_says_what_became_of_the_upload(
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
    told = f"the upload of build {build_id} was cancelled on the server"
    assert caught.value.__notes__ == [told]


@pytest.mark.parametrize(
    "fault",
    [
        Fault(on="list_runs", status=429, headers={"Retry-After": "30"}),
        Fault(on="list_runs", do="stall"),
    ],
    ids=["the server wants no requests", "another request has the only slot"],
)
async def test_cancelling_while_the_complete_has_not_gone_out_lets_the_upload_go(
    box: Sandbox, make_file: MakeFile, fault: Fault
) -> None:
    """Nothing was asked that could have made it a build."""
    clock = HeldClock()
    others: list[asyncio.Task[object]] = []

    async def hold_the_api(event: UploadEvent) -> None:
        if isinstance(event, Completing):
            other = asyncio.ensure_future(nunu.runs.list_page())
            await until(lambda: clock.asleep or box.journal[-1].outcome == "stalled")
            others.append(other)

    box.add_fault(fault)
    async with client(box, clock, api_concurrency=1) as nunu:
        task = start(nunu, make_file(PART), on_progress=hold_the_api)
        await until(lambda: others)
        for _ in range(20):
            await asyncio.sleep(0)
        await cancelled(task)
        await cancelled(others[0])
    assert box.journal.of("complete_upload") == []
    assert states(box) == ["cancelled"]


async def test_cancelling_while_the_build_is_asked_for_hears_the_answer(
    box: Sandbox, make_file: MakeFile
) -> None:
    """The server refused to complete it and has no build: the upload is let go."""
    clock = HeldClock()
    box.add_fault(Fault(on="complete_upload", status=503, headers={"Retry-After": "2"}))
    async with client(box, clock) as nunu:
        task = start(nunu, make_file(PART))
        await clock.settle()  # before asking, as the server wants no requests
        task.cancel()
        for _ in range(20):
            await asyncio.sleep(0)
        clock.advance(3)
        with pytest.raises(asyncio.CancelledError):
            await task
    assert len(box.journal.of("complete_upload")) == len(box.journal.of("get_build")) == 1
    assert states(box) == ["cancelled"]


@pytest.mark.parametrize("turns", range(1, 9))
async def test_a_close_that_is_cancelled_closes_every_connection(
    clock: ManualClock, make_file: MakeFile, turns: int
) -> None:
    async with Sandbox(part_size=PART) as box:
        nunu = client(box, clock)
        await start(nunu, make_file(2 * PART))
        closing = asyncio.ensure_future(nunu.close())
        for _ in range(turns):
            await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait({closing})
        for sessions in (nunu._session._sessions, nunu._storage._sessions):
            assert sessions._connector is not None
            assert sessions._connector.closed
