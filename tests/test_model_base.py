"""What every model has: the way back to JSON, unknown members, no way to change it."""

from __future__ import annotations

import copy
import json
import pickle
import re
from collections.abc import Hashable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import JOB, artifact, details, execution, page, player, run
from shapes import MODELS, QUICK, valid

import nunu_async
import nunu_async.sandbox
from nunu_async import Model
from nunu_async.core import codec
from nunu_async.core.converter import convert
from nunu_async.models.jobs import Job, JobRetries
from nunu_async.models.page import Page
from nunu_async.models.runs import PlayerDetails, Run, RunArtifact, RunDetails, TestRef
from nunu_async.models.test_plan_executions import TestPlanExecution
from nunu_async.models.vocab import OpenEnum
from nunu_async.response import ResponseInfo

JOB_ROW: dict[str, Any] = {
    "job_id": JOB,
    "status": "COMPLETED",
    "created_at": "2026-04-11T06:12:03Z",
    "runs": [],
    "tags": ["a"],
}
EACH_MODEL = pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
MOMENT = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?(Z|[+-]\d{2}:\d{2})")


def instants(value: object) -> object:
    if isinstance(value, dict):
        return {name: instants(member) for name, member in value.items()}
    if isinstance(value, list):
        return [instants(item) for item in value]
    if isinstance(value, str) and MOMENT.fullmatch(value):
        return datetime.fromisoformat(value)
    return value


@EACH_MODEL
@QUICK
@given(st.data())
def test_what_came_goes_back(model: type[Model], data: st.DataObject) -> None:
    body = data.draw(valid(model))
    given_back = codec.structure(body, model).to_dict()
    assert instants(given_back) == instants(body)
    again = codec.structure(given_back, model)
    assert again.to_dict() == given_back


@EACH_MODEL
@QUICK
@given(st.data())
def test_what_goes_back_is_plain_json(model: type[Model], data: st.DataObject) -> None:
    given_back = codec.structure(data.draw(valid(model)), model).to_dict()
    plain(given_back)
    assert json.loads(json.dumps(given_back)) == given_back


def plain(value: object) -> None:
    """Assert that there is nothing of ours in it, down to the last string."""
    assert type(value) in {dict, list, str, int, float, bool, type(None)}, type(value)
    if isinstance(value, dict):
        for member in value.values():
            plain(member)
    if isinstance(value, list):
        for member in value:
            plain(member)


@EACH_MODEL
@QUICK
@given(st.data())
def test_a_model_survives_copy_and_pickle(model: type[Model], data: st.DataObject) -> None:
    made = codec.structure(data.draw(valid(model)), model)
    made = attrs.evolve(made, response=ResponseInfo(status=200, headers={"a": "b"}))
    for again in (copy.copy(made), copy.deepcopy(made), pickle.loads(pickle.dumps(made))):  # noqa: S301 - ours
        assert type(again) is model
        assert again == made
        assert again.response == made.response
        assert again.to_dict() == made.to_dict()


@EACH_MODEL
@QUICK
@given(st.data())
def test_a_model_can_be_hashed_whatever_came(model: type[Model], data: st.DataObject) -> None:
    body = data.draw(valid(model))
    one, same = (codec.structure(body, model) for _ in range(2))
    assert isinstance(one, Hashable)
    assert hash(one) == hash(same)
    assert {one, same} == {one}


@EACH_MODEL
@QUICK
@given(st.data())
def test_a_model_is_shown_compared_and_hashed_as_attrs_would(
    model: type[Model], data: st.DataObject
) -> None:
    """Models share these methods, as generating them for each takes long."""
    generated = attrs.frozen(kw_only=True)(type(model.__name__, (model,), {}))
    assert "__eq__" in vars(generated)
    assert not {"__eq__", "__hash__", "__repr__"} & vars(model).keys()

    def twin(made: Model) -> Any:
        return generated(**{each.name: getattr(made, each.name) for each in attrs.fields(model)})

    one, other = (codec.structure(data.draw(valid(model)), model) for _ in range(2))
    assert repr(one) == repr(twin(one))
    assert (one == other) is (twin(one) == twin(other))
    assert (hash(one) == hash(other)) is (hash(twin(one)) == hash(twin(other)))
    assert one != twin(one)
    assert one == copy.deepcopy(one)


