"""Uploads to the sandbox as most tests make them, and what the server makes of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from doubles import ManualClock

from nunu_async import NunuClient, UploadedBuild
from nunu_async.core.clock import Clock
from nunu_async.sandbox import Sandbox

PART = 256 * 1024
"""The size of a part in the sandbox that the fixture `box` starts."""

MakeFile = Callable[..., Path]
"""The fixture `make_file`."""


def client(box: Sandbox, clock: Clock | None = None, **settings: Any) -> NunuClient:
    """Make a client of this sandbox; without a clock, its pauses pass at once."""
    return NunuClient(box.api_key, base_url=box.base_url, clock=clock or ManualClock(), **settings)


async def send(nunu: NunuClient, path: Path | str, **options: Any) -> UploadedBuild:
    """Upload a file in several parts, unless the options say otherwise."""
    usual: dict[str, Any] = {"name": "n", "platform": "linux", "multipart": True}
    return await nunu.upload_build(path, **(usual | options))


def start(nunu: NunuClient, path: Path | str, **options: Any) -> asyncio.Task[UploadedBuild]:
    """Do the same in a task."""
    return asyncio.ensure_future(send(nunu, path, **options))


def states(box: Sandbox) -> list[str]:
    """Return the state of each upload, in the order they were reserved."""
    return [upload.state for upload in box.uploads.values()]


def stalled(box: Sandbox, operation: str = "put_part") -> int:
    """Count the requests that a fault has left without an answer."""
    return sum(seen.outcome == "stalled" for seen in box.journal.of(operation))


def check_nothing_is_left(box: Sandbox) -> None:
    """Check that no upload is left open, and that none was cancelled once it was complete."""
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
