"""What may be put into a path or a query."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from nunu_async.errors import InputError
from nunu_async.models.checks import short, texts

__all__ = ["chosen", "in_path", "in_query", "is_text", "joined"]

# What needs no quoting. Documented ids are UUIDs and short lower-case words; no length is checked,
# because the published pattern and the published samples disagree.
_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


def is_text(value: object) -> bool:
    """Tell whether a caller really gave a string, not an empty one, that can go over the wire."""
    if not isinstance(value, str) or not value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # a lone surrogate, which would be left out without a word
        return False
    return True


def in_path(field: str, value: object) -> str:
    """Return an id that can stand in a path as it is.

    Raises: InputError for any other: it could lead to another operation.
    """
    if not isinstance(value, str):
        wanted = field.replace("_", " ")
        article = "an" if wanted[0] in "aeiou" else "a"
        kind = type(value).__name__
        raise InputError(field, f"must be {article} {wanted} as text, not {kind}")
    if not _ID.fullmatch(value):
        raise InputError(field, f"cannot stand in a path: {short(value)}")
    return value


def joined(field: str, tags: object) -> str | None:
    """Return tags as the API takes them, or None for none at all.

    Raises: InputError for what would be read as other tags.
    """
    given = texts(field, tags)
    for tag in given:
        if not is_text(tag) or "," in tag:
            raise InputError(field, f"must be text without a comma, not {short(tag)}")
    return ",".join(given) or None


def chosen(field: str, value: object, choices: Sequence[str]) -> str | None:
    """Return a word of a fixed set in lower case, which is what filters take; None stays None.

    Answers have the same words in upper case, so that any case may be given.

    Raises: InputError for any other word.
    """
    if value is None:
        return None
    # Of `str` itself: a word that was read from an answer becomes a plain string.
    word = str.lower(value) if isinstance(value, str) else None
    if word not in choices:
        raise InputError(field, f"must be one of {', '.join(choices)}, not {short(value)}")
    return word


def in_query(given: Mapping[str, str | None]) -> tuple[tuple[str, str], ...]:
    """Return the filters that were given.

    Raises: InputError for what is no string, or an empty one, which the API takes for none at all,
    or one that no encoding can carry.
    """
    for field, value in given.items():
        if value is not None and not is_text(value):
            raise InputError(field, f"must be valid text that is not empty, not {short(value)}")
    return tuple((field, value) for field, value in given.items() if value is not None)
