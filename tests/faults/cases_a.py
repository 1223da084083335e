"""Rows A: the API."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from doubles import ManualClock
from fault_case import PART, Cancel, Case
from fault_play import OPERATIONS, Played
from fault_steps import Step, answer, fin, hold, raw, refuse, rst, serve, truncate
from scripted import page, run

from nunu_async import (
    ApiError,
    AuthenticationError,
    BadRequest,
    Conflict,
    DeadlineExceeded,
    DecodeError,
    NotFound,
    NunuClient,
    PayloadTooLarge,
    PermissionDenied,
    PlanMismatch,
    ProtocolError,
    QuotaExceeded,
    RateLimited,
    RetryPolicy,
    ServerError,
    StorageError,
    Timeouts,
    TransportError,
    UploadedBuild,
    UploadError,
    UploadOutcomeUnknown,
    WaitTimeout,
)

HTML = "<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"
# Where no client could know of a reservation: it frees itself at the end of its time.
UNHEARD = {"I1": "left to the server: no answer ever named the build"}
UNSETTLED = {"I1": "left to the server: it may be assembling the build still"}
UNDELETED = {"I1": "left to the server: it would not cancel"}
TWICE = {"I2": "the answer to the first reservation was lost, and one more is asked for once"}


def no(status: int, *, error: str = "no", **how: Any) -> Step:
    """Answer with the API's own words."""
    return answer(status, {"error": error}, **how)


def retry_after(*values: str, status: int = 429, date: str | None = None) -> Step:
    headers = [("Retry-After", value) for value in values]
    if date is not None:
        headers.append(("Date", date))
    return no(status, headers=tuple(headers))


# --- A1 to A5: what is tried again, and when

_JITTERED = 3 + 0.5 * 0.25 * 3  # what was asked for, and up to a quarter more

A1 = [
    Case("A1", "get", operation="list", steps={"list_runs": [retry_after("3")]}, sleeps=[3.375]),
    Case("A1", "start", operation="start", steps={"start_run": [retry_after("3")]}, sleeps=[3.375]),
    *(
        Case(
            "A1",
            on,
            steps={on: [retry_after("3")]},
            requests={on: 2, "put_part": 3},
            sleeps=[_JITTERED],
        )
        for on in ("initiate_upload", "get_upload_parts", "complete_upload")
    ),
    Case(
        "A1",
        "delete",
        steps={"put_part:1": [refuse(501, "NotImplemented")], "cancel_upload": [retry_after("3")]},
        error=UploadError,
        attributes={"cancelled": True},
        requests={"cancel_upload": 2},
        sleeps=[_JITTERED],
    ),
    Case(
        "A1",
        "longest-jitter",
        operation="list",
        steps={"list_runs": [retry_after("3")]},
        clock=lambda: ManualClock(0.999),
        seconds=(3.0, 3.75),
    ),
]

_NOW = "Fri, 06 Nov 2026 08:49:37 GMT"
A2 = [
    Case(
        "A2",
        variant,
        operation="list",
        steps={"list_runs": [retry_after(sent, date=_NOW)]},
        sleeps=[8 * 1.125],
    )
    for variant, sent in {
        "imf": "Fri, 06 Nov 2026 08:49:45 GMT",
        "rfc850": "Friday, 06-Nov-26 08:49:45 GMT",
        "asctime": "Fri Nov  6 08:49:45 2026",
        "no-zone": "Fri, 06 Nov 2026 08:49:45",
        "another-zone": "Fri, 06 Nov 2026 09:49:45 +0100",
    }.items()
]
A2 += [
    Case(
        "A2",
        "past",
        operation="list",
        steps={"list_runs": [retry_after("Fri, 06 Nov 2026 08:00:00 GMT", date=_NOW)]},
        sleeps=[0.5],
    ),
    # Clocks disagree: a date alone tells nothing that could be waited for.
    Case(
        "A2",
        "no-date-to-read-it-against",
        operation="list",
        steps={"list_runs": [retry_after("Fri, 06 Nov 2026 08:49:45 GMT")]},
        sleeps=[0.5],
    ),
    Case(
        "A2",
        "hours",
        operation="list",
        steps={"list_runs": [retry_after("Fri, 06 Nov 2026 12:00:00 GMT", date=_NOW)]},
        error=RateLimited,
        requests={"list_runs": 1},
        sleeps=0,
    ),
]

_HOSTILE = {
    "negative": ("-5",),
    "nan": ("nan",),
    "inf": ("inf",),
    "beyond-floats": ("1e999",),
    "four-hundred-digits": ("9" * 400,),
    "empty": ("",),
    "word": ("soon",),
    "other-digits": ("\u0663".encode().decode("latin-1"),),
    "hexadecimal": ("0x10",),
    "two-that-differ": ("1", "9"),
    "year-zero": ("Fri, 00 Nov 0000 99:99:99 GMT",),
}
A3 = [
    Case(
        "A3",
        f"{variant}-{status}",
        operation="list",
        steps={"list_runs": [retry_after(*sent, status=status, date=_NOW)]},
        # As if it were not there.
        sleeps=[0.5 if status == 429 else 0.25],
    )
    for variant, sent in _HOSTILE.items()
    for status in ((429, 503) if variant in {"nan", "two-that-differ"} else (429,))
]
A3 += [
    Case(
        "A3",
        "two-alike",
        operation="list",
        steps={"list_runs": [retry_after("2", "2")]},
        sleeps=[2.25],
    ),
    Case(
        "A3",
        "centuries",
        operation="list",
        steps={"list_runs": [retry_after("9999999999")]},
        error=RateLimited,
        attributes={"retry_after": 9999999999.0},
        requests={"list_runs": 1},
        sleeps=0,
    ),
    # It holds back the others, but never the DELETE that is owed, and none for longer than this.
    Case(
        "A3",
        "centuries-for-parts",
        steps={"get_upload_parts": [retry_after("9999999999")]},
        error=RateLimited,
        requests={"get_upload_parts": 1, "cancel_upload": 1},
        sleeps=0,
    ),
    Case(
        "A3",
        "hostile-for-parts",
        steps={"get_upload_parts": [retry_after("nan"), retry_after("-1"), retry_after("1e999")]},
        requests={"get_upload_parts": 4},
        sleeps=3,
    ),
]

_AGAIN = (408, 425, 429, 500, 502, 503, 504, *range(520, 525))
_NEVER = {
    400: BadRequest,
    404: NotFound,
    409: Conflict,
    422: ApiError,
    501: ServerError,
    505: ServerError,
}
A4 = [
    Case(
        "A4",
        f"get-{status}",
        operation="list",
        steps={"list_runs": [no(status).repeat(2)]},
        requests={"list_runs": 3},
        sleeps=2,
    )
    for status in _AGAIN
]
A4 += [
    Case(
        "A4",
        f"get-{status}",
        operation="list",
        steps={"list_runs": [no(status).always()]},
        error=error,
        attributes={"status": status},
        requests={"list_runs": 1},
        sleeps=0,
    )
    for status, error in _NEVER.items()
]
A4 += [
    Case(
        "A4",
        "for-ever",
        operation="list",
        steps={"list_runs": [no(503).always()]},
        error=ServerError,
        requests={"list_runs": 5},
        sleeps=[0.25, 0.5, 1.0, 2.0],
    ),
    Case(
        "A4",
        "unlucky",
        operation="list",
        steps={"list_runs": [no(503).always()]},
        clock=lambda: ManualClock(0.0),
        error=ServerError,
        requests={"list_runs": 5},
        sleeps=[0.0, 0.0, 0.0, 0.0],
    ),
]

