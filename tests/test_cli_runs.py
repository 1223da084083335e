"""`nunu-async runs` and `executions`: what is asked for, what is printed, and the exit code."""

import asyncio
import json
import math
import os
import re
import signal
import struct
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from cli_tools import PATIENCE, environment, run, started, together, until
from rich.cells import cell_len
from scripted import KEY, artifact, details, player, step

from nunu_async.sandbox import (
    Artifact,
    Bug,
    Build,
    Fault,
    Key,
    MultiplayerTest,
    Outcome,
    Sandbox,
    Script,
    Seen,
    Step,
)

if sys.platform != "win32":
    import fcntl
    import pty
    import termios

needs_terminals = pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")

# Not in development mode, which tells of slow turns of the loop.
COMMAND = (sys.executable, "-W", "error", "-m", "nunu_async")
TEST = "7e570000-0000-4000-8000-000000000001"
PLAN = "91a00000-0000-4000-8000-000000000001"
PHONES = "de910000-0000-4000-8000-000000000001"
UNKNOWN = "00000000-0000-4000-8000-00000000dead"
BUILD = Build("5b0f7c1e-2a64-4f0b-9d3c-7f1e8a90b2d4", "harbor-2.4.0-rc3-with-a-long-tail")
LONG = MultiplayerTest(id=TEST, name="Buy a lantern \u706f\u7c60 in [red]the shop[/red] " * 4)
FAILING = Script(
    result="FAILED",
    bugs=(
        Bug(bug_id="b-1", title="The lantern falls through the floor " * 4, severity="high"),
        Bug(bug_id="b-2", title="A \x1b[2Jtitle"),
    ),
    steps=(
        Step(goal="Open the shop", report="it went well"),
        Step(goal="Buy a lantern " * 9, result="FAILED", report="It fell.\n\x1b[2JThen nothing."),
    ),
    artifacts=(Artifact(filename="video/run.mp4", size=12_345_678, url="https://s.test/?sig=s3c"),),
)


def query(seen: Seen) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(seen.target).query))


def asked(box: Sandbox, operation: str = "list_runs") -> list[dict[str, str]]:
    """Give the queries of the listings, in order."""
    return [query(seen) for seen in box.journal.of(operation)]


def fill(box: Sandbox, number: int) -> list[str]:
    """Add runs; return their ids as they are listed, newest first."""
    now = time.time()
    made = [box.add_run(created=now - 1000 - age).run_id for age in range(number)]
    assert len(box.runs) >= number
    return made


def loaded(text: str) -> list[str]:
    return [row["multiplayer_run_id"] for row in json.loads(text)]


def lines_loaded(text: str) -> list[str]:
    assert text == "" or text.endswith("\n")
    return [json.loads(line)["multiplayer_run_id"] for line in text.splitlines()]


async def on_a_terminal(
    columns: int, *arguments: str, env: Mapping[str, str]
) -> tuple[int | None, list[str], str]:
    """Run with standard output on a terminal; return the code, its lines and standard error."""
    mine, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def drain() -> bytes:
        found = b""
        while True:
            try:
                found += (block := os.read(mine, 65536))
            except OSError:  # the process has closed it
                return found
            if not block:
                return found

    try:
        process = await asyncio.create_subprocess_exec(
            *(*COMMAND, *arguments),
            env=environment(env, {"TERM": "xterm"}),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=theirs,
            stderr=asyncio.subprocess.PIPE,
        )
        os.close(theirs)
        async with asyncio.timeout(PATIENCE):
            raw, (_, err) = await asyncio.gather(asyncio.to_thread(drain), process.communicate())
    finally:
        os.close(mine)
    text = re.sub(r"\x1b\[[0-9;]*m", "", raw.decode())  # colours, and nothing else
    return process.returncode, text.replace("\r\n", "\n").splitlines(), err.decode()


async def test_a_listing_is_a_table_an_array_or_lines() -> None:
    async with Sandbox() as box:
        ids = fill(box, 3)
        table, array, lines = await together(
            run("runs", "list", env=box.environment),
            run("runs", "list", "--json", env=box.environment),
            run("runs", "list", "--jsonl", env=box.environment),
        )
        assert [(ran.code, ran.err) for ran in (table, array, lines)] == [(0, "")] * 3
        header, *rows = table.out.splitlines()
        assert header.split()[:5] == ["RUN", "STATE", "RESULT", "CREATED", "TEST"]
        assert [row.split()[:3] for row in rows] == [[one, "completed", "success"] for one in ids]
        # In a pipe nothing is cut and no column is left out.
        assert "JOB" in header
        assert all(row == row.rstrip() for row in rows)
        assert loaded(array.out) == lines_loaded(lines.out) == ids
        row = json.loads(lines.out.splitlines()[0])
        assert row == json.loads(array.out)[0]
        assert row["state"] == "COMPLETED"
        assert datetime.fromisoformat(row["created_at"]).tzinfo is not None
        assert [one["page"] for one in asked(box)] == ["0"] * 3


