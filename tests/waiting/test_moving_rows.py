"""Rows that move between any two requests: no wait ends early, late or never."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from doubles import HeldClock, ManualClock, raw_server
from scripted import KEY, execution, json_answer, page, run
from waits import id_of
from yarl import URL

from nunu_async import NunuClient

INTERVAL = 10.0


@attrs.define
class Row:
    name: str
    ends: float
    """By the clock."""
    hidden: int = 0
    """Requests for which no answer shows it."""
    stale: int = 0
    """Requests for which lists of the active show it, after its end."""


@attrs.define
class Mover:
    """A service whose rows move between any two requests.

    Attributes:
        completed: when the first answer was sent that says so of a row.
    """

    kind: str
    chances: random.Random
    clock: HeldClock
    ways: frozenset[str]
    rows: list[Row] = attrs.field(factory=list)
    completed: dict[str, float] = attrs.field(factory=dict)
    requests: int = 0
    fresh: int = 0

    def move(self) -> None:
        """Change something, as may happen between any two requests."""
        self.requests += 1
        chances = self.chances
        if "new on top" in self.ways:
            for _ in range(chances.randint(0, 3)):
                self.fresh += 1
                life = chances.uniform(0, 30)
                self.rows.insert(0, Row(f"new{self.fresh}", self.clock.now + life))
        if "hidden" in self.ways and chances.random() < 0.3:
            for row in chances.sample(self.rows, min(5, len(self.rows))):
                row.hidden = chances.randint(1, 4)
        if "shuffled" in self.ways and chances.random() < 0.3:
            chances.shuffle(self.rows)
        if "ends in a round" in self.ways:
            # They end between two pages of one round, and not by time.
            for row in chances.sample(self.rows, min(4, len(self.rows))):
                row.ends = min(row.ends, self.clock.now)
        for row in self.rows:
            row.hidden = max(0, row.hidden - 1)

    def listed(self, state: str, number: int, size: int) -> dict[str, Any]:
        """Make the page of a list as it is now."""
        now = self.clock.now
        is_over = state == "completed"
        shown = [
            row
            for row in self.rows
            if not row.hidden and ((now >= row.ends) == is_over or self._is_stale(row, state))
        ]
        if state == "queued":
            shown = []
        part = shown[number * size : (number + 1) * size]
        if "on two pages" in self.ways and number and shown:
            part = [*shown[number * size - 2 : number * size], *part][:size]
        rows = [self._row(row, is_over) for row in part]
        pages = -(-len(shown) // size)
        if "count lies" in self.ways:
            pages = max(0, pages + self.chances.choice([-1, 0, 0, 0, 3]))
        return page(rows, number=number, size=size, count=len(shown), pages=pages)

    def _is_stale(self, row: Row, state: str) -> bool:
        """Decide whether a list of active rows still has one that is over, in its old state."""
        return (
            "stale" in self.ways
            and state != "completed"
            and self.clock.now - row.ends < 4
            and self.chances.random() < 0.5
        )

    def one(self, name: str) -> dict[str, Any] | None:
        row = next((row for row in self.rows if row.name == name), None)
        if row is None or row.hidden:
            return None
        return self._row(row, self.clock.now >= row.ends)

    def _row(self, row: Row, is_over: bool) -> dict[str, Any]:
        if self.kind == "execution":
            return execution(
                id=row.name,
                status="completed" if is_over else "in_progress",
                started_at=None if "undated" in self.ways else "2026-04-11T06:10:00+00:00",
            )
        return run(
            multiplayer_run_id=row.name,
            state="COMPLETED" if is_over else "RUNNING",
            result="SUCCESS" if is_over else None,
        )

    def say(self, target: str) -> tuple[bytes, list[str]]:
        """Make an answer; return also the rows that it says are completed."""
        self.move()
        url = URL(target)
        if "page" not in url.query:
            found = self.one(url.path.rsplit("/", 1)[1])
            if found is None:
                return json_answer({"error": "not found"}, 404), []
            return json_answer(found), over([found])
        state = url.query.get("status") or url.query["state"]
        size = min(int(url.query["page_size"]), 20 if "small pages" in self.ways else 100)
        body = self.listed(state, int(url.query["page"]), size)
        return json_answer(body), over(body["data"])


def over(rows: list[dict[str, Any]]) -> list[str]:
    return [
        row.get("id") or row["multiplayer_run_id"]
        for row in rows
        if str(row.get("status") or row["state"]).lower() == "completed"
    ]


ALL = (
    "new on top",
    "hidden",
    "shuffled",
    "ends in a round",
    "on two pages",
    "count lies",
    "stale",
    "undated",
    "small pages",
    "late",
)


WAYS: list[frozenset[str]] = [
    frozenset(),
    *(frozenset({way, "small pages"}) for way in ALL if way != "small pages"),
    frozenset({"late", "ends in a round", "new on top", "small pages"}),
    frozenset(ALL),
    frozenset(ALL) - {"shuffled", "hidden"},
]


async def outcome_of(  # noqa: C901 - a server and its clients
    kind: str, ways: frozenset[str], seed: int, count: int = 150
) -> tuple[Mover, dict[str, float], list[asyncio.Task[Any]]]:
    """Wait apart for each of the rows; return when each wait was over."""
    chances = random.Random(f"{kind} {sorted(ways)} {seed}")
    clock = HeldClock()
    names = [f"r{number:05}" for number in range(count)]
    rows = [Row(name, clock.now + chances.uniform(0, 60)) for name in names]
    mover = Mover(kind, chances, clock, ways, rows)
    finished: dict[str, float] = {}

    async def exchange(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        body, over_now = mover.say(head.split(b" ", 2)[1].decode())
        if "late" in ways:
            # What it says was so when the request came; meanwhile others are answered.
            for _ in range(chances.randint(0, 40)):
                await asyncio.sleep(0)
        for name in over_now:
            mover.completed.setdefault(name, clock.now)
        writer.write(body)

    async with (
        raw_server(exchange) as server,
        NunuClient(KEY, base_url=server.url, clock=clock) as nunu,
    ):
        one: Callable[..., Any] = getattr(nunu, f"wait_for_{kind}")

        async def waited(name: str) -> None:
            row = await one(name, interval=INTERVAL)
            assert name not in finished
            assert name in mover.completed, f"{name} was over before the server said so"
            assert row.is_terminal
            assert id_of(row) == name
            finished[name] = clock.now

        tasks = [asyncio.create_task(waited(name)) for name in names]
        while not all(task.done() for task in tasks) and clock.now < 1000.0 + 2000:
            before = len(clock.sleeps)
            if clock.asleep:
                await clock.tick()
            for _ in range(2000):
                if len(clock.sleeps) > before or all(task.done() for task in tasks):
                    break
                await asyncio.sleep(0.0005)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    return mover, finished, tasks


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("ways", WAYS, ids=lambda ways: ", ".join(sorted(ways))[:60] or "still")
@pytest.mark.parametrize("kind", ["execution", "run"])
async def test_no_wait_ends_early_late_or_never(kind: str, ways: frozenset[str], seed: int) -> None:
    mover, finished, tasks = await outcome_of(kind, ways, seed)
    failed = [task.exception() for task in tasks if not task.cancelled() and task.exception()]
    assert not failed, Counter(map(repr, failed)).most_common(3)
    assert len(finished) == len(tasks), "a wait never ends"
    for name, when in finished.items():
        assert when >= mover.completed[name]
        assert when - mover.completed[name] <= INTERVAL


async def test_a_row_missing_from_one_round_is_waited_for() -> None:
    """In the first round, and in later ones: between two lists it is in neither."""
    rounds = 0
    name = "d1e2f3a4-b5c6-4d7e-8f90-a1b2c3d4e5f6"

    async def exchange(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        nonlocal rounds
        query = URL(head.split(b" ", 2)[1].decode()).query
        rounds += query["status"] == "in_progress" and query["page"] == "0"
        rows = []
        if query["status"] == "in_progress" and rounds not in (1, 4, 6) and rounds < 8:
            rows = [execution(id=name)]
        if query["status"] == "completed" and rounds >= 9:
            rows = [execution(id=name, status="completed")]
        writer.write(json_answer(page(rows, size=100)))

    clock = ManualClock()
    async with (
        raw_server(exchange) as server,
        NunuClient(KEY, base_url=server.url, clock=clock) as nunu,
    ):
        row = await nunu.wait_for_execution(name)
    assert row.is_terminal
    assert rounds == 9


async def test_an_active_row_in_the_completed_list_ends_no_wait() -> None:
    """Only the state of the row itself counts, whatever list it is in."""
    rounds = 0
    name = "d1e2f3a4-b5c6-4d7e-8f90-a1b2c3d4e5f6"

    async def exchange(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        nonlocal rounds
        rounds += 1
        status = "completed" if rounds > 20 else "in_progress"
        writer.write(json_answer(page([execution(id=name, status=status)], size=100)))

    async with (
        raw_server(exchange) as server,
        NunuClient(KEY, base_url=server.url, clock=ManualClock()) as nunu,
    ):
        assert (await nunu.wait_for_execution(name)).is_terminal
    assert rounds > 20


@pytest.mark.parametrize("pages", [0, 1, 10**6])
async def test_a_wrong_count_of_pages_loses_no_wait(pages: int) -> None:
    """Pages are requested as long as they are full, whatever the count says."""
    names = [f"r{number:05}" for number in range(350)]
    rounds = 0

    async def exchange(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        nonlocal rounds
        query = URL(head.split(b" ", 2)[1].decode()).query
        rounds += query["status"] == "in_progress" and query["page"] == "0"
        state = "in_progress" if rounds < 3 else "completed"
        number = int(query["page"])
        part = names[number * 100 : number * 100 + 100] if query["status"] == state else []
        rows = [execution(id=name, status=state) for name in part]
        writer.write(json_answer(page(rows, number=number, size=100, count=350, pages=pages)))

    async with (
        raw_server(exchange) as server,
        NunuClient(KEY, base_url=server.url, clock=ManualClock()) as nunu,
    ):
        rows = await asyncio.wait_for(nunu.wait_for_executions(names), 20)
    assert [row.id for row in rows] == names
    assert rounds <= 4
