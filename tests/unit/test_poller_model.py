"""The poller against a model of the service that moves rows between any two requests."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Literal

import attrs
import pytest
from doubles import ManualClock
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from nunu_async.errors import NotFound, NunuError, ServerError, StallError
from nunu_async.models.page import Page, Pagination
from nunu_async.polling.poller import Poller
from nunu_async.polling.round import PollSource
from nunu_async.polling.subscription import Change
from nunu_async.polling.waiting import WaitApi, WaitOptions

STATES = ("queued", "running", "completed")
BEGAN = datetime(2026, 4, 11, tzinfo=UTC)
SIZE = 3


@attrs.define
class Row:
    """What a page shows of something; a copy, as over the wire."""

    id: str
    state: str
    began: datetime | None
    good: bool = True

    @property
    def is_terminal(self) -> bool:
        return self.state == "completed"

    @property
    def succeeded(self) -> bool:
        return self.is_terminal and self.good


Move = tuple[Literal["on", "new", "hide", "show", "shuffle", "fail", "retry"], int]
MOVES: st.SearchStrategy[Move] = st.tuples(
    st.sampled_from(["on", "on", "on", "new", "hide", "show", "shuffle", "fail", "retry"]),
    st.integers(0, 30),
)


class Service:
    """Rows in lists by state; `script` says what happens before each request."""

    def __init__(self, rows: list[Row], script: list[list[Move]], *, is_sorted: bool) -> None:
        self.rows = rows
        self.script = script
        self.is_sorted = is_sorted
        self.hidden: set[str] = set()
        self.completed: set[str] = set()
        self.hides: Counter[str] = Counter()
        self.requests = 0
        self.fresh = 0
        self.clock = ManualClock()
        self.times: list[float] = []

    def step(self) -> None:  # noqa: C901 - a move a branch
        self.requests += 1
        if self.clock.now not in self.times:
            self.times.append(self.clock.now)
        assert self.requests < 3000, "endless"
        failing = False
        self.hidden.clear()
        for move, number in self.script.pop(0) if self.script else []:
            row = self.rows[number % len(self.rows)]
            if move == "on":
                row.state = STATES[min(STATES.index(row.state) + 1, 2)]
                if row.began is None and row.state != "queued":
                    row.began = BEGAN + timedelta(hours=1)
            elif move == "new":
                self.fresh += 1
                began = BEGAN + timedelta(hours=2, seconds=self.fresh)
                self.rows.insert(0, Row(f"n{self.fresh}", STATES[number % 3], began))
            elif move == "hide":  # half-way from one list to another
                self.hidden.add(row.id)
                self.hides[row.id] += 1
            elif move == "shuffle" and not self.is_sorted:
                self.rows.insert(0, self.rows.pop(number % len(self.rows)))
            elif move == "retry" and row.state == "running":
                row.state = "queued"
            elif move == "fail":
                failing = True
        if not self.script:  # all comes to an end
            for row in self.rows:
                row.state = "completed"
        if failing:
            raise ServerError(status=503) if self.requests % 2 else StallError("cut")

    def shown(self, row: Row) -> Row:
        if row.state == "completed":
            self.completed.add(row.id)
        return attrs.evolve(row)

    async def page(self, state: str, number: int) -> Page[Row]:
        await asyncio.sleep(0)
        self.step()
        rows = [row for row in self.rows if row.state == state and row.id not in self.hidden]
        if self.is_sorted:
            rows.sort(key=lambda row: row.began or BEGAN, reverse=True)
        pagination = Pagination(
            page=number, page_size=SIZE, total_count=len(rows), total_pages=-(-len(rows) // SIZE)
        )
        data = tuple(self.shown(row) for row in rows[number * SIZE : (number + 1) * SIZE])
        await asyncio.sleep(0)
        return Page(data=data, pagination=pagination)

    async def get(self, name: str) -> Row:
        await asyncio.sleep(0)
        self.step()
        for row in self.rows:
            if row.id == name:  # whatever list it is in
                return self.shown(row)
        raise NotFound(status=404)


def kind_of(service: Service, *, by_id: bool) -> PollSource[Row]:
    return PollSource(
        name="thing",
        key=lambda row: row.id,
        state=lambda row: row.state,
        moment=lambda row: row.began,
        active=(
            lambda number: service.page("queued", number),
            lambda number: service.page("running", number),
        ),
        done=lambda number: service.page("completed", number),
        path="/things",
        get=service.get if by_id else None,
    )


def refused(error: NunuError) -> None:
    raise AssertionError(error)


ROWS = st.lists(
    st.tuples(st.sampled_from(STATES), st.booleans(), st.integers(0, 5)), min_size=1, max_size=14
)


@pytest.mark.parametrize("by_id", [True, False], ids=["with get", "lists alone"])
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example(  # a page fails, and the row that is waited for is on that page in the next round
    begin=[("queued", False, 0)] * 3 + [("running", False, 0)] + [("completed", False, 0)] * 2,
    script=[
        [],
        [("on", 0), ("on", 0), ("new", 0), ("on", 0)],
        [("on", 0), ("hide", 6)],
        *([], [], []),
        [("fail", 0)],
        *([], []),
    ],
    wanted=[5],
    split=False,
)
@given(
    begin=ROWS,
    script=st.lists(st.lists(MOVES, max_size=4), max_size=15),
    wanted=st.lists(st.integers(0, 30), min_size=1, max_size=20),
    split=st.booleans(),
)
def test_each_wait_ends_once_and_in_time(
    by_id: bool,
    begin: list[tuple[str, bool, int]],
    script: list[list[Move]],
    wanted: list[int],
    split: bool,
) -> None:
    rows = [
        Row(
            f"r{number}",
            state,
            None if state == "queued" else BEGAN + timedelta(minutes=minutes),
            good,
        )
        for number, (state, good, minutes) in enumerate(begin)
    ]
    service = Service(rows, script, is_sorted=not by_id)
    ids = [f"r{number % len(rows)}" for number in wanted]
    changes: list[Change[Row]] = []

    async def main() -> list[Row]:
        clock = service.clock
        poller = Poller(kind_of(service, by_id=by_id), clock=clock, on_refused=refused)
        waiter = WaitApi(poller, clock=clock)

        async def one(name: str) -> Row:
            (row,) = await waiter.many((name,), WaitOptions())
            assert name in service.completed, "over before the service said so"
            return row

        try:
            if split:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(one(name)) for name in ids]
                found = [task.result() for task in tasks]
            else:
                found = list(await waiter.many(ids, WaitOptions(on_change=changes.append)))
        except* NotFound:
            # Hidden from one look after the other, it is not there as far as anybody can tell.
            if max(service.hides[name] for name in ids) < 2:
                raise
            found = []
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert clock.waiting == 0
        return found

    found = asyncio.run(main())
    assume(found)
    assert [row.id for row in found] == ids
    assert {row.state for row in found} == {"completed"}
    assert service.completed.issuperset(ids)
    assert all(later - sooner >= 10 for sooner, later in pairwise(service.times))
    if not split:
        for name in set(ids):
            seen = [change for change in changes if change.id == name]
            assert [change.before for change in seen] == [None, *(c.after for c in seen[:-1])]
            assert all(change.before != change.after for change in seen)
            assert [c.after for c in seen].count("completed") == 1
            assert seen[-1].after == "completed"


@pytest.mark.parametrize(
    ("newer", "older"), [(0, 0), (0, 9000), (9000, 0), (9000, 9000), (2, 5), (200, 1)]
)
async def test_many_older_or_newer_rows_cost_few_requests(newer: int, older: int) -> None:
    """The rows that are waited for stand deep in the list of what is over when they get there."""
    ours = [Row(f"r{n}", "running", BEGAN + timedelta(days=2, minutes=n)) for n in range(8)]
    past = [Row(f"p{n}", "completed", BEGAN + timedelta(days=1, seconds=-n)) for n in range(older)]
    later = [Row(f"l{n}", "completed", BEGAN + timedelta(days=3, seconds=n)) for n in range(newer)]
    service = Service([*ours, *past, *later], [[]] * 10_000, is_sorted=True)
    poller = Poller(kind_of(service, by_id=False), clock=service.clock, on_refused=refused)
    waiter = WaitApi(poller, clock=service.clock)
    costs: list[int] = []

    def change(_: Change[Row]) -> None:
        costs.append(service.requests)

    found = asyncio.ensure_future(
        waiter.many([row.id for row in ours], WaitOptions(on_change=change, interval=60))
    )
    for row in ours:
        while not found.done() and len(service.times) < 2 + ours.index(row):
            await asyncio.sleep(0)
        row.state = "completed"
    await found
    assert costs[-1] <= 8 * 12 + 60
