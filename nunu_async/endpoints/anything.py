"""Any operation at all: for what the library does not know yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import unquote

from nunu_async.core.request import Replay, Request
from nunu_async.errors import InputError

__all__ = ["anything"]

_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE"})
_REPEATABLE = frozenset({"GET", "DELETE"})


def anything(
    method: str,
    path: str,
    params: Mapping[str, str | int | bool | Sequence[str]] | None,
    body: Mapping[str, object] | None,
) -> Request[object]:
    """Make the request for a path of the API.

    Raises: InputError for a path that leads elsewhere, an unknown method, an unusable parameter.
    """
    verb = method.upper()
    if verb not in _METHODS:
        raise InputError("method", f"must be one of {', '.join(sorted(_METHODS))}, not {method!a}")
    odd = not path.isascii() or not path.isprintable()
    odd = odd or any(sign in path for sign in (" ", "\\", "?", "#"))
    if odd or not path.startswith("/") or path.startswith("//"):
        raise InputError("path", f"must be a quoted path without a query, not {path!a}")
    # Servers differ in when they unquote and in what they take for a slash.
    if any(step in {".", ".."} for step in unquote(path).replace("\\", "/").split("/")):
        raise InputError("path", f"must not hold . or .. as a step: {path!a}")
    return Request(
        operation=f"{verb} {path}",
        method=verb,
        path=path,
        query=tuple(
            (_text("params", name), _text(name, value)) for name, value in (params or {}).items()
        ),
        body=body,
        answer=lambda data: data,
        may_be_empty=True,
        replay=Replay.ALWAYS if verb in _REPEATABLE else Replay.UNLESS_ACTED,
    )


def _text(name: str, value: object) -> str:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InputError(name, "holds what is no valid text") from None
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, Sequence) or not all(isinstance(item, str) for item in value):
        raise InputError(
            name, f"must be text, a number, a truth value or a list of text: {value!a}"
        )
    if any("," in item for item in value):
        raise InputError(name, "an item with a comma cannot be sent in a list")
    return _text(name, ",".join(value))
