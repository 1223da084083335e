"""Base class of response models, with unknown members and conversion to JSON."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, NoReturn, TypeGuard, cast

import attrs

from nunu_async.response import ResponseInfo

__all__ = ["NOTHING", "Extra", "Model", "is_set", "members_of"]


class Extra(dict[str, object]):
    """Response members without a field, as a read-only dictionary.

    A `dict` subclass, so that `json.dumps` and ``|`` accept it. Read-only, because all models
    without such members share one instance.
    """

    __slots__ = ()

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("what came in an answer cannot be changed; copy it with dict()")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[type[Extra], tuple[dict[str, object]]]:
        # The default would assign the items to an empty instance, which is read-only.
        return Extra, (dict(self),)


NOTHING: Final = Extra()


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Model:
    """A response, or a part of one.

    Hashable; the hash ignores fields that are dictionaries.
    """

    # Subclasses use `eq=False` and `repr=False`: generating these methods for each subclass takes
    # half of the import time of the models.

    extra: Mapping[str, object] = attrs.field(default=NOTHING, repr=False, hash=False)
    """Members unknown to this library version, unchanged; read-only."""
    response: ResponseInfo | None = attrs.field(default=None, eq=False, repr=False)
    """The response this model was decoded from, also on rows of a page; None on nested models."""
    absent: tuple[str, ...] = attrs.field(default=(), eq=False, repr=False)
    """Optional members missing from the response; `to_dict` omits them too."""
    null: tuple[str, ...] = attrs.field(default=(), eq=False, repr=False)
    """Members that were null in the response, whose fields have their default value instead."""

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        compared, _ = _fields_of(cast("type", type(self)))
        return all(getattr(self, name) == getattr(other, name) for name in compared)

    def __hash__(self) -> int:
        _, hashed = _fields_of(cast("type", type(self)))
        return hash((type(self), *[getattr(self, name) for name in hashed]))

    def __repr__(self) -> str:
        names = [field.name for field in attrs.fields(type(self)) if field.repr]
        members = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"{type(self).__qualname__.rpartition('>.')[2]}({members})"

    def to_dict(self) -> dict[str, object]:
        """Return the JSON data as received, including unknown members; times are ISO 8601."""
        return cast("dict[str, object]", _plain(self))


@functools.cache
def _fields_of(model: type[Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the compared fields and of the hashed fields."""
    fields = attrs.fields(model)
    hashed = tuple(f.name for f in fields if (f.eq if f.hash is None else f.hash))
    return tuple(f.name for f in fields if f.eq), hashed


def is_set(moment: datetime | None) -> TypeGuard[datetime]:
    """Return whether a time is set; some servers send year 1 instead of null."""
    return moment is not None and moment.year > 1


_OWN: Final = frozenset(attrs.fields_dict(Model))


def members_of(model: type[Model]) -> tuple[attrs.Attribute[object], ...]:
    """Return the fields that hold response members, in order."""
    return tuple(field for field in attrs.fields(model) if field.name not in _OWN)


def _values(model: Model) -> dict[str, object]:
    out: dict[str, object] = {}
    for field in members_of(type(model)):
        value: object = getattr(model, field.name)
        if field.name in model.absent and value == field.default:
            continue
        is_null = field.name in model.null and value == field.default
        out[field.name] = None if is_null else value
    out.update(model.extra)
    return out


def _plain(value: object) -> object:
    """Convert to JSON types; iterative, as unknown members may be nested to any depth."""
    root: list[object] = [None]
    todo: list[tuple[Any, Any, object]] = [(root, 0, value)]
    while todo:
        target, key, value = todo.pop()
        if isinstance(value, Model):
            value = _values(value)
        if isinstance(value, Mapping):
            target[key] = members = dict.fromkeys(value)  # in the order received
            todo += [(members, name, member) for name, member in value.items()]
        elif isinstance(value, tuple | list):
            target[key] = items = [None] * len(value)
            todo += [(items, number, item) for number, item in enumerate(value)]
        elif isinstance(value, datetime):
            target[key] = value.isoformat(timespec="microseconds")
        else:
            target[key] = str.__str__(value) if isinstance(value, str) else value
    return root[0]
