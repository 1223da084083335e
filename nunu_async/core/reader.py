"""Fast readers of models: one function per model, generated from its fields.

A page of runs has thousands of members. Converting it takes the general hooks of the converter over
three times as long as `json.loads`, and these straight-line functions about as long as `json.loads`
(`python -m benchmarks.decode`). They accept only exact matches. All other data goes to the
converter, which is slower and reports each problem with its path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from types import NoneType, UnionType
from typing import Final, TypeVar, Union, cast, get_args, get_origin

import attrs

from nunu_async.models.base import NOTHING, Extra, Model, members_of
from nunu_async.models.vocab import OpenEnum

M = TypeVar("M", bound=Model)

LARGEST: Final = 2**63 - 1
_PRIMITIVES: Final[dict[type, str]] = {
    # No count needs more than 64 bits, and integers of hundreds of digits break divisions.
    int: f"type({{v}}) is not int or not {-LARGEST} <= {{v}} <= {LARGEST}",
    bool: "type({v}) is not bool",
    # An integer too large for a float is left to the converter, which rejects it.
    float: "type({v}) is not float and (type({v}) is not int or abs({v}) > 10**300)",
}


MISMATCHES: Final = (KeyError, TypeError, ValueError, AttributeError)
"""The exceptions of a reader for data that does not match the fields exactly."""


_READERS: Final[dict[type[Model], Callable[..., Model]]] = {}


def has_reader(model: type[Model]) -> bool:
    """Tell whether the reader of a model has been generated."""
    return model in _READERS


def reader(model: type[M]) -> Callable[[object], M]:
    """Return the function that builds a `model` from an exactly matching JSON object.

    The first call for a model generates the function, which takes milliseconds; thread-safe. The
    function raises one of MISMATCHES for all other data.
    """
    if model not in _READERS:
        _READERS[model] = _generate(model)
    return cast("Callable[[object], M]", _READERS[model])


def _generate(model: type[Model]) -> Callable[..., Model]:
    attrs.resolve_types(model)
    fields = members_of(model)
    if any(field.validator or field.converter for field in attrs.fields(model)):
        raise TypeError(f"no reader for {model.__name__}: its fields validate or convert")
    names: dict[str, object] = {
        "new": object.__new__,
        "model": model,
        "twin": _twin(model),
        "known": frozenset(field.name for field in fields),
        "optional": frozenset(f.name for f in fields if f.default is not attrs.NOTHING),
        "nothing": NOTHING,
        "Extra": Extra,
        "gaps": {},
    }
    make = [
        "    made = new(twin)",
        *(f"    made.{field.name} = v{number}" for number, field in enumerate(fields)),
        "    made.extra = extra; made.response = None; made.absent = absent; made.null = null",
        "    made.__class__ = model",
        "    return made",
    ]
    # Most responses have exactly the known members, and no set is built for them. The others often
    # lack the same members, and share one tuple of the missing names.
    lines = [
        "def read(o):",
        "    if type(o) is not dict: raise TypeError",
        f"    if len(o) != {len(fields)}: return part(o)",
        "    try:",
        *(f"        v{number} = o[{field.name!r}]" for number, field in enumerate(fields)),
        "    except KeyError: return part(o)",
        *(f"    if v{n} is None: return part(o)" for n, f in enumerate(fields) if replaces_null(f)),
        *(line for n, field in enumerate(fields) for line in _checked(field, f"v{n}", names)),
        "    extra = nothing; absent = null = ()",
        *make,
        "def part(o):",
        "    null = ()",
    ]
    for number, field in enumerate(fields):
        v, key = f"v{number}", repr(field.name)
        if field.default is attrs.NOTHING:
            lines.append(f"    {v} = o[{key}]")
            lines += _checked(field, v, names)
        else:
            names[f"{v}_default"] = field.default
            lines.append(f"    {v} = o.get({key}, {v}_default)")
            if replaces_null(field):
                lines.append(f"    if {v} is None: {v} = {v}_default; null += ({key},)")
            lines += _checked(field, v, names, unless=f"{v} is not {v}_default")
    lines += [
        "    extra = nothing",
        "    if not known.issuperset(o): extra = Extra({k: o[k] for k in o if k not in known})",
        "    absent = optional.difference(o)",
        "    absent = gaps.get(absent) or gaps.setdefault(absent, tuple(absent))",
        *make,
    ]
    exec("\n".join(lines), names)  # noqa: S102 - names of our own fields, as attrs itself does
    return cast("Callable[..., Model]", names["read"])


def replaces_null(member: attrs.Attribute[object]) -> bool:
    """Tell whether null is read as the member's default, as if it were missing."""
    return member.default not in (None, attrs.NOTHING) and not _without_none(member.type)[1]