A5 = [
    Case(
        "A5",
        "503-then-400",
        operation="list",
        steps={"list_runs": [no(503), no(400)]},
        error=BadRequest,
        requests={"list_runs": 2},
    ),
    Case(
        "A5",
        "reset-then-401",
        operation="list",
        steps={"list_runs": [rst("all"), no(401)]},
        error=AuthenticationError,
        requests={"list_runs": 2},
    ),
    Case(
        "A5",
        "parts",
        steps={"get_upload_parts": [no(503), no(403)]},
        error=PermissionDenied,
        requests={"get_upload_parts": 2, "put_part": 0, "cancel_upload": 1},
    ),
    Case(
        "A5",
        "initiate",
        steps={"initiate_upload": [no(503), no(400)]},
        error=BadRequest,
        requests={"initiate_upload": 2, "cancel_upload": 0},
    ),
    Case(
        "A5",
        "complete",
        steps={"complete_upload": [no(503), no(400)]},
        error=BadRequest,
        requests={"complete_upload": 2, "get_build": 2, "cancel_upload": 1},
    ),
]

# --- A6 to A9: answers that were lost

_LOST = {
    "reset": rst("all", effect=True),
    "closed": fin("all", effect=True),
    "cut-short": truncate(9),
    "cut-short-without-a-length": truncate(9, framing="close"),
    "half-a-status-line": raw(b"HTTP/1.1 20", effect=True),
    "held": hold(effect=True),
    "500": no(500, effect=True),
    "502-page": answer(502, HTML, effect=True),
    "504": answer(504, "", effect=True),
    "408": no(408, effect=True),
    "not-json": serve(body=HTML),
    "empty": serve(body=b""),
}
# Of these the server has said "no" by itself, so that one retry is all there is to it.
_NOT_ACTED = {"429": no(429), "503": no(503)}


def _orphans(count: int) -> Callable[[Played], None]:
    def look(played: Played) -> None:
        uploading = [b for b in played.server.builds.values() if b.state == "uploading"]
        assert len(uploading) == count

    return look


A6 = [
    Case(
        "A6",
        variant,
        steps={"initiate_upload": [step]},
        attributes={"possible_orphans": 1},
        requests={"initiate_upload": 2, "put_part": 3, "cancel_upload": 0},
        also=_orphans(1),
        allow=UNHEARD | TWICE,
    )
    for variant, step in _LOST.items()
]
A6 += [
    Case(
        "A6",
        f"auto-delete-{variant}",
        steps={"initiate_upload": [step]},
        options={"auto_delete": True},
        error=UploadOutcomeUnknown,
        attributes={"stage": "initiate", "build_id": ""},
        requests={"initiate_upload": 1, "put_part": 0, "cancel_upload": 0},
        also=_orphans(1),
        allow=UNHEARD,
    )
    for variant, step in _LOST.items()
]
A6 += [
    Case(
        "A6",
        f"{kind}-{variant}",
        steps={"initiate_upload": [step]},
        options=options,
        attributes={"possible_orphans": 0},
        requests={"initiate_upload": 2},
    )
    for kind, options in (("plain", {}), ("auto-delete", {"auto_delete": True}))
    for variant, step in _NOT_ACTED.items()
]
A6 += [
    Case(
        "A6",
        "lost-twice",
        steps={"initiate_upload": [rst("all", effect=True).repeat(2)]},
        attributes={"possible_orphans": 2},
        requests={"initiate_upload": 3, "put_part": 3},
        also=_orphans(2),
        allow=UNHEARD | TWICE,
    ),
    Case(
        "A6",
        "lost-for-ever",
        steps={"initiate_upload": [rst("all", effect=True).always()]},
        error=TransportError,
        requests={"initiate_upload": 3, "put_part": 0},
        also=_orphans(3),
        allow=UNHEARD | TWICE,
    ),
    Case(
        "A6",
        "lost-then-refused",
        steps={"initiate_upload": [rst("all", effect=True), no(402)]},
        error=QuotaExceeded,
        requests={"initiate_upload": 2, "put_part": 0},
        also=_orphans(1),
        allow=UNHEARD,
    ),
    # The status is the answer, whatever becomes of its body.
    Case(
        "A6",
        "refusal-cut-short",
        steps={"initiate_upload": [answer(413, "x" * 1000, cut=5)]},
        options={"auto_delete": True},
        error=PayloadTooLarge,
        requests={"initiate_upload": 1},
    ),
]

_QUOTA = {
    "error": "Storage quota exceeded",
    "code": "QUOTA_EXCEEDED",
    "details": {"used": 90, "capacity": 100, "needed": 131073},
}
A7 = [
    Case(
        "A7",
        variant,
        steps={"initiate_upload": [answer(402, body)]},
        options=options,
        error=QuotaExceeded,
        attributes=figures,
        requests={"api": 1, "storage": 0},
        sleeps=0,
    )
    for variant, body, options, figures in (
        ("figures", _QUOTA, {}, {"used": 90, "capacity": 100, "needed": 131073}),
        ("auto-delete", _QUOTA, {"auto_delete": True}, {"code": "QUOTA_EXCEEDED"}),
        ("no-figures", {"error": "full"}, {}, {"used": None, "capacity": None, "needed": None}),
        (
            "odd-figures",
            _QUOTA | {"details": {"used": "90", "capacity": None, "needed": True}},
            {},
            {"used": None, "capacity": None, "needed": None},
        ),
        ("page", HTML, {}, {"status": 402}),
    )
]


def _found(played: Played) -> None:
    (row,) = (run["row"] for run in played.server.runs)
    assert played.result.job_ids == (row["job_id"],)
    (tag,) = row["tags"]
    assert tag in played.result.message


def _not_found(played: Played) -> None:
    (row,) = (run["row"] for run in played.server.runs)
    assert played.error is not None
    assert [played.error.marker] == row["tags"]  # type: ignore[attr-defined] - a NunuError


_LOST_ERRORS = {
    "500": ServerError,
    "502-page": ServerError,
    "504": ServerError,
    "408": ApiError,
    "not-json": DecodeError,
    "empty": DecodeError,
    "cut-short-without-a-length": DecodeError,
    "held": DeadlineExceeded,
}
# Time moves in eighths of the stall limit; a look has five seconds.
_SHORT = Timeouts(call=30.0, stall=8.0)
A8 = [
    Case(
        "A8",
        f"found-{variant}",
        operation="start",
        steps={"start_run": [step]},
        server={"start_lag": 1},
        timeouts=_SHORT,
        requests={"start_run": 1, "list_runs": 2},
        sleeps=2,
        also=_found,
    )
    for variant, step in _LOST.items()
]
A8 += [
    Case(
        "A8",
        f"not-found-{variant}",
        operation="start",
        steps={"start_run": [step]},
        server={"start_lag": 99},
        timeouts=_SHORT,
        error=_LOST_ERRORS.get(variant, TransportError),
        match="nothing with the tag nunu-async-",
        requests={"start_run": 1, "list_runs": 3},
        sleeps=3,
        also=_not_found,
    )
    for variant, step in _LOST.items()
    if variant in {"reset", "half-a-status-line", "held", "502-page", "408", "empty"}
]

_DONE = ("reset", "closed", "cut-short", "half-a-status-line", "500", "502-page", "504", "empty")


def _whole(played: Played) -> None:
    (build,) = played.server.builds.values()
    assert build.state == "completed"
    assert isinstance(played.result, UploadedBuild)


def _standing(status: str) -> Step:
    return serve(edit=lambda sent: sent | {"status": status})


