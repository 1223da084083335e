from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from waits import OpenWorld, World, opened


@pytest.fixture
async def world() -> AsyncIterator[OpenWorld]:
    """Open what `waits.opened` opens, until the test is over."""
    async with AsyncExitStack() as stack:

        async def open_one(*arguments: Any, **settings: Any) -> World:
            return await stack.enter_async_context(opened(*arguments, **settings))

        yield open_one
