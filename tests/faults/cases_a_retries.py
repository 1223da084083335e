"""Rows A1 to A5: what is tried again, and when."""

from __future__ import annotations

from doubles import ManualClock
from fault_answers import no, retry_after
from fault_case import Case
from fault_steps import refuse, rst

from nunu_async import (
    ApiError,
    AuthenticationError,
    BadRequest,
    Conflict,
    NotFound,
    PermissionDenied,
    RateLimited,
    ServerError,
    UploadError,
)

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

CASES = [*A1, *A2, *A3, *A4, *A5]
