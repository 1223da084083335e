"""An upload of 60 parts over a slow API, with a slow part in each batch, against the ideal.

Run with `python -m benchmarks.schedule`. The server, a process of its own, answers so long after a
request has come: 80 ms on the API, on storage as the table says, and much longer for one part in
each batch. Parts are small, so that nothing else takes time. Wall seconds of `upload_build`,
medians; a process of its own for each run, the ways taking turns.

The ideal is computed from the same delays: initiate, the first request for URLs, then the parts in
order, each on the first sender that is free, URLs always being there; then complete. Lockstep is
what one writes first: ask for a batch of URLs, one for each sender, send them all, wait for all of
them, go on with the next. It is run against the same server with the library's own operations; in
the short form, it is computed.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import heapq
import json
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from urllib.parse import parse_qs

import aiohttp
import attrs
from yarl import URL

from benchmarks.apart import SPAWN, Counts, Server, answer, bare_apart
from benchmarks.machine import describe, tell
from nunu_async import CompletedPart, InitiateUpload, MultipartTicket, NunuClient

PARTS = 60
PART_SIZE = 16 * 1024
API = 0.08
SEED = 7
TARGET = 1.05


@attrs.frozen(kw_only=True)
class Case:
    """How long things take.

    Attributes:
        senders: parts under way at once, and parts in a batch.
        part: seconds, of a usual part.
        slow: seconds, of one part in each batch.
    """

    senders: int
    part: float
    slow: float

    def delays(self) -> list[float]:
        """Return the seconds of each part."""
        chance = random.Random(SEED)  # noqa: S311 - which part of each batch is slow
        delays = [self.part] * PARTS
        for first in range(0, PARTS, self.senders):
            delays[min(first + chance.randrange(self.senders), PARTS - 1)] = self.slow
        return delays

    def ideal(self) -> float:
        """Return the seconds of an upload that is held up by nothing but its parts."""
        free = [0.0] * self.senders
        for delay in self.delays():
            heapq.heapreplace(free, free[0] + delay)
        return 3 * API + max(free)

    def lockstep(self) -> float:
        """Return the seconds where each batch waits for the one before, and nothing else."""
        delays = self.delays()
        starts = range(0, PARTS, self.senders)
        return 2 * API + sum(API + max(delays[n : n + self.senders]) for n in starts)


FULL = (
    Case(senders=4, part=0.1, slow=0.5),
    Case(senders=4, part=0.05, slow=0.5),
    Case(senders=8, part=0.1, slow=1.0),
    Case(senders=16, part=0.1, slow=2.0),
)
SHORT = FULL[:1]


class Slow:
    """A bare server that takes uploads, and its time for each request."""

    def __init__(self, delays: Sequence[float]) -> None:
        self._delays = delays
        self._url = ""
        self._uploads: dict[str, dict[int, bytes]] = {}
        self._requests: Counter[str] = Counter()
        self._objects: dict[str, str] = {}

    def start(self, url: str) -> None:
        """Learn where the parts are to be sent."""
        self._url = url

    def answer(self, method: str, target: str, body: bytes) -> tuple[float, bytes]:
        """Serve one request."""
        path, _, query = target.partition("?")
        if method == "PUT":
            upload_id, number = path.split("/")[2:]
            self._requests["put_part"] += 1
            self._uploads[upload_id][int(number)] = body
            md5 = hashlib.md5(body, usedforsecurity=False).hexdigest()
            return self._delays[int(number) - 1], answer(b"", f'ETag: "{md5}"')
        payload: dict[str, object]
        if method == "GET":
            self._requests["get_upload_parts"] += 1
            asked = parse_qs(query)
            (upload_id,), (numbers,) = asked["upload_id"], asked["part_numbers"]
            payload = {
                "upload_urls": [
                    {"part_number": int(n), "url": f"{self._url}/parts/{upload_id}/{n}"}
                    for n in numbers.split(",")
                ]
            }
        elif path.endswith("/complete"):
            self._requests["complete_upload"] += 1
            upload_id = json.loads(body)["upload_id"]
            parts = self._uploads.pop(upload_id)
            whole = b"".join(parts[number] for number in sorted(parts))
            self._objects[upload_id] = hashlib.sha256(whole).hexdigest()
            payload = {"status": "success", "build_id": upload_id}
        else:
            self._requests["initiate_upload"] += 1
            upload_id = f"upload-{len(self._uploads) + len(self._objects)}"
            self._uploads[upload_id] = {}
            payload = {
                "upload_type": "multipart",
                "build_id": upload_id,
                "object_key": upload_id,
                "upload_id": upload_id,
                "total_parts": PARTS,
                "part_size": PART_SIZE,
            }
        return API, answer(json.dumps(payload).encode(), "Content-Type: application/json")

    def counts(self) -> Counts:
        """Return what it was asked, and what it has got."""
        return Counts(requests=self._requests, objects=self._objects)


async def ours(path: Path, case: Case, nunu: NunuClient) -> None:
    """Send with the library."""
    await nunu.upload_build(
        path, name="schedule", platform="linux", multipart=True, concurrency=case.senders
    )


async def lockstep(path: Path, case: Case, nunu: NunuClient) -> None:
    """Send batch by batch."""
    body = path.read_bytes()  # noqa: ASYNC240 - 1 MiB
    wanted = InitiateUpload(
        name="schedule",
        file_name=path.name,
        file_size=len(body),
        platform="linux",
        multipart=True,
    )
    ticket = await nunu.builds.initiate_upload(wanted)
    assert isinstance(ticket, MultipartTicket)
    etags: dict[int, str] = {}
    async with aiohttp.ClientSession() as http:

        async def put(number: int, url: str) -> None:
            offset = (number - 1) * ticket.part_size
            data = body[offset : offset + ticket.part_size]
            async with http.put(URL(url, encoded=True), data=data) as response:
                response.raise_for_status()
                etags[number] = response.headers["ETag"].strip('"')

        for first in range(1, PARTS + 1, case.senders):
            numbers = range(first, min(first + case.senders, PARTS + 1))
            urls = await nunu.builds.get_upload_parts(ticket, numbers)
            async with asyncio.TaskGroup() as group:
                for url in urls:
                    group.create_task(put(url.part_number, url.url))
    parts = [CompletedPart(part_number=n, etag=etags[n]) for n in sorted(etags)]
    await nunu.builds.complete_upload(ticket, parts)


WAYS = {"ours": ours, "lockstep": lockstep}


async def _measure(way: str, case: Case, path: Path, url: str, key: str) -> float:
    async with NunuClient(key, base_url=url) as nunu:
        began = time.perf_counter()
        await WAYS[way](path, case, nunu)
        return time.perf_counter() - began


def measure(way: str, case: Case, path: Path, url: str, key: str) -> float:
    """Upload in this process; return the seconds."""
    return asyncio.run(_measure(way, case, path, url, key))


def alone(way: str, case: Case, path: Path, server: Server) -> float:
    """Upload in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=SPAWN) as pool:
        return pool.submit(measure, way, case, path, server.url, server.key).result()