async def test_nothing_to_list() -> None:
    async with Sandbox() as box:
        ran = await together(
            *(
                run(what, "list", *form, env=box.environment)
                for what in ("runs", "executions")
                for form in ((), ("--json",), ("--jsonl",))
            )
        )
    assert [one.code for one in ran] == [0] * 6
    assert [one.out for one in ran] == ["", "[]\n", ""] * 2
    empty, run_words, execution_words = "", "nunu-async: no runs\n", "nunu-async: no executions\n"
    assert [one.err for one in ran] == [run_words, empty, empty, execution_words, empty, empty]


async def test_every_filter_reaches_the_server() -> None:
    said = f"runs list --json --state completed --test {TEST} --job {UNKNOWN} --execution {PLAN}"
    said += " --type verification --tags a,b --tags c"
    async with Sandbox() as box:
        both = await together(
            run(*said.split(), "--bugs", env=box.environment),
            run(*said.split(), "--no-bugs", env=box.environment),
        )
        assert [(ran.code, ran.out, ran.err) for ran in both] == [(0, "[]\n", "")] * 2
        queries = sorted(asked(box), key=lambda one: one["bugs"])
        common = {
            "state": "completed",
            "multiplayer_test_id": TEST,
            "job_id": UNKNOWN,
            "test_plan_execution_id": PLAN,
            "test_type": "verification",
            "tags": "a,b,c",
            "page": "0",
            "page_size": "100",
        }
        assert queries == [common | {"bugs": "false"}, common | {"bugs": "true"}]


async def test_a_limit_stops_the_requests() -> None:
    async def check(limit: int | None, form: str, requests: int) -> None:
        said = ["runs", "list", *filter(None, [form])]
        said += [] if limit is None else ["--limit", str(limit)]
        async with Sandbox() as box:
            ids = fill(box, 250)
            ran = await run(*said, env=box.environment)
            assert ran.code == 0
            assert len(box.journal) == requests, said
        if form == "--json":
            assert loaded(ran.out) == ids[:limit]
        elif form == "--jsonl":
            assert lines_loaded(ran.out) == ids[:limit]
        else:
            found = [line.split()[0] for line in ran.out.splitlines()[1:]]
            assert found == ids[: limit or 50]
            # What was asked for is all there; what we cut is reported.
            assert ran.err.count("--limit N shows more") == (limit is None)

    async with asyncio.TaskGroup() as group:
        for limit, form, requests in (
            (1, "--json", 1),
            (100, "--jsonl", 1),
            (101, "--jsonl", 2),
            (120, "", 2),
            (None, "", 1),
            (None, "--jsonl", 3),
            (None, "--json", 3),
            (999, "--json", 3),
        ):
            group.create_task(check(limit, form, requests))


