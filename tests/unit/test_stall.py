"""When a PUT is given up: a table of what was seen of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nunu_async import Timeouts
from nunu_async.upload.stall import StallDetector, TransferStats

KIB = 1024


def sending(left: int) -> TransferStats:
    return TransferStats(given=left + 64 * KIB, buffered=64 * KIB, queued=0, handed_over=False)


def judged(limits: Timeouts, seen: list[tuple[float, TransferStats]]) -> list[tuple[float, str]]:
    """Return the checks that found a stall."""
    watch = StallDetector(limits, 0.0)
    found = [(now, watch.problem(now, progress)) for now, progress in seen]
    return [(now, problem) for now, problem in found if problem]


def steadily(rate: float, until: int, every: int = 15) -> list[tuple[float, TransferStats]]:
    return [(now, sending(int(rate * now))) for now in range(every, until + 1, every)]


def test_a_rate_below_the_floor_is_found_once_the_window_is_full() -> None:
    found = judged(Timeouts(), steadily(8000, 600))
    assert found[0] == (315, "fewer than 8192 bytes a second left for 300 seconds")


@pytest.mark.parametrize("rate", [8192, 8193, 20 * KIB])
def test_a_rate_at_or_above_the_floor_is_fine(rate: int) -> None:
    assert judged(Timeouts(), steadily(rate, 36_000)) == []


def test_a_good_start_does_not_hide_what_follows() -> None:
    """The window slides: 100 MiB in the first minute are forgotten 300 seconds later."""
    fast = [(float(now), sending(now * 2 * KIB * KIB)) for now in (15, 30, 45, 60)]
    start = fast[-1][1].left
    slow = [(60.0 + n * 15, sending(start + n * 15 * KIB)) for n in range(1, 60)]
    assert judged(Timeouts(), fast + slow)[0][0] == 360


def test_a_pause_that_is_no_stall_is_averaged_away() -> None:
    seen: list[tuple[float, TransferStats]] = []
    left = 0
    for number in range(1, 400):
        left += 0 if number % 20 < 3 else 15 * 20 * KIB
        seen.append((number * 15.0, sending(left)))
    assert judged(Timeouts(), seen) == []


@pytest.mark.parametrize("paced", [False, True])
def test_a_part_that_waits_for_its_turn_here_is_no_stall(paced: bool) -> None:
    waits = TransferStats(KIB, 0, 0, handed_over=False, paced=paced, held=True)
    seen = [(now * 15.0, waits) for now in range(1, 400)]
    assert judged(Timeouts(), seen) == []
    taken_by_nobody = TransferStats(KIB, 100, 0, handed_over=False, paced=paced, held=True)
    seen = [(now * 15.0, taken_by_nobody) for now in range(1, 10)]
    assert judged(Timeouts(), seen)[0] == (75, "no byte left for 60 seconds")


def test_the_time_before_the_first_byte_does_not_count() -> None:
    """Connecting has a limit of its own."""
    nothing = TransferStats(given=0, buffered=0, queued=0, handed_over=False)
    limits = Timeouts(stall=3600)
    late = [(now + 900, progress) for now, progress in steadily(9000, 900)]
    assert judged(limits, [(now, nothing) for now in range(15, 900, 15)] + late) == []


def test_bytes_that_trickle_out_of_the_kernel_are_counted() -> None:
    given = 4 * KIB * KIB
    seen = [
        (now, TransferStats(given, 0, given - int(4000 * now), handed_over=True))
        for now in range(15, 900, 15)
    ]
    assert judged(Timeouts(), seen)[0][1].startswith("fewer than")


@pytest.mark.parametrize("queued", [0, 100 * KIB])
def test_a_part_that_waits_for_its_answer_is_not_slow(queued: int) -> None:
    done = TransferStats(KIB * KIB, 0, queued, handed_over=True)
    limits = Timeouts(answer=3600)
    assert judged(limits, [(now, done) for now in range(15, 3600, 15)]) == []
    assert judged(Timeouts(), [(now, done) for now in range(15, 150, 15)]) == [
        (135, "no answer for 120 seconds")
    ]


@pytest.mark.parametrize("off", [{"trickle_rate": 0}, {"trickle_window": 0}])
def test_a_floor_of_0_turns_detection_off(off: dict[str, float]) -> None:
    assert judged(Timeouts(**off), steadily(1, 36_000)) == []


def test_a_short_window_is_checked_often_enough() -> None:
    limits = Timeouts(trickle_rate=100, trickle_window=2)
    assert StallDetector(limits, 0.0).every == 0.5
    assert StallDetector(Timeouts(trickle_rate=0, trickle_window=2), 0.0).every == 15


@given(st.lists(st.tuples(st.floats(0.5, 59), st.integers(0, 4_000_000)), min_size=1, max_size=200))
def test_a_steady_rate_above_the_floor_is_never_a_stall(
    steps: list[tuple[float, int]],
) -> None:
    now, left = 0.0, 0
    seen: list[tuple[float, TransferStats]] = []
    for pause, more in steps:
        now += pause
        left += int(8192 * pause) + 1 + more
        seen.append((now, sending(left)))
    assert judged(Timeouts(), seen) == []
