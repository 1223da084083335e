"""Rows L: many at once, and how much of it."""

from __future__ import annotations

import asyncio
import hashlib
import random
import tracemalloc
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from fault_case import PART, Cancel, Case
from fault_play import Played
from fault_steps import Step, early, fin, refuse, rst, serve, stop_reading

from nunu_async import NunuClient, SourceError, Timeouts, UploadResult

MIB = 1024 * 1024


def files(path: Path, count: int, size: int) -> list[Path]:
    """Make files no two of which are alike."""
    found = []
    for number in range(count):
        found.append(path.with_name(f"{number}.zip"))
        found[-1].write_bytes(random.Random(number).randbytes(size + number))
    return found


def identical(played: Played, paths: list[Path]) -> None:
    """Compare every build with its file, and the results with what was asked."""
    results: tuple[UploadResult, ...] = played.result
    assert [result.file.path for result in results] == paths
    for path, result in zip(paths, results, strict=True):
        assert result.build is not None, result.error
        build = played.server.builds[result.build.build_id]
        assert build.request["file_name"] == path.name
        assert build.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def batch(count: int, size: int) -> Callable[..., Awaitable[object]]:
    async def operation(nunu: NunuClient, path: Path, played: Played, **more: Any) -> object:
        paths = files(path, count, size)
        asked = {"platform": "linux", "multipart": True} | more
        played.result = await nunu.upload_builds(paths, **asked)
        identical(played, paths)
        return played.result

    return operation


def seeded(seed: int, requests: int, share: float) -> dict[str, list[Step]]:
    """Return faults for this share of the parts' requests, and a few for the others."""
    chance = random.Random(seed)
    kinds = [
        refuse(503, "SlowDown"),
        refuse(500, "InternalError"),
        refuse(403, "AccessDenied", "Request has expired"),
        rst("half"),
        fin("all"),
        early(100, 200, b""),
        serve(etags=()),
    ]
    puts = [chance.choice(kinds) if chance.random() < share else Step() for _ in range(requests)]
    return {
        "put_part": puts,
        "complete_upload": [Step(), fin("all", effect=True), Step(), refuse(503, "x")],
        "get_upload_parts": [Step(), rst(), Step(), Step(), refuse(502, "x")],
        "initiate_upload": [Step(), Step(), refuse(503, "x")],
    }


async def one_is_missing(nunu: NunuClient, path: Path, played: Played) -> object:
    paths = files(path, 5, PART)
    paths[2].unlink()
    results = await nunu.upload_builds(paths, platform="linux")
    assert [result.file.path for result in results] == paths
    assert [result.ok for result in results] == [True, True, False, True, True]
    assert isinstance(results[2].error, SourceError)
    return results


def in_order(count: int) -> Callable[[Played], None]:
    """Return a look at the complete: all parts by number, and not by their text."""

    def also(played: Played) -> None:
        (build,) = played.server.builds.values()
        assert [part["part_number"] for part in build.completed_with] == list(range(1, count + 1))

    return also


def just_in_time(played: Played) -> None:
    """Compare when each URL was asked for with when it was used."""
    batches: dict[int, int] = {}
    asked = played.server.of("get_upload_parts")
    for number, seen in enumerate(asked):
        numbers = [int(text) for text in seen.query["part_numbers"].split(",")]
        assert len(numbers) <= 10
        batches |= dict.fromkeys(numbers, number)
    # What one request behind the next has brought, and what waits in between.
    most = 3 * max(len(s.query["part_numbers"].split(",")) for s in asked) + 8
    for seen in asked:
        first = int(seen.query["part_numbers"].split(",")[0])
        sent = sum(put.arrived < seen.arrived for put in played.server.of("put_part"))
        assert first - sent <= most, "signed too far ahead"


def thrifty(operation: Callable[..., Awaitable[object]], most: int) -> Any:
    """Return the operation, during which the memory of this process has to stay below `most`."""

    async def measured(nunu: NunuClient, path: Path, played: Played, **more: Any) -> object:
        tracemalloc.start()
        try:
            return await operation(nunu, path, played, **more)
        finally:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert peak < most, f"{peak:,} bytes"

    return measured


async def eight_parts(nunu: NunuClient, path: Path, played: Played) -> object:
    return await nunu.upload_build(path, name="n", platform="linux", multipart=True, concurrency=8)


CASES = [
    Case(
        "L2",
        "60-files-5-percent",
        operation=batch(60, 2 * PART),
        steps=seeded(2, 300, 0.05),
        files=60,
        allow={"I4": "many files; each is compared with its build"},
        requests={"put_part": (186, 230), "cancel_upload": 0, "complete_upload": (60, 62)},
    ),
    Case(
        "L2",
        "one-fails",
        operation=one_is_missing,
        files=5,
        requests={"complete_upload": 4, "cancel_upload": 0},
        allow={"I4": "many files"},
    ),
    Case(
        "L3",
        "32-files-8-parts",
        operation=batch(32, 7 * 1024 + 1),
        options={"concurrency": 8},
        settings={"storage_concurrency": 6},
        # Each is held until time moves, which it does when no more can come.
        steps={"put_part": [serve(delay=0.01).repeat(40)]},
        server={"part_size": 1024},
        files=32,
        requests={"put_part": 32 * 8},
        peak={"storage": 6, "api": (1, 32)},
        allow={"I4": "many files; each is compared with its build"},
    ),
    Case(
        "L4",
        "one-slot-each",
        operation=batch(5, 3 * PART),
        options={"concurrency": 8},
        settings={"storage_concurrency": 1, "api_concurrency": 1},
        steps={"put_part": [serve(delay=1.0).repeat(10)]},
        files=5,
        peak={"storage": 1, "api": 1},
        allow={"I4": "many files; each is compared with its build"},
    ),
    Case(
        "L5",
        "120-parts-of-a-slow-link",
        size=120 * 64,
        server={"part_size": 64, "url_life": 2.0},
        steps={"put_part": [Step(drip=(64, 0.1)).always()]},
        options={"concurrency": 4},
        requests={"put_part": 120, "get_upload_parts": (12, 40)},
        seconds=(11.9, 13.0),
        sleeps=0,
        also=just_in_time,
    ),
    Case(
        "L8",
        "storage-reads-nothing",
        operation=thrifty(eight_parts, 12 * MIB),
        size=32 * MIB,
        server={"part_size": 4 * MIB, "receive_buffer": 64 * 1024},
        steps={"put_part": [stop_reading(1).always()]},
        timeouts=Timeouts(stall=1e6, answer=1e6, trickle_rate=0),
        cancel=Cancel(operation="put_part", moment="stuck", nth=8),
        error=asyncio.CancelledError,
        requests={"put_part": 8, "cancel_upload": 1},
    ),
    Case(
        "L9",
        "300-parts",
        size=300 * 16 - 5,
        server={"part_size": 16},
        options={"concurrency": 8},
        requests={"put_part": 300},
        also=in_order(300),
    ),
]
