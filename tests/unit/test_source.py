"""The file: opened once, read by position, noticed when it changes."""

import asyncio
import errno
import ntpath
import os
import random
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from doubles import until
from hypothesis import given, settings
from hypothesis import strategies as st
from uploads import MakeFile

from nunu_async.errors import SourceChanged, SourceError
from nunu_async.upload.paths import path_key
from nunu_async.upload.source import Source, measure
from nunu_async.upload.threads import DaemonThreadPool

CONTENT = random.Random(7).randbytes(200_003)
LONG_AGO = 1_000_000_000_000_000_000
PATIENCE = 20.0

needs_descriptor_list = pytest.mark.skipif(
    not Path("/proc/self/fd").exists(), reason="this system does not list open descriptors"
)
needs_posix = pytest.mark.skipif(os.name != "posix", reason="the system has no such files")


class Gate(Executor):
    """Starts what it is given only while `open` is set, on a thread of its own."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.asked = 0
        self._pool = ThreadPoolExecutor(2)

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        def run() -> Any:
            assert self.open.wait(PATIENCE)
            return call(*args, **kwargs)

        self.asked += 1
        return self._pool.submit(run)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT002 - Executor's own
        self._pool.shutdown(wait, cancel_futures=cancel_futures)


class HeldSource(Source):
    """A source whose reads stop in the middle until `go` is set."""

    reached: threading.Event
    go: threading.Event

    def _pread_once(self, offset: int, length: int) -> bytes:
        self.reached.set()
        assert self.go.wait(PATIENCE)
        return super()._pread_once(offset, length)


class StingySource(Source):
    """A source of a system that gives at most 7 bytes at a time."""

    def _pread_once(self, offset: int, length: int) -> bytes:
        return super()._pread_once(offset, min(length, 7))


class HalfCachedSource(Source):
    """A source of which the system holds only the first half of every range."""

    def _cached(self, block: bytearray, offset: int) -> int:
        half = memoryview(block)[: len(block) // 2]
        return super()._cached(half, offset)  # type: ignore[arg-type]


class BrokenSource(Source):
    """A source on a disk that fails."""

    def _pread_once(self, offset: int, length: int) -> bytes:
        del offset, length
        raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.fixture(scope="module")
def threads() -> Iterator[Executor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture
def gate() -> Iterator[Gate]:
    with Gate() as executor:
        yield executor
        executor.open.set()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch") / "game.zip"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that was last written long ago, so that any writing shows in its time."""
    made = tmp_path / "game.zip"
    made.write_bytes(CONTENT)
    os.utime(made, ns=(LONG_AGO, LONG_AGO))
    return made


