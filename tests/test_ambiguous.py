"""Requests on which the server may have acted unheard: settled, or named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from doubles import ManualClock, answer
from scripted import answered, told

from nunu_async import (
    ApiError,
    ConnectError,
    DecodeError,
    InitiateUpload,
    NunuClient,
    TransportError,
    UploadOutcomeUnknown,
)
from nunu_async.sandbox import Fault, Sandbox

PLAIN = InitiateUpload(name="n", file_name="f.zip", file_size=5, platform="linux")
DELETING = InitiateUpload(
    name="n", file_name="f.zip", file_size=5, platform="linux", auto_delete=True
)
HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n{"
UNHEARD: dict[str, bytes | None] = {
    "dropped": None,
    "500": told({"error": "oops"}, 500),
    "502": answer(502, b"<html>"),
    "504": answer(504),
    "520": answer(520),
    "408": answer(408),
    "no json": answer(200, b"<html>"),
    "empty": answer(200, b""),
    "no ids": told({"upload_type": "multipart"}),
}


# --- Initiate.


@pytest.mark.parametrize("lost", UNHEARD.values(), ids=UNHEARD)
async def test_an_initiate_that_deletes_and_was_not_heard_is_named_and_not_repeated(
    lost: bytes | None,
) -> None:
    async with answered(lost) as wire:
        with pytest.raises(UploadOutcomeUnknown, match="look at the builds") as caught:
            await wire.nunu.builds.initiate_upload(DELETING)
    assert (caught.value.stage, caught.value.build_id) == ("initiate", "")
    assert isinstance(caught.value.__cause__, ApiError | DecodeError | TransportError)
    assert len(wire.lines) == 1


@pytest.mark.parametrize("lost", UNHEARD.values(), ids=UNHEARD)
async def test_an_initiate_that_deletes_nothing_is_not_repeated_either(lost: bytes | None) -> None:
    async with answered(lost) as wire:
        with pytest.raises((ApiError, DecodeError, TransportError)):
            await wire.nunu.builds.initiate_upload(PLAIN)
    assert len(wire.lines) == 1


@pytest.mark.parametrize(("status", "sent"), [(402, 1), (429, 5), (503, 5)])
async def test_a_definite_no_to_an_initiate_that_deletes_stays_one(status: int, sent: int) -> None:
    async with answered(answer(status)) as wire:
        with pytest.raises(ApiError) as caught:
            await wire.nunu.builds.initiate_upload(DELETING)
    assert caught.value.status == status
    assert len(wire.lines) == sent


async def test_an_initiate_that_never_left_is_no_riddle(clock: ManualClock) -> None:
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
