"""A pytest plugin that writes down what became of the tests, for once_more.py to judge by.

A record and not the printed summary: a node id may have any characters, and a summary does not say
a crashed worker from a failed test.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

FOLDER = str(Path(__file__).parent)


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # what workers report arrives in the main process
        recorder = _Recorder(Path(os.environ["ONCE_MORE_RECORD"]))
        config.pluginmanager.register(recorder, "outcomes-recorder")


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Show the tests, and what they start, the environment as it was before once_more.py."""
    if session.config.pluginmanager.has_plugin("dsession"):
        return  # no test runs here, and a worker reads the same variables as it starts
    del os.environ["ONCE_MORE_RECORD"], os.environ["PYTEST_ADDOPTS"]
    paths = os.environ.pop("PYTHONPATH").split(os.pathsep)
    if others := [path for path in paths if path != FOLDER]:
        os.environ["PYTHONPATH"] = os.pathsep.join(others)


class _Recorder:
    def __init__(self, file: Path) -> None:
        self._file = file
        self._passed: set[str] = set()
        self._skipped: set[str] = set()
        self._failed: dict[str, str] = {}
        self._broken: list[str] = []

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._broken.append(f"{report.nodeid or 'the tests'} cannot be collected")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when not in {"setup", "call", "teardown"}:  # made by pytest-xdist itself
            self._broken.append(f"a worker crashed in {report.nodeid}")
        elif report.failed:
            self._failed.setdefault(report.nodeid, _last_line(report))
        elif report.skipped:
            self._skipped.add(report.nodeid)
        elif report.when == "call":
            self._passed.add(report.nodeid)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, error: object) -> None:
        if error:
            self._broken.append(f"a worker went down: {error}")

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if stopped := session.shouldstop or session.shouldfail:
            self._broken.append(f"stopped early: {stopped}")
        record = {
            "exit": int(exitstatus),
            "passed": sorted(self._passed - self._failed.keys()),
            "skipped": len(self._skipped - self._failed.keys()),
            "failed": self._failed,
            "broken": self._broken,
        }
        self._file.write_text(json.dumps(record), encoding="utf-8")


def _last_line(report: pytest.TestReport) -> str:
    """Return what a traceback ends with. pytest puts a line number after it, which says less."""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message.splitlines()[:1] if crash else report.longreprtext.splitlines()[-1:]
    return "".join(text).strip()
