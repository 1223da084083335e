"""How late an event loop is while this library works on it.

Run with `python -m benchmarks.lag`. A service awaits this library's calls on the loop that serves
its own users. Beside each case a callback wants to run every 2 ms, in the process of the client;
how late it comes is what a user of that service would notice. The same is measured on a loop that
does nothing, which is what the machine is good for, and beside the plain way to do the same with
aiohttp, and with aiofiles in blocks of 256 KiB. Cases take turns, each in a process of its own;
each figure is the median over `--rounds` of that rank within one round.

Servers have processes of their own: nginx over plain http and TLS 1.3 for builds of 1 GiB in parts
of 16 MiB, the sandbox for all else. CPU is that of the client's process in the phase alone, on all
its threads. Loopback is faster than any network, so that the loop has more to do at once here.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import random
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks import files, wait
from benchmarks.apart import SPAWN, Bare, Counts, answer, bare_apart, sandbox_apart
from benchmarks.machine import describe, tell
from benchmarks.rig import MIB, RigError, clean_environ, find, serve_api, serve_nginx
from nunu_async.sandbox import Fault

GIB = 1024 * MIB
LIMIT = 300.0
MOST_P99 = 5.0
MOST = 15.0
MOST_FIRST = 30.0
# Those that load code for the first time in a process; `warm_up` itself is for a program's start.
FIRST = (
    "first client",
    "first call",
    "first upload",
    "first list",
    "first wait",
    "first decode error",
)
NOT_JUDGED = ("idle", "aiohttp", "warm_up")


@dataclass(frozen=True, kw_only=True)
class Course:
    """How much is measured."""

    size: int = GIB
    part_size: int = 16 * MIB
    runs: int = 10_000
    files: int = 2_000
    crowd: int = 1_000
    seconds: float = 4.0
    rounds: int = 5


SHORT = Course(size=64 * MIB, part_size=8 * MIB, runs=1_000, files=200, seconds=1.0, rounds=1)


@dataclass
class Case:
    """What one process does, and what it needs for it.

    Attributes:
        work: a case of `benchmarks.ticking`.
        move: moves the clock of the sandbox that it talks to.
    """

    work: str
    wanted: dict[str, Any] = field(default_factory=dict)
    move: Callable[[float], None] | None = None


def run(case: Case, environ: dict[str, str], room: Path) -> dict[str, dict[str, float]]:
    """Run a case; return what each of its phases was like. Raises: RigError."""
    place = room / "wanted.json"
    place.write_text(json.dumps(case.wanted))
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.ticking", case.work, str(place)],
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        line = ""
        for line in child.stdout:
            if line.startswith("move ") and case.move:
                case.move(float(line.split()[1]))
        if child.wait(LIMIT):
            raise RigError(f"{case.work} failed with {child.returncode}")
    phases: dict[str, dict[str, float]] = json.loads(line)
    return phases


@contextlib.contextmanager
def rows_apart(count: int) -> Iterator[tuple[dict[str, Any], Callable[[float], None]]]:
    """Run a sandbox with so many runs under way; yields what leads to it, and what moves it."""
    ours, its = SPAWN.Pipe()
    plan = wait.Plan(waiters=count)
    process = SPAWN.Process(target=_serve_rows, args=(plan, its), daemon=True)
    process.start()
    its.close()
    try:
        environ, ids = ours.recv()

        def move(seconds: float) -> None:
            ours.send(seconds)
            ours.recv()

        url = environ["NUNU_BASE_URL"].removesuffix("/api/v1")
        yield {"url": url, "key": environ["NUNU_API_KEY"], "ids": ids, "runs": count}, move
    finally:
        ours.close()
        process.join(10)
        process.kill()
        process.join()


def _serve_rows(plan: wait.Plan, pipe: Connection) -> None:
    wait.serve(plan, pipe, runs=True)


class OneRun(Bare):
    """Answers everything with one run: the second time, with a time that has no zone."""

    def __init__(self, run: dict[str, Any]) -> None:
        odd = {**run, "created_at": str(run["created_at"])[:19]}
        self._bodies = [json.dumps(run).encode(), json.dumps(odd).encode()]
        self._asked = 0

    def start(self, url: str) -> None:
        """Need not know."""

    def answer(self, method: str, target: str, body: bytes) -> tuple[float, bytes]:  # noqa: ARG002
        """Answer with the next one."""
        self._asked += 1
        body = self._bodies[min(self._asked, len(self._bodies)) - 1]
        return 0.0, answer(body, "Content-Type: application/json")

    def counts(self) -> Counts:
        """Count nothing."""
        return Counts(requests=Counter())


def _one_run(where: dict[str, Any]) -> dict[str, Any]:
    asked = urllib.request.Request(  # noqa: S310 - the sandbox's
        f"{where['url']}/api/v1/runs/{where['ids'][0]}", headers={"X-Api-Key": where["key"]}
    )
    with urllib.request.urlopen(asked) as found:  # noqa: S310
        row: dict[str, Any] = json.load(found)
    return row


def _uploads(course: Course, room: Path, urls: dict[str, str]) -> Iterator[Case]:
    build, small = room / "build.bin", room / "small.bin"
    chance = random.Random(files.SEED)  # noqa: S311 - test data
    with build.open("wb") as file:
        for _ in range(course.size // MIB):
            file.write(chance.randbytes(MIB))
    small.write_bytes(chance.randbytes(MIB))
    same = {
        "build": str(build),
        "small": str(small),
        "size": course.size,
        "part_size": course.part_size,
    }
    for target, url in urls.items():
        for at_once in (4, 16):
            wanted = {
                **same,
                "target": target,
                "at_once": at_once,
                "url": f"{url}/build?partNumber=",
            }
            name = f"{target}, {at_once} at once"
            yield Case("upload", wanted | {"name": name})
            yield Case("upload_plainly", wanted | {"name": f"{name}, aiohttp"})
    more: dict[str, dict[str, Any]] = {
        "verify": {"verify": True},
        "resume, its journal": {"resume": True, "part_size": 5 * MIB},
        "a disk, not in memory": {"cold": True},
        "max_bandwidth": {"max_bandwidth": course.size / 8},
    }
    for target in urls:
        for name, settings in more.items():
            wanted = {**same, "target": target, "at_once": 4, "name": f"{target}, {name}"}
            yield Case("upload", wanted | settings)


def play(course: Course, only: str | None) -> dict[str, list[dict[str, float]]]:
    """Start the servers, run all cases in turns; return the rounds of each phase."""
    found: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="nunu-bench-") as name, contextlib.ExitStack() as stack:
        room = Path(name)
        environ = clean_environ() | {
            "NUNU_API_KEY": "nunu_key_0001",
            "NUNU_STATE_DIR": str(room / "state"),
        }
        cases = [Case("idle", {"seconds": course.seconds})]
        if program := find("nginx"):
            nginx = stack.enter_context(serve_nginx(program, room / "nginx"))
            environ["NUNU_BASE_URL"] = stack.enter_context(serve_api(nginx, None))
            if nginx.authority:
                environ["SSL_CERT_FILE"] = str(nginx.authority)
            cases += _uploads(course, room, dict(nginx.urls))
        else:
            print("NOT MEASURED for want of nginx: large builds")
        if importlib.util.find_spec("trustme") is None:
            print("NOT MEASURED for want of trustme: TLS")
        (room / "files").mkdir()
        paths, _ = files.make(room / "files", max(course.files, course.crowd))
        some = [str(path) for path in paths[: course.files]]
        rows, move = stack.enter_context(rows_apart(course.runs))
        odd = stack.enter_context(bare_apart(OneRun(_one_run(rows))))
        slow = Fault(on="put_part", times=None, latency=60.0)
        for number in range(course.rounds):
            with (
                sandbox_apart() as box,
                sandbox_apart(slow) as crowd,
                rows_apart(course.runs) as (waited, move_waited),
            ):
                one = {"small": some[0]}
                small = {"url": box.url, "key": box.key, "paths": some}
                begun = {"paths": [str(path) for path in paths[: course.crowd]], "seconds": 2.0}
                begun |= {"url": crowd.url, "key": crowd.key}
                todo = [
                    *cases,
                    Case("small_files", small | {"freeze": True}),
                    Case("small_files", small | {"freeze": False}),
                    Case("listing", rows),
                    Case("list_plainly", rows),
                    Case("waiting", waited, move_waited),
                    Case("first_use", {**rows, **one, "warm": False}, move),
                    Case("first_use", {**rows, **one, "warm": True}, move),
                    Case("decode_error", {"url": odd.url, "key": odd.key, "ids": rows["ids"][:1]}),
                    Case("closing", begun),
                    Case("cancelling", begun),
                ]
                # Another one begins each round: no client gains by its place in the order.
                for case in [*todo[number:], *todo[:number]]:
                    if only and only not in f"{case.work} {case.wanted.get('name', '')}":
                        continue
                    for phase, figures in run(case, environ, room).items():
                        found.setdefault(phase, []).append(figures)
    return found


def show(found: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Print medians of each phase; return them."""
    ranks = ("p50", "p95", "p99", "max", "used_p99", "used_max", "gc")
    print(f"{'':>36} {'milliseconds late':>27} {'used of the CPU':>19}")
    names = " ".join(f"{rank.removeprefix('used_'):>{9 if 'u' in rank else 6}}" for rank in ranks)
    print(f"{'':>36} {names}  CPU s wall s")
    medians = {}
    for phase, rounds in found.items():
        row = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
        medians[phase] = row
        late = " ".join(f"{row[rank]:>{9 if 'u' in rank else 6}.1f}" for rank in ranks)
        print(f"{phase:>36} {late} {row['cpu_s']:>6.2f} {row['wall_s']:>6.2f}")
    return medians


