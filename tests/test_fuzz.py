"""Whatever a server sends: an answer or one of our own errors, soon, and nothing secret in it.

Examples are made by `Random` of a seed that Hypothesis gives and prints: ten times as many as
strategies of the same width make in the time. A seed is run again with `@example(SEED)`.
"""

from __future__ import annotations

import asyncio
import gzip
import io
import itertools
import json
import logging
import math
import pickle
import tracemalloc
import zlib
from collections.abc import Callable, Coroutine, Iterable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, cast

import attrs
import pytest
from disclosed import MARKED_KEY as KEY
from doubles import ManualClock, answer, body_length, raw_server
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from scripted import STARTED, STOPPED, bug, details, execution, page, run
from yarl import URL

from nunu_async import NunuClient, RetryPolicy
from nunu_async.config import Timeouts
from nunu_async.core.request import Request
from nunu_async.core.responses import read
from nunu_async.core.retry import parse_retry_after
from nunu_async.core.session import Session
from nunu_async.endpoints.anything import anything
from nunu_async.endpoints.builds import Builds
from nunu_async.endpoints.jobs import Jobs
from nunu_async.endpoints.paging import Listing
from nunu_async.endpoints.runs import Runs
from nunu_async.endpoints.test_plan_executions import TestPlanExecutions
from nunu_async.errors import ApiError, DecodeError, NunuError, PlanMismatch, StorageError
from nunu_async.models.builds import (
    CompletedPart,
    InitiateUpload,
    MultipartTicket,
    SinglePartTicket,
)
from nunu_async.models.page import Page, Pagination
from nunu_async.redact import Secret, clean_details, sanitize
from nunu_async.upload import journal
from nunu_async.upload.plan import Plan, batch_size
from nunu_async.upload.source import Identity
from nunu_async.upload.storage import (
    Stored,
    _Answer,
    _etag,
    _refusal,
    _verdict,
    md5_of,
    refusal_of,
)

UPLOAD_ID = "mpu-MARKED-7Qd2LxA_9f8e"
SIGNATURE = "marked5ca1ab1e0000000000000000000000000000000000000000feedfacecafe"
SECRETS = (KEY, UPLOAD_ID, SIGNATURE)

SEEDS = st.integers(0, 2**64 - 1)


def fuzz(examples: int) -> settings:
    """So many examples; a smaller seed is no smaller example, so none is searched for."""
    return settings(
        max_examples=examples,
        deadline=None,
        phases=[Phase.explicit, Phase.reuse, Phase.generate],
    )


class _Caught(Exception):
    """The request that a method of the client would send."""


class _Catching:
    """In place of the session: it hands the request over instead of sending it."""

    async def send(self, request: Request[Any]) -> Any:
        raise _Caught(request)


def _requests() -> dict[str, Request[Any]]:
    """Make a request of each operation, as the endpoints themselves do."""
    session = cast("Session", _Catching())
    own = Builds(session, project_id="p", patience=1.0)
    runs, jobs, executions = Runs(session), Jobs(session), TestPlanExecutions(session)
    many = MultipartTicket(
        build_id="b", object_key="k", total_parts=3, part_size=5, upload_id=UPLOAD_ID
    )
    one = SinglePartTicket(build_id="b", object_key="k", upload_url=f"https://s/?a={SIGNATURE}")
    wanted = InitiateUpload(name="n", file_name="f.zip", file_size=11, platform="linux")
    found = {"anything": anything("GET", "/some/thing", None, None)}
    for name, call in {
        "initiate_upload": own.initiate_upload(wanted),
        "get_upload_parts": own.get_upload_parts(many, [1, 2, 3]),
        "complete_upload": own.complete_upload(many, [CompletedPart(part_number=1, etag="e")]),
        "complete_single": own.complete_upload(one),
        "cancel_upload": own.cancel_upload(many),
        "get_build": own.get("b"),
        "list_runs": runs.list_page(),
        "list_runs_lenient": runs.list_page(lenient=True),
        "get_run": runs.get("r"),
        "list_run_bugs": runs.bugs("r"),
        "start_run": runs.start(deployment_config_id="d", multiplayer_test_id="t"),
        "stop_runs": runs.stop(["j"]),
        "list_jobs": jobs.list_page(),
        "get_job": jobs.get("j"),
        "list_test_plan_executions": executions.list_page(),
    }.items():
        try:
            call.send(None)
        except _Caught as caught:
            (found[name],) = caught.args
    return found


REQUESTS = _requests()

