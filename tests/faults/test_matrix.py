"""Every case of the fault matrix, over real sockets."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from fault_case import Case, all_cases
from fault_play import play

CASES = all_cases()
# What cannot be played on Windows, by a pattern of the case's id.
NOT_ON_WINDOWS = {
    r"F2-(fifo|socket)": "Windows has no such files",
    r"F4-within-.*": "Windows has no call that reads what is cached",
    r"F6-.*|F16-.*": "Windows neither replaces nor deletes a file that is open",
    r"F12-(quotes|backslash|newline|carriage-return|escape|no-utf8)": "Windows has no such names",
}


def why_not(case: Case) -> str | None:
    """Say why a case cannot be played on this system; None where it can."""
    if sys.platform == "win32":
        for pattern, reason in NOT_ON_WINDOWS.items():
            if re.fullmatch(pattern, case.id):
                return reason
    return None


def test_every_case_has_an_id_of_its_own() -> None:
    ids = [case.id for case in CASES]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
async def test_case(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := why_not(case):
        pytest.skip(reason)
    if case.patch is not None:
        case.patch(monkeypatch)
    await play(case, tmp_path)
