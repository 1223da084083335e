"""Rows A18, A19: what a key may not do; stopping."""

from __future__ import annotations

from fault_answers import UNDELETED, no, whole
from fault_case import PART, Case
from fault_play import Played
from fault_steps import answer, rst, serve

from nunu_async import AuthenticationError, NotFound, PermissionDenied


def _kept_then_done(played: Played) -> None:
    assert any("is kept on the server" in note for note in played.first_error.__notes__)  # type: ignore[union-attr] - it has notes
    whole(played)


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

CASES = [*A18, *A19]
