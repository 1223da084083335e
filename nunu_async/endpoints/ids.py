"""Check the values of paths and queries: callers may not run a type checker."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from nunu_async.errors import InputError
from nunu_async.models.checks import describe, is_encodable, string_list
from nunu_async.signatures import refuse_others

Check = Callable[[str, object], str | None]
"""Checks the value of a field; returns it as text, or None if it is not set."""

# Needs no quoting. Documented ids are UUIDs and short lower-case words; their exact length is not
# checked, because the published pattern and samples disagree.
_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


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
        if not tag or not is_encodable(tag) or "," in tag:
            raise InputError(field, f"must be text without a comma, not {describe(tag)}")
    return ",".join(items) or None


def choice(*words: str) -> Check:
    """Return what checks for one of these words; it returns them in lower case, as the API does.

    Responses have the same words in upper case, so any case is accepted.
    """

    def check(field: str, value: object) -> str | None:
        if value is None:
            return None
        # `str.lower`, so that a word from a response becomes a plain string.
        word = str.lower(value) if isinstance(value, str) else None
        if word not in words:
            raise InputError(field, f"must be one of {', '.join(words)}, not {describe(value)}")
        return word

    return check


def flag(field: str, value: object) -> str | None:
    """Check for a truth value or None."""
    if not isinstance(value, bool | None):
        raise InputError(field, f"must be True, False or None, not {describe(value)}")
    return None if value is None else str(value).lower()


def text(field: str, value: object) -> str | None:
    """Check for a string that can be encoded and is not empty: the API ignores an empty filter."""
    if value is None:
        return None
    if not (isinstance(value, str) and value and is_encodable(value)):
        raise InputError(field, f"must be valid text that is not empty, not {describe(value)}")
    return value


def query(
    filters: Mapping[str, object], checks: Mapping[str, Check]
) -> tuple[tuple[str, str], ...]:
    """Return the filters that are set, in the order of their checks.

    Raises: InputError for a value that its check refuses; TypeError for an unknown filter.
    """
    refuse_others(filters, checks)
    given = [field for field in checks if field in filters]
    checked = [(field, checks[field](field, filters[field])) for field in given]
    return tuple((field, value) for field, value in checked if value is not None)
