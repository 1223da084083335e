"""Lists that are walked through, whatever happens to them meanwhile."""

from __future__ import annotations

import asyncio
import gc
import json
import tracemalloc
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from doubles import ManualClock, answer, raw_server, until
from hypothesis import given
from hypothesis import strategies as st
from scripted import KEY, Reply, answered, execution, json_answer, page, run
from yarl import URL

from nunu_async import BadRequest, DecodeError, Listing, NunuClient, Page, Pagination, ServerError

Rows = list[str]


def asked_for(target: str) -> tuple[int, int]:
    """Return the page number and the page size of a request."""
    query = URL(target).query
    return int(query["page"]), int(query["page_size"])


def serving(rows: Rows, make: Callable[..., dict[str, Any]] = run) -> Callable[[str], Reply]:
    """Answer with the page that was asked for, of rows that have these ids."""
    name = "multiplayer_run_id" if make is run else "id"

    def reply(target: str) -> Reply:
        number, size = asked_for(target)
        shown = [make(**{name: row}) for row in rows[number * size : (number + 1) * size]]
        return json_answer(page(shown, number=number, size=size, count=len(rows)))

    return reply


async def ids(listing: AsyncIterator[Any] | Any) -> Rows:
    return [row.multiplayer_run_id async for row in listing]


def named(count: int, start: int = 0) -> Rows:
    return [f"r{number:05}" for number in range(start, start + count)]


# --- A list that stands still.


@pytest.mark.parametrize(
    ("count", "size", "requests"),
    [
        (0, 100, 1),
        (1, 100, 1),
        (99, 100, 1),
        (100, 100, 1),
        (101, 100, 2),
        (200, 100, 2),
        (201, 100, 3),
        (3, 1, 3),
        (6, 3, 2),
        (7, 3, 3),
    ],
)
async def test_a_walk_takes_no_request_more_than_it_needs(
    count: int, size: int, requests: int
) -> None:
    rows = named(count)
    async with answered(reply=serving(rows)) as wire:
        assert await ids(wire.nunu.runs.list(page_size=size)) == rows
    assert [asked_for(line.split()[1]) for line in wire.lines] == [
        (number, size) for number in range(requests)
    ]


# With 9,000 rows more behind it a walk may hold 2 MiB more than before: the ids of those rows, so
# that none is given twice, are about half of that. The rows themselves would be over 30 MiB.
MOST_GROWTH = 2 * 1024 * 1024


async def test_ten_thousand_rows_take_a_hundred_requests_and_no_memory() -> None:
    rows = named(10_000)
    serve = serving(rows)
    written = [serve(f"/?page={number}&page_size=100") for number in range(100)]
    sizes: list[int] = []
    seen = 0
    async with answered(reply=lambda target: written[asked_for(target)[0]]) as wire:
        tracemalloc.start()
        try:
            async for row in wire.nunu.runs.list():
                assert row.multiplayer_run_id == rows[seen]
                seen += 1
                if seen in (1_000, 10_000):
                    gc.collect()
                    sizes.append(tracemalloc.get_traced_memory()[0])
                    if seen == 1_000:
                        tracemalloc.reset_peak()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert seen == 10_000
    assert len(wire.lines) == 100
    assert sizes[1] - sizes[0] < MOST_GROWTH
    # Two pages at once, as bytes, as JSON and as models, are what a walk holds at its fullest.
    assert peak - sizes[0] < 2 * MOST_GROWTH


async def test_the_memory_of_what_was_given_is_bounded() -> None:
    """A walk of 60,000 rows remembers 10,000 ids and a page, not all."""
    count, size = 60_000, 1_000

    async def fetch(number: int) -> Page[str]:
        return made(named(size, number * size), number, size, count)

    held = 0
    seen = 0
    tracemalloc.start()
    try:
        async for _ in Listing(fetch, lambda row: row):
            seen += 1
            if seen == 20_000:
                tracemalloc.reset_peak()
                held = tracemalloc.get_traced_memory()[0]
        assert tracemalloc.get_traced_memory()[1] - held < MOST_GROWTH / 4
    finally:
        tracemalloc.stop()
    assert seen == count


