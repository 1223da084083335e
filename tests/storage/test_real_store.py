"""Builds sent to a real S3 server, by way of an API that the package had no hand in."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from s3_api import API_KEY, PROJECT, Rig

from nunu_async import NunuClient, NunuError, PartDone, UploadedBuild

MIB = 1 << 20
FILE_NAME = "Harbor & Co 2.4+rc1 (win) 100%.zip"
"""Every character here must come through a URL and its signature unharmed."""
BOUND = 40
"""Seconds after which an upload is taken to hang."""


@pytest.fixture
async def nunu(rig: Rig) -> AsyncIterator[NunuClient]:
    async with NunuClient(API_KEY, base_url=rig.url, project_id=PROJECT) as client:
        yield client


def write_build(folder: Path, size: int) -> tuple[Path, str]:
    """A file in which no MiB equals another, and its SHA-256."""
    path = folder / FILE_NAME
    digest = hashlib.sha256()
    noise = os.urandom(MIB)
    with path.open("wb") as file:
        for start in range(0, size, MIB):
            block = (start.to_bytes(8, "big") + noise[8:])[: size - start]
            file.write(block)
            digest.update(block)
    return path, digest.hexdigest()


async def send(nunu: NunuClient, path: Path, **options: Any) -> UploadedBuild:
    usual: dict[str, Any] = {"name": "n", "platform": "windows", "multipart": True}
    async with asyncio.timeout(BOUND):
        return await nunu.upload_build(path, **(usual | {"concurrency": 4} | options))


def assert_nothing_was_sent_after_the_delete(rig: Rig) -> None:
    methods = [request.method for request in rig.requests]
    assert methods.count("DELETE") == 1
    assert "PUT" not in methods[methods.index("DELETE") :]


async def test_a_large_multipart_build_arrives_byte_for_byte(
    rig: Rig, nunu: NunuClient, scratch: Path
) -> None:
    rig.part_size = 16 * MIB
    size = 200 * MIB + 12_345
    path, sha256 = write_build(scratch, size)
    build = await send(nunu, path, verify=True)
    upload = rig.only_upload
    assert (build.build_id, build.object_key) == (upload.build_id, upload.key)
    assert (build.upload_type, build.size, build.parts) == ("multipart", size, 13)
    assert build.verified == 13
    assert await rig.sha256() == sha256
    assert await rig.open_uploads() == []
    assert sorted(put.part or 0 for put in rig.puts()) == list(range(1, 14))
    assert {put.status for put in rig.puts()} == {200}
    assert set(rig.asked().values()) == {1}
    assert rig.violations == []


async def test_a_single_part_build_arrives_byte_for_byte(
    rig: Rig, nunu: NunuClient, scratch: Path
) -> None:
    size = 24 * MIB + 1
    path, sha256 = write_build(scratch, size)
    build = await send(nunu, path, multipart=False, verify=True)
    assert (build.upload_type, build.size, build.parts) == ("single-part", size, 1)
    assert build.verified == 1
    assert await rig.sha256() == sha256
    assert [put.status for put in rig.puts()] == [200]
    assert rig.calls("GET", "/upload/parts") == []
    assert rig.violations == []


@pytest.mark.parametrize(("how", "refusals"), [("expire_next", {400, 403}), ("forge_next", {403})])
async def test_a_refused_part_url_is_signed_anew_once(
    rig: Rig, nunu: NunuClient, scratch: Path, how: str, refusals: set[int]
) -> None:
    """S3 and R2 answer an expired URL with 403; rclone, and R2 in earlier days, with 400."""
    rig.part_size = 5 * MIB
    setattr(rig, how, 3)
    path, sha256 = write_build(scratch, 6 * rig.part_size)
    build = await send(nunu, path)
    assert build.parts == 6
    assert await rig.sha256() == sha256
    spoiled = set(+rig.spoiled)
    assert len(spoiled) == 3
    for part in range(1, 7):
        *refused, last = [put.status for put in rig.puts(part)]
        assert last == 200
        assert len(refused) == (part in spoiled)
        assert set(refused) <= refusals
        assert rig.asked()[part] == 1 + (part in spoiled)
    assert rig.violations == []


async def test_a_cancelled_upload_leaves_nothing_behind(
    rig: Rig, nunu: NunuClient, scratch: Path
) -> None:
    """Cancelled when the first part is in the store and others are on their way."""
    rig.part_size = 5 * MIB
    path, _ = write_build(scratch, 24 * rig.part_size)
    task: asyncio.Task[UploadedBuild]

    def cancel(event: object) -> None:
        if isinstance(event, PartDone):
            task.cancel()

    task = asyncio.create_task(send(nunu, path, on_progress=cancel))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert 200 in {put.status for put in rig.puts()}
    assert len(rig.puts()) < 24
    assert_nothing_was_sent_after_the_delete(rig)
    assert await rig.open_uploads() == []
    assert await rig.keys() == []
    assert rig.violations == []


async def test_a_failed_upload_leaves_nothing_behind(
    rig: Rig, nunu: NunuClient, scratch: Path
) -> None:
    """One part's URL is refused as often as it is asked for."""
    rig.part_size = 5 * MIB
    rig.forged_parts = {3}
    path, _ = write_build(scratch, 6 * rig.part_size)
    with pytest.raises(NunuError):
        await send(nunu, path)
    assert {put.status for put in rig.puts(3)} == {403}
    assert rig.calls("POST", "/upload/complete") == []
    assert_nothing_was_sent_after_the_delete(rig)
    assert await rig.open_uploads() == []
    assert await rig.keys() == []
    assert rig.violations == []


@pytest.mark.parametrize("concurrency", [1, 8])
async def test_any_concurrency_gives_the_same_object(
    rig: Rig, nunu: NunuClient, scratch: Path, concurrency: int
) -> None:
    """The last part is one byte long."""
    rig.part_size = 5 * MIB
    path, sha256 = write_build(scratch, 8 * rig.part_size + 1)
    assert (await send(nunu, path, concurrency=concurrency)).parts == 9
    assert await rig.sha256() == sha256
    assert rig.violations == []
