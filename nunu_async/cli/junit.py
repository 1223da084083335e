"""JUnit XML for CI servers (pure functions)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC
from xml.etree import ElementTree as ET

from nunu_async.cli.verdict import Verdict
from nunu_async.models.base import is_set
from nunu_async.redact import sanitize

_MAX_CHARACTERS = 10_000
_ELEMENTS = {"failed": "failure", "error": "error", "pending": "error", "skipped": "skipped"}


def junit_xml(verdicts: Sequence[Verdict], *, name: str) -> bytes:
    """Return a JUnit document with one suite and one case per job.

    FAILED, FAILURE and MAX_STEPS are failures; SKIPPED is skipped; every other unsuccessful result
    is an error, including BLOCKED, which the API counts as failed; so are pending jobs. Viewers
    identify a case by name and class, so a duplicate is renamed to "NAME (2)". The suite's
    timestamp is its oldest job's, in UTC without a zone, as the schema requires; no clock is read.
    Characters that XML does not allow are escaped as in Python.

    Args:
        verdicts: the verdict of each job.
        name: name of the suite.
    """
    counts = Counter(_ELEMENTS.get(verdict.kind, "") for verdict in verdicts)
    totals = {
        "tests": str(len(verdicts)),
        "failures": str(counts["failure"]),
        "errors": str(counts["error"]),
        "time": _seconds(sum(verdict.seconds or 0.0 for verdict in verdicts)),
    }
    # Only `testsuite` may have `skipped`. Source: jenkinsci/xunit-plugin, junit-10.xsd.
    root = ET.Element("testsuites", {"name": sanitize(name), **totals})
    suite = ET.SubElement(
        root, "testsuite", {"name": sanitize(name), **totals, "skipped": str(counts["skipped"])}
    )
    oldest = min((verdict.began for verdict in verdicts if verdict.began), default=None)
    if is_set(oldest):
        suite.set("timestamp", f"{oldest.astimezone(UTC):%Y-%m-%dT%H:%M:%S}")
    for verdict, (class_name, title) in zip(verdicts, _unique_titles(verdicts), strict=True):
        _add_case(suite, verdict, class_name, title)
    ET.indent(root)
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _unique_titles(verdicts: Sequence[Verdict]) -> Iterator[tuple[str, str]]:
    """Yield a class name and a title for each case, unique as a pair."""
    wanted = [(_class_name(verdict), sanitize(verdict.name)) for verdict in verdicts]
    taken = set(wanted)
    numbers: Counter[tuple[str, str]] = Counter()
    for class_name, name in wanted:
        title = name
        numbers[class_name, name] += 1
        if numbers[class_name, name] > 1:
            while (class_name, title) in taken:
                title = f"{name} ({numbers[class_name, name]})"
                numbers[class_name, name] += (class_name, title) in taken
            taken.add((class_name, title))
        yield class_name, title


def _class_name(verdict: Verdict) -> str:
    # Viewers that group by package split the class name at the dot.
    return "nunu" if verdict.platform is None else f"nunu.{sanitize(verdict.platform)}"


def _add_case(suite: ET.Element, verdict: Verdict, class_name: str, title: str) -> None:
    case = ET.SubElement(
        suite,
        "testcase",
        {"name": title, "classname": class_name, "time": _seconds(verdict.seconds or 0.0)},
    )
    tag = _ELEMENTS.get(verdict.kind)
    if tag is not None:
        text = _text(verdict.why)
        message = next(iter(text.splitlines()), "") or sanitize(verdict.result)
        element = ET.SubElement(case, tag, {"message": message, "type": sanitize(verdict.result)})
        element.text = text
    ids = [("job", verdict.job_id), ("run", verdict.run_id)]
    lines = [f"{noun} {sanitize(value)}" for noun, value in ids if value]
    if lines:
        ET.SubElement(case, "system-out").text = "\n".join(lines)


def _seconds(value: float) -> str:
    return f"{max(value, 0.0):.3f}"


def _text(text: str) -> str:
    # `sanitize` escapes what XML does not allow, but newlines too: apply it per line.
    return "\n".join(sanitize(line, limit=_MAX_CHARACTERS) for line in text.splitlines())
