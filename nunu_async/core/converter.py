"""The cattrs converter: accepts near matches, or reports each problem with its JSON path.

The codec imports this module on demand, because cattrs is large and most responses match exactly.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar, cast, get_origin

import attrs
from cattrs import Converter, transform_error
from cattrs.cols import is_mapping, list_structure_factory, mapping_structure_factory
from cattrs.errors import BaseValidationError
from cattrs.gen import make_dict_structure_fn, override

from nunu_async.core.codec import DecodeProblem
from nunu_async.core.reader import LARGEST, replaces_null
from nunu_async.models.base import NOTHING, Extra, Model, members_of
from nunu_async.models.vocab import OpenEnum

T = TypeVar("T")


_Hook = Callable[..., object]
_LEAP_SECOND: Final = re.compile("([T ][0-9]{2}:[0-9]{2}):60")


# cattrs' own hooks turn None into 'None', 1.5 into 1 and "rc" into ('r', 'c'); here a wrong type
# is an error.
def _text(value: object, _: object) -> str:
    if type(value) is not str:
        raise TypeError(f"expected a string, got {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("holds a lone surrogate") from None
    return value


def _integer(value: object, _: object) -> int:
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int:
        raise TypeError(f"expected an integer, got {type(value).__name__}")
    if abs(value) > LARGEST:
        raise ValueError("expected an integer of at most 64 bits")
    return value


def _number(value: object, _: object) -> float:
    if type(value) in (int, float):
        float(cast("float", value))  # raises for an integer too large for a float
        return cast("float", value)  # 3 stays an int, so that `to_dict` returns what was received
    raise TypeError(f"expected a number, got {type(value).__name__}")


def _time(value: str, _: object) -> datetime:
    # RFC 3339: "t" and "z" may be lower case, and a leap second is second 60.
    text = _LEAP_SECOND.sub(r"\g<1>:59", value.upper())
    parsed = datetime.fromisoformat(text)
    if text != value.upper():
        parsed += timedelta(seconds=1)
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def _require(kind: type, expected: str, inner: _Hook) -> _Hook:
    def hook(value: object, model: object) -> object:
        if not isinstance(value, kind):
            raise TypeError(f"expected {expected}, got {type(value).__name__}")
        return inner(value, model)

    return hook


def _word(value: object, kind: type[OpenEnum]) -> OpenEnum:
    return kind(_text(value, str))


def _unchanged(value: object, _: object) -> object:
    return value


def _is_row(kind: object) -> bool:
    return get_origin(kind) is tuple


def _build_converter() -> Converter:
    converter = Converter(prefer_attrib_converters=False)

    def model(kind: type[attrs.AttrsInstance]) -> _Hook:
        if not issubclass(kind, Model):
            return _require(Mapping, "an object", make_dict_structure_fn(kind, converter))
        omit = override(omit=True)
        inner = make_dict_structure_fn(
            kind, converter, extra=omit, response=omit, absent=omit, null=omit
        )
        attrs.resolve_types(kind)
        members = {member.name: replaces_null(member) for member in members_of(kind)}

        def hook(value: Mapping[str, object], model: object) -> object:
            null = [
                name
                for name, is_default in members.items()
                if is_default and name in value and value[name] is None
            ]
            extra = Extra({name: value[name] for name in value if name not in members})
            return attrs.evolve(
                inner({name: value[name] for name in value if name not in null}, model),
                null=tuple(null),
                extra=extra or NOTHING,
                absent=tuple(members.keys() - value.keys()),
            )

        return _require(Mapping, "an object", hook)

    def mapping(kind: type[Mapping[object, object]]) -> _Hook:
        return _require(Mapping, "an object", mapping_structure_factory(kind, converter))

    def row(kind: type[tuple[object, ...]]) -> _Hook:
        structured = list_structure_factory(kind, converter)
        return _require(list, "a list", lambda value, kind: tuple(structured(value, kind)))

    # Registered with a predicate: a hook for `object` itself would match every class.
    converter.register_structure_hook_func(lambda kind: kind is object, _unchanged)
    converter.register_structure_hook_factory(attrs.has, model)
    converter.register_structure_hook_factory(is_mapping, mapping)
    converter.register_structure_hook_factory(_is_row, row)
    converter.register_structure_hook(str, _text)
    for word in OpenEnum.__subclasses__():  # otherwise, the hook of `str` would match
        converter.register_structure_hook(word, _word)
    converter.register_structure_hook(bool, _require(bool, "true or false", _unchanged))
    converter.register_structure_hook(int, _integer)
    converter.register_structure_hook(float, _number)
    converter.register_structure_hook(datetime, _require(str, "a time", _time))
    return converter


CONVERTER: Final = _build_converter()


def convert(data: object, model: type[T]) -> T:
    """Build a model from decoded JSON.

    Raises: DecodeProblem, with every problem and its JSON path.
    """
    try:
        return CONVERTER.structure(data, model)
    except BaseValidationError as error:
        raise DecodeProblem(*transform_error(error, path="$", format_exception=_explain)) from None
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise DecodeProblem(f"{_explain(error, None)} @ $") from None


def _explain(error: BaseException, _: type | None) -> str:
    if isinstance(error, KeyError):
        return "is missing"
    return str(error) or type(error).__name__
