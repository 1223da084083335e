"""Rows N: the network."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import pytest
from fault_case import PART, Case
from fault_play import OPERATIONS, Played
from fault_steps import (
    Step,
    answer,
    cut,
    drip,
    fin,
    hold,
    raw,
    refuse,
    rst,
    stop_reading,
    truncate,
)

from nunu_async import (
    ApiError,
    CertificateError,
    ConnectError,
    DeadlineExceeded,
    DecodeError,
    NunuClient,
    RetryPolicy,
    StallError,
    StorageError,
    Timeouts,
    TransportError,
    UploadError,
    UploadOutcomeUnknown,
)

MIB = 1024 * 1024
HALF_LINE = b"HTTP/1.1 20"
HALF_HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Ty"
PORTAL = "<!doctype html><title>Sign in to Hotel Wi-Fi</title>"
HTML = {"Content-Type": "text/html"}
LOGIN = {"Location": "{foreign}/login"}
UNHEARD = {
    "I1": "only the server knows of the build; its own limit frees it",
    "I2": "an upload that deletes nothing asks once more, and tells of a possible orphan",
}

# The limit is 60: what the kernels still pass on between themselves starts it anew.
AFTER_A_STALL = (60, 240)
# Small buffers, so that a part of some MiB is seen to be stuck. A part is larger than what both
# kernels hold of it on loopback, some 4 MiB.
LARGE: dict[str, Any] = {
    "size": 8 * MIB,
    "server": {"part_size": 8 * MIB, "receive_buffer": 64 * 1024},
}


def after_a_list(operation: str) -> Any:
    """Make the operation that is sent on a connection which has carried a request before."""

    async def play(nunu: NunuClient, path: Path, played: Played, **more: Any) -> object:
        await nunu.runs.list_page()
        return await OPERATIONS[operation](nunu, path, played, **more)

    return play


def on_a_used_connection(operation: str) -> Any:
    def look(played: Played) -> None:
        assert played.server.of(operation)[0].is_reused

    return look


def sends_the_whole_part_again(played: Played) -> None:
    first, second = played.server.of("put_part", 2)
    assert first.digest is None or first.status is None
    assert second.received == second.length == PART
    assert first.target == second.target  # a reset says nothing about the URL


def tells_each_retry(played: Played) -> None:
    assert "WARNING part 1: attempt 1 failed" in played.log


def verified_all(played: Played) -> None:
    assert played.result.verified == played.result.parts


def is_marked(played: Played) -> None:
    marker = getattr(played.error, "marker", None)
    assert marker
    assert marker in played.server.of("start_run")[0].json["additional_tags"]


def looked_up_five_times(played: Played) -> None:
    assert len(played.lookups) == 5


def used_for_part_2(played: Played) -> None:
    assert played.server.of("put_part", 2)[0].is_reused


def clocks_that_jump(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wall clock is two hours early and late by turns, as after a sleep of the machine."""
    real, jumps = time.time, itertools.cycle([7200.0, -7200.0])
    monkeypatch.setattr("time.time", lambda: real() + next(jumps))


DROPPED: dict[str, Step] = {
    "rst": rst(0),
    "fin": fin(0),
    "half-status-line": raw(HALF_LINE),
}

