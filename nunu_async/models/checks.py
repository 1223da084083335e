"""Checks of arguments at run time: callers may not run a type checker."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from types import UnionType
from typing import Any

import attrs

from nunu_async.errors import InputError

__all__ = ["check", "describe", "is_a", "is_encodable", "is_whole", "string_list"]

Validator = Callable[[object, "attrs.Attribute[Any]", object], None]

_SHOWN = 60


def describe(value: object) -> str:
    """Describe a value in a message: strings and numbers by their `repr`, others by type."""
    if not isinstance(value, str | bytes | int | float | None):
        return type(value).__name__
    text = ascii(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def string_list(field: str, values: object) -> list[str]:
    """Return the strings of a list, in order.

    Raises: InputError for a single string, for a non-list, and for a non-string item.
    """
    if isinstance(values, str):
        raise InputError(field, "must be a list of strings, not one string")
    if not isinstance(values, Iterable) or isinstance(values, bytes | Mapping):
        raise InputError(field, f"must be a list of strings, not {describe(values)}")
    strings: list[str] = []
    for value in values:
        if not isinstance(value, str):
            raise InputError(field, f"must be a list of strings, not of {describe(value)}")
        strings.append(value)
    return strings


def check(is_valid: Callable[[object], bool], expected: str) -> Validator:
    """Return a validator of attrs; the InputError it raises says what was `expected`."""

    def validate(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if not is_valid(value):
            raise InputError(attribute.name, f"must be {expected}, not {describe(value)}")

    return validate


def is_a(kind: type | UnionType) -> Callable[[object], bool]:
    """Return a test for a type, or for one of several."""
    return lambda value: isinstance(value, kind)


def is_whole(least: int, most: float = math.inf) -> Callable[[object], bool]:
    """Return a test for a whole number between two bounds, both included."""
    return lambda value: (
        isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
    )


def is_encodable(text: str) -> bool:
    """Tell whether a string can be sent: one with a lone surrogate cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
