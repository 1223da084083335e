"""The parsed requests, the responses and the errors that all API operations share."""

import json
import re
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

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]{1,15}", re.ASCII)
_PAGE_SIZE = 20
_LARGEST_PAGE = 100


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
    """Respond with 400. Raises: Refused, always."""
    raise HttpError(400, f"invalid request: {problem}")


def check(rule: shapes.Rule, body: object) -> None:
    """Check a body against its shape. Raises: Refused."""
    try:
        rule(body, "")
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
    """Read the query of a request target. Raises: Refused when a parameter comes twice."""
    pairs = parse_qsl(target.partition("?")[2], keep_blank_values=True)
    query = dict(pairs)
    if len(query) != len(pairs):
        bad_request("a query parameter was given twice")
    return query


def read_page(query: Mapping[str, str]) -> tuple[int, int]:
    """Read page and page size. Raises: Refused."""
    page, size = query.get("page", "0"), query.get("page_size", f"{_PAGE_SIZE}")
    if not _NUMBER.fullmatch(page):
        bad_request("page must be an integer of at least 0")
    if not _NUMBER.fullmatch(size) or not 1 <= int(size) <= _LARGEST_PAGE:
        bad_request(f"page_size must be an integer from 1 to {_LARGEST_PAGE}")
    return int(page), int(size)


def read_uuid(query: Mapping[str, str], name: str) -> str | None:
    """Read a UUID, in lower case; None if it is absent. Raises: Refused."""
    value = query.get(name)
    if value is None:
        return None
    if not is_uuid(value):
        bad_request(f"{name} must be a UUID")
    return value.lower()


def read_choice(query: Mapping[str, str], name: str, words: tuple[str, ...]) -> str | None:
    """Read one of the allowed words; None if it is absent. Raises: Refused."""
    value = query.get(name)
    if value is not None and value not in words:
        bad_request(f"{name} must be one of {', '.join(words)}")
    return value


def read_query_flag(query: Mapping[str, str], name: str) -> bool | None:
    """Read true or false; None if it is absent. Raises: Refused."""
    value = read_choice(query, name, ("true", "false"))
    return None if value is None else value == "true"


def is_uuid(text: str) -> bool:
    """Return whether a string has the form of a UUID."""
    return _UUID.fullmatch(text) is not None


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
