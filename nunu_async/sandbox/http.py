"""The parsed requests and the errors that all operations share."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NoReturn

import attrs

from nunu_async.sandbox.journal import Seen
from nunu_async.sandbox.keys import Key

if TYPE_CHECKING:
    from nunu_async.sandbox.project import Project


@attrs.frozen
class HttpError(Exception):
    """Sends an error response."""

    status: int
    error: str
    code: str | None = None
    extra: Mapping[str, object] = attrs.field(factory=dict)
    """Extra members of the body; they override the default members."""


@attrs.frozen
class Call:
    """The operation that a request line identifies."""

    operation: str
    part_number: int | None = None
    params: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class ApiRequest:
    """A parsed request, as passed to an operation's handler."""

    project: "Project"
    now: float
    call: Call
    query: Mapping[str, str]
    body: Any
    seen: Seen
    key: Key | None
    """None if the operation needs no API key."""


def bad_request(problem: str) -> NoReturn:
    """Respond with 400. Raises: HttpError, always."""
    raise HttpError(400, f"invalid request: {problem}")


def usual_error(status: int) -> HttpError:
    """Return an error with the standard reason phrase of a status."""
    try:
        return HttpError(status, HTTPStatus(status).phrase.lower())
    except ValueError:
        return HttpError(status, f"status {status}")