@pytest.fixture(params=["cached", "on a thread", "by position"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How a source reads; the last way is that of Windows, which has no `pread`."""
    if request.param == "by position":
        monkeypatch.delattr(os, "pread", raising=False)
    return str(request.param)


def read_by(source: Source, way: str) -> Source:
    """Let a source read in one of its two ways."""
    if way != "cached":
        source._nowait = False
    return source


@pytest.fixture
async def source(path: Path, threads: Executor, way: str) -> AsyncIterator[Source]:
    async with await Source.open(path, threads) as opened:
        yield read_by(opened, way)


def descriptors_of(path: Path) -> int:
    """Count the descriptors through which this process holds a file open."""
    count = 0
    for entry in os.listdir("/proc/self/fd"):  # noqa: PTH208 - names, not paths that are followed
        with suppress(OSError):
            count += os.readlink(f"/proc/self/fd/{entry}") == str(path)  # noqa: PTH115 - same
    return count


def write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# Opening


async def test_an_opened_file_knows_its_path_and_size(source: Source, path: Path) -> None:
    assert (source.path, source.size) == (path, len(CONTENT))


async def test_a_path_may_be_a_string(path: Path, threads: Executor) -> None:
    async with await Source.open(str(path), threads) as source:
        assert source.size == len(CONTENT)


@needs_posix
async def test_a_link_to_a_file_is_as_good_as_the_file(
    tmp_path: Path, path: Path, threads: Executor
) -> None:
    link = tmp_path / "link"
    link.symlink_to(path)
    async with await Source.open(link, threads) as source:
        assert source.size == len(CONTENT)


def test_measuring_returns_the_size(path: Path) -> None:
    assert measure(path) == len(CONTENT)


@needs_descriptor_list
def test_measuring_leaves_nothing_open(path: Path) -> None:
    measure(path)
    assert descriptors_of(path) == 0


def _directory(path: Path) -> None:
    path.mkdir()


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    # By its bare name: the whole path may be longer than an address allows.
    before = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(before)


def _dangling(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


def _circle(path: Path) -> None:
    path.symlink_to(path)


def _device(path: Path) -> None:
    path.symlink_to("/dev/null")


def _missing(path: Path) -> None:
    assert not path.exists()


def _empty(path: Path) -> None:
    path.touch()


def _unreadable(path: Path) -> None:
    if os.name != "posix" or os.geteuid() == 0:
        pytest.skip("the super-user reads everything")
    path.write_bytes(b"build")
    path.chmod(0)


REFUSED = [
    pytest.param(_missing, "cannot be read", id="missing"),
    pytest.param(_empty, "is empty", id="empty"),
    pytest.param(_directory, "is a directory", id="directory"),
    pytest.param(_unreadable, "cannot be read", id="unreadable"),
    pytest.param(_fifo, "is a pipe", id="pipe", marks=needs_posix),
    pytest.param(_socket, "cannot be read|is a socket", id="socket", marks=needs_posix),
    pytest.param(_dangling, "cannot be read", id="dangling link", marks=needs_posix),
    pytest.param(_circle, "cannot be read", id="circle of links", marks=needs_posix),
    pytest.param(_device, "is a device", id="device", marks=needs_posix),
]


@pytest.mark.parametrize(("make", "problem"), REFUSED)
async def test_a_path_that_is_no_file_is_refused_at_once(
    tmp_path: Path, threads: Executor, make: Callable[[Path], None], problem: str
) -> None:
    odd = tmp_path / "odd"
    make(odd)
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(SourceError, match=problem) as refused:
            await Source.open(odd, threads)
    assert refused.value.path == str(odd)


def test_an_app_folder_is_refused_with_how_to_pack_it(tmp_path: Path) -> None:
    app = tmp_path / "My Game.app"
    app.mkdir()
    with pytest.raises(SourceError, match=r"is a directory, as every \.app is.*ditto -c -k"):
        measure(app)


@pytest.mark.parametrize(("make", "problem"), REFUSED)
def test_what_is_no_file_has_no_measure(
    tmp_path: Path, make: Callable[[Path], None], problem: str
) -> None:
    odd = tmp_path / "odd"
    make(odd)
    with pytest.raises(SourceError, match=problem):
        measure(odd)


@pytest.mark.parametrize("code", [errno.EACCES, errno.ENAMETOOLONG, errno.ESTALE])
async def test_a_path_that_cannot_be_examined_is_refused(
    path: Path, threads: Executor, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """As one in a folder that is closed to the caller: neither opened nor asked what it is."""
    with monkeypatch.context() as patch:

        def refuse(asked: object, *_: object, **__: object) -> Any:
            raise OSError(code, os.strerror(code), str(asked))

        patch.setattr(os, "open", refuse)
        patch.setattr(os, "stat", refuse)
        with pytest.raises(SourceError, match=f"cannot be read.*{os.strerror(code)}"):
            await Source.open(path, threads)


def test_a_path_that_no_system_allows_is_refused() -> None:
    with pytest.raises(SourceError):
        measure("game\x00.zip")


@needs_descriptor_list
@pytest.mark.parametrize("make", [_empty, _directory], ids=["empty", "directory"])
async def test_a_refused_file_is_not_left_open(
    tmp_path: Path, threads: Executor, make: Callable[[Path], None]
) -> None:
    odd = tmp_path / "odd"
    make(odd)
    with pytest.raises(SourceError):
        await Source.open(odd, threads)
    assert descriptors_of(odd) == 0


async def test_a_child_process_does_not_inherit_the_file(source: Source) -> None:
    assert os.get_inheritable(source._descriptor) is False


# Reading


@settings(deadline=None)  # it waits for a disk
@given(data=st.data())
async def test_any_range_is_read_exactly(
    data: st.DataObject, scratch: Path, threads: Executor
) -> None:
    content = data.draw(st.binary(min_size=1, max_size=300))
    write(scratch, content)
    way = data.draw(st.sampled_from(["cached", "on a thread"]))
    async with await Source.open(scratch, threads) as source:
        read_by(source, way)
        for _ in range(3):
            offset = data.draw(st.integers(0, len(content)))
            length = data.draw(st.integers(0, len(content) - offset))
            assert await source.read(offset, length) == content[offset : offset + length]


async def test_reads_may_run_at_once(source: Source) -> None:
    ranges = [(offset, 12_345) for offset in range(0, len(CONTENT) - 12_345, 9_876)]
    blocks = await asyncio.gather(*(source.read(*wanted) for wanted in ranges))
    assert [bytes(block) for block in blocks] == [CONTENT[o : o + n] for o, n in ranges]


async def test_a_block_belongs_to_its_reader(source: Source) -> None:
    first = await source.read(0, 100)
    second = await source.read(0, 100)
    if isinstance(first, bytearray):
        first[:] = bytes(100)
    assert second == CONTENT[:100]


async def test_short_reads_are_put_together(path: Path, threads: Executor) -> None:
    async with await StingySource.open(path, threads) as source:
        read_by(source, "on a thread")
        assert await source.read(10, 100) == CONTENT[10:110]


async def test_a_range_that_is_half_cached_is_put_together(path: Path, threads: Executor) -> None:
    async with await HalfCachedSource.open(path, threads) as source:
        assert await source.read(10, 1001) == CONTENT[10:1011]


@pytest.mark.parametrize(("how", "reads"), [(errno.EIO, 2), (errno.EACCES, 1), (errno.ESTALE, 1)])
async def test_a_medium_that_fails_once_is_read_once_more(
    path: Path, threads: Executor, how: int, reads: int
) -> None:
    """Only an input/output error may pass; permission and a stale handle do not."""
    made = 0

    class Failing(Source):
        def _pread_once(self, offset: int, length: int) -> bytes:
            nonlocal made
            made += 1
            if made == 1:
                raise OSError(how, "no")
            return super()._pread_once(offset, length)

    async with await Failing.open(path, threads) as source:
        read_by(source, "on a thread")
        if reads == 2:
            assert await source.read(10, 100) == CONTENT[10:110]
        else:
            with pytest.raises(SourceError, match="cannot be read"):
                await source.read(10, 100)
    assert made == reads


async def test_a_system_that_takes_no_hints_is_read_all_the_same(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: int) -> None:
        raise OSError(errno.ENOSYS, "no such thing here")

    monkeypatch.setattr(os, "posix_fadvise", refuse, raising=False)
    source._nowait = False
    assert await source.read(5, 1000) == CONTENT[5:1005]


@pytest.mark.skipif(
    not (hasattr(os, "RWF_NOWAIT") and hasattr(os, "preadv")),
    reason="the system has no such call",
)
@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
async def test_without_the_call_for_cached_bytes_files_are_read(
    path: Path, threads: Executor, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """EPERM is what older container runtimes answer to calls that they do not know."""
    asked: list[int] = []

    def refuse(*_: object) -> int:
        asked.append(number)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "preadv", refuse)
    async with await Source.open(path, threads) as source:
        for _ in range(2):
            assert await source.read(5, 1000) == CONTENT[5:1005]
        assert len(asked) == 1
        assert not source.sends


# Holds a write lease on a file, until the kernel says that another process wants to open it.
LEASE = """
import fcntl, os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGIO])
file = os.open(sys.argv[1], os.O_WRONLY)
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("held", flush=True)
if sys.argv[2] == "let go":
    signal.sigwait([signal.SIGIO])
