"""Rows F: the local file."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import subprocess
import sys
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from doubles import change_mode, ctime_moves
from fault_case import PART, Case
from fault_play import Played
from fault_server import Moment, Seen
from fault_steps import answer, fin, refuse, rst, serve

from nunu_async import (
    BuildFile,
    BytesSent,
    Cancelled,
    Completed,
    Completing,
    InputError,
    NunuClient,
    PartDone,
    Retrying,
    SourceChanged,
    SourceError,
    StorageError,
    UploadError,
    UploadEvent,
    UploadStarted,
)
from nunu_async.upload import source

Deed = Callable[[Path], object]
GIB = 1024**3


# --- Operations


async def send(nunu: NunuClient, path: Path | str, **more: Any) -> object:
    asked = {"name": "n", "platform": "linux", "multipart": True, "concurrency": 1} | more
    return await nunu.upload_build(path, **asked)


def of_path(make: Callable[[Path], Path | str]) -> Callable[..., Awaitable[object]]:
    """Return an upload of what `make` puts beside the file."""

    async def operation(nunu: NunuClient, path: Path, played: Played, **more: Any) -> object:
        return await send(nunu, make(path), **more)

    return operation


def during(
    deed: Deed, operation: str = "put_part", moment: Moment = "arrived", nth: int = 1, **asked: Any
) -> Callable[..., Awaitable[object]]:
    """Return an upload to whose file `deed` is done at the nth moment of this kind."""

    async def upload(nunu: NunuClient, path: Path, played: Played, **more: Any) -> object:
        met = 0

        def on_moment(now: Moment, seen: Seen) -> None:
            nonlocal met
            if now == moment and seen.operation == operation:
                met += 1
                if met == nth:
                    deed(path)

        played.server.on_moment = on_moment
        return await send(nunu, path, **(asked | more))

    return upload


# --- What is done to a file


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def shrink(path: Path) -> None:
    os.truncate(path, 10)


def rewrite(path: Path) -> None:
    """Write other bytes, as many as there were; the time is another for certain."""
    found = path.stat()
    with path.open("r+b") as file:
        file.write(b"other bytes")
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + 1))


def rewrite_in_place(path: Path) -> None:
    """Write other bytes and set the time back; only the ctime shows it, by the system's clock."""
    found = path.stat()

    def change() -> None:
        with path.open("r+b") as file:
            file.write(b"other bytes")
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))

    ctime_moves(path, change)


def metadata(change: Deed) -> Deed:
    """Return a deed that changes the ctime and nothing else that an upload looks at."""

    def deed(path: Path) -> None:
        ctime_moves(path, lambda: change(path))

    return deed


def hard_link_elsewhere(path: Path) -> None:
    path.with_name("backup").unlink(missing_ok=True)
    path.with_name("backup").hardlink_to(path)


def rename_away_and_back(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.with_name("moved").rename(path)


METADATA: dict[str, Deed] = {
    "chmod": metadata(change_mode),
    "hard-link": metadata(hard_link_elsewhere),
    "rename": metadata(rename_away_and_back),
}


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"x" * path.stat().st_size)
    other.replace(path)


# --- What is no file


def socket_file(path: Path) -> Path:
    """Make one by its bare name: the whole path may be longer than an address allows."""
    before = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind("socket")
    finally:
        os.chdir(before)
    return path.with_name("socket")


def fifo(path: Path) -> Path:
    os.mkfifo(path.with_name("pipe"))
    return path.with_name("pipe")


def dead_link(path: Path) -> Path:
    path.with_name("link").symlink_to(path.with_name("nothing"))
    return path.with_name("link")


def loop_of_links(path: Path) -> Path:
    path.with_name("link").symlink_to("link")
    return path.with_name("link")


NO_FILES: dict[str, Callable[[Path], Path | str]] = {
    "missing": lambda path: path.with_name("nothing"),
    "directory": lambda path: path.parent,
    "fifo": fifo,
    "socket": socket_file,
    "device": lambda _: "/dev/null",
    "endless-device": lambda _: "/dev/zero",
    "dead-link": dead_link,
    "loop-of-links": loop_of_links,
    "below-a-file": lambda path: path / "below",
}


# --- What the disk does


