"""The end of an upload: completed, cancelled, or left alone because it may be complete."""

from __future__ import annotations

import asyncio

import pytest
from doubles import Gate, HeldClock, ManualClock, cancel, completion_of, until
from uploads import PART, MakeFile, client, send, start, states

from nunu_async import (
    ApiError,
    Completed,
    CompletedPart,
    Completing,
    InputError,
    MultipartTicket,
    NunuClient,
    Retrying,
    UploadEvent,
    UploadOutcomeUnknown,
)
from nunu_async.sandbox import Fault, Sandbox

# --- What may be complete is never deleted.


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
    """It was completed, the answer was lost, and the service does not show the build."""
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


async def test_an_unsettled_complete_deletes_nothing(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    """Every answer is lost and the lookup fails: the build may exist, so it is left alone."""
    box.add_fault(Fault(on="complete_upload", do="cut", times=None))
    box.add_fault(Fault(on="get_build", status=500, times=None))
    with pytest.raises(UploadOutcomeUnknown) as caught:
        await send(nunu, make_file(2 * PART))
    assert caught.value.cancelled is None
    assert box.journal.of("cancel_upload") == []


async def test_a_second_complete_that_is_unknown_deletes_nothing(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    """The answer to the first was lost and the service hides the build: 404 proves nothing."""
    box.add_fault(Fault(on="complete_upload", do="cut", effect=True))
    box.add_fault(Fault(on="get_build", status=404, times=None))
    with pytest.raises(UploadOutcomeUnknown):
        await send(nunu, make_file(2 * PART))
    assert box.journal.of("cancel_upload") == []
    assert states(box) == ["completed"]


async def test_a_complete_with_a_lost_answer_is_settled_by_a_lookup(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    box.add_fault(Fault(on="complete_upload", do="cut", effect=True))
    path = make_file(2 * PART)
    build_id = (await send(nunu, path)).build_id
    assert len(box.journal.of("complete_upload")) == 1
    assert len(box.journal.of("get_build")) == 1
    assert box.read_object(build_id) == path.read_bytes()


# --- What cannot be complete is cancelled.


async def test_a_complete_that_cannot_be_encoded_may_be_cancelled(
    box: Sandbox, nunu: NunuClient, clock: ManualClock
) -> None:
    """The ETag cannot be encoded, so no request was sent: the upload may be cancelled."""
    ticket = MultipartTicket(
        build_id="b", object_key="o", upload_id="mpu-0001", total_parts=1, part_size=5
    )
    completion = completion_of(nunu, clock)
    with pytest.raises(InputError):
        await completion.run(ticket, 5, [CompletedPart(part_number=1, etag="\ud800")])
    assert completion.may_cancel
    assert len(box.journal) == 0


@pytest.mark.parametrize(("status", "requests"), [(503, 5), (429, 5), (500, 5), (400, 1)])
async def test_a_failing_complete_is_tried_as_often_as_the_policy_says(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile, status: int, requests: int
) -> None:
    """One count, and not one for each layer; then the upload is cancelled: nothing was built."""
    box.add_fault(Fault(on="complete_upload", status=status, times=None))
    with pytest.raises(ApiError):
        await send(nunu, make_file(PART))
    assert len(box.journal.of("complete_upload")) == requests
    assert states(box) == ["cancelled"]


# --- While it is tried again.


async def test_retries_of_a_complete_are_events(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    """The server may assemble a build for minutes; a listener can show why it takes long."""
    box.add_fault(Fault(on="complete_upload", status=409, times=3))
    sent: list[tuple[str, int]] = []

    def listen(event: UploadEvent) -> None:
        if isinstance(event, Retrying | Completed):
            sent.append((type(event).__name__, len(box.journal.of("complete_upload"))))

    await send(nunu, make_file(3 * PART), on_progress=listen)
    assert sent == [("Retrying", 1), ("Retrying", 2), ("Retrying", 3), ("Completed", 4)]


async def test_a_listener_that_fails_at_such_a_retry_deletes_nothing(
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


# --- Cancelled meanwhile.


async def test_the_answer_to_a_complete_is_awaited_before_any_delete(
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


async def test_a_complete_without_an_answer_is_awaited_briefly(
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


async def test_cancelling_before_a_retry_after_429_cancels_the_upload(
    box: Sandbox, make_file: MakeFile
) -> None:
    clock = HeldClock()
    box.add_fault(Fault(on="complete_upload", status=429, headers={"Retry-After": "60"}))
    async with client(box, clock) as nunu:
        task = start(nunu, make_file(PART))
        await clock.settle()
        await cancel(task)
    assert states(box) == ["cancelled"]


async def test_cancelling_before_a_retry_after_500_cancels_the_upload(
    box: Sandbox, make_file: MakeFile
) -> None:
    """The server answered 500 and has no build: nothing can be lost."""
    clock = HeldClock()
    box.add_fault(Fault(on="complete_upload", status=500))
    async with client(box, clock) as nunu:
        task = start(nunu, make_file(PART))
        await clock.settle()
        await cancel(task)
    assert len(box.journal.of("complete_upload")) == 1
    assert states(box) == ["cancelled"]


@pytest.mark.parametrize(
    "fault",
    [
        Fault(on="list_runs", status=429, headers={"Retry-After": "30"}),
        Fault(on="list_runs", do="stall"),
    ],
    ids=["the server wants no requests", "another request has the only place"],
)
async def test_cancelling_before_the_complete_is_sent_cancels_the_upload(
    box: Sandbox, make_file: MakeFile, fault: Fault
) -> None:
    """No request was sent that could have completed it."""
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
        await cancel(task)
        await cancel(others[0])
    assert box.journal.of("complete_upload") == []
    assert states(box) == ["cancelled"]


async def test_cancelling_during_the_lookup_awaits_its_answer(
    box: Sandbox, make_file: MakeFile
) -> None:
    """The server refused to complete it and has no build: the upload is cancelled."""
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


# --- Complete, and then cancelled.


@pytest.mark.parametrize("resume", [False, True])
async def test_cancelled_after_the_end_it_says_the_build_is_there(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile, resume: bool
) -> None:
    """At each turn of the loop from the last event on: only the note still names the build."""
    path = make_file(2 * PART)
    notes: list[list[str]] = []
    for turns in range(40):
        over = asyncio.Event()

        async def note(event: UploadEvent, over: asyncio.Event = over) -> None:
            if isinstance(event, Completed):
                over.set()
                await asyncio.sleep(0)

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
    assert notes


async def test_a_listener_that_raises_at_the_end_leaves_the_build(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    def fail(event: UploadEvent) -> None:
        if isinstance(event, Completed):
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full") as caught:
        await start(nunu, make_file(PART), on_progress=fail)
    (build_id,) = box.uploads
    assert caught.value.__notes__ == [f"build {build_id} is complete"]
