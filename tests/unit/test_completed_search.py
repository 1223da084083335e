"""Finding rows in a long sorted list by when they began."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nunu_async.models.page import Page, Pagination
from nunu_async.polling.completed import CompletedSearch
from nunu_async.polling.round import PollRound

BEGAN = datetime(2026, 4, 11, tzinfo=UTC)
SIZE = 5


@attrs.frozen
class Row:
    id: str
    began: datetime | None

    @property
    def is_terminal(self) -> bool:
        return True

    @property
    def succeeded(self) -> bool:
        return True


class Shelf:
    """A sorted list that counts how often it is read, and notes what was found."""

    def __init__(self, ages: Iterable[int | None]) -> None:
        rows = [
            Row(f"r{n}", None if age is None else BEGAN + timedelta(seconds=age))
            for n, age in enumerate(ages)
        ]
        self.rows = sorted(rows, key=lambda row: row.began or BEGAN - timedelta(days=1))[::-1]
        self.broken: set[int] = set()
        self.requests = 0

    async def read(self, look: PollRound, numbers: Iterable[int]) -> dict[int, Page[Row]]:
        found = {}
        for number in numbers:
            self.requests += 1
            assert self.requests < 10_000, "endless"
            if number in self.broken:
                look.failures += 1
                continue
            data = tuple(self.rows[number * SIZE : (number + 1) * SIZE])
            count = len(self.rows)
            told = Pagination(
                page=number, page_size=SIZE, total_count=count, total_pages=-(-count // SIZE)
            )
            look.left.difference_update(row.id for row in data)
            found[number] = Page(data=data, pagination=told)
        return found

    def placed(self, names: set[str]) -> dict[str, datetime]:
        return {row.id: row.began for row in self.rows if row.id in names and row.began}


def shelf_and_history(ages: Iterable[int | None]) -> tuple[Shelf, CompletedSearch[Row]]:
    shelf = Shelf(ages)
    return shelf, CompletedSearch(shelf.read, lambda row: row.began)


def looked(shelf: Shelf, history: CompletedSearch[Row], names: set[str]) -> tuple[PollRound, int]:
    """Look for these once; return how it went and what it cost."""
    look, before = PollRound(left=set(names)), shelf.requests
    asyncio.run(history.find(look, shelf.placed(names)))
    return look, shelf.requests - before


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 2000), min_size=1, max_size=400),
    st.sets(st.integers(0, 399), min_size=1, max_size=20),
)
def test_a_row_of_known_position_is_found_in_one_round(ages: list[int], wanted: set[int]) -> None:
    shelf, history = shelf_and_history(ages)
    names = {f"r{number % len(ages)}" for number in wanted}
    look, cost = looked(shelf, history, names)
    assert not look.left
    pages = -(-len(ages) // SIZE)
    assert cost <= min(2 * pages, len(names) * (6 + 2 * math.ceil(math.log2(pages + 1)))) + 60


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=200),
    st.sets(st.integers(0, 199), min_size=1, max_size=20),
    st.sets(st.integers(0, 50), max_size=4),
)
def test_missing_and_invalid_rows_end_the_search_too(
    ages: list[int], wanted: set[int], broken: set[int]
) -> None:
    """Many began in the same second, some pages fail, and some rows are gone."""
    shelf, history = shelf_and_history(ages)
    names = {f"r{number % len(ages)}" for number in wanted}
    placed = shelf.placed(names)
    shelf.rows = [row for row in shelf.rows if row.id != min(names)]
    shelf.broken = broken
    look = PollRound(left=set(names))
    asyncio.run(history.find(look, placed))
    hidden = {
        row.id for number in broken for row in shelf.rows[number * SIZE : (number + 1) * SIZE]
    }
    if not broken:
        assert look.left <= {min(names)} | hidden


@pytest.mark.parametrize("ages", ["even", "all at once", "two days"])
def test_a_hundred_thousand_rows_cost_little(ages: str) -> None:
    spread = {
        "even": range(100_000),
        "all at once": [0] * 20 + list(range(1000, 100_980)),
        "two days": [*range(50_000), *range(10**7, 10**7 + 50_000)],
    }[ages]
    shelf, history = shelf_and_history(spread)
    _, first = looked(shelf, history, {"r7", "r50000", "r99990"})
    assert first <= 3 * 25
    _, second = looked(shelf, history, {"r9", "r50100", "r99980"})
    assert second <= 3 * 20


def sought(shelf: Shelf, history: CompletedSearch[Row], names: set[str]) -> tuple[PollRound, int]:
    look, before = PollRound(left=set(names)), shelf.requests
    asyncio.run(history.scan(look, set(names)))
    return look, shelf.requests - before


def test_an_unknown_id_is_searched_for_down_to_the_end() -> None:
    shelf, history = shelf_and_history([*range(1000), None])
    costs = []
    for _ in range(10):
        look, cost = sought(shelf, history, {"r1000"})
        costs.append(cost)
        if not look.left:
            break
        assert look.inconclusive == {"r1000"}
    assert not look.left
    assert max(costs) <= 52
    assert len(costs) == 5


def test_an_unknown_id_is_missing_only_after_the_end() -> None:
    shelf, history = shelf_and_history(range(1000))
    conclusive = [not sought(shelf, history, {"nobody"})[0].inconclusive for _ in range(8)]
    assert conclusive == [False, False, False, True, False, False, False, True]


def test_an_unreadable_page_hides_only_its_own_rows() -> None:
    shelf, history = shelf_and_history(range(40))
    shelf.broken = {0, 3}
    look, _ = sought(shelf, history, {"r1", "r30"})
    assert look.left == set()
    look, _ = sought(shelf, history, {"r1", "r39", "nobody"})
    assert look.left == {"r39", "nobody"}
    assert look.inconclusive >= {"r39", "nobody"}
