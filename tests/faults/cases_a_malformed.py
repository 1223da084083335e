"""Rows A23 to A27: answers that are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fault_answers import HTML, TWICE, UNHEARD, UNSETTLED, no, retry_after, whole
from fault_case import Case
from fault_play import OPERATIONS, Played
from fault_steps import answer, raw, rst, serve
from scripted import page

from nunu_async import (
    AuthenticationError,
    BadRequest,
    DecodeError,
    NotFound,
    NunuClient,
    ProtocolError,
    ServerError,
    TransportError,
    UploadOutcomeUnknown,
    WaitTimeout,
)


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
        also=whole if on == "complete_upload" else None,
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
        also=whole,
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

CASES = [*A23, *A24, *A25, *A26, *A27]
