"""JUnit XML: what is counted as what, and that others read what was written."""

import re
from collections import Counter
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from junit2htmlreport.parser import Junit
from junitparser import Error, Failure, JUnitXml, Skipped

from nunu_async.cli.junit import junit_xml
from nunu_async.cli.verdict import Kind, Verdict, judge
from nunu_async.models.jobs import Job, JobRetries, JobRun
from nunu_async.models.runs import (
    Initiator,
    PlayerDetails,
    RunDetails,
    RunStep,
    StepItem,
    StepTest,
    TestRef,
)
from nunu_async.models.vocab import JobStatus, RunResult, RunState, TestType
from nunu_async.redact import sanitize

BEGAN = datetime(2026, 4, 11, 8, 10, 0, 123456, tzinfo=timezone(timedelta(hours=2)))
ELEMENT = {"passed": None, "failed": "failure", "skipped": "skipped"}


def parsed(written: bytes) -> ET.Element:
    return ET.fromstring(written)  # noqa: S314 - we wrote it


def job(*results: str | None, **members: object) -> Job:
    runs = tuple(
        JobRun(
            multiplayer_run_id=f"run{number}",
            state=RunState.COMPLETED,
            result=None if result is None else RunResult(result),
            started_at=BEGAN + timedelta(seconds=10 * number),
        )
        for number, result in enumerate(results)
    )
    given_ = {
        "job_id": "j",
        "status": JobStatus.COMPLETED,
        "created_at": BEGAN,
        "completed_at": BEGAN + timedelta(seconds=90.5),
        "test_name": "Shop purchase",
        "runs": runs,
    }
    return Job(**(given_ | members))  # type: ignore[arg-type]


def details(run_id: str, *players: tuple[RunStep, ...]) -> RunDetails:
    return RunDetails(
        multiplayer_run_id=run_id,
        project_id="p",
        state=RunState.COMPLETED,
        test=TestRef(id="t", name="T", type=TestType.VERIFICATION),
        created_at=BEGAN,
        initiator=Initiator(type="api"),
        players=tuple(
            PlayerDetails(id="p", state=RunState.COMPLETED, player_number=number, steps=steps)
            for number, steps in enumerate(players, 1)
        ),
    )


def step(number: int, goal: str, result: str, report: str | None = None) -> RunStep:
    return RunStep(
        step_number=number,
        run_state=RunState.COMPLETED,
        test=StepTest(goal=goal),
        run_result=RunResult(result),
        report=report,
        items=(
            StepItem(status="passed", expected="a door"),
            StepItem(status="failed", expected="a key", comment="it is gone"),
        )
        if result == "FAILED"
        else None,
    )


def one(found: Job, *details_of_runs: RunDetails) -> Verdict:
    by_id = {run.multiplayer_run_id: run for run in details_of_runs}
    (verdict,) = judge(["j"], {"j": found}, details=by_id, errors={})
    return verdict


@pytest.mark.parametrize(
    ("result", "kind"),
    [
        ("SUCCESS", "passed"),
        ("success", "passed"),
        ("FAILED", "failed"),
        ("failure", "failed"),
        ("MAX_STEPS", "failed"),
        ("ERROR", "error"),
        ("TIMEOUT", "error"),
        ("STOPPED", "error"),
        ("BLOCKED", "error"),
        ("a new word", "error"),
        (None, "error"),
        ("SKIPPED", "skipped"),
    ],
)
def test_every_result_is_counted_as_something(result: str | None, kind: Kind) -> None:
    verdict = one(job(result))
    assert (verdict.kind, verdict.result) == (kind, "none" if result is None else result.lower())
    assert verdict.run_id == "run0"
    assert verdict.seconds == 90.5
    assert bool(verdict.why) == (kind != "passed")
    case = parsed(junit_xml([verdict], name="N"))[0][0]
    children = [child.tag for child in case if child.tag != "system-out"]
    assert children == [name for name in [ELEMENT.get(kind, "error")] if name]


def test_the_run_that_spoiled_the_job_decides() -> None:
    assert one(job("FAILED", "SUCCESS", "SUCCESS")).run_id == "run0"
    assert one(job("ERROR", "MAX_STEPS")).result == "max_steps"
    made_up_for = one(job("ERROR", "SUCCESS", retries=JobRetries(total=2, remaining=1)))
    assert (made_up_for.kind, made_up_for.run_id, made_up_for.why) == ("passed", "run1", "")


def test_a_job_without_a_run_says_what_is_known() -> None:
    rejected = one(job(queue_rejection_reason="no device\nfree", completed_at=None))
    assert (rejected.kind, rejected.result, rejected.seconds) == ("error", "none", None)
    assert rejected.why.startswith("rejected: no device\nfree")
    stopped = one(job(stopped_by={"type": "user"}))
    assert (stopped.result, stopped.seconds) == ("stopped", 90.5)
    assert stopped.why == "the job is over without a run"


