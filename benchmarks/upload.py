"""One build of 1 GiB to the sandbox on loopback: memory, CPU and time of the uploading process.

Run with `python -m benchmarks.upload`. The file is random; the sandbox runs in a process of its
own with its storage in a directory, and computes the MD5 of all it gets, so the wall time is mostly
the sandbox's. Each row is the median of `--rounds` whole processes, the ways taking turns,
after one round that is not counted. Loopback is not a network: no latency, no loss.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

MIB = 1024 * 1024


def measure(environ: dict[str, str], build: Path, way: str) -> dict[str, float]:
    """Upload once with the command line; return the child's cost and check that it worked."""
    began = time.perf_counter()
    child = subprocess.Popen(
        [
            *(sys.executable, "-m", "nunu_async", "upload", str(build)),
            *("--name", "benchmark", "--platform", "linux", "--json"),
            *("--concurrency", *way.split()),
        ],
        env=os.environ | environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert child.stdout is not None
    with child.stdout as answer:
        told = json.loads(answer.read())
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise SystemExit(f"the upload failed: {told['failed']}")
    # KiB on Linux, bytes on macOS. It begins with what this process had when it forked, so this
    # file imports nothing large.
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "wall_s": time.perf_counter() - began,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_mib": usage.ru_maxrss * unit / MIB,
        "parts": told["builds"][0]["parts"],
    }


def start_sandbox(storage: Path, part_size: int) -> tuple[subprocess.Popen[str], dict[str, str]]:
    """Start a sandbox process; return it and the environment that leads to it."""
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "nunu_async", "sandbox"),
            *("--directory", str(storage), "--part-size", str(part_size)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert server.stdout is not None
    environ = {}
    for _ in range(3):
        name, _, value = server.stdout.readline().removeprefix("export ").strip().partition("=")
        environ[name] = value
    return server, environ


def make(path: Path, size: int) -> str:
    """Write `size` random bytes; return their SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for _ in range(size // MIB):
            block = os.urandom(MIB)
            digest.update(block)
            file.write(block)
    return digest.hexdigest()


def arrived(storage: Path) -> set[str]:
    """Return the SHA-256 of every build in a sandbox's storage."""
    found = set()
    for path in storage.glob("*/*.bin"):
        with path.open("rb") as file:
            found.add(hashlib.file_digest(file, "sha256").hexdigest())
    return found


def main(argv: list[str] | None = None) -> int:
    """Measure, print a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="64 MiB, one round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here")
    asked = parser.parse_args(argv)
    size, part, rounds = (
        (64 * MIB, 4 * MIB, 1) if asked.short else (1024 * MIB, 16 * MIB, asked.rounds)
    )
    ways = ("4", "16", "4 --verify", "16 --verify")
    rows: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory(prefix="nunu-bench-") as name:
        room = Path(name)
        build = room / "build.bin"
        sent = make(build, size)
        for number in range(rounds + 1):
            for way, found in rows.items():
                server, environ = start_sandbox(room / "storage", part)
                try:
                    figures = measure(environ, build, way)
                finally:
                    server.terminate()
                    server.communicate()
                if arrived(room / "storage") != {sent}:
                    raise SystemExit("what arrived is not what was sent")
                shutil.rmtree(room / "storage")
                if number:  # the first round warms up
                    found.append(figures)
    machine = {
        "python": platform.python_version(),
        "aiohttp": version("aiohttp"),
        "system": platform.platform(),
        "cores": os.cpu_count(),
    }
    print(f"{size // MIB} MiB in {part // MIB} MiB parts, {rounds} rounds, medians (min-max)")
    print(f"{'at once':>12} {'peak MiB':>20} {'CPU s':>20} {'wall s':>20}")
    for way, found in rows.items():
        cells = [
            f"{statistics.median(v):.2f} ({min(v):.2f}-{max(v):.2f})"
            for v in ([row[name] for row in found] for name in ("peak_mib", "cpu_s", "wall_s"))
        ]
        print(f"{way:>12} {cells[0]:>20} {cells[1]:>20} {cells[2]:>20}")
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    if asked.json:
        asked.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
