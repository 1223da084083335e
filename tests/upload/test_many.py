"""Many files in one call: one limit, results in the order given, independent failures."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from doubles import ManualClock, until
from uploads import PART, MakeFile, client, states

from nunu_async import (
    BuildFile,
    ClientClosed,
    InputError,
    NunuClient,
    PartDone,
    SourceError,
    UploadError,
    UploadEvent,
    UploadResult,
)
from nunu_async.sandbox import Fault, Sandbox


def files(make_file: MakeFile, count: int, size: int = 1000) -> list[Path]:
    return [make_file(size + number, f"{number}.zip") for number in range(count)]


def hopeless(part: int | None = None) -> Fault:
    return Fault(on="put_part", part=part, status=400, times=1)


async def test_results_come_in_the_order_given(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    paths = files(make_file, 40)
    reported: list[UploadResult] = []
    results = await nunu.upload_builds(paths, platform="windows", on_result=reported.append)
    assert [result.file.path for result in results] == paths
    assert len(reported) == 40
    for path, result in zip(paths, results, strict=True):
        assert result.ok
        assert result.error is None
        assert result.build is not None
        assert box.read_object(result.build.build_id) == path.read_bytes()
        assert box.uploads[result.build.build_id].name == path.name


async def test_one_that_fails_stops_no_other(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile, tmp_path: Path
) -> None:
    box.add_fault(hopeless())
    paths = [*files(make_file, 6), tmp_path / "gone.zip"]
    results = await nunu.upload_builds(paths, platform="windows")
    failed = [result for result in results if not result.ok]
    assert len(failed) == 2
    assert isinstance(failed[0].error, UploadError)
    assert failed[0].error.cancelled is True
    assert isinstance(failed[-1].error, SourceError)
    assert failed[-1] is results[-1]
    assert sorted(states(box)) == ["cancelled", *["completed"] * 5]


async def test_all_files_share_the_limit_of_the_client(
    box: Sandbox, clock: ManualClock, make_file: MakeFile
) -> None:
    paths = files(make_file, 12, 3 * PART)
    async with client(box, clock, storage_concurrency=3) as nunu:
        results = await nunu.upload_builds(paths, platform="windows", multipart=True, concurrency=4)
    assert all(result.ok for result in results)
    assert box.journal.peak("storage") <= 3


async def test_each_file_may_have_settings_of_its_own(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    plain, own = files(make_file, 2, 2 * PART)
    first, second = await nunu.upload_builds(
        [plain, BuildFile(path=own, name="mine", platform="linux", multipart=True, verify=True)],
        name="all",
        platform="windows",
        tags=["nightly"],
    )
    assert first.build is not None
    assert second.build is not None
    asked = {seen.body["name"]: seen.body for seen in box.journal.of("initiate_upload")}
    assert asked["all"]["platform"] == "windows"
    assert asked["all"]["tags"] == ["nightly"]
    assert asked["mine"]["platform"] == "linux"
    assert not asked["mine"].get("tags")
    assert (first.build.verified, second.build.verified) == (None, second.build.parts)


async def test_fail_fast_cancels_the_other_uploads(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    box.add_fault(Fault(on="put_part", do="stall", times=3))
    box.add_fault(Fault(on="put_part", status=400, first=4, times=1))
    with pytest.raises(UploadError, match="400"):
        await nunu.upload_builds(files(make_file, 30), platform="windows", fail_fast=True)
    assert len(box.uploads) < 30
    assert set(states(box)) <= {"cancelled", "completed"}


async def test_wrong_arguments_are_refused_before_anything_is_sent(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    (path, other) = files(make_file, 2)
    for wrong in (
        [path, BuildFile(path=other, name="x" * 256, platform="linux")],
        [path, make_file(9, "no.extension")],
        [path, other, path],
        [path, str(path)],
        [path, path.parent / "no" / ".." / path.name],
    ):
        with pytest.raises(InputError):
            await nunu.upload_builds(wrong)
    assert len(box.journal) == 0


@pytest.mark.parametrize("at_once", [1, 4])
async def test_a_stray_cancellation_of_a_listener_is_an_error(
    box: Sandbox, clock: ManualClock, make_file: MakeFile, at_once: int
) -> None:
    """For example one that awaits a future that other code has cancelled."""
    gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    gone.cancel()

    async def listen(_: BuildFile, __: UploadEvent) -> None:
        await gone

    async with client(box, clock, storage_concurrency=at_once) as nunu:
        with pytest.raises(RuntimeError, match="nobody did that"):
            await nunu.upload_builds(files(make_file, 5), platform="linux", on_progress=listen)
    assert set(states(box)) <= {"cancelled", "completed"}


async def test_the_same_file_under_two_names_is_two_builds(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    path = make_file(1000)
    two = [BuildFile(path=path, name=name, platform="linux") for name in ("a", "b")]
    results = await nunu.upload_builds(two)
    assert len({result.build.build_id for result in results if result.build}) == 2
    assert len(box.uploads) == 2


async def test_no_files_are_no_results(nunu: NunuClient) -> None:
    assert await nunu.upload_builds([]) == ()


async def test_a_cancelled_call_cancels_and_reports_every_upload(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    box.add_fault(Fault(on="put_part", do="stall", times=None))
    reported: list[UploadResult] = []
    task = asyncio.ensure_future(
        nunu.upload_builds(files(make_file, 20), platform="windows", on_result=reported.append)
    )
    await until(lambda: len(box.journal.of("put_part")) == 16)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert set(states(box)) == {"cancelled"}
    assert len(reported) == 16
    for result in reported:
        assert isinstance(result.error, asyncio.CancelledError)
        assert "was cancelled on the server" in result.error.__notes__[0]


async def test_closing_the_client_fails_what_is_not_complete(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    box.add_fault(Fault(on="put_part", do="stall", times=None))
    task = asyncio.ensure_future(nunu.upload_builds(files(make_file, 20), platform="windows"))
    await until(lambda: len(box.journal.of("put_part")) == 16)
    await nunu.close()
    results = await task
    assert len(results) == 20
    assert all(isinstance(result.error, ClientClosed) for result in results)
    assert set(states(box)) == {"cancelled"}


async def test_on_progress_gets_the_file_and_may_end_all(
    box: Sandbox, nunu: NunuClient, make_file: MakeFile
) -> None:
    paths = files(make_file, 4)
    seen: set[object] = set()

    async def note(file: BuildFile, event: UploadEvent) -> None:
        seen.add(file.path)
        if isinstance(event, PartDone) and len(seen) == 4:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        await nunu.upload_builds(paths, platform="windows", on_progress=note)
    assert seen == set(paths)
    assert set(states(box)) <= {"cancelled", "completed"}


async def test_a_client_can_be_closed_at_any_turn(box: Sandbox, make_file: MakeFile) -> None:
    """Also while a thread examines names and files."""
    (path,) = files(make_file, 1)
    for turns in range(25):
        nunu = NunuClient(box.api_key, base_url=box.base_url)
        uploading = asyncio.ensure_future(nunu.upload_builds([path], platform="linux"))
        for _ in range(turns):
            await asyncio.sleep(0)
        await nunu.close()
        try:
            (result,) = await uploading
        except ClientClosed:
            continue
        assert result.error is None or isinstance(result.error, ClientClosed)
