"""Validate arguments at run time, as callers may not run a type checker."""

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
    """Describe a value for a message: strings and numbers by `repr`, others by type."""
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
    """Return an attrs validator that raises InputError with the text `expected`."""

    def validate(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if not is_valid(value):
            raise InputError(attribute.name, f"must be {expected}, not {describe(value)}")

    return validate


def is_a(kind: type | UnionType) -> Callable[[object], bool]:
    """Return a predicate that tests for a type or a union of types."""
    return lambda value: isinstance(value, kind)


def is_whole(least: int, most: float = math.inf) -> Callable[[object], bool]:
    """Return a predicate that tests for an integer between two bounds, inclusive."""
    return lambda value: (
        isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
    )


def is_encodable(text: str) -> bool:
    """Return whether a string can be encoded as UTF-8; one with a lone surrogate cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