MANY = {
    "upload_type": "multipart",
    "build_id": "b",
    "upload_id": UPLOAD_ID,
    "object_key": "k/harbor.zip",
    "total_parts": 34,
    "part_size": 104_857_600,
}
ONE = {
    "upload_type": "single-part",
    "build_id": "b",
    "upload_url": f"https://s.example/a?X-Amz-Signature={SIGNATURE}",
    "object_key": "k/harbor.zip",
}
BUILD = {
    "build_id": "b",
    "name": "harbor",
    "status": "OK",
    "size": 11,
    "tags": ["nightly"],
    "created_at": "2026-04-11T06:12:03.114520+00:00",
    "details": {"vcs": {"commit": {"hash": "a"}}, "build": {"dependencies": {"zlib": "1.3"}}},
}
JOB = {
    "job_id": "j",
    "status": "completed",
    "project_id": "p",
    "created_at": "2026-04-11T06:12:03.114520+00:00",
    "tags": ["nightly"],
    "runs": [{"multiplayer_run_id": "r", "result": "SUCCESS"}],
}
SAMPLES: dict[str, list[Any]] = {
    "anything": [{"a": [1, {"b": None}]}, [], "x"],
    "initiate_upload": [MANY, ONE],
    "get_upload_parts": [{"upload_urls": [{"part_number": n, "url": "u"} for n in (1, 2, 3)]}],
    "complete_upload": [{"build_id": "b"}, {"status": "success"}],
    "complete_single": [{"build_id": "b"}, {"status": "success"}],
    "cancel_upload": [{"success": True}],
    "get_build": [BUILD],
    "list_runs": [page([run(), run()])],
    "list_runs_lenient": [page([run(), run()])],
    "get_run": [details()],
    "list_run_bugs": [{"data": [bug(), bug()]}, {"bug_occurrences": [bug()]}],
    "start_run": [STARTED, {"ok": True, "status": 200, "data": {"job_id": "j"}, "message": "m"}],
    "stop_runs": [STOPPED],
    "list_jobs": [page([JOB])],
    "get_job": [JOB],
    "list_test_plan_executions": [page([execution()])],
}
ERRORS: list[Any] = [
    {"error": "no", "code": "QUOTA_EXCEEDED", "details": {"used": 1, "capacity": 2, "needed": 3}},
    {"ok": False, "status": 400, "message": "no", "error": {"why": ["a"]}},
    {"error": f"key {KEY} and {UPLOAD_ID}", "details": {KEY: [UPLOAD_ID]}},
    {"error": "x" * 490 + KEY},
]

DEEPEST = 100_000
# Stands for JSON that `json.dumps` would not write.
HOLE = "the hole"
NUMBERS = [0, -1, 1, 1.5, -0.0, 1e308, 2**63 - 1, 2**63, -(2**64), 10**20, 10**9, 10**4000]
WORDS = [
    *("", "single-part", "multipart", "success", "COMPLETED", "odd", "a\nb", "\x1b[2J", "\u202eb"),
    *("2026-04-11T06:12:03Z", "2026-04-11", "9999-99-99T00:00:00Z", "2026-04-11T06:12:03+99:99"),
    *(
        "\u2028",
        "\x00",
        "\x85",
        "\ud800",
        "\udcff",
        "é",
        "\U0001d54f",
        "x" * 600,
        " @ $.a ",
        "/../",
        "%2f",
    ),
    *(KEY, UPLOAD_ID, f"bad key {KEY}!", f"{'y' * 495}{KEY}{'y' * 9}", f"'{UPLOAD_ID}'"),
]
NAMES = [
    *("error", "message", "code", "details", "ok", "status", "data", "pagination", "results"),
    *("upload_type", "extra", "response", "absent", "self", "job_ids", "brand_new", *WORDS),
]
RAW = [
    *("NaN", "Infinity", "-Infinity", "1e999", "-0", "1E+2", "9" * 5000, "-" + "9" * 4300, "01"),
    *("9" * 4300, "0." + "1" * 5000, r'"\ud800"', r'"\udfff\ud800"', r'"\u0000\u001b[2J"', "'x'"),
    *('{"a": 1, "a": 2}', '{"error": "x", "error": []}', "[1,]", "nul", '"\t"', '"', "", "{", "]"),
    *("[" * DEEPEST + "]" * DEEPEST, '{"a":' * DEEPEST + "1" + "}" * DEEPEST, "[" * DEEPEST),
]