A9 = [
    Case(
        "A9",
        f"settled-{variant}",
        steps={"complete_upload": [_LOST[variant]]},
        requests={"complete_upload": 1, "get_build": 1, "cancel_upload": 0},
        also=_whole,
    )
    for variant in _DONE
]
A9 += [
    # The list of builds lags: only the second look shows it, after a 404 to the second complete.
    Case(
        "A9",
        "then-404",
        steps={
            "complete_upload": [rst("all", effect=True)],
            "get_build": [_standing("uploading")],
        },
        requests={"complete_upload": 2, "get_build": 2, "cancel_upload": 0},
        also=_whole,
    ),
    Case(
        "A9",
        "then-404-and-404",
        steps={
            "complete_upload": [rst("all", effect=True)],
            "get_build": [no(404).always()],
        },
        error=UploadOutcomeUnknown,
        attributes={"stage": "complete", "cancelled": None},
        requests={"complete_upload": 2, "get_build": 2, "cancel_upload": 0},
    ),
    Case(
        "A9",
        "status-unknown",
        steps={
            "complete_upload": [rst("all", effect=True)],
            "get_build": [no(503).always()],
        },
        error=UploadOutcomeUnknown,
        requests={"complete_upload": 2, "get_build": 2, "cancel_upload": 0},
    ),
    Case(
        "A9",
        "another-word",
        steps={
            "complete_upload": [rst("all", effect=True)],
            "get_build": [_standing("UNHEALTHY").always()],
        },
        error=UploadOutcomeUnknown,
        requests={"complete_upload": 2, "cancel_upload": 0},
    ),
    Case(
        "A9",
        "another-build",
        steps={
            "complete_upload": [rst("all", effect=True)],
            "get_build": [serve(edit=lambda sent: sent | {"build_id": "another"}).always()],
        },
        error=UploadOutcomeUnknown,
        requests={"cancel_upload": 0},
    ),
    Case(
        "A9",
        "another-size",
        steps={
            "complete_upload": [rst("all", effect=True)],
            "get_build": [serve(edit=lambda sent: sent | {"size": 1}).always()],
        },
        error=UploadOutcomeUnknown,
        requests={"cancel_upload": 0},
    ),
    Case(
        "A9",
        "not-acted",
        steps={"complete_upload": [rst("all")]},
        requests={"complete_upload": 2, "get_build": 1, "cancel_upload": 0},
        also=_whole,
    ),
    Case(
        "A9",
        "lost-for-ever",
        steps={"complete_upload": [rst("all").always()]},
        error=UploadOutcomeUnknown,
        requests={"complete_upload": 5, "get_build": 5, "cancel_upload": 0},
        allow=UNSETTLED,
    ),
    Case(
        "A9",
        "single-part",
        operation="single",
        steps={"complete_upload": [fin("all", effect=True)]},
        requests={"complete_upload": 1, "get_build": 1, "cancel_upload": 0},
        also=_whole,
    ),
    # Answers of the API itself end the doubt: the server has failed, and says that it has no build.
    Case(
        "A9",
        "failed-in-its-own-words",
        steps={"complete_upload": [no(500).always()]},
        error=ServerError,
        requests={"complete_upload": 5, "get_build": 5, "cancel_upload": 1},
    ),
]

# --- A10 to A13: completing and cancelling


def _names_it(**more: Any) -> Step:
    """Answer with the right build's id, and with what makes that no success."""
    return answer(200, {"build_id": "build-1", **more})


A10 = [
    Case(
        "A10",
        f"{variant}-once",
        steps={"complete_upload": [step]},
        requests={"complete_upload": (1, 2), "get_build": 1, "cancel_upload": 0},
        also=_whole,
    )
    for variant, step in {
        "html": answer(200, HTML),
        "empty": answer(200, b""),
        "204": answer(204, b""),
        "html-of-one-that-worked": serve(body=HTML),
        "error-of-one-that-worked": serve(body={"error": "InternalError"}),
        "another-build-of-one-that-worked": serve(body={"build_id": "another"}),
        "not-success-of-one-that-worked": serve(body={"status": "queued"}),
        "nothing-of-one-that-worked": serve(body={}),
        "not-ok-of-one-that-worked": serve(edit=lambda sent: sent | {"ok": False}),
        "no-success-of-one-that-worked": serve(edit=lambda sent: sent | {"success": False}),
        "code-of-one-that-worked": answer(200, {"build_id": "build-1", "code": "OK"}, effect=True),
        "not-ok": _names_it(ok=False, message="assembly failed"),
        "no-success": _names_it(success=False),
        "code": _names_it(code="INVALID_PART", message="part 2 is missing"),
        "errors": _names_it(errors=["part 2 is missing"]),
        "a-ticket": _names_it(upload_type="multipart"),
        "an-echo": _names_it(upload_id="u", object_key="o", parts=[]),
    }.items()
]
A10 += [
    Case(
        "A10",
        f"{variant}-for-ever",
        steps={"complete_upload": [step.always()]},
        error=UploadOutcomeUnknown,
        cause=DecodeError,
        attributes={"cancelled": None},
        requests={"complete_upload": 5, "cancel_upload": 0},
        allow=UNSETTLED,
    )
    for variant, step in (
        ("html", answer(200, HTML)),
        ("empty", answer(200, b"")),
        ("204", answer(204, b"")),
        ("another-build", answer(200, {"build_id": "another"})),
        ("nothing", answer(200, {})),
    )
]
A10.append(
    Case(
        "A10",
        "error-for-ever",
        steps={"complete_upload": [answer(200, {"error": "InternalError"}).always()]},
        error=DecodeError,
        match="was cancelled on the server",
        requests={"complete_upload": 5, "get_build": 5, "cancel_upload": 1},
    )
)

_BAD_PARTS = {"error": "InvalidPart: part 2", "code": "InvalidPart"}
A11 = [
    Case(
        "A11",
        variant,
        operation=operation,
        steps={"complete_upload": [answer(status, body)]},
        error=error,
        match="was cancelled on the server",
        requests={"complete_upload": 1, "get_build": 1, "cancel_upload": 1},
        sleeps=0,
    )
    for variant, operation, status, body, error in (
        ("400-invalid-part", "upload", 400, _BAD_PARTS, BadRequest),
        ("400-page", "upload", 400, HTML, BadRequest),
        ("400-single-part", "single", 400, {"error": "empty"}, BadRequest),
        ("404-first", "upload", 404, {"error": "no such upload"}, NotFound),
        ("413", "upload", 413, {"error": "too large"}, PayloadTooLarge),
        ("422", "upload", 422, {"error": "parts out of order"}, ApiError),
    )
]

# As when an edge sends it twice, and tells of the second one.
A11 += [
    Case(
        "A11",
        f"{status}-{operation}-that-worked",
        operation=operation,
        steps={"complete_upload": [answer(status, {"error": "no"}, effect=True)]},
        requests={"complete_upload": 1, "get_build": 1, "cancel_upload": 0},
        sleeps=0,
        also=_whole,
    )
    for operation, status in (
        *(("upload", status) for status in (400, 401, 403, 404, 410, 412, 422)),
        ("single", 404),
    )
]

# Of a second request, too, silence is no "no".
A11 += [
    Case(
        "A11",
        f"404-and-{variant}",
        steps={
            "complete_upload": [answer(404, {"error": "no"}, effect=True)],
            "get_build": [step.always()],
        },
        error=UploadOutcomeUnknown,
        requests={"complete_upload": 1, "cancel_upload": 0},
        seconds=(0.0, 16.0),
    )
    for variant, step in (
        ("no-word-of-the-build", no(503)),
        ("no-answer-of-the-build", hold()),
        ("a-build-that-is-odd", serve(edit=lambda sent: sent | {"status": "UNHEALTHY"})),
    )
]
A11 += [
    Case(
        "A11",
        "400-and-no-word-of-the-build",
        steps={
            "complete_upload": [answer(400, {"error": "InvalidPart"})],
            "get_build": [no(503).always()],
        },
        error=BadRequest,
        requests={"complete_upload": 1, "cancel_upload": 1},
        seconds=(0.0, 10.0),
    ),
    Case(
        "A11",
        "404-and-one-hiccup",
        steps={
            "complete_upload": [answer(404, {"error": "no"}, effect=True)],
            "get_build": [no(503)],
        },
        requests={"complete_upload": 1, "get_build": 2, "cancel_upload": 0},
        also=_whole,
    ),
    Case(
        "A11",
        "429-is-not-asked-about",
        steps={"complete_upload": [retry_after("60").always()]},
        error=RateLimited,
        requests={"get_build": 0, "cancel_upload": 1},
    ),
]

