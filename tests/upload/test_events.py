"""What `on_progress` is called with, and what it may do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from uploads import PART, MakeFile, send, start, states

from nunu_async import (
    BytesSent,
    Cancelled,
    Completed,
    Completing,
    NunuClient,
    PartDone,
    UploadError,
    UploadEvent,
    UploadStarted,
)
from nunu_async.sandbox import Fault, Sandbox


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


async def test_a_listener_may_be_a_coroutine_function(
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


# --- Uploads from within it.


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
async def test_listeners_upload_even_when_all_places_are_taken(
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
