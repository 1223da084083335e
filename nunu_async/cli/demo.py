"""`nunu-async demo`: the whole way of a build, on this machine, without a key."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import tempfile
from pathlib import Path

from rich.filesize import decimal

from nunu_async.cli.display import Board, show
from nunu_async.cli.output import count, result, tell
from nunu_async.client import NunuClient
from nunu_async.errors import InputError, NunuError
from nunu_async.models.builds import Platform
from nunu_async.sandbox import Sandbox
from nunu_async.upload.pipeline import UploadedBuild
from nunu_async.upload.platforms import infer_platform
from nunu_async.upload.source import measure

__all__ = ["demo"]

# Nine parts, the last one short.
_PART = 8 * 1024 * 1024
_MADE = 8 * _PART + 4_891_137
_LARGE = 1024**3
# The whole demo may take less than a second, and should still be seen to move.
_LOOK = 0.1


async def demo(arguments: argparse.Namespace) -> int:
    """Upload a file to a sandbox in this process; return 0 only if it arrived byte for byte."""
    with tempfile.TemporaryDirectory(prefix="nunu-demo-") as room:
        given = arguments.file
        try:
            path = Path(given) if given else await asyncio.to_thread(_make, Path(room))
            size = measure(path)
        except (NunuError, OSError) as error:
            tell(f"nunu-async: {error}")
            return 2
        part_size = _PART if size < _LARGE else 100 * 1024 * 1024
        async with Sandbox(directory=Path(room) / "storage", part_size=part_size) as box:
            result(f"A local nunu.ai runs at {box.base_url}; storage has an origin of its own.")
            board = Board({str(path): size})
            try:
                async with NunuClient(
                    box.api_key, project_id=box.project_id, base_url=box.base_url
                ) as nunu:
                    async with show(board, first=_LOOK):
                        build = await nunu.upload_build(
                            path,
                            name="demo",
                            platform=_platform(path.name),
                            multipart=True,
                            on_progress=board.listener(str(path)),
                        )
                    stored = await nunu.builds.get(build.build_id)
            except NunuError as error:
                tell(f"nunu-async: the demo failed: {error}")
                return 1
            _tell(path, build, box)
            here = await asyncio.to_thread(_sha256, path)
            there = await asyncio.to_thread(box.object_sha256, build.build_id)
    same = here == there and stored.size == size
    keyless = not any(
        "x-api-key" in seen.headers for seen in box.journal if seen.origin == "storage"
    )
    result(f"Storage never saw the API key: {'true' if keyless else 'NOT TRUE'}.")
    if same:
        result(f"What arrived is what was sent: SHA-256 {here[:16]}... on both sides.")
    else:
        tell(f"nunu-async: what arrived differs: sent {here}, found {there}")
    return 0 if same and keyless else 1


def _tell(path: Path, build: UploadedBuild, box: Sandbox) -> None:
    rate = build.size / build.seconds if build.seconds else 0
    puts = box.journal.of("put_part")
    result(
        f"Uploaded {path.name}: {decimal(build.size)} in {count(build.parts, 'part')}, "
        f"{build.seconds:.2f} s ({decimal(int(rate))}/s)."
    )
    result(
        f"{count(len(puts), 'PUT')} to storage, at most {box.journal.peak('storage')} at once; "
        f"{len(box.journal) - len(puts)} requests to the API."
    )
    result(f"Build {build.build_id} is complete.")


def _make(room: Path) -> Path:
    path = room / "demo-build.zip"
    with path.open("wb") as file:
        left = _MADE
        while left:
            left -= file.write(os.urandom(min(left, 1024 * 1024)))
    return path


def _platform(file_name: str) -> Platform:
    try:
        return infer_platform(file_name)
    except InputError:
        return "windows"  # the sandbox does not mind, and a demo should not ask


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
