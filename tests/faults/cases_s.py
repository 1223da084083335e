"""Rows S: the storage endpoint."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from fault_case import PART, Cancel, Case
from fault_play import Played
from fault_server import MIB, etag_of
from fault_steps import answer, early, refuse, rst, serve

from nunu_async import (
    BadRequest,
    BytesSent,
    Cancelled,
    Completed,
    Retrying,
    RetryPolicy,
    StorageError,
    UploadError,
    UploadOutcomeUnknown,
    UploadStarted,
)

EXPIRED = ("AccessDenied", "Request has expired")
UNSIGNED = ("SignatureDoesNotMatch", "The request signature we calculated does not match")
NO_UPLOAD = ("NoSuchUpload", "The specified multipart upload does not exist.")
SLOWER = "Reduce your concurrent request rate for the same object."
ETAG = {"ETag": '"0f343b0931126a20f133d67c2b018a3b"'}
HUGE = 10 * MIB
# A part that is larger than what two kernels hold of it on loopback.
LARGE: dict[str, Any] = {
    "size": 8 * MIB,
    "server": {"part_size": 8 * MIB, "receive_buffer": 64 * 1024},
}
BOMB = (
    '<?xml version="1.0"?><!DOCTYPE b [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;">'
    '<!ENTITY c "&b;&b;&b;&b;&b;">]><Error><Code>EntityTooLarge</Code><Message>&c;</Message>'
    "</Error>"
)
SECOND = "build-4"  # the server counts what it signs, too
RESERVED_ANEW = {"I2": "the first reservation is deleted before the second one is made"}
TWO_TIMES_8 = 2 * 8 * MIB


def waits_between_puts(played: Played) -> None:
    assert all(pause >= 1 for pause in played.sleeps)


def uses_a_new_url_each_time(played: Played) -> None:
    """An address that was refused is not used again."""
    for number in range(1, 4):
        targets = [seen.target for seen in played.server.of("put_part", number)]
        assert len(targets) == len(set(targets))


def reserves_once_the_first_is_gone(played: Played) -> None:
    _, second = played.server.of("initiate_upload")
    gone = played.server.of("cancel_upload")[0]
    assert (gone.build_id, gone.status) == ("build-1", 200)
    assert gone.ended is not None
    assert gone.ended < second.arrived
    events = [event for event in played.events if not isinstance(event, BytesSent)]
    assert [type(event) for event in events[:3]] == [UploadStarted, Retrying, UploadStarted]
    assert [getattr(event, "build_id", None) for event in events[:3]] == ["build-1", None, SECOND]
    tells_one_end(played)


def tells_one_end(played: Played) -> None:
    ends = [event for event in played.events if isinstance(event, Completed | Cancelled)]
    assert ends == played.events[-1:]


def asks_for_ten_at_most(played: Played) -> None:
    asked = [seen.query["part_numbers"].split(",") for seen in played.server.of("get_upload_parts")]
    assert max(map(len, asked)) <= 10


def refused_nothing(played: Played) -> None:
    """Not for its address, its headers, its length or its encoding."""
    assert {seen.status for seen in played.server.of("put_part")} == {200}


def all_have_a_length(played: Played) -> None:
    for seen in played.server.of("put_part"):
        assert seen.header("content-length") == str(seen.length)
        assert seen.length > 0


def sends_what_is_signed(played: Played) -> None:
    refused_nothing(played)
    for seen in played.server.of("put_part"):
        names = {name.lower() for name, _ in seen.headers}
        assert names == {
            *("host", "accept", "accept-encoding", "content-length", "content-type", "user-agent")
        }
        assert seen.header("content-type") == "application/octet-stream"
        assert seen.header("content-length") == str(seen.received)


def names_the_bare_etag(played: Played) -> None:
    (build,) = played.server.builds.values()
    named = {part["part_number"]: part["etag"] for part in build.completed_with}
    assert named == {number: etag_of(content) for number, content in build.parts.items()}


def lowers_the_concurrency(played: Played) -> None:
    """Four go out together, two are taken; a client that learnt nothing would have 20 refused."""
    puts = played.server.of("put_part")
    refused = [seen for seen in puts if seen.status == 429]
    assert refused
    assert max(seen.in_flight for seen in puts[:4]) > 2
    assert len(refused) <= 8


def grows_back(played: Played) -> None:
    """What went well long enough is sent with more at once again."""
    puts = played.server.of("put_part")
    last = max(seen.number for seen in puts if seen.status == 503)
    after = [seen.in_flight for seen in puts if seen.number > last]
    assert after[0] == 1
    assert max(after) == 4


def stops_sending(played: Played) -> None:
    """Of 16 MiB, not more is made than what was under way when the refusal came."""
    assert max(getattr(event, "sent", 0) for event in played.events) < TWO_TIMES_8
    (seen,) = played.server.of("put_part")
    assert seen.received < TWO_TIMES_8


def a_new_socket(played: Played) -> None:
    refused, again = played.server.of("put_part", 1)
    assert refused.connection is not again.connection


def starts_no_more(played: Played) -> None:
    """The parts that were under way end; none is begun."""
    puts = played.server.of("put_part")
    refused = next(seen for seen in puts if seen.status == 404)
    assert refused.ended is not None
    # While the answer is on its way to its sender, each of the others may end a part and begin one.
    assert len([seen for seen in puts if seen.arrived > refused.ended]) <= 2 * 4
    assert len(puts) < 24


def reads_little(played: Played) -> None:
    assert len(getattr(played.error, "message", "")) <= 600


def verified(parts: int) -> Any:
    def look(played: Played) -> None:
        assert played.result.verified == parts

    return look


def is_wrong_by(hours: int) -> Any:
    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        real = time.time
        monkeypatch.setattr("time.time", lambda: real() + 3600 * hours)

    return patch


CASES = [
    # --- S1: the store is in trouble
    *(
        Case(
            "S1",
            f"{status}-twice",
            steps={"put_part:1": [refuse(status, code).repeat(2)]},
            requests={"put_part:1": 3, "get_upload_parts": 1},
            sleeps=[0.5, 1.0] if code == "SlowDown" else [0.25, 0.5],
        )
        for status, code in [
            (500, "InternalError"),
            (502, "BadGateway"),
            (503, "SlowDown"),
            (504, "GatewayTimeout"),
        ]
    ),
    Case(
        "S1",
        "500-for-ever",
        steps={"put_part:1": [refuse(500, "InternalError").always()]},
        error=UploadError,
        cause=StorageError,
        attributes={"status": 500, "attempts": 8, "cancelled": True},
        requests={"put_part:1": 8, "complete_upload": 0, "cancel_upload": 1},
        sleeps=7,
    ),
    # --- S2: too many requests at once
    Case(
        "S2",
        "429-above-two-at-once",
        size=24 * PART,
        options={"concurrency": 4},
        settings={"storage_concurrency": 4},
        steps={"put_part": [serve(delay=1.0).always()]},
        server={"most_puts": 2},
        requests={"put_part": (25, 32)},
        also=lowers_the_concurrency,
    ),
    Case(
        "S2",
        "503-then-well",
        size=40 * PART,
        options={"concurrency": 4},
        settings={"storage_concurrency": 4},
        steps={
            "put_part": [
                *[refuse(503, "SlowDown", SLOWER).repeat(1)] * 3,
                serve(delay=1.0).always(),
            ]
        },
        requests={"put_part": 43},
        also=grows_back,
    ),
    Case(
        "S2",
        "429-of-a-single-part",
        operation="single",
        steps={"put_part": [refuse(429, "TooManyRequests", SLOWER).repeat(2)]},
        requests={"put_part": 3},
        also=waits_between_puts,
    ),
    Case(
        "S2",
        "429-with-retry-after",
        steps={"put_part:1": [refuse(429, "SlowDown", SLOWER, headers={"Retry-After": "7"})]},
        requests={"put_part:1": 2},
        seconds=(7, 12),
    ),
    # --- S3: the URL is too old
    Case(
        "S3",
        "by-its-own-clock",
        steps={"put_part:1": [serve(delay=100.0)]},
        server={"url_life": 90},
        requests={"put_part": 4, "put_part:2": 2, "put_part:3": 1, "get_upload_parts": 2},
        also=uses_a_new_url_each_time,
    ),
    Case(
        "S3",
        "all-at-one-moment",
        size=40 * PART,
        options={"concurrency": 16},
        # An API that is slower than the refusals of parts that were under way together.
        steps={
            "put_part": [serve(delay=100.0).repeat(16)],
            "get_upload_parts": [serve(delay=1.0).always()],
        },
        server={"url_life": 90},
        requests={"put_part": 40 + 16, "get_upload_parts": (7, 10)},
        sleeps=0,
        also=asks_for_ten_at_most,
    ),
    *(
        Case(
            "S3",
            f"refused-{times}-times",
            steps={"put_part:2": [refuse(403, *EXPIRED).repeat(times)]},
            requests={"put_part:2": times + 1, "get_upload_parts": times + 1},
            sleeps=0,
            also=uses_a_new_url_each_time,
        )
        for times in (1, 2, 3)
    ),
    Case(
        "S3",
        "for-ever",
        steps={"put_part:2": [refuse(403, *EXPIRED).always()]},
        error=UploadError,
        attributes={"status": 403, "code": "AccessDenied", "cancelled": True},
        match="a fresh URL was refused too",
        requests={"put_part:2": 4, "get_upload_parts": 4, "complete_upload": 0},
        also=uses_a_new_url_each_time,
    ),
    *(
        Case(
            "S3",
            f"as-400-{code}",
            steps={"put_part:2": [refuse(400, code)]},
            requests={"put_part:2": 2, "get_upload_parts": 2},
        )
        for code in ("ExpiredRequest", "ExpiredToken")
    ),
    *(
        Case(
            "S3",
            f"single-part-{name}",
            operation="single",
            options=options,
            steps={"put_part": [refuse(403, *EXPIRED)]},
            attributes={"build_id": SECOND},
            requests={"put_part": 2, "initiate_upload": 2, "cancel_upload": 1},
            sleeps=0,
            also=reserves_once_the_first_is_gone,
            allow=RESERVED_ANEW,
        )
        for name, options in [
            ("once", {}),
            ("once-auto-delete", {"auto_delete": True}),
            ("once-resume", {"resume": True}),
            ("once-verified", {"verify": True}),
        ]
    ),
    Case(
        "S3",
        "single-part-for-ever",
        operation="single",
        steps={"put_part": [refuse(403, *EXPIRED).always()]},
        error=UploadError,
        attributes={"status": 403, "cancelled": True, "build_id": SECOND},
        match="a fresh URL was refused too",
        requests={"put_part": 2, "initiate_upload": 2, "cancel_upload": 2},
        also=reserves_once_the_first_is_gone,
        allow=RESERVED_ANEW,
    ),
    Case(
        "S3",
        "single-part-not-let-go",
        operation="single",
        steps={
            "put_part": [refuse(403, *EXPIRED).always()],
            "cancel_upload": [answer(400, '{"error": "no"}').always()],
        },
        error=UploadError,
        attributes={"status": 403, "cancelled": False, "build_id": "build-1"},
        match="cannot be signed anew",
        requests={"put_part": 1, "initiate_upload": 1, "cancel_upload": 1},
        allow={"I1": "the server refuses to cancel"},
    ),
    Case(
        "S3",
        "single-part-no-second",
        operation="single",
        steps={
            "put_part": [refuse(403, *EXPIRED)],
            "initiate_upload": [serve(), answer(400, '{"error": "no"}')],
        },
        error=BadRequest,
        requests={"put_part": 1, "initiate_upload": 2, "cancel_upload": 1},
        also=tells_one_end,
    ),
    # The end of the first reservation says nothing of the second.
    Case(
        "S3",
        "single-part-second-unheard",
        operation="single",
        options={"auto_delete": True},
        steps={
            "put_part": [refuse(403, *EXPIRED)],
            "initiate_upload": [serve(), rst("all", effect=True)],
        },
        error=UploadOutcomeUnknown,
        attributes={"stage": "initiate", "cancelled": None},
        requests={"put_part": 1, "initiate_upload": 2, "cancel_upload": 1},
        also=tells_one_end,
        allow={"I1": "no client knows what was reserved", **RESERVED_ANEW},
    ),
    *(
        Case(
            "S3",
            f"single-part-cancelled-{operation}-{moment}-{nth}",
            operation="single",
            steps={"put_part": [refuse(403, *EXPIRED)]},
            cancel=Cancel(operation=operation, moment=moment, nth=nth),
            error=asyncio.CancelledError,
            requests={"complete_upload": 0, "initiate_upload": (1, 2)},
            also=tells_one_end,
            allow=RESERVED_ANEW,
        )
        for operation, moment, nth in [
            ("cancel_upload", "arrived", 1),
            ("cancel_upload", "answered", 1),
            ("initiate_upload", "arrived", 2),
            ("initiate_upload", "answered", 2),
            ("put_part", "read", 2),
        ]
    ),
    # --- S4: the signature is never right
    Case(
        "S4",
        "for-ever",
        steps={"put_part:2": [refuse(403, *UNSIGNED).always()]},
        error=UploadError,
        attributes={"status": 403, "code": "SignatureDoesNotMatch"},
        match="a fresh URL was refused too",
        requests={"put_part:2": 2, "get_upload_parts": 2, "cancel_upload": 1},
        sleeps=0,
    ),
    Case(
        "S4",
        "once",
        steps={"put_part:2": [refuse(403, *UNSIGNED)]},
        requests={"put_part:2": 2},
        also=uses_a_new_url_each_time,
    ),
    *(
        Case(
            "S4",
            f"single-part-{name}",
            operation="single",
            steps={"put_part": [step]},
            error=error,
            requests={"put_part": 2, "initiate_upload": 2, "cancel_upload": deletes},
            also=reserves_once_the_first_is_gone,
            allow=RESERVED_ANEW,
        )
        for name, step, error, deletes in [
            ("once", refuse(403, *UNSIGNED), None, 1),
            ("for-ever", refuse(403, *UNSIGNED).always(), UploadError, 2),
        ]
    ),
    # --- S5, S6, S7: what the server of these cases refuses anyhow, checked
    *(
        Case(row, name, operation=operation, tls=tls, also=look)  # type: ignore[arg-type] - below
        for row, look in [
            ("S5", refused_nothing),
            ("S6", refused_nothing),
            ("S7", sends_what_is_signed),
        ]
        for name, operation, tls in [
            ("multipart", "upload", None),
            ("single-part", "single", None),
            ("verified", "verify", None),
            ("over-tls", "upload", "good"),
        ]
    ),
    Case(
        "S6",
        "a-retry-too",
        steps={"put_part": [rst("half").repeat(2)]},
        also=all_have_a_length,
    ),
    # --- S8: a success without an ETag
    Case(
        "S8",
        "once",
        steps={"put_part:2": [serve(etags=())]},
        requests={"put_part:2": 2, "complete_upload": 1},
    ),
    *(
        Case(
            "S8",
            f"always-{name}",
            operation=operation,
            steps={"put_part": [serve(etags=etags).always()]},
            retry=RetryPolicy(part_attempts=3),
            error=UploadError,
            cause=StorageError,
            match="without an ETag",
            requests={"put_part": 3, "complete_upload": 0, "cancel_upload": 1},
        )
        for name, operation, etags in [
            ("none", "upload", ()),
            ("empty", "upload", ("",)),
            ("only-quotes", "upload", ('""',)),
        ]
    ),
    # --- S9: a success before the part was read
    Case(
        "S9",
        "early",
        steps={"put_part": [early(64 * 1024, 200, headers=ETAG, then="stay")]},
        requests={"put_part": 2},
        **LARGE,
    ),
    Case(
        "S9",
        "early-over-tls",
        tls="good",
        steps={"put_part": [early(64 * 1024, 200, headers=ETAG, then="stay")]},
        requests={"put_part": 2},
        **LARGE,
    ),
    Case(
        "S9",
        "early-for-ever",
        steps={"put_part": [early(64 * 1024, 200, headers=ETAG, then="stay").always()]},
        retry=RetryPolicy(part_attempts=2),
        error=UploadError,
        cause=StorageError,
        match="before all of it was sent",
        requests={"put_part": 2, "complete_upload": 0, "cancel_upload": 1},
        **LARGE,
    ),
    # --- S10: ETags as they come
    *(
        Case(
            "S10",
            name,
            steps={"put_part": [serve(etags=etags, etag_name=header).always()]},
            requests={"put_part": 3},
            also=names_the_bare_etag,
        )
        for name, etags, header in [
            ("quoted", ('"{}"',), "ETag"),
            ("bare", ("{}",), "ETag"),
            ("weak", ('W/"{}"',), "ETag"),
            ("odd-case", ('"{}"',), "eTAG"),
            ("twice-the-same", ('"{}"', '"{}"'), "ETag"),
            ("twice-quoted-and-bare", ('"{}"', "{}"), "ETag"),
        ]
    ),
    Case(
        "S10",
        "two-that-differ",
        steps={"put_part": [serve(etags=('"{}"', '"another"')).always()]},
        retry=RetryPolicy(part_attempts=2),
        error=UploadError,
        match="several ETags",
        requests={"put_part": 2, "complete_upload": 0},
    ),
    # --- S11: a refusal in the middle of the body
    *(
        Case(
            "S11",
            f"{status}-then-{then}",
            steps={"put_part": [early(64 * 1024, status, "<Code>x</Code>", then=then).always()]},
            size=TWO_TIMES_8,
            server={"part_size": TWO_TIMES_8, "receive_buffer": 64 * 1024},
            error=UploadError,
            attributes={"status": status, "attempts": 1, "cancelled": True},
            requests={"put_part": 1, "cancel_upload": 1},
            also=stops_sending,
        )
        for status, then in [(413, "fin"), (413, "stay"), (400, "fin"), (400, "rst")]
    ),
    Case(
        "S11",
        "403-then-fin",
        steps={"put_part": [early(64 * 1024, 403, "<Code>AccessDenied</Code>", then="fin")]},
        requests={"put_part": 2, "get_upload_parts": 2},
        **LARGE,
    ),
    # --- S12: redirects
    *(
        Case(
            "S12",
            f"{status}-to-{name}",
            steps={"put_part:2": [answer(status, "", {"Location": place}).always()]},
            error=UploadError,
            cause=StorageError,
            attributes={"status": status, "attempts": 1, "cancelled": True},
            match="never followed",
            requests={"put_part:2": 1, "storage2": 0, "foreign": 0, "cancel_upload": 1},
        )
        for status in (301, 302, 303, 307, 308)
        for name, place in [
            ("storage", "{storage2}/x"),
            ("foreign", "{foreign}/x"),
            ("plain-http", "http://foreign.test/x"),
        ]
    ),
    # --- S13: the server has dropped the upload
    Case(
        "S13",
        "by-its-own-clock",
        steps={"put_part:1": [serve(delay=110.0)]},
        server={"upload_life": 100},
        error=UploadError,
        attributes={"status": 404, "code": "NoSuchUpload"},
        match=r"sent for 11\d seconds \(its upload_timeout: 60 minutes\)",
        requests={"put_part": 1, "complete_upload": 0, "cancel_upload": 1},
    ),
    Case(
        "S13",
        "beside-others",
        size=24 * PART,
        options={"concurrency": 4},
        steps={"put_part:5": [refuse(404, *NO_UPLOAD).always()]},
        error=UploadError,
        attributes={"status": 404, "code": "NoSuchUpload", "attempts": 1, "cancelled": True},
        requests={"put_part:5": 1, "complete_upload": 0, "cancel_upload": 1},
        also=starts_no_more,
    ),
    # --- S14: what was stored is not what was sent
    Case(
        "S14",
        "once",
        operation="verify",
        steps={"put_part:2": [serve(corrupt=True)]},
        requests={"put_part:2": 2},
        also=verified(3),
    ),
    Case(
        "S14",
        "always",
        operation="verify",
        steps={"put_part:2": [serve(corrupt=True).always()]},
        retry=RetryPolicy(part_attempts=3),
        error=UploadError,
        match="stored other bytes",
        requests={"put_part:2": 3, "complete_upload": 0, "cancel_upload": 1},
    ),
    Case(
        "S14",
        "single-part",
        operation="single",
        options={"verify": True},
        steps={"put_part": [serve(corrupt=True)]},
        requests={"put_part": 2},
        also=verified(1),
    ),
    Case(
        "S14",
        "etag-of-another-kind",
        operation="verify",
        steps={"put_part": [serve(etags=('"{}-1"',)).always()]},
        requests={"put_part": 3},
        also=verified(0),
    ),
    Case(
        "S14",
        "not-asked-for",
        steps={"put_part:2": [serve(corrupt=True)]},
        requests={"put_part": 3},
        attributes={"verified": None},
        allow={"I4": "comparing was not asked for; the result says that it was not"},
    ),
    # --- S15: the digest did not fit
    *(
        Case(
            "S15",
            f"{code}-once",
            steps={"put_part:2": [refuse(400, code)]},
            requests={"put_part:2": 2},
        )
        for code in ("BadDigest", "IncompleteBody")
    ),
    Case(
        "S15",
        "for-ever",
        steps={"put_part:2": [refuse(400, "BadDigest").always()]},
        error=UploadError,
        attributes={"status": 400, "code": "BadDigest", "attempts": 8},
        requests={"put_part:2": 8, "complete_upload": 0, "cancel_upload": 1},
    ),
    # --- S23: statuses of edges that no list has, and R2's words for "again"
    *(
        Case(
            "S23",
            f"{status}-{code}-once" if code else f"{status}-once",
            steps={"put_part:2": [refuse(status, code)]},
            requests={"put_part:2": 2},
        )
        for status, code in [
            *((status, "") for status in (520, 525, 529, 530, 599)),
            (400, "ClientDisconnect"),
            (409, "OperationAborted"),
            (409, "ConditionalRequestConflict"),
        ]
    ),
    # --- S16: a definite no
    *(
        Case(
            "S16",
            f"{status}-{code}",
            steps={"put_part:2": [refuse(status, code).always()]},
            error=UploadError,
            cause=StorageError,
            attributes={"status": status, "code": code, "attempts": made, "cancelled": True},
            requests={"put_part:2": made, "complete_upload": 0, "cancel_upload": 1},
            sleeps=0,
        )
        for status, code, made in [
            (400, "EntityTooLarge", 1),
            (400, "InvalidRequest", 1),
            (403, "AccessDenied", 2),
            (405, "MethodNotAllowed", 1),
            (411, "MissingContentLength", 1),
            (412, "PreconditionFailed", 1),
            (501, "NotImplemented", 1),
        ]
    ),
    # --- S17: error bodies that are large, binary or traps
    Case(
        "S17",
        "10-mb-definite",
        steps={
            "put_part:2": [answer(400, b"<Code>EntityTooLarge</Code>" + b"x" * HUGE).always()],
        },
        error=UploadError,
        attributes={"status": 400, "code": "EntityTooLarge", "attempts": 1},
        requests={"put_part:2": 1, "cancel_upload": 1},
        also=reads_little,
    ),
    Case(
        "S17",
        "10-mb-transient",
        steps={"put_part:2": [answer(503, b"x" * HUGE)]},
        requests={"put_part:2": 2},
        sleeps=1,
    ),
    Case(
        "S17",
        "10-mb-refused-signature",
        steps={"put_part:2": [answer(403, b"\0" * HUGE)]},
        requests={"put_part:2": 2, "get_upload_parts": 2},
        sleeps=0,
    ),
    Case(
        "S17",
        "binary",
        steps={"put_part:2": [answer(400, bytes(range(256)) * 16).always()]},
        error=UploadError,
        attributes={"status": 400, "code": None, "attempts": 1},
        also=reads_little,
    ),
    Case(
        "S17",
        "entity-bomb",
        steps={"put_part:2": [answer(400, BOMB).always()]},
        error=UploadError,
        attributes={"status": 400, "code": "EntityTooLarge", "attempts": 1},
        also=reads_little,
    ),
    # --- S18: a part takes a minute to be stored
    Case(
        "S18",
        "60-seconds",
        steps={"put_part": [serve(delay=60.0).always()]},
        requests={"put_part": 3},
        sleeps=0,
        seconds=(180, 230),
    ),
    # --- S19: the store wants a new connection
    *(
        Case(
            "S19",
            f"{status}-close",
            steps={
                "put_part:1": [
                    refuse(status, "InternalError", headers={"Connection": "close"}, then="fin")
                ]
            },
            requests={"put_part": 4},
            connections={"storage": 2},
            also=a_new_socket,
        )
        for status in (500, 503)
    ),
    # --- S20: this machine's clock is wrong
    *(
        Case(
            "S20",
            f"{hours:+}-hours",
            patch=is_wrong_by(hours),
            steps={"put_part:1": [serve(delay=100.0)]},
            server={"url_life": 90},
            requests={"put_part": 4, "get_upload_parts": 2},
            also=uses_a_new_url_each_time,
        )
        for hours in (0, 2, -2)
    ),
    # --- S21: parts go to several hosts
    Case(
        "S21",
        "two-hosts",
        size=5 * PART,
        server={"storage_of": lambda number: "storage2" if number % 2 else "storage"},
        requests={"storage": 2, "storage2": 3},
    ),
    # --- S22: what else a success may bring
    Case(
        "S22",
        "empty-body",
        requests={"put_part": 3},
        connections={"storage": 1},
    ),
    Case(
        "S22",
        "small-body",
        steps={"put_part": [serve(body=b"<ok/>").always()]},
        requests={"put_part": 3},
        connections={"storage": 1},
    ),
    Case(
        "S22",
        "large-body",
        steps={"put_part:1": [serve(body=b"x" * HUGE)]},
        requests={"put_part": 3, "put_part:1": 1},
        connections={"storage": 2},
        sleeps=0,
    ),
]