A12 = [
    Case(
        "A12",
        "ten-minutes",
        steps={"complete_upload": [serve(delay=590.0)]},
        requests={"complete_upload": 1, "get_build": 0},
        seconds=(590.0, 600.0),
        also=_whole,
    ),
    # An upload that the server assembles for longer is asked for, and not begun again.
    Case(
        "A12",
        "longer",
        steps={"complete_upload": [hold(effect=True)]},
        requests={"complete_upload": 1, "get_build": 1, "cancel_upload": 0},
        seconds=(600.0, 610.0),
        also=_whole,
    ),
    Case(
        "A12",
        "longer-and-not-done",
        steps={"complete_upload": [hold()]},
        error=UploadOutcomeUnknown,
        cause=DeadlineExceeded,
        requests={"complete_upload": 1, "get_build": 1, "cancel_upload": 0},
        seconds=(600.0, 610.0),
        allow=UNSETTLED,
    ),
    Case(
        "A12",
        "other-calls-take-a-minute",
        operation="list",
        steps={"list_runs": [hold()]},
        requests={"list_runs": 2},
        seconds=(60.0, 70.0),
    ),
]

_BROKEN = refuse(501, "NotImplemented")
_SIX_SETBACKS = [no(409), rst("all"), answer(200, b""), no(503), fin(0), answer(502, HTML)]
A13 = [
    Case(
        "A13",
        variant,
        steps={"put_part:1": [_BROKEN], "cancel_upload": steps},
        error=UploadError,
        cause=StorageError,
        attributes={"cancelled": cancelled, "status": 501},
        requests={"put_part": 1, "cancel_upload": count},
        allow={} if cancelled else UNDELETED,
    )
    for variant, steps, count, cancelled in (
        ("404", [serve(status=404, body={"error": "no such upload"})], 1, True),
        ("410", [serve(status=410, body={"error": "gone"})], 1, True),
        ("503-three-times", [no(503).repeat(3)], 4, True),
        ("502-page-three-times", [answer(502, HTML).repeat(3)], 4, True),
        ("resets-three-times", [rst("all").repeat(3)], 4, True),
        ("done-and-lost", [rst("all", effect=True)], 2, True),
        ("409-three-times", [no(409, error="parts in flight").repeat(3)], 4, True),
        ("423-425-408", [no(423), no(425), no(408)], 4, True),
        ("not-success-three-times", [answer(200, {"success": False}).repeat(3)], 4, True),
        ("six-failures-of-six-kinds", _SIX_SETBACKS, 7, True),
        ("409-for-ever", [no(409).always()], 7, False),
        ("500-for-ever", [no(500).always()], 7, False),
        ("resets-for-ever", [rst("all").always()], 7, False),
        ("400", [no(400).always()], 1, False),
        ("401", [no(401).always()], 1, False),
        ("not-success", [answer(200, {"success": False}).always()], 7, False),
        ("html", [answer(200, HTML).always()], 7, False),
        ("404-of-an-edge", [answer(404, HTML).always()], 7, False),
    )
]
A13 += [
    # A policy for requests in general is none for what cleans up.
    Case(
        "A13",
        "409-with-one-attempt-allowed",
        steps={"put_part:1": [_BROKEN], "cancel_upload": [no(409).repeat(3)]},
        retry=RetryPolicy(attempts=1, part_attempts=1),
        error=UploadError,
        attributes={"cancelled": True},
        requests={"cancel_upload": 4},
        seconds=(0.0, 30.0),
    ),
    Case(
        "A13",
        "dead",
        steps={"put_part:1": [_BROKEN], "cancel_upload": [hold().always()]},
        error=UploadError,
        cause=StorageError,
        attributes={"cancelled": False},
        requests={"cancel_upload": 2},
        seconds=(30.0, 35.0),
        allow=UNDELETED,
    ),
    # One that hangs has a part of the time, and the next one goes well.
    Case(
        "A13",
        "hangs-once",
        steps={"put_part:1": [_BROKEN], "cancel_upload": [hold()]},
        error=UploadError,
        attributes={"cancelled": True},
        requests={"cancel_upload": 2},
        seconds=(15.0, 25.0),
    ),
    Case(
        "A13",
        "asked-to-wait-too-long",
        steps={"put_part:1": [_BROKEN], "cancel_upload": [retry_after("60").always()]},
        error=UploadError,
        attributes={"cancelled": False},
        requests={"cancel_upload": 1},
        sleeps=0,
        allow=UNDELETED,
    ),
    # Other limits are spent, and this one begins anew.
    Case(
        "A13",
        "after-a-spent-deadline",
        steps={"get_upload_parts": [hold().always()]},
        error=DeadlineExceeded,
        requests={"get_upload_parts": 2, "cancel_upload": 1},
        seconds=(120.0, 130.0),
    ),
]

# --- A28: "in progress" is the answer to a complete

_BUSY = {"error": "the upload is being completed", "code": "COMPLETE_IN_PROGRESS"}
_ASSEMBLING = _standing("uploading")
A28 = [
    Case(
        "A28",
        f"{status}-{variant}",
        operation=operation,
        steps={"complete_upload": steps(status)},
        requests={"complete_upload": count, "cancel_upload": 0},
        also=_whole,
    )
    for status in (409, 423, 425)
    for variant, operation, steps, count in (
        ("first", "upload", lambda status: [answer(status, _BUSY)], 2),
        ("single-part", "single", lambda status: [answer(status, _BUSY)], 2),
        ("that-worked", "upload", lambda status: [answer(status, _BUSY, effect=True)], 1),
        ("eleven-times", "upload", lambda status: [answer(status, _BUSY).repeat(11)], 12),
        ("of-an-edge", "upload", lambda status: [answer(status, HTML).repeat(2)], 3),
        ("after-a-500", "upload", lambda status: [no(500), answer(status, _BUSY).repeat(7)], 9),
        ("then-500", "upload", lambda status: [answer(status, _BUSY), no(500)], 3),
    )
]
A28 += [
    Case(
        "A28",
        f"{variant}-for-ever",
        steps={"complete_upload": steps, "get_build": looks},
        error=UploadOutcomeUnknown,
        attributes={"cancelled": None, "stage": "complete"},
        requests={"complete_upload": (20, 60), "cancel_upload": 0},
        seconds=(570.0, 601.0),
        allow=UNSETTLED,
    )
    for variant, steps, looks in (
        ("409", [answer(409, _BUSY).always()], []),
        ("500-and-409", [no(500), answer(409, _BUSY).always()], []),
        ("409-and-no-word-of-the-build", [answer(409, _BUSY).always()], [no(503).always()]),
        ("409-and-no-build", [answer(409, _BUSY).always()], [no(404).always()]),
    )
]
A28 += [
    Case(
        "A28",
        f"409-then-{variant}",
        steps={"complete_upload": [answer(409, _BUSY).repeat(2), step]},
        error=UploadOutcomeUnknown,
        requests={"complete_upload": 3, "cancel_upload": 0},
        allow=UNSETTLED,
    )
    for variant, step in (
        ("400", no(400)),
        ("404", no(404)),
        ("403", no(403)),
        ("501", no(501).always()),
    )
]
A28 += [
    Case(
        "A28",
        "409-then-400-of-one-that-worked",
        steps={"complete_upload": [answer(409, _BUSY).repeat(2), no(400, effect=True)]},
        requests={"complete_upload": 3, "cancel_upload": 0},
        also=_whole,
    ),
    # The build is assembled while the answers lag behind.
    Case(
        "A28",
        "409-and-a-build-that-is-seen-late",
        steps={
            "complete_upload": [
                answer(409, _BUSY, effect=True),
                answer(409, _BUSY).repeat(2),
            ],
            "get_build": [_ASSEMBLING.repeat(2)],
        },
        requests={"complete_upload": 3, "get_build": 3, "cancel_upload": 0},
        also=_whole,
    ),
    # That is the build's own end, whatever the answer to the complete means.
    Case(
        "A28",
        "409-and-a-build-that-failed",
        steps={
            "complete_upload": [answer(409, _BUSY).always()],
            "get_build": [_ASSEMBLING, _standing("FAILED").always()],
        },
        error=Conflict,
        requests={"complete_upload": 2, "cancel_upload": 1},
        seconds=(0.0, 10.0),
    ),
    Case(
        "A28",
        "409-with-retry-after",
        steps={"complete_upload": [retry_after("45", status=409)]},
        requests={"complete_upload": 2, "cancel_upload": 0},
        seconds=(45.0, 60.0),
        also=_whole,
    ),
    Case(
        "A28",
        "409-with-one-attempt-allowed",
        steps={"complete_upload": [answer(409, _BUSY).repeat(3)]},
        retry=RetryPolicy(attempts=1),
        requests={"complete_upload": 4, "cancel_upload": 0},
        also=_whole,
    ),
    Case(
        "A28",
        "409-and-cancelled",
        steps={"complete_upload": [answer(409, _BUSY).always()]},
        cancel=Cancel(operation="complete_upload", moment="answered", nth=3),
        error=asyncio.CancelledError,
        requests={"complete_upload": (3, 4), "cancel_upload": 0},
        allow=UNSETTLED,
    ),
]

