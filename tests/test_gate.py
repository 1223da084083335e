"""`.ci/once_more.py`, by which `.ci/run` tells a flaky test from a broken one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
from cli_tools import environment

ONCE_MORE = Path(__file__).parent.parent / ".ci" / "once_more.py"
SUITE = ["-p", "xdist.plugin", "-p", "pytest_timeout", "-p", "no:cacheprovider"]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the gate runs on Linux")

# Fails the first time that it is called with this name.
FLAKY = """
import pathlib
def once(name):
    seen = pathlib.Path(__file__).with_name(name)
    if not seen.exists():
        seen.touch()
        raise ValueError(name)
"""

# What once_more.py needs in the environment is not there when a test runs.
UNTOUCHED = """
import os
def test_the_environment():
    assert not {"PYTEST_ADDOPTS", "ONCE_MORE_RECORD"} & os.environ.keys()
    assert os.environ["PYTHONPATH"] == os.environ["EXPECTED"]
"""


@attrs.frozen
class Judged:
    code: int
    out: str
    notes: list[str]


Judge = Callable[..., Judged]


@pytest.fixture
def judge(tmp_path: Path) -> Judge:
    """Run a suite through once_more.py."""

    def run(suite: str, *options: str, limit: float = 60, command: str = "") -> Judged:
        room = tmp_path / "Größe mit Lücke"
        room.mkdir()
        (room / "test_it.py").write_text(suite, encoding="utf-8")
        notes = tmp_path / "notes"
        notes.touch()
        pytest_it = [sys.executable, "-m", "pytest", "-q", "-n", "0", *options]
        # Each plugin that is found takes time to load, and here pytest starts many times.
        outside = {
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTEST_ADDOPTS": " ".join(SUITE),
            "PYTHONPATH": str(tmp_path),
            "EXPECTED": str(tmp_path),
        }
        ran = subprocess.run(  # noqa: S603 - our own program
            [
                *(sys.executable, str(ONCE_MORE), "--limit", str(limit), "--notes", str(notes)),
                *("--", *(["sh", "-c", command] if command else pytest_it)),
            ],
            cwd=room,
            env=environment(outside),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            check=False,
            timeout=100,
        )
        return Judged(ran.returncode, ran.stdout, notes.read_text(encoding="utf-8").splitlines())

    return run


def test_a_suite_that_passes_runs_once(judge: Judge) -> None:
    judged = judge(f"{UNTOUCHED}\nimport pytest\ndef test_a(): pytest.skip('not here')\n")
    assert judged.code == 0, judged.out
    assert judged.out.count("1 passed, 1 skipped in ") == 2  # pytest's own, and the note
    (count,) = judged.notes
    assert count.startswith("1 passed, 1 skipped in ")


def test_up_to_three_that_pass_the_second_time_are_named(judge: Judge) -> None:
    judged = judge(
        f"""{UNTOUCHED}{FLAKY}
import pytest
@pytest.fixture
def early(): once("early")
@pytest.fixture
def late():
    yield
    once("late")
class TestIt:
    def test_early(self, early): pass
    def test_late(self, late): pass
@pytest.mark.parametrize("word", ["a b[ü]::c"])
def test_word(word): once("word")
""",
        *("-n", "1"),
    )
    assert judged.code == 0, judged.out
    count, *flaky = judged.notes
    assert count.startswith("4 passed in ")
    assert sorted(flaky) == [
        "FLAKY: test_it.py::TestIt::test_early (ValueError: early)",
        "FLAKY: test_it.py::TestIt::test_late (ValueError: late)",
        r"FLAKY: test_it.py::test_word[a b[\xfc]::c] (ValueError: word)",
    ]
    assert judged.out.splitlines()[-3:] == flaky
    assert "3 passed in " in judged.out  # they alone


def test_a_test_that_timed_out_may_try_once_more(judge: Judge) -> None:
    judged = judge(
        f"{FLAKY}\nimport time\ndef test_a():\n    try: once('a')\n"
        "    except ValueError: time.sleep(60)\n",
        command=f"echo before && '{sys.executable}' -m pytest -q -n 0 --timeout 0.2",
    )
    assert judged.code == 0, judged.out
    assert judged.out.startswith("before\n")
    (flaky,) = judged.notes[1:]
    assert flaky.startswith("FLAKY: test_it.py::test_a (Failed: Timeout ")


def test_one_that_fails_again_is_red(judge: Judge) -> None:
    judged = judge(f"{FLAKY}\ndef test_a(): once('a')\ndef test_b(): assert 0\n")
    assert judged.code == 1
    (count,) = judged.notes
    assert count.startswith("2 failed in ")


def test_one_that_is_skipped_the_second_time_is_red(judge: Judge) -> None:
    judged = judge(
        f"{FLAKY}\nimport pytest\ndef test_a():\n    once('a')\n    pytest.skip('no more')\n"
    )
    assert judged.code == 1, judged.out
    assert not any("FLAKY" in note for note in judged.notes)


@pytest.mark.parametrize(
    ("suite", "options", "why"),
    [
        (
            """
import pytest
@pytest.mark.parametrize("n", range(4))
def test_a(n): once(str(n))
""",
            (),
            "4 tests failed, more than 3",
        ),
        (
            """
once("import")
def test_a(): pass
""",
            ("-n", "1"),
            "test_it.py cannot be collected",
        ),
        (
            """
import os
def test_a():
    try: once("a")
    except ValueError: os._exit(3)
""",
            ("-n", "1"),
            "a worker went down",
        ),
        (
            """
import os
def test_a(): os._exit(0)
""",
            (),
            "pytest did not finish",
        ),
        (
            """
def test_a(): once("a")
def test_b(): pass
""",
            ("--maxfail", "1"),
            "stopped early: stopping after 1 failures",
        ),
    ],
    ids=["four failures", "collection", "crashed worker", "exit", "stopped early"],
)
def test_what_is_no_flake_has_no_second_try(
    judge: Judge, suite: str, options: tuple[str, ...], why: str
) -> None:
    judged = judge(FLAKY + suite, *options)
    assert judged.code != 0, judged.out
    assert f"no second try: {why}" in judged.out
    assert not any("FLAKY" in note for note in judged.notes)


def test_a_run_over_its_time_is_red_and_leaves_no_process(judge: Judge) -> None:
    # A process that is left has our end of the pipe open, which the fixture reads to its end.
    judged = judge("", command="sleep 1000 & wait", limit=0.2)
    assert judged.code == 124, judged.out
    assert "no second try: the run took too long" in judged.out
    assert judged.notes == []


@pytest.mark.parametrize("command", ["exit 1", "exit 0"])
def test_a_command_that_runs_no_pytest_is_red(judge: Judge, command: str) -> None:
    judged = judge("", command=command)
    assert judged.code == 1
    assert "no second try: pytest did not finish" in judged.out
    assert judged.notes == []
