"""JUnit XML, as the viewers of CI servers read it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC
from xml.etree import ElementTree as ET

from nunu_async.cli.verdict import Verdict
from nunu_async.models.base import is_set
from nunu_async.redact import clean

__all__ = ["junit_xml"]

_LONGEST = 10_000
_ELEMENTS = {"failed": "failure", "error": "error", "pending": "error", "skipped": "skipped"}


def junit_xml(verdicts: Sequence[Verdict], *, name: str) -> bytes:
    """Return the document: one suite, one case for each job.

    FAILED, FAILURE and MAX_STEPS are failures; SKIPPED is skipped; everything else that is no
    success is an error, as is what was not over: BLOCKED too, which the service counts among the
    failed. Readers tell cases apart by name and class, so of those with the same the second is
    called "NAME (2)". The suite's timestamp is that of its oldest job, in UTC and without a zone,
    as the schema has it; no clock is read. What XML cannot hold is escaped as Python would.

    Args:
        verdicts: what became of each job.
        name: of the suite.
    """
    counts = Counter(_ELEMENTS.get(verdict.kind, "") for verdict in verdicts)
    numbers = {
        "tests": str(len(verdicts)),
        "failures": str(counts["failure"]),
        "errors": str(counts["error"]),
        "time": _seconds(sum(verdict.seconds or 0.0 for verdict in verdicts)),
    }
    # A suite alone may tell what was skipped. Source: jenkinsci/xunit-plugin, junit-10.xsd.
    root = ET.Element("testsuites", {"name": _line(name), **numbers})
    suite = ET.SubElement(
        root, "testsuite", {"name": _line(name), **numbers, "skipped": str(counts["skipped"])}
    )
    moment = min((verdict.began for verdict in verdicts if verdict.began), default=None)
    if is_set(moment):
        suite.set("timestamp", f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S}")
    for verdict, (place, title) in zip(verdicts, _titles(verdicts), strict=True):
        _add_case(suite, verdict, place, title)
    ET.indent(root)
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _titles(verdicts: Sequence[Verdict]) -> Iterator[tuple[str, str]]:
    """Give each case a class and a name that no other has together."""
    wanted = [(_place(verdict), _line(verdict.name)) for verdict in verdicts]
    taken = set(wanted)
    numbers: Counter[tuple[str, str]] = Counter()
    for place, name in wanted:
        title = name
        numbers[place, name] += 1
        if numbers[place, name] > 1:
            while (place, title) in taken:
                title = f"{name} ({numbers[place, name]})"
                numbers[place, name] += (place, title) in taken
            taken.add((place, title))
        yield place, title


def _place(verdict: Verdict) -> str:
    # A full stop makes packages of it, in viewers that group by them.
    return "nunu" if verdict.platform is None else f"nunu.{_line(verdict.platform)}"


def _add_case(suite: ET.Element, verdict: Verdict, place: str, title: str) -> None:
    case = ET.SubElement(
        suite,
        "testcase",
        {"name": title, "classname": place, "time": _seconds(verdict.seconds or 0.0)},
    )
    element = _ELEMENTS.get(verdict.kind)
    if element is not None:
        text = _text(verdict.why)
        first = next(iter(text.splitlines()), "") or _line(verdict.result)
        found = ET.SubElement(case, element, {"message": first, "type": _line(verdict.result)})
        found.text = text
    about = [("job", verdict.job_id), ("run", verdict.run_id)]
    told = [f"{what} {_line(given)}" for what, given in about if given]
    if told:
        ET.SubElement(case, "system-out").text = "\n".join(told)


def _seconds(value: float) -> str:
    return f"{max(value, 0.0):.3f}"


def _line(text: str) -> str:
    return clean(text)


def _text(text: str) -> str:
    # Line by line: all that XML cannot hold is no printable character, but neither is its end.
    return "\n".join(clean(line, limit=_LONGEST) for line in text.splitlines())