def test_the_failing_steps_tell_why() -> None:
    good = step(1, "Open the shop", "SUCCESS", "went well")
    bad = step(2, "Buy a \x1b[2Jlantern", "FAILED", "It fell.\r\nThen\tnothing.\x00")
    alone = one(job("FAILED"), details("run0", (good, bad)))
    assert alone.why.splitlines() == [
        r"step 2 failed: Buy a \x1b[2Jlantern",
        "failed: a key: it is gone",
        "It fell.",
        r"Then\tnothing.\x00",
    ]
    assert alone.brief.startswith(r"step 2 failed: Buy a \x1b[2Jlantern failed: a key")
    several = one(job("FAILED"), details("run0", (good,), (good, bad)))
    assert several.why.startswith("player 2, step 2 failed:")
    # The run of another job, and one that tells of no failing step, explain nothing.
    for found in (details("run7", (bad,)), details("run0", (good,))):
        assert one(job("FAILED"), found).why == "run run0 ended with failed"
    endless = one(job("FAILED"), details("run0", (step(1, "g", "ERROR", "line\n" * 5000),)))
    assert endless.why.splitlines()[-1] == "... and 4800 lines more"


def test_what_is_not_over_and_what_was_lost_are_errors() -> None:
    going = job("SUCCESS", status=JobStatus.RUNNING, job_id="a", completed_at=None)
    found = judge(["a", "b", "c"], {"a": going}, details={}, errors={"c": "401\nkey"})
    assert [v.kind for v in found] == ["pending", "pending", "error"]
    assert [v.name for v in found] == ["Shop purchase", "b", "c"]
    assert "last seen running" in found[0].why
    assert "never seen" in found[1].why
    assert found[2].why == "401\nkey"
    root = parsed(junit_xml(found, name="N"))
    assert (root.get("tests"), root.get("errors"), root.get("failures")) == ("3", "3", "0")
    assert root[0][2][0].get("message") == "401"


def test_the_document_has_no_time_of_its_own() -> None:
    verdicts = [one(job("SUCCESS")), one(job("FAILED", platform="lt.phone"))]
    written = junit_xml(verdicts, name="Nightly 41")
    assert written == junit_xml(verdicts, name="Nightly 41")
    suite = parsed(written)[0]
    assert suite.attrib == {
        "name": "Nightly 41",
        "tests": "2",
        "failures": "1",
        "errors": "0",
        "skipped": "0",
        "time": "181.000",
        "timestamp": "2026-04-11T06:10:00",
    }
    assert [case.get("classname") for case in suite] == ["nunu", "nunu.lt.phone"]
    assert [case.findtext("system-out") for case in suite] == ["job j\nrun run0"] * 2
    never = job("SUCCESS", created_at=datetime(1, 1, 1, tzinfo=UTC))
    assert parsed(junit_xml([one(never)], name="N"))[0].get("timestamp") is None
    assert parsed(junit_xml([], name="N"))[0].get("tests") == "0"


# What the schema of Jenkins' xUnit plugin allows of what is written here: for each element its
# attributes (a star: they have to be there), and its children.
# Source: jenkinsci/xunit-plugin, junit-10.xsd.
COUNTS = {"tests": r"\d+", "failures": r"\d+", "errors": r"\d+"}
TIME = r"(([0-9]{0,3},)*[0-9]{3}|[0-9]{0,3})*(\.[0-9]{0,3})?"
ANY = r"(?s).*"
PROBLEM: tuple[dict[str, str], set[str]] = ({"type": ANY, "message": ANY}, set())
SCHEMA: dict[str, tuple[dict[str, str], set[str]]] = {
    "testsuites": ({"name": ANY, "time": TIME, **COUNTS}, {"testsuite"}),
    "testsuite": (
        {"name*": ANY, "time": TIME, "skipped": r"\d+", "timestamp": ANY}
        | {f"{name}*": pattern for name, pattern in COUNTS.items()},
        {"testcase"},
    ),
    "testcase": (
        {"name*": ANY, "classname": ANY, "time": TIME},
        {"failure", "error", "skipped", "system-out"},
    ),
    "failure": PROBLEM,
    "error": PROBLEM,
    "skipped": PROBLEM,
    "system-out": ({}, set()),
}
HAVE_TEXT = {"failure", "error", "skipped", "system-out"}


def faults_of(element: ET.Element) -> list[str]:
    """Say where a document is not as the schema has it."""
    attributes, children = SCHEMA[element.tag]
    allowed = {name.rstrip("*"): pattern for name, pattern in attributes.items()}
    found = [
        f"{element.tag} lacks {n[:-1]}"
        for n in attributes
        if n[-1] == "*" and n[:-1] not in element.attrib
    ]
    for name, value in element.attrib.items():
        if name not in allowed:
            found.append(f"{element.tag} may not have {name}")
        elif not re.fullmatch(allowed[name], value):
            found.append(f"{element.tag} {name}={value!r}")
    if element.tag not in HAVE_TEXT and (element.text or "").strip():
        found.append(f"{element.tag} has text")
    for child in element:
        if child.tag not in children or (child.tail or "").strip():
            found.append(f"{child.tag} in {element.tag}")
        else:
            found += faults_of(child)
    return found


