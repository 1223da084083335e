"""The base of response models: unknown members, the response itself, conversion to JSON."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, NoReturn, TypeGuard, cast

import attrs

from nunu_async.response import ResponseInfo

__all__ = ["NOTHING", "Extra", "Model", "is_set", "members_of"]


class Extra(dict[str, object]):
    """Members that have no field: a read-only dictionary.

    A real dictionary, so that `json.dumps` and ``|`` accept it. Read-only, because all models
    without such members share one object.
    """

    __slots__ = ()

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("what came in an answer cannot be changed; copy it with dict()")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[type[Extra], tuple[dict[str, object]]]:
        # The default creates an empty one and assigns the items.
        return Extra, (dict(self),)


NOTHING: Final = Extra()


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Model:
    """A response, or a part of one.

    Hashable; the hash ignores fields that are dictionaries.
    """

    # Subclasses are made with `eq=False` and `repr=False`: generating these methods for each of
    # them takes half of the time of loading the models.

    extra: Mapping[str, object] = attrs.field(default=NOTHING, repr=False, hash=False)
    """Members that this version does not know, unchanged; read-only."""
    response: ResponseInfo | None = attrs.field(default=None, eq=False, repr=False)
    """The response this was read from, on rows of a page too; None on nested models."""
    absent: tuple[str, ...] = attrs.field(default=(), eq=False, repr=False)
    """Optional members missing from the response; `to_dict` leaves them out instead of null."""
    null: tuple[str, ...] = attrs.field(default=(), eq=False, repr=False)
    """Members that were null, where the field holds its own default instead."""

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
        """Return JSON data as received, unknown members included; times as ISO 8601."""
        return cast("dict[str, object]", _plain(self))


@functools.cache
def _fields_of(model: type[Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the fields that are compared, and of those that are hashed."""
    fields = attrs.fields(model)
    hashed = tuple(f.name for f in fields if (f.eq if f.hash is None else f.hash))
    return tuple(f.name for f in fields if f.eq), hashed


def is_set(moment: datetime | None) -> TypeGuard[datetime]:
    """Tell whether a time is set: some servers send year 1 for none."""
    return moment is not None and moment.year > 1


_OWN: Final = frozenset(attrs.fields_dict(Model))


def members_of(model: type[Model]) -> tuple[attrs.Attribute[object], ...]:
    """Return the fields that hold a member of the response, in order."""
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
    """Copy into JSON types; iterative, as unknown members may be nested to any depth."""
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
