"""Row A22: redirects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fault_answers import BROKEN, UNDELETED, UNSETTLED, whole
from fault_case import Case
from fault_play import OPERATIONS, Played
from fault_steps import Step, answer, rst, serve

from nunu_async import ApiError, NunuClient, UploadError, UploadOutcomeUnknown


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
        steps={"put_part:1": [BROKEN]},
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
        also=whole,
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

CASES = A22