@needs_terminals
@pytest.mark.parametrize("columns", [30, 60, 120, 160])
async def test_tables_fit_the_terminal(columns: int) -> None:
    async with Sandbox() as box:
        box.tests = [LONG]
        done = box.add_run(script=FAILING, build=BUILD, tags=[f"tag-{n}" for n in range(30)])
        box.add_run(script=Script(run_seconds=math.inf), state="RUNNING")
        box.add_run(script=Script(result="MAX_STEPS"), created=1_735_675_200.0)
        box.add_execution(outcome=Outcome(passed=2, failed=1), build=BUILD)
        tables, left_out = [], []
        for said in ("runs list", "executions list", f"runs bugs {done.run_id}"):
            code, lines, err = await on_a_terminal(columns, *said.split(), env=box.environment)
            assert code == 0
            assert max(map(cell_len, lines)) <= columns, lines
            tables.append(lines)
            left_out.append(err)
        code, lines, err = await on_a_terminal(
            columns, "runs", "get", done.run_id, env=box.environment
        )
        assert (code, err) == (0, "")
        assert max(map(cell_len, lines)) <= columns
        runs, executions, bugs = tables
        assert len(runs) == 4
        assert len(executions) == 2
        assert len(bugs) == 3
        for row in runs[1:]:
            assert re.match(r"run[0-9]{9}  ", row)
        if columns >= 60:
            assert runs[0].split()[:5] == ["RUN", "STATE", "RESULT", "CREATED", "TEST"]
            assert "Buy a" in runs[1]
            assert executions[0].split()[:3] == ["EXECUTION", "STATUS", "PLAN"]
            assert "The lantern" in bugs[1]
            # Names are shown as they are, and can do nothing to the terminal.
            assert r"A \x1b[2Jtitle" in bugs[2]
        if columns >= 120:
            assert runs[0].split()[5:8] == ["DURATION", "BUGS", "JOB"]
            assert done.job_id in "".join(runs)
            assert executions[0].split()[2:5] == ["PLAN", "STARTED", "PASSED"]
            assert "2/3" in executions[1].split()
        # What had no room is named, and is in none of the tables.
        for lines, err in zip(tables, left_out, strict=True):
            if err:
                start, names, end = re.split("[:;] ", err.removeprefix("nunu-async: "))
                assert (start, end) == ("not shown for want of room", "--json has all\n")
                assert not set(names.split(", ")) & set(lines[0].split())
        if columns == 160:
            assert runs[0].split()[8:] == ["TAGS", "BUILD"]
            (built,) = [row for row in runs if "harbor-2.4.0" in row]
            assert "tag-0" in built
            assert left_out == ["", "", ""]
        else:
            assert "TAGS, BUILD" in left_out[0]
            assert ("JOB" in left_out[0]) == ("PASSED" in left_out[1]) == (columns < 120)


@needs_terminals
async def test_empty_columns_are_left_out_on_a_terminal_only() -> None:
    async with Sandbox() as box:
        box.add_run(script=Script(run_seconds=math.inf), state="RUNNING")
        code, lines, err = await on_a_terminal(120, "runs", "list", env=box.environment)
        assert (code, err) == (0, "")
        assert lines[0].split() == ["RUN", "STATE", "CREATED", "TEST", "JOB"]
        ran = await run("runs", "list", env=box.environment)
        assert ran.out.split("\n")[0].split()[-3:] == ["JOB", "TAGS", "BUILD"]
        assert ran.err == ""


async def test_a_terminal_without_umlauts_gets_the_table_all_the_same() -> None:
    async with Sandbox() as box:
        box.tests = [LONG]
        fill(box, 1)
        ascii_only = {"PYTHONIOENCODING": "ascii", "COLUMNS": "60"}
        ran = await run("runs", "list", env=box.environment | ascii_only)
        assert ran.code == 0
        assert ran.out.isascii()
        assert "Buy a" in ran.out


async def test_tables_show_local_times_and_json_has_them_as_sent() -> None:
    async with Sandbox() as box:
        # 20:00 on New Year's Eve in London is next year in Kolkata.
        box.add_run(created=datetime(2024, 12, 31, 20, tzinfo=UTC).timestamp())
        recent = datetime.now(UTC) - timedelta(seconds=40)
        box.add_run(created=recent.timestamp())
        zone = box.environment | {"TZ": "XYZ-05:30"}
        table, array = await together(
            run("runs", "list", env=zone), run("runs", "list", "--json", env=zone)
        )
        _, new, old = table.out.splitlines()
        assert " 2025-01-01 " in old
        assert f"{recent + timedelta(hours=5, minutes=30):%H:%M}  " in new
        created = json.loads(array.out)[1]["created_at"]
        assert created == "2024-12-31T20:00:00.000000+00:00"


async def test_a_run_is_summed_up() -> None:
    async with Sandbox() as box:
        one = box.add_run(script=FAILING, build=BUILD, tags=["nightly"])
        text, as_json, no_bugs = await together(
            run("runs", "get", one.run_id, env=box.environment),
            run("runs", "get", one.run_id, "--json", env=box.environment),
            run("runs", "bugs", box.add_run().run_id, "--json", env=box.environment),
        )
        assert [(ran.code, ran.err) for ran in (text, as_json, no_bugs)] == [(0, "")] * 3
        lines = text.out.splitlines()
        assert lines[0] == f"run {one.run_id}: completed, failed"
        for words in (
            "Shop purchase (verification)",
            BUILD.name,
            "nightly",
            one.job_id,
            "player 1: completed, failed, on Pixel 9",
            "12.3 MB  video/run.mp4",
            "It fell.",
            r"\x1b[2JThen nothing.",
        ):
            assert any(words in line for line in lines), words
        (step,) = [line.split() for line in lines if "Open the shop" in line]
        assert step[:2] == ["1", "success"]
        # Reports of what went well are only in the complete output.
        assert "it went well" not in text.out
        assert "https:" not in text.out
        run_ = json.loads(as_json.out)
        assert as_json.out.count("\n") == 1
        assert run_["multiplayer_run_id"] == one.run_id
        assert run_["players"][0]["artifacts"][0]["filename"] == "video/run.mp4"
        assert no_bugs.out == "[]\n"


