"""What may be shown of a URL, a header, an error text. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

__all__ = ["Secret", "clean", "clean_details", "clean_values", "shown_url"]

_HIDDEN = "***"
# Characters of a text that are shown.
_LONGEST = 500
# Shorter values would tear holes into innocent text; no real key or upload id is that short.
_SHORTEST = 6
# Levels of an error's details; those of the API have one or two.
_DEEPEST = 50


class Secret:
    """A string that does not show itself in `repr`, `str`, format or pickle."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the value itself; called only where a request is put on the wire."""
        return self._value

    def mark(self) -> str:
        """Return what tells it from others, and from which nobody can have it."""
        return hashlib.sha256(b"nunu_async" + self._value.encode()).hexdigest()[:16]

    def __repr__(self) -> str:
        return f"Secret({_HIDDEN!r})"

    def __str__(self) -> str:
        return _HIDDEN

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> tuple[type[Secret], tuple[str]]:
        return Secret, (_HIDDEN,)


def shown_url(url: str) -> str:
    """Return scheme, host and path of a URL; a query becomes ``?...``, user info goes."""
    try:
        parts = urlsplit(url)
        place = parts.netloc.rpartition("@")[2]
        _ = parts.port  # raises for what is none
    except ValueError:
        return "<unreadable URL>"
    query = "?..." if parts.query else ""
    return f"{parts.scheme}://{place}{parts.path}{query}"


def clean(text: str, secrets: Iterable[Secret] = (), *, limit: int = _LONGEST) -> str:
    """Return server text fit for a log or a terminal.

    Secrets become ``***``, control and direction characters are escaped, and what is over
    `limit` characters is cut.
    """
    if secrets:
        hidden = (secret.reveal() for secret in secrets)
        for value in sorted(hidden, key=len, reverse=True):  # one may begin another
            if len(value) >= _SHORTEST:
                text = text.replace(value, _HIDDEN)
    # Escaping only makes it longer: what is behind the limit now is cut in any case, and an answer
    # may have 32 MiB of it, which took the event loop 20 seconds.
    text = text[: limit + 1]
    if not text.isprintable():
        text = "".join(
            c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
        )
    return text if len(text) <= limit else text[: limit - 3] + "..."


def clean_values(texts: Mapping[str, str], secrets: tuple[Secret, ...]) -> Mapping[str, str]:
    """Return the same with each value cleaned as `clean` does; names stay as they are."""
    # Looked through as one first: every answer has headers, and hardly ever one to be changed.
    whole = "".join(texts.values())
    if (
        whole.isprintable()
        and not any(secret.reveal() in whole for secret in secrets)
        and (len(whole) <= _LONGEST or max(map(len, texts.values())) <= _LONGEST)
    ):
        return texts
    return {name: clean(value, secrets) for name, value in texts.items()}


def clean_details(value: object, secrets: tuple[Secret, ...], *, depth: int = _DEEPEST) -> object:
    """Return JSON data with every secret in its strings hidden, keys included.

    What lies deeper than `depth` is left out: it could neither be shown nor pickled.
    """
    if isinstance(value, str):
        return clean(value, secrets, limit=10_000)
    if isinstance(value, Mapping | list) and depth == 0:
        return "..."
    if isinstance(value, Mapping):
        return {
            clean(str(k), secrets, limit=10_000): clean_details(v, secrets, depth=depth - 1)
            for k, v in value.items()
        }
    if isinstance(value, list):
        return [clean_details(v, secrets, depth=depth - 1) for v in value]
    return value