def value(rng: Random) -> Any:
    """Something that may stand where something else belongs."""
    kind = rng.randrange(8)
    if kind == 0:
        return rng.choice([None, True, False, [], {}, [None], [{}], {"a": None}, [1], ["a"]])
    if kind == 1:
        return rng.choice(NUMBERS)
    if kind == 2:
        return rng.choice(ERRORS)
    if kind == 3:
        return HOLE
    if kind == 4:
        return {rng.choice(NAMES): value(rng) for _ in range(rng.randrange(4))}
    return rng.choice(WORDS)


def mutated(rng: Random, data: Any) -> Any:
    """Change one place of JSON data, whole branches included."""
    if not isinstance(data, dict | list) or not data or rng.random() < 0.15:
        return value(rng)
    changed: Any = dict(data) if isinstance(data, dict) else list(data)
    at: Any = rng.choice(list(data)) if isinstance(data, dict) else rng.randrange(len(data))
    deed = rng.randrange(6)
    if deed == 0:
        del changed[at]
    elif deed == 1 and isinstance(changed, dict):
        changed[rng.choice(NAMES)] = value(rng)
    else:
        changed[at] = mutated(rng, changed[at])
    return changed


def deep(rng: Random) -> str:
    """JSON about as deep as Python can read, write or walk: each has a limit of its own."""
    depth = rng.choice([rng.randrange(1000), rng.randrange(20_000)])
    if rng.random() < 0.5:
        return "[" * depth + "]" * depth
    return '{"a":' * depth + '"\x7f"' + "}" * depth


def body(rng: Random, samples: list[Any]) -> bytes:
    """Bytes that may be JSON of about the right shape, or other JSON, or anything."""
    kind = rng.randrange(12)
    if kind == 0:
        return rng.randbytes(rng.randrange(80))
    data = rng.choice(samples if kind > 3 else ERRORS)
    for _ in range(rng.choice([0, 1, 1, 2, 4])):
        data = mutated(rng, data)
    text = json.dumps(data, ensure_ascii=rng.random() < 0.9)
    hole = rng.choice(RAW) if rng.random() < 0.6 else deep(rng)
    text = text.replace(json.dumps(HOLE), hole) if kind > 1 else hole
    coding = rng.choice(["utf-8"] * 8 + ["utf-16", "utf-8-sig", "utf-32-be"])
    written = text.encode(coding, "surrogatepass")
    for _ in range(rng.choice([0] * 8 + [1, 3])):
        at = rng.randrange(len(written) + 1)
        written = written[:at] + rng.randbytes(rng.randrange(4)) + written[at + rng.randrange(9) :]
    return written if rng.random() < 0.95 else written[: rng.randrange(len(written) + 1)]


TIMES = [
    *("0", "3", "3.5", "-5", "nan", "inf", "1e999", "9" * 400, "9" * 5000, "", "soon", "1, 2"),
    *("\u0661", "\u00b2", "0x10", "1_000", "+3", " 7 ", "3.", ".5", "120", "121", "9999999999"),
    *(
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
    ),
    *("Thu, 01 Jan 1970 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 -2359", "1 Jan 99999 0:0:0"),
    *("Mon, 01 Jan 0001 00:00:00 +2359", "Mon, 01 Jan 0001 00:00:00 +9999", "1 Jan 1 0:0"),
    *("Mon, 99 Jan 2026 99:99:99 GMT", "Mon, 01 Jan 2026 00:00:00 +99999999999999999999"),
    *("Mon, 01 Jan 2026 00:00:00 -", "Mon, 01 Jan 2026", ",,,", "Mon,", "1 1 1 1 1", "\udcff"),
]
PLACES = [
    *(
        "https://u:p@h.example/a?sig=1",
        "//[",
        "http://[::1",
        "http://a:b:c/",
        "/there",
        "?#",
        "\x85",
    ),
    *(f"https://h/?X-Api-Key={KEY}", f"https://{KEY}@h/", f"http://{KEY}/", f"https://h/{KEY}"),
]
TAGS = ['"abc"', 'W/"x"', "", '""', "W/", '"a, "b"', "é", "\udcff", "x" * 8000, '"' * 9, "a, b"]
HEADERS = {
    "date": TIMES,
    "retry-after": TIMES,
    "location": PLACES,
    "etag": TAGS,
    "x-request-id": WORDS,
    "cf-ray": [*WORDS, "\udcff"],
    "set-cookie": WORDS,
    "content-type": WORDS,
    "x-amz-server-side-encryption": ["AES256", "aws:kms", "aws:kms:dsse", "", KEY],
    "x-amz-server-side-encryption-customer-algorithm": ["AES256"],
}