else:
    signal.pause()
"""


@contextmanager
def leased(path: Path, how: str) -> Iterator[None]:
    """Have another process hold a lease on a file; `how` it reacts to an open."""
    holder = subprocess.Popen(  # noqa: S603 - this interpreter, and code from this file
        [sys.executable, "-c", LEASE, str(path), how],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with holder:
        assert holder.stdout is not None
        if holder.stdout.readline() != b"held\n":
            pytest.skip("this file system has no leases")
        try:
            yield
        finally:
            holder.kill()


needs_leases = pytest.mark.skipif(sys.platform != "linux", reason="Linux alone has leases")


@needs_leases
async def test_a_lease_is_waited_for(path: Path, threads: Executor) -> None:
    with leased(path, "let go"):
        async with await Source.open(path, threads) as source:
            assert await source.read(0, 100) == CONTENT[:100]
    with leased(path, "let go"):
        assert measure(path) == len(CONTENT)


@needs_leases
async def test_waiting_for_a_lease_can_be_cancelled(path: Path) -> None:
    with leased(path, "keep"), ThreadPoolExecutor(1) as executor:  # which waits for its thread
        opening = asyncio.ensure_future(Source.open(path, executor))
        done, _ = await asyncio.wait({opening}, timeout=0.1)
        assert not done
        opening.cancel()
        await asyncio.wait({opening}, timeout=PATIENCE)
        assert opening.cancelled()


async def test_a_lease_that_is_not_released_is_a_source_error(
    path: Path, threads: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr("nunu_async.upload.source._LEASE_PATIENCE", 0.0)
    with pytest.raises(SourceError, match=r"holds a lease on it .*; close the file") as caught:
        await Source.open(path, threads)
    assert caught.value.errno == errno.EAGAIN


async def test_a_failing_disk_is_a_source_error(path: Path, threads: Executor) -> None:
    async with await BrokenSource.open(path, threads) as source:
        read_by(source, "on a thread")
        with pytest.raises(SourceError, match=r"game\.zip: cannot be read") as failed:
            await source.read(0, 10)
    assert not isinstance(failed.value, SourceChanged)


# Changes


async def test_an_untouched_file_passes_the_check(source: Source) -> None:
    await source.read(0, len(CONTENT))
    await source.check()


@pytest.mark.parametrize(("offset", "length"), [(0, len(CONTENT)), (90, 20), (150_000, 10)])
async def test_a_shrunken_file_is_noticed_by_the_read(
    source: Source, path: Path, offset: int, length: int
) -> None:
    os.truncate(path, 100)
    with pytest.raises(SourceChanged, match="shorter"):
        await source.read(offset, length)


async def test_what_is_left_of_a_shrunken_file_can_be_read(source: Source, path: Path) -> None:
    os.truncate(path, 100)
    assert await source.read(0, 100) == CONTENT[:100]


def _grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def _shrink(path: Path) -> None:
    os.truncate(path, 100)


def _rewrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"other bytes")


def _touch(path: Path) -> None:
    os.utime(path, ns=(LONG_AGO, LONG_AGO + 100))  # a step of Windows' clock


@pytest.mark.parametrize("change", [_grow, _shrink, _rewrite, _touch])
async def test_a_changed_file_fails_the_check(
    source: Source, path: Path, change: Callable[[Path], None]
) -> None:
    change(path)
    with pytest.raises(SourceChanged, match="changed while it was being uploaded"):
        await source.check()


def _unlink(path: Path) -> None:
    path.unlink()


def _replace(path: Path) -> None:
    other = path.with_name("other.zip")
    other.write_bytes(bytes(len(CONTENT)))
    os.replace(other, path)  # noqa: PTH105 - named as in the design of editors and compilers


@needs_posix
@pytest.mark.parametrize("change", [_unlink, _replace])
async def test_a_file_that_lost_its_name_is_still_read_whole(
    source: Source, path: Path, change: Callable[[Path], None]
) -> None:
    change(path)
    assert await source.read(0, len(CONTENT)) == CONTENT


@needs_posix
@pytest.mark.parametrize("change", [_unlink, _replace])
async def test_a_file_that_lost_its_name_passes_the_check(
    source: Source, path: Path, change: Callable[[Path], None]
) -> None:
    change(path)
    await source.check()


async def test_a_check_that_cannot_be_made_is_a_source_error(path: Path, threads: Executor) -> None:
    """As on a network disk that went away, where even fstat fails."""
    source = await Source.open(path, threads)
    os.close(source._descriptor)
    with pytest.raises(SourceError):
        await source.check()


# Closing


@needs_descriptor_list
async def test_closing_leaves_nothing_open(path: Path, threads: Executor, way: str) -> None:
    source = read_by(await Source.open(path, threads), way)
    await source.read(0, 100)
    await source.check()
    before = descriptors_of(path)
    source.close()
    assert (before, descriptors_of(path)) == (1 if hasattr(os, "pread") else 2, 0)


@needs_descriptor_list
async def test_leaving_the_block_by_an_error_closes_the_file(path: Path, threads: Executor) -> None:
    async def fail() -> None:
        async with await Source.open(path, threads):
            raise LookupError("ours")

    with pytest.raises(LookupError, match="ours"):
        await fail()
    assert descriptors_of(path) == 0


async def test_closing_twice_closes_no_other_file(
    path: Path, tmp_path: Path, threads: Executor
) -> None:
    source = await Source.open(path, threads)
    source.close()
    other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
    try:
        source.close()
        assert os.fstat(other).st_size == 0
    finally:
        os.close(other)


async def test_a_closed_source_refuses_to_read(path: Path, threads: Executor, way: str) -> None:
    source = read_by(await Source.open(path, threads), way)
    source.close()
    with pytest.raises(SourceError, match=r"game\.zip: is closed"):
        await source.read(0, 10)


async def test_a_closed_source_refuses_to_check(path: Path, threads: Executor) -> None:
    source = await Source.open(path, threads)
    source.close()
    with pytest.raises(SourceError, match=r"game\.zip: is closed"):
        await source.check()


async def test_a_closed_source_never_reads_another_file(
    path: Path, tmp_path: Path, threads: Executor, way: str
) -> None:
    """Even when the system has given the old descriptor's number to another file."""
    source = read_by(await Source.open(path, threads), way)
    source.close()
    (tmp_path / "other").write_bytes(b"another file")
    other = os.open(tmp_path / "other", os.O_RDONLY)
    try:
        if other != source._descriptor:
            os.dup2(other, source._descriptor)
        with pytest.raises(SourceError):
            await source.read(0, 10)
    finally:
        os.close(other)
        if other != source._descriptor:
            os.close(source._descriptor)


