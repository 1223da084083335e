"""What may be put into a path or a query."""

from __future__ import annotations

import re
from collections.abc import Mapping

from nunu_async.errors import InputError

__all__ = ["in_path", "in_query", "is_text"]

# What needs no quoting. Documented ids are UUIDs and short lower-case words; no length is checked,
# because the published pattern and the published samples disagree.
_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


def is_text(value: object) -> bool:
    """Tell whether a caller really gave a string, and not an empty one."""
    return isinstance(value, str) and bool(value)


def in_path(field: str, value: str) -> str:
    """Return an id that can stand in a path as it is.

    Raises: InputError for any other: it could lead to another operation.
    """
    if not (is_text(value) and _ID.fullmatch(value)):
        raise InputError(field, f"cannot stand in a path: {value!a}")
    return value


def in_query(given: Mapping[str, str | None]) -> tuple[tuple[str, str], ...]:
    """Return the filters that were given.

    Raises: InputError for what is no string, or an empty one, which the API takes for none at all.
    """
    for field, value in given.items():
        if value is not None and not is_text(value):
            raise InputError(field, f"must be a string that is not empty, not {value!a}")
    return tuple((field, value) for field, value in given.items() if value is not None)