PUBLIC = sorted(
    {
        value
        for module in (nunu_async, nunu_async.sandbox)
        for name in module.__all__
        if isinstance(value := getattr(module, name), type)
        and attrs.has(value)
        and issubclass(value, Hashable)
        and value.__hash__ is not object.__hash__
    },
    key=lambda kind: kind.__qualname__,
)


@pytest.mark.parametrize("kind", PUBLIC, ids=lambda kind: kind.__name__)
def test_what_says_that_it_can_be_hashed_holds_nothing_that_cannot(kind: type) -> None:
    """A list may be passed for a sequence, and JSON data is made of dictionaries."""
    attrs.resolve_types(kind)
    for field in attrs.fields(kind):
        counts = field.eq if field.hash is None else field.hash
        kinds = re.findall(r"Mapping|Sequence|dict|list|\bset\b|Any|object", str(field.type))
        assert not (counts and kinds), f"{field.name}: {field.type}"


@EACH_MODEL
def test_a_model_is_frozen_and_slotted(model: type[Model]) -> None:
    assert "__dict__" not in dir(model)
    assert model.__setattr__ is not object.__setattr__
    names = [field.name for field in attrs.fields(model)]
    assert len(names) == len(set(names))
    assert all(field.kw_only for field in attrs.fields(model))


@EACH_MODEL
def test_a_model_has_a_word_for_what_it_is(model: type[Model]) -> None:
    if not model.__name__.startswith("_"):
        assert model.__doc__
        assert not model.__doc__.startswith("Method generated")


def test_a_time_goes_back_with_its_zone_and_to_the_microsecond() -> None:
    zone = timezone(timedelta(hours=2))
    made = RunArtifact(
        filename="a", size=1, url="u", uploaded_at=datetime(2026, 4, 11, 8, 12, 3, tzinfo=zone)
    )
    assert made.to_dict()["uploaded_at"] == "2026-04-11T08:12:03.000000+02:00"


def test_a_model_that_was_made_by_hand_goes_out_whole() -> None:
    made = TestRef(id="a", name="b", type=next(iter(OpenEnum.__subclasses__()[2].known)))  # type: ignore[arg-type]
    assert set(made.to_dict()) == {"id", "name", "type"}


def test_null_and_absent_are_distinguished() -> None:
    body = execution(build_id=None)
    del body["build_name"]
    made = codec.structure(body, TestPlanExecution)
    assert made.absent == ("build_name",)
    assert made.build_name is None
    assert instants(made.to_dict()) == instants(body)


NULLED: list[tuple[type[Model], dict[str, Any], str, object]] = [
    (Run, run(), "tags", ()),
    (Run, run(), "players", ()),
    (RunDetails, run(players=[]), "players", ()),
    (PlayerDetails, player(steps=[], artifacts=[]), "steps", ()),
    (PlayerDetails, player(steps=[], artifacts=[]), "artifacts", ()),
    (Job, JOB_ROW, "tags", ()),
    (Job, JOB_ROW, "runs", ()),
    (JobRetries, {"total": 2, "remaining": 1}, "remaining", 0),
    (JobRetries, {"total": 2, "remaining": 1}, "total", 0),
]


@pytest.mark.parametrize(("model", "body", "name", "default"), NULLED)
def test_null_is_absent_where_there_is_a_default_and_dumps_as_null(
    model: type[Model], body: dict[str, Any], name: str, default: object
) -> None:
    """Both by the fast reader and by the converter, which takes what is not exactly right."""
    null = body | {name: None}
    for made in (codec.structure(null, model), convert(null, model)):
        assert getattr(made, name) == default
        assert made.null == (name,)
        assert made.to_dict()[name] is None
        assert made == codec.structure({n: v for n, v in body.items() if n != name}, model)


def test_a_page_is_not_lost_for_a_null_in_one_row() -> None:
    rows = codec.structure_page(page([run(), run(tags=None), run()]), Run).data
    assert [row.tags for row in rows] == [rows[0].tags, (), rows[0].tags]
    assert [row.null for row in rows] == [(), ("tags",), ()]


def test_a_value_given_by_hand_counts_although_it_was_null() -> None:
    made = codec.structure(run(tags=None), Run)
    assert attrs.evolve(made, tags=("a",)).to_dict()["tags"] == ["a"]


@pytest.mark.parametrize(
    ("retries", "used"),
    [
        ({"total": 2, "remaining": 1}, 1),
        ({"total": 2, "remaining": 0}, 2),
        ({"total": 2, "remaining": None}, 0),
        ({"total": 2}, 0),
    ],
)
def test_unreported_retries_excuse_no_failure(retries: dict[str, Any], used: int) -> None:
    made = codec.structure(retries, JobRetries)
    assert made.used == used


