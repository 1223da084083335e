"""Hold what every API operation shares: the request as it sees it, the answer, the refusal."""

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NoReturn
from urllib.parse import parse_qsl

import attrs
from aiohttp import web

from nunu_async.sandbox import shapes
from nunu_async.sandbox.journal import Seen
from nunu_async.sandbox.keys import Key
from nunu_async.sandbox.listener import Call

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]{1,15}", re.ASCII)
_PAGE_SIZE = 20
_LARGEST_PAGE = 100


@attrs.frozen
class Refused(Exception):
    """The request is answered with an error."""

    status: int
    error: str
    code: str | None = None
    details: Mapping[str, object] | None = None
    extra: Mapping[str, object] = attrs.field(factory=dict)
    """Further members of the body; they win over the usual ones."""


@attrs.frozen
class Asked:
    """A request as the operations see it."""

    call: Call
    query: Mapping[str, str]
    body: Any
    seen: Seen
    key: Key | None
    """None when the operation needs no key."""


@attrs.frozen
class Reply:
    """The JSON answer of an operation."""

    body: Mapping[str, Any]
    status: int = 200


Operation = Callable[[Asked], Awaitable[Reply]]


def bad_request(problem: str) -> NoReturn:
    """Refuse with 400. Raises: Refused, always."""
    raise Refused(400, f"invalid request: {problem}")


def check(rule: shapes.Rule, body: object) -> None:
    """Hold a body to its shape. Raises: Refused."""
    try:
        rule(body, "")
    except shapes.ShapeError as exc:
        bad_request(f"{exc}")


def parse(raw: bytes) -> tuple[Any, str | None]:
    """Read JSON, strictly; the second is what is wrong with it, or None."""
    try:
        parsed = json.loads(raw.decode(), parse_constant=_no_constant)
        json.dumps(parsed, ensure_ascii=False).encode()  # a lone surrogate is no text
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
    """Read a UUID, in lower case; None when it is not there. Raises: Refused."""
    value = query.get(name)
    if value is None:
        return None
    if not is_uuid(value):
        bad_request(f"{name} must be a UUID")
    return value.lower()


def read_choice(query: Mapping[str, str], name: str, words: tuple[str, ...]) -> str | None:
    """Read one of some words; None when it is not there. Raises: Refused."""
    value = query.get(name)
    if value is not None and value not in words:
        bad_request(f"{name} must be one of {', '.join(words)}")
    return value


def read_query_flag(query: Mapping[str, str], name: str) -> bool | None:
    """Read true or false; None when it is not there. Raises: Refused."""
    value = read_choice(query, name, ("true", "false"))
    return None if value is None else value == "true"


def is_uuid(text: str) -> bool:
    """Tell whether a text has the form of a UUID."""
    return _UUID.fullmatch(text) is not None


def error_answer(refused: Refused) -> web.Response:
    """Make the answer for a refusal."""
    body: dict[str, object] = {"error": refused.error}
    if refused.code is not None:
        body["code"] = refused.code
    if refused.details is not None:
        body["details"] = refused.details
    return web.json_response(body | dict(refused.extra), status=refused.status)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
