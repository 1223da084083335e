"""Step outputs and job summary for GitHub Actions.

Source: docs.github.com, "Workflow commands for GitHub Actions", environment files.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping, Sequence

from nunu_async.cli.output import echo_err, echo_lost
from nunu_async.cli.rows import NOTHING, cell, span
from nunu_async.cli.verdict import Kind, Verdict
from nunu_async.redact import sanitize

OUTPUTS = "GITHUB_OUTPUT"
SUMMARY = "GITHUB_STEP_SUMMARY"
# Size limit of a step's summary in bytes; GitHub drops a larger one entirely.
# Source: docs.github.com, "Workflow commands for GitHub Actions", step isolation and limits.
_MAX_BYTES = 1024 * 1024
_MAX_ROWS = 500
# Bytes reserved for the line that counts omitted rows.
_RESERVE = 100
_MAX_CHARACTERS = 300
# Special in Markdown, HTML or GitHub (mentions, issues, links, formulas).
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
) -> None:
    """Append outputs and summary to the files named in the environment, if any."""
    for variable in (OUTPUTS, SUMMARY):
        path = environ.get(variable)
        if not path:
            continue
        try:
            newline = _missing_newline(path)
            with open(path, "ab") as file:
                if variable == OUTPUTS:
                    text = outputs(values)
                else:  # other commands of the step may have written to the file as well
                    left = _MAX_BYTES - os.fstat(file.fileno()).st_size - len(newline)
                    text = summary(verdicts, build=build, room=left)
                if text:
                    file.write(newline + text.encode())
            if not text and variable == SUMMARY:
                echo_err(f"{SUMMARY} ({cell(path)}) is full; no summary is added to it")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            echo_lost(f"cannot write {variable} ({cell(path)}): {reason}")


def _missing_newline(path: str) -> bytes:
    """Return a newline if the last line of a file lacks one, else b""."""
    if not os.path.isfile(path) or not os.path.getsize(path):
        return b""
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return b"" if file.read(1) == b"\n" else b"\n"


def outputs(values: Mapping[str, str]) -> str:
    """Return outputs in the multiline format; no value can forge the random delimiters."""
    entries = []
    for name, value in values.items():
        delimiter = f"nunu_{secrets.token_hex(16)}"
        lines = "\n".join(sanitize(line, limit=100_000) for line in value.splitlines())
        entries.append(f"{name}<<{delimiter}\n{lines}\n{delimiter}\n")
    return "".join(entries)


def summary(verdicts: Sequence[Verdict], *, build: str, room: int = _MAX_BYTES) -> str:
    """Return a summary in Markdown, with special characters escaped.

    The summary has at most `room` bytes in UTF-8. If not all rows fit, failures come first; if not
    even the header fits, it is "".
    """
    passed = sum(verdict.kind == "passed" for verdict in verdicts)
    head = [
        f"### nunu: {passed} of {len(verdicts)} passed",
        "",
        f"Build {_plain(build)}",
        "",
        "| Test | Result | Duration | Run | Why |",
        "|---|---|---|---|---|",
    ]
    rows = [_row(verdict) for verdict in verdicts[:_MAX_ROWS]]
    left = room - _RESERVE - _size(head)
    if left < 0:
        return ""
    if len(verdicts) > _MAX_ROWS or _size(rows) > left:
        rows = []
        for verdict in sorted(verdicts, key=lambda verdict: verdict.kind == "passed"):
            row = _row(verdict)
            left -= _size([row])
            if left < 0 or len(rows) == _MAX_ROWS:
                break
            rows.append(row)
    missing = len(verdicts) - len(rows)
    return "\n".join([*head, *rows, *(["", f"and {missing} more"] if missing else []), "", ""])


def _row(verdict: Verdict) -> str:
    cells = [
        _plain(verdict.name),
        f"{_MARKS[verdict.kind]} {_plain(verdict.result)}",
        span(verdict.milliseconds),
        _plain(verdict.run_id or NOTHING),
        _plain(verdict.why),
    ]
    return f"| {' | '.join(cells)} |"


def _size(lines: Sequence[str]) -> int:
    return sum(len(line.encode()) + 1 for line in lines)


def _plain(text: str) -> str:
    """Return text for a table cell, with special characters as HTML entities."""
    short = text if len(text) <= _MAX_CHARACTERS else f"{text[:_MAX_CHARACTERS]}..."
    lines = (sanitize(line, limit=2 * _MAX_CHARACTERS) for line in short.splitlines())
    return "<br>".join(_SPECIAL.sub(lambda found: f"&#{ord(found[0])};", line) for line in lines)
