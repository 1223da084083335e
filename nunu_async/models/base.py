"""What every model of an answer has: unknown members, the answer it came in, a way back to JSON."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, NoReturn, TypeGuard, cast

import attrs

from nunu_async.response import ResponseInfo

__all__ = ["NOTHING", "Extra", "Model", "is_set"]


class Extra(dict[str, object]):
    """Members that no field is made for: a dictionary that cannot be written to.

    A real dictionary, so that `json.dumps` and ``|`` take it, and it is the same with no members,
    where all models share one object.
    """

    __slots__ = ()

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("what came in an answer cannot be changed; copy it with dict()")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[type[Extra], tuple[dict[str, object]]]:
        # The default makes an empty one, and writes into it.
        return Extra, (dict(self),)


NOTHING: Final = Extra()


@attrs.frozen(kw_only=True)
class Model:
    """A part of an answer.

    Can be hashed, so that it goes into sets: what is a dictionary does not count for that.
    """

    extra: Mapping[str, object] = attrs.field(default=NOTHING, repr=False, hash=False)
    """Members that this version does not know, as they came; read-only."""
    response: ResponseInfo | None = attrs.field(default=None, eq=False, repr=False)
    """The answer this was read from; rows of a page have it too, None is on what lies deeper."""
    absent: tuple[str, ...] = attrs.field(default=(), eq=False, repr=False)
    """Optional members that the answer left out, to tell them from null on the way back."""
    null: tuple[str, ...] = attrs.field(default=(), eq=False, repr=False)
    """Members that were null where the field has another default, which stands in for it."""

    def to_dict(self) -> dict[str, object]:
        """Return JSON data: what came, unknown members included; times as ISO 8601."""
        return cast("dict[str, object]", _plain(self))


def is_set(moment: datetime | None) -> TypeGuard[datetime]:
    """Tell whether a time is set: some servers write year 1 where there is none."""
    return moment is not None and moment.year > 1


_OWN: Final = frozenset(attrs.fields_dict(Model))


def _members(model: Model) -> dict[str, object]:
    out: dict[str, object] = {}
    for field in attrs.fields(type(model)):
        value: object = getattr(model, field.name)
        if field.name in _OWN or (field.name in model.absent and value == field.default):
            continue
        is_null = field.name in model.null and value == field.default
        out[field.name] = None if is_null else value
    out.update(model.extra)
    return out


def _plain(value: object) -> object:
    """Copy into what JSON has; step by step, as unknown members nest as deep as they like."""
    made: list[object] = [None]
    todo: list[tuple[Any, Any, object]] = [(made, 0, value)]
    while todo:
        into, place, value = todo.pop()
        if isinstance(value, Model):
            value = _members(value)
        if isinstance(value, Mapping):
            into[place] = members = dict.fromkeys(value)  # in the order they came
            todo += [(members, name, member) for name, member in value.items()]
        elif isinstance(value, tuple | list):
            into[place] = items = [None] * len(value)
            todo += [(items, number, item) for number, item in enumerate(value)]
        elif isinstance(value, datetime):
            into[place] = value.isoformat(timespec="microseconds")
        else:
            into[place] = str.__str__(value) if isinstance(value, str) else value
    return made[0]
