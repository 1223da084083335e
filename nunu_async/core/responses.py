"""Turn (status, headers, body) into a model or an error. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar, cast
from urllib.parse import urlsplit

from nunu_async.core import codec
from nunu_async.core.request import Request
from nunu_async.core.retry import parse_retry_after
from nunu_async.errors import ApiError, DecodeError, error_for_status
from nunu_async.models.base import Model
from nunu_async.models.page import Page
from nunu_async.redact import Secret, clean_details, clean_values, redact_url, sanitize
from nunu_async.response import ResponseInfo

T = TypeVar("T")

_LONGEST_PATH = 10_000
# The API documents no such header; these are commonly sent by servers and edge proxies.
_REQUEST_ID_HEADERS = ("x-request-id", "request-id", "x-amz-request-id", "cf-ray")


def request_id(headers: Mapping[str, str], secrets: tuple[Secret, ...] = ()) -> str | None:
    """Return the server's id for the request; `headers` must have lower-case names."""
    for name in _REQUEST_ID_HEADERS:
        if headers.get(name):
            return sanitize(headers[name], secrets, limit=128)
    return None


def read(
    request: Request[T],
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    secrets: tuple[Secret, ...],
) -> T | ApiError | DecodeError:
    """Return the typed result of a 2xx, or the error to raise.

    `headers` must have lower-case names. The error is an ApiError whose class depends on the
    status, or a DecodeError for a 2xx that does not have the documented shape.
    """
    if 200 <= status < 300:  # noqa: PLR2004 - HTTP's success class
        garbled = True
        data: object = None
        try:
            data = None if request.may_be_empty and not body else codec.parse(body)
            garbled = False
            return _with_response(request.answer(data), status, headers, secrets)
        except codec.DecodeProblem as misfit:
            problems = misfit.problems
            if isinstance(data, Mapping) and (
                data.get("error") or False in (data.get("ok"), data.get("success"))
            ):
                failed = data.get("status")
                if type(failed) is int and 400 <= failed < 600 and not request.settles:  # noqa: PLR2004 - HTTP's error classes
                    error = _error(request, failed, headers, body, secrets)
                    error.in_success = True
                    return error
                if message := _explanation(body)[0]:
                    problems = (f"the server says: {message} @ $.error", *problems)
            return DecodeError(
                request.operation,
                tuple(_shown(problem, secrets) for problem in problems),
                status=status,
                request_id=request_id(headers, secrets),
                headers=_safe_headers(headers, secrets),
                garbled=garbled,
                leftover=misfit.leftover,
            )
    return _error(request, status, headers, body, secrets)


def _with_response(
    result: T, status: int, headers: Mapping[str, str], secrets: tuple[Secret, ...]
) -> T:
    """Set `response` on a result and on each of its rows, if any; return the result."""
    rows: Iterable[object] = (result,)
    if isinstance(result, Page):
        rows = (result, *result.data)
    elif isinstance(result, tuple | list):
        rows = result
    models = [row for row in rows if isinstance(row, Model)]
    if not models:
        return result
    shown = _safe_headers(headers, secrets)
    info = ResponseInfo(status=status, request_id=request_id(shown), headers=shown)
    for model in models:
        # Models are frozen for callers, but these are new and not shared yet. Copying them would
        # cost as much as decoding them did.
        object.__setattr__(model, "response", info)
    return result


def _shown(problem: str, secrets: tuple[Secret, ...]) -> str:
    """Sanitize a problem for display; its message may be cut, its path is kept."""
    message, path = codec.split(problem)
    return (
        f"{sanitize(message.rstrip(), secrets)} @ ${sanitize(path, secrets, limit=_LONGEST_PATH)}"
    )


def _error(
    request: Request[T],
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    secrets: tuple[Secret, ...],
) -> ApiError:
    message, code, details, by_api = _explanation(body)
    if 300 <= status < 400:  # noqa: PLR2004 - HTTP's redirect class
        host = _host(headers.get("location", ""))
        message = f"redirected to {host}; redirects are never followed"
    return error_for_status(status)(
        status=status,
        message=sanitize(message, secrets),
        code=sanitize(code, secrets, limit=100) if code else None,
        details=cast("Mapping[str, object]", clean_details(details, secrets)),
        request_id=request_id(headers, secrets),
        method=request.method,
        path=sanitize(request.path, secrets),
        retry_after=parse_retry_after(headers.get("retry-after"), headers.get("date")),
        headers=_safe_headers(headers, secrets),
        explained=bool(message) and by_api,
    )


_EXPLAINED = frozenset({"error", "message", "code", "details", "ok", "status"})


def _explanation(body: bytes) -> tuple[str, str | None, Mapping[str, object], bool]:
    """Return message, code, details, and whether the API itself wrote them.

    Known bodies: {error, code?, details?} and {ok: false, status, message, error}, either of them
    with further members, and HTML pages from an edge proxy that did not reach the API.
    """
    try:
        data = codec.parse(body)
    except codec.DecodeProblem:
        return body.decode("utf-8", "replace").strip(), None, {}, False  # cut after sanitizing
    if not isinstance(data, Mapping):
        return "", None, {}, False
    error = data.get("error")
    nested = error if isinstance(error, Mapping) else {}
    messages = (data.get("error"), data.get("message"), nested.get("message"))
    message = next((text for text in messages if isinstance(text, str)), "")
    code = data.get("code") or nested.get("code")
    details = data.get("details")
    if not isinstance(details, Mapping):
        # Beside `error`, a version conflict lists the versions, and a start that failed on all of
        # several devices lists the reason for each device.
        others = {name: data[name] for name in data if name not in _EXPLAINED}
        details = others if details is None else {**others, "details": details}
    if isinstance(error, Mapping | list):
        details = {"error": error, **details}
    return message, code if isinstance(code, str) else None, details, True


def _safe_headers(headers: Mapping[str, str], secrets: tuple[Secret, ...]) -> Mapping[str, str]:
    if "set-cookie" in headers or "location" in headers:
        headers = {
            name: redact_url(value) if name == "location" else value
            for name, value in headers.items()
            if name != "set-cookie"
        }
    return clean_values(headers, secrets)


def _host(location: str) -> str:
    try:
        return sanitize(urlsplit(location).netloc.rpartition("@")[2]) or "the same host"
    except ValueError:
        return "an unreadable address"
