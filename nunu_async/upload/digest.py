"""The MD5 of a part, computed beside the sending of it."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Mapping
from concurrent.futures import Executor
from typing import Final

__all__ = ["Digest", "md5_told"]

_MD5: Final = re.compile(r"[0-9a-f]{32}", re.IGNORECASE)
# Encrypted so, an ETag may have 32 hex digits and is no MD5 all the same.
# Source: Amazon S3 API reference, "Object", ETag.
_KEY_OF_CUSTOMER: Final = "x-amz-server-side-encryption-customer-algorithm"
_ENCRYPTION: Final = "x-amz-server-side-encryption"


class Digest:
    """One attempt's MD5, on threads; `hashlib` lets go of the interpreter lock meanwhile.

    Each block is hashed while it is sent and the next is read. With blocks of 256 KiB the hops to
    the thread cost a quarter of the hashing; fewer and larger ones saved little and held more.
    """

    def __init__(self, executor: Executor) -> None:
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._executor = executor
        self._running: asyncio.Future[None] | None = None

    async def take(self, block: bytes | bytearray) -> None:
        """Begin with a block, which must not change any more, once the one before is done."""
        await self._settled()
        loop = asyncio.get_running_loop()
        self._running = loop.run_in_executor(self._executor, self._md5.update, block)

    async def hexdigest(self) -> str:
        """Return the MD5 of everything taken."""
        await self._settled()
        return self._md5.hexdigest()

    async def _settled(self) -> None:
        if self._running is not None and not self._running.done():
            await self._running

    def close(self) -> None:
        """Let go of what a thread may still have to do; it is not waited for."""
        if self._running is not None:
            self._running.cancel()


def md5_told(etag: str, headers: Mapping[str, str]) -> str | None:
    """Return the MD5 that an ETag without quotes is, in lower case; None where it is none.

    An ETag of several parts (``...-2``) is none, nor is that of an object encrypted with a key of
    the customer's or of a key service.
    """
    encryption = headers.get(_ENCRYPTION, "").lower()
    if _KEY_OF_CUSTOMER in headers or encryption.startswith("aws:kms"):
        return None
    return etag.lower() if _MD5.fullmatch(etag) else None