async def test_bugs_are_listed_in_every_form() -> None:
    async with Sandbox() as box:
        one = box.add_run(script=FAILING)
        said = ["runs", "bugs", one.run_id]
        table, array, lines, first = await together(
            run(*said, env=box.environment),
            run(*said, "--json", env=box.environment),
            run(*said, "--jsonl", env=box.environment),
            run(*said, "--jsonl", "--limit", "1", env=box.environment),
        )
        assert [(ran.code, ran.err) for ran in (table, array, lines, first)] == [(0, "")] * 4
        header, high, medium = table.out.splitlines()
        assert header.split()[:3] == ["SEVERITY", "CATEGORY", "TITLE"]
        assert high.startswith("high")
        assert medium.endswith("b-2")
        bugs = json.loads(array.out)
        assert [bug["bug_id"] for bug in bugs] == ["b-1", "b-2"]
        assert [json.loads(line) for line in lines.out.splitlines()] == bugs
        assert [json.loads(first.out)] == bugs[:1]


async def test_executions_are_listed_filtered_and_sorted() -> None:
    said = f"executions list --json --test-plan {PLAN} --build {BUILD.id} --status in-progress"
    said += " --sort-by build_name --sort-order asc --limit 7"
    async with Sandbox() as box:
        made = box.add_execution(outcome=Outcome(passed=2, failed=1), build=BUILD)
        box.add_execution(status="in_progress", build=BUILD)
        table, filtered = await together(
            run("executions", "list", "--status", "completed", env=box.environment),
            run(*said.split(), env=box.environment),
        )
        assert [(ran.code, ran.err) for ran in (table, filtered)] == [(0, "")] * 2
        header, row = table.out.splitlines()
        assert header.split()[:5] == ["EXECUTION", "STATUS", "PLAN", "STARTED", "PASSED"]
        assert row.split()[:4] == [made.execution_id, "completed", "Release", "gate"]
        assert "2/3" in row.split()
        (found,) = json.loads(filtered.out)
        assert found["status"] == "in_progress"
        assert {
            "test_plan_id": PLAN,
            "build_id": BUILD.id,
            "status": "in_progress",
            "sort_by": "build_name",
            "sort_order": "asc",
            "page": "0",
            "page_size": "7",
        } in asked(box, "list_test_plan_executions")


def started_with(box: Sandbox) -> list[Any]:
    """Give the bodies of the starts, without the tag that each has as its last."""
    bodies: list[Any] = [dict(seen.body) for seen in box.journal.of("start_run")]
    for body in bodies:
        *tags, marker = body.pop("additional_tags")
        assert re.fullmatch("nunu-async-[0-9a-f]{12}", marker)
        body.update({"additional_tags": tags} if tags else {})
    return bodies


