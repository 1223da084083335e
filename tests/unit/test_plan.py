"""From a size to parts, and from parts to a completion."""

import itertools
import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nunu_async.errors import PlanMismatch
from nunu_async.models.builds import CompletedPart
from nunu_async.upload.plan import Part, Plan, batch_size, filled_batches

GIB = 1024**3
MIB = 1024**2


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    part_size = draw(st.integers(1, 2**40))
    full = draw(st.integers(0, 60))
    size = full * part_size + draw(st.integers(1, part_size))
    return Plan(size=size, part_size=part_size, total_parts=full + 1)


@given(plans())
def test_parts_cover_the_file_exactly(plan: Plan) -> None:
    parts = [plan.part(number) for number in range(1, plan.total_parts + 1)]
    ends = [part.offset + part.length for part in parts]
    assert [part.offset for part in parts] == [0, *ends[:-1]]
    assert ends[-1] == plan.size


@given(plans())
def test_every_part_is_full_but_the_last(plan: Plan) -> None:
    *others, last = (plan.part(number).length for number in range(1, plan.total_parts + 1))
    assert set(others) <= {plan.part_size}
    assert 1 <= last <= plan.part_size


@given(plans())
def test_parts_are_numbered_as_asked(plan: Plan) -> None:
    numbers = range(1, plan.total_parts + 1)
    assert [plan.part(number).number for number in numbers] == list(numbers)


@pytest.mark.parametrize(
    ("size", "part_size", "total_parts", "last"),
    [
        (1, 1, 1, Part(1, 0, 1)),
        (1, 100 * MIB, 1, Part(1, 0, 1)),
        (100 * MIB, 100 * MIB, 1, Part(1, 0, 100 * MIB)),
        (100 * MIB + 1, 100 * MIB, 2, Part(2, 100 * MIB, 1)),
        (3 * GIB, 100 * MIB, 31, Part(31, 3000 * MIB, 72 * MIB)),
        (5 * 1024 * GIB, GIB, 5120, Part(5120, 5119 * GIB, GIB)),
    ],
)
def test_a_file_is_cut_as_the_service_cuts_it(
    size: int, part_size: int, total_parts: int, last: Part
) -> None:
    assert Plan(size, part_size, total_parts).part(total_parts) == last


@given(plans(), st.integers(-5, 200))
def test_any_other_count_of_parts_is_refused(plan: Plan, total_parts: int) -> None:
    if total_parts == plan.total_parts:
        total_parts += 1
    with pytest.raises(PlanMismatch):
        Plan(plan.size, plan.part_size, total_parts)


@pytest.mark.parametrize("part_size", [0, -1, -(10**9)])
@pytest.mark.parametrize("total_parts", [-1, 0, 1])
def test_an_invalid_part_size_is_refused(part_size: int, total_parts: int) -> None:
    with pytest.raises(PlanMismatch):
        Plan(10, part_size, total_parts)


def test_a_refusal_names_both_counts() -> None:
    with pytest.raises(PlanMismatch, match=r"34 parts of 100 bytes.* 1001 bytes"):
        Plan(1001, 100, 34)


def test_a_huge_count_is_refused_without_work() -> None:
    tracemalloc.start()
    began = time.process_time()
    try:
        with pytest.raises(PlanMismatch):
            Plan(size=1, part_size=1, total_parts=10**9)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MIB
    assert time.process_time() - began < 1


def test_a_huge_plan_costs_nothing_until_it_is_used() -> None:
    tracemalloc.start()
    try:
        plan = Plan(size=10**12, part_size=1, total_parts=10**12)
        first = next(plan.batches(10))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (list(first), peak < MIB) == (list(range(1, 11)), True)


@given(plans(), st.randoms(use_true_random=False))
def test_a_completion_does_not_depend_on_the_order_of_arrival(plan: Plan, random: object) -> None:
    numbers = list(range(1, plan.total_parts + 1))
    random.shuffle(numbers)  # type: ignore[attr-defined]
    assert plan.completion({number: f"etag-{number}" for number in numbers}) == tuple(
        CompletedPart(part_number=number, etag=f"etag-{number}")
        for number in range(1, plan.total_parts + 1)
    )


@given(plans(), st.data())
def test_a_completion_with_a_gap_is_refused(plan: Plan, data: st.DataObject) -> None:
    numbers = list(range(1, plan.total_parts + 1))
    missing = data.draw(st.sets(st.sampled_from(numbers), min_size=1))
    with pytest.raises(PlanMismatch):
        plan.completion({number: "etag" for number in numbers if number not in missing})


@pytest.mark.parametrize("number", [0, -1, 4])
def test_a_completion_with_a_part_of_another_plan_is_refused(number: int) -> None:
    with pytest.raises(PlanMismatch):
        Plan(30, 10, 3).completion({1: "a", 2: "b", 3: "c", number: "d"})


def test_a_refused_completion_names_the_missing_parts() -> None:
    with pytest.raises(PlanMismatch, match=r"\[2, 4\]"):
        Plan(50, 10, 5).completion({5: "e", 1: "a", 3: "c"})


@given(plans(), st.integers(1, 70))
def test_batches_hold_every_number_once_in_order(plan: Plan, length: int) -> None:
    batches = list(plan.batches(length))
    assert list(itertools.chain(*batches)) == list(range(1, plan.total_parts + 1))


@given(plans(), st.integers(1, 70))
def test_every_batch_is_full_but_the_last(plan: Plan, length: int) -> None:
    *others, last = (len(batch) for batch in plan.batches(length))
    assert set(others) <= {length}
    assert 1 <= last <= length


@pytest.mark.parametrize(
    ("concurrency", "expected"), [(1, 3), (2, 3), (3, 3), (4, 4), (10, 10), (11, 10), (1000, 10)]
)
def test_a_batch_serves_every_sender_within_the_advised_size(
    concurrency: int, expected: int
) -> None:
    assert batch_size(concurrency) == expected


@given(
    wanted=st.lists(st.integers(1, 100), unique=True, max_size=40),
    spare=st.lists(st.integers(101, 200), unique=True, max_size=40),
    length=st.integers(1, 10),
)
def test_batches_are_few_and_filled_with_spare_numbers(
    wanted: list[int], spare: list[int], length: int
) -> None:
    batches = list(filled_batches(wanted, iter(spare), length))
    numbers = [number for batch in batches for number in batch]
    assert len(batches) == -(-len(wanted) // length)
    assert numbers[: len(wanted)] == wanted
    filling = numbers[len(wanted) :]
    assert filling == spare[: len(filling)]
    assert all(len(batch) <= length for batch in batches)
    assert len(filling) == len(spare) or len(numbers) == length * len(batches)
