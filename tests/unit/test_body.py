"""How a part's bytes get from the file to the socket: by the kernel, or block by block."""

import asyncio
import errno
import hashlib
import math
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import attrs
import pytest
from doubles import (
    HeldClock,
    ManualClock,
    answer,
    body_length,
    needs_queued,
    raw_server,
    storage_for,
    until,
)

from nunu_async import (
    NunuClient,
    PartUrl,
    SourceChanged,
    SourceError,
    StallError,
    StorageError,
    TransportError,
)
from nunu_async.sandbox import Sandbox
from nunu_async.upload.limits import BandwidthLimiter
from nunu_async.upload.plan import Part
from nunu_async.upload.source import Source
from nunu_async.upload.threads import DaemonThreadPool

MIB = 1024 * 1024
SIZE = 8 * MIB + 7
PROBE = 256 * 1024
ETAG = {"ETag": '"0f343b0931126a20f133d67c2b018a3b"'}

needs_sendfile = pytest.mark.skipif(
    not (hasattr(os, "sendfile") and hasattr(os, "RWF_NOWAIT")),
    reason="this system does not send files, or does not say what it has in memory",
)


@pytest.fixture
async def source(make_file: Callable[..., Path]) -> AsyncIterator[Source]:
    pool = DaemonThreadPool(4)
    async with await Source.open(make_file(SIZE), pool) as opened:
        yield opened
    pool.shutdown()


@attrs.define
class Kernel:
    """What the system is asked to do, and what it does instead of its own.

    Attributes:
        sent: offset and length of what was asked for with sendfile.
        cold: ranges of the file that are not in memory until a thread has read them.
        fails: error numbers of sendfile, one for each call; None does it.
        largest: the most bytes that it sends in one call.
    """

    sent: list[tuple[int, int]] = attrs.field(factory=list)
    read: list[tuple[int, int]] = attrs.field(factory=list)
    cold: list[tuple[int, int]] = attrs.field(factory=list)
    fails: list[int | None] = attrs.field(factory=list)
    largest: int = 2**31
    before_read: Callable[[], None] = lambda: None


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    one = Kernel()
    sendfile, preadv, pread = os.sendfile, os.preadv, os.pread

    def send(out: int, file: int, offset: int, count: int) -> int:
        one.sent.append((offset, count))
        if one.fails and (number := one.fails.pop(0)) is not None:
            raise OSError(number, os.strerror(number))
        return sendfile(out, file, offset, min(count, one.largest))

    def cached(file: int, blocks: Sequence[bytearray], offset: int, flags: int = 0) -> int:
        for begin, end in one.cold:
            if begin <= offset < end:
                raise BlockingIOError(errno.EAGAIN, "not in memory")
        return preadv(file, blocks, offset, flags)

    def read(file: int, length: int, offset: int) -> bytes:
        one.before_read()
        one.read.append((offset, length))
        return pread(file, length, offset)

    monkeypatch.setattr(os, "sendfile", send)
    monkeypatch.setattr(os, "preadv", cached)
    monkeypatch.setattr(os, "pread", read)
    return one


