"""A table in a pipe is made by hand, and must be what a terminal's drawing would be."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nunu_async.cli import rows
from nunu_async.cli.rows import Column, cell
from nunu_async.cli.terminal import ENDLESS, is_plain

CELLS = st.text(max_size=12).map(cell) | st.sampled_from(["-", "success", "日本語", "🎮 done", "é"])


def columns(count: int) -> list[Column[tuple[str, ...]]]:
    return [Column(title=f"C{n}", text=lambda row, n=n: row[n]) for n in range(count)]


@pytest.fixture
def _a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("_a_pipe")
def test_it_is_the_same_to_the_character() -> None:
    @settings(deadline=None)  # the first one loads what draws
    @given(st.integers(1, 4).flatmap(lambda n: st.lists(st.tuples(*[CELLS] * n), min_size=1)))
    def same(lines: list[tuple[str, ...]]) -> None:
        made, _ = rows._lay_out(columns(len(lines[0])), lines, ENDLESS)
        assert is_plain()
        assert list(rows._pieces(made, plain=True)) == list(rows._pieces(made, plain=False))

    same()


@pytest.mark.usefixtures("_a_pipe")
@pytest.mark.parametrize("count", [1, 99, 100, 101, 250])
def test_a_long_table_comes_in_pieces_with_one_header(count: int) -> None:
    made, _ = rows._lay_out(columns(1), [(f"row {n}",) for n in range(count)], ENDLESS)
    text = "".join(rows._pieces(made, plain=True))
    assert text == "".join(rows._pieces(made, plain=False))
    assert text.splitlines() == ["C0", *(f"row {n}" for n in range(count))]


@pytest.mark.parametrize("name", ["FORCE_COLOR", "TTY_COMPATIBLE"])
def test_colours_are_there_when_asked_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    assert not is_plain()
