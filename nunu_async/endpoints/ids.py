"""What may be put into a path."""

from __future__ import annotations

import re

from nunu_async.errors import InputError

__all__ = ["in_path"]

# What needs no quoting. Documented ids are UUIDs and short lower-case words; no length is checked,
# because the published pattern and the published samples disagree.
_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


def in_path(field: str, value: str) -> str:
    """Return an id that can stand in a path as it is.

    Raises: InputError for any other: it could lead to another operation.
    """
    if not _ID.fullmatch(value):
        raise InputError(field, f"cannot stand in a path: {value!a}")
    return value
