"""Rows A20, A21: lists that move, and lists without an end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fault_case import Case
from fault_play import Played
from fault_steps import Step, answer
from scripted import page, run

from nunu_async import NunuClient


async def _walk(nunu: NunuClient, path: Path, played: Played) -> list[str]:
    return [row.multiplayer_run_id async for row in nunu.runs.list(page_size=2)]


def _page(names: str, number: int, count: int, *, pages: int | None = None) -> Step:
    rows = [run(multiplayer_run_id=f"{name}0000000000") for name in names]
    return answer(200, page(rows, number=number, size=2, count=count, pages=pages))


def _gives(names: str) -> Callable[[Played], None]:
    def look(played: Played) -> None:
        assert "".join(name[0] for name in played.result) == names

    return look


A20 = [
    Case(
        "A20",
        variant,
        operation=_walk,
        steps={"list_runs": steps},
        requests={"list_runs": len(steps)},
        also=_gives(names),
    )
    for variant, names, steps in (
        (
            "row-in-front",
            "abcd",
            [_page("ab", 0, 4), _page("bc", 1, 5), _page("d", 2, 5)],
        ),
        (
            "two-rows-in-front",
            "abcd",
            [_page("ab", 0, 4), _page("ab", 1, 6), _page("cd", 2, 6)],
        ),
        # What moved to a page that was read already is met, too: the count says that rows went.
        (
            "row-gone-from-the-front",
            "abdec",
            [_page("ab", 0, 5), _page("de", 1, 4), _page("bc", 0, 4), _page("de", 1, 4)],
        ),
        ("last-page-gone", "ab", [_page("ab", 0, 4), _page("", 1, 2), _page("ab", 0, 2)]),
        ("a-row-twice-on-a-page", "abc", [_page("aa", 0, 4), _page("bc", 1, 4)]),
    )
]

_ENDLESS = 10**9
A21 = [
    Case(
        "A21",
        variant,
        operation=_walk,
        steps={"list_runs": steps},
        requests={"list_runs": count},
        also=_gives(names),
    )
    for variant, names, count, steps in (
        ("always-the-same-page", "ab", (2, 10), [_page("ab", 0, _ENDLESS).always()]),
        (
            "two-pages-in-turns",
            "abcd",
            (3, 12),
            [_page("ab", 0, _ENDLESS), _page("cd", 1, _ENDLESS)] * 20,
        ),
        (
            "empty-page-in-the-middle",
            "ab",
            2,
            [_page("ab", 0, _ENDLESS), _page("", 1, _ENDLESS), _page("cd", 2, _ENDLESS)],
        ),
        ("billions-of-pages", "abc", 2, [_page("ab", 0, 3, pages=_ENDLESS), _page("c", 1, 3)]),
        ("always-empty", "", 1, [_page("", 0, _ENDLESS).always()]),
        # Counts that explain anything: growth for ever, and rows that go away and come back.
        (
            "grows-for-ever",
            "ab",
            (3, 110),
            [_page("ab", 0, 10**6 * n, pages=_ENDLESS) for n in range(1, 200)],
        ),
        (
            "shrinks-and-grows",
            "ab",
            (3, 320),
            [_page("ab", 0, 100 * (n % 2), pages=_ENDLESS) for n in range(400)],
        ),
        (
            "negative",
            "ab",
            (1, 4),
            [_page("ab", 0, -5, pages=-1).always()],
        ),
    )
]

CASES = [*A20, *A21]