async def held_read(path: Path, threads: Executor) -> tuple[HeldSource, asyncio.Future[Any]]:
    source = await HeldSource.open(path, threads)
    source.reached, source.go = threading.Event(), threading.Event()
    read_by(source, "on a thread")
    reading = asyncio.ensure_future(source.read(0, len(CONTENT)))
    assert await asyncio.to_thread(source.reached.wait, PATIENCE)
    return source, reading


async def test_closing_lets_a_read_under_way_finish(path: Path, threads: Executor) -> None:
    source, reading = await held_read(path, threads)
    source.close()
    source.go.set()
    assert await reading == CONTENT


@needs_descriptor_list
async def test_the_last_read_under_way_closes_the_file(path: Path, threads: Executor) -> None:
    source, reading = await held_read(path, threads)
    source.close()
    while_reading = descriptors_of(path)
    source.go.set()
    await reading
    assert (while_reading, descriptors_of(path)) == (1, 0)


@needs_descriptor_list
async def test_an_abandoned_read_still_closes_the_file(path: Path, gate: Gate) -> None:
    source, reading = await held_read(path, gate)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    source.close()
    while_reading = descriptors_of(path)
    source.go.set()
    await asyncio.to_thread(gate.shutdown)
    assert (while_reading, descriptors_of(path)) == (1, 0)


