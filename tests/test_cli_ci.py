"""`nunu-async ci`: upload, start, wait, and what is reported where."""

import asyncio
import json
import math
import re
import signal
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import attrs
import pytest
from cli_tools import BUILD_KEYS, SOON, Ran, make, run, started, together, until
from doubles import Gate
from test_cli_display import needs_terminals, on_a_terminal

from nunu_async.cli.arguments import parse
from nunu_async.cli.github import outputs, publish, summary
from nunu_async.cli.verdict import Verdict
from nunu_async.sandbox import Fault, MultiplayerTest, Sandbox, Script, Step, TestPlan

FULL = Path("/dev/full").exists()
ENDLESS = Script(initialize_seconds=0, run_seconds=math.inf)
HOSTILE = "Buy | <b>a</b> \x1b[2J\nlantern `x` [y](http://z.test) ::error:: EOF"
FAILING = Script(
    result="FAILED",
    steps=(
        Step(goal="Open the shop"),
        Step(goal="Buy a | lantern", result="FAILED", report="It fell.\n\x1b[2J]]> <i>gone</i>"),
    ),
)
KEYS = [
    "succeeded",
    "timed_out",
    "build",
    "started",
    "results",
    "reasons",
    "pending",
    "error",
]


class Hurried:
    """Time of the sandbox that passes a hundred times as fast once it is asked to."""

    def __init__(self) -> None:
        self._here, self._there = time.monotonic(), time.time()

    def __call__(self) -> float:
        return self._there + (time.monotonic() - self._here) * 100


def said(box: Sandbox, *more: str, target: str = "plan") -> list[str]:
    words = ["ci", "game.apk", "--name", "Nightly 41", "--interval", "0.05"]
    words += ["--deployment-config", box.deployment_configs[0].id]
    words += (
        ["--test-plan", box.test_plans[0].id] if target == "plan" else ["--test", box.tests[0].id]
    )
    return [*words, *more]


def report(ran: Ran) -> dict[str, Any]:
    assert ran.out.count("\n") == 1
    found: dict[str, Any] = json.loads(ran.out)
    assert list(found) == KEYS
    return found


def suite_of(path: Path) -> ET.Element:
    root = ET.parse(path).getroot()  # noqa: S314 - we wrote it
    assert root.tag == "testsuites"
    (suite,) = root
    return suite


def counts(suite: ET.Element) -> tuple[str | None, ...]:
    return tuple(suite.get(name) for name in ("tests", "failures", "errors", "skipped"))


def read_outputs(text: str) -> dict[str, str]:
    """Read outputs as GitHub's runner does, for the form with a delimiter."""
    found, lines = {}, iter(text.split("\n"))
    for line in lines:
        if not line:
            continue
        name, mark = line.split("<<", 1)
        value = []
        for inner in lines:
            if inner == mark:
                break
            value.append(inner)
        else:
            raise AssertionError(f"no end of {name}")
        found[name] = "\n".join(value)
    return found


@attrs.frozen
class GitHub:
    """The files of one step."""

    folder: Path

    @property
    def env(self) -> dict[str, str]:
        return {
            "GITHUB_OUTPUT": str(self.folder / "output"),
            "GITHUB_STEP_SUMMARY": str(self.folder / "summary"),
        }

    @property
    def outputs(self) -> dict[str, str]:
        return read_outputs((self.folder / "output").read_text(encoding="utf-8"))

    @property
    def summary(self) -> str:
        return (self.folder / "summary").read_text(encoding="utf-8")


