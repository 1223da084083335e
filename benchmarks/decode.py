"""A page of 100 runs from bytes to models, against `json.loads` of the same bytes.

Run with `python -m benchmarks.decode`. CPU time of this process; the ways take turns round by
round, after one round that is not counted, and each figure is the median over the rounds. Two
pages: ASCII throughout, and one in which every name and every fourth tag is not. The ratio that
counts includes `json.loads` itself, as a caller pays for both.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from benchmarks.machine import describe, tell
from nunu_async.core import codec
from nunu_async.models.runs import Run

ROWS = 100
TARGET = 3.0


def moment(chance: random.Random, hour: int) -> str:
    """Write a time as the service does."""
    rest = f"{chance.randrange(60):02}:{chance.randrange(60):02}.{chance.randrange(10**6):06}"
    return f"2026-04-11T{hour:02}:{rest}+00:00"


def player(chance: random.Random, run: str, number: int, name: str) -> dict[str, object]:
    """Make one player of a run."""
    device = {"name": chance.choice(("Pixel 9", "Galaxy S25")), "os_version": "15"}
    return {
        "id": f"{run}-{number}",
        "state": "COMPLETED",
        "result": chance.choice(("SUCCESS", "FAILED")),
        "player_number": number,
        "test_name": name,
        "composite_test_id": str(uuid.UUID(int=chance.getrandbits(128))),
        "step_count": 6,
        "completed_step_count": chance.randrange(7),
        "platform": {"kind": "android-native", "config": {"device": device}},
    }


def row(chance: random.Random, *, ascii_only: bool) -> dict[str, object]:
    """Make one run of one or two players, all members given."""
    run = "".join(chance.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=11))
    name = "Shop purchase flow" if ascii_only else "Einkauf im Lädchen"
    ids = [str(uuid.UUID(int=chance.getrandbits(128))) for _ in range(4)]
    return {
        "multiplayer_run_id": run,
        "job_id": ids[0],
        "project_id": "pixel-harbor",
        "state": "COMPLETED",
        "result": chance.choice(("SUCCESS", "FAILED", "ERROR")),
        "bug_info": {"bug_label": "BUG", "bug_count": chance.randrange(4)},
        "test": {"id": ids[1], "name": name, "type": "verification"},
        "build": {"id": ids[2], "name": "harbor-2.4.0-rc3"},
        "created_at": moment(chance, 6),
        "started_at": moment(chance, 7),
        "completed_at": moment(chance, 8),
        "duration_ms": chance.random() * 600_000,
        "initiator": {"type": "api", "value": {"key_id": ids[3]}},
        "tags": ["nightly", "shop", "eu", "nightly" if ascii_only else "nächtlich"],
        "players": [player(chance, run, n + 1, name) for n in range(chance.choice((1, 1, 2)))],
    }


def page(seed: int, *, ascii_only: bool) -> bytes:
    """Write a page as the service does."""
    chance = random.Random(seed)  # noqa: S311 - test data
    body = {
        "data": [row(chance, ascii_only=ascii_only) for _ in range(ROWS)],
        "pagination": {"page": 0, "page_size": ROWS, "total_count": ROWS, "total_pages": 1},
    }
    return json.dumps(body, ensure_ascii=False).encode()


def cost(work: Callable[[], object], times: int) -> float:
    """Return the CPU seconds of doing it once."""
    gc.collect()
    began = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - began) / times


def measure(body: bytes, rounds: int, times: int) -> dict[str, float]:
    """Return the median CPU seconds of each way."""
    loaded = json.loads(body)
    ways: dict[str, Callable[[], object]] = {
        "json.loads": lambda: json.loads(body),
        "decode": lambda: codec.structure_page(codec.parse(body), Run),
        "structure": lambda: codec.structure_page(loaded, Run),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, work in ways.items():
            spent = cost(work, times)
            if number:  # the first round warms up
                found[name].append(spent)
    return {name: statistics.median(spent) for name, spent in found.items()}


def main(argv: list[str] | None = None) -> int:
    """Measure, print a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="few rounds of few pages")
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--json", type=Path, help="write the figures here")
    asked = parser.parse_args(argv)
    rounds, times = (5, 5) if asked.short else (asked.rounds, 20)
    rows: dict[str, dict[str, float]] = {}
    print(f"a page of {ROWS} runs, medians of {rounds} rounds of {times}, CPU milliseconds")
    print(f"{'page':>10} {'KiB':>6} {'json.loads':>11} {'decode':>8} {'ratio':>6} {'models':>8}")
    for name, ascii_only in (("ASCII", True), ("not ASCII", False)):
        body = page(7, ascii_only=ascii_only)
        spent = measure(body, rounds, times)
        rows[name] = spent | {
            "bytes": len(body),
            "ratio": spent["decode"] / spent["json.loads"],
            "ratio_without_json": spent["structure"] / spent["json.loads"],
        }
        print(
            f"{name:>10} {len(body) / 1024:>6.0f} {1000 * spent['json.loads']:>11.3f} "
            f"{1000 * spent['decode']:>8.3f} {rows[name]['ratio']:>6.2f} "
            f"{1000 * spent['structure']:>8.3f}"
        )
    for name, figures in rows.items():
        print(
            f"{name}: bytes to models take {figures['ratio']:.2f} times json.loads "
            f"(target: at most {TARGET:g}); the models alone {figures['ratio_without_json']:.2f}"
        )
    tell(describe("attrs", "cattrs"), {"rows": rows}, asked.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