@pytest.mark.parametrize(
    "act",
    [lambda source: source.read(0, 10), lambda source: source.check()],
    ids=["read", "check"],
)
async def test_what_is_queued_when_the_file_closes_is_refused(
    path: Path, gate: Gate, act: Callable[[Source], Any]
) -> None:
    source = read_by(await Source.open(path, gate), "on a thread")
    gate.open.clear()
    queued = asyncio.ensure_future(act(source))
    await turns(5)
    source.close()
    gate.open.set()
    with pytest.raises(SourceError, match=r"game\.zip: is closed"):
        await queued


@needs_descriptor_list
async def test_cancelling_an_open_before_it_begins_leaves_nothing_open(
    path: Path, gate: Gate
) -> None:
    gate.open.clear()
    opening = asyncio.ensure_future(Source.open(path, gate))
    await turns(5)
    asked = gate.asked
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    gate.open.set()
    await asyncio.to_thread(gate.shutdown)
    await turns(20)
    assert (asked, descriptors_of(path)) == (1, 0)


@needs_descriptor_list
@pytest.mark.parametrize("later", range(8))
async def test_cancelling_an_open_that_has_ended_leaves_nothing_open(
    path: Path, gate: Gate, later: int
) -> None:
    """Whichever turn of the loop the cancellation comes in after the thread is done."""
    opening = asyncio.ensure_future(Source.open(path, gate))
    await turns(5)
    gate.shutdown()
    opened = descriptors_of(path)
    await turns(later)
    opening.cancel()
    with suppress(asyncio.CancelledError):
        (await opening).close()
    await turns(20)
    assert (opened, descriptors_of(path)) == (1, 0)