# --- A14 to A16: plans and URLs that make no sense


def _urls(change: Callable[[list[Any]], Iterable[Any]]) -> Step:
    return serve(edit=lambda sent: {"upload_urls": list(change(sent["upload_urls"]))})


def _each(**members: Callable[[dict[str, Any]], Any]) -> Callable[[list[Any]], list[Any]]:
    return lambda urls: [url | {name: of(url) for name, of in members.items()} for url in urls]


def _swapped(urls: list[Any]) -> list[Any]:
    """Exchange addresses and leave what they are for."""
    first, second = (url["url"] for url in urls) if len(urls) > 1 else ("", "")
    if not first:
        other = re.sub(r"partNumber=\d", f"partNumber={3 - urls[0]['part_number']}", urls[0]["url"])
        return [urls[0] | {"url": other}]
    return [urls[0] | {"url": second}, urls[1] | {"url": first}]


def _extra(urls: list[Any]) -> list[Any]:
    return [*urls, urls[0] | {"part_number": 99}, urls[1] | {"part_number": 0}]


A14 = [
    Case(
        "A14",
        variant,
        options={"concurrency": 3},
        steps={"get_upload_parts": [_urls(change).repeat(times)]},
        requests={"get_upload_parts": count, "put_part": 3, "put_part:1": 1, "complete_upload": 1},
    )
    for variant, times, count, change in (
        ("fewer", 1, 2, lambda urls: urls[:1]),
        ("fewer-twice", 2, 3, lambda urls: urls[:1]),
        ("none", 2, 3, lambda _: []),
        ("extra", 1, 1, _extra),
        ("shuffled", 1, 1, lambda urls: urls[::-1]),
        ("numbers-as-strings", 1, 1, _each(part_number=lambda url: str(url["part_number"]))),
        ("other-members", 1, 1, _each(expires_at=lambda _: None)),
        ("twice-each", 1, 1, lambda urls: urls + urls),
    )
]
A14 += [
    Case(
        "A14",
        variant,
        steps={"get_upload_parts": [_urls(change).always()]},
        error=DecodeError,
        requests={"get_upload_parts": count, "put_part": 0, "cancel_upload": 1},
    )
    for variant, count, change in (
        ("none-for-ever", 3, lambda _: []),
        ("one-for-ever", 3, lambda urls: urls[1:2]),
        ("others-for-ever", 3, lambda urls: [urls[0] | {"part_number": 99}]),
        ("words-for-numbers", 1, _each(part_number=lambda _: "first")),
        ("null-for-a-url", 1, _each(url=lambda _: None)),
    )
]
A14 += [
    # Nothing is sent where no storage is, and nothing goes up under another part's URL unseen.
    Case(
        "A14",
        f"url-{variant}",
        size=PART,
        steps={"get_upload_parts": [_urls(_each(url=lambda _, sent=sent: sent)).always()]},
        error=UploadError,
        match="nothing was sent",
        requests={"put_part": 0, "foreign": 0, "cancel_upload": 1},
    )
    for variant, sent in {
        "empty": "",
        "of-a-file": "file:///etc/passwd",
        "with-user-info": "https://a:b@storage.example/x",
        "of-a-machine-s-secrets": "http://169.254.169.254/latest/meta-data",
        "unreadable": "http://[::1",
    }.items()
]
A14 += [
    Case(
        "A14",
        "of-another-part",
        size=2 * PART,
        steps={"get_upload_parts": [_urls(_swapped)]},
        requests={"get_upload_parts": (2, 4), "put_part": 2, "complete_upload": 1},
    ),
    Case(
        "A14",
        "of-another-part-for-ever",
        size=2 * PART,
        steps={"get_upload_parts": [_urls(_swapped).always()]},
        error=DecodeError,
        requests={"put_part": 0, "complete_upload": 0, "cancel_upload": 1},
    ),
]

A15 = [
    Case(
        "A15",
        f"{variant}-twice",
        steps={"get_upload_parts": [step.repeat(2)]},
        requests={"get_upload_parts": 3, "put_part": 3},
        sleeps=2,
    )
    for variant, step in {
        "500": no(500),
        "502-page": answer(502, HTML),
        "503": no(503),
        "429": no(429),
        "reset": rst("all"),
        "not-json": answer(200, HTML),
    }.items()
]
A15 += [
    Case(
        "A15",
        variant,
        steps={"get_upload_parts": [step.always()]},
        error=error,
        match="was cancelled on the server",
        requests={"get_upload_parts": count, "put_part": 0, "cancel_upload": 1},
    )
    for variant, count, error, step in (
        ("503-for-ever", 5, ServerError, no(503)),
        ("429-for-ever", 5, RateLimited, no(429)),
        ("400", 1, BadRequest, no(400, error="invalid upload_id")),
        ("404", 1, NotFound, no(404, error="no such upload")),
    )
]
A15 += [
    # Forgotten by the server in the middle: an upload that is kept for later starts anew.
    Case(
        "A15",
        f"{status}-in-the-middle-of-one-to-resume",
        operation="resume",
        size=6 * PART,
        steps={"get_upload_parts": [serve(), no(status, error="no such upload")]},
        requests={"initiate_upload": 2, "put_part": (6, 12), "cancel_upload": 1},
        allow={"I2": "the second call starts anew, as it has to"},
    )
    for status in (400, 404)
]


def _ticket(**members: object) -> Step:
    return serve(edit=lambda sent: {n: v for n, v in (sent | members).items() if v != "gone"})


def _named(members: dict[str, Any], *, gone: str) -> dict[str, Any]:
    return {name: value for name, value in members.items() if name != gone}


A16 = [
    Case(
        "A16",
        variant,
        steps={"initiate_upload": [_ticket(**members)]},
        error=PlanMismatch,
        match="was cancelled on the server",
        requests={"initiate_upload": 1, "get_upload_parts": 0, "cancel_upload": 1},
    )
    for variant, members in {
        "one-part-more": {"total_parts": 4},
        "one-part-less": {"total_parts": 2},
        "no-parts": {"total_parts": 0},
        "fewer-than-no-parts": {"total_parts": -3},
        "a-billion-parts": {"total_parts": 10**9},
        "as-many-as-fit": {"total_parts": 2**63 - 1},
        "empty-parts": {"part_size": 0},
        "negative-parts": {"part_size": -PART},
        "parts-larger-than-the-file": {"part_size": 10**12},
    }.items()
]
A16 += [
    Case(
        "A16",
        variant,
        steps={"initiate_upload": [_ticket(**members)]},
        error=DecodeError,
        requests={"initiate_upload": 1, "put_part": 0, "cancel_upload": 1 - left},
        allow=UNHEARD if left else {},
    )
    for variant, left, members in (
        ("no-upload-id", 0, {"upload_id": "gone"}),
        ("null-for-an-upload-id", 0, {"upload_id": None}),
        ("no-count", 0, {"total_parts": "gone"}),
        ("null-for-a-count", 0, {"total_parts": None}),
        ("half-a-part", 0, {"total_parts": 2.5}),
        ("beyond-64-bits", 0, {"total_parts": 10**30}),
        ("unknown-type", 0, {"upload_type": "parallel"}),
        ("no-type", 0, {"upload_type": "gone"}),
        ("single-part-without-a-url", 0, {"upload_type": "single-part"}),
        # Without these nothing can be cancelled: the DELETE has to name both.
        ("no-build-id", 1, {"build_id": "gone"}),
        ("no-object-key", 1, {"object_key": "gone"}),
    )
]

