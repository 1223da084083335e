"""Parts with naive aiohttp and aiofiles: a generator of blocks of 64 KiB.

Arguments: file, URL to which a part number is added, bytes of a part, parts at once.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiofiles
import aiohttp

BLOCK = 64 * 1024


async def blocks(path: str, offset: int, length: int) -> AsyncIterator[bytes]:
    """Read a part."""
    async with aiofiles.open(path, "rb") as file:
        await file.seek(offset)
        while length:
            block = await file.read(min(BLOCK, length))
            length -= len(block)
            yield block


async def main(path: str, url: str, part_size: int, at_once: int) -> None:
    """Send all parts."""
    size = Path(path).stat().st_size  # noqa: ASYNC240 - once, before anything else runs
    limit = asyncio.Semaphore(at_once)
    timeout = aiohttp.ClientTimeout(total=None)

    async def send(session: aiohttp.ClientSession, offset: int) -> None:
        length = min(part_size, size - offset)
        async with (
            limit,
            session.put(
                f"{url}{offset // part_size + 1}",
                data=blocks(path, offset, length),
                headers={"Content-Length": str(length)},
            ) as answer,
        ):
            answer.raise_for_status()

    async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as tasks:
        for offset in range(0, size, part_size):
            tasks.create_task(send(session, offset))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
