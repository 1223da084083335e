"""Many small builds through one client: 2,000 files of 64 KiB with `upload_builds`.

Run with `python -m benchmarks.files`. The sandbox has a process of its own, keeps what it gets in
memory, computes the MD5 of it, and counts requests and connections; that each file arrived as it
is, is checked. Files per second are mostly the sandbox's. CPU is that of the client's process,
user and system, from the call to its return. Each row is the median of `--rounds` whole processes,
the ways taking turns. The raw way makes the same three requests for each file with aiohttp alone,
as many at once, reading each file whole. Loopback is not a network: no latency, no loss.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import aiohttp
from yarl import URL

from benchmarks.apart import SPAWN, Server, sandbox_apart
from benchmarks.machine import describe, tell
from nunu_async import NunuClient

SIZE = 64 * 1024
SEED = 7
# What a client opens at most by default, urgent requests to the API included.
STORAGE_AT_ONCE = 16
MOST_CONNECTIONS = (32 + 4, STORAGE_AT_ONCE)
MOST_REQUESTS = 3


async def ours(paths: Sequence[Path], url: str, key: str) -> dict[str, float]:
    """Send with the library."""
    async with NunuClient(key, base_url=url) as nunu:
        began, spent = time.perf_counter(), time.process_time()
        results = await nunu.upload_builds(paths, platform="linux")
        took = {"cpu_s": time.process_time() - spent, "wall_s": time.perf_counter() - began}
    for result in results:
        if result.error is not None:
            raise result.error
    return took


async def raw(paths: Sequence[Path], url: str, key: str) -> dict[str, float]:
    """Send with aiohttp alone."""
    headers = {"X-Api-Key": key}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, raise_for_status=True) as http:

        async def send(path: Path) -> None:
            data = path.read_bytes()  # noqa: ASYNC240 - 64 KiB that were written a moment ago
            wanted = {
                "name": path.name,
                "file_name": path.name,
                "file_size": len(data),
                "platform": "linux",
                "multipart": False,
            }
            address = f"{url}/api/v1/builds/upload"
            async with http.post(address, json=wanted, headers=headers) as response:
                ticket = json.loads(await response.read())
            put = URL(ticket["upload_url"], encoded=True)
            plain = {"Content-Type": "application/octet-stream"}
            async with http.put(put, data=data, headers=plain) as response:
                await response.read()
            sent = {
                "upload_type": "single-part",
                "build_id": ticket["build_id"],
                "object_key": ticket["object_key"],
            }
            async with http.post(f"{address}/complete", json=sent, headers=headers) as response:
                await response.read()

        async def sender(left: Iterator[Path]) -> None:
            for path in left:
                await send(path)

        left = iter(paths)
        began, spent = time.perf_counter(), time.process_time()
        async with asyncio.TaskGroup() as group:
            for _ in range(STORAGE_AT_ONCE):
                group.create_task(sender(left))
        return {"cpu_s": time.process_time() - spent, "wall_s": time.perf_counter() - began}


WAYS = {"ours": ours, "raw": raw}


def measure(way: str, paths: Sequence[Path], url: str, key: str) -> dict[str, float]:
    """Send from this process."""
    return asyncio.run(WAYS[way](paths, url, key))


def alone(way: str, paths: Sequence[Path], server: Server) -> dict[str, float]:
    """Send from a process of its own."""
    with ProcessPoolExecutor(1, mp_context=SPAWN) as pool:
        return pool.submit(measure, way, paths, server.url, server.key).result()


def once(way: str, paths: Sequence[Path], sent: Sequence[str]) -> dict[str, float]:
    """Send to a sandbox that has seen nothing yet; return what it took, and what was counted."""
    with sandbox_apart() as server:
        took = alone(way, paths, server)
        counts = server.counts()
    if sorted(counts.objects.values()) != sorted(sent):
        raise SystemExit("what arrived is not what was sent")
    return {
        "cpu_s": took["cpu_s"] / len(paths),
        "files_per_s": len(paths) / took["wall_s"],
        "requests": counts.requests.total() / len(paths),
        "api_connections": counts.connections[0],
        "storage_connections": counts.connections[1],
        "api_peak": counts.peaks[0],
        "storage_peak": counts.peaks[1],
    }


def make(room: Path, count: int) -> tuple[list[Path], list[str]]:
    """Write files, no two alike; return their paths and SHA-256."""
    chance = random.Random(SEED)  # noqa: S311 - test data
    paths = [room / f"build-{number:05}.zip" for number in range(count)]
    sent = []
    for path in paths:
        data = chance.randbytes(SIZE)
        path.write_bytes(data)
        sent.append(hashlib.sha256(data).hexdigest())
    return paths, sent


def judge(rows: dict[str, list[dict[str, float]]]) -> bool:
    """Print what was promised and what came of it; tell whether it was kept."""
    worst = {name: max(row[name] for row in rows["ours"]) for name in rows["ours"][0]}
    lines = (
        ("requests for each file", worst["requests"], MOST_REQUESTS),
        ("connections to the API", worst["api_connections"], MOST_CONNECTIONS[0]),
        ("connections to storage", worst["storage_connections"], MOST_CONNECTIONS[1]),
    )
    for text, figure, most in lines:
        print(f"{'kept' if figure <= most else 'MISSED'}: {text} {figure:g} (at most {most})")
    return all(figure <= most for _, figure, most in lines)


def main(argv: list[str] | None = None) -> int:
    """Measure, print a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="100 files, one round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here")
    asked = parser.parse_args(argv)
    count, rounds = (100, 1) if asked.short else (2_000, asked.rounds)
    rows: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(prefix="nunu-bench-") as name:
        paths, sent = make(Path(name), count)
        for _ in range(rounds):
            for way, found in rows.items():
                found.append(once(way, paths, sent))
    print(f"{count:,} files of {SIZE // 1024} KiB, {rounds} rounds, medians (min-max)")
    print(
        f"{'way':>5} {'CPU ms a file':>19} {'ratio':>6} {'files/s':>8} {'requests':>8} "
        f"{'API conns':>9} {'storage conns':>13}"
    )
    base = statistics.median(row["cpu_s"] for row in rows["raw"])
    for way, found in rows.items():
        median = {name: statistics.median(row[name] for row in found) for name in found[0]}
        cpu = [1000 * row["cpu_s"] for row in found]
        spread = f"{statistics.median(cpu):.2f} ({min(cpu):.2f}-{max(cpu):.2f})"
        print(
            f"{way:>5} {spread:>19} {median['cpu_s'] / base:>6.2f} {median['files_per_s']:>8.0f} "
            f"{median['requests']:>8.2f} {median['api_connections']:>9.0f} "
            f"{median['storage_connections']:>13.0f}"
        )
    is_kept = judge(rows)
    tell(describe("aiohttp", seed=SEED), {"rows": rows}, asked.json)
    return 0 if is_kept else 1


if __name__ == "__main__":
    sys.exit(main())