def headers_of(rng: Random) -> dict[str, str]:
    """Headers as they come out of aiohttp: bytes that are no UTF-8 have become lone surrogates."""
    chosen = rng.sample(sorted(HEADERS), rng.randrange(5))
    return {name: some(rng, HEADERS[name]) for name in chosen}


def some(rng: Random, among: list[str]) -> str:
    """One of these, or one with a few characters changed."""
    text = rng.choice(among)
    if rng.random() < 0.3 and text:
        at = rng.randrange(len(text))
        text = text[:at] + chr(rng.choice([32, 45, 48, 57, 58, 65, 233, 0x661])) + text[at + 1 :]
    return text


def texts(error: BaseException) -> Iterator[str]:
    """Give all that an error says of itself."""
    yield from (str(error), repr(error), repr(error.args), repr(vars(error)))
    yield from getattr(error, "__notes__", ())


def check_shown(shown: Iterable[str], secrets: Iterable[str] = SECRETS) -> None:
    for text in shown:
        assert text.isprintable(), text
        for secret in secrets:
            assert secret not in text, text


def check_error(error: NunuError, secrets: Iterable[str] = SECRETS) -> None:
    """It can be shown in public, and sent to another process."""
    shown = list(texts(error))
    check_shown(shown, secrets)
    assert len(str(error)) < 15_000
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert type(again) is type(error)
    assert list(texts(again)) == shown


@pytest.mark.parametrize("name", sorted(REQUESTS))
@fuzz(60)
@given(SEEDS)
def test_any_answer_is_read_or_refused(name: str, seed: int) -> None:
    rng = Random(seed)
    request = REQUESTS[name]
    status = rng.choice(
        [200, 200, 200, 201, 204, 207, 299, *range(300, 600, 7), 402, 429, 503, 999]
    )
    headers, answer = headers_of(rng), body(rng, SAMPLES[name])
    secrets = (Secret(KEY), *request.secrets)
    hidden = [secret.reveal() for secret in secrets]
    outcome = read(request, status, headers, answer, secrets)
    if isinstance(outcome, DecodeError):
        assert 200 <= status < 300
        check_shown([repr(outcome.leftover)], [UPLOAD_ID])
        outcome.leftover = None  # ids that cancelling needs as they came, whatever they are
        check_error(outcome, hidden)
    elif isinstance(outcome, ApiError):
        assert not 200 <= status < 300 or outcome.in_success
        check_error(outcome, hidden)
    elif not isinstance(outcome, dict | list | str):  # what `request()` gives is the JSON itself
        check_shown([repr(outcome)], [])


@fuzz(500)
@given(SEEDS)
def test_any_time_to_wait_is_seconds_or_nothing(seed: int) -> None:
    rng = Random(seed)
    date = None if rng.random() < 0.2 else some(rng, TIMES)
    seconds = parse_retry_after(some(rng, TIMES), date)
    assert seconds is None or 0 <= seconds < math.inf


XML = f"<Error><Code>SlowDown</Code><Message>{SIGNATURE} &amp; &lt;b&gt; &#27;[2J</Message></Error>"
STORES = [
    *(XML, XML * 900, "plain words", f"cannot reach https://s/?X-Amz-Signature={SIGNATURE}", ""),
    *("<Code>" * 9000, "<Code>" + "x" * 60_000, "<Message>" + "&amp;" * 200 + "</Message>", "<"),
    *("<!DOCTYPE a [<!ENTITY b 'c'>]><Code>&b;</Code>", "<code></code>", "&#xd800;&#1114112;"),
    "<Code>&#xd800;&#x202e;&#99999999999999999999;</Code><Message>&#0;&#10;</Message>",
]


