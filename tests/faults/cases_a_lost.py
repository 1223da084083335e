"""Rows A6 to A9: answers that were lost."""

from __future__ import annotations

from collections.abc import Callable

from fault_answers import HTML, TWICE, UNHEARD, UNSETTLED, no, standing, whole
from fault_case import Case
from fault_play import Played
from fault_steps import answer, fin, hold, raw, rst, serve, truncate

from nunu_async import (
    ApiError,
    DeadlineExceeded,
    DecodeError,
    PayloadTooLarge,
    QuotaExceeded,
    ServerError,
    Timeouts,
    TransportError,
    UploadOutcomeUnknown,
)

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


A9 = [
    Case(
        "A9",
        f"settled-{variant}",
        steps={"complete_upload": [_LOST[variant]]},
        requests={"complete_upload": 1, "get_build": 1, "cancel_upload": 0},
        also=whole,
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
            "get_build": [standing("uploading")],
        },
        requests={"complete_upload": 2, "get_build": 2, "cancel_upload": 0},
        also=whole,
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
            "get_build": [standing("UNHEALTHY").always()],
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
        also=whole,
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
        also=whole,
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

CASES = [*A6, *A7, *A8, *A9]
