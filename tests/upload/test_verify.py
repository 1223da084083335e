"""Parts that are compared with what storage has, with `verify`."""

from __future__ import annotations

import pytest
from uploads import PART, MakeFile, send

from nunu_async import NunuClient, Retrying, UploadError, UploadEvent
from nunu_async.sandbox import Fault, Sandbox


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


async def test_the_md5_of_a_part_starts_again_with_each_attempt(
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
