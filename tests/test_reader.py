"""The fast readers and the converter behind them: two ways that must come to the same."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import bug, details, execution, page, player, run
from shapes import MODELS, ODD, QUICK, mutated, valid

from nunu_async import Model
from nunu_async.core import codec, converter, reader
from nunu_async.models.runs import BugOccurrence, PlayerDetails, Run, RunDetails
from nunu_async.models.test_plan_executions import TestPlanExecution
from nunu_async.models.vocab import OpenEnum, RunState

EACH_MODEL = pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
REFUSALS = (KeyError, TypeError, ValueError, AttributeError)


def by_converter(data: object, model: type[Model]) -> Model:
    """Read in the slow way alone."""
    if not isinstance(data, Mapping):
        raise codec.DecodeProblem("expected an object @ $")
    return converter.CONVERTER.structure(data, model)


def tried(way: Callable[[], Model]) -> Model | None:
    try:
        return way()
    except Exception:  # noqa: BLE001 - whatever it is, it is a refusal
        return None


def same(one: object, other: object) -> bool:
    """Tell whether two models are equal to the type of each part; NaN counts as itself."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Model):
        return all(
            same(getattr(one, field.name), getattr(other, field.name))
            for field in attrs.fields(type(one))
            if field.name not in {"absent", "extra", "null"}
        ) and same_mapping(one, other)
    if isinstance(one, tuple):
        assert isinstance(other, tuple)
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, OpenEnum):
        return str(one) == str(other)
    return repr(one) == repr(other)


def same_mapping(one: Model, other: Any) -> bool:
    return repr(dict(one.extra)) == repr(dict(other.extra)) and (
        set(one.absent),
        set(one.null),
    ) == (set(other.absent), set(other.null))


@EACH_MODEL
@QUICK
@given(st.data())
def test_what_fits_is_read_alike_in_both_ways(model: type[Model], data: st.DataObject) -> None:
    body = data.draw(valid(model))
    kept = copy.deepcopy(body)
    fast = reader.reader(model)(body)
    slow = by_converter(body, model)
    assert same(fast, slow)
    assert same(codec.structure(body, model), fast)
    assert body == kept


@EACH_MODEL
@QUICK
@given(st.data())
def test_what_is_read_is_as_good_as_what_is_made_by_hand(
    model: type[Model], data: st.DataObject
) -> None:
    """It is made in another way: filled in first, and frozen then."""
    read = reader.reader(model)(data.draw(valid(model)))
    made = model(**{field.name: getattr(read, field.name) for field in attrs.fields(model)})
    assert type(read) is type(made) is model
    assert repr(read) == repr(made)
    if read == read:  # noqa: PLR0124 - not so where NaN is inside
        assert read == made
        assert pickle.loads(pickle.dumps(read)) == copy.deepcopy(read) == read  # noqa: S301
    for name in (attrs.fields(model)[0].name, "another"):
        with pytest.raises(AttributeError):
            setattr(read, name, 1)
        with pytest.raises(AttributeError):
            delattr(read, name)


@EACH_MODEL
@QUICK
@given(st.data())
def test_what_hardly_fits_is_read_alike_or_refused(model: type[Model], data: st.DataObject) -> None:
    """The reader may refuse more than the converter, which then decides; never less."""
    body = data.draw(mutated(model))
    slow = tried(lambda: by_converter(body, model))
    try:
        fast = reader.reader(model)(body)
    except REFUSALS:
        fast = None
    if fast is not None:
        assert slow is not None
        assert same(fast, slow)
    if slow is None:
        with pytest.raises(codec.DecodeProblem) as caught:
            codec.structure(body, model)
        assert caught.value.problems
        assert all(" @ $" in problem for problem in caught.value.problems)
    else:
        assert same(codec.structure(body, model), slow)


@EACH_MODEL
@given(st.one_of(ODD, st.lists(ODD, max_size=2), st.text(max_size=3)))
@QUICK
def test_what_is_no_object_is_refused_by_both(model: type[Model], data: object) -> None:
    if isinstance(data, dict):
        return
    with pytest.raises(REFUSALS):
        reader.reader(model)(data)
    with pytest.raises(codec.DecodeProblem):
        codec.structure(data, model)