def seconds_of(case: Case, path: Path, ways: Sequence[str], rounds: int) -> dict[str, list[float]]:
    """Upload in each way, `rounds` times; return the seconds."""
    found: dict[str, list[float]] = {way: [] for way in ways}
    with bare_apart(Slow(case.delays())) as server:
        for _ in range(rounds):
            for way in ways:
                found[way].append(alone(way, case, path, server))
        counts = server.counts()
    if counts.requests["put_part"] != PARTS * rounds * len(ways):
        raise SystemExit(f"{counts.requests['put_part']} parts arrived; were some sent twice?")
    sent = hashlib.sha256(path.read_bytes()).hexdigest()
    if list(counts.objects.values()) != [sent] * rounds * len(ways):
        raise SystemExit("what arrived is not what was sent")
    return found


def main(argv: list[str] | None = None) -> int:
    """Measure, print a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="one case, one round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here")
    asked = parser.parse_args(argv)
    cases, rounds = (SHORT, 1) if asked.short else (FULL, asked.rounds)
    print(f"{PARTS} parts, {1000 * API:.0f} ms on the API, {rounds} rounds, wall seconds, medians")
    if asked.short:
        print("lockstep is computed, and not run")
    print(
        f"{'senders':>7} {'part ms':>7} {'slow ms':>7} {'ideal':>7} {'ours':>7} {'ratio':>6} "
        f"{'lockstep':>8} {'ratio':>6}"
    )
    rows = []
    with tempfile.TemporaryDirectory(prefix="nunu-bench-") as name:
        path = Path(name) / "build.bin"
        path.write_bytes(random.Random(SEED).randbytes(PARTS * PART_SIZE))  # noqa: S311 - test data
        for case in cases:
            ways = ("ours",) if asked.short else tuple(WAYS)
            found = seconds_of(case, path, ways, rounds)
            ideal = case.ideal()
            took = {way: statistics.median(seconds) for way, seconds in found.items()}
            took.setdefault("lockstep", case.lockstep())
            rows.append(
                attrs.asdict(case)
                | {"ideal_s": ideal, "rounds": found}
                | {f"{way}_s": seconds for way, seconds in took.items()}
                | {f"{way}_ratio": seconds / ideal for way, seconds in took.items()}
            )
            print(
                f"{case.senders:>7} {1000 * case.part:>7.0f} {1000 * case.slow:>7.0f} "
                f"{ideal:>7.3f} {took['ours']:>7.3f} {took['ours'] / ideal:>6.3f} "
                f"{took['lockstep']:>8.3f} {took['lockstep'] / ideal:>6.3f}",
                flush=True,
            )
    worst = max(row["ours_ratio"] for row in rows)
    print(f"ours takes at most {worst:.3f} times the ideal (target: {TARGET:g})")
    tell(describe("aiohttp", seed=SEED), {"rows": rows}, asked.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
