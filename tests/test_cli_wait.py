"""`nunu-async wait`: what is printed while it lasts and at the end, and the exit code."""

import asyncio
import io
import json
import math
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cli_tools import Ran, run, started, together
from test_cli_display import HandClock, needs_terminals, on_a_terminal

from nunu_async.cli import main
from nunu_async.cli.arguments import parse
from nunu_async.cli.live import show
from nunu_async.cli.standings import Standings
from nunu_async.models.runs import Initiator, Run, TestRef
from nunu_async.models.vocab import RunState, TestType
from nunu_async.polling import schedule
from nunu_async.polling.subscription import Change
from nunu_async.sandbox import MultiplayerTest, Outcome, Sandbox, Script

UNKNOWN = "00000000-0000-4000-8000-00000000dead"
ENDLESS = Script(run_seconds=math.inf)
FAST = ("--interval", "0.05")
KEYS = ["succeeded", "timed_out", "results", "pending", "errors"]
HOSTILE = "Buy \x1b[2J[red]a \u202elantern\n" * 3


class Hurried:
    """Time of the sandbox that passes a hundred times as fast."""

    def __init__(self) -> None:
        self._here, self._there = time.monotonic(), time.time()

    def __call__(self) -> float:
        return self._there + (time.monotonic() - self._here) * 100


def report(ran: Ran) -> dict[str, object]:
    assert ran.out.count("\n") == 1
    found: dict[str, object] = json.loads(ran.out)
    assert list(found) == KEYS
    return found


def table(ran: Ran) -> list[list[str]]:
    return [line.split() for line in ran.out.splitlines()]


async def test_runs_jobs_and_executions_are_waited_for() -> None:
    async with Sandbox(now=Hurried()) as box:
        runs = [box.add_run(state="INITIALIZING") for _ in range(2)]
        execution = box.add_execution(status="queued", outcome=Outcome(passed=2))
        first, second = (one.run_id for one in runs)
        text, jobs, executions = await together(
            run("wait", "run", first, second, first, *FAST, env=box.environment),
            run("wait", "job", runs[0].job_id, "--json", *FAST, env=box.environment),
            run("wait", "execution", execution.execution_id, *FAST, env=box.environment),
        )
        assert [ran.code for ran in (text, jobs, executions)] == [0, 0, 0]
        # A duplicate is reported once, in the order asked.
        assert table(text) == [
            ["RUN", "RESULT", "DURATION", "NAME"],
            [first, "success", "30s", "Shop", "purchase"],
            [second, "success", "30s", "Shop", "purchase"],
        ]
        assert text.err.splitlines()[0] == "nunu-async: waiting for 2 runs"
        text.tells("2 runs: 2 success", "Shop purchase: ")
        found = report(jobs)
        assert (found["succeeded"], found["timed_out"]) == (True, False)
        assert (found["pending"], found["errors"]) == ({}, {})
        (row,) = found["results"]  # type: ignore[misc]
        assert (row["job_id"], row["status"]) == (runs[0].job_id, "COMPLETED")
        assert table(executions)[1][:2] == [execution.execution_id, "success"]
        assert "Release gate" in executions.out


async def test_a_failure_sets_the_exit_code_unless_it_is_ignored() -> None:
    async with Sandbox() as box:
        good = box.add_run().run_id
        bad = box.add_run(script=Script(result="MAX_STEPS")).run_id
        half = box.add_execution(outcome=Outcome(passed=1, failed=1)).execution_id
        any_, never, as_json, execution = await together(
            run("wait", "run", good, bad, *FAST, env=box.environment),
            run("wait", "run", good, bad, "--fail-on", "never", env=box.environment),
            run("wait", "run", bad, good, "--json", "--fail-on=any", env=box.environment),
            run("wait", "execution", half, env=box.environment),
        )
        assert [ran.code for ran in (any_, never, as_json, execution)] == [1, 0, 1, 1]
        assert [row[:2] for row in table(any_)[1:]] == [[good, "success"], [bad, "max_steps"]]
        assert never.out == any_.out
        found = report(as_json)
        assert found["succeeded"] is False
        assert [row["multiplayer_run_id"] for row in found["results"]] == [bad, good]  # type: ignore[attr-defined]
        assert table(execution)[1][:2] == [half, "failed"]


