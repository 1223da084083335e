"""Uploads many files concurrently; results come in the order of the files."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias

from nunu_async.core.cancellation import first_of
from nunu_async.errors import InputError, NunuError
from nunu_async.upload.job import BuildFile, UploadResult
from nunu_async.upload.paths import path_key
from nunu_async.upload.progress import UploadEvent
from nunu_async.upload.uploader import Uploader

__all__ = ["FileListener", "check", "upload_all"]

FileListener: TypeAlias = Callable[[BuildFile, UploadEvent], Awaitable[None] | None]


def check(files: Sequence[BuildFile]) -> None:
    """Check all files before anything is sent.

    Raises: InputError for what breaks a documented limit, and for a file that is given twice;
    SourceError for a relative path where the working directory is gone.
    """
    seen: set[tuple[str, str]] = set()
    for file in files:
        try:
            file.request(Path(file.path).name, 1)
        except InputError as error:
            error.add_note(f"of the file {os.fspath(file.path)!a}")
            raise
        # Under another name it is another build.
        key = (path_key(file.path), file.name)
        if key in seen:
            raise InputError("files", f"{os.fspath(file.path)!a} is given twice under one name")
        seen.add(key)


async def upload_all(
    uploader: Uploader,
    files: Sequence[BuildFile],
    *,
    fail_fast: bool,
    on_progress: FileListener | None,
    on_result: Callable[[UploadResult], None] | None,
) -> tuple[UploadResult, ...]:
    """Upload `files`; return a result for each, in the same order.

    A failed one does not stop the others unless `fail_fast`. When this raises, nothing is being
    sent any more, as after a single upload that raises.

    Raises: with `fail_fast` the first failure; what a listener raises.
    """
    results: list[UploadResult | None] = [None] * len(files)
    # One iterator shared by all workers: files are started in order, and none twice.
    waiting = iter(enumerate(files))

    async def work() -> None:
        for number, file in waiting:
            result = await _one(uploader, file, on_progress)
            results[number] = result
            if on_result is not None:
                on_result(result)
            if result.error is not None and (
                fail_fast or isinstance(result.error, asyncio.CancelledError)
            ):
                raise result.error

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(uploader.context.concurrency, len(files))):
                group.create_task(work())
    except BaseExceptionGroup as failures:
        first = first_of(failures)
    else:
        finished = tuple(result for result in results if result is not None)
        if len(finished) < len(files):
            raise asyncio.CancelledError  # from outside: the tasks that send were cancelled
        return finished
    # Outside the `except`, so that the error does not keep the group as its context.
    raise first


async def _one(
    uploader: Uploader, file: BuildFile, on_progress: FileListener | None
) -> UploadResult:
    listener = None if on_progress is None else partial(on_progress, file)
    try:
        return UploadResult(file=file, build=await uploader.upload(file, listener))
    except (NunuError, asyncio.CancelledError) as error:
        return UploadResult(file=file, error=error)  # the caller raises a cancellation again
