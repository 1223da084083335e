"""Fast readers of models: one function for each, generated from its fields.

A page of runs is thousands of members. The converter's general hooks take over three times as
long on it as `json.loads` does; these straight-line functions about as long again
(`python -m benchmarks.decode`). They accept only what is exactly right. Whatever is not goes to the
converter, which is slower and says what is wrong and where.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from types import NoneType, UnionType
from typing import Final, TypeVar, Union, cast, get_args, get_origin

import attrs

from nunu_async.models.base import NOTHING, Model
from nunu_async.models.vocab import Word

__all__ = ["OWN", "Unexpected", "reader"]

M = TypeVar("M", bound=Model)

OWN: Final = frozenset(attrs.fields_dict(Model))
_PRIMITIVES: Final[dict[type, str]] = {
    str: "type({v}) is not str",
    int: "type({v}) is not int",
    bool: "type({v}) is not bool",
    # An integer beyond every float is left to the converter, which refuses it.
    float: "type({v}) is not float and (type({v}) is not int or abs({v}) > 10**300)",
}


class Unexpected(Exception):
    """The data is not exactly what the fields say."""


_READERS: Final[dict[type[Model], Callable[..., Model]]] = {}


def reader(model: type[M]) -> Callable[[object], M]:
    """Return the function that makes a `model` of an exactly fitting JSON object.

    It raises Unexpected, KeyError, TypeError, ValueError or AttributeError for anything else.
    """
    if model not in _READERS:
        _READERS[model] = _generate(model)
    return cast("Callable[[object], M]", _READERS[model])


def _generate(model: type[Model]) -> Callable[..., Model]:
    attrs.resolve_types(model)
    fields = [field for field in attrs.fields(model) if field.name not in OWN]
    names: dict[str, object] = {
        "make": model,
        "Unexpected": Unexpected,
        "known": frozenset(field.name for field in fields),
        "nothing": NOTHING,
    }
    optional = [field.name for field in fields if field.default is not attrs.NOTHING]
    lines = ["def read(o):", "    if type(o) is not dict: raise Unexpected"]
    for number, field in enumerate(fields):
        lines += _field(field, f"v{number}", names)
    given = ", ".join(f"{field.name}=v{number}" for number, field in enumerate(fields))
    # Most answers have all members or the same ones missing: no set is built for those.
    names["optional"] = frozenset(optional)
    names["gaps"] = {}
    lines += [
        "    count = len(o)",
        f"    if count == {len(fields)} and known.issuperset(o): return make({given})",
        "    extra = nothing",
        "    if not known.issuperset(o): extra = {k: o[k] for k in o if k not in known}",
        "    absent = optional.difference(o)",
        "    absent = gaps.get(absent) or gaps.setdefault(absent, tuple(absent))",
        f"    return make({given}, extra=extra, absent=absent)",
    ]
    exec("\n".join(lines), names)  # noqa: S102 - names of our own fields, as attrs itself does
    return cast("Callable[..., Model]", names["read"])


def _field(field: attrs.Attribute[object], v: str, names: dict[str, object]) -> Iterator[str]:
    kind, nullable = _without_none(field.type)
    key = repr(field.name)
    if field.default is attrs.NOTHING:
        yield f"    {v} = o[{key}]"
    else:
        names[f"{v}_default"] = field.default
        yield f"    {v} = o.get({key}, {v}_default)"
    check = list(_check(kind, v, names))
    if not check:
        return
    if nullable:
        yield f"    if {v} is not None:"
    elif field.default is not attrs.NOTHING:
        yield f"    if {v} is not {v}_default:"
    else:
        yield "    if True:"
    yield from (f"        {line}" for line in check)


def _check(kind: object, v: str, names: dict[str, object]) -> Iterator[str]:
    if kind in _PRIMITIVES:
        test = _PRIMITIVES[kind].format(v=v)
        yield f"if {test}: raise Unexpected"
        if kind is str:
            # Cheap for ASCII; a lone surrogate could be neither printed nor sent.
            yield f"if not {v}.isascii(): {v}.encode()"
    elif kind is datetime:
        names["at"] = _at
        yield f"{v} = at({v})"
    elif isinstance(kind, type) and issubclass(kind, Word):
        names[f"{v}_words"] = _Words(kind)
        yield f"{v} = {v}_words[{v}]"
    elif isinstance(kind, type) and issubclass(kind, Model):
        names[f"{v}_read"] = reader(kind)
        yield f"{v} = {v}_read({v})"
    elif get_origin(kind) is tuple:
        (item, _) = get_args(kind)
        names[f"{v}_item"] = _item(item)
        yield f"if type({v}) is not list: raise Unexpected"
        yield f"{v} = tuple([{v}_item(i) for i in {v}])"
    elif get_origin(kind) is Mapping:
        yield f"if type({v}) is not dict: raise Unexpected"
    elif kind is not object:
        raise TypeError(f"no reader for {kind!r}")


def _item(kind: object) -> Callable[..., object]:
    if isinstance(kind, type) and issubclass(kind, Model):
        return reader(kind)
    if kind is str:
        return _text
    raise TypeError(f"no reader for rows of {kind!r}")


def _text(value: object) -> str:
    if type(value) is not str:
        raise Unexpected
    if not value.isascii():
        value.encode()
    return value


def _at(value: object) -> datetime:
    if type(value) is not str:
        raise Unexpected
    moment = datetime.fromisoformat(value)
    if moment.tzinfo is None:
        raise Unexpected
    return moment


class _Words(dict[str, Word]):
    """The words met so far, each made once; bounded, for a server that never repeats one."""

    def __init__(self, kind: type[Word]) -> None:
        super().__init__()
        self._kind = kind

    def __missing__(self, word: str) -> Word:
        if type(word) is not str:
            raise Unexpected
        word.encode()
        made = self._kind(word)
        if len(self) < 200:  # noqa: PLR2004 - far more than any vocabulary has
            self[word] = made
        return made


def _without_none(kind: object) -> tuple[object, bool]:
    if get_origin(kind) in (Union, UnionType):
        kinds = [k for k in get_args(kind) if k is not NoneType]
        if len(kinds) != 1:
            raise TypeError(f"no reader for {kind!r}")
        return kinds[0], True
    return kind, False