# --- A17: answers from another time

_STRANGE_RUN = run(
    multiplayer_run_id="1g20ccrgksb",
    state="PAUSED_FOR_REVIEW",
    result="FLAKY",
    bug_info=None,
    build=None,
    priority={"level": 9},
    players=[],
    test={"id": "x", "name": "y", "type": "telepathy", "owner": None},
)


def _as_it_came(played: Played) -> None:
    (row,) = played.result.data
    assert row.to_dict() == _STRANGE_RUN
    assert (row.state, str(row.state), row.state.is_known) == (
        "paused_for_review",
        "PAUSED_FOR_REVIEW",
        False,
    )
    assert not row.is_terminal
    assert row.extra["priority"] == {"level": 9}


def _kept_members(played: Played) -> None:
    assert played.result.extra["region"] == ["eu", None]
    assert played.result.status == "QUARANTINED"


A17 = [
    Case(
        "A17",
        "row",
        operation="list",
        steps={"list_runs": [answer(200, page([_STRANGE_RUN]) | {"took_ms": 3})]},
        also=_as_it_came,
    ),
    Case(
        "A17",
        "build",
        operation="get_build",
        steps={
            "get_build": [
                answer(
                    200,
                    {
                        "build_id": "build-0",
                        "status": "QUARANTINED",
                        "region": ["eu", None],
                        "size": 5.0,
                    },
                )
            ]
        },
        also=_kept_members,
    ),
    Case(
        "A17",
        "upload",
        steps={
            "initiate_upload": [_ticket(expires=None, region="eu", part_size=float(PART))],
            "complete_upload": [serve(edit=lambda sent: sent | {"took": 5, "warnings": []})],
            "get_upload_parts": [serve(edit=lambda sent: sent | {"expires_in": 3600})],
        },
        requests={"put_part": 3, "complete_upload": 1},
    ),
    # A number written as text is only read where one is known to have been: part numbers (A14).
    Case(
        "A17",
        "count-as-a-string",
        steps={"initiate_upload": [_ticket(total_parts="3")]},
        error=DecodeError,
        match=r"expected an integer, got str @ \$\.total_parts",
        requests={"initiate_upload": 1, "cancel_upload": 1},
    ),
]

# --- A18, A19: what a key may not do; stopping


def _kept_then_done(played: Played) -> None:
    assert any("is kept on the server" in note for note in played.first_error.__notes__)  # type: ignore[union-attr] - it has notes
    _whole(played)


_MISSING = "Missing permission: project:manage-build-storage"
_WORDS = {401: "Invalid API key", 403: _MISSING}
_TYPES = {401: AuthenticationError, 403: PermissionDenied}
_STAGES = (
    ("initiate_upload", 0, 0),
    ("get_upload_parts", 0, 1),
    ("complete_upload", 3, 1),
)
A18 = [
    Case(
        "A18",
        f"{status}-{on}",
        steps={on: [no(status, error=_WORDS[status]).always()]},
        error=_TYPES[status],
        match=_WORDS[status],
        requests={on: 1, "put_part": parts, "cancel_upload": cancels},
        sleeps=0,
    )
    for status in (401, 403)
    for on, parts, cancels in _STAGES
]
A18 += [
    # The key is refused from some moment on: nothing can be cancelled with it either.
    Case(
        "A18",
        f"{status}-from-the-middle-on",
        size=6 * PART,
        steps={
            "get_upload_parts": [serve(), no(status).always()],
            "cancel_upload": [no(status).always()],
        },
        error=_TYPES[status],
        match="could not be cancelled on the server",
        requests={"get_upload_parts": 2, "cancel_upload": 1, "complete_upload": 0},
        allow=UNDELETED,
    )
    for status in (401, 403)
]
A18 += [
    Case(
        "A18",
        f"{status}-{on}-to-resume",
        operation="resume",
        steps={on: [no(status, error=_WORDS[status])]},
        requests={"initiate_upload": 1, "put_part": 3, "complete_upload": (1, 2)}
        | {"cancel_upload": 0},
        also=_kept_then_done,
    )
    for status in (401, 403)
    for on in ("get_upload_parts", "complete_upload")
]
A18 += [
    Case(
        "A18",
        f"{status}-{operation}",
        operation=operation,
        steps={on: [no(status, error="key is disabled").always()]},
        error=_TYPES[status],
        match="key is disabled",
        requests={"api": 1},
        sleeps=0,
    )
    for status in (401, 403)
    for operation, on in (("list", "list_runs"), ("start", "start_run"), ("stop", "stop_runs"))
]


def _stopped(*oks: tuple[str, bool, int]) -> dict[str, object]:
    results = [
        {"job_id": name, "ok": ok, "status": status}
        | ({"message": "stopped"} if ok else {"error": "Job already completed"})
        for name, ok, status in oks
    ]
    stopped = sum(ok for _, ok, _ in oks)
    return {
        "ok": stopped == len(oks),
        "message": f"{stopped} stopped",
        "received_count": len(oks),
        "stopped_count": stopped,
        "results": results,
    }


def _one_of_two(played: Played) -> None:
    assert [one.job_id for one in played.result.stopped] == ["job-1"]
    assert [(one.job_id, one.status) for one in played.result.failed] == [("job-2", 500)]


A19 = [
    Case(
        "A19",
        "207",
        operation="stop",
        steps={
            "stop_runs": [
                answer(207, _stopped(("job-1", True, 200), ("job-2", False, 500))).always()
            ]
        },
        attributes={"ok": False, "stopped_count": 1},
        requests={"stop_runs": 1},
        also=_one_of_two,
    ),
    Case(
        "A19",
        "207-none",
        operation="stop",
        steps={"stop_runs": [answer(207, _stopped(("job-1", False, 500), ("job-2", False, 500)))]},
        attributes={"ok": False, "stopped_count": 0, "stopped": ()},
        requests={"stop_runs": 1},
    ),
    Case(
        "A19",
        "404",
        operation="stop",
        steps={"stop_runs": [answer(404, {"ok": False, "error": "none is known", "results": []})]},
        error=NotFound,
        requests={"stop_runs": 1},
        sleeps=0,
    ),
    # A second stop does no harm.
    Case(
        "A19",
        "lost",
        operation="stop",
        steps={"stop_runs": [rst("all", effect=True)]},
        requests={"stop_runs": 2},
    ),
]

# --- A20, A21: lists that move, and lists without an end


async def _walk(nunu: NunuClient, path: Path, played: Played) -> list[str]:
    return [row.multiplayer_run_id async for row in nunu.runs.list(page_size=2)]


def _page(names: str, number: int, count: int, *, pages: int | None = None) -> Step:
    rows = [run(multiplayer_run_id=f"{name}0000000000") for name in names]
    return answer(200, page(rows, number=number, size=2, count=count, pages=pages))


def _gives(names: str) -> Callable[[Played], None]:
    def look(played: Played) -> None:
        assert "".join(name[0] for name in played.result) == names

    return look


A20 = [
    Case(
        "A20",
        variant,
        operation=_walk,
        steps={"list_runs": steps},
        requests={"list_runs": len(steps)},
        also=_gives(names),
    )
    for variant, names, steps in (
        (
            "row-in-front",
            "abcd",
            [_page("ab", 0, 4), _page("bc", 1, 5), _page("d", 2, 5)],
        ),
        (
            "two-rows-in-front",
            "abcd",
            [_page("ab", 0, 4), _page("ab", 1, 6), _page("cd", 2, 6)],
        ),
        # What moved to a page that was read already is met, too: the count says that rows went.
        (
            "row-gone-from-the-front",
            "abdec",
            [_page("ab", 0, 5), _page("de", 1, 4), _page("bc", 0, 4), _page("de", 1, 4)],
        ),
        ("last-page-gone", "ab", [_page("ab", 0, 4), _page("", 1, 2), _page("ab", 0, 2)]),
        ("a-row-twice-on-a-page", "abc", [_page("aa", 0, 4), _page("bc", 1, 4)]),
    )
]

