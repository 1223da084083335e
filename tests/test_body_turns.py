"""What all parts may send in one iteration of the event loop, whatever their number."""

import asyncio
import ssl
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from doubles import ManualClock, answer, body_length, raw_server, storage_for
from hypothesis import given
from hypothesis import strategies as st

from nunu_async import PartUrl
from nunu_async.upload.body import BLOCK
from nunu_async.upload.plan import Part
from nunu_async.upload.readers import Readers
from nunu_async.upload.source import Source
from nunu_async.upload.turns import BYTES_A_TURN, Turns

MIB = 1024 * 1024


class Iterations:
    """Numbers the iterations of the running loop."""

    def __init__(self) -> None:
        self.number = 0
        self._loop = asyncio.get_running_loop()
        self._handle = self._loop.call_soon(self._next)

    def _next(self) -> None:
        self.number += 1
        self._handle = self._loop.call_soon(self._next)

    def stop(self) -> None:
        self._handle.cancel()


@asynccontextmanager
async def iterations() -> AsyncIterator[Iterations]:
    counting = Iterations()
    try:
        yield counting
    finally:
        counting.stop()


async def send_parts(
    path: Path, count: int, tls: tuple[ssl.SSLContext, ssl.SSLContext] | None, limit: int
) -> list[int]:
    """Send parts at once; return the bytes handed over in each iteration of the loop."""

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        await reader.readexactly(body_length(head))
        writer.write(answer(headers={"ETag": "x"}))

    scheme, server_tls, client_tls = ("https", *tls) if tls else ("http", None, None)
    readers = Readers(4)
    sent: Counter[int] = Counter()
    async with (
        await Source.open(path, readers) as source,
        raw_server(take, tls=server_tls) as server,
        storage_for(ManualClock(), tls=client_tls, allow_http=True, concurrency=count) as storage,
        iterations() as counting,
    ):
        storage._turns = Turns(limit)

        async def put(number: int) -> None:
            so_far = 0

            def on_sent(now: int) -> None:
                nonlocal so_far
                sent[counting.number] += now - so_far
                so_far = now

            address = PartUrl(part_number=number, url=f"{scheme}://127.0.0.1:{server.port}/k")
            await storage.put(address, Part(number, 0, source.size), source, on_sent)

        await asyncio.gather(*(put(number) for number in range(1, count + 1)))
        assert sent.total() == count * source.size
    readers.shutdown()
    return list(sent.values())


@pytest.mark.parametrize("count", [1, 4, 16])
async def test_over_tls_an_iteration_ends_after_so_many_bytes_of_all_parts(
    make_file: Callable[..., Path],
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
    count: int,
) -> None:
    sent = await send_parts(make_file(2 * MIB), count, (server_tls, client_tls), BYTES_A_TURN)
    assert max(sent) < BYTES_A_TURN + BLOCK


@pytest.mark.parametrize("count", [1, 4, 16])
async def test_over_plain_http_an_iteration_ends_after_four_times_as_many(
    make_file: Callable[..., Path], count: int
) -> None:
    sent = await send_parts(make_file(2 * MIB), count, None, BYTES_A_TURN)
    # What the kernel sends is counted before, and is then less where the socket takes less.
    assert max(sent) < 4 * (BYTES_A_TURN + BLOCK)


@pytest.mark.skipif(sys.platform != "linux", reason="buffers of sockets may be small elsewhere")
async def test_without_a_limit_an_iteration_has_more(
    make_file: Callable[..., Path], server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    """Or the tests above would hold of anything."""
    sent = await send_parts(make_file(2 * MIB), 4, (server_tls, client_tls), 100 * MIB)
    assert max(sent) > 2 * BYTES_A_TURN


async def test_who_waits_is_served_in_order_and_as_many_as_the_limit_lets() -> None:
    turns, asked, served = Turns(100), list[int](), list[int]()
    used: Counter[int] = Counter()

    async def sender(name: int) -> None:
        for _ in range(3):
            asked.append(name)
            await turns.take(50)
            served.append(name)
            used[counting.number] += 1

    async with iterations() as counting:
        await asyncio.gather(*(sender(name) for name in range(4)))
    assert served == asked
    assert max(used.values()) == 2


async def test_a_cancelled_sender_takes_nobody_s_place() -> None:
    turns = Turns(100)
    await turns.take(100)
    waiting = [asyncio.ensure_future(turns.take(100)) for _ in range(20)]
    await asyncio.sleep(0)
    for one in waiting[:19]:
        one.cancel()
    async with iterations() as counting:
        with suppress(asyncio.CancelledError):
            await waiting[19]
        assert counting.number <= 3
    assert not waiting[19].cancelled()


@given(st.lists(st.integers(1, 300), min_size=1, max_size=60), st.integers(1, 200))
async def test_no_iteration_gets_more_than_the_limit_and_one_count(
    counts: list[int], limit: int
) -> None:
    turns, used = Turns(limit), Counter[int]()

    async def sender(some: list[int]) -> None:
        for count in some:
            await turns.take(count)
            used[counting.number] += count

    async with iterations() as counting:
        await asyncio.wait_for(asyncio.gather(*(sender(counts[n::4]) for n in range(4))), 20)
    assert used.total() == sum(counts)
    assert max(used.values()) < limit + max(counts)