@EACH_MODEL
def test_a_reader_is_made_once(model: type[Model]) -> None:
    assert reader.reader(model) is reader.reader(model)


@pytest.mark.parametrize(
    ("model", "body"),
    [
        (Run, run()),
        (Run, run(players=[player(), player(player_number=2)], tags=[])),
        (RunDetails, details()),
        (BugOccurrence, bug()),
        (TestPlanExecution, execution()),
    ],
    ids=["run", "players", "details", "bug", "execution"],
)
def test_a_published_body_takes_the_fast_way(model: type[Model], body: dict[str, Any]) -> None:
    assert same(reader.reader(model)(body), by_converter(body, model))


@pytest.mark.parametrize(
    ("change", "name", "expected"),
    [
        ({"created_at": "2026-04-11T06:12:03"}, "created_at", datetime(2026, 4, 11, 6, 12, 3)),  # noqa: DTZ001 - as it came
        ({"created_at": "2026-04-11"}, "created_at", datetime(2026, 4, 11)),  # noqa: DTZ001 - as it came
    ],
)
def test_a_time_without_a_zone_is_left_to_the_converter(
    change: dict[str, Any], name: str, expected: datetime
) -> None:
    with pytest.raises(TypeError):
        reader.reader(Run)(run(**change))
    assert getattr(codec.structure(run(**change), Run), name) == expected.replace(tzinfo=UTC)


def test_a_whole_number_with_a_point_is_left_to_the_converter() -> None:
    body = run(players=[player(player_number=1.0)])
    with pytest.raises(TypeError):
        reader.reader(Run)(body)
    number = codec.structure(body, Run).players[0].player_number
    assert type(number) is int


@pytest.mark.parametrize("number", [2**63, -(2**63), 10**400])
def test_a_whole_number_over_64_bits_is_refused_by_both(number: int) -> None:
    body = run(players=[player(player_number=number)])
    with pytest.raises(TypeError):
        reader.reader(Run)(body)
    with pytest.raises(codec.DecodeProblem, match=r"64 bits @ \$\.players\[0\]\.player_number"):
        codec.structure(body, Run)


@pytest.mark.parametrize("number", [2**63 - 1, 1 - 2**63])
def test_a_whole_number_of_64_bits_takes_the_fast_way(number: int) -> None:
    body = run(players=[player(player_number=number)])
    assert reader.reader(Run)(body).players[0].player_number == number


def test_words_are_made_once_but_not_for_ever() -> None:
    states = [run(state=f"state-{number}") for number in range(1000)]
    rows = codec.structure_page(page(states), Run).data
    assert [str(row.state) for row in rows] == [f"state-{number}" for number in range(1000)]
    first, second = (codec.structure(run(state="RUNNING"), Run).state for _ in range(2))
    assert first == second == RunState.RUNNING


def test_the_spelling_of_one_word_is_not_given_to_the_next() -> None:
    """They are equal, and a cache that goes by equality would mix them up."""
    words = ["completed", "COMPLETED", "Completed", "completed"]
    rows = codec.structure_page(page([run(state=word) for word in words]), Run).data
    assert [str(row.state) for row in rows] == words


def test_a_model_that_no_reader_can_be_made_for_is_refused_at_once() -> None:
    @attrs.frozen(kw_only=True)
    class Odd(Model):
        value: set[str]

    with pytest.raises(TypeError, match="no reader"):
        reader.reader(Odd)


def test_rows_of_a_page_do_not_share_what_is_theirs() -> None:
    one, other = codec.structure_page(page([run(), run(brand_new=1)]), Run).data
    assert not one.extra
    assert other.extra == {"brand_new": 1}
    assert one.absent == other.absent == ()


@pytest.mark.parametrize("name", ["extra", "response", "absent", "null"])
def test_a_member_that_is_called_like_one_of_ours_is_theirs(name: str) -> None:
    body = player(artifacts=[], steps=[]) | {name: "theirs"}
    made = codec.structure(body, PlayerDetails)
    assert made.extra == {name: "theirs"}
    assert made.response is None
    assert made.to_dict() == body
