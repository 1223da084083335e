"""Checks of arguments at run time: callers may not run a type checker."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nunu_async.errors import InputError

__all__ = ["describe", "string_list"]

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