async def test_executions_are_walked_through_in_the_same_way() -> None:
    rows = named(250)
    async with answered(reply=serving(rows, execution)) as wire:
        assert [row.id async for row in wire.nunu.test_plan_executions.list()] == rows
    assert len(wire.lines) == 3


async def test_pages_come_as_the_server_gave_them() -> None:
    rows = named(5)
    async with answered(reply=serving(rows)) as wire:
        pages = [p async for p in wire.nunu.runs.list(page_size=2).pages()]
    assert [[row.multiplayer_run_id for row in p.data] for p in pages] == [
        rows[:2],
        rows[2:4],
        rows[4:],
    ]
    assert [p.pagination.page for p in pages] == [0, 1, 2]
    assert {p.pagination.total_count for p in pages} == {5}
    assert len(wire.lines) == 3


async def test_an_empty_list_is_one_empty_page() -> None:
    async with answered(reply=serving([])) as wire:
        pages = [p async for p in wire.nunu.runs.list().pages()]
    assert [p.data for p in pages] == [()]


async def test_a_list_can_be_walked_through_twice() -> None:
    async with answered(reply=serving(named(3))) as wire:
        listing = wire.nunu.runs.list(page_size=2)
        assert await ids(listing) == await ids(listing) == named(3)
    assert len(wire.lines) == 4


async def test_a_list_gives_its_rows_one_by_one_as_well() -> None:
    async with answered(reply=serving(named(3))) as wire:
        listing: AsyncIterator[Any] = wire.nunu.runs.list(page_size=2)
        assert isinstance(listing, AsyncIterator)
        assert wire.lines == []
        for name in named(3):
            assert (await anext(listing)).multiplayer_run_id == name
        for _ in range(2):
            with pytest.raises(StopAsyncIteration):
                await anext(listing)
        assert len(wire.lines) == 2


async def test_a_loop_does_not_go_on_where_a_step_was() -> None:
    async with answered(reply=serving(named(5))) as wire:
        listing = wire.nunu.runs.list(page_size=2)
        assert (await anext(listing)).multiplayer_run_id == "r00000"
        assert await ids(listing) == named(5)
        assert (await anext(listing)).multiplayer_run_id == "r00001"


async def test_two_walks_at_once_do_not_disturb_each_other() -> None:
    async with answered(reply=serving(named(30))) as wire:
        listing = wire.nunu.runs.list(page_size=4)
        assert await asyncio.gather(ids(listing), ids(listing)) == [named(30), named(30)]