async def test_what_is_not_over_in_time_is_named_and_exits_3() -> None:
    async with Sandbox() as box:
        over = box.add_run(script=Script(result="FAILED")).run_id
        going = box.add_run(script=ENDLESS, state="RUNNING").run_id
        said = ["wait", "run", over, going, "--timeout", "1", *FAST]
        text, as_json = await together(
            run(*said, "--fail-on", "never", env=box.environment),
            run(*said, "--json", env=box.environment),
        )
        assert (text.code, as_json.code) == (3, 3)
        text.tells(f"not over after 1 s: {going} (running)")
        assert [row[:2] for row in table(text)[1:]] == [[over, "failed"], [going, "pending"]]
        found = report(as_json)
        assert (found["succeeded"], found["timed_out"]) == (False, True)
        assert found["pending"] == {going: "RUNNING"}
        assert found["errors"] == {}
        assert [row["multiplayer_run_id"] for row in found["results"]] == [over]  # type: ignore[attr-defined]


@pytest.mark.parametrize("form", ["--json", "--fail-on=never"])
async def test_an_unknown_id_does_not_end_the_others(
    form: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(schedule, "_GRACE", 0.1)
    async with Sandbox(now=Hurried()) as box:
        known = box.add_run(state="INITIALIZING").job_id
        for name, value in box.environment.items():
            monkeypatch.setenv(name, value)
        said = ["wait", "job", UNKNOWN, known, *FAST, form]
        # In a thread, for the loop of the command is another than the sandbox's.
        assert await asyncio.to_thread(main, said) == 1
    out, err = capsys.readouterr()
    assert "no job" in err or "job not found" in err
    assert "a run id? `nunu-async wait run ID`" in err
    if form == "--json":
        found = json.loads(out)
        assert list(found["errors"]) == [UNKNOWN]
        assert UNKNOWN in found["errors"][UNKNOWN]
        assert [row["job_id"] for row in found["results"]] == [known]
        assert (found["succeeded"], found["pending"]) == (False, {})
    else:
        assert [line.split()[:2] for line in out.splitlines()[1:]] == [
            [UNKNOWN, "unknown"],
            [known, "success"],
        ]


async def test_a_refused_key_ends_it_with_one_message() -> None:
    async with Sandbox() as box:
        ids = [box.add_run(script=ENDLESS, state="RUNNING").run_id for _ in range(3)]
        env = box.environment | {"NUNU_API_KEY": "nunu_wrong_key_0123456789"}
        text, as_json, none = await together(
            run("wait", "run", *ids, env=env),
            run("wait", "run", *ids, "--json", "--fail-on", "never", env=env),
            run("wait", "run", *ids, env=box.environment | {"NUNU_API_KEY": ""}),
        )
        assert (text.code, as_json.code, none.code) == (1, 1, 2)
        assert text.err.count("401") == 1
        text.tells("3 runs: ")
        assert [row[:2] for row in table(text)[1:]] == [[one, "unknown"] for one in ids]
        found = report(as_json)
        assert set(found["errors"]) == set(ids)  # type: ignore[call-overload]
        assert (found["succeeded"], found["timed_out"], found["pending"]) == (False, False, {})
        none.tells("no API key")
        assert none.out == ""


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        ["run"],
        ["build", "x"],
        ["run", ""],
        ["run", "x", "--timeout", "nan"],
        ["run", "x", "--timeout", "inf"],
        ["run", "x", "--interval", "-1"],
        ["run", "x", "--interval", "soon"],
        ["run", "x", "--fail-on", "some"],
    ],
)
def test_options_that_cannot_be_meant(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["wait", *wrong])
    assert ended.value.code == 2
    assert capsys.readouterr().out == ""


async def test_what_cannot_be_meant_exits_2_and_sends_nothing() -> None:
    wrong = [["wait", "run", "x", "--timeout", "0"], ["wait", "run", "fine", "../builds/x"]]
    async with Sandbox() as box:
        for ran in await together(*(run(*said, env=box.environment) for said in wrong)):
            assert (ran.code, ran.out) == (2, "")
            assert "nunu-async" in ran.err
        assert len(box.journal) == 0