_ENDLESS = 10**9
A21 = [
    Case(
        "A21",
        variant,
        operation=_walk,
        steps={"list_runs": steps},
        requests={"list_runs": count},
        also=_gives(names),
    )
    for variant, names, count, steps in (
        ("always-the-same-page", "ab", (2, 10), [_page("ab", 0, _ENDLESS).always()]),
        (
            "two-pages-in-turns",
            "abcd",
            (3, 12),
            [_page("ab", 0, _ENDLESS), _page("cd", 1, _ENDLESS)] * 20,
        ),
        (
            "empty-page-in-the-middle",
            "ab",
            2,
            [_page("ab", 0, _ENDLESS), _page("", 1, _ENDLESS), _page("cd", 2, _ENDLESS)],
        ),
        ("billions-of-pages", "abc", 2, [_page("ab", 0, 3, pages=_ENDLESS), _page("c", 1, 3)]),
        ("always-empty", "", 1, [_page("", 0, _ENDLESS).always()]),
        # Counts that explain anything: growth for ever, and rows that go away and come back.
        (
            "grows-for-ever",
            "ab",
            (3, 110),
            [_page("ab", 0, 10**6 * n, pages=_ENDLESS) for n in range(1, 200)],
        ),
        (
            "shrinks-and-grows",
            "ab",
            (3, 320),
            [_page("ab", 0, 100 * (n % 2), pages=_ENDLESS) for n in range(400)],
        ),
        (
            "negative",
            "ab",
            (1, 4),
            [_page("ab", 0, -5, pages=-1).always()],
        ),
    )
]

# --- A22: redirects


def redirected(
    on: str, status: int, to: str, operation: str = "upload", *, before: Sequence[Step] = ()
) -> Callable[..., Any]:
    """Answer one kind of request with a redirect, for ever; `to` is a format of origins."""

    async def go(nunu: NunuClient, path: Path, played: Played, **options: Any) -> object:
        server = played.server
        foreign = server.url("foreign")
        place = to.format(
            foreign=foreign, api=server.url("api"), plain=f"http://{foreign.partition('://')[2]}"
        )
        redirect = answer(status, "", headers={"Location": place}).always()
        server._steps[on] = [*before, redirect]
        return await OPERATIONS[operation](nunu, path, played, **options)

    return go


_REDIRECTS = (301, 302, 303, 307, 308)
_STRAYED = "redirected to .*; redirects are never followed"
A22 = [
    Case(
        "A22",
        f"{on}-{status}",
        operation=redirected(on, status, "{foreign}/elsewhere?x=1", operation),
        error=ApiError,
        match=_STRAYED,
        attributes={"status": status},
        requests={on: 1, "foreign": 0, "cancel_upload": cancels},
        connections={"foreign": 0},
        sleeps=0,
    )
    for status in _REDIRECTS
    for on, operation, cancels in (
        ("list_runs", "list", 0),
        ("get_build", "get_build", 0),
        ("start_run", "start", 0),
        ("stop_runs", "stop", 0),
        ("initiate_upload", "upload", 0),
        ("get_upload_parts", "upload", 1),
    )
]
A22 += [
    # The same request elsewhere: not done here, as a look confirms. Any other redirect may be the
    # answer to one that was done.
    Case(
        "A22",
        f"complete_upload-{status}",
        operation=redirected("complete_upload", status, "{foreign}/elsewhere"),
        error=error,
        requests={
            "complete_upload": 1,
            "get_build": 1,
            "cancel_upload": cancels,
            "foreign": 0,
        },
        connections={"foreign": 0},
        sleeps=0,
        allow={} if cancels else UNSETTLED,
    )
    for status, error, cancels in (
        (301, UploadOutcomeUnknown, 0),
        (302, UploadOutcomeUnknown, 0),
        (303, UploadOutcomeUnknown, 0),
        (307, ApiError, 1),
        (308, ApiError, 1),
    )
]
A22 += [
    Case(
        "A22",
        f"cancel_upload-{status}",
        operation=redirected("cancel_upload", status, "{foreign}/elsewhere"),
        steps={"put_part:1": [_BROKEN]},
        error=UploadError,
        attributes={"cancelled": False},
        requests={"cancel_upload": 1, "foreign": 0},
        connections={"foreign": 0},
        allow=UNDELETED,
    )
    for status in _REDIRECTS
]
A22 += [
    Case(
        "A22",
        f"to-{variant}",
        operation=redirected("list_runs", 307, to, "list"),
        tls="good" if variant == "plain-http" else None,
        error=ApiError,
        match=_STRAYED,
        requests={"list_runs": 1, "foreign": 0},
        connections={"foreign": 0, "api": 1},
    )
    for variant, to in {
        "plain-http": "{plain}/x",
        "itself": "{api}/api/v1/runs",
        "a-path": "/api/v1/runs",
        "nowhere": "",
        "an-unreadable-place": "http://[::1",
        "a-place-with-a-user": "https://user:password@elsewhere.example/",
        "a-script": "javascript:alert(1)",
    }.items()
]
A22 += [
    # See Other: it was done, and the result is elsewhere.
    Case(
        "A22",
        "complete-that-worked",
        steps={"complete_upload": [serve(status=303, headers=(("Location", "/x"),))]},
        requests={"complete_upload": 1, "get_build": 1, "cancel_upload": 0},
        also=_whole,
    ),
    # The look that settles a lost complete is not led astray either.
    Case(
        "A22",
        "settling",
        operation=redirected("get_build", 302, "{foreign}/api/v1/builds/build-1"),
        steps={"complete_upload": [rst("all", effect=True)]},
        error=UploadOutcomeUnknown,
        requests={"foreign": 0, "cancel_upload": 0},
        connections={"foreign": 0},
    ),
]

# --- A23 to A27: answers that are none


def _is_short(played: Played) -> None:
    assert len(str(played.error)) < 2000


_PAGE = answer(502, HTML, headers={"Content-Type": "text/html"})
A23 = [
    Case(
        "A23",
        "get-once",
        operation="list",
        steps={"list_runs": [_PAGE]},
        requests={"list_runs": 2},
        sleeps=1,
    ),
    Case(
        "A23",
        "get-for-ever",
        operation="list",
        steps={"list_runs": [_PAGE.always()]},
        error=ServerError,
        attributes={"status": 502, "explained": False, "code": None},
        requests={"list_runs": 5},
    ),
    Case(
        "A23",
        "complete-for-ever",
        steps={"complete_upload": [_PAGE.always()]},
        error=UploadOutcomeUnknown,
        cause=ServerError,
        requests={"complete_upload": 5, "get_build": 5, "cancel_upload": 0},
        allow=UNSETTLED,
    ),
    Case(
        "A23",
        "every-request-once",
        steps={
            name: [_PAGE]
            for name in ("initiate_upload", "get_upload_parts", "complete_upload", "put_part")
        },
        attributes={"possible_orphans": 1},
        requests={
            "initiate_upload": 2,
            "get_upload_parts": 2,
            "complete_upload": 2,
            "put_part": 4,
        },
    ),
    Case(
        "A23",
        "a-megabyte-of-it",
        operation="list",
        steps={"list_runs": [answer(502, HTML + "x" * 2**20).always()]},
        error=ServerError,
        requests={"list_runs": 5},
        also=_is_short,
    ),
]


