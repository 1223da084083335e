"""Uploads of one file: what arrives, how many parts at once, files that change, arguments."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from contextlib import nullcontext
from pathlib import Path

import pytest
from doubles import Gate, ManualClock, until
from uploads import PART, MakeFile, client, send, states

from nunu_async import (
    ApiError,
    AuthenticationError,
    BuildDetails,
    CommitDetails,
    Completing,
    InitiateUpload,
    InputError,
    NunuClient,
    PartDone,
    QuotaExceeded,
    SourceChanged,
    SourceError,
    TransportError,
    UploadEvent,
    UploadStarted,
    VcsDetails,
)
from nunu_async.sandbox import Fault, Sandbox


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
async def test_the_upload_type_of_the_answer_counts(
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


# --- Concurrency.


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


async def test_a_slow_api_delays_the_senders_only_once(
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


# --- The file.


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
async def test_an_unusable_file_is_refused_before_anything_is_sent(
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


# --- Arguments.


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
async def test_an_argument_out_of_bounds_is_refused_first(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile, wrong: dict[str, object]
) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        await send(nunu, make_file(10), **wrong)
    assert len(box.journal) == 0


async def test_an_ambiguous_extension_is_refused_with_the_choices(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    with pytest.raises(InputError, match=r"windows, macos, linux"):
        await nunu.upload_build(make_file(10, "game.zip"), name="n")
    assert len(box.journal) == 0


# --- Failures.


async def test_a_wrong_key_is_an_authentication_error(
    box: Sandbox, clock: ManualClock, make_file: MakeFile
) -> None:
    async with NunuClient("nunu_wrong_key", base_url=box.base_url, clock=clock) as nunu:
        with pytest.raises(AuthenticationError, match="Invalid API key"):
            await send(nunu, make_file(PART))
    assert box.journal.operations() == ["initiate_upload"]


async def test_one_failed_upload_leaves_its_siblings_alone(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    box.add_fault(Fault(on="initiate_upload", status=400, first=2))
    paths = [make_file(3 * PART + n, f"{n}.zip") for n in range(4)]
    results = await asyncio.gather(*(send(nunu, p) for p in paths), return_exceptions=True)
    assert sum(isinstance(result, ApiError) for result in results) == 1
    assert states(box) == ["completed"] * 3


@pytest.fixture
async def lost_server() -> str:
    """An address on which nothing listens."""
    async with Sandbox() as box:
        return box.base_url


async def test_an_unreachable_server_is_a_transport_error(
    lost_server: str, clock: ManualClock, make_file: MakeFile
) -> None:
    async with NunuClient("nunu_some_key", base_url=lost_server, clock=clock) as nunu:
        with pytest.raises(TransportError):
            await send(nunu, make_file(10))