def judge(medians: dict[str, dict[str, float]]) -> None:
    """Print which phases were later than they may be.

    The exit status does not depend on it: a shared machine makes any loop late.
    """
    late = []
    for phase, row in medians.items():
        if any(word in phase for word in NOT_JUDGED):
            continue
        first = phase in FIRST
        if not first and row["p99"] > MOST_P99:
            late.append(f"{phase}: p99 {row['p99']:.1f} ms (at most {MOST_P99:g})")
        most = MOST_FIRST if first else MOST
        if row["max"] > most:
            late.append(f"{phase}: max {row['max']:.1f} ms (at most {most:g})")
    print(*(f"MISSED: {line}" for line in late), sep="\n")


def main(argv: list[str] | None = None) -> int:
    """Measure, print a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="64 MiB, 1,000 runs, one round")
    parser.add_argument("--rounds", type=int, help="that are counted; 5 in the full form")
    parser.add_argument("--only", help="cases that have this in their name")
    parser.add_argument("--json", type=Path, help="write the figures here")
    asked = parser.parse_args(argv)
    course = SHORT if asked.short else Course()
    if asked.rounds:
        course = Course(**{**vars(course), "rounds": asked.rounds})
    found = play(course, asked.only)
    medians = show(found)
    judge(medians)
    tell(describe("aiohttp"), {"rows": found}, asked.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