async def test_starting_prints_the_ids_of_the_jobs(tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text('{"level": 3}')
    target = f"runs start --deployment-config {PHONES}"
    async with Sandbox() as box:
        said = f"{target} --test {TEST} --tags a,b --retries 2 --instances 3"
        test = await run(*said.split(), "--template-data", '{"l": [1]}', env=box.environment)
        assert (test.code, test.err) == (0, "")
        assert test.out.split() == list(dict.fromkeys(one.job_id for one in box.runs))
        said = f"{target} --test-plan {PLAN} --render-templates --template-data @data.json"
        plan = await run(*said.split(), env=box.environment, cwd=tmp_path)
        assert plan.code == 0
        assert len(plan.out.split()) == 2
        (execution,) = box.executions
        assert plan.err == f"nunu-async: execution {execution.execution_id}\n"
        said = f"{target} --json --name N --agent-config {UNKNOWN} --instructions"
        words = await run(*said.split(), "Buy a lantern", env=box.environment)
        assert (words.code, words.err) == (0, "")
        assert len(json.loads(words.out)["job_ids"]) == 1
        assert started_with(box) == [
            {
                "deployment_config_id": PHONES,
                "multiplayer_test_id": TEST,
                "additional_tags": ["a", "b"],
                "retries": 2,
                "instances": 3,
                "template_data": {"l": [1]},
            },
            {
                "deployment_config_id": PHONES,
                "test_plan_id": PLAN,
                "render_templates": True,
                "template_data": {"level": 3},
            },
            {
                "deployment_config_id": PHONES,
                "instructions": "Buy a lantern",
                "name": "N",
                "agent_config_id": UNKNOWN,
            },
        ]


async def test_a_start_whose_answer_is_lost_is_found_by_its_tag() -> None:
    said = f"runs start --deployment-config {PHONES} --test {TEST}".split()
    async with Sandbox(faults=[Fault(on="start_run", do="cut", effect=True)]) as box:
        ran = await run(*said, env=box.environment)
        assert (ran.code, ran.out.split()) == (0, [box.runs[0].job_id])
        assert len(box.journal.of("start_run")) == 1


@pytest.mark.parametrize(
    ("named", "code", "out", "words"),
    [
        ({"multiplayer_run_id": "k3v9q0zt7mx"}, 0, "k3v9q0zt7mx\n", "wait run"),
        ({"job_ids": []}, 1, "", "named nothing that it started"),
    ],
)
async def test_a_start_that_names_no_job_says_what_it_named(
    named: dict[str, Any], code: int, out: str, words: str
) -> None:
    said = f"runs start --deployment-config {PHONES} --test {TEST}".split()
    async with Sandbox(faults=[Fault(on="start_run", status=201, body=named)]) as box:
        ran = await run(*said, env=box.environment)
        assert (ran.code, ran.out) == (code, out)
        ran.tells(words)
        assert len(box.journal.of("start_run")) == 1


async def test_a_start_that_may_have_happened_is_not_repeated_and_says_so() -> None:
    said = f"runs start --deployment-config {PHONES} --no-marker --test {TEST}".split()
    for fault in (
        Fault(on="start_run", do="cut", effect=True),
        Fault(on="start_run", status=500),
        Fault(on="start_run", status=408),  # of an edge that may have passed it on
    ):
        async with Sandbox(faults=[fault]) as box:
            ran = await run(*said, env=box.environment)
            assert (ran.code, ran.out) == (1, "")
            ran.tells("may have been started", "runs list")
            assert len(ran.err.splitlines()) == 1
            assert len(box.journal) == 1
    async with Sandbox() as box:
        ran = await run(*said[:-1], UNKNOWN, env=box.environment)
        assert (ran.code, ran.out) == (1, "")
        ran.tells("404", "test not found")
        assert "may have been" not in ran.err


@pytest.mark.parametrize("status", [429, 503])
async def test_a_start_that_a_busy_server_refused_has_not_happened(status: int) -> None:
    said = f"runs start --deployment-config {PHONES} --test {TEST}".split()
    # Longer than any wait, so that it is not tried again.
    fault = Fault(on="start_run", status=status, headers={"Retry-After": "300"})
    async with Sandbox(faults=[fault]) as box:
        ran = await run(*said, env=box.environment)
        assert (ran.code, ran.out) == (1, "")
        ran.tells(str(status))
        assert "may have been" not in ran.err
        assert len(box.journal) == 1  # nor was its tag searched for


async def test_stopping_reports_what_was_stopped_and_what_was_not() -> None:
    endless = Script(run_seconds=math.inf)
    async with Sandbox() as box:
        going = [box.add_run(script=endless, state="RUNNING").job_id for _ in range(4)]
        over = box.add_run().job_id
        both = await run("runs", "stop", *going[:2], going[0], env=box.environment)
        assert (both.code, both.err) == (0, "")
        assert both.out.split() == going[:2]
        some = await run("runs", "stop", over, going[2], UNKNOWN, env=box.environment)
        assert some.code == 1
        assert some.out.split() == going[2:3]
        assert some.err.splitlines() == [
            f"nunu-async: {over}: not stopped: Job already completed",
            f"nunu-async: {UNKNOWN}: not stopped: no such job",
        ]
        as_json = await run("runs", "stop", over, going[3], "--json", env=box.environment)
        assert as_json.code == 1
        report = json.loads(as_json.out)
        assert [(one["job_id"], one["ok"]) for one in report["results"]] == [
            (over, False),
            (going[3], True),
        ]
        none = await run("runs", "stop", UNKNOWN, "--json", env=box.environment)
        assert (none.code, none.out) == (1, "")
        none.tells("404", "no jobs found", "; `runs stop` takes job ids; `runs list` shows them\n")
        assert box.journal[0].body == {"job_ids": going[:2]}


@pytest.mark.parametrize("form", ["", "--json", "--jsonl"])
async def test_a_closed_pipe_ends_it_quietly_and_sends_no_more_requests(form: str) -> None:
    async with Sandbox() as box:
        fill(box, 3000)
        said = ["runs", "list", *filter(None, [form]), "--limit", "2500"]
        reading, writing = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *(*COMMAND, *said),
                env=environment(box.environment),
                stdout=writing,
                stderr=asyncio.subprocess.PIPE,
            )
            os.close(writing)
            first = await asyncio.to_thread(os.read, reading, 10)
        finally:
            os.close(reading)
        async with asyncio.timeout(PATIENCE):
            _, err = await process.communicate()
        assert first
        assert (process.returncode, err) == (0, b"")
        # Lines go out as they come, and so their end is noticed; the others are whole or nothing.
        if form == "--jsonl":
            assert len(box.journal) <= 3
        else:
            assert len(box.journal) == 25


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
async def test_a_full_disk_is_a_failure() -> None:
    async with Sandbox() as box:
        fill(box, 2)
        for form in ("--json", "--jsonl"):
            full = os.open("/dev/full", os.O_WRONLY)
            try:
                process = await asyncio.create_subprocess_exec(
                    *(*COMMAND, "runs", "list", form),
                    env=environment(box.environment),
                    stdout=full,
                    stderr=asyncio.subprocess.PIPE,
                )
            finally:
                os.close(full)
            _, err = await process.communicate()
            assert process.returncode == 1
            assert err == b"nunu-async: cannot write the result: No space left on device\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("form", [[], ["--json"]])