def test_a_member_given_by_hand_counts_although_it_was_absent() -> None:
    body = execution()
    del body["build_name"]
    made = codec.structure(body, TestPlanExecution)
    assert attrs.evolve(made, build_name="b").to_dict()["build_name"] == "b"


def test_what_was_absent_does_not_tell_models_apart() -> None:
    body = execution(build_name=None)
    without = {name: value for name, value in body.items() if name != "build_name"}
    assert codec.structure(body, TestPlanExecution) == codec.structure(without, TestPlanExecution)


def test_unknown_members_tell_models_apart() -> None:
    assert codec.structure(run(), Run) != codec.structure(run(a=1), Run)


@pytest.mark.parametrize("more", [{}, {"mood": "calm"}])
def test_unknown_members_are_a_dictionary_that_cannot_be_written_to(more: dict[str, Any]) -> None:
    for extra in (
        codec.structure(run(**more), Run).extra,
        by_converter(run(**more)).extra,
        codec.structure_page(page([]) | more, Run).extra,
    ):
        assert isinstance(extra, dict)
        assert extra == more
        assert json.dumps(extra) == json.dumps(more)
        assert extra | {"a": 1} == more | {"a": 1}
        assert {**extra} == dict(extra) == more
        for again in (copy.copy(extra), copy.deepcopy(extra), pickle.loads(pickle.dumps(extra))):  # noqa: S301 - ours
            assert (type(again), again) == (type(extra), more)
        for write in (
            lambda e: e.update(a=1),
            lambda e: e.setdefault("a"),
            lambda e: e.__setitem__("a", 1),
            lambda e: e.__delitem__("mood"),
            lambda e: e.__ior__({"a": 1}),
            lambda e: e.pop("mood"),
            lambda e: e.popitem(),
            lambda e: e.clear(),
        ):
            with pytest.raises(TypeError, match="cannot be changed"):
                write(extra)
        assert extra == more


def by_converter(body: dict[str, Any]) -> Run:
    """Read in the slow way, which a number with a point takes."""
    body["players"][0]["player_number"] = 1.0
    return codec.structure(body, Run)


def test_models_without_unknown_members_share_one_object() -> None:
    made = codec.structure(run(), Run)
    assert made.extra is made.test.extra is by_converter(run()).extra


@pytest.mark.parametrize("levels", [600, 100_000])
def test_members_however_deep_go_back(levels: int) -> None:
    nested: Any = "x"
    for _ in range(levels):
        nested = {"a": nested}
    given_back: Any = codec.structure(run(deep=nested), Run).to_dict()["deep"]
    for _ in range(levels):
        (given_back,) = given_back.values()
    assert given_back == "x"


def test_two_kinds_of_models_are_never_equal() -> None:
    body = details(players=[])
    assert codec.structure(body, Run) != codec.structure(body, RunDetails)


def test_what_was_given_back_can_be_changed_without_harm() -> None:
    made = codec.structure(details(mood={"calm": 1}), RunDetails)
    before = copy.deepcopy(made.to_dict())
    given_back: Any = made.to_dict()
    given_back["template_data"]["currency"] = "EUR"
    given_back["initiator"]["value"].clear()
    given_back["mood"]["calm"] = 2
    given_back["tags"].append("x")
    assert made.to_dict() == before


def test_a_model_does_not_follow_later_changes_of_its_data() -> None:
    body: Any = details()
    made = codec.structure(body, RunDetails)
    body["template_data"]["currency"] = "EUR"
    body["tags"].append("x")
    assert made.tags == ("nightly",)


def test_a_page_goes_back_with_its_rows() -> None:
    body = page([run(), run(result=None)]) | {"took_ms": 3}
    made = codec.structure_page(body, Run)
    assert isinstance(made, Page)
    assert instants(made.to_dict()) == instants(body)


def test_a_signed_address_goes_back_but_is_not_shown() -> None:
    made = codec.structure(artifact(), RunArtifact)
    assert "a1b2c3d4e5f6" in str(made.to_dict()["url"])
    assert "a1b2c3d4e5f6" not in repr(made)
    assert made.uploaded_at == datetime(2026, 4, 11, 6, 19, 40, tzinfo=UTC)