@fuzz(500)
@given(SEEDS)
def test_whatever_storage_answers_is_a_part_or_a_storage_error(seed: int) -> None:
    rng = Random(seed)
    headers, status = headers_of(rng), rng.choice([200, 204, 299, 301, 400, 403, 412, 503, 599])
    etags = [some(rng, TAGS) for _ in range(rng.choice([0, 1, 1, 1, 2, 3]))]
    answer = bytes(rng.choice(STORES), "utf-8")
    for _ in range(rng.randrange(4)):
        at = rng.randrange(len(answer) + 1)
        answer = answer[:at] + rng.randbytes(rng.randrange(3)) + answer[at + rng.randrange(4) :]
    received = _Answer(status, headers, etags, answer, whole=rng.random() < 0.5)
    if status >= 300:
        # The whole of a secret that was cut in two by the mutation is none any more.
        check_error(_refusal(7, received, (Secret(SIGNATURE),)), [SIGNATURE])
    found, problem = _etag(etags)
    assert bool(found) is not bool(problem)
    if problem:
        check_error(StorageError(part_number=7, status=status, message=problem))
    else:
        assert json.loads(json.dumps(found).encode()) == found
        given = md5_of(found, headers)
        assert given is None or given == found.lower()
    md5 = rng.choice([None, "0" * 32, "abc"])
    verdict = _verdict(received, md5)
    if isinstance(verdict, Stored):
        assert verdict.etag == found
        assert verdict.verified <= (md5 is not None)
    else:
        error = StorageError(part_number=7, status=status, message=verdict)
        check_error(error, [SIGNATURE])


ADDRESSES = [
    *(
        "https://s.example/a%2Fb?X-Amz-Signature=1",
        "http://s.example/",
        "https://u:p@h/",
        "ftp://h",
    ),
    *("http://127.0.0.1:1/", "https://[::1]/", "https://[::ffff:127.0.0.1]/", "http://127.1/"),
    *(
        "https://[fe80::1%25eth0]/",
        "https://h:99999/",
        "https://h:x/",
        "https://[",
        "https://]",
        "",
    ),
    *(
        "//h/",
        "file:///etc/passwd",
        "https:///x",
        "https://h" + "/a" * 5000,
        "https://xn--/",
        "a b",
    ),
    *("https://xn--a-\udcff/", "https://h\r\nX: y/", "https://\u0661.0.0.1/", "https://h\x00/"),
    *(
        "https://%6c%6fcalhost/",
        "https://LOCALHOST/",
        "https://a.localhost./",
        "https://localhost.",
    ),
    *(
        "https://" + "a." * 400 + "b/",
        "https://é.example/",
        "https://h?#@localhost/",
        "https://h\\@g/",
    ),
]


@fuzz(700)
@given(SEEDS)
def test_any_address_is_refused_in_words_or_leads_to_a_host(seed: int) -> None:
    rng = Random(seed)
    url = some(rng, ADDRESSES)
    if rng.random() < 0.3:
        url = "".join(rng.choices("htps:/@[]?#%.1a \\\u0661\ud800", k=rng.randrange(30)))
    refused = refusal_of(url, allow_http=rng.random() < 0.5, allow_loopback=False)
    check_shown([refused])
    if not refused:
        target = URL(url, encoded=True)
        assert target.scheme in {"http", "https"}
        assert target.host
        assert target.host.lower().rstrip(".").split(".")[-1] != "localhost"


def kept_lines() -> list[bytes]:
    """The lines of a journal, as they are written."""
    head = journal.JournalHeader(
        path="/builds/game.zip",
        identity=Identity(11, 1, 2, 3),
        base_url="https://nunu.ai/api/v1",
        project_id="p",
        request=InitiateUpload(name="n", file_name="f.zip", file_size=11, platform="linux"),
        ticket=MultipartTicket(
            build_id="b", object_key="k", total_parts=3, part_size=5, upload_id=UPLOAD_ID
        ),
        began=1.0,
    )
    line, last = journal.head_line(head)
    lines = [line]
    for number in (1, 2, 3):
        line, last = journal.part_line(number, f"etag-{number}", last)
        lines.append(line)
    return [*lines, journal.mark_line(last)[0]]


LINES = kept_lines()


def sealed(content: bytes, before: int) -> bytes:
    """A line with a checksum that fits, whatever it says."""
    return b'["%08x",%s]\n' % (zlib.crc32(content, before), content)


