"""Rows X: answers that mean harm."""

from __future__ import annotations

import asyncio
import gzip
import tracemalloc
import zlib
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path
from typing import Any

from aiohttp.compression_utils import HAS_BROTLI, HAS_ZSTD
from fault_case import Cancel, Case
from fault_play import Played
from fault_server import KEY
from fault_steps import Step, answer, early, fin, hold, raw, refuse, rst, serve, truncate

from nunu_async import (
    ApiError,
    AuthenticationError,
    BadRequest,
    BuildDetails,
    DeadlineExceeded,
    DecodeError,
    InputError,
    NotFound,
    NunuClient,
    ProtocolError,
    RetryPolicy,
    ServerError,
    StorageError,
    TransportError,
    UploadError,
    UploadOutcomeUnknown,
    VcsDetails,
)

MIB = 1024 * 1024
ONCE = RetryPolicy(attempts=1)
NOT_SENT = {"requests": {"api": 0, "storage": 0, "foreign": 0}}


# --- X1


@cache
def bomb(kind: str) -> bytes:
    """Return some hundred KB that become 96 MiB and more."""
    if kind == "members":
        return gzip.compress(bytes(MIB // 2)) * 1024
    packer = zlib.compressobj(1, wbits=31 if kind == "gzip" else 15)
    zeros = bytes(MIB)
    return b"".join(packer.compress(zeros) for _ in range(96)) + packer.flush()


def packed(kind: str, status: int = 200) -> Step:
    encoding = {"members": "gzip"}.get(kind, kind)
    return answer(status, bomb(kind), {"Content-Encoding": encoding}, then="fin")


async def thrifty_list(nunu: NunuClient, path: Path, played: Played) -> object:
    return await thrifty(nunu.runs.list_page())


async def thrifty_upload(nunu: NunuClient, path: Path, played: Played) -> object:
    return await thrifty(nunu.upload_build(path, name="n", platform="linux", multipart=True))


async def thrifty(call: Awaitable[object]) -> object:
    """Return what a call returns; it may take 40 MiB."""
    tracemalloc.start()
    try:
        return await call
    finally:
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most < 40 * MIB, f"{most:,} bytes"


# --- X3

LINK_LOCAL = "https://169.254.169.254/latest/meta-data"
ADDRESSES = {
    "file": "file:///etc/passwd",
    "ftp": "ftp://storage.test/key",
    "ws": "ws://{foreign}/key",
    "no-scheme": "{foreign}/key",
    "no-host": "http:///key",
    "empty": "",
    "http-elsewhere": "http://storage.nunu.test/key",
    "metadata": LINK_LOCAL,
    "metadata-http": "http://169.254.169.254/latest/meta-data",
    "metadata-number": "https://2852039166/latest",
    "metadata-hex": "https://0xa9fea9fe/latest",
    "metadata-octal": "https://0251.0376.0251.0376/latest",
    "metadata-ipv6": "https://[::ffff:169.254.169.254]/latest",
    "link-local-ipv6": "https://[fe80::1]/key",
    "multicast": "https://224.0.0.1/key",
    "user": "http://user@{foreign}/key",
    "user-and-password": "http://user:word@{foreign}/key",
    "user-that-looks-like-a-host": "http://storage.nunu.test:80@{foreign}/key",
    "newline": "http://{foreign}/key\r\nX-Injected: 1",
    "nul": "http://{foreign}/key\0",
    "space": "http://{foreign}/a key",
    "outside-ascii": "http://{foreign}/k\u00e9y",
    "64-kib": "http://{foreign}/" + 64 * 1024 * "k",
    "port-too-large": "https://storage.nunu.test:99999/key",
}
# Of an API that is elsewhere, this machine is no address for storage.
HERE = {
    "loopback": "http://{foreign}/key",
    "localhost": "http://localhost:{port}/key",
    "localhost-dot": "http://localhost.:{port}/key",
    "below-localhost": "http://storage.localhost:{port}/key",
    "short": "http://127.1:{port}/key",
    "number": "http://2130706433:{port}/key",
    "hex": "http://0x7f000001:{port}/key",
    "any": "http://0.0.0.0:{port}/key",
    "ipv6": "http://[::1]:{port}/key",
    "mapped": "http://[::ffff:127.0.0.1]:{port}/key",
    "any-ipv6": "http://[::]:{port}/key",
}
AWAY = {
    "names": {"api": "api.nunu.test"},
    "resolver": {"api.nunu.test": [["127.0.0.1"]]},
    "settings": {"allow_http": True},
}


def led_to(url: str, **more: Any) -> Callable[..., Awaitable[object]]:
    """Return an upload whose parts are to go to `url`."""

    async def operation(nunu: NunuClient, path: Path, played: Played) -> object:
        port = played.server.ports["foreign"]
        target = url.replace("{foreign}", f"127.0.0.1:{port}").replace("{port}", str(port))
        step = answer(200, {"upload_urls": [{"part_number": 1, "url": target}]}).always()
        played.server._steps["get_upload_parts"] = [step]
        asked = {"name": "n", "platform": "linux", "multipart": True}
        return await nunu.upload_build(path, **(asked | more))

    return operation


def nowhere(case: str, url: str, variant: str, **more: Any) -> Case:
    return Case(
        case,
        variant,
        size=1000,
        operation=led_to(url),
        error=UploadError,
        cause=StorageError,
        match="nothing was sent",
        attributes={"status": 0, "attempts": 1, "cancelled": True},
        requests={"storage": 0, "storage2": 0, "foreign": 0, "cancel_upload": 1},
        sleeps=0,
        **more,
    )


async def single_elsewhere(nunu: NunuClient, path: Path, played: Played) -> object:
    ticket = {
        "build_id": "b",
        "object_key": "k",
        "upload_type": "single-part",
        "upload_url": LINK_LOCAL,
    }
    played.server._steps["initiate_upload"] = [answer(200, ticket)]
    return await nunu.upload_build(path, name="n", platform="linux")


# --- X4

IDS = {
    "dots": "../runs",
    "slash": "a/b",
    "query": "a?b=c",
    "fragment": "a#b",
    "quoted-slash": "a%2fb",
    "quoted-dots": "%2e%2e",
    "newline": "a\r\nX-Injected: 1",
    "nul": "a\0",
    "space": "a b",
    "empty": "",
    "dot": ".",
    "outside-ascii": "\u00e4",
    "129": 129 * "a",
    "backslash": "..\\runs",
    "number": 7,
}


def asking_for(value: Any) -> Callable[..., Awaitable[object]]:
    """Return a call of everything that puts an id into a path."""

    async def operation(nunu: NunuClient, path: Path, played: Played) -> object:
        error: Exception | None = None
        for method in (
            nunu.builds.get,
            nunu.runs.get,
            nunu.runs.bugs,
            nunu.jobs.get,
            nunu.wait_for_run,
            nunu.wait_for_job,
            nunu.wait_for_execution,
        ):
            try:
                await method(value)
            except InputError as refused:
                error = refused
            else:
                raise AssertionError(method)
        assert error is not None
        raise error

    return operation


def server_says(**ticket: Any) -> Step:
    """Begin an upload with members of the server's choice."""
    usual = {
        "build_id": "build-1",
        "object_key": "k",
        "upload_type": "multipart",
        "upload_id": "MARKED-UPLOAD-9999-ID",
        "total_parts": 1,
        "part_size": 65536,
    }
    return answer(200, usual | ticket)


def only_known_paths(played: Played) -> None:
    """Nothing that the server said has led to another path of the API."""
    for seen in played.server.requests:
        assert seen.operation != "unknown", seen.target
        path = seen.target.partition("?")[0]
        assert ".." not in path
        assert "evil" not in path
        names = [name.lower() for name, _ in seen.headers]
        assert "x-injected" not in names


# --- X6, X7, X9, X10

ECHOES: dict[str, dict[str, Any]] = {
    "error": {"body": {"error": f"bad key {KEY}"}},
    "message": {"body": {"ok": False, "status": 400, "message": f"key={KEY}", "error": "x"}},
    "code": {"body": {"error": "x", "code": KEY}},
    "details": {"body": {"error": "x", "details": {"key": KEY, KEY: [{"deep": [KEY]}]}}},
    "other-members": {"body": {"error": "x", "seen": {"headers": {"x-api-key": KEY}}}},
    "page": {"body": f"<html>X-Api-Key: {KEY}</html>"},
    "headers": {"body": {"error": "x"}, "headers": {"X-Request-Id": KEY, "X-Echo": KEY}},
    "location": {"status": 302, "headers": {"Location": f"https://nunu.test/?key={KEY}"}},
    "list": {"body": [KEY]},
}
NASTY = "a\x1b[31mred\x1b[0m\r\nINFO forged line\u202egnp.exe\u2028next\x07\x00\x9b2J"


def escaped(played: Played) -> None:
    """Nothing that moves a terminal's cursor, forges a line or turns the text around."""
    texts = [str(played.error), *getattr(played.error, "__notes__", ())]
    texts += [line for line in played.log.split("\n") if line.startswith("nunu_async")]
    assert any("forged" in text for text in texts)
    for text in texts:
        assert all(c.isprintable() for c in text), ascii(text)
    assert not any(line.startswith("INFO forged") for line in played.log.split("\n"))


def no_cookie(played: Played) -> None:
    assert played.server.count("put_part") == 3
    assert all(seen.header("cookie") is None for seen in played.server.requests)


def pointing(status: int, *, api: bool) -> Callable[..., Awaitable[object]]:
    """Return an upload in which every answer points to the foreign host."""

    async def operation(nunu: NunuClient, path: Path, played: Played) -> object:
        there = played.server.url("foreign")
        headers = {
            "Location": f"{there}/location",
            "Content-Location": f"{there}/content",
            "Refresh": f"0; url={there}/refresh",
            "Link": f"<{there}/next>; rel=next, <{there}/style>; rel=preload",
            "Alt-Svc": f'h2="127.0.0.1:{played.server.ports["foreign"]}"',
        }
        step = serve(status=status, headers=headers).always()
        names = ("initiate_upload", "complete_upload", "list_runs") if api else ("put_part",)
        for name in names:
            played.server._steps[name] = [step]
        await nunu.runs.list_page()
        return await nunu.upload_build(path, name="n", platform="linux", multipart=True)

    return operation


# --- X11


async def odd_metadata(nunu: NunuClient, path: Path, played: Played) -> object:
    text = "line\r\nX-Injected: 1\0\x1b[31m \u202e" + "x" * 100
    result = await nunu.upload_build(
        path,
        name="n",
        platform="linux",
        description=text,
        tags=["a\r\nX-Injected: 1"],
        multipart=True,
        details=BuildDetails(vcs=VcsDetails(branch=text, repository_url=text)),
    )
    (build,) = played.server.builds.values()
    assert build.request["description"] == text
    assert build.request["tags"] == ["a\r\nX-Injected: 1"]
    assert build.request["details"]["vcs"]["branch"] == text
    return result


async def large_metadata(nunu: NunuClient, path: Path, played: Played) -> object:
    """A megabyte goes where megabytes go: into the body."""
    details = BuildDetails(vcs=VcsDetails(branch=MIB * "b"))
    result = await nunu.upload_build(
        path, name="n", platform="linux", multipart=True, details=details
    )
    (seen,) = played.server.of("initiate_upload")
    assert seen.length > MIB
    assert sum(len(name) + len(value) for name, value in seen.headers) < 1000
    return result


def started_with(**more: Any) -> Callable[..., Awaitable[object]]:
    async def operation(nunu: NunuClient, path: Path, played: Played) -> object:
        return await nunu.runs.start(
            deployment_config_id="c", instructions="play", marker=False, **more
        )

    return operation


def text_key(played: Played) -> None:
    """As JSON has it: every key is text."""
    (seen,) = played.server.of("start_run")
    assert seen.json["template_data"] == {"1": "x"}


METADATA: dict[str, dict[str, Any]] = {
    "key-that-is-a-tuple": {"template_data": {("a",): "x"}},
    "deep-key": {"template_data": {"a": [{(): "x"}]}},
    "no-json": {"template_data": {"a": object()}},
    "nan": {"template_data": {"a": float("nan")}},
    "lone-surrogate": {"name": "\ud800"},
    "bytes": {"name": b"x"},
}

FAILURES: dict[str, tuple[dict[str, list[Step]], type[Exception]]] = {
    "initiate-401": ({"initiate_upload": [answer(401, {"error": KEY})]}, AuthenticationError),
    "initiate-garbage": ({"initiate_upload": [answer(200, b"<html>").always()]}, DecodeError),
    "parts-truncated": ({"get_upload_parts": [truncate(20).always()]}, TransportError),
    "parts-too-long": ({"get_upload_parts": [packed("gzip").always()]}, TransportError),
    "parts-no-answer": ({"get_upload_parts": [hold().always()]}, DeadlineExceeded),
    "parts-closed": ({"get_upload_parts": [fin().always()]}, TransportError),
    "parts-no-http": (
        {"get_upload_parts": [raw(b"HTTP/1.1 200 OK\r\nX: \0\r\n\r\n").always()]},
        ProtocolError,
    ),
    "parts-garbage": ({"get_upload_parts": [answer(200, b"<html>").always()]}, DecodeError),
    "parts-500": ({"get_upload_parts": [answer(500, b"<html>").always()]}, ServerError),
    "put-refusal-truncated": ({"put_part": [refuse(400, "EntityTooLarge", cut=30)]}, UploadError),
    "put-success-truncated": ({"put_part": [serve(body="x" * 40, cut=3).always()]}, UploadError),
    "put-closed": ({"put_part": [fin("half").always()]}, UploadError),
    "put-reset": ({"put_part": [rst(0).always()]}, UploadError),
    "put-no-http": ({"put_part": [raw(b"HTTP/1.1 200 OK\r\nX: \0\r\n\r\n").always()]}, UploadError),
    "put-early": ({"put_part": [early("half", 200).always()]}, UploadError),
    "complete-400": ({"complete_upload": [answer(400, {"error": KEY})]}, BadRequest),
}

CASES = [
    *[
        Case(
            "X1",
            f"{kind}-{status}",
            operation=thrifty_list,
            steps={"list_runs": [packed(kind, status).always()]},
            retry=ONCE,
            error=TransportError if status == 200 else BadRequest,
            requests={"list_runs": 1},
        )
        for kind in ("gzip", "deflate", "members")
        for status in (200, 400)
    ],
    *[
        Case(
            "X1",
            f"{kind}-unasked",
            operation="list",
            steps={
                "list_runs": [
                    answer(200, 100 * b"\x28\xb5\x2f\xfd", {"Content-Encoding": kind}).always()
                ]
            },
            # Where aiohttp can unpack it (zstd since Python 3.14), these bytes are none of it.
            error=TransportError if is_known else ProtocolError,
            requests={"list_runs": 5 if is_known else 1},
        )
        for kind, is_known in (("br", HAS_BROTLI), ("zstd", HAS_ZSTD))
    ],
    Case(
        "X1",
        "gzip-storage-refuses",
        operation=thrifty_upload,
        steps={"put_part:1": [packed("gzip", 400)]},
        error=UploadError,
        cause=StorageError,
        requests={"put_part:1": 1, "cancel_upload": 1},
    ),
    Case(
        "X1",
        "gzip-storage-accepts",
        operation=thrifty_upload,
        steps={"put_part:1": [serve(body=bomb("gzip"), headers={"Content-Encoding": "gzip"})]},
        requests={"put_part": 3},
    ),
    *[nowhere("X3", url, name) for name, url in ADDRESSES.items()],
    *[nowhere("X3", url, f"here-{name}", **AWAY) for name, url in HERE.items()],
    Case(
        "X3",
        "single-part",
        operation=single_elsewhere,
        size=1000,
        error=UploadError,
        cause=StorageError,
        match="nothing was sent",
        requests={"storage": 0, "foreign": 0, "cancel_upload": 1},
    ),
    *[
        Case("X4", name, operation=asking_for(value), error=InputError, **NOT_SENT)
        for name, value in IDS.items()
    ],
    *[
        Case(
            "X4",
            f"server-says-{name}",
            size=1000,
            steps={
                "initiate_upload": [server_says(**ticket)],
                "get_upload_parts": [answer(404, {"error": "no"})],
            },
            error=error,
            requests={"cancel_upload": 1, "storage": 0},
            also=only_known_paths,
        )
        for name, error, ticket in (
            ("build-id-dots", NotFound, {"build_id": "../../evil"}),
            ("build-id-query", NotFound, {"build_id": "x?evil=1#y"}),
            ("build-id-newline", DecodeError, {"build_id": "x\r\nX-Injected: 1"}),
            ("upload-id-query", NotFound, {"upload_id": "MARKED&evil=1&object_key=other"}),
            ("object-key-newline", NotFound, {"object_key": "x\r\nX-Injected: 1"}),
        )
    ],
    *[
        Case(
            "X6",
            name,
            operation="list",
            steps={"list_runs": [answer(**({"status": 400} | echo))]},
            error=ApiError if echo.get("status") else BadRequest,
            requests={"list_runs": 1, "foreign": 0},
        )
        for name, echo in ECHOES.items()
    ],
    Case(
        "X6",
        "upload-id-of-parts",
        steps={"get_upload_parts": [answer(400, {"error": "MARKED-UPLOAD-0001-ID/+="})]},
        error=BadRequest,
        requests={"cancel_upload": 1},
    ),
    Case(
        "X6",
        "upload-id-of-a-build",
        steps={
            "complete_upload": [rst("all", effect=True)],
            "get_build": [answer(500, {"error": "MARKED-UPLOAD-0001-ID/+="}).always()],
        },
        error=UploadOutcomeUnknown,
        requests={"cancel_upload": 0},
    ),
    Case(
        "X6",
        "upload-id-of-storage",
        steps={"put_part:1": [refuse(400, "X", "no MARKED-UPLOAD-0001-ID/+=").always()]},
        error=UploadError,
        requests={"cancel_upload": 1},
    ),
    Case(
        "X7",
        "error",
        operation="list",
        steps={"list_runs": [answer(503, {"error": NASTY, "code": NASTY}).always()]},
        error=ServerError,
        also=escaped,
    ),
    Case(
        "X7",
        "page",
        operation="list",
        steps={"list_runs": [answer(503, NASTY).always()]},
        error=ServerError,
        also=escaped,
    ),
    Case(
        "X7",
        "storage",
        steps={"put_part:1": [refuse(503, "x" + NASTY.replace("\0", ""), NASTY).always()]},
        error=UploadError,
        also=escaped,
    ),
    *[Case("X8", name, steps=steps, error=error) for name, (steps, error) in FAILURES.items()],
    *[
        Case(
            "X8",
            f"cancelled-{operation}-{moment}",
            cancel=Cancel(operation=operation, moment=moment),
            error=asyncio.CancelledError,
        )
        for operation, moment in (
            ("initiate_upload", "arrived"),
            ("get_upload_parts", "arrived"),
            ("put_part", "arrived"),
            ("put_part", "read"),
        )
    ],
    Case(
        "X9",
        "cookies",
        steps={
            "*": [
                serve(
                    headers=(
                        ("Set-Cookie", "session=1; Path=/"),
                        ("Set-Cookie", "other=2; Domain=127.0.0.1; Max-Age=99"),
                        ("Strict-Transport-Security", "max-age=99999999; includeSubDomains"),
                        ("Link", "<http://127.0.0.1:1/x>; rel=preload"),
                        ("Clear-Site-Data", '"*"'),
                    )
                ).always()
            ]
        },
        also=no_cookie,
    ),
    *[
        Case(
            "X10",
            f"{'api' if api else 'storage'}-{status}",
            operation=pointing(status, api=api),
            requests={"foreign": 0, "complete_upload": 1, "put_part": 3},
        )
        for api in (True, False)
        for status in (200, 201)
    ],
    Case("X11", "line-breaks", operation=odd_metadata, also=only_known_paths),
    Case("X11", "a-megabyte", operation=large_metadata),
    Case(
        "X11", "key-that-is-a-number", operation=started_with(template_data={1: "x"}), also=text_key
    ),
    *[
        Case("X11", name, operation=started_with(**more), error=InputError, **NOT_SENT)
        for name, more in METADATA.items()
    ],
]
