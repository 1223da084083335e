"""What it costs to load the library and to start the command line, beside aiohttp alone.

Run with `python -m benchmarks.imports`. Each row is a process of its own, from its start to its
end; the rows take turns round by round, after one round that is not counted (it may have to write
bytecode), and each figure is the median over the rounds. CPU is user and system time.

`import aiohttp` reads the system's certificates, which takes a sixth of it or more, and so does
every row that loads aiohttp: where there are none, or few, all are quicker and the ratios higher.
What an upload or a listing loads beyond the client is loaded at its first use, and has a row each.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.machine import describe, tell

BASE = "import aiohttp"
CLIENT = "from nunu_async import NunuClient"
HELP = "nunu-async --help"
MAKE = f"{CLIENT}; nunu = NunuClient('nunu_key')"
WAYS = {
    BASE: ("-c", BASE),
    "import nunu_async": ("-c", "import nunu_async"),
    CLIENT: ("-c", CLIENT),
    HELP: ("-m", "nunu_async", "--help"),
}
FIRST_USE = {
    "a client that lists runs": ("-c", f"{MAKE}; nunu.runs.list()"),
    "a client that uploads": ("-c", f"{MAKE}; nunu._uploader"),
    "a client that waits": ("-c", f"{MAKE}; nunu.runs_as_completed([])"),
    "every public name": ("-c", "from nunu_async import *"),
}
TARGET = 1.25
TARGET_HELP = 0.35


def measure(arguments: tuple[str, ...]) -> dict[str, float]:
    """Run one process to its end; return what it cost."""
    began = time.perf_counter()
    child = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise SystemExit(f"python {' '.join(arguments)} ended with {child.returncode}")
    return {
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "wall_s": time.perf_counter() - began,
    }


def main(asked: list[str] | None = None) -> int:
    """Measure, print a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="few rounds of the main rows")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args(asked)
    rounds = 5 if options.short else options.rounds
    ways = WAYS if options.short else WAYS | FIRST_USE
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, arguments in ways.items():
            spent = measure(arguments)
            if number:  # the first round warms up
                found[name].append(spent)
    rows = {
        name: {each: statistics.median(one[each] for one in spent) for each in ("cpu_s", "wall_s")}
        for name, spent in found.items()
    }
    print(f"whole processes, medians of {rounds} rounds, milliseconds")
    print(f"{'':<34} {'CPU':>5} {'ratio':>6} {'wall':>6} {'ratio':>6}")
    for name, row in rows.items():
        for each in ("cpu", "wall"):
            row[f"{each}_ratio"] = row[f"{each}_s"] / rows[BASE][f"{each}_s"]
        print(
            f"{name:<34} {1000 * row['cpu_s']:>5.0f} {row['cpu_ratio']:>6.2f} "
            f"{1000 * row['wall_s']:>6.0f} {row['wall_ratio']:>6.2f}"
        )
    for name in ("import nunu_async", CLIENT):
        print(
            f"{name}: {rows[name]['cpu_ratio']:.2f} times the CPU of {BASE}, "
            f"{rows[name]['wall_ratio']:.2f} times its time (target: at most {TARGET:g})"
        )
    print(
        f"{HELP}: {rows[HELP]['wall_s']:.3f} s (target: under {TARGET_HELP:g} on a quiet machine)"
    )
    tell(
        describe(
            "aiohttp", "attrs", load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        ),
        {"rows": rows},
        options.json,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
