"""Requests to any API path, for operations that the library does not cover yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import unquote

from nunu_async.core.request import Replay, Request
from nunu_async.errors import InputError
from nunu_async.models.checks import describe, is_encodable
from nunu_async.redact import Secret

_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE"})
_REPEATABLE = frozenset({"GET", "DELETE"})
_PREFIX = "/api/v1"


def anything(
    method: object,
    path: object,
    params: object,
    body: Mapping[str, object] | None,
) -> Request[object]:
    """Build a request to any path of the API.

    Raises: InputError for a path outside the API, an unknown method or an invalid parameter.
    """
    verb = method.upper() if isinstance(method, str) else ""
    if verb not in _METHODS:
        known = ", ".join(sorted(_METHODS))
        raise InputError("method", f"must be one of {known}, not {describe(method)}")
    checked = _path(path)
    return Request(
        operation=f"{verb} {checked}",
        method=verb,
        path=checked,
        query=_query(params),
        body=body,
        answer=lambda data: data,
        may_be_empty=True,
        secrets=_secrets(params, body),
        replay=Replay.ALWAYS if verb in _REPEATABLE else Replay.UNLESS_ACTED,
    )


def _secrets(*sources: object) -> tuple[Secret, ...]:
    """Return the values to redact in messages: an upload id is a credential."""
    values = (members.get("upload_id") for members in sources if isinstance(members, Mapping))
    return tuple(Secret(value) for value in values if isinstance(value, str))


def _path(path: object) -> str:
    if not isinstance(path, str):
        raise InputError("path", f"must be a path as text, not {describe(path)}")
    if not path.startswith("/") or path.startswith("//"):
        raise InputError("path", f"must begin with /, and one only, not {describe(path)}")
    if "?" in path:
        raise InputError("path", f"give the query as params: {describe(path)}")
    if not path.isascii() or not path.isprintable() or any(sign in path for sign in " \\#"):
        raise InputError("path", f"must be quoted, without a fragment: {describe(path)}")
    if path == _PREFIX or path.startswith(f"{_PREFIX}/"):
        raise InputError("path", f"is below {_PREFIX} already, so leave that out: {describe(path)}")
    # Servers differ in when they decode percent-escapes and in which characters count as a slash.
    if any(segment in {".", ".."} for segment in unquote(path).replace("\\", "/").split("/")):
        raise InputError("path", f"must not hold . or .. as a step: {describe(path)}")
    return path


def _query(params: object) -> tuple[tuple[str, str], ...]:
    if params is None:
        return ()
    if not isinstance(params, Mapping):
        raise InputError("params", f"must be a dictionary, not {describe(params)}")
    query = []
    for name, value in params.items():
        if not isinstance(name, str):
            raise InputError("params", f"names must be text, not {describe(name)}")
        query.append((_text("params", name), _text(name, value)))
    return tuple(query)


def _text(name: str, value: object) -> str:
    if isinstance(value, str):
        if not is_encodable(value):
            raise InputError(name, "holds what is no valid text")
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, Sequence) or not all(isinstance(item, str) for item in value):
        raise InputError(
            name,
            f"must be text, a whole number, a truth value or a list of text, not {describe(value)}",
        )
    if any("," in item for item in value):
        raise InputError(name, "an item with a comma cannot be sent in a list")
    return _text(name, ",".join(value))
