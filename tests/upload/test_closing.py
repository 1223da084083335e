"""Closing a client while it uploads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from doubles import ManualClock, until
from uploads import PART, MakeFile, client, send, start, states

from nunu_async import Cancelled, ClientClosed, NunuClient, PartDone, UploadEvent
from nunu_async.sandbox import Fault, Sandbox


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


async def test_a_listener_may_close_the_client(
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
async def test_closing_twice_at_once_does_not_break_the_cleanup(
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


async def test_a_listener_may_close_a_client_that_is_being_closed(
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


async def test_a_closed_client_leaves_no_descriptor_open(
    make_file: MakeFile, open_descriptors: Callable[[], int]
) -> None:
    before = open_descriptors()
    async with Sandbox(part_size=PART) as box, client(box, ManualClock()) as nunu:
        await asyncio.gather(*(send(nunu, make_file(3 * PART, f"{n}.zip")) for n in range(8)))
    await asyncio.sleep(0)
    assert open_descriptors() <= before