async def test_a_plan_runs_on_the_build_and_every_report_says_so(tmp_path: Path) -> None:
    (file,) = make(tmp_path, "game.apk", size=5000)
    github = GitHub(tmp_path)
    (tmp_path / "output").write_text("before=1\n")
    async with Sandbox(now=Hurried()) as box:
        ran = await run(
            *said(box, "--junit", "out.xml", "--tags", "nightly", "--run-tags", "gate"),
            env=box.environment | github.env,
            cwd=tmp_path,
        )
        assert ran.code == 0, ran.err
        ((build_id, upload),) = box.uploads.items()
        assert box.read_object(build_id) == file.read_bytes()
        assert (upload.name, upload.state) == ("Nightly 41", "completed")
        (start,) = box.journal.of("start_run")
        assert start.body == {
            "deployment_config_id": box.deployment_configs[0].id,
            "test_plan_id": box.test_plans[0].id,
            "build_id": build_id,
            "additional_tags": ["gate", start.body["additional_tags"][1]],
        }
        header, *rows = [line.split() for line in ran.out.splitlines()]
        assert header == ["TEST", "RESULT", "DURATION", "RUN", "WHY"]
        assert [row[:3] for row in rows] == [
            ["Shop", "purchase", "success"],
            ["First", "quest", "success"],
        ]
        assert [row[-2] for row in rows] == [one.run_id for one in box.runs]
        ran.tells(build_id, "started 2 jobs", "2 jobs: 2 success", "2 of 2 jobs succeeded")
        suite = suite_of(tmp_path / "out.xml")
        assert (suite.get("name"), counts(suite)) == ("Nightly 41", ("2", "0", "0", "0"))
        jobs = [one.job_id for one in box.runs]
        outputs = read_outputs((tmp_path / "output").read_text().removeprefix("before=1\n"))
        assert outputs == {
            "build_id": build_id,
            "job_ids": " ".join(jobs),
            "test_plan_execution_id": box.executions[0].execution_id,
            "result": "success",
            "passed": "2",
            "failed": "0",
            "total": "2",
        }
        assert "### nunu: 2 of 2 passed" in github.summary
        assert not box.journal.of("stop_runs")


async def test_what_failed_says_why_everywhere(tmp_path: Path) -> None:
    make(tmp_path, "game.apk")
    github = GitHub(tmp_path)
    async with Sandbox(now=Hurried(), dialect="N") as box:
        tests = (
            MultiplayerTest(id=box.tests[0].id, name=HOSTILE, script=FAILING),
            MultiplayerTest(id=box.tests[1].id, name="Dull", script=Script(result="SKIPPED")),
            MultiplayerTest(id=box.tests[2].id, name="Good"),
        )
        box.tests = list(tests)
        box.test_plans = [TestPlan(id=box.test_plans[0].id, name="P", tests=tests)]
        ran, as_json = [
            await run(*said(box, *more), env=box.environment | github.env, cwd=tmp_path)
            for more in (("--junit", "out.xml"), ("--json",))
        ]
        assert (ran.code, as_json.code) == (1, 1), ran.err
        failed, skipped, good = ran.out.splitlines()[1:]
        for words in (
            r"Buy | <b>a</b> \x1b[2J\nlantern",
            "failed",
            "step 2 failed: Buy a | lantern",
        ):
            assert words in failed
        assert r"It fell. \x1b[2J]]>" in failed
        assert box.runs[0].run_id in failed
        assert "skipped" in skipped
        assert good.endswith("-")
        assert "\x1b" not in ran.out + ran.err
        ran.tells("1 of 3 jobs succeeded")
        suite = suite_of(tmp_path / "out.xml")
        assert counts(suite) == ("3", "1", "0", "1")
        failure = suite[0].find("failure")
        assert failure is not None
        assert failure.get("type") == "failed"
        assert failure.text == (
            "step 2 failed: Buy a | lantern\nIt fell.\n" + r"\x1b[2J]]> <i>gone</i>"
        )
        found = report(as_json)
        assert set(found["build"]) == BUILD_KEYS
        assert found["build"]["build_id"] == list(box.uploads)[1]
        assert (found["succeeded"], found["timed_out"], found["error"]) == (False, False, None)
        assert found["started"]["job_ids"] == [row["job_id"] for row in found["results"]]
        assert found["pending"] == {}
        first, second, _ = found["started"]["job_ids"]
        assert list(found["reasons"]) == [first, second]
        assert "It fell." in found["reasons"][first]
        # Two runs of the command have appended to the same files.
        assert github.summary.count("### nunu: 1 of 3 passed") == 2
        row = next(line for line in github.summary.splitlines() if "lantern" in line)
        assert len(re.findall(r"\|", row)) == 6
        for bad in ("<b>", "[y]", "`", "\x1b"):
            assert bad not in row
        assert "&#60;b&#62;" in row
        outputs = github.outputs
        assert (outputs["result"], outputs["passed"], outputs["failed"], outputs["total"]) == (
            "failure",
            "1",
            "2",
            "3",
        )


