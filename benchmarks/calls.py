"""Small typed calls: `nunu.runs.get(id)` beside raw aiohttp and `json.loads`.

Run with `python -m benchmarks.calls`. A run's details are an answer of usual size, and the call is
like every other: a value, the session core, a model. The benchmark serves what the sandbox answers
to it, from a process of its own that does nothing but write those bytes. Each measurement is a
client process of its own, the ways taking turns, after one round that is not counted. Both ways
have the same number of callers, each asking for another run as soon as it is answered, and a pool
with a connection for each; they open those and warm up before the clock starts. CPU is that of the
client's process, user and system. The raw way sends the same headers, checks the status and loads
the body; it has aiohttp's own time limit, and no retry, cap, model, log line or hidden key.
Loopback is not a network: no latency, no loss.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import aiohttp

from benchmarks.apart import SPAWN, Counts, Server, answer, bare_apart
from benchmarks.machine import describe, tell
from nunu_async import NunuClient
from nunu_async.sandbox import Sandbox

TARGET = 1.5
AT_ONCE = (1, 32)
WARM_UP = 200
# Not from the sandbox: what an edge adds to an answer, which a client has to read as well.
EDGE = (
    "Server: edge",
    "X-Request-Id: 0f6d5c3e-6a0e-4b7b-9a55-9f1f1f0b7d11",
    "Cache-Control: private, no-store",
    "Vary: Accept-Encoding",
    "Strict-Transport-Security: max-age=63072000",
)

Call = Callable[[str], Awaitable[str]]


def name_of(number: int) -> str:
    """Return a run's id. Each call has another, as yarl remembers the URLs that it has parsed."""
    return f"run{number:09}"


class Runs:
    """A bare server that answers requests for runs, whatever their ids."""

    def __init__(self, answer: bytes, run_id: str) -> None:
        self._pieces = answer.split(run_id.encode())
        self._requests = 0

    def start(self, url: str) -> None:
        """Learn nothing that matters."""

    def answer(self, _method: str, target: str, _body: bytes) -> tuple[float, bytes]:
        """Return the run that was asked for, at once."""
        self._requests += 1
        return 0.0, target.rpartition("/")[2].encode().join(self._pieces)

    def counts(self) -> Counts:
        """Return how often it was asked."""
        return Counts(requests=Counter(get_run=self._requests))


async def sample() -> tuple[str, bytes, str]:
    """Return a run's id, and what the sandbox answers to who asks for its details, and when."""
    async with Sandbox() as box, aiohttp.ClientSession() as http:
        run = box.add_run(tags=["nightly", "shop"])
        url = f"{box.base_url}/runs/{run.run_id}"
        headers = {"X-Api-Key": box.api_key}
        async with http.get(url, headers=headers, raise_for_status=True) as response:
            return run.run_id, await response.read(), response.headers["Date"]


async def raw(url: str, key: str, times: int, at_once: int) -> dict[str, float]:
    """Ask with aiohttp alone."""
    address = f"{url}/api/v1/runs/"
    headers = {
        "Accept": "application/json",
        "Accept-Encoding": "gzip",
        "User-Agent": "benchmark",
        "X-Api-Key": key,
    }
    connector = aiohttp.TCPConnector(limit=at_once)
    async with aiohttp.ClientSession(connector=connector) as http:

        async def call(run_id: str) -> str:
            async with http.get(address + run_id, headers=headers) as response:
                body = await response.read()
                if response.status != 200:
                    raise RuntimeError(f"status {response.status}")
            answered = json.loads(body)["multiplayer_run_id"]
            assert isinstance(answered, str)
            return answered

        return await play(call, times, at_once)


async def typed(url: str, key: str, times: int, at_once: int) -> dict[str, float]:
    """Ask with the library."""
    async with NunuClient(key, base_url=url, api_concurrency=at_once) as nunu:

        async def call(run_id: str) -> str:
            return (await nunu.runs.get(run_id)).multiplayer_run_id

        return await play(call, times, at_once)


async def play(call: Call, times: int, at_once: int) -> dict[str, float]:
    """Let `at_once` callers share out `times` calls; return what one call took."""

    async def caller(left: Iterator[int]) -> None:
        for number in left:
            run_id = name_of(number)
            if await call(run_id) != run_id:
                raise RuntimeError("another run came than was asked for")

    async def share_out(number: int) -> None:
        left = iter(range(number))
        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(caller(left))

    await share_out(WARM_UP)
    began, spent = time.perf_counter(), time.process_time()
    await share_out(times)
    return {
        "cpu_s": (time.process_time() - spent) / times,
        "wall_s": (time.perf_counter() - began) / times,
    }


WAYS = {"raw": raw, "typed": typed}


def measure(way: str, url: str, key: str, times: int, at_once: int) -> dict[str, float]:
    """Make the calls in this process."""
    return asyncio.run(WAYS[way](url, key, times, at_once))


def alone(way: str, server: Server, times: int, at_once: int) -> dict[str, float]:
    """Make the calls in a process of their own."""
    with ProcessPoolExecutor(1, mp_context=SPAWN) as pool:
        return pool.submit(measure, way, server.url, server.key, times, at_once).result()


def main(argv: list[str] | None = None) -> int:
    """Measure, print a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="1,000 calls, one round")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="write the figures here")
    asked = parser.parse_args(argv)
    times, rounds = (1_000, 1) if asked.short else (10_000, asked.rounds)
    found: dict[tuple[int, str], list[dict[str, float]]] = {
        (at_once, way): [] for at_once in AT_ONCE for way in WAYS
    }
    run_id, body, date = asyncio.run(sample())
    response = answer(body, "Content-Type: application/json; charset=utf-8", f"Date: {date}", *EDGE)
    with bare_apart(Runs(response, run_id)) as server:
        for number in range(rounds + 1):
            for (at_once, way), figures in found.items():
                if number == 0 and asked.short:
                    continue  # a figure from so few calls is no figure; only that it works
                one = alone(way, server, times, at_once)
                if number:  # the first round warms up
                    figures.append(one)
    print(
        f"runs.get, an answer of {len(body)} bytes, {rounds} rounds of {times:,} calls, medians "
        "(min-max)"
    )
    print(f"{'at once':>7} {'way':>6} {'CPU us a call':>21} {'calls/s':>8} {'ratio':>6}")
    rows = []
    for at_once in AT_ONCE:
        base = statistics.median(one["cpu_s"] for one in found[at_once, "raw"])
        for way in WAYS:
            cpu = [one["cpu_s"] for one in found[at_once, way]]
            row = {
                "at_once": at_once,
                "way": way,
                "cpu_s": statistics.median(cpu),
                "calls_per_s": 1 / statistics.median(one["wall_s"] for one in found[at_once, way]),
                "ratio": statistics.median(cpu) / base,
                "rounds": found[at_once, way],
            }
            rows.append(row)
            spread = f"({1e6 * min(cpu):.0f}-{1e6 * max(cpu):.0f})"
            print(
                f"{at_once:>7} {way:>6} {1e6 * statistics.median(cpu):>8.1f} {spread:>12} "
                f"{row['calls_per_s']:>8.0f} {row['ratio']:>6.2f}"
            )
    worst = max(row["ratio"] for row in rows)
    print(f"a typed call takes at most {worst:.2f} times the CPU of a raw one (target: {TARGET:g})")
    tell(describe("aiohttp"), {"rows": rows}, asked.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
