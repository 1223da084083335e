"""What is known of the HTTP answer that a model or an error was read from."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

__all__ = ["ResponseInfo"]


@attrs.frozen(kw_only=True)
class ResponseInfo:
    """The HTTP answer that a model or an error was read from: their `response`."""

    status: int
    request_id: str | None = None
    """What the server called the request, if a header said so."""
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False, hash=False)
    """Names in lower case; without cookies, and with secrets hidden."""
