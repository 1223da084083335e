"""What all parts may send in one turn of the event loop, whatever their number."""

import asyncio
import ssl
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp.http_writer import StreamWriter
from doubles import (
    ManualClock,
    answer,
    body_length,
    counting_turns,
    raw_server,
    storage_for,
)

from nunu_async import PartUrl
from nunu_async.core.turns import Turns
from nunu_async.upload.body import BLOCK, BYTES_A_TURN
from nunu_async.upload.plan import Part
from nunu_async.upload.source import Source
from nunu_async.upload.threads import DaemonThreadPool

MIB = 1024 * 1024
# The count starts again in the middle of an iteration of the loop: one may see two of them.
MOST = 2 * (BYTES_A_TURN + BLOCK)


async def send_parts(
    path: Path,
    count: int,
    tls: tuple[ssl.SSLContext, ssl.SSLContext] | None,
    limit: int,
    *,
    cached: bool = True,
) -> int:
    """Send parts at once; return the most bytes handed over in one turn of the loop.

    What is not cached is read by threads, and may come from several in the same turn.
    """

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        await reader.readexactly(body_length(head))
        writer.write(answer(headers={"ETag": "x"}))

    scheme, server_tls, client_tls = ("https", *tls) if tls else ("http", None, None)
    pool = DaemonThreadPool(4)
    async with (
        await Source.open(path, pool) as source,
        raw_server(take, tls=server_tls) as server,
        storage_for(ManualClock(), tls=client_tls, allow_http=True, concurrency=count) as storage,
        counting_turns() as loop,
    ):
        storage._turns = Turns(limit)
        source._nowait = source._nowait and cached

        async def put(number: int) -> None:
            so_far = 0

            def on_sent(now: int) -> None:
                nonlocal so_far
                loop.note(now - so_far)
                so_far = now

            address = PartUrl(part_number=number, url=f"{scheme}://127.0.0.1:{server.port}/k")
            await storage.put(address, Part(number, 0, source.size), source, on_sent)

        await asyncio.gather(*(put(number) for number in range(1, count + 1)))
        assert loop.seen.total() == count * source.size
    pool.shutdown()
    return loop.most


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("count", [1, 4, 16])
async def test_over_tls_a_turn_ends_after_so_many_bytes_of_all_parts(
    make_file: Callable[..., Path],
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    *,
    cached: bool,
) -> None:
    written: Counter[int] = Counter()
    write = StreamWriter.write

    async def noted(writer: StreamWriter, chunk: bytes, *args: bool, **how: bool) -> None:
        written[loop.number] += len(chunk)
        await write(writer, chunk, *args, **how)

    monkeypatch.setattr(StreamWriter, "write", noted)
    async with counting_turns() as loop:
        await send_parts(
            make_file(2 * MIB), count, (server_tls, client_tls), BYTES_A_TURN, cached=cached
        )
    assert written.total() == count * 2 * MIB
    assert max(written.values()) < MOST


@pytest.mark.parametrize("count", [1, 4, 16])
async def test_over_plain_http_a_turn_ends_after_four_times_as_many(
    make_file: Callable[..., Path], count: int
) -> None:
    sent = await send_parts(make_file(2 * MIB), count, None, BYTES_A_TURN)
    # What the kernel sends is counted before, and is then less where the socket takes less.
    assert sent < 4 * MOST


@pytest.mark.skipif(sys.platform != "linux", reason="buffers of sockets may be small elsewhere")
async def test_without_a_limit_a_turn_has_more(
    make_file: Callable[..., Path], server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    """Or the tests above would hold of anything."""
    sent = await send_parts(make_file(4 * MIB), 16, (server_tls, client_tls), 100 * MIB)
    assert sent > MOST