@fuzz(500)
@given(SEEDS)
def test_a_journal_in_any_state_is_read_as_far_as_it_is_whole(seed: int) -> None:
    rng = Random(seed)
    lines = list(LINES)
    kind = rng.randrange(4)
    if kind == 0:  # spliced
        lines = rng.choices(lines, k=rng.randrange(8))
    elif kind == 1:  # written by something else, with checksums that fit
        content = json.loads(lines[0])[1]
        for _ in range(rng.randrange(3)):
            content = mutated(rng, content)
        text = json.dumps(content).replace(json.dumps(HOLE), rng.choice(RAW)).encode()
        lines = [sealed(text, 0)]
        lines.append(sealed(json.dumps(mutated(rng, {"part": 1})).encode(), zlib.crc32(text)))
    data = b"".join(lines)
    for _ in range(rng.randrange(3)):
        at = rng.randrange(len(data) + 1)
        data = data[:at] + rng.randbytes(rng.randrange(3)) + data[at + rng.randrange(3) :]
    data = data[: rng.randrange(len(data) + 1)] if rng.random() < 0.3 else data
    kept = journal.read(data)
    if kept is not None:
        assert 0 < kept.length <= len(data)
        assert all(1 <= number <= kept.head.ticket.total_parts for number in kept.etags)
        if kind != 1:  # nothing is believed that was not written
            assert UPLOAD_ID not in repr(kept)
            assert kept.etags.items() <= {n: f"etag-{n}" for n in (1, 2, 3)}.items()
        again = journal.read(data[: kept.length])
        assert again == kept