@pytest.mark.parametrize(("which", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_signal_says_what_was_still_pending_and_stops_nothing(
    which: signal.Signals, code: int
) -> None:
    async with Sandbox() as box:
        over = box.add_run().job_id
        going = box.add_run(script=ENDLESS, state="RUNNING").job_id
        said = ["wait", "job", over, going, *FAST, "--json"]
        async with started(*said, env=box.environment) as running:
            await running.says("1 success")
            running.send_signal(which)
            ran = await running.end()
        assert ran.code == code
        ran.tells("stopping", f"still pending: {going} (running)")
        found = report(ran)
        assert (found["succeeded"], found["timed_out"]) == (False, False)
        assert found["pending"] == {going: "RUNNING"}
        assert [row["job_id"] for row in found["results"]] == [over]  # type: ignore[attr-defined]
        assert not box.journal.of("stop_runs")


@needs_terminals
@pytest.mark.parametrize("columns", [60, 120])
async def test_the_table_fits_the_terminal(tmp_path: Path, columns: int) -> None:
    now = [time.time()]
    async with Sandbox(now=lambda: now[0]) as box:
        box.tests = [MultiplayerTest(id=box.tests[0].id, name=HOSTILE)]
        jobs = [box.add_run(state="INITIALIZING").job_id for _ in range(12)]
        said = ["wait", "job", *jobs, "--interval", "0.1"]
        async with on_a_terminal(box, columns, *said, cwd=tmp_path) as (process, screen):
            await screen.shows("12 jobs: 12 starting")
            now[0] += 6
            await screen.shows("starting -> running")
            now[0] += 60
            out, _ = await process.communicate()
            assert process.returncode == 0
            assert "\x1b" not in out.decode()
            assert out.decode().count("  success  ") == 12
            assert max(map(len, screen.lines)) <= columns, screen.lines
            assert "12 jobs: 12 success" in screen.text
            assert "running -> success" in screen.text
            # Names are shown as they are, and can do nothing to the terminal.
            assert r"Buy \x1b[2" in screen.text
            assert b"\x1b[2J" not in screen.raw
            assert b"\xe2\x80\xae" not in screen.raw
            assert (jobs[0] in screen.text) == (columns == 120)
            assert screen.raw.rindex(b"\x1b[?25h") > screen.raw.rindex(b"\x1b[?25l")


@needs_terminals
async def test_a_terminal_that_cannot_draw_gets_lines(tmp_path: Path) -> None:
    async with Sandbox() as box:
        one = box.add_run().run_id
        said = ["wait", "run", one]
        async with on_a_terminal(box, 60, *said, cwd=tmp_path, term="dumb") as (process, screen):
            await process.communicate()
            assert b"\x1b" not in screen.raw
            assert "waiting for 1 run" in screen.text


def change(name: str, before: str | None, after: str) -> Change[Run]:
    row = Run(
        multiplayer_run_id=name,
        project_id="p",
        state=RunState(after),
        test=TestRef(id="t", name=f"test \x1b{name}", type=TestType.TASK),
        created_at=datetime.now(UTC),
        initiator=Initiator(type="api"),
        players=(),
    )
    return Change(id=name, before=before, after=after, row=row)


async def test_changes_come_in_batches_and_a_line_every_ten_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, stream = HandClock(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    standings = Standings[Run]("run", ["a", "b", "c", "d"], clock)
    shown = 0

    async def lines(seconds: int) -> list[str]:
        nonlocal shown
        for _ in range(seconds):
            await clock.advance(1)
        text = stream.getvalue()
        new, shown = text[shown:], len(text)
        return new.splitlines()

    async with show(standings):
        assert await lines(1) == ["nunu-async: waiting for 4 runs"]
        for name in "abcd":
            standings.note(change(name, None, "PENDING"))
        standings.note(change("a", "PENDING", "RUNNING"))
        (line,) = await lines(1)
        assert line == (
            r"nunu-async: 2s: 4 runs: 3 pending, 1 running; test \x1ba: pending; "
            r"test \x1bb: pending; test \x1bc: pending; 2 more changes"
        )
        assert await lines(9) == []
        assert await lines(1) == ["nunu-async: 12s: 4 runs: 3 pending, 1 running"]
        standings.note(change("a", "RUNNING", "COMPLETED"))
        assert await lines(1) == [
            r"nunu-async: 13s: 4 runs: 3 pending, 1 none; test \x1ba: running -> none"
        ]


async def test_the_help_names_the_exit_codes() -> None:
    general, own = await together(run("--help", env={}), run("wait", "--help", env={}))
    for ran in (general, own):
        assert ran.code == 0
        assert "3 not over in time" in ran.out
    order = [
        general.out.index(f"\n    {word}") for word in ("upload", "runs", "wait", "ci", "demo")
    ]
    assert order == sorted(order)
