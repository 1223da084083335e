"""The rules of who is due, who is given up, and how long to leave a server in peace."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nunu_async.polling.schedule import PollSchedule, fold


@attrs.define(eq=False)
class Someone:
    interval: float = 10.0


def board_of(*names: str, interval: float = 10.0) -> tuple[PollSchedule[Someone], Someone]:
    schedule: PollSchedule[Someone] = PollSchedule()
    one = Someone(interval)
    for name in names:
        schedule.watch(name, one)
    return schedule, one


def test_the_first_poll_is_at_once() -> None:
    schedule, _ = board_of("a", "b")
    assert schedule.next_poll(0.99) == -math.inf
    assert schedule.due(1000.0) == {"a", "b"}


@pytest.mark.parametrize("chance", [0.0, 0.5, 0.999])
def test_the_next_poll_is_an_interval_later_and_never_sooner(chance: float) -> None:
    schedule, _ = board_of("a")
    schedule.due(0.0)
    schedule.record_poll({"a"}, 5.0)
    assert 15.0 <= schedule.next_poll(chance) <= 16.0
    assert schedule.due(14.9) == set()
    assert schedule.due(15.0) == {"a"}


def test_polls_due_within_a_tenth_of_an_interval_are_one() -> None:
    schedule, _ = board_of("a", "b", "c")
    for name, polled_at in (("a", 0.0), ("b", 1.0), ("c", 1.01)):
        schedule.due(polled_at)
        schedule.record_poll({name}, polled_at)
    assert schedule.next_poll(0.0) == 11.0
    assert schedule.due(11.0) == {"a", "b"}


def test_a_short_interval_is_not_delayed_by_a_long_one() -> None:
    schedule, _ = board_of("a", interval=100.0)
    for name in ("b", "c"):
        schedule.watch(name, Someone(10.0))
    schedule.due(0.0)
    for name, polled_at in (("a", 0.0), ("b", 89.0), ("c", 91.0)):
        schedule.record_poll({name}, polled_at)
    assert schedule.next_poll(0.0) == 100.0
    assert schedule.due(100.0) == {"a", "b"}


def test_a_later_wait_does_not_wait_for_the_polls_of_others() -> None:
    schedule, _ = board_of("a")
    schedule.due(0.0)
    schedule.record_poll({"a"}, 0.0)
    schedule.watch("b", Someone(10.0))
    assert schedule.next_poll(0.5) == -math.inf
    assert schedule.due(3.0) == {"b"}


def test_new_waits_cause_fifty_requests_a_second_at_most() -> None:
    schedule, _ = board_of("a")
    schedule.due(0.0)
    schedule.record_poll({"a"}, 0.0)
    schedule.record_success(0.0, 20)
    schedule.watch("b", Someone(10.0))
    assert schedule.next_poll(0.5) == pytest.approx(0.4)
    schedule.record_success(0.0, 1000)
    assert schedule.next_poll(0.5) == 1.0


def test_the_shortest_interval_counts_while_its_wait_lasts() -> None:
    schedule, slow = board_of("a", interval=60.0)
    quick = Someone(5.0)
    schedule.watch("a", quick)
    schedule.due(0.0)
    schedule.record_poll({"a"}, 0.0)
    assert schedule.next_poll(0.0) == 5.0
    schedule.leave("a", quick)
    assert schedule.next_poll(0.0) == 60.0
    schedule.leave("a", slow)
    assert len(schedule) == 0


def test_removing_twice_or_an_unknown_wait_does_nothing() -> None:
    schedule, one = board_of("a")
    schedule.leave("a", Someone())
    schedule.leave("b", one)
    assert len(schedule) == 1
    schedule.leave("a", one)
    schedule.leave("a", one)
    assert len(schedule) == 0


def test_a_row_seen_in_passing_counts_as_polled() -> None:
    schedule, _ = board_of("a", "b")
    schedule.due(0.0)
    schedule.record_poll({"a", "b"}, 0.0)
    schedule.record_row("b", "running", None, 8.0)
    assert schedule.due(10.0) == {"a"}
    assert schedule.due(18.0) == {"a", "b"}


@pytest.mark.parametrize(
    ("times", "gone"),
    [
        ([0.0], False),
        ([0.0, 14.9], False),
        ([0.0, 15.0], True),
        ([0.0, 7.0, 14.0], False),
        ([0.0, 10.0, 20.0], True),
        ([0.0, 600.0], True),
    ],
)
def test_an_id_is_given_up_after_15_seconds_and_two_polls(times: list[float], gone: bool) -> None:
    schedule, _ = board_of("a")
    for now in times[:-1]:
        assert schedule.record_absence(["a"], now) == []
    assert schedule.record_absence(["a"], times[-1]) == (["a"] if gone else [])


def test_a_row_that_was_seen_starts_the_grace_again() -> None:
    """And one that was seen has longer to come back."""
    schedule, _ = board_of("a")
    schedule.record_absence(["a"], 0.0)
    schedule.record_row("a", "running", None, 20.0)
    assert schedule.record_absence(["a"], 40.0) == []
    assert schedule.record_absence(["a"], 339.0) == []
    assert schedule.record_absence(["a"], 340.0) == ["a"]


def test_polls_of_moving_lists_prove_little() -> None:
    schedule, _ = board_of("a")
    gone = [schedule.record_absence(["a"], float(now), moving=True) for now in range(0, 200, 10)]
    assert gone == [[]] * 19 + [["a"]]


def test_failures_lengthen_the_pause_and_success_ends_that() -> None:
    schedule, _ = board_of("a")
    schedule.due(0.0)
    schedule.record_poll({"a"}, 0.0)
    assert [schedule.record_failure(0.0, None) for _ in range(7)] == [
        20,
        40,
        80,
        160,
        300,
        300,
        300,
    ]
    assert schedule.next_poll(0.0) == 300.0
    schedule.record_success(0.0, 1)
    assert schedule.record_failure(0.0, None) == 20


def test_what_the_server_asks_for_counts_even_where_it_is_longer() -> None:
    schedule, _ = board_of("a")
    schedule.due(0.0)
    assert schedule.record_failure(100.0, 1000.0) == 1000.0
    assert schedule.next_poll(0.9) == 1100.0
    assert schedule.record_failure(100.0, 1e9) == 3600.0


def test_a_long_interval_is_not_shortened_by_failures() -> None:
    schedule, _ = board_of("a", interval=3600.0)
    assert schedule.record_failure(0.0, None) == 3600.0


def test_the_position_of_a_row_is_known_until_it_is_missed() -> None:
    schedule, _ = board_of("a", "b", "c")
    old, new = (datetime(2026, 4, day, tzinfo=UTC) for day in (1, 2))
    schedule.record_row("a", "running", new, 0.0)
    schedule.record_row("b", "running", old, 0.0)
    assert schedule.start_times({"a", "b", "c", "d"}) == {"a": new, "b": old}
    schedule.record_absence(["a"], 1.0)
    assert schedule.start_times({"a", "b"}) == {"b": old}


UUID = "A0B00000-0000-4000-8000-00000000000F"


def test_uuids_are_equal_in_any_case_and_other_ids_are_not() -> None:
    assert fold(UUID) == fold(UUID.lower()) == UUID.lower()
    assert fold("RunAbc") == "RunAbc"


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["watch", "leave", "poll", "saw", "missed"]),
            st.sampled_from("abcd"),
            st.integers(0, 2),
            st.floats(0, 40),
        ),
        max_size=40,
    )
)
def test_no_id_is_polled_too_soon_or_forgotten(
    steps: list[tuple[str, str, int, float]],
) -> None:
    """Each watched id is due at its time, and never sooner but for newcomers to it."""
    schedule: PollSchedule[Someone] = PollSchedule()
    people = [Someone(5.0), Someone(10.0), Someone(60.0)]
    waiting: dict[str, list[Someone]] = {}
    polled_at: dict[str, float] = {}
    fresh: set[str] = set()
    now = 0.0
    for step, name, who, later in steps:
        now += later
        if step == "watch" and people[who] not in waiting.get(name, []):
            schedule.watch(name, people[who])
            waiting.setdefault(name, []).append(people[who])
            fresh.add(name)
        elif step == "leave" and people[who] in waiting.get(name, []):
            schedule.leave(name, people[who])
            waiting[name].remove(people[who])
            if not waiting[name]:
                del waiting[name]
                polled_at.pop(name, None)
                fresh.discard(name)
        elif step == "saw" and name in waiting:
            schedule.record_row(name, "running", None, now)
            polled_at[name] = now
            fresh.discard(name)
        elif step == "missed":
            schedule.record_absence([name], now)
        elif step == "poll":
            expected = {
                key
                for key, crowd in waiting.items()
                if key in fresh
                or polled_at.get(key, -math.inf) + min(one.interval for one in crowd) <= now
            }
            assert schedule.due(now) == expected
            schedule.record_poll(expected, now)
            polled_at.update(dict.fromkeys(expected, now))
            fresh.clear()
        assert len(schedule) == len(waiting)
        if waiting:
            turns = [
                (polled_at.get(key, -math.inf), min(one.interval for one in crowd))
                for key, crowd in waiting.items()
            ]
            longest = min(at + 1.1 * interval for at, interval in turns)
            shared = max(at + interval for at, interval in turns if at + interval <= longest)
            assert schedule.next_poll(0.0) == (-math.inf if fresh else shared)