_JSON = {
    "deep": "[" * 100_000 + "]" * 100_000,
    "deep-objects": '{"data":' * 100_000 + "1" + "}" * 100_000,
    "nan": '{"data": [NaN], "pagination": {}}',
    "infinity": '{"data": -Infinity}',
    "beyond-floats": '{"data": 1e999}',
    "many-digits": '{"data": ' + "9" * 5000 + "}",
    "not-utf8": b'{"data": "\xff\xfe"}',
    "utf16": '{"data": []}'.encode("utf-16"),
    "bom": b"\xef\xbb\xbf{}",
    "nul": b"\0",
    "two-values": "{} {}",
}
_FITS_NOTHING = {
    "lone-surrogate": '{"data": [{"multiplayer_run_id": "\\ud800"}], "pagination": {}}',
    "list": "[]",
    "null": "null",
    "number": "1",
    "string": '"x"',
    "page-of-nulls": '{"data": [null], "pagination": null}',
}
A24 = [
    Case(
        "A24",
        f"get-{variant}",
        operation="list",
        steps={"list_runs": [answer(200, body).always()]},
        error=DecodeError,
        # A byte order mark is read over: then it is JSON that fits nothing.
        requests={"list_runs": 1 if variant == "bom" else count},
    )
    for bodies, count in ((_JSON, 5), (_FITS_NOTHING, 1))
    for variant, body in bodies.items()
]
A24 += [
    Case(
        "A24",
        f"error-{variant}",
        operation="list",
        steps={"list_runs": [answer(400, body).always()]},
        error=BadRequest,
        requests={"list_runs": 1},
    )
    for variant, body in (
        _JSON
        | {
            "deep-details": '{"error": "no", "details": ' + '{"a":' * 900 + "1" + "}" * 901,
            "deep-words": '{"error": ' + "[" * 900 + "]" * 900 + "}",
            "surrogate-words": '{"error": "\\ud800", "code": "\\udfff"}',
        }
    ).items()
]
A24 += [
    Case(
        "A24",
        f"{on}-{variant}",
        steps={on: [serve(body=_JSON[variant])]},
        requests={"put_part": 3, "cancel_upload": 0, "complete_upload": 1},
        allow=UNHEARD | TWICE if on == "initiate_upload" else {},
        also=_whole if on == "complete_upload" else None,
    )
    for on in ("initiate_upload", "get_upload_parts", "complete_upload")
    for variant in ("deep", "nan", "many-digits")
]
A24 += [
    # The last one counts, as everywhere in Python; nothing here would be wrong with either.
    Case(
        "A24",
        "duplicate-keys",
        operation="get_build",
        steps={"get_build": [answer(200, '{"build_id": "a", "build_id": "build-0"}')]},
        attributes={"build_id": "build-0"},
    ),
]

_JOB = {
    "job_id": "job-1",
    "status": "COMPLETED",
    "created_at": "2026-04-11T06:12:03.114520+00:00",
    "runs": [],
}
_QUEUED = _JOB | {"status": "QUEUED"}


async def _start_and_wait(nunu: NunuClient, path: Path, played: Played, **options: Any) -> object:
    started = await OPERATIONS["start"](nunu, path, played)
    return await nunu.wait_for_job(started.job_ids[0], **options)


A25 = [
    Case(
        "A25",
        variant,
        operation=_start_and_wait,
        options={"timeout": 600.0},
        steps={"get_job": [*steps, answer(200, _JOB)]},
        attributes={"job_id": "job-1", "status": "completed"},
        requests={"start_run": 1, "get_job": count},
    )
    for variant, count, steps in (
        ("404-at-first", (3, 3), [no(404)] * 2),
        ("502-bursts", (4, 20), [answer(502, HTML).repeat(8)]),
        ("429", (2, 6), [retry_after("2").repeat(3)]),
        ("resets", (4, 20), [rst("all").repeat(7)]),
        ("all-of-it", (6, 30), [no(404), _PAGE, retry_after("1"), answer(200, _QUEUED), _PAGE]),
    )
]
A25 += [
    Case(
        "A25",
        "never-over",
        operation=_start_and_wait,
        options={"timeout": 100.0},
        steps={"get_job": [answer(200, _QUEUED).always()]},
        error=WaitTimeout,
        attributes={"pending": {"job-1": "QUEUED"}, "finished": {}},
        seconds=(100.0, 140.0),
    ),
    Case(
        "A25",
        "404-for-ever",
        operation=_start_and_wait,
        steps={
            "get_job": [no(404).always()],
            "list_runs": [answer(200, page([])).always()],
        },
        error=NotFound,
        seconds=(10.0, 120.0),
    ),
    Case(
        "A25",
        "key-refused",
        operation=_start_and_wait,
        steps={"get_job": [answer(200, _QUEUED), no(401).always()]},
        error=AuthenticationError,
        requests={"get_job": 2},
    ),
]

A26 = [
    Case(
        "A26",
        f"{operation}-{variant}",
        operation=operation,
        steps={on: [step.always()]},
        error=DecodeError,
        requests={on: 1 if operation == "start" else 5},
    )
    for operation, on in (
        ("list", "list_runs"),
        ("get_build", "get_build"),
        ("stop", "stop_runs"),
        ("start", "start_run"),
    )
    for variant, step in (
        ("204", answer(204, "")),
        ("empty", answer(200, "")),
        ("space", answer(200, " \r\n")),
    )
]
A26 += [
    Case(
        "A26",
        f"initiate-{variant}",
        steps={"initiate_upload": [step.always()]},
        error=DecodeError,
        requests={"initiate_upload": 3, "storage": 0},
    )
    for variant, step in (("204", answer(204, "")), ("empty", answer(200, "")))
]
A26 += [
    Case(
        "A26",
        "parts-204",
        steps={"get_upload_parts": [answer(204, "").always()]},
        error=DecodeError,
        requests={"get_upload_parts": 5, "put_part": 0, "cancel_upload": 1},
    ),
]

_CHUNKS = b"2\r\n{}\r\n0\r\n\r\n"
_HEADS = {
    "two-lengths": b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x",
    "length-and-chunks": b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n" + _CHUNKS,
    "negative-length": b"Content-Length: -2\r\n\r\n{}",
    "length-in-words": b"Content-Length: two\r\n\r\n{}",
    "plus-length": b"Content-Length: +2\r\n\r\n{}",
    "odd-chunk": b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    "huge-line": b"X-Long: " + b"a" * 100_000 + b"\r\nContent-Length: 2\r\n\r\n{}",
    "nul-in-a-name": b"X\0Y: 1\r\nContent-Length: 2\r\n\r\n{}",
}
A27 = [
    Case(
        "A27",
        f"get-{variant}",
        operation="list",
        steps={"list_runs": [raw(b"HTTP/1.1 200 OK\r\n" + head).always()]},
        error=TransportError if variant == "odd-chunk" else ProtocolError,
        requests={"list_runs": 5 if variant == "odd-chunk" else 1},
    )
    for variant, head in _HEADS.items()
]
A27 += [
    Case(
        "A27",
        "initiate",
        steps={
            "initiate_upload": [raw(b"HTTP/1.1 200 OK\r\n" + _HEADS["two-lengths"], effect=True)]
        },
        error=ProtocolError,
        requests={"initiate_upload": 1, "put_part": 0},
        allow=UNHEARD,
    ),
    Case(
        "A27",
        "complete",
        steps={
            "complete_upload": [
                raw(b"HTTP/1.1 200 OK\r\n" + _HEADS["length-and-chunks"], effect=True)
            ]
        },
        requests={"complete_upload": 1, "get_build": 1, "cancel_upload": 0},
        also=_whole,
    ),
    Case(
        "A27",
        "two-content-types",
        operation="list",
        steps={
            "list_runs": [
                serve(
                    headers=(
                        ("Content-Type", "text/html"),
                        ("Content-Type", "application/json"),
                        ("X-Request-Id", "a"),
                        ("X-Request-Id", "b"),
                    )
                )
            ]
        },
        requests={"list_runs": 1},
    ),
]

CASES = [
    case
    for row in (
        *(A1, A2, A3, A4, A5, A6, A7, A8, A9, A10, A11, A12, A13, A14, A15, A16, A17, A18, A19),
        *(A20, A21, A22, A23, A24, A25, A26, A27, A28),
    )
    for case in row
]
