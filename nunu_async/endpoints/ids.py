"""Validate path and query values, as callers may not run a type checker."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from nunu_async.errors import InputError
from nunu_async.models.checks import describe, is_encodable, string_list
from nunu_async.signatures import refuse_others

Check = Callable[[str, object], str | None]
"""Validates the value of a field; returns it as a string, or None if it is not set."""

# Ids that need no percent-encoding. Documented ids are UUIDs and short lower-case words; their
# exact length is not checked, because the published pattern and samples disagree.
_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


def path_id(field: str, value: object) -> str:
    """Return the id if it is valid in a URL path without percent-encoding.

    Raises: InputError for any other value, as it could address another operation.
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

    Raises: InputError for a tag that the API would parse differently.
    """
    items = string_list(field, tags)
    for tag in items:
        if not tag or not is_encodable(tag) or "," in tag:
            raise InputError(field, f"must be text without a comma, not {describe(tag)}")
    return ",".join(items) or None


def choice(*words: str) -> Check:
    """Return a check for one of these words; the check returns the word in lower case.

    Any case is accepted, because responses have the same words in upper case.
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
    """Check for a boolean or None."""
    if not isinstance(value, bool | None):
        raise InputError(field, f"must be True, False or None, not {describe(value)}")
    return None if value is None else str(value).lower()


def text(field: str, value: object) -> str | None:
    """Check for a non-empty, encodable string or None: the API ignores an empty filter."""
    if value is None:
        return None
    if not (isinstance(value, str) and value and is_encodable(value)):
        raise InputError(field, f"must be valid text that is not empty, not {describe(value)}")
    return value


def query(
    filters: Mapping[str, object], checks: Mapping[str, Check]
) -> tuple[tuple[str, str], ...]:
    """Return the filters that are set, in the order of their checks.

    Raises: InputError for a value that fails its check; TypeError for an unknown filter.
    """
    refuse_others(filters, checks)
    given = [field for field in checks if field in filters]
    checked = [(field, checks[field](field, filters[field])) for field in given]
    return tuple((field, value) for field, value in checked if value is not None)