def reads(pread: Callable[[Callable[..., bytes], int, int, int], bytes]) -> Callable[[Any], None]:
    """Return a patch that has every read go by `pread(real, descriptor, length, offset)`."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        def nothing_cached(*_: object) -> int:
            raise BlockingIOError

        if not hasattr(os, "pread"):  # Windows
            read_at = source._read_at
            monkeypatch.setattr(
                source,
                "_read_at",
                lambda descriptor, at, length: pread(
                    lambda d, n, a: read_at(d, a, n), descriptor, length, at
                ),
            )
            return
        real = os.pread
        if hasattr(os, "preadv"):
            monkeypatch.setattr(os, "preadv", nothing_cached)
        monkeypatch.setattr(
            os, "pread", lambda descriptor, length, at: pread(real, descriptor, length, at)
        )

    return patch


def failing(code: int, calls: Iterator[bool]) -> Callable[[Any], None]:
    """Return a patch by which reads fail with this error where `calls` says so."""

    def pread(real: Callable[..., bytes], descriptor: int, length: int, at: int) -> bytes:
        if next(calls):
            raise OSError(code, os.strerror(code))
        return real(descriptor, length, at)

    return reads(pread)


def nth_read(*which: int) -> Iterator[bool]:
    number = 0
    while True:
        number += 1
        yield number in which


def from_read(first: int) -> Iterator[bool]:
    number = 0
    while True:
        number += 1
        yield number >= first


def short_reads(monkeypatch: Any) -> None:
    """Give seven bytes at most, cached or not."""
    if not hasattr(os, "preadv"):
        reads(lambda real, descriptor, length, at: real(descriptor, min(length, 7), at))(
            monkeypatch
        )
        return
    real, cached = os.pread, os.preadv

    def preadv(descriptor: int, blocks: list[Any], at: int, *flags: int) -> int:
        return cached(descriptor, [memoryview(blocks[0])[:7]], at, *flags)

    monkeypatch.setattr(os, "preadv", preadv)
    monkeypatch.setattr(
        os, "pread", lambda descriptor, length, at: real(descriptor, min(length, 7), at)
    )


def shrink_at_read(number: int) -> Callable[[Any], None]:
    """Return a patch by which the file loses its end just before a read, in the midst of a part."""

    def patch(monkeypatch: Any) -> None:
        cached = os.preadv
        calls = nth_read(number)

        def preadv(descriptor: int, blocks: list[Any], at: int, *flags: int) -> int:
            if next(calls):
                os.truncate(f"/proc/self/fd/{descriptor}", at + 1)
            return cached(descriptor, blocks, at, *flags)

        monkeypatch.setattr(os, "preadv", preadv)

    return patch


def failing_stat(monkeypatch: Any) -> None:
    """Let the second look at the open file fail, as on a network disk that has lost it."""
    real, calls = os.fstat, 0

    def fstat(descriptor: int) -> os.stat_result:
        nonlocal calls
        found = real(descriptor)
        if found.st_size == 2 * PART + 1:
            calls += 1
            if calls > 1:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return found

    monkeypatch.setattr(os, "fstat", fstat)


# --- Names

ODD_NAMES = {
    "nfc": "\u00e9t\u00e9.zip",
    "nfd": "e\u0301te\u0301.zip",
    "quotes": "a \"b\" 'c' <d>&.zip",
    "dash": "-rf --name=x.zip",
    "percent": "%2e%2e%2f.zip",
    "backslash": "..\\..\\x.zip",
    "emoji": "\U0001f469\u200d\U0001f680.zip",
    "as-long-as-can-be": 251 * "a" + ".zip",
}
BAD_NAMES: dict[str, str | bytes] = {
    "newline": "a\nb.zip",
    "carriage-return": "a\r.zip",
    "escape": "\x1b[31m.zip",
    "right-to-left": "a\u202egpj.zip",
    "no-utf8": b"a\xff.zip",
}


def named(name: str | bytes) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        folder = path.parent / "folder"
        folder.mkdir()
        other = folder / os.fsdecode(name)
        other.hardlink_to(path)
        return other

    return make


def sent_name(wanted: str) -> Callable[[Played], None]:
    def also(played: Played) -> None:
        (build,) = played.server.builds.values()
        assert build.request["file_name"] == wanted

    return also


async def by_dots(nunu: NunuClient, path: Path, played: Played) -> object:
    (path.parent / "folder").mkdir()
    return await send(nunu, path.parent / "folder" / ".." / path.name)


def too_long(path: Path) -> Path:
    return path.with_name(300 * "a")


# --- Many files


async def twice(nunu: NunuClient, path: Path, played: Played) -> object:
    return await nunu.upload_builds([path, path.parent / "." / path.name], platform="linux")


async def hard_link(nunu: NunuClient, path: Path, played: Played) -> object:
    other = path.with_name("link.zip")
    other.hardlink_to(path)
    results = await nunu.upload_builds([path, other], platform="linux", multipart=True)
    assert [result.file.path for result in results] == [path, other]
    assert all(result.ok for result in results)
    return results


async def two_names(nunu: NunuClient, path: Path, played: Played) -> object:
    files = [BuildFile(path=path, name=name, platform="linux", multipart=True) for name in "ab"]
    results = await nunu.upload_builds(files)
    assert all(result.ok for result in results)
    assert sorted(b.request["name"] for b in played.server.builds.values()) == ["a", "b"]
    return results


async def nothing(nunu: NunuClient, path: Path, played: Played) -> object:
    return await nunu.upload_builds(path.parent.glob("*.apk"), platform="linux")


# --- Listeners


class Odd(Exception):
    """What a listener raises."""


def listening_with(listener: Callable[[UploadEvent], Any]) -> Callable[..., Awaitable[object]]:
    async def operation(nunu: NunuClient, path: Path, played: Played, **more: Any) -> object:
        def both(event: UploadEvent) -> Any:
            played.events.append(event)
            return listener(event)

        return await send(nunu, path, on_progress=both, **more)

    return operation


def raising_at(kind: type[Any], error: BaseException | None = None) -> Callable[[UploadEvent], Any]:
    def listener(event: UploadEvent) -> None:
        if isinstance(event, kind):
            raise error or Odd("no")

    return listener


def raising_later_at(kind: type[Any]) -> Callable[[UploadEvent], Any]:
    async def listener(event: UploadEvent) -> None:
        await asyncio.sleep(0)
        if isinstance(event, kind):
            raise Odd("no")

    return listener


async def slow(event: UploadEvent) -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def sane_totals(played: Played) -> None:
    size = played.case.size
    totals = [event.sent for event in played.events if isinstance(event, BytesSent)]
    assert max(totals) == totals[-1] == size
    fallen = sum(later < earlier for earlier, later in pairwise(totals))
    retries = [event for event in played.events if isinstance(event, Retrying)]
    assert fallen <= len(retries)
    done = [event.done for event in played.events if isinstance(event, PartDone)]
    assert done == [1, 2, 3]


def says(pattern: str) -> Callable[[Played], None]:
    """Return a look at the notes of the error."""

    def also(played: Played) -> None:
        notes = "\n".join(getattr(played.error, "__notes__", ()))
        assert pattern in notes, notes

    return also


# --- Descriptors


LOOK = """
import os
for number in os.listdir("/proc/self/fd"):
    try:
        print(os.readlink(f"/proc/self/fd/{number}"))
    except OSError:
        pass
