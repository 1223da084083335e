"""Rows A14 to A17: plans and URLs that make no sense, and answers from another time."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from fault_answers import HTML, UNHEARD, no
from fault_case import PART, Case
from fault_play import Played
from fault_steps import Step, answer, rst, serve
from scripted import page, run

from nunu_async import (
    BadRequest,
    DecodeError,
    NotFound,
    PlanMismatch,
    RateLimited,
    ServerError,
    UploadError,
)


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

CASES = [*A14, *A15, *A16, *A17]