class Taken:
    """A storage that takes everything."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    async def __call__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        self.bodies.append(await reader.readexactly(body_length(head)))
        writer.write(answer(headers=ETAG))


def at(url: str) -> PartUrl:
    return PartUrl(part_number=1, url=url + "/k")


def whole(source: Source) -> Part:
    return Part(1, 0, source.size)


def same(source: Source, bodies: list[bytes]) -> bool:
    want = hashlib.sha256(source.path.read_bytes()).digest()
    return [hashlib.sha256(body).digest() for body in bodies] == [want] * len(bodies)


@needs_sendfile
async def test_the_kernel_sends_what_it_has_read(
    clock: ManualClock, source: Source, kernel: Kernel
) -> None:
    taken, counts = Taken(), list[int]()
    async with raw_server(taken) as server, storage_for(clock) as storage:
        for _ in range(2):  # the second one on the same connection
            await storage.put(at(server.url), whole(source), source, counts.append)
    assert server.connections == 1
    assert len(taken.bodies) == 2
    assert same(source, taken.bodies)
    assert counts.count(SIZE) == 2
    assert kernel.sent
    assert not kernel.read


@needs_sendfile
async def test_a_socket_that_takes_little_at_a_time_gets_it_all(
    clock: ManualClock, source: Source, kernel: Kernel
) -> None:
    kernel.largest = 70_001
    taken = Taken()
    async with raw_server(taken) as server, storage_for(clock) as storage:
        await storage.put(at(server.url), whole(source), source, int)
    assert same(source, taken.bodies)


@needs_sendfile
async def test_with_verify_a_thread_reads_for_the_md5(
    clock: ManualClock, source: Source, kernel: Kernel
) -> None:
    tag = {"ETag": f'"{hashlib.md5(source.path.read_bytes()).hexdigest()}"'}  # noqa: S324 - S3's

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        await reader.readexactly(body_length(head))
        writer.write(answer(headers=tag))

    async with raw_server(take) as server, storage_for(clock) as storage:
        stored = await storage.put(at(server.url), whole(source), source, int, verify=True)
    assert stored.verified
    assert kernel.sent
    assert sum(length for _, length in kernel.read) == SIZE


@needs_sendfile
@pytest.mark.parametrize("cold", [(0, SIZE), (5 * MIB + 100_000, 7 * MIB)])
async def test_a_slow_disk_never_blocks_the_loop(
    clock: ManualClock, source: Source, kernel: Kernel, cold: tuple[int, int]
) -> None:
    """The kernel would wait for it in the middle of sending; a thread does it instead."""
    kernel.cold = [cold]
    begun, go = threading.Semaphore(0), threading.Event()

    def slowly() -> None:
        assert threading.current_thread() is not threading.main_thread()
        begun.release()
        assert go.wait(20)

    kernel.before_read = slowly
    taken = Taken()
    async with raw_server(taken) as server, storage_for(clock) as storage:
        put = asyncio.ensure_future(storage.put(at(server.url), whole(source), source, int))
        await until(lambda: begun.acquire(blocking=False))
        for _ in range(500):  # other tasks get their turns
            await asyncio.sleep(0)
        assert not put.done()
        go.set()
        await put
    assert same(source, taken.bodies)
    assert sum(length for _, length in kernel.read) >= cold[1] - cold[0] - PROBE
    # It is asked about one byte in each so many, and given nothing any more after that.
    assert all(offset + count <= cold[0] + PROBE for offset, count in kernel.sent)
    assert bool(kernel.sent) == (cold[0] > 0)


def is_warm(source: Source) -> bool:
    """Tell it for a part that itself has missed nothing."""
    return source.is_warm(math.inf)


async def miss(source: Source, kernel: Kernel) -> None:
    kernel.cold = [(0, 10)]
    await source.read(0, 10)
    assert not is_warm(source)
    kernel.cold = []


async def from_memory_until_warm(source: Source) -> int:
    """Return how many MiB it took."""
    for count in range(1, 1000):
        await source.read(0, MIB)
        if is_warm(source):
            return count
    raise AssertionError("never")


@needs_sendfile
async def test_a_hole_in_the_page_cache_is_short_a_cold_file_is_not(
    source: Source, kernel: Kernel
) -> None:
    assert is_warm(source)
    after = []
    for _ in range(6):
        await miss(source, kernel)
        after.append(await from_memory_until_warm(source))
    assert after == [16, 32, 64, 128, 256, 256]


@needs_sendfile
async def test_misses_that_lie_far_apart_stay_holes(source: Source, kernel: Kernel) -> None:
    for _ in range(3):
        await miss(source, kernel)
        assert await from_memory_until_warm(source) == 16
        for _ in range(256):
            await source.read(0, MIB)


@needs_sendfile
async def test_misses_while_a_hole_is_passed_belong_to_it(source: Source, kernel: Kernel) -> None:
    for _ in range(3):
        await miss(source, kernel)
        for _ in range(15):
            await source.read(0, MIB)
    await miss(source, kernel)
    assert await from_memory_until_warm(source) == 16


@needs_sendfile
async def test_a_part_in_a_hole_ignores_what_others_send(
    clock: ManualClock, make_file: Callable[..., Path], kernel: Kernel
) -> None:
    """The hole ends in the middle of a part, where all others have long been sent from memory."""
    kernel.cold = [(20 * MIB, 24 * MIB)]
    warm, pool = asyncio.Event(), DaemonThreadPool(4)

    def seen(sent: int) -> None:
        if sent == 4 * MIB + 16 * 1024:  # what follows is in memory again
            held.append(sent)

    held: list[int] = []
    async with (
        await Source.open(make_file(72 * MIB), pool) as source,
        raw_server(Taken()) as server,
        storage_for(clock) as storage,
    ):
        before = source.read

        async def read(
            offset: int, length: int, on_miss: Callable[[], None] = lambda: None
        ) -> bytes | bytearray:
            if offset >= 24 * MIB and offset < 40 * MIB:
                await warm.wait()
            return await before(offset, length, on_miss)

        source.read = read  # type: ignore[method-assign]
        slow = asyncio.ensure_future(
            storage.put(at(server.url), Part(1, 20 * MIB, 20 * MIB), source, seen)
        )
        await until(lambda: held)
        await storage.put(at(server.url), Part(2, 40 * MIB, 32 * MIB), source, int)
        assert is_warm(source)
        warm.set()
        await slow
    pool.shutdown()
    assert any(offset >= 40 * MIB for offset, _ in kernel.sent)
    assert not [offset for offset, _ in kernel.sent if 20 * MIB <= offset < 39 * MIB]


@needs_sendfile
async def test_past_a_hole_the_kernel_goes_on_within_the_part(
    clock: ManualClock, make_file: Callable[..., Path], kernel: Kernel
) -> None:
    kernel.cold = [(2 * MIB, 3 * MIB)]
    taken = Taken()
    pool = DaemonThreadPool(4)
    async with (
        await Source.open(make_file(24 * MIB), pool) as source,
        raw_server(taken) as server,
        storage_for(clock) as storage,
    ):
        await storage.put(at(server.url), whole(source), source, int)
        assert same(source, taken.bodies)
    pool.shutdown()
    begins = [offset for offset, _ in kernel.sent]
    assert min(begins) < 2 * MIB
    assert [offset for offset in begins if 3 * MIB <= offset < 19 * MIB] == []
    assert max(begins) >= 19 * MIB


@needs_sendfile
@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.ENOMEM])
async def test_a_system_without_the_call_is_tried_once(
    clock: ManualClock, source: Source, kernel: Kernel, number: int
) -> None:
    kernel.fails = [None, number]
    kernel.largest = MIB // 2
    taken = Taken()
    async with raw_server(taken) as server, storage_for(clock) as storage:
        for _ in range(2):
            await storage.put(at(server.url), whole(source), source, int)
    assert len(kernel.sent) == 2
    assert len(taken.bodies) == 2
    assert same(source, taken.bodies)


@needs_sendfile
async def test_a_medium_that_fails_under_the_kernel_is_read_by_a_thread(
    clock: ManualClock, source: Source, kernel: Kernel
) -> None:
    kernel.fails = [None, errno.EIO]
    kernel.largest = MIB // 2
    taken = Taken()
    async with raw_server(taken) as server, storage_for(clock) as storage:
        await storage.put(at(server.url), whole(source), source, int)
    assert same(source, taken.bodies)
    assert len(kernel.sent) == 2  # the rest by blocks
    assert same(source, taken.bodies)


@needs_sendfile
async def test_a_file_that_shrinks_under_the_kernel_is_noticed(
    clock: ManualClock, source: Source, kernel: Kernel
) -> None:
    def shrink(sent: int) -> None:
        if sent > MIB:
            os.truncate(source.path, 2 * MIB)

    async with raw_server(Taken()) as server, storage_for(clock) as storage:
        with pytest.raises(SourceChanged, match="shorter"):
            await storage.put(at(server.url), whole(source), source, shrink)
    assert kernel.sent


@needs_sendfile
async def test_a_source_that_was_closed_sends_nothing(source: Source) -> None:
    source.close()
    with pytest.raises(SourceError, match="closed"):
        source.send(1, 0, 10)
    with pytest.raises(SourceError, match="closed"):
        source.cached(0, 10)


@needs_sendfile
@pytest.mark.parametrize("number", [errno.EPIPE, errno.ECONNRESET, errno.ETIMEDOUT])
async def test_a_connection_that_breaks_under_the_kernel_is_a_transport_error(
    clock: ManualClock, source: Source, kernel: Kernel, number: int
) -> None:
    kernel.fails = [None, number]
    kernel.largest = MIB // 2
    async with raw_server(Taken()) as server, storage_for(clock) as storage:
        with pytest.raises(TransportError):
            await storage.put(at(server.url), whole(source), source, int)


@needs_sendfile
async def test_a_refusal_is_read_while_the_socket_is_full(
    clock: ManualClock, source: Source, kernel: Kernel
) -> None:
    async def refuse(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        await until(lambda: full)
        writer.write(answer(403, b"<Code>AccessDenied</Code>"))
        await asyncio.Event().wait()

    full: list[int] = []
    counts: list[int] = []
    async with raw_server(refuse) as server, storage_for(clock) as storage:
        put = asyncio.ensure_future(
            storage.put(at(server.url), whole(source), source, counts.append)
        )
        await until(lambda: len(kernel.sent) > 1 and _steady(counts))
        full.append(1)
        with pytest.raises(StorageError, match="AccessDenied") as caught:
            await put
    assert caught.value.status == 403
    assert counts[-1] < SIZE


def _steady(counts: list[int], seen: dict[str, int] = {}) -> bool:  # noqa: B006 - its memory
    seen["times"] = seen.get("times", 0) + 1 if seen.get("count") == len(counts) else 0
    seen["count"] = len(counts)
    return seen["times"] > 20


# --- A limit on bytes a second


@pytest.mark.parametrize("rate", [50_000, 1_000_000, 1_234_567_890])
@pytest.mark.parametrize("way", ["kernel", "blocks"])
async def test_a_part_takes_as_long_as_its_bytes_may(
    clock: ManualClock, source: Source, rate: int, way: str
) -> None:
    source.sends = source.sends and way == "kernel"
    taken = Taken()
    async with raw_server(taken) as server, storage_for(clock, max_bandwidth=rate) as storage:
        before = clock.now
        await storage.put(at(server.url), Part(1, 0, MIB), source, int)
        assert clock.now - before == pytest.approx(MIB / rate, rel=0.05)
    assert taken.bodies == [source.path.read_bytes()[:MIB]]


async def test_many_parts_share_one_limit(source: Source) -> None:
    clock = HeldClock()
    taken = Taken()
    rate = 1_000_000
    async with raw_server(taken) as server, storage_for(clock, max_bandwidth=rate) as storage:
        before = clock.now
        parts = [Part(n, (n - 1) * MIB, MIB) for n in range(1, 5)]
        puts = [
            asyncio.ensure_future(storage.put(at(server.url), part, source, int)) for part in parts
        ]
        together = asyncio.gather(*puts)
        while not together.done():
            if clock.asleep:
                clock.advance(0.01)
            await asyncio.sleep(0)
        await together
        assert clock.now - before == pytest.approx(4 * MIB / rate, rel=0.05)
    assert sorted(map(len, taken.bodies)) == [MIB] * 4


async def test_all_files_of_a_client_share_one_limit(
    box: Sandbox, clock: ManualClock, make_file: Callable[..., Path]
) -> None:
    paths = [make_file(MIB + n, f"{n}.zip") for n in range(3)]
    rate = 200_000
    async with NunuClient(
        box.api_key, base_url=box.base_url, clock=clock, max_bandwidth=rate
    ) as nunu:
        before = clock.now
        results = await nunu.upload_builds(paths, platform="linux", multipart=True)
        assert clock.now - before == pytest.approx((3 * MIB + 3) / rate, rel=0.05)
    assert [one.error for one in results] == [None] * 3


async def test_a_limit_lengthens_the_time_for_an_upload(
    box: Sandbox, clock: ManualClock, make_file: Callable[..., Path]
) -> None:
    async with NunuClient(
        box.api_key, base_url=box.base_url, clock=clock, max_bandwidth=1024
    ) as nunu:
        await nunu.upload_build(make_file(1024 * 60 + 1), name="n", platform="linux")
    (asked,) = box.journal.of("initiate_upload")
    assert asked.body["upload_timeout"] == 17  # sixteen may share it


async def test_bytes_that_the_client_holds_back_are_no_stall(
    clock: ManualClock, source: Source
) -> None:
    """One KiB a second is far below the floor, and a grain takes longer than some limits."""
    async with raw_server(Taken()) as server, storage_for(clock, max_bandwidth=1024) as storage:
        before = clock.now
        await storage.put(at(server.url), Part(1, 0, MIB), source, int)
    assert clock.now - before == pytest.approx(1024, rel=0.05)


async def test_a_part_that_waits_for_its_turn_ends_when_it_is_cancelled(source: Source) -> None:
    clock = HeldClock()
    async with raw_server(Taken()) as server, storage_for(clock, max_bandwidth=1024) as storage:
        put = asyncio.ensure_future(storage.put(at(server.url), Part(1, 0, MIB), source, int))
        await until(lambda: clock.asleep)
        put.cancel()
        with pytest.raises(asyncio.CancelledError):
            await put


async def test_an_idle_client_does_not_save_its_bytes_up(clock: ManualClock) -> None:
    limiter = BandwidthLimiter(clock, 1000.0)
    await limiter.turn(1000, bool)
    clock.advance(3600)
    before = clock.now
    await limiter.turn(10_000, bool)
    assert clock.now - before == pytest.approx(10, rel=0.05)


async def test_a_cancelled_turn_costs_no_other_part_time() -> None:
    clock = HeldClock()
    limiter = BandwidthLimiter(clock, 1000.0)
    turns = [asyncio.ensure_future(limiter.turn(1000, bool)) for _ in range(10)]
    await until(lambda: clock.asleep == 10)
    for turn in turns:
        turn.cancel()
    await asyncio.gather(*turns, return_exceptions=True)
    await limiter.turn(1000, lambda: True)  # over before it began
    turn = asyncio.ensure_future(limiter.turn(1000, bool))
    before = clock.now
    while not turn.done():
        await clock.tick()
        await asyncio.sleep(0)
    assert clock.now - before == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("rate", [None, pytest.param(10_000, marks=needs_queued), 400_000])
async def test_a_limit_does_not_hide_a_peer_that_reads_nothing(
    source: Source, rate: int | None
) -> None:
    """At that rate it would take minutes to fill the buffers of this side."""
    clock = ManualClock()
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # it accepts no connection
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        async with storage_for(clock, max_bandwidth=rate) as storage:
            before = clock.now
            put = asyncio.ensure_future(storage.put(at(url), whole(source), source, int))
            while not put.done():
                clock.advance(1)
                await asyncio.sleep(0.005)
            with pytest.raises(StallError):
                await put
            assert clock.now - before < 200  # the system may take a little more once


async def test_a_pause_that_lasts_too_long_is_made_up_for(clock: ManualClock) -> None:
    limiter = BandwidthLimiter(clock, 1000.0)
    before = clock.now
    for _ in range(100):
        await limiter.turn(50, bool)
        clock.advance(0.02)  # the system is late each time
    assert clock.now - before == pytest.approx(5, rel=0.05)


def test_without_a_limit_nothing_is_cut_or_waits() -> None:
    assert BandwidthLimiter(ManualClock(), None).grain(123) == 123


@pytest.mark.parametrize(
    ("rate", "most", "grain"),
    [(1024, 2**20, 4096), (1024, 100, 100), (10**6, 2**20, 50_000), (10**9, 2**20, 2**20)],
)
def test_a_limit_is_kept_in_grains_of_a_twentieth_of_a_second(
    rate: float, most: int, grain: int
) -> None:
    assert BandwidthLimiter(ManualClock(), rate).grain(most) == grain


# --- What an error of a file says


@needs_sendfile
@pytest.mark.parametrize("number", [errno.EACCES, errno.ESTALE, errno.EIO])
async def test_a_part_that_cannot_be_read_says_which_and_why(
    clock: ManualClock, source: Source, kernel: Kernel, number: int
) -> None:
    def fail() -> None:
        raise OSError(number, os.strerror(number))

    kernel.cold = [(0, SIZE)]
    kernel.before_read = fail
    async with raw_server(Taken()) as server, storage_for(clock) as storage:
        with pytest.raises(SourceError, match="cannot be read") as caught:
            await storage.put(at(server.url), Part(3, MIB, MIB), source, int)
    assert (caught.value.errno, caught.value.part_number) == (number, 3)


async def test_a_missing_file_has_an_errno(tmp_path: Path) -> None:
    pool = DaemonThreadPool(1)
    with pytest.raises(SourceError, match="No such file") as caught:
        await Source.open(tmp_path / "game.zip", pool)
    pool.shutdown()
    assert (caught.value.errno, caught.value.part_number) == (errno.ENOENT, None)
