"""Validate the values of paths and queries."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from nunu_async.errors import InputError
from nunu_async.models.checks import describe, string_list

__all__ = ["comma_list", "is_text", "one_of", "path_id", "query"]

# Needs no quoting. Documented ids are UUIDs and short lower-case words; their exact length is not
# checked, because the published pattern and samples disagree.
_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


def is_text(value: object) -> bool:
    """Tell whether a value is a non-empty string that can be encoded."""
    if not isinstance(value, str) or not value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # a lone surrogate, which would be dropped silently
        return False
    return True


def path_id(field: str, value: object) -> str:
    """Return an id that is valid in a path without quoting.

    Raises: InputError for any other: it could lead to another operation.
    """
    if not isinstance(value, str):
        name = field.replace("_", " ")
        article = "an" if name[0] in "aeiou" else "a"
        kind = type(value).__name__
        raise InputError(field, f"must be {article} {name} as text, not {kind}")
    if not _ID.fullmatch(value):
        raise InputError(field, f"cannot stand in a path: {describe(value)}")
    return value


def comma_list(field: str, tags: object) -> str | None:
    """Return tags as the API's comma-separated list; None if there are none.

    Raises: InputError for a tag that the API would read differently.
    """
    items = string_list(field, tags)
    for tag in items:
        if not is_text(tag) or "," in tag:
            raise InputError(field, f"must be text without a comma, not {describe(tag)}")
    return ",".join(items) or None


def one_of(field: str, value: object, choices: Sequence[str]) -> str | None:
    """Return one of a fixed set of words in lower case, as filters take them; None stays None.

    Responses have the same words in upper case, so any case is accepted.

    Raises: InputError for any other word.
    """
    if value is None:
        return None
    # `str.lower`, so that a word from a response becomes a plain string.
    word = str.lower(value) if isinstance(value, str) else None
    if word not in choices:
        raise InputError(field, f"must be one of {', '.join(choices)}, not {describe(value)}")
    return word


def query(filters: Mapping[str, str | None]) -> tuple[tuple[str, str], ...]:
    """Return the filters that are set.

    Raises: InputError for a non-string, for an empty string, which the API ignores as a filter, and
    for one that cannot be encoded.
    """
    for field, value in filters.items():
        if value is not None and not is_text(value):
            raise InputError(field, f"must be valid text that is not empty, not {describe(value)}")
    return tuple((field, value) for field, value in filters.items() if value is not None)