async def test_one_test_with_retries_and_instances_is_one_job(tmp_path: Path) -> None:
    make(tmp_path, "game.apk")
    async with Sandbox(now=Hurried()) as box:
        box.scripts.extend([Script(result="ERROR"), Script(), Script()])
        ran = await run(
            *said(box, "--retries", "1", "--instances", "2", "--json", target="test"),
            env=box.environment,
            cwd=tmp_path,
        )
        assert ran.code == 0, ran.err
        (start,) = box.journal.of("start_run")
        assert isinstance(start.body, dict)
        assert (start.body["retries"], start.body["instances"]) == (1, 2)
        found = report(ran)
        assert [len(row["runs"]) for row in found["results"]] == [3]
        assert (found["succeeded"], found["reasons"]) == (True, {})


async def test_what_is_not_over_in_time_goes_on_and_is_in_the_files(tmp_path: Path) -> None:
    make(tmp_path, "game.apk")
    github = GitHub(tmp_path)
    async with Sandbox(now=Hurried()) as box:
        box.scripts.extend([Script(result="FAILED", initialize_seconds=0, run_seconds=1), ENDLESS])
        ran = await run(
            *said(box, "--timeout", "1", "--junit", "out.xml", "--json"),
            env=box.environment | github.env,
            cwd=tmp_path,
        )
        assert ran.code == 3, ran.err
        over, going = [one.job_id for one in box.runs]
        ran.tells(
            f"not over after 1 s: {going} (running)",
            f"`nunu-async wait job {going}`",
            f"`nunu-async runs stop {going}`",
        )
        found = report(ran)
        assert (found["succeeded"], found["timed_out"]) == (False, True)
        assert found["pending"] == {going: "RUNNING"}
        assert list(found["reasons"]) == [over]
        suite = suite_of(tmp_path / "out.xml")
        assert counts(suite) == ("2", "1", "1", "0")
        error = suite[1].find("error")
        assert error is not None
        assert "last seen running" in (error.get("message") or "")
        outputs = github.outputs
        assert [outputs[name] for name in ("result", "passed", "failed", "total")] == [
            "timeout",
            "0",
            "1",
            "2",
        ]
        assert "pending" in github.summary
        assert not box.journal.of("stop_runs")


async def test_a_start_that_is_refused_leaves_the_build_and_says_so(tmp_path: Path) -> None:
    make(tmp_path, "game.apk")
    (tmp_path / "out.xml").write_text("an older one")
    github = GitHub(tmp_path)
    async with Sandbox() as box:
        words = said(box, "--junit", "out.xml")
        words[words.index("--test-plan") + 1] = "00000000-0000-4000-8000-00000000dead"
        ran = await run(*words, env=box.environment | github.env, cwd=tmp_path)
        assert (ran.code, ran.out) == (1, "")
        (build_id,) = box.uploads
        ran.tells("404", f"the build is up: {build_id}")
        suite = suite_of(tmp_path / "out.xml")
        assert counts(suite) == ("1", "0", "1", "0")
        assert suite[0].get("name") == "start"
        outputs = github.outputs
        assert (outputs["build_id"], outputs["result"], outputs["total"]) == (
            build_id,
            "failure",
            "0",
        )
        assert outputs["job_ids"] == ""


@pytest.mark.parametrize(
    "fault",
    [Fault(on="start_run", do="cut", effect=True), Fault(on="start_run", status=408)],
    ids=["cut", "408"],
)
async def test_a_start_without_an_answer_may_have_begun(tmp_path: Path, fault: Fault) -> None:
    make(tmp_path, "game.apk")
    async with Sandbox(faults=[fault]) as box:
        ran = await run(*said(box, "--json", "--no-marker"), env=box.environment, cwd=tmp_path)
        assert ran.code == 1
        ran.tells("the run may have been started")
        found = report(ran)
        assert "may have been started" in found["error"]
        assert (found["started"], found["results"]) == (None, [])
        assert len(box.journal.of("start_run")) == 1


async def test_a_start_that_a_busy_server_refused_has_not_begun(tmp_path: Path) -> None:
    make(tmp_path, "game.apk")
    fault = Fault(on="start_run", status=503, headers={"Retry-After": "300"})
    async with Sandbox(faults=[fault]) as box:
        ran = await run(*said(box, "--json"), env=box.environment, cwd=tmp_path)
        assert ran.code == 1
        ran.tells("503")
        assert "may have been" not in ran.err + ran.out


