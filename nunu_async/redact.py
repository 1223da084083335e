"""Redact secrets from URLs, headers and error texts. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

_HIDDEN = "***"
# Maximum length of a sanitized text, in characters.
_MAX_TEXT = 500
# Shorter secrets are not hidden: they would match unrelated text, and no real one is so short.
_MIN_SECRET = 6
# Maximum nesting of an error's details; the API's have one or two levels.
_MAX_DEPTH = 50


class Secret:
    """A string that `repr`, `str`, `format` and `pickle` do not reveal."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the value itself; called only where a request is sent."""
        return self._value

    def mark(self) -> str:
        """Return a hash that identifies the secret without disclosing it."""
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


def redact_url(url: str) -> str:
    """Return scheme, host and path of a URL; a query becomes ``?...``, user info is removed."""
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        _ = parts.port  # raises for an invalid port
    except ValueError:
        return "<unreadable URL>"
    query = "?..." if parts.query else ""
    return f"{parts.scheme}://{host}{parts.path}{query}"


def sanitize(text: str, secrets: Iterable[Secret] = (), *, limit: int = _MAX_TEXT) -> str:
    """Sanitize text from a server for a log or a terminal.

    Secrets become ``***``, control and text-direction characters are escaped, and text over
    `limit` characters is cut.
    """
    if secrets:
        values = (secret.reveal() for secret in secrets)
        for value in sorted(values, key=len, reverse=True):  # one secret may be a prefix of another
            if len(value) >= _MIN_SECRET:
                text = text.replace(value, _HIDDEN)
    # Cut before escaping, which only lengthens the text: escaping a response of 32 MiB blocked the
    # event loop for 20 seconds.
    text = text[: limit + 1]
    if not text.isprintable():
        text = "".join(
            c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
        )
    return text if len(text) <= limit else text[: limit - 3] + "..."


def clean_values(texts: Mapping[str, str], secrets: tuple[Secret, ...]) -> Mapping[str, str]:
    """Apply `sanitize` to each value; names are unchanged."""
    # A fast check of all values at once: every response has headers, which rarely need a change.
    joined = "".join(texts.values())
    if (
        joined.isprintable()
        and not any(secret.reveal() in joined for secret in secrets)
        and (len(joined) <= _MAX_TEXT or max(map(len, texts.values())) <= _MAX_TEXT)
    ):
        return texts
    return {name: sanitize(value, secrets) for name, value in texts.items()}


def clean_details(value: object, secrets: tuple[Secret, ...], *, depth: int = _MAX_DEPTH) -> object:
    """Return JSON data with the secrets in all its strings hidden, object keys included.

    Data nested deeper than `depth` is omitted: it could be neither printed nor pickled.
    """
    if isinstance(value, str):
        return sanitize(value, secrets, limit=10_000)
    if isinstance(value, Mapping | list) and depth == 0:
        return "..."
    if isinstance(value, Mapping):
        return {
            sanitize(str(k), secrets, limit=10_000): clean_details(v, secrets, depth=depth - 1)
            for k, v in value.items()
        }
    if isinstance(value, list):
        return [clean_details(v, secrets, depth=depth - 1) for v in value]
    return value
