"""Run a command that runs pytest; let at most three failed tests try once more, alone.

    python .ci/once_more.py [--limit SECONDS] [--notes FILE] -- COMMAND [ARGUMENT...]

A test that fails and then passes is a fault to be mended, but no reason to lose a whole run of the
gate. So it is named in a line `FLAKY: test (last line of the first failure)`, and the exit status
is 0. More than three failures, one that fails again, tests that cannot be collected, a crashed
worker, a run over its time are no flakes: the exit status is the command's, or 124 for the time.

COMMAND runs in this interpreter's environment and need not name pytest itself. It is given nothing
but PYTEST_ADDOPTS; options that the second run needs as well, as `--loop`, are taken from there.
FILE gets the counts in the form of pytest's closing line, and the FLAKY lines.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TypedDict

MOST = 3
TIMED_OUT = 124  # as of timeout(1)
GRACE = 10.0  # seconds between being asked to stop and being killed


class Record(TypedDict):
    """What outcomes.py writes."""

    exit: int
    passed: list[str]
    skipped: int
    failed: dict[str, str]
    broken: list[str]


def say(text: str) -> None:
    print(text, flush=True)


def run(command: list[str], limit: float) -> tuple[int, Record | None]:
    """Run `command`; return its exit status and the record of its last pytest, if one finished."""
    here = str(Path(__file__).resolve().parent)
    with tempfile.TemporaryDirectory() as room:
        file = Path(room) / "record.json"
        paths = [here, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {
            "PYTEST_ADDOPTS": f"-p outcomes {os.environ.get('PYTEST_ADDOPTS', '')}",
            "PYTHONPATH": os.pathsep.join(paths),
            "ONCE_MORE_RECORD": str(file),
        }
        status = run_for(limit, command, environment)
        try:
            return status, json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return status, None


def run_for(limit: float, command: list[str], environment: dict[str, str]) -> int:
    """Run `command` in a process group of its own, of which nothing is left running."""
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        say(f"still running after {limit:g} seconds: stopped")
        os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
        return TIMED_OUT
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def why_red(status: int, record: Record | None) -> str | None:
    """Say why a second run cannot help, or return None. An exit status of 0 is not enough."""
    if status == TIMED_OUT or record is None:
        return "the run took too long" if status == TIMED_OUT else "pytest did not finish"
    if record["broken"]:
        return "; ".join(record["broken"])
    if status == 0:
        return None
    if not status == record["exit"] == 1 or not record["failed"]:
        return f"the exit status is {status}"
    if len(record["failed"]) > MOST:
        return f"{len(record['failed'])} tests failed, more than {MOST}"
    return None


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="once_more.py")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds for each run")
    parser.add_argument("--notes", type=Path, help="append counts and FLAKY lines to this file")
    parser.add_argument("command", nargs="+")
    asked = parser.parse_args(arguments)
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    began = time.monotonic()
    notes = []
    status, record = run(asked.command, asked.limit)
    if reason := why_red(status, record):
        say(f"no second try: {reason}")
        status = status or 1
    elif record and (first := record["failed"]):
        say(f"once more, alone: {len(first)} failed")
        _, second = run([sys.executable, "-m", "pytest", "-n", "0", *first], asked.limit)
        # One that is skipped now has shown nothing.
        if second and set(second["passed"]) == first.keys() and not second["broken"]:
            status = 0
            notes = [f"FLAKY: {test} ({line})" for test, line in first.items()]
            record = {**record, "passed": [*record["passed"], *first], "failed": {}}
    if record:
        count = {"failed": len(record["failed"]), "passed": len(record["passed"])}
        count["skipped"] = record["skipped"]
        counted = ", ".join(f"{number} {name}" for name, number in count.items() if number)
        notes.insert(0, f"{counted or 'no tests ran'} in {time.monotonic() - began:.2f}s")
    for note in notes:
        say(note)
    if asked.notes:
        with asked.notes.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(f"{note}\n" for note in notes)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
