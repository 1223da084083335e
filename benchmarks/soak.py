"""The client for a long time beside a server that fails, and what it leaves behind.

Run with `python -m benchmarks.soak`. A process of its own runs one client against a sandbox in
another, at some 50 requests a second, of which 5% fail: 503 and 429 with and without
`Retry-After`, 500, connections cut before and after the effect, answers lost or withheld,
expired URLs, and, to uploads that verify, flipped bits and early 200s. It lists, reads, starts,
stops and waits, and uploads five files at once, in one part, in several, verified or resumable;
one in four is cancelled at a random moment, and every few seconds a client is closed amid its
work. All of it follows from `--seed`, but for what the machine's timing decides.

What must be 0 decides the exit code, and that tasks, descriptors and threads are back where they
began. Retries multiply requests by (requests the sandbox got) / (first attempts of API calls, and
parts), asking for the build after a lost complete not counted as a call. An upload is no orphan
if the answer to its initiate was lost: no client could have cancelled it. One that was given up
while a complete had failed in a way that may have worked is left alone by the client, which says
so, and is counted apart.

Memory is what the process has after free memory was given back to the system, with one arena of
malloc's for all threads: it would take long for what several keep free to stop growing, and to
tell that from a leak. It is judged by its slope where the run is long enough for one, else by its
growth.

Other modes: `--outage`, `--storm` and `--files`; see their functions. Needs Linux's /proc.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import faulthandler
import gc
import hashlib
import heapq
import itertools
import logging
import math
import os
import random
import re
import resource
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import attrs

from benchmarks import machine
from benchmarks.faulty import SLOW, SPAWN, KiB, Server, Setup, faulty_sandbox
from nunu_async import (
    BuildFile,
    ClientClosed,
    NotFound,
    NunuClient,
    NunuError,
    Timeouts,
    WaitTimeout,
)
from nunu_async.core.clock import SystemClock, Timer

R = TypeVar("R")
Mode = Callable[["Course"], dict[str, Any]]

MIB = 1024 * KiB
SHARE = 0.05
# So short that a request which is never answered does not take the whole time.
TIMEOUTS = Timeouts(connect=5, attempt=2, call=30, complete=20, stall=3, answer=2)
OUTAGE = 30.0  # seconds
SLOTS = 16  # parts at once
PATIENCE = 120.0  # seconds for what comes after the load
UPLOADERS, CALLERS, WAITERS = 5, 8, 6

MOST_SLOPE = 2.0  # MiB/h
LEAST_FOR_SLOPE = 900.0  # seconds; below, noise looks like a slope
MOST_GROWTH = 8.0  # MiB
MOST_AMPLIFICATION = 1.10


_LEFT_ALONE = re.compile(r"build (\S+?):? (?:may be complete|the server did not say)")


# glibc's; other systems are measured as they are.
_TRIM = getattr(ctypes.CDLL(None), "malloc_trim", None)


# What is searched for, and what is measured.


class Scanner(logging.Handler):
    """Searches for secrets in every log record, and counts first attempts by the way."""

    def __init__(self, key: str) -> None:
        super().__init__(logging.DEBUG)
        self._secret = re.compile(
            re.escape(key)
            + r"|mpu-[\w-]{8}|X-Amz-(Signature|Credential|Date|Security-Token)="
            + r"|X-Until=|(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])"
        )
        self._formatter = logging.Formatter()
        self.records = 0
        self.found = 0
        self.complaints = 0
        self.first_attempts = 0
        self.builds_read = 0
        self.left_alone: set[str] = set()
        """Builds that may be complete, as the client says; few."""
        self.examples: list[str] = []
        for secret in (key, "mpu-0123456789", "?X-Amz-Signature=", "a" * 64):
            if not self._secret.search(f"it was {secret}."):
                raise SystemExit("the scanner is blind")

    def emit(self, record: logging.LogRecord) -> None:
        """Look at one record: its text, its arguments, its exception."""
        self.records += 1
        text = self._formatter.format(record)
        self.look(f"{record.name} {text} {record.args!r}")
        if record.name in ("asyncio", "py.warnings") and record.levelno >= logging.WARNING:
            self.complain(text)
        args = record.args
        if record.name == "nunu_async.core" and isinstance(args, tuple) and len(args) == 5:
            # "%s %s attempt %d: %s in %.0f ms"
            self.first_attempts += args[2] == 1
            self.builds_read += args[1:3] == ("/builds/{buildId}", 1)

    def error(self, error: BaseException) -> None:
        """Look at all that an exception shows: text, notes, chain."""
        formatted = traceback.TracebackException.from_exception(error)
        text = "".join(formatted.format(chain=True))
        self.look(text)
        self.left_alone |= set(_LEFT_ALONE.findall(text))
        seen: set[int] = set()
        waiting: list[BaseException | None] = [error]
        while waiting:
            link = waiting.pop()
            if link is None or id(link) in seen:
                continue
            seen.add(id(link))
            self.look(f"{link!r} {link} {link.args!r} {getattr(link, '__notes__', ())}")
            waiting += [link.__cause__, link.__context__]

    def look(self, text: str) -> None:
        """Look at a text."""
        found = self._secret.search(text)
        if found:
            self.found += 1
            if len(self.examples) < 5:
                self.examples.append(text[max(0, found.start() - 200) : found.end() + 40])

    def complain(self, text: str) -> None:
        """Take note of what Python itself complains of: nothing unclosed, nothing unheard."""
        self.complaints += 1
        if len(self.examples) < 5:
            self.examples.append(text[:2000])


@attrs.define
class Line:
    """A straight line through points that are not kept."""

    _sums: list[float] = attrs.field(factory=lambda: [0.0] * 5)

    def add(self, x: float, y: float) -> None:
        """Take a point."""
        for place, value in enumerate((1.0, x, y, x * x, x * y)):
            self._sums[place] += value

    @property
    def slope(self) -> float:
        """That of least squares; not a number below two points."""
        n, x, y, xx, xy = self._sums
        below = n * xx - x * x
        return (n * xy - x * y) / below if n > 1 and below else math.nan


@attrs.define
class Gauge:
    """One figure over time."""

    start: float = math.nan
    most: float = 0.0
    end: float = math.nan
    line: Line = attrs.field(factory=Line)
    first: list[float] = attrs.field(factory=list)
    """The first ten after warming up, whose mean is the start of a slope."""
    last: deque[float] = attrs.field(factory=lambda: deque(maxlen=10))

    def add(self, at: float, value: float, *, is_warm: bool) -> None:
        """Take a sample."""
        self.most = max(self.most, value)
        self.last.append(value)
        if is_warm:
            self.line.add(at, value)
            if len(self.first) < 10:
                self.first.append(value)

    @property
    def growth(self) -> float:
        """From the mean of the first ten samples after warming up to that of the last ten."""
        if not self.first:
            return math.nan
        return sum(self.last) / len(self.last) - sum(self.first) / len(self.first)

    def summary(self) -> dict[str, float]:
        """Return start, most and end."""
        return {"start": self.start, "max": self.most, "end": self.end}


def resident() -> float:
    """Return this process's memory in MiB, without what malloc keeps for later."""
    if _TRIM is not None:
        _TRIM(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / MIB


def descriptors() -> int:
    """Count this process's descriptors, but for the one that lists them."""
    return len(os.listdir("/proc/self/fd")) - 1  # noqa: PTH208 - names are all that is wanted


def tasks() -> int:
    """Count the tasks of the loop."""
    return len(asyncio.all_tasks())


@attrs.define
class Meter:
    """Samples the process, and how late the loop is all the time."""

    warm_up: float
    every: int = 100
    """So many turns of 10 ms to a sample."""
    began: float = attrs.field(factory=time.monotonic)
    memory: Gauge = attrs.field(factory=Gauge)
    fds: Gauge = attrs.field(factory=Gauge)
    tasks: Gauge = attrs.field(factory=Gauge)
    threads: Gauge = attrs.field(factory=Gauge)
    lags: list[int] = attrs.field(factory=lambda: [0] * 2001)
    """How often a turn of the loop came so many milliseconds late; the last, or later."""
    most_lag: float = 0.0

    def mark(self, name: str) -> None:
        """Take `start` or `end`."""
        gc.collect()
        for gauge, value in self._now():
            setattr(gauge, name, value)

    def is_back(self) -> bool:
        """Tell whether all but memory is where it was at the start."""
        return all(value <= gauge.start for gauge, value in self._now()[1:])

    def _now(self) -> tuple[tuple[Gauge, float], ...]:
        return (
            (self.memory, resident()),
            (self.fds, descriptors()),
            (self.tasks, tasks()),
            (self.threads, threading.active_count()),
        )

    async def run(self) -> None:
        """Sample until cancelled."""
        due = time.monotonic()
        for turn in itertools.count(1):
            await asyncio.sleep(0.01)
            lag = time.monotonic() - due - 0.01
            self.lags[min(2000, max(0, int(lag * 1000)))] += 1
            self.most_lag = max(self.most_lag, lag)
            if turn % self.every == 0:
                at = time.monotonic() - self.began
                for gauge, value in self._now():
                    gauge.add(at, value, is_warm=at >= self.warm_up)
            due = time.monotonic()

    def lag_p99(self) -> float:
        """Return in milliseconds what 99 of 100 turns did not exceed."""
        wanted = 0.99 * sum(self.lags)
        so_far = 0
        for late, count in enumerate(self.lags):
            so_far += count
            if so_far >= wanted:
                return late + 1.0
        return math.inf


# The load.


@attrs.define
class Turns:
    """Hands out moments, so many a second."""

    rate: float
    _next: float = 0.0

    async def __call__(self) -> None:
        """Wait for the next."""
        now = time.monotonic()
        self._next = max(self._next + 1 / self.rate, now)
        await asyncio.sleep(self._next - now)


@attrs.frozen
class Build:
    """A file to be uploaded; its name is its SHA-256, which the sandbox compares."""

    path: Path
    name: str


def make_builds(room: Path, sizes: list[int], chance: random.Random) -> list[Build]:
    """Write files of random bytes."""
    found = []
    for number, size in enumerate(sizes):
        data = chance.randbytes(size)
        path = room / f"{number}.bin"
        path.write_bytes(data)
        found.append(Build(path, hashlib.sha256(data).hexdigest().upper()))
    return found


class Load:
    """All that is done with a client for a while."""

    def __init__(
        self, server: Server, scanner: Scanner, chance: random.Random, builds: list[Build]
    ) -> None:
        self._details = server.details
        self._scanner = scanner
        self._chance = chance
        self._builds = builds
        self._runs: deque[str] = deque(maxlen=100)
        self._jobs: deque[str] = deque(maxlen=100)
        self._is_over = False
        self.left: dict[str, tuple[Build, dict[str, Any]]] = {}
        """By worker, an upload that waits to be resumed."""
        self.counts: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()

    def client(self, **settings: Any) -> NunuClient:  # noqa: ANN401 - passed on
        """Make a client of the sandbox."""
        return NunuClient(
            self._details["api_key"],
            base_url=self._details["base_url"],
            timeout=TIMEOUTS,
            **settings,
        )

    async def run(self, nunu: NunuClient, seconds: float) -> None:
        """Load the client for so long; what is under way then is cancelled, and awaited."""
        calls, uploads, waits = Turns(25.0), Turns(3.5), Turns(1.5)
        workers = [
            *(self._repeat(self._call, nunu, calls) for _ in range(CALLERS)),
            *(self._repeat(self._wait, nunu, waits) for _ in range(WAITERS)),
            *(self._uploads(nunu, f"{number}", uploads) for number in range(UPLOADERS)),
            self._repeat(self._close_amid, nunu, Turns(1 / 8)),
        ]
        load = [asyncio.create_task(worker) for worker in workers]
        done, _ = await asyncio.wait(load, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        self._is_over = True
        for task in load:
            task.cancel()
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*load, return_exceptions=True)
        for task in done:
            task.result()

    async def finish_left(self, nunu: NunuClient) -> None:
        """Complete what was left to be resumed."""
        for build, how in self.left.values():
            await nunu.upload_build(build.path, name=build.name, platform="linux", **how)
            self.counts["uploads resumed at the end"] += 1

    async def _repeat(
        self,
        work: Callable[[NunuClient], Coroutine[object, object, None]],
        nunu: NunuClient,
        turns: Turns,
    ) -> None:
        while not self._is_over:
            await turns()
            await self._heard(work(nunu), work.__name__.strip("_"))

    async def _heard(self, work: Awaitable[Any], what: str) -> Any:  # noqa: ANN401 - its own
        """Wait for something; failures that may be are counted, and all are examined."""
        try:
            return await work
        except NunuError as error:
            self._scanner.error(error)
            self.failures[f"{what}: {type(error).__name__}"] += 1
        except asyncio.CancelledError as error:
            self._scanner.error(error)
            raise
        except Exception as error:  # noqa: BLE001 - counted, and the load goes on
            # Whatever is no error of the library's own must not leave it.
            self._scanner.error(error)
            self._scanner.complain("".join(traceback.format_exception(error)))
        return None

    async def _call(self, nunu: NunuClient) -> None:
        chance, details = self._chance, self._details
        self.counts["calls"] += 1
        match chance.randrange(20):
            case 0:
                started = await nunu.runs.start(
                    deployment_config_id=details["config"], multiplayer_test_id=details["test"]
                )
                self._jobs.extend(started.job_ids)
            case 1 if self._jobs:
                await nunu.runs.stop([chance.choice(self._jobs)])
            case 2 | 3 if self._jobs:
                await nunu.jobs.get(chance.choice(self._jobs))
            case 4 | 5 | 6 | 7 if self._runs:
                await nunu.runs.get(chance.choice(self._runs))
            case 8 | 9 if self._runs:
                await nunu.runs.bugs(chance.choice(self._runs))
            case 10 | 11 | 12:
                await nunu.jobs.list_page(page_size=20)
            case 13 | 14:
                await nunu.test_plan_executions.list_page(page_size=20)
            case _:
                page = await nunu.runs.list_page(page=chance.randrange(5), page_size=20)
                self._runs.extend(run.multiplayer_run_id for run in page.data[:3])

    async def _wait(self, nunu: NunuClient) -> None:
        """Start something and wait for it; some are cancelled, some run out of time."""
        chance, details = self._chance, self._details
        self.counts["waits"] += 1
        timeout = chance.choice((0.2, 1.0, 20.0, 20.0, 20.0))
        if chance.random() < 0.2:
            started = await nunu.runs.start(
                deployment_config_id=details["config"], test_plan_id=details["plan"]
            )
            wait: Coroutine[Any, Any, Any]
            if started.test_plan_execution_id is None:
                return
            wait = nunu.wait_for_execution(
                started.test_plan_execution_id, timeout=timeout, interval=0.5
            )
        elif chance.random() < 0.3 and self._runs:
            wait = nunu.wait_for_run(chance.choice(self._runs), timeout=timeout, interval=0.5)
        else:
            started = await nunu.runs.start(
                deployment_config_id=details["config"], multiplayer_test_id=details["test"]
            )
            wait = nunu.wait_for_jobs(started.job_ids, timeout=timeout, interval=0.5)
        with contextlib.suppress(WaitTimeout):
            if await self._or_cancelled(wait, 0.2, 4.0) is not None:
                self.counts["waits to the end"] += 1

    async def _or_cancelled(
        self, work: Coroutine[Any, Any, R], share: float, most: float
    ) -> R | None:
        """Do it, or cancel it at some moment; None then."""
        task = asyncio.ensure_future(work)
        delay = self._chance.random() * most if self._chance.random() < share else None
        try:
            await asyncio.wait({task}, timeout=delay)
        finally:
            task.cancel()
            while not task.done():  # a second cancellation must not leave it behind
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait({task})
            if not task.cancelled():
                task.exception()  # retrieved, also where a cancellation is what is raised
        try:
            return task.result()
        except asyncio.CancelledError as error:
            self._scanner.error(error)
            return None

    async def _uploads(self, nunu: NunuClient, worker: str, turns: Turns) -> None:
        while not self._is_over:
            await turns()
            build, how = self.left.get(worker) or self._next_upload(worker)
            if how.get("resume"):
                self.left[worker] = build, how
            if await self._heard(self._upload(nunu, build, how), "upload"):
                self.left.pop(worker, None)

    def _next_upload(self, worker: str) -> tuple[Build, dict[str, Any]]:
        chance = self._chance
        build = chance.choice(self._builds)
        match chance.randrange(5):
            case 0:
                return build, {"multipart": False}
            case 1:
                return build, {"multipart": False, "verify": True, "tags": ["verify"]}
            case 2:
                return build, {"multipart": True, "concurrency": chance.randint(1, 6)}
            case 3:
                return build, {"multipart": True, "verify": True, "tags": ["verify"]}
            case _:
                # The description makes it another upload than another worker's of the same file.
                return build, {"multipart": True, "resume": True, "description": worker}

    async def _upload(self, nunu: NunuClient, build: Build, how: dict[str, Any]) -> bool:
        """Upload; tell whether it is complete, which is made sure of."""
        self.counts["uploads"] += 1
        upload = nunu.upload_build(build.path, name=build.name, platform="linux", **how)
        try:
            done = await self._or_cancelled(upload, 0.25, self._chance.choice((0.02, 0.1, 1.0)))
        except NunuError:
            self.counts["uploads failed"] += 1
            raise
        except asyncio.CancelledError:
            self.counts["uploads cancelled"] += 1
            raise
        if done is None:
            self.counts["uploads cancelled"] += 1
            return False
        self.counts["uploads completed"] += 1
        self.counts["builds read"] += 1
        try:
            found = await nunu.builds.get(done.build_id)
        except NotFound:
            self.counts["builds lost"] += 1
        except NunuError as error:
            self._scanner.error(error)
        else:
            self.counts["builds lost"] += found.size != build.path.stat().st_size
        return True

    async def _close_amid(self, nunu: NunuClient) -> None:
        """Close another client while it works."""
        del nunu
        self.counts["clients closed"] += 1
        other = self.client(storage_concurrency=3)
        work = [
            *(self._upload_closed(other, self._chance.choice(self._builds)) for _ in range(4)),
            self._heard(other.runs.list_page(), "closed"),
            self._heard(other.wait_for_run(self._runs[0], timeout=20.0), "closed")
            if self._runs
            else asyncio.sleep(0),
        ]
        under_way = asyncio.gather(*work, return_exceptions=True)
        try:
            await asyncio.sleep(self._chance.choice((0.01, 0.1, 0.5)) * self._chance.random())
        finally:
            both: set[asyncio.Future[Any]] = {asyncio.ensure_future(other.close()), under_way}
            while not all(one.done() for one in both):
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait(both)
            for outcome in [*under_way.result(), *(one.exception() for one in both)]:
                if isinstance(outcome, BaseException):  # also an unrequested cancellation
                    self._scanner.complain(f"of a closed client: {outcome!r}")

    async def _upload_closed(self, nunu: NunuClient, build: Build) -> None:
        self.counts["uploads"] += 1
        multipart = self._chance.random() < 0.7
        try:
            await nunu.upload_build(
                build.path, name=build.name, platform="linux", multipart=multipart
            )
            self.counts["uploads completed"] += 1
        except NunuError as error:
            self._scanner.error(error)
            how = "cancelled" if isinstance(error, ClientClosed) else "failed"
            self.counts[f"uploads {how}"] += 1


# One process, one run.


@attrs.frozen(kw_only=True)
class Course:
    """What is run: so many seconds, or so many files, or so many uploads."""

    seed: int
    seconds: float = 0.0
    count: int = 0


@contextlib.contextmanager
def everything_logged(key: str) -> Iterator[Scanner]:
    """Give every log record at DEBUG to a scanner, Python's warnings with them."""
    scanner = Scanner(key)
    root = logging.getLogger()
    root.setLevel(logging.DEBUG)
    root.addHandler(scanner)
    logging.captureWarnings(capture=True)
    warnings.simplefilter("always", ResourceWarning)
    try:
        yield scanner
    finally:
        root.removeHandler(scanner)


@contextlib.asynccontextmanager
async def metered(meter: Meter) -> AsyncIterator[None]:
    """Measure from here to where everything is back, for which there are ten seconds."""
    await asyncio.sleep(0)
    meter.mark("start")
    sampling = asyncio.create_task(meter.run())
    try:
        yield
    finally:
        sampling.cancel()
        await asyncio.wait({sampling})
        for _ in range(100):
            gc.collect()
            if meter.is_back():
                break
            await asyncio.sleep(0.1)
        meter.mark("end")


def soak(course: Course) -> dict[str, Any]:
    """Load a client for some minutes."""
    chance = random.Random(course.seed)  # noqa: S311 - what is done when is no secret
    sizes = [1, 7, 64 * KiB, 256 * KiB, 256 * KiB + 1, 512 * KiB, 1 * MIB, 2 * MIB]
    sizes += [chance.randrange(1, 2 * MIB) for _ in range(24)]
    with (
        tempfile.TemporaryDirectory(prefix="nunu-soak-") as name,
        faulty_sandbox(Setup(seed=course.seed, share=SHARE)) as server,
        everything_logged(server.details["api_key"]) as scanner,
    ):
        builds = make_builds(Path(name), sizes, chance)
        load = Load(server, scanner, chance, builds)
        meter = Meter(min(300.0, course.seconds / 4))
        asyncio.run(_soak(server, load, meter, course.seconds, Path(name) / "state"))
        report = server.report()
        del report["most_parts"]
    meant = scanner.first_attempts - (scanner.builds_read - load.counts["builds read"])
    requests = sum(report["requests"].values())
    meant += report.get("parts_meant", 0)
    results = {
        "load": dict(load.counts),
        "failures": dict(sorted(load.failures.items())),
        "sandbox": report,
        "requests": requests,
        "amplification": requests / meant,
        "memory": meter.memory.summary(),
        "memory_slope_mib_h": meter.memory.line.slope * 3600,
        "memory_growth_mib": meter.memory.growth,
        "fds": meter.fds.summary(),
        "tasks": meter.tasks.summary(),
        "threads": meter.threads.summary(),
        "lag_p99_ms": meter.lag_p99(),
        "lag_max_ms": meter.most_lag * 1000,
        "log_records": scanner.records,
        "examples": [*scanner.examples, *report["unwanted"]],
    }
    is_long = course.seconds >= LEAST_FOR_SLOPE
    results["judged"] = [
        *_never(report, scanner),
        ("builds reported complete that are not", load.counts["builds lost"], 0),
        *_back(meter),
        ("retry amplification", results["amplification"], MOST_AMPLIFICATION),
        ("memory slope, MiB/h", results["memory_slope_mib_h"], MOST_SLOPE)
        if is_long
        else ("memory growth, MiB", results["memory_growth_mib"], MOST_GROWTH),
    ]
    return results


async def _soak(server: Server, load: Load, meter: Meter, seconds: float, state: Path) -> None:
    async with metered(meter):
        async with load.client(state_dir=state) as nunu:
            await load.run(nunu, seconds)
            server.set(share=0.0)
            await load.finish_left(nunu)
        await asyncio.sleep(SLOW + 1)  # for what the sandbox still does in the background


def _never(report: dict[str, Any], scanner: Scanner) -> list[tuple[str, float, float]]:
    """Name what must be 0, and what it is."""
    return [
        ("secrets in logs and errors", scanner.found, 0),
        ("API keys sent to storage", report.get("key_at_storage", 0), 0),
        ("complaints of Python", scanner.complaints, 0),
        ("objects with lost or mixed bytes", report.get("mixed", 0), 0),
        ("orphans", len(set(report["orphans"]) - scanner.left_alone), 0),
        (
            "uploads left alone in doubt, for completes that failed",
            len(set(report["orphans"]) & scanner.left_alone),
            report.get("completes_spoiled", 0),
        ),
        ("DELETE after a complete", report.get("deleted_when_complete", 0), 0),
        ("complete repeated without asking", report.get("completes_repeated_unasked", 0), 0),
    ]


def _back(meter: Meter) -> list[tuple[str, float, float]]:
    """Name what must be back, how many more of it there are than at the start."""
    return [
        (f"{what} left", gauge.end - gauge.start, 0)
        for what, gauge in (
            ("tasks", meter.tasks),
            ("descriptors", meter.fds),
            ("threads", meter.threads),
        )
    ]


class VirtualClock(SystemClock):
    """Time that moves when all tasks sleep."""

    def __init__(self, seed: int) -> None:
        self.now = 0.0
        self.asleep = 0
        self._chance = random.Random(seed)  # noqa: S311 - jitter
        self._numbers = itertools.count()
        self._due: list[tuple[float, int, _Due]] = []

    def monotonic(self) -> float:
        """Return the virtual seconds."""
        return self.now

    def random(self) -> float:
        """Return the same each time for one seed."""
        return self._chance.random()

    async def sleep(self, delay: float) -> None:
        """Sleep until the time is moved on."""
        over = asyncio.get_running_loop().create_future()
        self.asleep += 1
        try:
            self.call_later(delay, lambda: _wake(over))
            await over
        finally:
            self.asleep -= 1

    def call_later(self, delay: float, callback: Callable[[], object]) -> Timer:
        """Call back when the time has come there."""
        due = _Due(callback)
        heapq.heappush(self._due, (self.now + delay, next(self._numbers), due))
        return due

    async def move(self) -> None:
        """Go on to what is due next."""
        while self._due:
            at, _, due = heapq.heappop(self._due)
            if due.callback is not None:
                self.now = max(self.now, at)
                due.callback()
                break
        await asyncio.sleep(0)


def _wake(over: asyncio.Future[None]) -> None:
    if not over.done():
        over.set_result(None)


@attrs.define
class _Due:
    callback: Callable[[], object] | None

    def cancel(self) -> None:
        """Drop the callbacks."""
        self.callback = None


def outage(course: Course) -> dict[str, Any]:
    """Let a thousand callers call into half a minute of 503, on a clock that does not wait."""
    with faulty_sandbox(Setup(seed=course.seed, share=1.0, only="503")) as server:
        return asyncio.run(_outage(server, course))


async def _outage(server: Server, course: Course) -> dict[str, Any]:
    clock = VirtualClock(course.seed)
    async with NunuClient(
        server.details["api_key"], base_url=server.details["base_url"], clock=clock
    ) as nunu:

        async def call() -> bool:
            try:
                await nunu.runs.list_page(page_size=1)
            except NunuError:
                return False
            return True

        async def all_at_once() -> list[bool]:
            calls = [asyncio.create_task(call()) for _ in range(course.count)]
            while left := sum(not one.done() for one in calls):
                if clock.asleep == left:
                    await clock.move()
                    if clock.now >= OUTAGE:
                        server.set(share=0.0)
                else:
                    await asyncio.sleep(0.001)
            return [one.result() for one in calls]

        met = await all_at_once()
        requests = server.report()["requests"]["list_runs"]
        clock.now = max(clock.now, OUTAGE)
        server.set(share=0.0)
        began = clock.now
        healed = await all_at_once()
        seconds = clock.now - began
    return {
        "requests": requests,
        "done_in_the_outage": sum(met),
        "done_after": sum(healed),
        "judged": [
            ("requests in the outage", requests, course.count * 1.1 + 50),
            ("callers that fail after it", course.count - sum(healed), 0.05 * course.count),
            ("virtual seconds until then", seconds, 30.0),
        ],
    }


def storm(course: Course) -> dict[str, Any]:
    """Start uploads over five seconds, and cancel each at a random moment."""
    chance = random.Random(course.seed)  # noqa: S311 - when it is cancelled is no secret
    with (
        tempfile.TemporaryDirectory(prefix="nunu-soak-") as name,
        faulty_sandbox(Setup(seed=course.seed, part_size=64 * KiB)) as server,
        everything_logged(server.details["api_key"]) as scanner,
    ):
        builds = make_builds(Path(name), [256 * KiB] * 8, chance)
        meter = Meter(0.0)
        seconds, at_once = asyncio.run(_storm(server, builds, chance, meter, course.count))
        report = server.report()
    return {
        "sandbox": report,
        "seconds_after_the_last_start": seconds,
        "slots_after": at_once,
        "examples": [*scanner.examples, *report["unwanted"]],
        "judged": [
            *_never(report, scanner),
            *_back(meter),
            ("slots lost", SLOTS - at_once, 0),
            ("seconds until all had ended", seconds, 10.0),
        ],
    }


async def _storm(
    server: Server, builds: list[Build], chance: random.Random, meter: Meter, count: int
) -> tuple[float, int]:
    async with metered(meter):
        async with NunuClient(
            server.details["api_key"],
            base_url=server.details["base_url"],
            storage_concurrency=SLOTS,
        ) as nunu:
            server.set(part_latency=0.02)  # or most would be over before they are cancelled
            loop = asyncio.get_running_loop()
            uploads = []
            turns = Turns(count / 5)
            for number in range(count):
                await turns()
                build = builds[number % len(builds)]
                upload = nunu.upload_build(
                    build.path, name=build.name, platform="linux", multipart=number % 4 > 0
                )
                uploads.append(asyncio.create_task(upload))
                loop.call_later(chance.random() ** 2, uploads[-1].cancel)
            began = time.monotonic()
            await asyncio.wait(uploads)
            seconds = time.monotonic() - began
            for upload_task in uploads:
                if not upload_task.cancelled():
                    upload_task.result()
            server.set(part_latency=0.5)  # so that the parts of all slots overlap
            await asyncio.gather(
                *(
                    nunu.upload_build(
                        builds[0].path, name=builds[0].name, platform="linux", multipart=True
                    )
                    for _ in range(SLOTS)
                )
            )
            at_once: int = server.report()["most_parts"]
        await asyncio.sleep(0.1)
    return seconds, at_once


def files(course: Course) -> dict[str, Any]:
    """Upload many files of 1 MiB with 256 descriptors at most."""
    chance = random.Random(course.seed)  # noqa: S311 - test data
    with (
        tempfile.TemporaryDirectory(prefix="nunu-soak-") as name,
        faulty_sandbox(Setup(seed=course.seed, share=SHARE)) as server,
        everything_logged(server.details["api_key"]) as scanner,
    ):
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
        builds = make_builds(Path(name), [MIB] * course.count, chance)
        meter = Meter(0.0, every=10)
        began = time.monotonic()
        again, failed = asyncio.run(_files(server, builds, meter, scanner))
        seconds = time.monotonic() - began
        report = server.report()
        del report["most_parts"]
    return {
        "sandbox": report,
        "seconds": seconds,
        "uploaded_again": again,
        "failed": failed,
        "memory": meter.memory.summary(),
        "fds": meter.fds.summary(),
        "lag_p99_ms": meter.lag_p99(),
        "examples": [*scanner.examples, *report["unwanted"]],
        "judged": [
            *_never(report, scanner),
            ("files that are not up", course.count - report.get("completed", 0), 0),
            *_back(meter),
            ("memory above the start, MiB", meter.memory.most - meter.memory.start, 64.0),
            ("descriptors at most", meter.fds.most, 2 * SLOTS + 32 + 36),
        ],
    }


async def _files(
    server: Server, builds: list[Build], meter: Meter, scanner: Scanner
) -> tuple[int, dict[str, int]]:
    async with metered(meter):
        async with NunuClient(
            server.details["api_key"],
            base_url=server.details["base_url"],
            timeout=TIMEOUTS,
            storage_concurrency=SLOTS,
        ) as nunu:
            again, failed = 0, Counter[str]()
            waiting = builds
            for _ in range(5):
                errors = await upload_all(nunu, waiting)
                for error in errors.values():
                    scanner.error(error)
                    failed[type(error).__name__] += 1
                waiting = list(errors)
                again += len(waiting)
        await asyncio.sleep(SLOW + 1)
    return again, dict(failed)


async def upload_all(nunu: NunuClient, builds: list[Build]) -> dict[Build, NunuError]:
    """Upload many files; return those that failed, and why."""
    files = [
        BuildFile(path=build.path, name=build.name, platform="linux", multipart=True)
        for build in builds
    ]
    results = await nunu.upload_builds(files)
    return {
        build: result.error
        for build, result in zip(builds, results, strict=True)
        if isinstance(result.error, NunuError)
    }


def child(mode: Mode, course: Course, limit: float, pipe: Connection) -> None:
    """Run a mode: the target of its process. After `limit` seconds it tells where it hangs."""
    faulthandler.dump_traceback_later(limit, exit=True)
    pipe.send(mode(course))
    faulthandler.cancel_dump_traceback_later()


def alone(mode: Mode, course: Course) -> dict[str, Any]:
    """Run a mode in a process of its own; give up on one that hangs."""
    limit = course.seconds + 3 * PATIENCE
    ours, its = SPAWN.Pipe()
    process = SPAWN.Process(target=child, args=(mode, course, limit, its))
    os.environ.setdefault("MALLOC_ARENA_MAX", "1")  # read when a process starts
    process.start()
    its.close()
    try:
        if not ours.poll(limit + 10):
            raise SystemExit("it hangs")
        report: dict[str, Any] = ours.recv()
        return report
    except EOFError:
        raise SystemExit("it ended without a word") from None
    finally:
        process.join(10)
        process.kill()
        process.join()


def tell(report: dict[str, Any]) -> bool:
    """Print the figures and what was promised; tell whether it was kept."""
    for name, value in report.items():
        if isinstance(value, dict):
            some = ", ".join(f"{key} {_figure(one)}" for key, one in value.items())
            print(f"{name.replace('_', ' ')}: {some}")
        elif not isinstance(value, list):
            print(f"{name.replace('_', ' ')}: {_figure(value)}")
    for example in report.get("examples", ()):
        print(f"SEEN: {example}")
    is_kept = True
    for what, figure, most in report["judged"]:
        is_good = figure <= most
        is_kept &= is_good
        print(f"{'kept' if is_good else 'MISSED'}: {what} {_figure(figure)} (at most {most:g})")
    return is_kept


def _figure(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else f"{value}"


def main(argv: list[str] | None = None) -> int:
    """Run what was asked for, print it, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--outage", action="store_true", help="1,000 callers meet 30 s of 503")
    mode.add_argument("--storm", action="store_true", help="10,000 uploads are cancelled")
    mode.add_argument("--files", action="store_true", help="1,000 files with 256 descriptors")
    parser.add_argument(
        "--short",
        action="store_true",
        help="two minutes (and 20 s around them); of --storm and --files a tenth",
    )
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the figures here")
    asked = parser.parse_args(argv)
    run: Mode
    if asked.outage:
        run, course = outage, Course(seed=asked.seed, count=1000)
    elif asked.storm:
        run, course = storm, Course(seed=asked.seed, count=1000 if asked.short else 10_000)
    elif asked.files:
        run, course = files, Course(seed=asked.seed, count=100 if asked.short else 1000)
    else:
        minutes = 2.0 if asked.short else asked.minutes
        run, course = soak, Course(seed=asked.seed, seconds=minutes * 60)
    length = f"{course.seconds / 60:g} minutes" if course.seconds else f"{course.count}"
    print(f"{run.__name__}: {length}", flush=True)
    report = alone(run, course)
    is_kept = tell(report)
    machine.tell(machine.describe("aiohttp", seed=asked.seed), report, asked.json)
    return 0 if is_kept else 1


if __name__ == "__main__":
    sys.exit(main())
