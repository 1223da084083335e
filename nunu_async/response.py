"""Metadata of the HTTP response that a model or an error was read from."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

__all__ = ["ResponseInfo"]


@attrs.frozen(kw_only=True)
class ResponseInfo:
    """Metadata of an HTTP response: the `response` of the model or error read from it."""

    status: int
    request_id: str | None = None
    """The server's id for the request, if a header has one."""
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False, hash=False)
    """Names in lower case; cookies removed, secrets hidden."""