@pytest.mark.parametrize("filtered_count", [True, False])
@pytest.mark.parametrize("count", [100, 99, 82])
async def test_a_server_that_filters_after_cutting_pages_is_read_to_its_end(
    count: int, filtered_count: bool
) -> None:
    """Every page is short; it has 20 rows before those that do not match are dropped."""
    rows = [name if place % 5 else None for place, name in enumerate(named(count))]
    kept = [row for row in rows if row is not None]

    def reply(target: str) -> Reply:
        number, size = asked_for(target)
        cut = rows[number * size : (number + 1) * size]
        shown = [run(multiplayer_run_id=row) for row in cut if row is not None]
        total = len(kept) if filtered_count else count
        return json_answer(
            page(shown, number=number, size=size, count=total, pages=-(-count // size))
        )

    async with answered(reply=limited(reply)) as wire:
        assert await ids(wire.nunu.runs.list(page_size=20)) == kept
    assert len(wire.lines) == 5


async def test_a_server_that_caps_pages_silently_is_read_to_its_end() -> None:
    rows = named(180)

    def reply(target: str) -> Reply:
        number, size = asked_for(target)
        shown = [run(multiplayer_run_id=row) for row in rows[number * 50 : (number + 1) * 50]]
        return json_answer(page(shown, number=number, size=size, count=len(rows), pages=4))

    async with answered(reply=limited(reply)) as wire:
        assert await ids(wire.nunu.runs.list(page_size=100)) == rows
    assert len(wire.lines) == 4


@pytest.mark.parametrize("repeats", [True, False])
async def test_short_pages_of_a_count_without_end_do_not_keep_a_walk_going(repeats: bool) -> None:
    def reply(target: str) -> Reply:
        number, size = asked_for(target)
        shown = [run(multiplayer_run_id="a")] if repeats or not number else []
        return json_answer(page(shown, number=number, size=size, count=ENDLESS, pages=ENDLESS))

    async with answered(reply=limited(reply)) as wire:
        assert await ids(wire.nunu.runs.list(page_size=3)) == ["a"]
    assert len(wire.lines) <= 5


async def test_a_server_with_smaller_pages_than_asked_for_is_read_to_its_end() -> None:
    rows = named(25)

    def reply(target: str) -> Reply:
        number, _ = asked_for(target)
        shown = [run(multiplayer_run_id=row) for row in rows[number * 10 : number * 10 + 10]]
        return json_answer(page(shown, number=number, size=10, count=25))

    async with answered(reply=reply) as wire:
        assert await ids(wire.nunu.runs.list(page_size=100)) == rows


# --- A list that moves.


async def test_rows_that_moved_to_the_next_page_are_given_once() -> None:
    rows = named(6)
    serve = serving(rows)

    def reply(target: str) -> Reply:
        said = serve(target)
        rows[:0] = [f"new{len(rows)}"]
        return said

    async with answered(reply=reply) as wire:
        seen = await ids(wire.nunu.runs.list(page_size=3))
    assert seen == named(6)
    assert len(wire.lines) == 3


async def test_pages_show_rows_that_moved_twice() -> None:
    rows = named(4)
    serve = serving(rows)

    def reply(target: str) -> Reply:
        said = serve(target)
        rows[:0] = ["new"] if "new" not in rows else []
        return said

    async with answered(reply=reply) as wire:
        pages = [p async for p in wire.nunu.runs.list(page_size=2).pages()]
    assert [[row.multiplayer_run_id for row in p.data] for p in pages] == [
        ["r00000", "r00001"],
        ["r00001", "r00002"],
        ["r00003"],
    ]


@pytest.mark.parametrize("inserted", [1, 2])
async def test_whole_pages_of_new_rows_in_between_lose_nothing(inserted: int) -> None:
    """After them a page comes that was given already, whole; the walk goes on behind it."""
    rows = named(9)
    serve = serving(rows)

    def reply(target: str) -> Reply:
        said = serve(target)
        if asked_for(target)[0] == 0:
            rows[:0] = [f"new{number}" for number in range(3 * inserted)]
        return said

    async with answered(reply=reply) as wire:
        seen = await ids(wire.nunu.runs.list(page_size=3))
    assert len(seen) == len(set(seen))
    assert set(named(9)) <= set(seen)


def made(rows: Rows, number: int, size: int, count: int, pages: int | None = None) -> Page[str]:
    return Page(
        data=tuple(rows),
        pagination=Pagination(
            page=number,
            page_size=size,
            total_count=count,
            total_pages=-(-count // size) if pages is None else pages,
        ),
    )


def walked(listing: Listing[str]) -> Rows:
    """Walk through a list whose pages come at once, without an event loop."""

    async def collect() -> Rows:
        return [row async for row in listing]

    try:
        collect().send(None)
    except StopIteration as end:
        found: Rows = end.value
        return found
    raise AssertionError("it waits for something")


def moving(rows: Rows, size: int, moves: list[int]) -> Listing[str]:
    """A list at whose head rows come (a positive move) or go between requests."""
    left = list(moves)
    fresh = iter(range(10**9))

    async def fetch(number: int) -> Page[str]:
        if number > 0 and left:
            move = left.pop(0)
            if move >= 0:
                rows[:0] = [f"n{next(fresh)}" for _ in range(move)]
            else:
                del rows[:-move]
        assert number < 1000, "endless"
        return made(rows[number * size : (number + 1) * size], number, size, len(rows))

    return Listing(fetch, lambda row: row)


@st.composite
def insertions(draw: st.DrawFn) -> tuple[int, int, list[int]]:
    count, size = draw(st.integers(0, 40)), draw(st.integers(1, 7))
    moves = draw(st.lists(st.integers(0, 3 * size), max_size=20))
    # Exactly a page of new rows before each of three requests in a row looks like a server that
    # ignores the page number.
    for number in range(2, len(moves)):
        if moves[number - 2 : number + 1] == [size] * 3:
            moves[number] = 0
    return count, size, moves


@given(insertions())
def test_every_row_of_a_growing_list_is_given_exactly_once(
    case: tuple[int, int, list[int]],
) -> None:
    count, size, moves = case
    seen = walked(moving(named(count), size, moves))
    assert len(seen) == len(set(seen))
    assert [row for row in seen if row.startswith("r")] == named(count)


@given(
    st.integers(0, 40),
    st.integers(1, 7),
    st.lists(st.integers(-6, 12), max_size=20),
)
def test_a_row_is_passed_over_only_for_one_that_went_away(
    count: int, size: int, moves: list[int]
) -> None:
    """Rows behind those that vanish move to a page that was read already; page numbers allow no
    more than this, and no row is given twice for it."""
    for number in range(2, len(moves)):
        if moves[number - 2 : number + 1] == [size] * 3:
            moves[number] = 0
    rows = named(count)
    seen = walked(moving(rows, size, moves))
    throughout = {row for row in rows if row.startswith("r")}
    assert len(seen) == len(set(seen))
    assert len(throughout - set(seen)) <= sum(-move for move in moves if move < 0)


@given(st.integers(0, 60), st.integers(1, 7), st.data())
def test_every_row_that_stays_in_a_shrinking_list_is_given_exactly_once(
    count: int, size: int, data: st.DataObject
) -> None:
    """Rows may go from anywhere between any two requests, as finished runs leave `running`."""
    rows = named(count)

    async def fetch(number: int) -> Page[str]:
        gone = data.draw(st.lists(st.integers(0, 59), max_size=3))
        rows[:] = [row for place, row in enumerate(rows) if place not in gone]
        return made(rows[number * size : (number + 1) * size], number, size, len(rows))

    seen = walked(Listing(fetch, lambda row: row))
    assert len(seen) == len(set(seen))
    assert set(rows) <= set(seen)


@given(st.integers(0, 60), st.integers(1, 9))
def test_a_list_that_stands_still_is_given_in_its_order(count: int, size: int) -> None:
    assert walked(moving(named(count), size, [])) == named(count)


# --- A server that is not right.


def limited(reply: Callable[[str], Reply], most: int = 30) -> Callable[[str], Reply]:
    """Answer at most `most` requests, so that an endless walk ends as a failure."""
    asked = 0

    def counted(target: str) -> Reply:
        nonlocal asked
        asked += 1
        return json_answer({"error": "endless"}, 400) if asked > most else reply(target)

    return counted


ENDLESS = 10**9


@pytest.mark.parametrize("echo", [True, False], ids=["echoes the number", "says 0"])
async def test_a_server_that_ignores_the_page_number_is_left_in_time(echo: bool) -> None:
    def reply(target: str) -> Reply:
        number = asked_for(target)[0] if echo else 0
        rows = [run(multiplayer_run_id=name) for name in named(3)]
        return json_answer(page(rows, number=number, size=3, count=ENDLESS, pages=ENDLESS))

    async with answered(reply=limited(reply)) as wire:
        assert await ids(wire.nunu.runs.list(page_size=3)) == named(3)
    assert len(wire.lines) <= 5


@pytest.mark.parametrize("turns", [2, 3, 7])
@pytest.mark.parametrize("growth", [0, 1, 2])
async def test_a_server_that_gives_the_same_pages_in_turns_is_left_in_time(
    turns: int, growth: int
) -> None:
    asked = 0

    def reply(target: str) -> Reply:
        nonlocal asked
        number, size = asked_for(target)
        asked += 1
        rows = [run(multiplayer_run_id=name) for name in named(size, size * (number % turns))]
        count = 1000 + growth * asked
        return json_answer(page(rows, number=number, size=size, count=count, pages=ENDLESS))

    async with answered(reply=limited(reply, 100)) as wire:
        assert await ids(wire.nunu.runs.list(page_size=3)) == named(3 * turns)
        before = len(wire.lines)
        pages = [p async for p in wire.nunu.runs.list(page_size=3).pages()]
    assert before <= turns + 30
    assert len(pages) <= turns + 30


async def test_a_count_that_is_of_the_page_alone_does_not_keep_a_walk_going() -> None:
    rows = named(8)

    def reply(target: str) -> Reply:
        number, size = asked_for(target)
        shown = [run(multiplayer_run_id=row) for row in rows[number * size : (number + 1) * size]]
        return json_answer(page(shown, number=number, size=size, count=len(shown), pages=3))

    async with answered(reply=limited(reply, 250)) as wire:
        assert await ids(wire.nunu.runs.list(page_size=3)) == rows


# What is over 64 bits is no count at all, and a DecodeError.
@pytest.mark.parametrize("pages", [ENDLESS, 2**63 - 1])
@pytest.mark.parametrize("count", [0, 5, 6, 7])
async def test_a_count_of_pages_without_end_does_not_keep_a_walk_going(
    count: int, pages: int
) -> None:
    rows = named(count)

    def reply(target: str) -> Reply:
        number, size = asked_for(target)
        shown = [run(multiplayer_run_id=row) for row in rows[number * size : (number + 1) * size]]
        return json_answer(page(shown, number=number, size=size, count=count, pages=pages))

    async with answered(reply=limited(reply)) as wire:
        assert await ids(wire.nunu.runs.list(page_size=3)) == rows
    assert len(wire.lines) <= 3


@pytest.mark.parametrize("pages", [0, -1])
async def test_a_count_of_no_pages_ends_after_the_rows_that_came(pages: int) -> None:
    def reply(target: str) -> Reply:
        rows = [run(multiplayer_run_id=name) for name in named(3)]
        return json_answer(page(rows, size=3, count=0, pages=pages))

    async with answered(reply=limited(reply)) as wire:
        assert await ids(wire.nunu.runs.list(page_size=3)) == named(3)
    assert len(wire.lines) == 1


async def test_an_empty_page_ends_a_walk() -> None:
    def reply(target: str) -> Reply:
        number, size = asked_for(target)
        names = [] if number == 1 else named(3, 3 * number)
        rows = [run(multiplayer_run_id=name) for name in names]
        return json_answer(page(rows, number=number, size=size, count=9))

    async with answered(reply=limited(reply)) as wire:
        pages = [p async for p in wire.nunu.runs.list(page_size=3).pages()]
    assert [len(p.data) for p in pages] == [3]
    assert len(wire.lines) == 2


@pytest.mark.parametrize("size", [0, -5])
@pytest.mark.parametrize("rows", [0, 3])
async def test_a_page_size_that_makes_no_sense_ends_bounded(size: int, rows: int) -> None:
    def reply(target: str) -> Reply:
        shown = [run(multiplayer_run_id=name) for name in named(rows)]
        body = page(shown, size=3, count=rows, pages=ENDLESS)
        body["pagination"]["page_size"] = size
        return json_answer(body)

    async with answered(reply=limited(reply)) as wire:
        assert await ids(wire.nunu.runs.list(page_size=3)) == named(rows)
    assert len(wire.lines) <= 5


async def test_a_row_that_stands_twice_on_one_page_is_given_once() -> None:
    rows = [run(multiplayer_run_id=name) for name in ("a", "a", "b")]
    async with answered(json_answer(page(rows))) as wire:
        assert await ids(wire.nunu.runs.list()) == ["a", "b"]


async def test_a_page_that_fails_for_a_moment_is_asked_for_again() -> None:
    serve = serving(named(4))
    fails = [True]

    def reply(target: str) -> Reply:
        if asked_for(target)[0] == 1 and fails.pop():
            fails.append(False)
            return None
        return serve(target)

    async with answered(reply=reply) as wire:
        assert await ids(wire.nunu.runs.list(page_size=2)) == named(4)
    assert len(wire.lines) == 3


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (json_answer({"error": "no"}, 400), BadRequest),
        (json_answer({"error": "no"}, 500), ServerError),
        (answer(200, b"<html>"), DecodeError),
        (json_answer({"data": []}), DecodeError),
    ],
)
async def test_an_error_is_raised_after_the_rows_before_it(
    reply: bytes, error: type[Exception]
) -> None:
    serve = serving(named(4))
    seen: Rows = []
    async with answered(reply=lambda t: reply if asked_for(t)[0] else serve(t)) as wire:
        with pytest.raises(error):
            await noted(wire.nunu.runs.list(page_size=2), seen)
    assert seen == named(2)


async def noted(listing: Listing[Any], seen: Rows) -> None:
    """Note each row as it comes, so that what came before an error is known."""
    async for row in listing:
        seen.append(row.multiplayer_run_id)


# --- A walk that is left.


async def test_nothing_is_asked_before_the_first_step() -> None:
    async with answered(reply=serving(named(4))) as wire:
        wire.nunu.runs.list()
        wire.nunu.runs.list().pages()
        await asyncio.sleep(0)
        assert wire.lines == []


async def test_leaving_the_loop_asks_for_nothing_more(
    open_descriptors: Callable[[], int],
) -> None:
    before = open_descriptors()
    async with answered(reply=serving(named(300))) as wire:
        async for row in wire.nunu.runs.list(page_size=100):
            if row.multiplayer_run_id == "r00099":
                break
        async for _ in wire.nunu.runs.list(page_size=100).pages():
            break
        with pytest.raises(AttributeError):
            await noted(wire.nunu.runs.list(page_size=100), None)  # type: ignore[arg-type]
        for _ in range(10):
            await asyncio.sleep(0)
        assert len(wire.lines) == 3
        assert wire.server.connections == 1
    await until(lambda: open_descriptors() == before)


async def test_cancelling_in_the_middle_of_a_page_closes_its_connection() -> None:
    over = asyncio.Event()
    serve = serving(named(4))

    async def exchange(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        target = head.split(b" ", 2)[1].decode()
        if asked_for(target)[0] == 0:
            said = serve(target)
            assert said is not None
            writer.write(said)
            return
        assert await reader.read() == b""
        over.set()
        writer.close()

    seen: Rows = []
    async with (
        raw_server(exchange) as server,
        NunuClient(KEY, base_url=server.url, clock=ManualClock()) as nunu,
    ):
        task = asyncio.create_task(noted(nunu.runs.list(page_size=2), seen))
        await until(lambda: len(server.heads) == 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(over.is_set)
    assert seen == named(2)


async def test_a_page_of_a_hundred_rows_is_large_enough_to_matter() -> None:
    """The bound on memory above means something: the rows of one page are far over its share."""
    assert len(json.dumps([run() for _ in range(100)])) * 100 > 4 * MOST_GROWTH
