"""JSON to models and back."""

import contextlib
import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nunu_async.core.codec import DecodeProblem, dump, encode, parse, structure
from nunu_async.errors import InputError
from nunu_async.models.run_requests import StartRun


@attrs.frozen(kw_only=True)
class _Inner:
    number: int
    text: str


@attrs.frozen(kw_only=True)
class _Model:
    text: str = ""
    whole: int = 0
    flag: bool = False
    share: float = 0.0
    maybe: str | None = None
    at: datetime | None = None
    tags: tuple[str, ...] = ()
    inner: _Inner | None = None
    items: tuple[_Inner, ...] = ()
    extra: dict[str, object] | None = None


def problems(data: object, model: type = _Model) -> tuple[str, ...]:
    with pytest.raises(DecodeProblem) as problem:
        structure(data, model)
    return problem.value.problems


WRONG: dict[str, list[Any]] = {
    "text": [None, 1, 1.5, True, [], {}],
    "whole": [None, "7", 1.5, True, [], {}, float("nan"), float("inf"), 2**63, -(2**63), 1e300],
    "flag": [None, 1, 0, "true", [], {}],
    "share": [None, "1.5", True, []],
    "maybe": [1, True, [], {}],
    "at": [1, "yesterday", "", True, [], "2026-13-01T00:00:00Z"],
    "tags": [None, 5, "rc", {}, {"a": 1}, True],
    "inner": [5, "abc", "", [], True],
    "items": [5, "abc", "", {}, {"number": 1}, True],
    "extra": [5, "abc", [], True],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values]
)
def test_a_value_of_the_wrong_type_is_refused_with_its_path(name: str, value: Any) -> None:
    found = problems({name: value})
    assert found
    assert all(f" @ $.{name}" in problem for problem in found)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("text", "", ""),
        ("whole", 1, 1),
        ("whole", 1.0, 1),
        ("whole", -0.0, 0),
        ("whole", 2**63 - 1, 2**63 - 1),
        ("whole", 1 - 2**63, 1 - 2**63),
        ("flag", True, True),
        ("share", 1, 1),
        ("share", 1.5, 1.5),
        ("maybe", None, None),
        ("maybe", "x", "x"),
        ("tags", [], ()),
        ("tags", ["a", "b"], ("a", "b")),
        ("inner", None, None),
        ("inner", {"number": 1, "text": "x"}, _Inner(number=1, text="x")),
        ("items", [{"number": 1, "text": "x"}], (_Inner(number=1, text="x"),)),
        ("extra", {"a": {"b": [1, None, "x"]}}, {"a": {"b": [1, None, "x"]}}),
        ("extra", {}, {}),
    ],
)
def test_a_value_of_the_right_type_is_taken(name: str, value: Any, expected: object) -> None:
    found = getattr(structure({name: value}, _Model), name)
    assert (type(found), found) == (type(expected), expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-04-11T06:10:00Z", datetime(2026, 4, 11, 6, 10, tzinfo=UTC)),
        ("2026-04-11T06:10:00.250Z", datetime(2026, 4, 11, 6, 10, 0, 250_000, tzinfo=UTC)),
        ("2026-04-11T06:10:00.000001+00:00", datetime(2026, 4, 11, 6, 10, 0, 1, tzinfo=UTC)),
        ("2026-04-11T08:10:00+02:00", datetime(2026, 4, 11, 6, 10, tzinfo=UTC)),
        ("2026-04-11T06:10:00", datetime(2026, 4, 11, 6, 10, tzinfo=UTC)),
        # RFC 3339, 5.6: small letters, and the second of a leap.
        ("2026-04-11t06:10:00z", datetime(2026, 4, 11, 6, 10, tzinfo=UTC)),
        ("2026-04-11t06:10:00.25z", datetime(2026, 4, 11, 6, 10, 0, 250_000, tzinfo=UTC)),
        ("2026-06-30T23:59:60Z", datetime(2026, 7, 1, tzinfo=UTC)),
        ("2026-12-31T23:59:60.5Z", datetime(2027, 1, 1, 0, 0, 0, 500_000, tzinfo=UTC)),
    ],
)
def test_every_published_form_of_time_is_read(text: str, expected: datetime) -> None:
    assert structure({"at": text}, _Model).at == expected


def test_unknown_members_are_ignored() -> None:
    data = {"text": "x", "new_in_2027": {"a": [1]}, "inner": {"number": 1, "text": "y", "z": None}}
    assert structure(data, _Model) == _Model(text="x", inner=_Inner(number=1, text="y"))


def test_every_wrong_place_is_named() -> None:
    data = {
        "text": 1,
        "tags": ["a", 2],
        "inner": {"number": "1"},
        "items": [{"number": 1, "text": "x"}, {"number": None, "text": "y"}],
    }
    assert sorted(problems(data)) == [
        "expected a string, got int @ $.tags[1]",
        "expected a string, got int @ $.text",
        "expected an integer, got NoneType @ $.items[1].number",
        "expected an integer, got str @ $.inner.number",
        "is missing @ $.inner.text",
    ]


@pytest.mark.parametrize("data", [None, [], "x", 1, True])
def test_what_is_not_an_object_is_no_model(data: object) -> None:
    assert problems(data) == (f"expected an object, got {type(data).__name__} @ $",)


def test_a_decode_problem_reads_as_its_problems() -> None:
    assert str(DecodeProblem("one @ $.a", "two @ $.b")) == "one @ $.a; two @ $.b"


def test_a_number_beyond_every_float_is_a_problem() -> None:
    assert problems({"share": 10**400})


