"""JSON to models and back: the one cattrs converter."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TypeVar, cast, get_origin

import attrs
from cattrs import Converter, transform_error
from cattrs.cols import is_mapping, list_structure_factory, mapping_structure_factory
from cattrs.errors import BaseValidationError
from cattrs.gen import make_dict_structure_fn, override

from nunu_async.core.reader import LARGEST, OWN, Unexpected, reader
from nunu_async.errors import InputError
from nunu_async.models.base import NOTHING, Extra, Model
from nunu_async.models.page import Page, Pagination
from nunu_async.models.vocab import Word

__all__ = [
    "Misfit",
    "dump",
    "encode",
    "parse",
    "split",
    "structure",
    "structure_page",
    "structure_rows",
]

T = TypeVar("T")
M = TypeVar("M", bound=Model)

# A page of rows that are all wrong in the same way is told once, not a hundred times.
_MOST_PROBLEMS = 20


class Misfit(Exception):
    """Decoded JSON does not fit the model.

    Attributes:
        problems: one line for each wrong place, with its JSON path.
        leftover: what could be read of it all the same, where that matters.
    """

    def __init__(self, *problems: str, leftover: object = None) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems
        self.leftover = leftover

    def below(self, place: str, elsewhere: Mapping[str, str] = MappingProxyType({})) -> Misfit:
        """Return the same, for data that stands at `place` in something larger.

        `elsewhere` has the whole paths of members that were taken from outside of it.
        """

        def whole(path: str) -> str:
            apart = elsewhere.get(path.removeprefix("."))
            return f"{place}{path}" if apart is None else f".{apart}"

        return Misfit(*(f"{told}@ ${whole(path)}" for told, path in map(split, self.problems)))


def split(problem: str) -> tuple[str, str]:
    """Return what a problem tells, and the path behind ``@ $``."""
    # The last one is the path's; what stands before it may be the server's own words.
    told, _, path = problem.rpartition("@ $")
    return told, path


_Hook = Callable[..., object]


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


def _truth(value: object, _: object) -> bool:
    if type(value) is not bool:
        raise TypeError(f"expected true or false, got {type(value).__name__}")
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
        float(cast("float", value))  # refuses an integer beyond every float
        return cast("float", value)  # 3 stays 3, so that what came can be given back
    raise TypeError(f"expected a number, got {type(value).__name__}")


def _time(value: object, _: object) -> datetime:
    if type(value) is not str:
        raise TypeError(f"expected a time, got {type(value).__name__}")
    parsed = datetime.fromisoformat(value)
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def _only(kind: type, told: str, inner: _Hook) -> _Hook:
    def hook(value: object, model: object) -> object:
        if not isinstance(value, kind):
            raise TypeError(f"expected {told}, got {type(value).__name__}")
        return inner(value, model)

    return hook


def _word(value: object, kind: type[Word]) -> Word:
    return kind(_text(value, str))


def _sent(model: Model) -> dict[str, object]:
    return {
        name: _sent(value) if isinstance(value, Model) else value
        for name in attrs.fields_dict(type(model)).keys() - OWN
        if (value := getattr(model, name)) is not None
    } | dict(model.extra)


def _is_row(kind: object) -> bool:
    return get_origin(kind) is tuple


def _build_converter() -> Converter:
    converter = Converter(omit_if_default=True, prefer_attrib_converters=False)

    def model(kind: type[attrs.AttrsInstance]) -> _Hook:
        if not issubclass(kind, Model):
            return _only(Mapping, "an object", make_dict_structure_fn(kind, converter))
        leave_out = override(omit=True)
        inner = make_dict_structure_fn(
            kind, converter, extra=leave_out, response=leave_out, absent=leave_out
        )
        known = attrs.fields_dict(kind).keys() - OWN

        def hook(value: Mapping[str, object], model: object) -> object:
            return attrs.evolve(
                inner(value, model),
                extra=Extra({name: value[name] for name in value if name not in known}) or NOTHING,
                absent=tuple(known - value.keys()),
            )

        return _only(Mapping, "an object", hook)

    def mapping(kind: type[Mapping[object, object]]) -> _Hook:
        return _only(Mapping, "an object", mapping_structure_factory(kind, converter))

    def row(kind: type[tuple[object, ...]]) -> _Hook:
        structured = list_structure_factory(kind, converter)
        return _only(list, "a list", lambda value, kind: tuple(structured(value, kind)))

    # By predicate: registered for `object` itself it would serve every class there is.
    converter.register_structure_hook_func(lambda kind: kind is object, lambda value, _: value)
    converter.register_structure_hook_factory(attrs.has, model)
    converter.register_structure_hook_factory(is_mapping, mapping)
    converter.register_structure_hook_factory(_is_row, row)
    converter.register_structure_hook(str, _text)
    for word in Word.__subclasses__():  # or the hook of `str` would serve them
        converter.register_structure_hook(word, _word)
    converter.register_structure_hook(bool, _truth)
    converter.register_structure_hook(int, _integer)
    converter.register_structure_hook(float, _number)
    converter.register_structure_hook(datetime, _time)
    converter.register_unstructure_hook(datetime, lambda value: value.isoformat())
    converter.register_unstructure_hook_func(
        lambda kind: isinstance(kind, type) and issubclass(kind, Model), _sent
    )
    return converter


_CONVERTER = _build_converter()


def _explain(error: BaseException, _: type | None) -> str:
    if isinstance(error, KeyError):
        return "is missing"
    return str(error) or type(error).__name__


# What a fast reader raises for data that is not exactly right.
_ODD = (Unexpected, KeyError, TypeError, ValueError, AttributeError)


def structure(data: object, model: type[T]) -> T:
    """Make a model of decoded JSON.

    Raises: Misfit, with every wrong place and its JSON path.
    """
    if issubclass(model, Model):
        try:
            return cast("T", reader(model)(data))
        except _ODD:
            pass  # something is not exactly right: let the converter take it, or say what it is
    if attrs.has(model) and not isinstance(data, Mapping):
        raise Misfit(f"expected an object, got {type(data).__name__} @ $")
    try:
        return _CONVERTER.structure(data, model)
    except BaseValidationError as error:
        raise Misfit(*transform_error(error, path="$", format_exception=_explain)) from None
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise Misfit(f"{_explain(error, None)} @ $") from None


def structure_rows(
    data: object, key: str, model: type[M], skipped: list[str] | None = None
) -> tuple[M, ...]:
    """Make models of the rows that stand in an object under `key`.

    Where `skipped` is given, rows that do not fit are left out, and told there.

    Raises: Misfit, with every wrong place and its JSON path.
    """
    if not isinstance(data, Mapping):
        raise Misfit(f"expected an object, got {type(data).__name__} @ $")
    if key not in data:
        raise Misfit(f"is missing @ $.{key}")
    rows = data[key]
    if not isinstance(rows, list):
        raise Misfit(f"expected a list, got {type(rows).__name__} @ $.{key}")
    read = reader(model)
    try:
        return tuple([read(row) for row in rows])
    except _ODD:
        pass  # then each alone, to take or to tell what is wrong
    found: list[M] = []
    problems: list[str] = []
    for number, row in enumerate(rows):
        try:
            found.append(structure(row, model))
        except Misfit as misfit:
            problems += misfit.below(f".{key}[{number}]").problems
    if problems and skipped is None:
        raise Misfit(*problems[:_MOST_PROBLEMS])
    if skipped is not None:
        skipped += problems[:_MOST_PROBLEMS]
    return tuple(found)


def structure_page(data: object, model: type[M], *, lenient: bool = False) -> Page[M]:
    """Make a page of `{data, pagination}`; a lenient one without the rows that do not fit.

    Raises: Misfit.
    """
    skipped: list[str] = []
    rows = structure_rows(data, "data", model, skipped if lenient else None)
    members = cast("Mapping[str, object]", data)
    if "pagination" not in members:
        raise Misfit("is missing @ $.pagination")
    try:
        pagination = structure(members["pagination"], Pagination)
    except Misfit as misfit:
        raise misfit.below(".pagination") from None
    extra = Extra({name: members[name] for name in members if name not in ("data", "pagination")})
    return Page(
        data=rows,
        pagination=pagination,
        skipped=tuple(skipped),
        extra=extra,
        absent=("skipped",),  # the server's page has no such member
    )


def dump(model: object) -> dict[str, object]:
    """Make JSON data of a model; members at their default are left out."""
    return cast("dict[str, object]", _CONVERTER.unstructure(model))


def encode(data: Mapping[str, object]) -> bytes:
    """Make the bytes of a JSON body.

    Raises: InputError for what JSON cannot carry (NaN, a lone surrogate, a foreign type), and for
    what is nested beyond Python's own limit.
    """
    try:
        return json.dumps(data, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise InputError("body", f"cannot be written as JSON ({error})") from None
    except RecursionError:
        raise InputError("body", "is nested too deep to be written as JSON") from None


def _no_number(text: str) -> object:
    raise ValueError(f"{text} is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError("beyond every float")
    return value


# Python would take NaN and Infinity for numbers, and 1e999 for infinity, which cannot go back.
_DECODER = json.JSONDecoder(parse_constant=_no_number, parse_float=_finite)


def parse(body: bytes) -> object:
    """Read a JSON body.

    Raises: Misfit for what is not JSON, and for depth, digits or sizes beyond Python's own limits.
    """
    try:
        return cast("object", _DECODER.decode(body.decode()))
    except (ValueError, RecursionError) as error:
        raise Misfit(f"not JSON ({type(error).__name__}) @ $") from None
