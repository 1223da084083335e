"""What a caller may give, checked by hand: not everybody runs a type checker."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nunu_async.errors import InputError

__all__ = ["short", "texts"]

_SHOWN = 60


def short(value: object) -> str:
    """Return a value for a message: text and numbers as they are written, the rest by its type."""
    if not isinstance(value, str | bytes | int | float | None):
        return type(value).__name__
    told = ascii(value)
    return told if len(told) <= _SHOWN else f"{told[:_SHOWN]}..."


def texts(field: str, values: object) -> list[str]:
    """Return the strings of a list, in order.

    Raises: InputError for one string, for what is no list, and for what is no string in it.
    """
    if isinstance(values, str):
        raise InputError(field, "must be a list of strings, not one string")
    if not isinstance(values, Iterable) or isinstance(values, bytes | Mapping):
        raise InputError(field, f"must be a list of strings, not {short(values)}")
    found: list[str] = []
    for value in values:
        if not isinstance(value, str):
            raise InputError(field, f"must be a list of strings, not of {short(value)}")
        found.append(value)
    return found
