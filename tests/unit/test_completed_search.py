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


class Service:
    """A sorted list that counts how often it is read, and notes what was found."""

    def __init__(self, ages: Iterable[int | None]) -> None:
        rows = [
            Row(f"r{n}", None if age is None else BEGAN + timedelta(seconds=age))
            for n, age in enumerate(ages)
        ]
        self.rows = sorted(rows, key=lambda row: row.began or BEGAN - timedelta(days=1))[::-1]
        self.broken: set[int] = set()
        self.requests = 0

    async def read(self, poll: PollRound, numbers: Iterable[int]) -> dict[int, Page[Row]]:
        found = {}
        for number in numbers:
            self.requests += 1
            assert self.requests < 10_000, "endless"
            if number in self.broken:
                poll.failures += 1
                continue
            data = tuple(self.rows[number * SIZE : (number + 1) * SIZE])
            count = len(self.rows)
            pagination = Pagination(
                page=number, page_size=SIZE, total_count=count, total_pages=-(-count // SIZE)
            )
            poll.left.difference_update(row.id for row in data)
            found[number] = Page(data=data, pagination=pagination)
        return found

    def placed(self, names: set[str]) -> dict[str, datetime]:
        return {row.id: row.began for row in self.rows if row.id in names and row.began}


def service_and_search(ages: Iterable[int | None]) -> tuple[Service, CompletedSearch[Row]]:
    service = Service(ages)
    return service, CompletedSearch(service.read, lambda row: row.began)


def found_by(
    service: Service, search: CompletedSearch[Row], names: set[str]
) -> tuple[PollRound, int]:
    """Look for these once; return how it went and what it cost."""
    poll, before = PollRound(left=set(names)), service.requests
    asyncio.run(search.find(poll, service.placed(names)))
    return poll, service.requests - before


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 2000), min_size=1, max_size=400),
    st.sets(st.integers(0, 399), min_size=1, max_size=20),
)
def test_a_row_of_known_position_is_found_in_one_round(ages: list[int], wanted: set[int]) -> None:
    service, search = service_and_search(ages)
    names = {f"r{number % len(ages)}" for number in wanted}
    poll, cost = found_by(service, search, names)
    assert not poll.left
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
    service, search = service_and_search(ages)
    names = {f"r{number % len(ages)}" for number in wanted}
    placed = service.placed(names)
    service.rows = [row for row in service.rows if row.id != min(names)]
    service.broken = broken
    poll = PollRound(left=set(names))
    asyncio.run(search.find(poll, placed))
    hidden = {
        row.id for number in broken for row in service.rows[number * SIZE : (number + 1) * SIZE]
    }
    if not broken:
        assert poll.left <= {min(names)} | hidden


@pytest.mark.parametrize("ages", ["even", "all at once", "two days"])
def test_a_hundred_thousand_rows_cost_little(ages: str) -> None:
    spread = {
        "even": range(100_000),
        "all at once": [0] * 20 + list(range(1000, 100_980)),
        "two days": [*range(50_000), *range(10**7, 10**7 + 50_000)],
    }[ages]
    service, search = service_and_search(spread)
    _, first = found_by(service, search, {"r7", "r50000", "r99990"})
    assert first <= 3 * 25
    _, second = found_by(service, search, {"r9", "r50100", "r99980"})
    assert second <= 3 * 20


def sought(
    service: Service, search: CompletedSearch[Row], names: set[str]
) -> tuple[PollRound, int]:
    poll, before = PollRound(left=set(names)), service.requests
    asyncio.run(search.scan(poll, set(names)))
    return poll, service.requests - before


def test_an_unknown_id_is_searched_for_down_to_the_end() -> None:
    service, search = service_and_search([*range(1000), None])
    costs = []
    for _ in range(10):
        poll, cost = sought(service, search, {"r1000"})
        costs.append(cost)
        if not poll.left:
            break
        assert poll.inconclusive == {"r1000"}
    assert not poll.left
    assert max(costs) <= 52
    assert len(costs) == 5


def test_an_unknown_id_is_missing_only_after_the_end() -> None:
    service, search = service_and_search(range(1000))
    conclusive = [not sought(service, search, {"unknown"})[0].inconclusive for _ in range(8)]
    assert conclusive == [False, False, False, True, False, False, False, True]


def test_an_unreadable_page_hides_only_its_own_rows() -> None:
    service, search = service_and_search(range(40))
    service.broken = {0, 3}
    poll, _ = sought(service, search, {"r1", "r30"})
    assert poll.left == set()
    poll, _ = sought(service, search, {"r1", "r39", "unknown"})
    assert poll.left == {"r39", "unknown"}
    assert poll.inconclusive >= {"r39", "unknown"}
