"""Sample runs and executions for a new sandbox, with a variety of results."""

from __future__ import annotations

import time

from nunu_async.sandbox import Bug, Build, Outcome, Sandbox, Script

_SECONDS_APART = 600.0
_RUNS_OF_ONE_EXECUTION = 5
_BUILD = Build("b0110000-0000-4000-8000-000000000001", "Nightly 41")
_BUGS = (
    Bug(bug_id="bug_lantern", title="The lantern falls through the floor", severity="high"),
    Bug(bug_id="bug_price", title="The price shows 0", category="ui", severity="low"),
)
_RUNNING = Script(run_seconds=3600.0)
_ENDED = (
    Script(),
    Script(result="FAILED", bugs=_BUGS, run_seconds=95.0),
    Script(run_seconds=42.0),
    Script(result="ERROR", run_seconds=12.0),
    Script(run_seconds=61.0),
    Script(result="MAX_STEPS", run_seconds=300.0),
)
_OUTCOMES = (Outcome(passed=2), Outcome(passed=1, failed=1), Outcome(passed=1, stopped=1))


def add_samples(box: Sandbox, number: int) -> None:
    """Add a few executions, and `number` runs ten minutes apart, the newest still running."""
    now = time.time()
    tests = box.tests
    for age in reversed(range(number)):  # oldest first: rows are sorted by time
        box.add_run(
            test=tests[(age - 1) % len(tests)],
            script=_ENDED[age % len(_ENDED)] if age else _RUNNING,
            created=now - 60 - age * _SECONDS_APART,
            tags=("nightly",) if age % 2 else ("nightly", "rc"),
            build=_BUILD if age % 3 else None,
        )
    for age in reversed(range(-(-number // _RUNS_OF_ONE_EXECUTION))):
        box.add_execution(
            outcome=_OUTCOMES[age % len(_OUTCOMES)] if age else Outcome(passed=2, run_seconds=3600),
            created=now - 30 - age * _SECONDS_APART * _RUNS_OF_ONE_EXECUTION,
            build=_BUILD,
        )
