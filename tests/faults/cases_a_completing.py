"""Rows A10 to A13, A28: completing and cancelling."""

from __future__ import annotations

import asyncio
from typing import Any

from fault_answers import BROKEN, HTML, UNDELETED, UNSETTLED, no, retry_after, standing, whole
from fault_case import Cancel, Case
from fault_steps import Step, answer, fin, hold, rst, serve

from nunu_async import (
    ApiError,
    BadRequest,
    Conflict,
    DeadlineExceeded,
    DecodeError,
    NotFound,
    PayloadTooLarge,
    RateLimited,
    RetryPolicy,
    StorageError,
    UploadError,
    UploadOutcomeUnknown,
)


def _names_it(**more: Any) -> Step:
    """Answer with the right build's id, and with what makes that no success."""
    return answer(200, {"build_id": "build-1", **more})


A10 = [
    Case(
        "A10",
        f"{variant}-once",
        steps={"complete_upload": [step]},
        requests={"complete_upload": (1, 2), "get_build": 1, "cancel_upload": 0},
        also=whole,
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
        also=whole,
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
        also=whole,
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
        also=whole,
    ),
    # An upload that the server assembles for longer is asked for, and not begun again.
    Case(
        "A12",
        "longer",
        steps={"complete_upload": [hold(effect=True)]},
        requests={"complete_upload": 1, "get_build": 1, "cancel_upload": 0},
        seconds=(600.0, 610.0),
        also=whole,
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
_SIX_SETBACKS = [no(409), rst("all"), answer(200, b""), no(503), fin(0), answer(502, HTML)]
A13 = [
    Case(
        "A13",
        variant,
        steps={"put_part:1": [BROKEN], "cancel_upload": steps},
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
        steps={"put_part:1": [BROKEN], "cancel_upload": [no(409).repeat(3)]},
        retry=RetryPolicy(attempts=1, part_attempts=1),
        error=UploadError,
        attributes={"cancelled": True},
        requests={"cancel_upload": 4},
        seconds=(0.0, 30.0),
    ),
    Case(
        "A13",
        "dead",
        steps={"put_part:1": [BROKEN], "cancel_upload": [hold().always()]},
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
        steps={"put_part:1": [BROKEN], "cancel_upload": [hold()]},
        error=UploadError,
        attributes={"cancelled": True},
        requests={"cancel_upload": 2},
        seconds=(15.0, 25.0),
    ),
    Case(
        "A13",
        "asked-to-wait-too-long",
        steps={"put_part:1": [BROKEN], "cancel_upload": [retry_after("60").always()]},
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

_BUSY = {"error": "the upload is being completed", "code": "COMPLETE_IN_PROGRESS"}
_ASSEMBLING = standing("uploading")
A28 = [
    Case(
        "A28",
        f"{status}-{variant}",
        operation=operation,
        steps={"complete_upload": steps(status)},
        requests={"complete_upload": count, "cancel_upload": 0},
        also=whole,
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
        also=whole,
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
        also=whole,
    ),
    # That is the build's own end, whatever the answer to the complete means.
    Case(
        "A28",
        "409-and-a-build-that-failed",
        steps={
            "complete_upload": [answer(409, _BUSY).always()],
            "get_build": [_ASSEMBLING, standing("FAILED").always()],
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
        also=whole,
    ),
    Case(
        "A28",
        "409-with-one-attempt-allowed",
        steps={"complete_upload": [answer(409, _BUSY).repeat(3)]},
        retry=RetryPolicy(attempts=1),
        requests={"complete_upload": 4, "cancel_upload": 0},
        also=whole,
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

CASES = [*A10, *A11, *A12, *A13, *A28]