"""


def inherited(path: Path) -> None:
    """Start another program, which is to have none of the upload's descriptors."""
    found = subprocess.run(  # noqa: S603 - this interpreter
        [sys.executable, "-I", "-S", "-c", LOOK],
        close_fds=False,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "pipe:" in found, found
    assert str(path) not in found
    assert "socket:" not in found
    path.with_name("checked").touch()


async def with_a_child(nunu: NunuClient, path: Path, played: Played) -> object:
    result = await during(inherited)(nunu, path, played)
    assert path.with_name("checked").exists()
    return result


# --- Large files


async def huge(nunu: NunuClient, path: Path, played: Played) -> object:
    """Begin with a file of 100 GiB that has no bytes on disk; storage refuses the first part."""
    sparse = path.with_name("huge.zip")
    with sparse.open("wb") as file:
        file.truncate(100 * GIB)
    tracemalloc.start()
    try:
        return await send(nunu, sparse)
    finally:
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        sparse.unlink()
        assert most < 8 * 1024 * 1024, most


CHANGED = {"error": SourceChanged, "requests": {"complete_upload": 0, "cancel_upload": 1}}
REWRITTEN: dict[str, Any] = CHANGED | {"match": "is not the MD5 of what the file holds now"}
NOT_SENT = {"requests": {"api": 0, "storage": 0}}
UNREADABLE: dict[str, Any] = {
    "error": SourceError,
    "match": "cannot be read",
    "requests": {"put_part": (0, 3), "complete_upload": 0, "cancel_upload": 1},
    "sleeps": 0,
}

CASES = [
    Case("F1", "empty", size=0, error=SourceError, match="empty", **NOT_SENT),
    Case(
        "F1",
        "empty-single",
        operation="single",
        size=0,
        error=SourceError,
        match="empty",
        **NOT_SENT,
    ),
    *[
        Case("F2", kind, operation=of_path(make), error=SourceError, seconds=(0, 0), **NOT_SENT)
        for kind, make in NO_FILES.items()
    ],
    Case("F3", "before-part-2", operation=during(grow), **CHANGED),
    Case("F3", "in-the-last-part", operation=during(grow, nth=3), **CHANGED),
    Case("F3", "single-part", operation=during(grow, multipart=False), **CHANGED),
    Case(
        "F3",
        "while-a-part-is-retried",
        operation=during(grow, nth=3),
        steps={"put_part:2": [rst("half")]},
        **CHANGED,
    ),
    Case("F4", "before-part-2", operation=during(shrink), **CHANGED),
    Case("F4", "single-part", operation=during(shrink, moment="read", multipart=False), **CHANGED),
    Case(
        "F4",
        "within-a-part",
        size=3 * 1024 * 1024,
        server={"part_size": 2 * 1024 * 1024},
        patch=shrink_at_read(3),
        seconds=(0, 0),
        match="shorter",
        **CHANGED,
    ),
    Case(
        "F4",
        "within-a-single-part",
        operation="single",
        size=3 * 1024 * 1024,
        patch=shrink_at_read(3),
        seconds=(0, 0),
        match="shorter",
        **CHANGED,
    ),
    Case("F5", "rewritten-before-part-2", operation=during(rewrite), **CHANGED),
    Case("F5", "rewritten-in-the-last-part", operation=during(rewrite, nth=3), **CHANGED),
    Case("F5", "rewritten-single-part", operation=during(rewrite, multipart=False), **CHANGED),
    # The same, with the time set back: the ctime moves all the same.
    *(
        Case("F5", f"set-back-{variant}", operation=operation, steps=steps, **REWRITTEN)
        for variant, operation, steps in (
            ("in-part-2", during(rewrite_in_place, nth=2), {}),
            ("in-the-last-part", during(rewrite_in_place, nth=3), {}),
            ("after-the-last-part", during(rewrite_in_place, moment="answered", nth=3), {}),
            ("single-part", during(rewrite_in_place, moment="read", multipart=False), {}),
            ("verified", during(rewrite_in_place, nth=2, verify=True), {}),
            (
                "while-a-part-is-retried",
                during(rewrite_in_place, nth=3),
                {"put_part:2": [rst("half")]},
            ),
        )
    ),
    # --- F18: what moves the ctime, and no byte
    *(
        Case(
            "F18",
            f"{change}-{when}",
            operation=during(deed, "put_part", "arrived", nth, **how),
            requests={"put_part": count, "complete_upload": 1, "cancel_upload": 0},
        )
        for change, deed in METADATA.items()
        for when, nth, count, how in (
            ("in-part-2", 2, 3, {}),
            ("in-the-last-part", 3, 3, {}),
            ("single-part", 1, 1, {"multipart": False}),
        )
    ),
    Case(
        "F18",
        "chmod-in-four-parts-at-once",
        operation=during(METADATA["chmod"], nth=6, concurrency=4),
        size=20 * PART,
        requests={"put_part": 20, "complete_upload": 1},
    ),
    Case(
        "F18",
        "chmod-etags-of-another-kind",
        operation=during(METADATA["chmod"], nth=2),
        steps={"put_part": [serve(etags=('"{}-1"',)).always()]},
        match="ETags are not MD5s",
        **CHANGED,
    ),
    Case(
        "F18",
        "chmod-encrypted-with-a-key-of-the-customer",
        operation=during(METADATA["chmod"], nth=2),
        steps={"put_part": [serve(headers={"x-amz-server-side-encryption": "aws:kms"}).always()]},
        match="ETags are not MD5s",
        **CHANGED,
    ),
    Case("F6", "replaced-after-initiate", operation=during(replace, "initiate_upload", "answered")),
    Case("F6", "replaced-in-part-1", operation=during(replace)),
    Case(
        "F6",
        "replaced-and-retried",
        operation=during(replace),
        steps={"put_part:2": [rst("half")]},
        requests={"put_part:2": 2},
    ),
    Case("F7", "eio-once", patch=failing(errno.EIO, nth_read(2)), requests={"put_part": 3}),
    Case("F7", "eio-for-ever", patch=failing(errno.EIO, from_read(2)), **UNREADABLE),
    Case("F7", "eacces", patch=failing(errno.EACCES, nth_read(2)), **UNREADABLE),
    Case("F7", "estale", patch=failing(errno.ESTALE, nth_read(3)), **UNREADABLE),
    Case(
        "F7",
        "eacces-single",
        operation="single",
        patch=failing(errno.EACCES, nth_read(1)),
        **UNREADABLE,
    ),
    Case("F7", "estale-at-the-look", patch=failing_stat, **UNREADABLE),
    Case(
        "F8",
        "seven-bytes",
        size=2051,
        server={"part_size": 1024},
        patch=short_reads,
        requests={"put_part": 3},
    ),
    Case("F8", "seven-bytes-verified", operation="verify", size=500, patch=short_reads),
    Case(
        "F10",
        "sparse-100-gib",
        operation=huge,
        server={"part_size": 10 * 1024 * 1024},
        steps={"put_part": [refuse(400, "EntityTooLarge", at=0, then="fin")]},
        error=UploadError,
        cause=StorageError,
        match="of 10240 did not go up",
        requests={"put_part": 1, "cancel_upload": 1, "complete_upload": 0},
    ),
    *[
        Case("F12", kind, operation=of_path(named(name)), also=sent_name(name))
        for kind, name in ODD_NAMES.items()
    ],
    *[
        Case("F12", kind, operation=of_path(named(name)), error=InputError, **NOT_SENT)
        for kind, name in BAD_NAMES.items()
    ],
    Case("F12", "dots", operation=by_dots, also=sent_name("game.zip")),
    Case("F12", "too-long", operation=of_path(too_long), error=SourceError, **NOT_SENT),
    Case("F13", "half-sent", steps={"put_part:2": [rst("half")]}, requests={"put_part:2": 2}),
    Case(
        "F13",
        "many-blocks",
        size=3 * 1024 * 1024,
        server={"part_size": 1024 * 1024},
        steps={"put_part:2": [rst("half"), fin("last"), refuse(500, "InternalError")]},
        requests={"put_part:2": 4},
    ),
    Case(
        "F13",
        "verified",
        operation="verify",
        size=3 * 1024 * 1024,
        server={"part_size": 1024 * 1024},
        steps={"put_part:3": [rst("half"), serve(corrupt=True)]},
        attributes={"verified": 3},
        requests={"put_part:3": 3},
    ),
    Case("F14", "twice", operation=twice, error=InputError, match="given twice", **NOT_SENT),
    Case("F14", "hard-link", operation=hard_link, files=2, requests={"initiate_upload": 2}),
    Case("F14", "two-names", operation=two_names, files=2, requests={"initiate_upload": 2}),
    Case("F14", "no-match", operation=nothing, **NOT_SENT),
    *[
        Case(
            "F15",
            f"raises-at-{kind.__name__.lower()}",
            operation=listening_with(raising_at(kind)),
            error=Odd,
            requests={"complete_upload": 0, "cancel_upload": 1},
            also=says("was cancelled on the server"),
        )
        for kind in (UploadStarted, BytesSent, PartDone, Completing)
    ],
    Case(
        "F15",
        "raises-at-retrying",
        operation=listening_with(raising_at(Retrying)),
        steps={"put_part:1": [rst("half")]},
        error=Odd,
        requests={"complete_upload": 0, "cancel_upload": 1},
    ),
    Case(
        "F15",
        "raises-at-completed",
        operation=listening_with(raising_at(Completed)),
        error=Odd,
        requests={"complete_upload": 1, "cancel_upload": 0},
        also=says("is complete"),
    ),
    Case(
        "F15",
        "raises-at-cancelled",
        operation=listening_with(raising_at(Cancelled)),
        steps={"put_part:1": [refuse(400, "EntityTooLarge")]},
        error=UploadError,
        requests={"cancel_upload": 1},
        also=says("on_progress failed as well"),
    ),
    Case(
        "F15",
        "coroutine-raises",
        operation=listening_with(raising_later_at(PartDone)),
        error=Odd,
        requests={"complete_upload": 0, "cancel_upload": 1},
    ),
    Case("F15", "coroutine-is-slow", operation=listening_with(slow), also=sane_totals),
    Case(
        "F15",
        "totals-after-retries",
        steps={"put_part:2": [rst("half"), rst("last"), answer(200, then="keep")]},
        also=sane_totals,
    ),
    Case("F16", "in-part-1", operation=during(lambda path: path.unlink())),
    Case(
        "F16",
        "after-initiate",
        operation=during(lambda path: path.unlink(), "initiate_upload", "arrived"),
        steps={"put_part:3": [rst("half")]},
        requests={"put_part:3": 2},
    ),
    Case("F17", "subprocess", operation=with_a_child),
]
