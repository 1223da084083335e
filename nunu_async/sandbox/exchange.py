"""The parsed requests, the responses and the errors that all API operations share."""

import json
from collections.abc import Callable, Mapping
from typing import Any, NoReturn
from urllib.parse import parse_qsl

import attrs
from aiohttp import web

from nunu_async.sandbox import shapes
from nunu_async.sandbox.dialects import Dialect
from nunu_async.sandbox.history import History
from nunu_async.sandbox.journal import Seen
from nunu_async.sandbox.keys import Key
from nunu_async.sandbox.objects import ObjectStore
from nunu_async.sandbox.state import Depot


@attrs.frozen
class HttpError(Exception):
    """Sends an error response."""

    status: int
    error: str
    code: str | None = None
    details: Mapping[str, object] | None = None
    extra: Mapping[str, object] = attrs.field(factory=dict)
    """Further members of the body; they override the usual ones."""


@attrs.frozen
class Call:
    """The operation that a request line identifies."""

    operation: str
    part_number: int | None = None
    params: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class Project:
    """What the operations of the API read and change."""

    depot: Depot
    objects: ObjectStore
    history: History
    dialect: Dialect
    secret: bytes
    """Signs the URLs of storage."""
    url_life: float
    storage_url: Callable[[], str]

    def is_named_by(self, call: Call) -> bool:
        """Return whether a path names this project, or none."""
        return call.params.get("project_id", self.depot.project_id) == self.depot.project_id


@attrs.frozen(kw_only=True)
class ApiRequest:
    """A parsed request, as operations get it."""

    project: Project
    now: float
    call: Call
    query: Mapping[str, str]
    body: Any
    seen: Seen
    key: Key | None
    """None when the operation needs no key."""


@attrs.frozen
class ApiResponse:
    """The JSON response of an operation."""

    body: Mapping[str, Any]
    status: int = 200


def bad_request(problem: str) -> NoReturn:
    """Respond with 400. Raises: HttpError, always."""
    raise HttpError(400, f"invalid request: {problem}")


def check(rule: shapes.Rule, value: object, where: str = "") -> None:
    """Check a body, or the parameter `where`, against its shape. Raises: HttpError."""
    try:
        rule(value, where)
    except shapes.ShapeError as exc:
        bad_request(f"{exc}")


def parse(raw: bytes) -> tuple[Any, str | None]:
    """Parse JSON strictly; return the value, and what is wrong with it or None."""
    try:
        parsed = json.loads(raw.decode(), parse_constant=_reject_constant)
        json.dumps(parsed, ensure_ascii=False).encode()  # rejects lone surrogates
    except (ValueError, RecursionError):
        return None, "body must be JSON"
    return parsed, None


def read_query(target: str) -> dict[str, str]:
    """Read the query of a request target. Raises: HttpError when a parameter comes twice."""
    pairs = parse_qsl(target.partition("?")[2], keep_blank_values=True)
    query = dict(pairs)
    if len(query) != len(pairs):
        bad_request("a query parameter was given twice")
    return query


def error_response(error: HttpError) -> web.Response:
    """Build the response for an error."""
    body: dict[str, object] = {"error": error.error}
    if error.code is not None:
        body["code"] = error.code
    if error.details is not None:
        body["details"] = error.details
    return web.json_response(body | dict(error.extra), status=error.status)


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
