"""Random JSON for any model, right and wrong, made from the model's own fields."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

import attrs
from hypothesis import Phase, settings
from hypothesis import strategies as st

import nunu_async
from nunu_async import Model
from nunu_async.models.page import Page
from nunu_async.models.vocab import OpenEnum

OWN = frozenset(attrs.fields_dict(Model))

TEXT = st.text(max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.floats(-1e6, 1e6) | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=4,
)
OBJECT = st.dictionaries(TEXT, JSON, max_size=2)
MICRO = st.integers(0, 999_999)
MOMENT = st.integers(10**9, 4 * 10**9).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))
MOMENT = st.builds(lambda moment, micro: moment.replace(microsecond=micro), MOMENT, MICRO)
TIME = st.one_of(
    MOMENT.map(lambda moment: moment.isoformat(timespec="microseconds")),
    MOMENT.map(lambda moment: moment.strftime("%Y-%m-%dT%H:%M:%SZ")),
    MOMENT.map(lambda moment: moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")),
)
# What may stand where something else belongs; much of it is nearly right.
ODD = st.sampled_from(
    [
        *(None, True, False, 0, 1, -1, 1.0, 1.5, 1e308, float("inf"), float("nan"), 10**400),
        *("", "text", "2026-04-11", "2026-04-11T06:12:03", "2026-04-11T06:12:03Z", "\ud800"),
        *("COMPLETED", [], [None], [1], ["a"], [{}], {}, {"a": None}, {"device": {"name": 1}}),
        *({"\ud800": 1}, {"a": "\ud800"}, "2026-04-11T06:12:03+99:99", "9999-99-99T00:00:00Z"),
    ]
)


def models() -> list[type[Model]]:
    """Return every model class of the library, whatever was imported before."""
    for module in pkgutil.walk_packages(nunu_async.__path__, "nunu_async."):
        if not module.name.endswith(".__main__"):
            importlib.import_module(module.name)
    found: list[type[Model]] = []
    left = [Model]
    while left:
        for kind in left.pop().__subclasses__():
            # attrs makes a slotted class of one without slots, which may still be about.
            home = vars(sys.modules[kind.__module__])
            ours = kind.__module__.startswith("nunu_async.") and home.get(kind.__name__) is kind
            if ours and kind not in found:
                found.append(kind)
                left.append(kind)
    return sorted(found, key=lambda kind: kind.__name__)


# A page is generic in its rows, and read by a function of its own.
MODELS = [kind for kind in models() if kind is not Page]


SIMPLE: dict[object, st.SearchStrategy[Any]] = {
    object: JSON,
    str: TEXT,
    bool: st.booleans(),
    int: st.integers(-(10**9), 10**9),
    float: st.integers(0, 10**9) | st.floats(0, 1e9),
    datetime: TIME,
    NoneType: st.none(),
}


def _of(kind: Any) -> st.SearchStrategy[Any]:
    if kind in SIMPLE:
        return SIMPLE[kind]
    if get_origin(kind) in {Union, UnionType}:
        return st.one_of(*map(_of, get_args(kind)))
    if get_origin(kind) is tuple:
        return st.lists(_of(get_args(kind)[0]), max_size=2)
    if get_origin(kind) is Mapping:
        return OBJECT
    if issubclass(kind, OpenEnum):
        return st.sampled_from([*sorted(kind.known), *map(str.upper, sorted(kind.known)), "odd"])
    return valid(kind)


def valid(model: type[Model]) -> st.SearchStrategy[dict[str, Any]]:
    """JSON that fits a model, with unknown members and optional ones left out."""
    attrs.resolve_types(model)
    required: dict[str, st.SearchStrategy[Any]] = {}
    optional: dict[str, st.SearchStrategy[Any]] = {}
    for field in attrs.fields(model):
        if field.name not in OWN:
            group = required if field.default is attrs.NOTHING else optional
            group[field.name] = st.deferred(lambda kind=field.type: _of(kind))
    known = st.fixed_dictionaries(required, optional=optional)
    unknown = st.dictionaries(
        st.sampled_from(["brand_new", "extra", "response", "absent", "null", "self", "ü"]),
        JSON,
        max_size=1,
    )
    return st.builds(lambda one, other: other | one, known, unknown)


@st.composite
def mutated(draw: st.DrawFn, model: type[Model]) -> Any:
    """JSON that fits a model, but for one or two places."""
    data = draw(valid(model))
    for _ in range(draw(st.integers(1, 2))):
        place = data
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            inner = place[key]
            if isinstance(inner, (dict, list)) and inner and draw(st.booleans()):
                place = inner
                continue
            if isinstance(place, dict) and draw(st.booleans()):
                del place[key]
            else:
                place[key] = draw(ODD)
            break
    return data


# One profile for a test that runs for every model: few examples each, many in sum. What is found is
# small as it stands, and making it smaller takes longer than all the rest.
QUICK = settings(max_examples=8, phases=[Phase.explicit, Phase.generate], deadline=None)
