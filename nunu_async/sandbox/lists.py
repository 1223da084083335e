"""Filter rows by query parameters and paginate them, for all list operations."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic

import attrs
from aiohttp import web

from nunu_async.sandbox.history import Criterion, Job, RowT, Run
from nunu_async.sandbox.http import ApiRequest, bad_request
from nunu_async.sandbox.schemas import UUID, Schema, check

_NUMBER = re.compile(r"[0-9]{1,15}", re.ASCII)
_PAGE_SIZE = 20
_LARGEST_PAGE = 100


@attrs.frozen
class Filter(Generic[RowT]):
    """One query parameter that filters rows."""

    schema: Schema
    matches: Callable[[RowT, float, Any], object]
    """Called with row, `now` and the parameter value; UUIDs are lowercased."""


def has_tags(row: Run | Job, _: float, wanted: str) -> bool:
    """Return whether a row has all tags of a comma-separated list."""
    return set(filter(None, wanted.split(","))).issubset(row.tags)


def read_criteria(
    query: Mapping[str, str], filters: Mapping[str, Filter[RowT]]
) -> list[Criterion[RowT]]:
    """Convert the filter parameters of a query into criteria. Raises: HttpError."""
    criteria: list[Criterion[RowT]] = []
    for name, one in filters.items():
        if name in query:
            check(one.schema, query[name], name)
            wanted = query[name].lower() if one.schema is UUID else query[name]
            criteria.append((one.matches, wanted))
    return criteria


def page_response(
    request: ApiRequest, found: Sequence[RowT], serialize: Callable[[RowT, float], Any]
) -> web.Response:
    """Build the response with the requested page. Raises: HttpError."""
    page, size = request.query.get("page", "0"), request.query.get("page_size", f"{_PAGE_SIZE}")
    if not _NUMBER.fullmatch(page):
        bad_request("page must be an integer of at least 0")
    if not _NUMBER.fullmatch(size) or not 1 <= int(size) <= _LARGEST_PAGE:
        bad_request(f"page_size must be an integer from 1 to {_LARGEST_PAGE}")
    start = int(page) * int(size)
    data = [serialize(row, request.now) for row in found[start : start + int(size)]]
    dialect = request.project.dialect
    return web.json_response(dialect.page(data, len(found), int(page), int(size)))
