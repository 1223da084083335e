"""What GitHub Actions takes from a step: outputs, and a summary in Markdown.

Source: docs.github.com, "Workflow commands for GitHub Actions", environment files.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence

from nunu_async.cli.output import tell
from nunu_async.cli.rows import NOTHING, cell, span
from nunu_async.cli.verdict import Kind, Verdict
from nunu_async.redact import clean

__all__ = ["outputs", "publish", "summary"]

OUTPUTS = "GITHUB_OUTPUT"
SUMMARY = "GITHUB_STEP_SUMMARY"
# A summary over 1 MiB is dropped whole.
_MOST_ROWS = 500
_LONGEST = 300
# All that means something to Markdown, to HTML, or to GitHub: mentions, issues, links, formulas.
_SPECIAL = re.compile(r"[&<>\"'`*_\[\]|\\~#!@:$]")
_MARKS: dict[Kind, str] = {
    "passed": ":white_check_mark:",
    "failed": ":x:",
    "error": ":x:",
    "skipped": ":fast_forward:",
    "pending": ":hourglass:",
}


def publish(
    environ: Mapping[str, str],
    values: Mapping[str, str],
    verdicts: Sequence[Verdict],
    *,
    build: str,
) -> bool:
    """Append to the files that the environment names, if any.

    Returns False, with a sentence on standard error, where one cannot be written.
    """
    written = True
    for variable, text in (
        (OUTPUTS, outputs(values)),
        (SUMMARY, summary(verdicts, build=build)),
    ):
        path = environ.get(variable)
        if not path:
            continue
        try:
            with open(path, "a", encoding="utf-8", newline="\n") as file:
                file.write(text)
        except (OSError, ValueError) as error:
            tell(f"nunu-async: cannot write {variable} ({cell(path)}): {error}")
            written = False
    return written


def outputs(values: Mapping[str, str]) -> str:
    """Return outputs in the form with a delimiter, which no value can know, so none can forge."""
    told = []
    for name, value in values.items():
        mark = f"nunu_{secrets.token_hex(16)}"
        lines = "\n".join(clean(line, limit=100_000) for line in value.splitlines())
        told.append(f"{name}<<{mark}\n{lines}\n{mark}\n")
    return "".join(told)


def summary(verdicts: Sequence[Verdict], *, build: str) -> str:
    """Return a summary in Markdown, in which names are nothing but names."""
    passed = sum(verdict.kind == "passed" for verdict in verdicts)
    lines = [
        f"### nunu: {passed} of {len(verdicts)} passed",
        "",
        f"Build {_plain(build)}",
        "",
        "| Test | Result | Duration | Run | Why |",
        "|---|---|---|---|---|",
    ]
    for verdict in verdicts[:_MOST_ROWS]:
        seconds = None if verdict.seconds is None else verdict.seconds * 1000
        cells = [
            _plain(verdict.name),
            f"{_MARKS[verdict.kind]} {_plain(verdict.result)}",
            span(seconds),
            _plain(verdict.run_id or NOTHING),
            _plain(verdict.why),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    if len(verdicts) > _MOST_ROWS:
        lines += ["", f"and {len(verdicts) - _MOST_ROWS} more"]
    return "\n".join([*lines, "", ""])


def _plain(text: str) -> str:
    """Return text for a cell of a table; what could mean anything there is an entity."""
    short = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    lines = (clean(line, limit=2 * _LONGEST) for line in short.splitlines())
    return "<br>".join(_SPECIAL.sub(lambda found: f"&#{ord(found[0])};", line) for line in lines)
