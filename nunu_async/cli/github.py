"""What GitHub Actions takes from a step: outputs, and a summary in Markdown.

Source: docs.github.com, "Workflow commands for GitHub Actions", environment files.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import BinaryIO

from nunu_async.cli.output import tell
from nunu_async.cli.rows import NOTHING, cell, span
from nunu_async.cli.verdict import Kind, Verdict
from nunu_async.redact import clean

__all__ = ["outputs", "publish", "summary"]

OUTPUTS = "GITHUB_OUTPUT"
SUMMARY = "GITHUB_STEP_SUMMARY"
# Of a step's summary, in bytes; one above it is dropped whole.
# Source: docs.github.com, "Workflow commands for GitHub Actions", step isolation and limits.
_MOST_BYTES = 1024 * 1024
_MOST_ROWS = 500
# For the line that tells how many rows are missing.
_RESERVE = 100
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
    for variable in (OUTPUTS, SUMMARY):
        path = environ.get(variable)
        if not path:
            continue
        try:
            end = _line_end(path)
            with open(path, "ab") as file:
                if variable == OUTPUTS:
                    text = outputs(values)
                else:  # in a file that other commands of the step have written to as well
                    text = summary(verdicts, build=build, room=_MOST_BYTES - _held(file) - len(end))
                if text:
                    file.write(end + text.encode())
            if not text and variable == SUMMARY:
                tell(f"nunu-async: {SUMMARY} ({cell(path)}) is full; no summary is added to it")
        except (OSError, ValueError) as error:
            told = getattr(error, "strerror", None) or error
            tell(f"nunu-async: cannot write {variable} ({cell(path)}): {told}")
            written = False
    return written


def _line_end(path: str) -> bytes:
    """Return what ends the last line of a file, where whoever wrote it did not."""
    if not os.path.isfile(path) or not os.path.getsize(path):
        return b""
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return b"" if file.read(1) == b"\n" else b"\n"


def _held(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def outputs(values: Mapping[str, str]) -> str:
    """Return outputs in the form with a delimiter, which no value can know, so none can forge."""
    told = []
    for name, value in values.items():
        mark = f"nunu_{secrets.token_hex(16)}"
        lines = "\n".join(clean(line, limit=100_000) for line in value.splitlines())
        told.append(f"{name}<<{mark}\n{lines}\n{mark}\n")
    return "".join(told)


def summary(verdicts: Sequence[Verdict], *, build: str, room: int = _MOST_BYTES) -> str:
    """Return a summary in Markdown, in which names are nothing but names.

    In UTF-8 it is no larger than `room` bytes. What failed comes first where not all rows fit;
    "" where not even the head does.
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
    rows = [_row(verdict) for verdict in verdicts[:_MOST_ROWS]]
    left = room - _RESERVE - _size(head)
    if left < 0:
        return ""
    if len(verdicts) > _MOST_ROWS or _size(rows) > left:
        rows = []
        for verdict in sorted(verdicts, key=lambda verdict: verdict.kind == "passed"):
            row = _row(verdict)
            left -= _size([row])
            if left < 0 or len(rows) == _MOST_ROWS:
                break
            rows.append(row)
    missing = len(verdicts) - len(rows)
    return "\n".join([*head, *rows, *(["", f"and {missing} more"] if missing else []), "", ""])


def _row(verdict: Verdict) -> str:
    seconds = None if verdict.seconds is None else verdict.seconds * 1000
    cells = [
        _plain(verdict.name),
        f"{_MARKS[verdict.kind]} {_plain(verdict.result)}",
        span(seconds),
        _plain(verdict.run_id or NOTHING),
        _plain(verdict.why),
    ]
    return f"| {' | '.join(cells)} |"


def _size(lines: Sequence[str]) -> int:
    return sum(len(line.encode()) + 1 for line in lines)


def _plain(text: str) -> str:
    """Return text for a cell of a table; what could mean anything there is an entity."""
    short = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    lines = (clean(line, limit=2 * _LONGEST) for line in short.splitlines())
    return "<br>".join(_SPECIAL.sub(lambda found: f"&#{ord(found[0])};", line) for line in lines)
