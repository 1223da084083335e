"""The rules by which the upload benchmark takes turns, counts and measures."""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
needs_spawn = pytest.mark.skipif(
    sys.platform == "win32", reason="programs are measured by what POSIX tells of them"
)


@pytest.fixture
def upload(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT)
    return importlib.import_module("benchmarks.upload")


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT)
    return importlib.import_module("benchmarks.rig")


def test_each_client_has_a_turn_at_each_size_in_each_round(upload: ModuleType) -> None:
    turns = list(upload.schedule(upload.FULL, 5, 3))
    counted = Counter(turn for turn in turns if turn[0] >= 0)
    sizes = upload.FULL.sizes
    assert counted == Counter((n, size, at) for n in range(5) for size in sizes for at in range(3))
    warming = [turn for turn in turns if turn[0] < 0]
    assert sorted(warming) == [(-1, sizes[0], at) for at in range(3)]
    assert turns[:3] == warming


def test_another_client_begins_each_round(upload: ModuleType) -> None:
    turns = list(upload.schedule(upload.FULL, 5, 3))
    first = [
        next(at for n, size, at in turns if (n, size) == (number, upload.GIB))
        for number in range(3)
    ]
    assert sorted(first) == [0, 1, 2]


def test_another_gib_costs_what_the_medians_differ_by(upload: ModuleType) -> None:
    spent = {upload.GIB: (1.0, 1.5, 9.0), 4 * upload.GIB: (7.5, 3.0, 8.0)}
    row = upload.Row(
        "plain",
        "any",
        {size: [{"cpu_s": seconds} for seconds in some] for size, some in spent.items()},
    )
    assert row.marginal() == pytest.approx((7.5 - 1.5) / 3)


@needs_spawn
def test_the_peak_is_the_process_s_own_and_not_its_parent_s(rig: ModuleType) -> None:
    """Linux tells of a child no less than its parent had when it started it."""
    here = bytearray(b"\1") * (64 * rig.MIB)
    cost, output = rig.measure([sys.executable, "-c", "print('said')"], rig.clean_environ(), 60)
    del here
    assert output == "said"
    assert cost.peak_mib < 48
    assert cost.cpu_s > 0
    assert cost.wall_s > 0


@needs_spawn
def test_a_program_that_fails_is_no_figure(rig: ModuleType) -> None:
    words = [sys.executable, "-c", "import sys; print('half'); sys.exit('no such bucket')"]
    with pytest.raises(rig.RigError, match="failed with 1: no such bucket"):
        rig.measure(words, rig.clean_environ(), 60)


@needs_spawn
def test_a_program_that_does_not_end_is_ended(rig: ModuleType) -> None:
    with pytest.raises(rig.RigError, match="not over after 0 s"):
        rig.measure([sys.executable, "-c", "input()"], rig.clean_environ(), 0)
