"""JSON to models and back: the one cattrs converter."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TypeVar, cast

import attrs
from cattrs import Converter, transform_error
from cattrs.errors import BaseValidationError

from nunu_async.errors import InputError

__all__ = ["Misfit", "dump", "encode", "parse", "structure"]

T = TypeVar("T")


class Misfit(Exception):
    """Decoded JSON does not fit the model.

    Attributes:
        problems: one line for each wrong place, with its JSON path.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def _exactly(kind: type) -> Callable[[object, object], object]:
    # cattrs would turn None into 'None' and 1.5 into 1; here a wrong type is an error.
    def hook(value: object, _: object) -> object:
        if type(value) is not kind:
            raise TypeError(f"expected {kind.__name__}, got {type(value).__name__}")
        return value

    return hook


def _integer(value: object, _: object) -> int:
    if type(value) is int:
        return value
    if type(value) is float and value.is_integer():
        return int(value)
    raise TypeError(f"expected an integer, got {type(value).__name__}")


def _number(value: object, _: object) -> float:
    if type(value) in (int, float):
        return float(cast("float", value))
    raise TypeError(f"expected a number, got {type(value).__name__}")


def _time(value: object, _: object) -> datetime:
    if type(value) is not str:
        raise TypeError(f"expected a time, got {type(value).__name__}")
    parsed = datetime.fromisoformat(value)
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def _build_converter() -> Converter:
    converter = Converter(omit_if_default=True, prefer_attrib_converters=False)
    converter.register_structure_hook(str, _exactly(str))
    converter.register_structure_hook(bool, _exactly(bool))
    converter.register_structure_hook(int, _integer)
    converter.register_structure_hook(float, _number)
    converter.register_structure_hook(datetime, _time)
    converter.register_unstructure_hook(datetime, lambda value: value.isoformat())
    return converter


_CONVERTER = _build_converter()


def _explain(error: BaseException, _: type | None) -> str:
    if isinstance(error, KeyError):
        return "is missing"
    return str(error) or type(error).__name__


def structure(data: object, model: type[T]) -> T:
    """Make a model of decoded JSON.

    Raises: Misfit, with every wrong place and its JSON path.
    """
    if attrs.has(model) and not isinstance(data, Mapping):
        raise Misfit(f"expected an object, got {type(data).__name__} @ $")
    try:
        return _CONVERTER.structure(data, model)
    except BaseValidationError as error:
        raise Misfit(*transform_error(error, path="$", format_exception=_explain)) from None
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise Misfit(f"{_explain(error, None)} @ $") from None


def dump(model: object) -> dict[str, object]:
    """Make JSON data of a model; members at their default are left out."""
    return cast("dict[str, object]", _CONVERTER.unstructure(model))


def encode(data: Mapping[str, object]) -> bytes:
    """Make the bytes of a JSON body.

    Raises: InputError for what JSON cannot carry (NaN, a lone surrogate, a foreign type).
    """
    try:
        return json.dumps(data, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise InputError("body", f"cannot be written as JSON ({error})") from None


def parse(body: bytes) -> object:
    """Read a JSON body.

    Raises: Misfit for what is not JSON, and for depth or digits beyond Python's own limits.
    """
    try:
        return cast("object", json.loads(body))
    except (ValueError, RecursionError) as error:
        raise Misfit(f"not JSON ({type(error).__name__}) @ $") from None