async def test_cancelling_an_open_that_fails_warns_of_nothing(tmp_path: Path, gate: Gate) -> None:
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    gate.open.clear()
    opening = asyncio.ensure_future(Source.open(tmp_path / "missing", gate))
    await turns(5)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    gate.open.set()
    await asyncio.to_thread(gate.shutdown)
    await turns(20)
    assert complaints == []


# Without pread, as on Windows


@pytest.fixture
def without_pread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pread", raising=False)


@pytest.mark.usefixtures("without_pread")
async def test_without_pread_a_slow_read_delays_no_other_and_no_close(path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        source = await HeldSource.open(path, pool)
        source._nowait = False
        source.reached, source.go = threading.Event(), threading.Event()
        slow = asyncio.ensure_future(source.read(0, 100))
        await asyncio.to_thread(source.reached.wait, PATIENCE)
        real = Source._pread_once
        # The next ones, which do not wait for anything.
        source._pread_once = real.__get__(source)  # type: ignore[method-assign]
        blocks = await asyncio.gather(*(source.read(at, 10) for at in (0, 50, 90)))
        assert [bytes(block) for block in blocks] == [CONTENT[at : at + 10] for at in (0, 50, 90)]
        source.close()  # returns, with the slow one under way
        assert not slow.done()
        source.go.set()
        assert await slow == CONTENT[:100]


@needs_posix
@pytest.mark.usefixtures("without_pread")
async def test_without_pread_a_replaced_file_is_read_as_it_was_opened(
    path: Path, threads: Executor
) -> None:
    async with await Source.open(path, threads) as source:
        source._nowait = False
        _replace(path)
        blocks = await asyncio.gather(*(source.read(at, 100) for at in range(0, 1000, 100)))
        assert b"".join(bytes(block) for block in blocks) == CONTENT[:1000]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="descriptors are not listed")
@pytest.mark.usefixtures("without_pread")
async def test_without_pread_all_descriptors_are_closed(path: Path, threads: Executor) -> None:
    async with await Source.open(path, threads) as source:
        source._nowait = False
        await asyncio.gather(*(source.read(at, 100) for at in range(0, 1000, 100)))
        assert 2 <= descriptors_of(path) <= 5
    assert descriptors_of(path) == 0


@pytest.mark.parametrize("names", [("Game.apk", "game.APK"), ("a/../game.zip", "game.zip")])
def test_two_spellings_of_one_path_have_one_key(
    names: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os.path, "normcase", ntpath.normcase)
    assert path_key(names[0]) == path_key(names[1])


@pytest.mark.skipif(sys.platform != "win32", reason="elsewhere no open keeps others from one")
async def test_a_file_that_another_program_does_not_share_is_reported(
    path: Path, threads: Executor
) -> None:
    import _winapi  # noqa: PLC0415 - Windows alone has it

    write, existing = _winapi.GENERIC_WRITE, _winapi.OPEN_EXISTING
    handle = _winapi.CreateFile(str(path), write, 0, _winapi.NULL, existing, 0, _winapi.NULL)
    try:
        with pytest.raises(SourceError, match=r"open in another program.*wait until") as caught:
            await Source.open(path, threads)
        assert caught.value.errno == errno.EACCES
        with pytest.raises(SourceError, match="open in another program"):
            measure(path)
    finally:
        _winapi.CloseHandle(handle)
    assert measure(path) == len(CONTENT)


@pytest.mark.skipif(sys.platform != "win32", reason="elsewhere no lock keeps others from reading")
async def test_a_part_that_another_program_has_locked_is_reported(
    path: Path, threads: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Windows answers; Wine's locks keep no process from reading."""

    def read(*_: object) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied")

    async with await Source.open(path, threads) as source:
        monkeypatch.setattr(os, "read", read)
        with pytest.raises(SourceError, match="another program has locked") as caught:
            await source.read(0, 100)
        assert caught.value.errno == errno.EACCES


async def test_cancelled_opens_leak_no_descriptor(
    make_file: MakeFile, open_descriptors: Callable[[], int]
) -> None:
    path = make_file(10)
    pool = DaemonThreadPool(2)
    before = open_descriptors()
    for turns in range(40):
        task = asyncio.ensure_future(Source.open(path, pool))
        for _ in range(turns % 4):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.result().close()
    pool.shutdown()
    await until(lambda: open_descriptors() <= before)
