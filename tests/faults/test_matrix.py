"""Every case of the fault matrix, over real sockets."""

from __future__ import annotations

from pathlib import Path

import pytest
from fault_case import Case, all_cases
from fault_play import play

CASES = all_cases()


def test_every_case_has_an_id_of_its_own() -> None:
    ids = [case.id for case in CASES]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
async def test_case(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if case.patch is not None:
        case.patch(monkeypatch)
    await play(case, tmp_path)
