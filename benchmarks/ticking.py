"""One case of `benchmarks.lag`, in a process of its own: work, and a ticker beside it.

Arguments: the name of the case, and JSON of what it needs. It prints JSON: for each phase how late
the ticks were, and what the phase took. A line `move SECONDS` before that asks the process which
started it to move the sandbox's clock.

Nothing of nunu_async is imported before a case wants it, as the first use of it is a case, too.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nunu_async import NunuClient, UploadResult

EACH = 0.002
MIB = 1024 * 1024
SMALL_FILES = 2_000
CROWD = 1_000


class Ticker:
    """A callback that wants to run every 2 ms, and notes how late it is.

    It notes as well what its thread has used of the processor since the tick before: of a tick
    that is late by more than that, the machine was late, and not the loop. And how long Python's
    garbage collector took at most, which belongs to the whole process.
    """

    def __init__(self) -> None:
        self.phases: dict[str, dict[str, float]] = {}
        self._loop = asyncio.get_running_loop()
        self._late: list[float] = []
        self._used: list[float] = []
        self._so_far = 0.0
        self._collecting = self._longest_collection = 0.0
        gc.callbacks.append(self._collected)
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Tick for the length of the block."""
        self._late, self._used, self._so_far = [], [], time.thread_time()
        self._longest_collection = 0.0
        self._due = self._loop.time() + EACH
        self._timer = self._loop.call_at(self._due, self._tick)
        began, spent = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            cpu, wall = time.process_time() - spent, time.perf_counter() - began
            self._timer.cancel()
            # What kept the loop to the end of the block is not over for a tick that is due.
            late = sorted([*self._late, max(0.0, self._loop.time() - self._due)])
            used = sorted([*self._used, time.thread_time() - self._so_far])
            self.phases[name] = {
                **{f"p{n}": 1000 * late[min(len(late) * n // 100, len(late) - 1)] for n in RANKS},
                "max": 1000 * late[-1],
                "used_p99": 1000 * used[min(len(used) * 99 // 100, len(used) - 1)],
                "used_max": 1000 * used[-1],
                "gc": 1000 * self._longest_collection,
                "cpu_s": cpu,
                "wall_s": wall,
            }

    def _collected(self, phase: str, _: dict[str, int]) -> None:
        now = time.thread_time()
        if phase == "start":
            self._collecting = now
        else:
            self._longest_collection = max(self._longest_collection, now - self._collecting)

    def _tick(self) -> None:
        now, used = self._loop.time(), time.thread_time()
        self._late.append(now - self._due)
        self._used.append(used - self._so_far)
        self._so_far = used
        self._due = now + EACH
        self._timer = self._loop.call_at(self._due, self._tick)


RANKS = (50, 95, 99)


async def idle(ticker: Ticker, wanted: dict[str, Any]) -> None:
    """Do nothing."""
    with ticker.phase("idle"):
        await asyncio.sleep(wanted["seconds"])


async def ready(nunu: NunuClient) -> None:
    """Do what the README tells a service to do as it starts."""
    await nunu.warm_up()
    gc.collect()
    gc.freeze()


async def upload(ticker: Ticker, wanted: dict[str, Any]) -> None:
    """Upload one build, after a small one."""
    from nunu_async import NunuClient  # noqa: PLC0415 - see above

    at_once = wanted["at_once"]
    async with NunuClient(
        storage_concurrency=at_once, max_bandwidth=wanted.get("max_bandwidth")
    ) as nunu:
        name = f"{wanted['target']} {wanted['part_size']}"

        async def send(path: str) -> None:
            await nunu.upload_build(
                path,
                name=name,
                platform="linux",
                multipart=True,
                concurrency=at_once,
                verify=wanted.get("verify", False),
                resume=wanted.get("resume", False),
            )

        await ready(nunu)
        await send(wanted["small"])
        if wanted.get("cold"):
            await asyncio.to_thread(_forget, wanted["build"])
        with ticker.phase(wanted["name"]):
            await send(wanted["build"])


def _forget(path: str) -> None:
    """Have the system drop a file from its page cache."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


async def upload_plainly(ticker: Ticker, wanted: dict[str, Any]) -> None:
    """Send the parts of a build with aiohttp and aiofiles, in blocks of 256 KiB."""
    import ssl  # noqa: PLC0415 - see above

    import aiofiles  # noqa: PLC0415
    import aiohttp  # noqa: PLC0415

    size, part_size = wanted["size"], wanted["part_size"]
    limit = asyncio.Semaphore(wanted["at_once"])

    async def blocks(offset: int, length: int) -> AsyncIterator[bytes]:
        async with aiofiles.open(wanted["build"], "rb") as file:
            await file.seek(offset)
            while length:
                block = await file.read(min(256 * 1024, length))
                length -= len(block)
                yield block

    async def send(http: aiohttp.ClientSession, offset: int) -> None:
        length = min(part_size, size - offset)
        async with (
            limit,
            http.put(
                f"{wanted['url']}{offset // part_size + 1}",
                data=blocks(offset, length),
                headers={"Content-Length": str(length)},
            ) as answer,
        ):
            answer.raise_for_status()

    trusted = ssl.create_default_context()
    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=None), connector=aiohttp.TCPConnector(ssl=trusted)
    ) as http:
        await send(http, size - part_size)
        with ticker.phase(wanted["name"]):
            async with asyncio.TaskGroup() as tasks:
                for offset in range(0, size, part_size):
                    tasks.create_task(send(http, offset))


async def small_files(ticker: Ticker, wanted: dict[str, Any]) -> None:
    """Upload many small files with one call."""
    async with await _client(wanted) as nunu:
        paths = wanted["paths"]
        if wanted["freeze"]:
            await ready(nunu)
        _raise(await nunu.upload_builds(paths[:20], platform="linux"))
        with ticker.phase(f"small files{'' if wanted['freeze'] else ', no gc.freeze'}"):
            _raise(await nunu.upload_builds(paths[20:], platform="linux"))


def _raise(results: Iterable[UploadResult]) -> None:
    for result in results:
        if result.error is not None:
            raise result.error


async def _client(wanted: dict[str, Any]) -> NunuClient:
    from nunu_async import NunuClient  # noqa: PLC0415 - see above

    return NunuClient(wanted["key"], base_url=wanted["url"])


async def listing(ticker: Ticker, wanted: dict[str, Any]) -> None:
    """List all runs."""
    async with await _client(wanted) as nunu:
        await ready(nunu)
        await nunu.runs.list_page(page_size=100)
        with ticker.phase("listing"):
            count = 0
            async for _ in nunu.runs.list():
                count += 1
        assert count == wanted["runs"]


async def list_plainly(ticker: Ticker, wanted: dict[str, Any]) -> None:
    """Read the same pages with aiohttp and `json.loads`, one after the other."""
    import aiohttp  # noqa: PLC0415 - see above

    headers = {"X-Api-Key": wanted["key"]}
    async with aiohttp.ClientSession(headers=headers, raise_for_status=True) as http:

        async def page(number: int) -> int:
            address = f"{wanted['url']}/api/v1/runs?page={number}&page_size=100"
            async with http.get(address) as answer:
                return len(json.loads(await answer.read())["data"])

        await page(0)
        with ticker.phase("listing, aiohttp"):
            count = 0
            while count < wanted["runs"]:
                count += await page(count // 100)


async def waiting(ticker: Ticker, wanted: dict[str, Any]) -> None:
    """Wait for many, a task for each: the first look at them, and the moment when all end."""
    async with await _client(wanted) as nunu:
        await ready(nunu)
        await nunu.runs.list_page(page_size=100)
        ids = wanted["ids"]
        polled: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def seen(_: object) -> None:
            if not polled.done():
                polled.set_result(None)

        # Tasks are begun a few at a time, as a service does: to begin them is the caller's.
        tasks = []
        for number, name in enumerate(ids):
            listener = seen if number == len(ids) - 1 else None
            tasks.append(
                asyncio.create_task(nunu.wait_for_run(name, interval=1.0, on_change=listener))
            )
            if number % 50 == 49:
                await asyncio.sleep(0)
        with ticker.phase("waiters, a look"):
            await polled
            await asyncio.sleep(1.5)
        print("move 1000", flush=True)
        with ticker.phase("waiters, all end"):
            await asyncio.wait(tasks)
        for task in tasks:
            task.result()


def _wait_timeout() -> type[BaseException]:
    from nunu_async import WaitTimeout  # noqa: PLC0415 - see above

    return WaitTimeout


async def first_use(ticker: Ticker, wanted: dict[str, Any]) -> None:
    """Do each thing for the first time in this process."""
    from nunu_async import NunuClient  # noqa: PLC0415, F401 - a program imports it at its start

    more = ", warmed up" if wanted["warm"] else ""
    first = wanted["ids"][0]
    with ticker.phase(f"first client{more}"):
        nunu = await (await _client(wanted)).__aenter__()
        await asyncio.sleep(EACH)
    if wanted["warm"]:
        with ticker.phase("warm_up"):
            await nunu.warm_up()
    steps: tuple[tuple[str, Callable[[], Awaitable[object]]], ...] = (
        ("call", lambda: nunu.runs.get(first)),
        ("upload", lambda: nunu.upload_build(wanted["small"], name="first", platform="linux")),
        ("list", lambda: nunu.runs.list_page(page_size=100)),
        ("wait", lambda: nunu.wait_for_run(first, timeout=0.3, interval=0.1)),
    )
    for name, step in steps:
        with ticker.phase(f"first {name}{more}"), suppress(_wait_timeout()):
            await step()
    await nunu.close()


async def decode_error(ticker: Ticker, wanted: dict[str, Any]) -> None:
    """Read an answer that does not fit exactly, for the first time in this process."""
    async with await _client(wanted) as nunu:
        first = wanted["ids"][0]
        await nunu.runs.get(first)
        with ticker.phase("first decode error"):
            # The sandbox answers this one with a number that is written as 3.0.
            await nunu.runs.get(first)


async def closing(ticker: Ticker, wanted: dict[str, Any]) -> None:
    """Close a client with uploads under way."""
    nunu = await _client(wanted)
    tasks = await _uploads(nunu, wanted)
    with ticker.phase("closing"):
        await nunu.close()
        await asyncio.wait(tasks)
    for task in tasks:
        task.exception()


async def cancelling(ticker: Ticker, wanted: dict[str, Any]) -> None:
    """Cancel uploads that are under way, all in one turn of the loop."""
    async with await _client(wanted) as nunu:
        tasks = await _uploads(nunu, wanted)
        with ticker.phase("cancelling"):
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


async def _uploads(nunu: NunuClient, wanted: dict[str, Any]) -> list[asyncio.Task[Any]]:
    """Begin many uploads and have some of them under way."""
    await ready(nunu)
    tasks = [
        asyncio.create_task(nunu.upload_build(path, name=f"b{number}", platform="linux"))
        for number, path in enumerate(wanted["paths"][:CROWD])
    ]
    await asyncio.sleep(wanted["seconds"])
    assert not all(task.done() for task in tasks), "none was under way any more"
    return tasks


CASES = {
    one.__name__: one
    for one in (
        *(idle, upload, upload_plainly, small_files, listing, list_plainly),
        *(waiting, first_use, decode_error, closing, cancelling),
    )
}


async def main(name: str, wanted: dict[str, Any]) -> None:
    """Run one case and print what its phases were like."""
    ticker = Ticker()
    await CASES[name](ticker, wanted)
    print(json.dumps(ticker.phases), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], json.loads(Path(sys.argv[2]).read_text())))