async def test_a_start_or_stop_that_cannot_be_printed_is_a_failure(form: list[str]) -> None:
    """What was done is reported on standard error instead."""
    async with Sandbox() as box:
        going = box.add_run(script=Script(run_seconds=math.inf), state="RUNNING")
        config, test = box.deployment_configs[0].id, box.tests[0].id
        start = ["start", "--deployment-config", config, "--test", test]
        for asked_ in (start, ["stop", going.job_id]):
            full = os.open("/dev/full", os.O_WRONLY)
            try:
                process = await asyncio.create_subprocess_exec(
                    *(*COMMAND, "runs", *asked_, *form),
                    env=environment(box.environment),
                    stdout=full,
                    stderr=asyncio.subprocess.PIPE,
                )
            finally:
                os.close(full)
            _, err = await process.communicate()
            assert process.returncode == 1
            assert err.startswith(b"nunu-async: cannot write the result (No space left on device)")
            rest = err.decode().split("): ", 1)[1]
            assert going.job_id in rest if "stop" in asked_ else re.search("[0-9a-f-]{36}", rest)


async def serving(body: bytes) -> tuple[asyncio.Server, dict[str, str]]:
    """Answer every request with a body; return the environment that leads to it."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: ")
        writer.write(str(len(body)).encode() + b"\r\n\r\n" + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    return server, {"NUNU_API_KEY": KEY, "NUNU_BASE_URL": base}


@pytest.mark.parametrize(
    ("change", "form", "code", "words"),
    [
        ({"steps": [step(test=None), step(test={})]}, [], 0, ""),
        (
            {"artifacts": [artifact(size=10**400)]},
            [],
            1,
            "64 bits @ $.players[0].artifacts[0].size",
        ),
        ({"steps": [step(duration_ms=10**300)]}, [], 0, ""),
    ],
)
async def test_an_odd_run_is_shown_or_is_a_one_line_error(
    change: dict[str, Any], form: list[str], code: int, words: str
) -> None:
    one = player(**({"artifacts": [], "steps": []} | change))
    server, env = await serving(json.dumps(details(players=[one])).encode())
    async with server:
        ran = await run("runs", "get", "k3v9q0zt7mx", *form, env=env)
    assert (ran.code, len(ran.err.splitlines())) == (code, code)
    assert words in ran.err


async def test_a_run_nested_too_deep_is_a_one_line_error() -> None:
    body = json.dumps(details())[:-1] + ', "zz": ' + "[" * 880 + "]" * 880 + "}"
    server, env = await serving(body.encode())
    async with server:
        shown = await run("runs", "get", "k3v9q0zt7mx", env=env)
        ran = await run("runs", "get", "k3v9q0zt7mx", "--json", env=env)
    assert (shown.code, shown.err) == (0, "")
    assert ran.code in {0, 1}  # as deep as the interpreter can go
    assert len(ran.err.splitlines()) == ran.code


@pytest.mark.parametrize(("which", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_signal_ends_a_listing(which: signal.Signals, code: int) -> None:
    async with Sandbox(faults=[Fault(on="list_runs", first=2, times=None, do="stall")]) as box:
        fill(box, 150)
        for form, rows in (("--jsonl", 100), ("--json", 0)):
            before = len(box.journal)
            async with started("runs", "list", form, env=box.environment) as running:
                await until(lambda before=before: len(box.journal) > before)
                if rows:
                    await until(lambda running=running: running.out.count("\n") == 100)
                running.send_signal(which)
                ran = await running.end()
            assert ran.code == code
            assert ran.err == "nunu-async: stopping ...\n"
            # Nothing that could be taken for a whole array.
            assert ran.out.count("\n") == rows


def waiting(pipe: int) -> int:
    """Count the bytes that lie in a pipe."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


