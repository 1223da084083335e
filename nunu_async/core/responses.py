"""(status, headers, body) to a model or an error. Pure."""

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
from nunu_async.redact import Secret, clean, clean_details, clean_values, shown_url
from nunu_async.response import ResponseInfo

__all__ = ["read", "request_id"]

T = TypeVar("T")

_LONGEST_PATH = 10_000
# No header is documented; these are what servers and their edges commonly send.
_REQUEST_ID_HEADERS = ("x-request-id", "request-id", "x-amz-request-id", "cf-ray")


def request_id(headers: Mapping[str, str], secrets: tuple[Secret, ...] = ()) -> str | None:
    """Return what the server called the request; `headers` has lower-case names."""
    for name in _REQUEST_ID_HEADERS:
        if headers.get(name):
            return clean(headers[name], secrets, limit=128)
    return None


def read(
    request: Request[T],
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    secrets: tuple[Secret, ...],
) -> T | ApiError | DecodeError:
    """Return the typed answer of a 2xx, or the error to be raised; `headers` are in lower case.

    The error is an ApiError, by status, or a DecodeError for a 2xx of another shape.
    """
    if 200 <= status < 300:  # noqa: PLR2004 - HTTP's success class
        garbled = True
        data: object = None
        try:
            data = None if request.may_be_empty and not body else codec.parse(body)
            garbled = False
            return _with_response(request.answer(data), status, headers, secrets)
        except codec.Misfit as misfit:
            problems = misfit.problems
            if isinstance(data, Mapping) and (
                data.get("error") or False in (data.get("ok"), data.get("success"))
            ):
                failed = data.get("status")
                if type(failed) is int and 400 <= failed < 600 and not request.settles:  # noqa: PLR2004 - HTTP's error classes
                    error = _error(request, failed, headers, body, secrets)
                    error.in_success = True
                    return error
                if words := _explanation(body)[0]:
                    problems = (f"the server says: {words} @ $.error", *problems)
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
    answer: T, status: int, headers: Mapping[str, str], secrets: tuple[Secret, ...]
) -> T:
    """Return the answer with its `response`; where it is rows or has rows, each row has it too."""
    rows: Iterable[object] = (answer,)
    if isinstance(answer, Page):
        rows = (answer, *answer.data)
    elif isinstance(answer, tuple | list):
        rows = answer
    models = [row for row in rows if isinstance(row, Model)]
    if not models:
        return answer
    shown = _safe_headers(headers, secrets)
    info = ResponseInfo(status=status, request_id=request_id(shown), headers=shown)
    for model in models:
        # They are frozen for callers; these were made a moment ago, and nobody else has them yet.
        # A copy of each would cost as much as reading it did.
        object.__setattr__(model, "response", info)
    return answer


def _shown(problem: str, secrets: tuple[Secret, ...]) -> str:
    """Return a problem fit to be shown; what is told may be cut, its path never is."""
    told, path = codec.split(problem)
    return f"{clean(told.rstrip(), secrets)} @ ${clean(path, secrets, limit=_LONGEST_PATH)}"


def _error(
    request: Request[T],
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    secrets: tuple[Secret, ...],
) -> ApiError:
    message, code, details, told = _explanation(body)
    if 300 <= status < 400:  # noqa: PLR2004 - HTTP's redirect class
        host = _host(headers.get("location", ""))
        message = f"redirected to {host}; redirects are never followed"
    return error_for_status(status)(
        status=status,
        message=clean(message, secrets),
        code=clean(code, secrets, limit=100) if code else None,
        details=_safe_details(details, secrets),
        request_id=request_id(headers, secrets),
        method=request.method,
        path=clean(request.path, secrets),
        retry_after=parse_retry_after(headers.get("retry-after"), headers.get("date")),
        headers=_safe_headers(headers, secrets),
        explained=bool(message) and told,
    )


_EXPLAINED = frozenset({"error", "message", "code", "details", "ok", "status"})


def _explanation(body: bytes) -> tuple[str, str | None, Mapping[str, object], bool]:
    """Return message, code, details, and whether the API itself wrote them.

    Known: {error, code?, details?}, {ok: false, status, message, error}, either with further
    members, and pages of HTML from an edge that never asked the API.
    """
    try:
        data = codec.parse(body)
    except codec.Misfit:
        return body.decode("utf-8", "replace").strip(), None, {}, False  # cut once it is clean
    if not isinstance(data, Mapping):
        return "", None, {}, False
    error = data.get("error")
    within = error if isinstance(error, Mapping) else {}
    words = (data.get("error"), data.get("message"), within.get("message"))
    message = next((one for one in words if isinstance(one, str)), "")
    code = data.get("code") or within.get("code")
    details = data.get("details")
    if not isinstance(details, Mapping):
        # A version conflict tells the versions beside its `error`; a start on several devices that
        # failed on all of them tells why for each.
        beside = {name: data[name] for name in data if name not in _EXPLAINED}
        details = beside if details is None else {**beside, "details": details}
    if isinstance(error, Mapping | list):
        details = {"error": error, **details}
    return message, code if isinstance(code, str) else None, details, True


def _safe_details(
    details: Mapping[str, object], secrets: tuple[Secret, ...]
) -> Mapping[str, object]:
    try:
        return cast("Mapping[str, object]", clean_details(details, secrets))
    except RecursionError:
        return {}


def _safe_headers(headers: Mapping[str, str], secrets: tuple[Secret, ...]) -> Mapping[str, str]:
    if "set-cookie" in headers or "location" in headers:
        headers = {
            name: shown_url(value) if name == "location" else value
            for name, value in headers.items()
            if name != "set-cookie"
        }
    return clean_values(headers, secrets)


def _host(location: str) -> str:
    try:
        return clean(urlsplit(location).netloc.rpartition("@")[2]) or "the same host"
    except ValueError:
        return "an unreadable address"