async def test_a_build_that_does_not_go_up_starts_nothing(tmp_path: Path) -> None:
    make(tmp_path, "game.apk")
    async with Sandbox(faults=[Fault(on="put_part", status=400)]) as box:
        ran = await run(
            *said(box, "--json", "--junit", "out.xml"), env=box.environment, cwd=tmp_path
        )
        assert ran.code == 1
        found = report(ran)
        assert found["build"] is None
        assert "cancelled on the server" in found["error"]
        assert not box.journal.of("start_run")
        assert suite_of(tmp_path / "out.xml")[0].get("name") == "upload"


async def test_a_key_that_is_withdrawn_while_waiting_is_an_error(tmp_path: Path) -> None:
    make(tmp_path, "game.apk")
    faults = [Fault(on=name, status=401, times=None) for name in ("list_jobs", "get_job")]
    async with Sandbox(faults=faults) as box:
        ran = await run(*said(box, "--junit", "out.xml"), env=box.environment, cwd=tmp_path)
        assert ran.code == 1
        jobs = " ".join(one.job_id for one in box.runs)
        ran.tells("401", f"`nunu-async wait job {jobs}`", f"`nunu-async runs stop {jobs}`")
        assert [line.split()[1] for line in ran.out.splitlines()[1:]] == ["unknown"] * 2
        assert counts(suite_of(tmp_path / "out.xml")) == ("2", "0", "2", "0")


async def test_the_oldest_servers_answers_are_understood(tmp_path: Path) -> None:
    make(tmp_path, "game.apk")
    async with Sandbox(now=Hurried(), dialect="J") as box:
        ran = await run(
            *said(box, "--json", "--junit", "out.xml", target="test"),
            env=box.environment,
            cwd=tmp_path,
        )
        assert ran.code == 0, ran.err
        assert len(report(ran)["results"]) == 1
        assert counts(suite_of(tmp_path / "out.xml")) == ("1", "0", "0", "0")