@pytest.mark.skipif(sys.platform == "win32", reason="no ioctl on Windows")
async def test_a_signal_ends_a_command_with_an_unread_pipe() -> None:
    async with Sandbox() as box:
        fill(box, 1000)
        reading, writing = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *(*COMMAND, "runs", "list", "--jsonl"),
                env=environment(box.environment),
                stdout=writing,
                stderr=asyncio.subprocess.PIPE,
            )
            os.close(writing)
            await until(lambda: waiting(reading) > 20_000)
            before = 0
            while before < (before := waiting(reading)):  # until nothing more goes in
                await asyncio.sleep(0.1)
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(PATIENCE):
                _, err = await process.communicate()
        finally:
            os.close(reading)  # ends the process, too
        assert len(box.journal) < 5
        assert (process.returncode, err) == (143, b"nunu-async: stopping ...\n")


async def test_exit_codes_and_a_line_for_each_failure() -> None:
    reader = "nunu_reader_key_0123456789"
    async with Sandbox(keys={reader: Key(permissions=["project:read-runs"])}) as box:
        env = box.environment
        bare = {"NUNU_BASE_URL": box.base_url}
        gone, bugless, bad, no_key, no_id, wrong, weak = await together(
            run("runs", "get", "nope", env=env),
            run("runs", "bugs", "nope", env=env),
            run("runs", "list", "--json", "--job", "x", env=env),
            run("runs", "list", "--json", env=bare),
            run("runs", "get", "../stop", env=env),
            run("executions", "list", env=env | {"NUNU_API_KEY": "nunu_wrong_key_0123456789"}),
            run("runs", "stop", UNKNOWN, env=env | {"NUNU_API_KEY": reader}),
        )
        for ran, code, *words in (
            (gone, 1, "404", "run not found", "; a job id? `runs list --job ID` gives"),
            (bugless, 1, "404", "run not found", "; a job id? `runs list --job ID` gives"),
            (bad, 1, "400", "job_id"),
            (no_key, 2, "NUNU_API_KEY", "`nunu-async demo` needs none", "`nunu-async sandbox`"),
            (no_id, 2, "run_id"),
            (wrong, 1, "401", "Invalid API key"),
            (weak, 1, "403", "project:operate-runs"),
        ):
            assert (ran.code, ran.out) == (code, "")
            ran.tells(*words)
            assert len(ran.err.splitlines()) == 1
            assert "api_key" not in ran.err