def test_of_cases_with_one_name_each_is_found_by_its_own() -> None:
    """GitLab shows one of those that have name and class in common, maybe not the failed one."""
    names = ["Shop", "Shop", "Shop (2)", "Shop", "Quest", "Quest"]
    kinds: list[Kind] = ["passed", "failed", "passed", "failed", "passed", "failed"]
    platforms = [None, None, None, None, "android", "linux"]
    verdicts = [
        Verdict(job_id=f"j{i}", name=name, kind=kind, result="r", platform=platform)
        for i, (name, kind, platform) in enumerate(zip(names, kinds, platforms, strict=True))
    ]
    suite = parsed(junit_xml(verdicts, name="N"))[0]
    assert [(case.get("classname"), case.get("name")) for case in suite] == [
        ("nunu", "Shop"),
        ("nunu", "Shop (3)"),
        ("nunu", "Shop (2)"),
        ("nunu", "Shop (4)"),
        ("nunu.android", "Quest"),
        ("nunu.linux", "Quest"),
    ]
    assert [case.find("failure") is not None for case in suite] == [k == "failed" for k in kinds]
    # Names that are cut, too, and many of them.
    long = [
        Verdict(job_id="j", name="x" * 5000 + str(n), kind="passed", result="r")
        for n in range(2000)
    ]
    names = {case.get("name") for case in parsed(junit_xml(long, name="N"))[0]}
    assert len(names) == 2000


TEXT = st.text(st.characters(), max_size=40) | st.sampled_from(
    ["]]>", "<![CDATA[", "\x00\x1b[2J", "\ud800", "\U0001f3ae", "a\r\nb", "&lt;", "\x85\u2028", ""]
)
VERDICTS = st.lists(
    st.builds(
        Verdict,
        job_id=TEXT,
        name=TEXT,
        kind=st.sampled_from(["passed", "failed", "error", "skipped", "pending"]),
        result=TEXT,
        seconds=st.none() | st.floats(-1, 1e6),
        run_id=st.none() | TEXT,
        why=TEXT,
        platform=st.none() | TEXT,
        began=st.none() | st.datetimes(timezones=st.just(UTC)),
    ),
    max_size=6,
)


@given(VERDICTS, TEXT)
def test_two_readers_of_others_count_what_was_written(verdicts: list[Verdict], name: str) -> None:
    written = junit_xml(verdicts, name=name)
    root = parsed(written)
    assert faults_of(root) == []
    assert len({(case.get("classname"), case.get("name")) for case in root[0]}) == len(verdicts)
    kinds = Counter(verdict.kind for verdict in verdicts)
    errors = kinds["error"] + kinds["pending"]
    # The first: junitparser.
    (suite,) = JUnitXml.fromstring(written)
    counts = (suite.tests, suite.failures, suite.errors, suite.skipped)
    assert counts == (len(verdicts), kinds["failed"], errors, kinds["skipped"])
    cases = list(suite)
    found = Counter(type(result) for case in cases for result in case.result)
    assert (found[Failure], found[Error], found[Skipped]) == counts[1:]
    suite.update_statistics()  # counts anew
    assert (suite.tests, suite.failures, suite.errors, suite.skipped) == counts
    # The second: junit2html, which reads files.
    with TemporaryDirectory() as folder:
        path = Path(folder) / "out.xml"
        path.write_bytes(written)
        report = Junit(str(path))
        page = report.html()
    (other,) = report.suites
    assert len(other.all()) == len(verdicts)
    assert len(other.failed()) == kinds["failed"] + errors
    assert len(other.skipped()) == kinds["skipped"]
    assert len(other.passed()) == kinds["passed"]
    assert "<html" in page
    # Both give back the names and the words, as they can be printed.
    for case, verdict in zip(cases, verdicts, strict=True):
        assert case.name.isprintable()
        title = sanitize(verdict.name)
        assert re.fullmatch(re.escape(title) + r"( \(\d+\))?", case.name)
        assert re.sub(r"\\.*", "", title) == re.sub(
            r"\\.*", "", "".join(c if c.isprintable() else "\\" for c in verdict.name)
        )
        for result in case.result:
            assert all(line.isprintable() for line in (result.text or "").split("\n"))


def test_the_words_of_a_report_come_back() -> None:
    words = "]]> <b>&amp;</b> \U0001f3ae\nsecond \N{GREEK SMALL LETTER LAMDA} line"
    verdict = one(job("FAILED"), details("run0", (step(1, "g", "MAX_STEPS", words),)))
    (suite,) = JUnitXml.fromstring(junit_xml([verdict], name='<N> & "co"'))
    assert suite.name == '<N> & "co"'
    ((failure,),) = [case.result for case in suite]
    assert failure.text == f"step 1 max_steps: g\n{words}"
    assert failure.message == "step 1 max_steps: g"
    assert failure.type == "failed"