async def test_what_cannot_be_meant_exits_2_and_sends_nothing(tmp_path: Path) -> None:
    make(tmp_path, "game.apk", "a.apk", "b.apk")
    (tmp_path / "old.xml").write_text("an older one")
    async with Sandbox() as box:
        good = said(box)
        wrong: list[tuple[list[str], str]] = [
            ([*good, "--junit", "no/such/folder/out.xml"], "no/such/folder/out.xml"),
            ([*good, "--junit", "."], "--junit"),
            ([*good, "--timeout", "0"], "--timeout"),
            ([good[0], "missing.apk", *good[2:]], "missing.apk"),
            ([good[0], "*.ipa", *good[2:]], "no file matches"),
            ([good[0], "?.apk", *good[2:]], "must be one file, not 2: a.apk, b.apk"),
            ([*good, "--name", "x" * 256, "--junit", "old.xml"], "name"),
        ]
        all_ran = await together(
            *(run(*words, env=box.environment, cwd=tmp_path) for words, _ in wrong),
            run(*good, env=box.environment | {"NUNU_API_KEY": ""}, cwd=tmp_path),
        )
        for ran, words in zip(all_ran, [*(word for _, word in wrong), "no API key"], strict=True):
            assert (ran.code, ran.out) == (2, ""), ran
            ran.tells(words)
        assert len(box.journal) == 0
    assert (tmp_path / "old.xml").read_text() == "an older one"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("--test-plan P --interval nan", "--interval"),
        ("--test-plan P --retries 1", "--retries goes with --test only"),
        ("--test-plan P --instances 1", "--instances goes with --test only"),
        ("--test T --retries 11", "from 0 to 10"),
        ("--test T --instances 0", "from 1 to 10"),
        ("--test T --test-plan P", "not allowed with"),
        ("--test T --deletion-policy oldest", "--auto-delete"),
        ("--test T --platform amiga", "amiga"),
        ("--test T --run-tags ,", "--run-tags"),
        ("--test T --junit=", "--junit"),
        ("", "--test --test-plan"),
    ],
)
def test_options_that_cannot_be_meant(
    more: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    good = ["ci", "game.apk", "-n", "N", "--deployment-config", "C"]
    with pytest.raises(SystemExit) as ended:
        parse([*good, *more.split()])
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert err.startswith("usage: nunu-async ci ")


@pytest.mark.parametrize(("which", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_signal_while_waiting_stops_what_was_started(
    tmp_path: Path, which: signal.Signals, code: int
) -> None:
    make(tmp_path, "game.apk")
    github = GitHub(tmp_path)
    async with Sandbox(script=ENDLESS) as box:
        words = said(box, "--junit", "out.xml", "--json")
        async with started(*words, env=box.environment | github.env, cwd=tmp_path) as running:
            await running.says("2 jobs: 2 running")
            running.send_signal(which)
            ran = await running.end(within=SOON)
        assert ran.code == code
        jobs = [one.job_id for one in box.runs]
        (stop,) = box.journal.of("stop_runs")
        assert (stop.method, stop.status, stop.body) == ("POST", 200, {"job_ids": jobs})
        assert {one.result(time.time()) for one in box.runs} == {"STOPPED"}
        ran.tells("stopping", "asked to stop 2 jobs", *jobs)
        found = report(ran)
        assert found["error"].startswith("interrupted")
        assert set(found["pending"]) == set(jobs)
        assert counts(suite_of(tmp_path / "out.xml")) == ("2", "0", "2", "0")
        assert github.outputs["result"] == "failure"
        # The build stays.
        assert [upload.state for upload in box.uploads.values()] == ["completed"]


async def test_a_signal_while_starting_stops_what_the_late_answer_names(tmp_path: Path) -> None:
    make(tmp_path, "game.apk")
    gate = Gate()
    faults = [Fault(on="start_run", latency=1.0)]
    async with (
        Sandbox(script=ENDLESS, faults=faults, sleep=gate.sleep) as box,
        started(*said(box), env=box.environment, cwd=tmp_path) as running,
    ):
        async with asyncio.timeout(20):
            await gate.reached.wait()
        running.send_signal(signal.SIGINT)
        await running.says("stopping")
        gate.open()
        ran = await running.end(within=SOON)
        assert ran.code == 130
        (stop,) = box.journal.of("stop_runs")
        assert stop.body == {"job_ids": [one.job_id for one in box.runs]}
        ran.tells("interrupted; what was about to be started was stopped, if it began")


async def test_a_failed_stop_is_reported(tmp_path: Path) -> None:
    make(tmp_path, "game.apk")
    faults = [Fault(on="stop_runs", status=400, times=None)]
    async with (
        Sandbox(script=ENDLESS, faults=faults) as box,
        started(*said(box), env=box.environment, cwd=tmp_path) as running,
    ):
        await running.says("2 jobs: 2 running")
        running.send_signal(signal.SIGINT)
        ran = await running.end(within=SOON)
        assert ran.code == 130
        ran.tells("could not stop", "400", *(one.job_id for one in box.runs))


async def test_a_signal_during_the_upload_cancels_it(tmp_path: Path) -> None:
    make(tmp_path, "game.apk")
    async with (
        Sandbox(faults=[Fault(on="put_part", times=None, do="stall")]) as box,
        started(*said(box, "--json"), env=box.environment, cwd=tmp_path) as running,
    ):
        await until(lambda: any(seen.outcome == "stalled" for seen in box.journal))
        running.send_signal(signal.SIGINT)
        ran = await running.end(within=SOON)
        assert ran.code == 130
        assert [upload.state for upload in box.uploads.values()] == ["cancelled"]
        assert not box.journal.of("start_run")
        ran.tells("game.apk: stopped", "cancelled")
        assert report(ran)["build"] is None


async def test_a_report_that_cannot_be_written_is_a_failure(tmp_path: Path) -> None:
    make(tmp_path, "game.apk")
    env = {"GITHUB_OUTPUT": str(tmp_path), "GITHUB_STEP_SUMMARY": str(tmp_path / "no" / "x")}
    async with Sandbox(now=Hurried()) as box:
        ran = await run(*said(box), env=box.environment | env, cwd=tmp_path)
        assert ran.code == 1
        ran.tells("cannot write GITHUB_OUTPUT", "cannot write GITHUB_STEP_SUMMARY")
    if FULL:
        async with Sandbox(now=Hurried()) as box:
            ran = await run(*said(box, "--junit", "/dev/full"), env=box.environment, cwd=tmp_path)
            assert ran.code == 1
            ran.tells("cannot write --junit /dev/full: No space left")


@needs_terminals
async def test_it_fits_the_terminal(tmp_path: Path) -> None:
    make(tmp_path, "game.apk")
    async with Sandbox(now=Hurried()) as box:
        box.tests = [MultiplayerTest(id=box.tests[0].id, name=HOSTILE, script=FAILING)]
        words = said(box, target="test")
        async with on_a_terminal(box, 60, *words, cwd=tmp_path) as (process, screen):
            out, _ = await process.communicate()
            assert process.returncode == 1
            assert "step 2 failed" in out.decode()
            drawn = [line for line in screen.lines if not line.startswith("nunu-async: ")]
            assert max(map(len, drawn)) <= 60, drawn
            assert "1 job: 1 failed" in screen.text
            assert b"\x1b[2J" not in screen.raw


def test_no_value_can_end_an_output_or_begin_another() -> None:
    text = outputs({"a": "x\nnunu_1\nb<<EOF\nfake\nEOF", "c": "\x1b\r\nd", "e": ""})
    assert read_outputs(text) == {"a": "x\nnunu_1\nb<<EOF\nfake\nEOF", "c": "\\x1b\nd", "e": ""}
    marks = re.findall(r"<<(nunu_[0-9a-f]{32})\n", text)
    assert len(set(marks)) == 3


def test_what_was_there_without_a_line_end_keeps_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As after `printf version=1.2 >> $GITHUB_OUTPUT`."""
    files = {name: tmp_path / name for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    for file in files.values():
        file.write_text("version=1.2", encoding="utf-8")
    environ = {name: str(file) for name, file in files.items()}
    for _ in range(2):
        publish(environ, {"build_id": "b"}, [], build="b")
    assert capsys.readouterr() == ("", "")
    for file in files.values():
        lines = file.read_text(encoding="utf-8").split("\n")
        assert lines[0] == "version=1.2"
    assert "" not in files["GITHUB_OUTPUT"].read_text(encoding="utf-8").rstrip().split("\n")


def test_a_summary_is_nothing_but_a_table() -> None:
    hostile = "|<img src=x onerror=y>\n\n# `a` *b* ![c](d) @you #1 https://z.test $$x$$ \\| &amp;"
    verdicts = [
        Verdict(
            job_id="j", name=hostile, kind="failed", result=hostile, run_id=hostile, why=hostile
        )
    ]
    text = summary(verdicts * 600, build=hostile)
    lines = text.splitlines()
    assert lines[0] == "### nunu: 0 of 600 passed"
    assert "and 100 more" in text
    rows = [line for line in lines if line.startswith("| ") and "Test" not in line]
    assert len(rows) == 500
    for row in rows:
        assert row.count("|") == 6
        plain = row.replace("<br>", "").replace(":x:", "")
        assert not re.search(r"[<>`*\[\]\\@$!:]", plain)
    assert len(text.encode()) < 1024 * 1024


@pytest.mark.parametrize("text", ["x", "\u6e38", "/a_b_c", "\U0001f3ae"])
@pytest.mark.parametrize("held", [0, 900 * 1024, 1024 * 1024 - 500, 1024 * 1024])
def test_a_summary_never_makes_its_file_larger_than_the_runner_takes(
    tmp_path: Path, text: str, held: int, capsys: pytest.CaptureFixture[str]
) -> None:
    long = (text * 400)[:400]
    verdicts = [
        Verdict(job_id="j", name=long, kind="passed", result="success", why=long)
        for _ in range(700)
    ]
    failed = Verdict(job_id="j", name="it failed", kind="failed", result="failed", why=long)
    file = tmp_path / "summary"
    file.write_bytes(b"#" * held)
    publish({"GITHUB_STEP_SUMMARY": str(file)}, {}, [*verdicts, failed], build="b")
    added = file.read_bytes()[held:]
    assert held + len(added) <= 1024 * 1024
    lines = added.decode().splitlines()  # no character is cut in two
    rows = [line for line in lines if line.startswith("| ") and "Test" not in line]
    if held == 1024 * 1024:
        assert added == b""
        assert "is full" in capsys.readouterr().err
        return
    assert all(row.count("|") == 6 and row.endswith(" |") for row in rows)
    assert lines[-2] == f"and {701 - len(rows)} more"
    if held < 1024 * 1024 - 500:
        assert "it failed" in rows[0]  # readers search for it
        # As many as there is room for.
        assert len(rows) == 500 or held + len(added) + len(rows[-1].encode()) > 1024 * 1024 - 200