async def test_words_of_filters_count_in_any_case() -> None:
    async with Sandbox() as box:
        sort = "--sort-by Start-Time --sort-order ASC"
        runs, executions = await together(
            run("runs", "list", "--json", "--state", "COMPLETED", env=box.environment),
            run(*f"executions list --json --status Queued {sort}".split(), env=box.environment),
        )
        assert [(ran.code, ran.err) for ran in (runs, executions)] == [(0, "")] * 2
        assert asked(box)[0]["state"] == "completed"
        (query_,) = asked(box, "list_test_plan_executions")
        assert (query_["status"], query_["sort_by"]) == ("queued", "start_time")
        assert query_["sort_order"] == "asc"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("runs", "ACTION"),
        ("executions", "ACTION"),
        ("runs delete", "delete"),
        ("runs list --limit 0", "must be a whole number from 1"),
        ("runs list --state done", "done"),
        ("runs list --json --jsonl", "not allowed with"),
        ("runs get", "RUN_ID"),
        ("runs stop", "JOB_ID"),
        ("runs start --test T", "--deployment-config"),
        ("runs start --deployment-config C", "--test-plan"),
        ("runs start --deployment-config C --test T --test-plan P", "not allowed with"),
        ("runs start --deployment-config C --test T --name N", "--instructions"),
        ("runs start --deployment-config C --test-plan P --retries 1", "--test"),
        ("runs start --deployment-config C --test-plan P --instances 1", "--test"),
        ("runs start --deployment-config C --test T --retries 11", "0 to 10"),
        ("runs start --deployment-config C --test T --instances 0", "1 to 10"),
        ("runs start --deployment-config C --test T --template-data [1]", "JSON object"),
        ("runs start --deployment-config C --test T --template-data {", "not JSON"),
        ('runs start --deployment-config C --test T --template-data {"a":NaN}', "NaN"),
        (
            "runs start --deployment-config C --test T --template-data @no/file",
            "cannot read no/file: No",
        ),
        ("runs start --deployment-config C --test T --tags ''", "at least one tag"),
        ("runs list --tags ,", "at least one tag"),
        ("upload game.apk --name N --tags ''", "at least one tag"),
        ("upload game.apk --name N --deletion-policy oldest", "--auto-delete"),
        ("sandbox --dialect X", "X"),
        ("sandbox --sample-runs -1", "whole number from 0"),
        ("executions list --status running", "running"),
        ("executions list --sort-by name", "name"),
    ],
)
def test_usage_errors(said: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    from nunu_async.cli import main  # noqa: PLC0415 - one process for all of these

    with pytest.raises(SystemExit) as ended:
        main([word.strip("'") for word in said.split()])
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err.splitlines()[-1]
    # The usage of the very command that was meant.
    meant = "runs start" if said.startswith("runs start") else said.split(maxsplit=1)[0]
    assert err.startswith(f"usage: nunu-async {meant}")


async def test_help_names_the_environment_and_every_option() -> None:
    helped = await together(
        *(
            run(*said.split(), "--help", env={"COLUMNS": "80"})
            for said in ("", "runs", "runs list", "runs start", "executions list", "runs get")
        )
    )
    for ran in helped:
        assert (ran.code, ran.err) == (0, "")
        assert max(map(len, ran.out.splitlines())) <= 82
    assert "NUNU_LOG" in helped[0].out
    assert "--no-bugs" in helped[2].out
    assert "@FILE" in helped[3].out
    assert "--sort-by" in helped[4].out
    assert "not of a job" in helped[5].out


async def test_debug_logs_every_attempt_and_no_key() -> None:
    async with Sandbox(faults=[Fault(on="list_runs", status=500)]) as box:
        fill(box, 1)
        loud, odd = await together(
            run("runs", "list", "--json", env=box.environment | {"NUNU_LOG": "debug"}),
            run("executions", "list", "--json", env=box.environment | {"NUNU_LOG": "loud"}),
        )
        assert (loud.code, odd.code) == (0, 0)
        assert len(json.loads(loud.out)) == 1
        attempts = [line for line in loud.err.splitlines() if "GET /runs" in line]
        failed, succeeded = [line for line in attempts if re.search(r"\d\d:\d\d:\d\d\.\d", line)]
        assert "500" in failed
        assert "200" in succeeded
        # The pause between them is reported once, too.
        assert loud.err.count("next in") == 1
        assert box.api_key not in loud.err
        assert odd.err == "nunu-async: NUNU_LOG is not a level such as debug: 'loud'\n"


LISTING = """
import sys
from nunu_async.cli import main
code = main(sys.argv[1:])
with open("/proc/self/status") as status:
    peak = next(line.split()[1] for line in status if line.startswith("VmHWM:"))
print("peak", int(peak) * 1024, file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
async def test_lines_of_20_000_runs_take_the_memory_of_200() -> None:
    async with Sandbox() as box:
        fill(box, 20_000)
        peaks = []
        for limit in (200, 20_000):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", LISTING, "runs", "list", "--jsonl"),
                *("--limit", str(limit)),
                env=environment(box.environment),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            out, err = await process.communicate()
            assert process.returncode == 0
            assert out.count(b"\n") == limit
            peaks.append(int(err.split()[-1]))
        assert len(box.journal) == 202
        # The ids of the last 10,000 runs are kept, to give none twice.
        assert peaks[1] - peaks[0] < 4 * 1024 * 1024, peaks