CASES = [
    # --- N1: no listener yet; nothing was sent, so also a POST is sent again
    *(
        Case(
            "N1",
            f"api-refused-twice-{operation}",
            operation=operation,
            server={"closed_until": {"api": 2}},
            requests={counted: 1},
            sleeps=2,
        )
        for operation, counted in [
            ("upload", "initiate_upload"),
            ("start", "start_run"),
            ("list", "list_runs"),
            ("stop", "stop_runs"),
        ]
    ),
    Case(
        "N1",
        "api-refused-for-ever",
        server={"closed_until": {"api": None}},
        error=ConnectError,
        attributes={"sent": False},
        requests={"api": 0, "storage": 0},
        sleeps=4,
    ),
    Case(
        "N1",
        "storage-refused-twice",
        server={"closed_until": {"storage": 2}},
        requests={"put_part": 3},
        sleeps=2,
    ),
    Case(
        "N1",
        "storage-refused-for-ever",
        server={"closed_until": {"storage": None}},
        error=UploadError,
        cause=ConnectError,
        attributes={"attempts": 8, "status": None, "cancelled": True},
        requests={"put_part": 0, "cancel_upload": 1, "complete_upload": 0},
        sleeps=7,
    ),
    # --- N2: a name that is not found, and then is
    Case(
        "N2",
        "api-name-found-late",
        names={"api": "api.localhost"},
        resolver={"api.localhost": [[], [], ["127.0.0.1"]]},
        requests={"initiate_upload": 1},
        sleeps=2,
    ),
    Case(
        "N2",
        "api-name-never-found",
        names={"api": "api.localhost"},
        resolver={"api.localhost": [[]]},
        error=ConnectError,
        match=r"cannot connect to api\.localhost:\d+",
        attributes={"sent": False},
        requests={"api": 0},
        sleeps=4,
        also=looked_up_five_times,
    ),
    Case(
        "N2",
        "storage-name-found-late",
        names={"storage": "storage.localhost"},
        resolver={"storage.localhost": [[], ["127.0.0.1"]]},
        requests={"put_part": 3},
        sleeps=1,
    ),
    Case(
        "N2",
        "storage-name-never-found",
        names={"storage": "storage.localhost"},
        resolver={"storage.localhost": [[]]},
        error=UploadError,
        cause=ConnectError,
        match=r"cannot connect to storage\.localhost:\d+",
        requests={"put_part": 0, "cancel_upload": 1},
    ),
    # --- N5: the server closes an idle connection as the next request leaves
    *(
        Case(
            "N5",
            f"{name}-{how}",
            operation=after_a_list(operation),
            steps={request: [DROPPED[how]]},
            requests={request: count},
            error=error,
            attributes={"possible_orphans": 1} if name == "initiate" else {},
            also=on_a_used_connection(request),
        )
        for how in ("rst", "fin")
        for name, operation, request, count, error in [
            ("initiate", "upload", "initiate_upload", 2, None),
            ("start", "start", "start_run", 1, TransportError),
            ("parts", "upload", "get_upload_parts", 2, None),
            ("complete", "upload", "complete_upload", 2, None),
        ]
    ),
    *(
        Case(
            "N5",
            f"put-{how}",
            steps={"put_part:2": [DROPPED[how]]},
            requests={"put_part:2": 2, "put_part": 4},
            also=used_for_part_2,
        )
        for how in ("rst", "fin")
    ),
    *(
        Case(
            "N5",
            f"delete-{how}",
            steps={"put_part": [refuse(400, "EntityTooLarge")], "cancel_upload": [DROPPED[how]]},
            error=UploadError,
            attributes={"cancelled": True},
            requests={"cancel_upload": 2},
            also=on_a_used_connection("cancel_upload"),
        )
        for how in ("rst", "fin")
    ),
    # --- N6: every request is dropped; the server counts what the policy allows, and no more
    *(
        Case(
            "N6",
            f"get-{how}-{age}",
            operation="get_build" if age == "fresh" else after_a_list("get_build"),
            steps={"get_build": [step.always()]},
            retry=RetryPolicy(attempts=3),
            error=TransportError,
            requests={"get_build": 3},
        )
        for how, step in DROPPED.items()
        for age in ("fresh", "reused")
    ),
    *(
        Case(
            "N6",
            f"put-{how}-{age}",
            steps={f"put_part:{1 if age == 'fresh' else 2}": [step.always()]},
            retry=RetryPolicy(part_attempts=3),
            error=UploadError,
            cause=TransportError,
            attributes={"attempts": 3},
            requests={f"put_part:{1 if age == 'fresh' else 2}": 3, "cancel_upload": 1},
        )
        for how, step in DROPPED.items()
        for age in ("fresh", "reused")
    ),
    *(
        Case(
            "N6",
            f"delete-{how}",
            steps={"put_part": [refuse(400, "x")], "cancel_upload": [step.always()]},
            retry=RetryPolicy(attempts=3),
            error=UploadError,
            attributes={"cancelled": False},
            requests={"cancel_upload": 7},  # its own limit, and not the policy's
            allow={"I1": "the server never answers a DELETE; its own limit frees the build"},
        )
        for how, step in DROPPED.items()
    ),
    # --- N7: a part is reset at some byte
    *(
        Case(
            "N7",
            f"rst-at-{at}",
            steps={"put_part:2": [rst(at)]},  # type: ignore[arg-type] - as written below
            requests={"put_part": 4, "put_part:1": 1, "put_part:2": 2, "put_part:3": 1},
            sleeps=1,
            also=sends_the_whole_part_again,
        )
        for at in (0, 1, "half", "last")
    ),
    Case(
        "N7",
        "rst-beside-others",
        steps={"put_part:2": [rst("half")]},
        size=7 * PART + 5,
        options={"concurrency": 4},
        requests={"put_part": 9, "put_part:2": 2},
        also=sends_the_whole_part_again,
    ),
    Case(
        "N7",
        "rst-of-a-single-part",
        operation="single",
        steps={"put_part": [rst("half")]},
        requests={"put_part": 2, "initiate_upload": 1},
    ),
    Case(
        "N7",
        "rst-of-a-large-part",
        steps={"put_part": [rst(MIB)]},
        requests={"put_part": 2},
        **LARGE,
    ),
    Case(
        "N7",
        "rst-while-verifying",
        operation="verify",
        steps={"put_part:2": [rst("half")]},
        requests={"put_part": 4},
        also=verified_all,
    ),
    # --- N8: the whole body was read, then the connection ends
    Case(
        "N8",
        "part-stored",
        steps={"put_part:1": [fin("all", effect=True)]},
        requests={"put_part": 4},
    ),
    Case("N8", "part-not-stored", steps={"put_part:1": [fin("all")]}, requests={"put_part": 4}),
    Case(
        "N8",
        "single-part-stored",
        operation="single",
        steps={"put_part": [fin("all", effect=True)]},
        requests={"put_part": 2},
        sleeps=[1.0],
    ),
    Case(
        "N8",
        "initiate-done",
        steps={"initiate_upload": [fin("all", effect=True)]},
        attributes={"possible_orphans": 1},
        requests={"initiate_upload": 2, "cancel_upload": 0},
        allow=UNHEARD,
    ),
    Case(
        "N8",
        "initiate-not-done",
        steps={"initiate_upload": [fin("all")]},
        attributes={"possible_orphans": 1},
        requests={"initiate_upload": 2},
    ),
    Case(
        "N8",
        "initiate-for-ever",
        steps={"initiate_upload": [fin("all", effect=True).always()]},
        error=TransportError,
        attributes={"sent": True},
        requests={"initiate_upload": 3, "cancel_upload": 0},
        allow=UNHEARD,
    ),
    *(
        Case(
            "N8",
            f"initiate-that-deletes-{'done' if done else 'not-done'}",
            steps={"initiate_upload": [fin("all", effect=done)]},
            options={"auto_delete": True},
            error=UploadOutcomeUnknown,
            attributes={"stage": "initiate"},
            requests={"initiate_upload": 1},
            allow=UNHEARD if done else {},
        )
        for done in (True, False)
    ),
    Case(
        "N8",
        "start-done",
        operation="start",
        steps={"start_run": [fin("all", effect=True)]},
        server={"start_lag": 1},
        requests={"start_run": 1, "list_runs": 2},
    ),
    Case(
        "N8",
        "start-not-done",
        operation="start",
        steps={"start_run": [fin("all")]},
        error=TransportError,
        requests={"start_run": 1, "list_runs": 3},
        also=is_marked,
    ),
    *(
        Case(
            "N8",
            f"complete-{'done' if done else 'not-done'}{'-single' if single else ''}",
            operation="single" if single else "upload",
            steps={"complete_upload": [fin("all", effect=done)]},
            requests={
                "complete_upload": 1 if done else 2,
                "get_build": 1,
                "cancel_upload": 0,
            },
        )
        for done in (True, False)
        for single in (True, False)
    ),
    # --- N9: half a status line, half the headers
    *(
        Case(
            "N9",
            f"{request}-{name}",
            steps={request: [raw(cut, effect=True)]},
            requests={request: count, "cancel_upload": 0},
            allow=UNHEARD if request == "initiate_upload" else {},
        )
        for name, cut in [("half-line", HALF_LINE), ("half-headers", HALF_HEAD)]
        for request, count in [
            ("put_part:2", 2),
            ("get_upload_parts", 2),
            ("complete_upload", 1),
            ("initiate_upload", 2),
        ]
    ),
    # --- N10: a body that ends before its length, or in the middle of a chunk
    *(
        Case(
            "N10",
            f"{name}-{framing}",
            operation=operation,
            steps={request: [truncate(10, framing=framing)]},
            requests={request: count, "cancel_upload": 0},
            allow=UNHEARD if request == "initiate_upload" else {},
        )
        for framing in ("length", "chunked")
        for name, operation, request, count in [
            ("list", "list", "list_runs", 2),
            ("parts", "upload", "get_upload_parts", 2),
            ("complete", "upload", "complete_upload", 1),
            ("initiate", "upload", "initiate_upload", 2),
            ("start", "start", "start_run", 1),
        ]
    ),
    # --- N11: a body without a length, cut: to HTTP it is whole
    *(
        Case(
            "N11",
            name,
            operation=operation,
            steps={request: [truncate(10, framing="close")]},
            requests={request: count, "cancel_upload": 0},
            allow=UNHEARD if request == "initiate_upload" else {},
        )
        for name, operation, request, count in [
            ("list", "list", "list_runs", 2),
            ("parts", "upload", "get_upload_parts", 2),
            ("complete", "upload", "complete_upload", 1),
            ("initiate", "upload", "initiate_upload", 2),
            ("start", "start", "start_run", 1),
        ]
    ),
    # --- N12: the peer stops reading in the middle of a part
    Case(
        "N12",
        "once",
        steps={"put_part": [stop_reading(64 * 1024)]},
        requests={"put_part": 2},
        seconds=AFTER_A_STALL,
        also=tells_each_retry,
        **LARGE,
    ),
    Case(
        "N12",
        "for-ever",
        steps={"put_part": [stop_reading(64 * 1024).always()]},
        retry=RetryPolicy(part_attempts=2),
        error=UploadError,
        cause=StallError,
        match="no byte left for 60 seconds",
        requests={"put_part": 2, "cancel_upload": 1},
        seconds=(120, 480),
        **LARGE,
    ),
    Case(
        "N12",
        "over-tls",
        tls="good",
        steps={"put_part": [stop_reading(64 * 1024)]},
        requests={"put_part": 2},
        seconds=AFTER_A_STALL,
        **LARGE,
    ),
    # --- N13: something always moves, but too little
    Case(
        "N13",
        "drips",
        steps={"put_part": [drip(16 * 1024, 1.0)]},
        timeouts=Timeouts(trickle_rate=96 * 1024, trickle_window=60),
        requests={"put_part": 2},
        seconds=(60, 120),
        also=tells_each_retry,
        **LARGE,
    ),
    # --- N14: everything was read, and no answer comes
    Case(
        "N14",
        "part",
        steps={"put_part:2": [hold()]},
        requests={"put_part:2": 2},
        seconds=(120, 180),
    ),
    Case(
        "N14",
        "part-for-ever",
        steps={"put_part:2": [hold().always()]},
        retry=RetryPolicy(part_attempts=2),
        error=UploadError,
        cause=StallError,
        match="no answer for 120 seconds",
        requests={"put_part:2": 2, "cancel_upload": 1},
        seconds=(240, 330),
    ),
    Case(
        "N14",
        "get",
        operation="list",
        steps={"list_runs": [hold()]},
        requests={"list_runs": 2},
        seconds=(60, 90),
    ),
    Case(
        "N14",
        "get-for-ever",
        operation="list",
        steps={"list_runs": [hold().always()]},
        error=DeadlineExceeded,
        requests={"list_runs": 2},
        seconds=(120, 150),
    ),
    Case(
        "N14",
        "initiate",
        steps={"initiate_upload": [hold()]},
        attributes={"possible_orphans": 1},
        requests={"initiate_upload": 2},
        seconds=(60, 90),
    ),
    Case(
        "N14",
        "complete-done",
        steps={"complete_upload": [hold(effect=True)]},
        requests={"complete_upload": 1, "get_build": 1, "cancel_upload": 0},
        seconds=(600, 660),
    ),
    Case(
        "N14",
        "complete-for-ever",
        steps={"complete_upload": [hold().always()]},
        error=UploadOutcomeUnknown,
        attributes={"stage": "complete"},
        requests={"complete_upload": 1, "cancel_upload": 0},
        seconds=(600, 660),
        allow={"I1": "a complete that was never answered may still be worked on"},
    ),
    Case(
        "N14",
        "delete-for-ever",
        steps={"put_part": [refuse(400, "x")], "cancel_upload": [hold().always()]},
        error=UploadError,
        attributes={"cancelled": False},
        seconds=(30, 60),
        allow={"I1": "the server never answers a DELETE; its own limit frees the build"},
    ),
    # --- N15: slow and healthy
    Case(
        "N15",
        "slow-link",
        steps={"put_part": [drip(64 * 1024, 1.0).always()]},
        timeouts=Timeouts(stall=4),
        requests={"put_part": 1},
        sleeps=0,
        seconds=(100, 200),
        **LARGE,
    ),
    # --- N16: a TLS connection that ends without a word of farewell
    *(
        Case(
            "N16",
            f"{name}-{how}",
            tls="good",
            steps={request: [step]},
            requests={request: 2},
        )
        for how, maker in [("eof", cut), ("rst", rst)]
        for name, request, step in [
            ("part-half", "put_part:2", maker("half")),
            ("part-whole", "put_part:2", maker("all")),
            ("parts", "get_upload_parts", maker(0)),
        ]
    ),
    Case("N16", "goes-well", tls="good", requests={"put_part": 3}, sleeps=0),
    Case(
        "N16",
        "eof-of-a-large-part",
        tls="good",
        steps={"put_part": [cut(MIB)]},
        requests={"put_part": 2},
        **LARGE,
    ),
    # --- N17: a certificate that is not to be trusted, or too old a TLS
    *(
        Case(
            "N17",
            f"api-{kind}",
            tls=kind,
            error=CertificateError,
            attributes={"sent": False},
            requests={"api": 0},
            sleeps=0,
        )
        for kind in ("self-signed", "expired", "wrong-host")
    ),
    *(
        Case(
            "N17",
            f"storage-{kind}",
            tls="good",
            storage_tls=kind,
            error=UploadError,
            cause=CertificateError,
            attributes={"attempts": 1, "cancelled": True},
            requests={"storage": 0, "cancel_upload": 1},
            sleeps=0,
        )
        for kind in ("self-signed", "expired", "wrong-host")
    ),
    # --- N18: a captive portal answers in place of the host
    Case(
        "N18",
        "list-page",
        operation="list",
        steps={"list_runs": [answer(200, PORTAL, HTML).always()]},
        error=DecodeError,
        attributes={"status": 200, "garbled": True},
        requests={"list_runs": 5},
    ),
    Case(
        "N18",
        "initiate-page",
        steps={"initiate_upload": [answer(200, PORTAL, HTML).always()]},
        error=DecodeError,
        attributes={"status": 200, "garbled": True},
        requests={"initiate_upload": 3},
    ),
    Case(
        "N18",
        "part-page",
        steps={"put_part": [answer(200, PORTAL, HTML).always()]},
        error=UploadError,
        cause=StorageError,
        match="without an ETag",
        requests={"put_part": 8, "complete_upload": 0, "cancel_upload": 1},
    ),
    Case(
        "N18",
        "complete-page",
        steps={"complete_upload": [answer(200, PORTAL, HTML)]},
        requests={"complete_upload": 2, "get_build": 1, "cancel_upload": 0},
    ),
    *(
        Case(
            "N18",
            f"{name}-redirect",
            operation=operation,
            steps={request: [answer(302, "", LOGIN).always()]},
            error=error,
            attributes={"status": 302},
            requests={request: 1, "foreign": 0},
        )
        for name, operation, request, error in [
            ("list", "list", "list_runs", ApiError),
            ("start", "start", "start_run", ApiError),
            ("initiate", "upload", "initiate_upload", ApiError),
            ("parts", "upload", "get_upload_parts", ApiError),
            ("part", "upload", "put_part", UploadError),
        ]
    ),
    # --- N20: the store lost patience with a slow link, and says so with a 400
    Case(
        "N20",
        "once",
        steps={"put_part:2": [refuse(400, "RequestTimeout", "not read in time")]},
        requests={"put_part:2": 2},
        sleeps=1,
    ),
    Case(
        "N20",
        "mid-body-then-fin",
        steps={
            "put_part": [
                refuse(400, "RequestTimeout", "not read in time", at=MIB, then="fin"),
            ]
        },
        requests={"put_part": 2},
        **LARGE,
    ),
    Case(
        "N20",
        "for-ever",
        steps={"put_part:2": [refuse(400, "RequestTimeout").always()]},
        error=UploadError,
        attributes={"status": 400, "code": "RequestTimeout", "attempts": 8},
        requests={"put_part:2": 8, "cancel_upload": 1},
    ),
    # --- N21: the wall clock jumps; only the monotonic one counts
    Case(
        "N21",
        "upload",
        steps={
            "put_part:2": [refuse(503, "ServiceUnavailable").repeat(2)],
            "get_upload_parts": [answer(503, {"error": "busy"})],
        },
        patch=clocks_that_jump,
        requests={"put_part": 5, "get_upload_parts": 2},
        sleeps=[0.25, 0.25, 0.5],
    ),
    Case(
        "N21",
        "retry-after",
        operation="list",
        steps={"list_runs": [answer(429, {"error": "slow"}, {"Retry-After": "3"})]},
        patch=clocks_that_jump,
        requests={"list_runs": 2},
        seconds=(3, 4.5),
    ),
    Case(
        "N21",
        "stall",
        steps={"put_part:2": [hold()]},
        patch=clocks_that_jump,
        requests={"put_part:2": 2},
        seconds=(120, 180),
    ),
]