def test_text_that_no_encoding_can_carry_is_a_problem() -> None:
    data = parse(b'{"text": "\\ud800"}')
    assert problems(data)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"  ", id="blank"),
        pytest.param(b"<html>", id="HTML"),
        pytest.param(b'{"a": 1', id="cut"),
        pytest.param(b"{'a': 1}", id="quotes"),
        pytest.param(b'{"a": 1} {"b": 2}', id="two values"),
        pytest.param(b"\xff\xfe", id="not UTF-8"),
        pytest.param(b'"\xc3"', id="cut inside a character"),
        pytest.param(b"[" * 100_000, id="deep and open"),
        pytest.param(b"[" * 100_000 + b"]" * 100_000, id="deep"),
        pytest.param(b'{"a":' * 100_000 + b"1" + b"}" * 100_000, id="deep objects"),
        pytest.param(b"9" * 5000, id="5,000 digits"),
        pytest.param(b'{"file_size": ' + b"9" * 5000 + b"}", id="5,000 digits inside"),
        pytest.param(b"1e999", id="beyond every float"),
        pytest.param(b'{"a": [-1e999]}', id="beyond every float inside"),
        pytest.param(b"NaN", id="NaN"),
        pytest.param(b"[Infinity]", id="infinity"),
    ],
)
def test_what_is_not_usable_json_is_a_problem(body: bytes) -> None:
    with pytest.raises(DecodeProblem, match=r"^not JSON"):
        parse(body)


@given(st.binary(max_size=60))
def test_a_body_is_read_as_json_or_is_a_problem(body: bytes) -> None:
    expected = None
    with contextlib.suppress(ValueError):
        expected = json.dumps(json.loads(body), allow_nan=False)
    found = None
    with contextlib.suppress(DecodeProblem):
        found = json.dumps(parse(body))
    assert found == expected


def test_a_decode_problem_does_not_repeat_the_body() -> None:
    with pytest.raises(DecodeProblem) as problem:
        parse(b'{"key": "nk_live_0123456789')
    assert "nk_live" not in str(problem.value)


def test_members_at_their_default_are_left_out() -> None:
    assert dump(_Model()) == {}


def test_other_members_are_dumped_at_every_depth() -> None:
    model = _Model(
        text="x", tags=("a",), inner=_Inner(number=1, text="y"), extra={"a": [1], "b": None}
    )
    assert json.loads(encode(dump(model))) == {
        "text": "x",
        "tags": ["a"],
        "inner": {"number": 1, "text": "y"},
        "extra": {"a": [1], "b": None},
    }


def test_a_time_is_dumped_with_its_zone() -> None:
    at = datetime(2026, 4, 11, 6, 10, tzinfo=timezone(timedelta(hours=2)))
    assert dump(_Model(at=at)) == {"at": "2026-04-11T06:10:00+02:00"}


WHOLE = st.integers(1 - 2**63, 2**63 - 1)
models = st.builds(
    _Model,
    text=st.text(),
    whole=WHOLE,
    flag=st.booleans(),
    share=st.floats(allow_nan=False, allow_infinity=False),
    maybe=st.none() | st.text(),
    at=st.none() | st.datetimes(timezones=st.just(UTC)),
    tags=st.lists(st.text()).map(tuple),
    inner=st.none() | st.builds(_Inner, number=WHOLE, text=st.text()),
    items=st.lists(st.builds(_Inner, number=WHOLE, text=st.text()), max_size=3).map(tuple),
)


@given(models)
def test_a_model_survives_the_way_there_and_back(model: _Model) -> None:
    assert structure(parse(encode(dump(model))), _Model) == model


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(float("nan"), id="NaN"),
        pytest.param(float("inf"), id="infinity"),
        pytest.param(-float("inf"), id="minus infinity"),
        pytest.param("\ud800", id="lone surrogate"),
        pytest.param("a\udcff", id="undecodable byte"),
        pytest.param({"\udcff": 1}, id="lone surrogate in a name"),
        pytest.param(b"bytes", id="bytes"),
        pytest.param(Path("a"), id="path"),
        pytest.param({1, 2}, id="set"),
        pytest.param({(1, 2): 3}, id="tuple as a name"),
    ],
)
def test_what_json_cannot_carry_is_refused(value: object) -> None:
    with pytest.raises(InputError) as refused:
        encode({"a": [{"b": value}]})
    assert refused.value.field == "body"


def deep(levels: int) -> dict[str, object]:
    data: dict[str, object] = {}
    for _ in range(levels):
        data = {"a": data}
    return data


def test_what_is_nested_beyond_python_s_limit_is_refused() -> None:
    plan = StartRun(deployment_config_id="d", test_plan_id="p", template_data=deep(100_000))
    for way in (lambda: encode(deep(100_000)), lambda: encode(dump(plan))):
        with pytest.raises(InputError, match="nested too deep") as refused:
            way()
        assert refused.value.field == "body"
    assert json.loads(encode(deep(100))) == deep(100)


@pytest.mark.parametrize("text", ["0.1", "-0.0", "1E5", "1e308", "5e-324", "1e-999"])
def test_a_number_that_a_float_can_hold_is_that_float(text: str) -> None:
    found = parse(text.encode())
    assert (type(found), repr(found)) == (float, repr(float(text)))


def test_a_path_is_put_below_another_unless_it_is_from_elsewhere() -> None:
    problem = DecodeProblem("x @ $.y @ $.a", "b @ $.b[0]", "c @ $").below(
        ".data", {"b[0]": "data.old"}
    )
    assert problem.problems == ("x @ $.y @ $.data.a", "b @ $.data.old", "c @ $.data")


def test_text_goes_out_as_utf_8() -> None:
    assert encode({"name": "Grüße 世界"}) == '{"name": "Grüße 世界"}'.encode()
