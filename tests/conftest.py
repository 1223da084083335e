"""What most tests need: a sandbox, a client to it, a clock that does not wait, a file."""

from __future__ import annotations

import asyncio
import gc
import os
import random
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from doubles import ManualClock

from nunu_async import NunuClient
from nunu_async.sandbox import Sandbox

PART = 256 * 1024


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The machine's own NUNU_ variables and proxies must not reach a test, nor one its state."""
    for name in list(os.environ):
        if name.startswith("NUNU_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NUNU_STATE_DIR", str(tmp_path / "nunu state"))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def box() -> AsyncIterator[Sandbox]:
    """A local nunu.ai with parts of 256 KiB."""
    async with Sandbox(part_size=PART) as sandbox:
        yield sandbox


@pytest.fixture
async def nunu(box: Sandbox, clock: ManualClock) -> AsyncIterator[NunuClient]:
    """A client of `box` on `clock`."""
    async with NunuClient(
        box.api_key, project_id=box.project_id, base_url=box.base_url, clock=clock
    ) as client:
        yield client


@pytest.fixture
def make_file(tmp_path: Path) -> Callable[..., Path]:
    """Make a file of reproducible bytes in which no two parts are alike."""

    def make(size: int, name: str = "game.zip") -> Path:
        path = tmp_path / name
        path.write_bytes(random.Random(size).randbytes(size))
        return path

    return make


@pytest.fixture
def open_descriptors() -> Iterator[Callable[[], int]]:
    """Count this process's open descriptors; skip where the system does not list them."""
    listing = Path("/proc/self/fd")
    if not listing.exists():
        pytest.skip("this system does not list open descriptors")

    def count() -> int:
        gc.collect()
        return len(list(listing.iterdir()))

    return count


@pytest.fixture(autouse=True)
async def _quiet() -> AsyncIterator[None]:
    """After each test no task is left over."""
    yield
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert not left, f"tasks left running: {left}"
