"""Every row of the matrix is in the README once, and what it names exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from fault_case import HERE, all_cases

# How many rows each letter has.
ROWS = {"N": 24, "S": 23, "A": 32, "F": 22, "P": 23, "C": 20, "L": 12, "X": 14}
# Letters of which no row may say "not yet".
FILLED = "NSAPFCLX"

_LINE = re.compile(r"^\| ([A-Z]\d+) \| (.*) \| (.*) \|$", re.MULTILINE)
_NAMED = re.compile(r"`([^`]+)`")
TABLE = _LINE.findall((HERE / "README.md").read_text(encoding="utf-8"))


@cache
def names_of(path: Path) -> set[str]:
    """Name the tests of a file, without importing it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    }


def exists(name: str) -> bool:
    """Tell whether a case or a test of this name would be collected."""
    file, separator, test = name.partition("::")
    if not separator:
        return name in {case.id for case in all_cases()}
    path = HERE / file
    return path.name.startswith("test_") and path.exists() and test in names_of(path)


def test_every_row_is_there_exactly_once() -> None:
    wanted = [f"{letter}{number}" for letter, n in ROWS.items() for number in range(1, n + 1)]
    assert [row for row, _, _ in TABLE] == wanted


@pytest.mark.parametrize(("row", "what", "shown"), TABLE, ids=[row for row, _, _ in TABLE])
def test_a_row_is_shown_by_tests_that_exist_or_says_why_not(
    row: str, what: str, shown: str
) -> None:
    if shown == "not yet":
        assert row[0] not in FILLED
        return
    assert len(what) > 10
    named = _NAMED.findall(shown)
    assert named or len(shown) > 20, "neither a test nor a reason"
    assert [name for name in named if not exists(name)] == []


def test_every_case_is_named_by_its_row() -> None:
    named = {(row, name) for row, _, shown in TABLE for name in _NAMED.findall(shown)}
    assert {(case.row, case.id) for case in all_cases()} - named == set()