def _twin(model: type[Model]) -> type[Model]:
    """Create a class with the model's layout whose instances allow plain assignment.

    A frozen class needs a call of `object.__setattr__` for each field, over half of the cost of
    reading a row. Assigning `__class__` turns a filled instance into the model.
    """
    members = {
        "__slots__": model.__dict__["__slots__"],
        "__setattr__": object.__setattr__,
        "__delattr__": object.__delattr__,
    }
    return cast("type[Model]", type(model.__name__, model.__bases__, members))


def _checked(
    field: attrs.Attribute[object], v: str, names: dict[str, object], unless: str = ""
) -> Iterator[str]:
    kind, nullable = _without_none(field.type)
    check = list(_check(kind, v, names))
    guard = f"{v} is not None" if nullable else unless
    if check and guard:
        yield f"    if {guard}:"
        yield from (f"        {line}" for line in check)
    else:
        yield from (f"    {line}" for line in check)


def _check(kind: object, v: str, names: dict[str, object]) -> Iterator[str]:
    if kind is str:
        # Only strings have `isascii`, so it checks the type too. `encode` rejects a lone surrogate,
        # which could be neither printed nor sent.
        yield f"if not {v}.isascii(): {v}.encode()"
    elif kind in _PRIMITIVES:
        yield f"if {_PRIMITIVES[kind].format(v=v)}: raise TypeError"
    elif kind is datetime:
        names["moment"] = datetime.fromisoformat
        yield f"{v} = moment({v})"
        yield f"if {v}.tzinfo is None: raise TypeError"
    elif isinstance(kind, type) and issubclass(kind, OpenEnum):
        names[f"{v}_words"] = _Words(kind)
        yield f"{v} = {v}_words[{v}]"
    elif isinstance(kind, type) and issubclass(kind, Model):
        names[f"{v}_read"] = reader(kind)
        yield f"{v} = {v}_read({v})"
    elif get_origin(kind) is tuple:
        (item, _) = get_args(kind)
        names[f"{v}_item"] = _item(item)
        yield f"if type({v}) is not list: raise TypeError"
        yield f"{v} = tuple([{v}_item(i) for i in {v}])"
    elif get_origin(kind) is Mapping:
        yield f"if type({v}) is not dict: raise TypeError"
        yield f"if not ''.join({v}).isascii(): ''.join({v}).encode()"
    elif kind is not object:
        raise TypeError(f"no reader for {kind!r}")


def _item(kind: object) -> Callable[..., object]:
    if isinstance(kind, type) and issubclass(kind, Model):
        return reader(kind)
    if kind is str:
        return _text
    raise TypeError(f"no reader for rows of {kind!r}")


def _text(value: str) -> str:
    if not value.isascii():
        value.encode()
    return value


class _Words(dict[str, OpenEnum]):
    """A cache of the enum values seen; bounded, in case the server never repeats a value."""

    def __init__(self, kind: type[OpenEnum]) -> None:
        super().__init__()
        self._kind = kind

    def __missing__(self, word: str) -> OpenEnum:
        if type(word) is not str:
            raise TypeError
        word.encode()
        made = self._kind(word)
        if len(self) < 200:  # noqa: PLR2004 - far more values than any enum has
            self[word] = made
        return made


def _without_none(kind: object) -> tuple[object, bool]:
    if get_origin(kind) in (Union, UnionType):
        kinds = [k for k in get_args(kind) if k is not NoneType]
        if len(kinds) != 1:
            raise TypeError(f"no reader for {kind!r}")
        return kinds[0], True
    return kind, False
