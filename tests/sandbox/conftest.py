import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from sandbox_client import Client, Clock, Lab, once

from nunu_async.sandbox import Sandbox


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    """Start sandboxes with the settings given; everything is closed afterwards."""
    opened: list[Client] = []

    async def start(**settings: Any) -> Client:
        box = Sandbox(**settings)
        await box.start()
        client = Client(box, aiohttp.ClientSession(middlewares=(once,)))
        opened.append(client)
        return client

    yield start
    for client in opened:
        await client.session.close()
        await client.box.close()


@pytest.fixture
def data() -> bytes:
    """More than one read block, not a multiple of anything."""
    return random.Random(7).randbytes(2_500_001)


@pytest.fixture
async def no_task_left() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    await asyncio.sleep(0)
    assert asyncio.all_tasks() - {asyncio.current_task()} <= before