@fuzz(300)
@given(SEEDS)
def test_a_plan_of_any_numbers_is_refused_or_costs_nothing(seed: int) -> None:
    rng = Random(seed)
    numbers = [0, 1, -1, 2, 3, 7, 10**9, 10**18, 2**63 - 1, -(2**63), rng.randrange(1, 10**12)]
    size, part_size = max(1, abs(rng.choice(numbers))), rng.choice(numbers)
    total = rng.choice([rng.choice(numbers), -(-size // part_size) if part_size else 1])
    try:
        plan = Plan(size, part_size, total)
    except PlanMismatch as error:
        check_error(error)
        return
    first, last = plan.part(1), plan.part(plan.total_parts)
    assert first.offset == 0
    assert last.offset + last.length == size
    assert len(next(plan.batches(batch_size(rng.randrange(1, 50))))) <= 10


def test_the_largest_plan_takes_no_memory() -> None:
    """Ten to the ninth parts, as a server may well ask for if the file is large enough."""
    tracemalloc.start()
    try:
        plan = Plan(10**9, 1, 10**9)
        numbers = [next(plan.batches(10)) for _ in range(3)]
        assert plan.part(10**9).length == 1
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert numbers == [tuple(range(1, 11))] * 3
    assert peak < 64 * 1024


@fuzz(300)
@given(SEEDS)
def test_anything_that_is_cleaned_can_be_shown(seed: int) -> None:
    rng = Random(seed)
    secrets = tuple(map(Secret, SECRETS))
    words = rng.choices([*WORDS, *SECRETS, "\x00", "&", "%20"], k=rng.randrange(12))
    check_shown([sanitize("".join(words), secrets, limit=rng.choice([3, 50, 500]))])
    data: Any = mutated(rng, rng.choice([*ERRORS, BUILD]))
    check_shown([repr(clean_details(data, secrets))])


@fuzz(200)
@given(SEEDS)
def test_a_list_ends_whatever_its_pages_say(seed: int) -> None:
    """However long the server goes on: it is asked a few hundred times at most."""
    rng = Random(seed)
    asked = 0
    figures = [0, 1, 2, 3, 20, 100, 10**9, 2**63 - 1, -1, -(10**9)]
    steady = rng.random() < 0.5
    first = [rng.choice(figures) for _ in range(3)]

    async def fetch(number: int) -> Page[str]:  # type: ignore[type-var] - rows of a test
        nonlocal asked
        asked += 1
        assert number >= 0
        about = first if steady else [rng.choice(figures) for _ in range(3)]
        pagination = Pagination(
            page=number, page_size=about[0], total_count=about[1], total_pages=about[2]
        )
        rows = tuple(f"{rng.randrange(40)}" for _ in range(rng.choice([0, 1, 3, 3, 3, 3])))
        return Page(data=rows, pagination=pagination)

    async def walk() -> list[str]:
        return [row async for row in Listing(fetch, lambda row: row)]

    found = asyncio.run(walk())
    assert len(set(found)) == len(found)
    assert asked < 1500


# The same over a socket.


GOOD = {
    "POST /api/v1/builds/upload ": ONE,
    "POST /api/v1/builds/upload/complete": {"status": "success"},
    "GET": {"build_id": "b", "status": "uploading"},
    "DELETE": {"success": True},
}
SIGNED = f"/k?X-Amz-Signature={SIGNATURE}&uploadId={UPLOAD_ID}"
# What each call knows to be secret; what else a server tells of its own accord is just words.
KNOWN = {
    "GET": [KEY],
    "POST /api/v1/runs/stop": [KEY],
    "PUT": [SIGNATURE, UPLOAD_ID],
    "POST /api/v1/builds/upload ": [KEY],
    "POST /api/v1/builds/upload/complete": [KEY],
}
BOMB = zlib.compress(bytes(40 << 20), 1)
LINES_OF_STATUS = [
    *(
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 200 OK",
        b"HTTP/1.0 200 OK",
        b"HTTP/1.1 404 No",
        b"HTTP/1.1 99",
    ),
    *(b"HTTP/1.1 2OO OK", b"HTTP/9.9 200 OK", b"ICY 200 OK", b"HTTP/1.1 99999 X", b"HTTP/1.1 -1 X"),
    *(b"HTTP/1.1 503 " + b"x" * 9000, b"", b"\x00" * 40, b"HTTP/1.1 200 \xff\xfe", b"HTTP/1.1"),
    *(
        b"HTTP/1.1 101 Up",
        b"HTTP/1.1 204 No",
        b"HTTP/1.1 304 No",
        b"HTTP/1.1 301 No",
        b"RTSP/1.0 2",
    ),
]


def fields(rng: Random, content: bytes) -> list[bytes]:
    """Header lines that may or may not fit a body."""
    length = b"Content-Length: %d"
    right = length % len(content)
    return rng.choice(
        [
            [right],
            [right, right],
            [right, length % (len(content) + 7)],
            [length % (len(content) + 7)],
            [length % max(len(content) - 7, 0)],
            [right, b"Transfer-Encoding: chunked"],
            [b"Transfer-Encoding: chunked"],
            [b"Transfer-Encoding: gzip, chunked"],
            [b"Transfer-Encoding: nonsense"],
            [
                b"Content-Length: "
                + rng.choice([b"-1", b"+3", b"1e3", b"", b"9" * 30, b"0x10", b"3, 4"])
            ],
            [],
            [right, b"X: " + b"y" * 100_000],
            [right] + [b"X-%d: y" % number for number in range(rng.choice([200, 5000]))],
            [right, b"no colon here"],
            [right, b" folded: " + KEY.encode()],
            [right, b"X: \x00\x01"],
            [right, b'ETag: "\xff\xfe"'],
            [right, b"ETag: " + SIGNATURE.encode()],
            [right, b"Location: https://u:" + KEY.encode() + b"@h/?" + SIGNATURE.encode()],
            [right, b"Set-Cookie: a=b", b"Connection: close", b'ETag: "abc"'],
        ]
    )


def packed(rng: Random, content: bytes) -> tuple[bytes, list[bytes]]:
    """A body, perhaps compressed, honestly or not, and the header that says so."""
    bomb = BOMB if rng.random() < 0.3 else zlib.compress(content)
    return rng.choice(
        [
            (content, []),
            (content, []),
            (gzip.compress(content), [b"Content-Encoding: gzip"]),
            (gzip.compress(content)[:-9], [b"Content-Encoding: gzip"]),
            (gzip.compress(content) * 1024, [b"Content-Encoding: gzip"]),
            (content, [b"Content-Encoding: gzip"]),
            (bomb, [b"Content-Encoding: deflate"]),
            (bomb[:-5] + b"xxxxx", [b"Content-Encoding: deflate"]),
            (content, [b"Content-Encoding: br"]),
            (content, [b"Content-Encoding: nonsense"]),
        ]
    )


def chunks(rng: Random, content: bytes) -> bytes:
    """The body in chunks, one of which may be none."""
    size = rng.choice(
        [b"%x" % len(content)] * 3 + [b"%x" % (len(content) + 3), b"-1", b"f" * 40, b""]
    )
    end = rng.choice([b"0\r\n\r\n", b"0\r\n", b"0\r\nX: y\r\n\r\n", b"", b"zz\r\n"])
    return size + rng.choice([b"", b";a=b"]) + b"\r\n" + content + b"\r\n" + end


def wire(rng: Random, target: str) -> bytes:
    """An answer as bytes: nearly right, or not at all."""
    if rng.random() < 0.1:
        return rng.randbytes(rng.randrange(200))
    data: Any = rng.choice([*ERRORS, {"status": "success"}, {"build_id": "b"}, {"error": target}])
    content, coding = packed(rng, json.dumps(mutated(rng, data)).encode())
    lines = [rng.choice(LINES_OF_STATUS[: rng.choice([1, 99])]), *fields(rng, content), *coding]
    if b"Transfer-Encoding: chunked" in lines:
        content = chunks(rng, content)
    ending = rng.choice([b"\r\n"] * 9 + [b"\n"])
    head = ending.join([*lines, b"", b""])
    before = rng.choice(
        [b""] * 6 + [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 X\r\n\r\n" * 3000]
    )
    response = before + head + content
    return response if rng.random() < 0.8 else response[: rng.randrange(len(response) + 1)]


@attrs.define
class Hostile:
    """A server that spoils the answers to the requests that begin with `call`, by chance."""

    call: str
    rng: Random
    silent: int = 0
    """Connections on which all is said, and which stay open."""
    seen: list[str] = attrs.field(factory=list)

    async def exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        line = head.split(b"\r\n")[0].decode("latin-1")
        self.seen.append(line)
        if line.startswith(self.call):
            await self._spoil(reader, writer, head)
            return
        await reader.readexactly(body_length(head))
        if line.startswith("PUT"):
            writer.write(answer(headers={"ETag": '"abc"'}))
        for start, data in GOOD.items():
            if line.startswith(start):
                here = f"http://127.0.0.1:{writer.get_extra_info('sockname')[1]}{SIGNED}"
                payload = json.dumps(data).replace(ONE["upload_url"], here)
                writer.write(answer(body=payload.encode()))

    async def _spoil(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        if self.rng.random() < 0.9:
            await reader.readexactly(body_length(head))
        response = wire(self.rng, head.decode("latin-1"))
        end = self.rng.randrange(3)
        writer.write(response)
        await writer.drain()
        if end == 0:
            self.silent += 1
            try:
                while await reader.read(65_536):
                    pass
            finally:
                self.silent -= 1
        elif end == 1:
            writer.close()
        if end:
            writer.transport.abort()


async def hostile(call: str, rng: Random, path: Path) -> list[str]:
    """Make a call of a server that spoils the answers to it; return what was shown meanwhile.

    What is not answered ends by the clock, which goes on once the server has said all.
    """
    clock = ManualClock()
    server = Hostile(call, rng)
    shown: list[str] = []
    policy = RetryPolicy(attempts=2, part_attempts=2)
    # A slow machine sends the DELETE some turns later, and each may be 20 seconds.
    timeouts = Timeouts(cleanup=3600)
    async with (
        raw_server(server.exchange) as raw,
        NunuClient(KEY, base_url=raw.url, clock=clock, retry=policy, timeout=timeouts) as nunu,
    ):
        calls: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {
            "GET": lambda: nunu.builds.get("b"),
            "POST /api/v1/runs/stop": lambda: nunu.runs.stop(["j"]),
        }
        upload = partial(nunu.upload_build, path, name="n", platform="linux")
        task = asyncio.ensure_future(calls.get(call, upload)())
        for turn in itertools.count():
            if task.done():
                break
            await asyncio.sleep(0.001)
            assert turn < 5000, f"hangs after {server.seen}"
            if server.silent or turn > 200:
                clock.advance(20)
        try:
            shown.append(repr(task.result()))
        except NunuError as error:
            shown += [text for link in chain(error) for text in texts(link)]
            check_error(error, [])
    ends = [line for line in server.seen if line.startswith("DELETE")]
    begun = any(line.startswith("PUT") for line in server.seen)
    completing = any("/complete" in line for line in server.seen)
    assert len(ends) <= 1
    # A build that may be complete is left alone; any other that was begun is cancelled.
    assert completing or len(ends) == begun, server.seen
    assert len(server.seen) < 20
    return shown


def chain(error: BaseException) -> list[BaseException]:
    """The error and all that it came from."""
    found = [error]
    for link in found:
        found += [e for e in (link.__cause__, link.__context__) if e is not None and e not in found]
    return found


@pytest.mark.parametrize("call", sorted(KNOWN))
def test_a_hostile_server_ends_a_call_with_one_of_our_errors(call: str, tmp_path: Path) -> None:
    path = tmp_path / "game.zip"
    path.write_bytes(bytes(70_000))
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logger = logging.getLogger()
    logger.addHandler(handler)
    level, logger.level = logger.level, logging.DEBUG

    @fuzz(40)
    @given(SEEDS)
    def run_one(seed: int) -> None:
        stream.truncate(0)
        shown = asyncio.run(hostile(call, Random(seed), path))
        check_shown(shown, KNOWN[call])
        for secret in KNOWN[call]:
            assert secret not in stream.getvalue()

    try:
        run_one()
    finally:
        logger.level = level
        logger.removeHandler(handler)
