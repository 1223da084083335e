"""What an upload tells while it runs, and the ledger that it is told from."""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import attrs

from nunu_async.core.wire import was_cancelled

__all__ = [
    "BytesSent",
    "Cancelled",
    "Completed",
    "Completing",
    "Kept",
    "Ledger",
    "Listener",
    "PartDone",
    "Reporter",
    "Retrying",
    "UploadEvent",
    "UploadStarted",
]


@attrs.frozen(kw_only=True)
class UploadStarted:
    """The server has reserved the build; nothing is sent yet.

    Comes a second time, with another `build_id`, where the URL of a single part was refused and
    the server has let go of the first reservation: a `Retrying` is before it, and no `Cancelled`.
    """

    build_id: str
    upload_type: str
    size: int
    """Bytes."""
    parts: int
    done: int = 0
    """Parts that an earlier call has sent, where this one resumes it."""


@attrs.frozen(kw_only=True)
class BytesSent:
    """So many bytes are on their way; falls back when a part has to be sent again."""

    sent: int
    """Bytes handed to the network, of all parts together."""
    size: int
    """Bytes of the whole file."""


@attrs.frozen(kw_only=True)
class PartDone:
    """Storage has acknowledged a part."""

    part_number: int
    """1-based."""
    done: int
    """Parts acknowledged so far."""
    parts: int


@attrs.frozen(kw_only=True)
class Retrying:
    """Something failed and will be tried again."""

    part_number: int | None
    """1-based; None when it is the completion of the upload."""
    attempt: int
    """The attempt that failed, counted from 1."""
    delay: float
    """Seconds until the next attempt."""
    reason: str


@attrs.frozen(kw_only=True)
class Completing:
    """Every part is in storage; the server is asked to make a build of them."""


@attrs.frozen(kw_only=True)
class Completed:
    """The build is in storage."""

    build_id: str
    seconds: float


@attrs.frozen(kw_only=True)
class Cancelled:
    """The upload failed or was cancelled, and is over."""

    build_id: str
    on_server: bool
    """Whether the server confirmed that it has let go of the upload."""


@attrs.frozen(kw_only=True)
class Kept:
    """The upload failed or was cancelled, and the server keeps it to be resumed."""

    build_id: str
    done: int
    """Parts acknowledged so far."""
    parts: int


UploadEvent: TypeAlias = (
    UploadStarted | BytesSent | PartDone | Retrying | Completing | Completed | Cancelled | Kept
)
Listener: TypeAlias = Callable[[UploadEvent], Awaitable[None] | None]


class Ledger:
    """How many bytes of each unfinished part are sent, and which parts are done.

    Memory grows with the parts under way and with the ETags, not with bytes.

    Attributes:
        etags: of finished parts, by number.
        md5_parts: the numbers of those whose ETag is the MD5 of their bytes.
    """

    def __init__(self) -> None:
        self.etags: dict[int, str] = {}
        self.md5_parts: set[int] = set()
        self._under_way: dict[int, int] = {}
        self._settled = 0

    @property
    def sent(self) -> int:
        """Bytes handed to the network, repeats not counted."""
        return self._settled + sum(self._under_way.values())

    def set_sent(self, number: int, count: int) -> None:
        """Note that `count` bytes of a part are on their way; 0 takes them back."""
        self._under_way[number] = count

    def finish(self, number: int, length: int, etag: str, *, is_md5: bool = False) -> None:
        """Note that storage has the whole part."""
        self._under_way.pop(number, None)
        self._settled += length
        self.etags[number] = etag
        if is_md5:
            self.md5_parts.add(number)


class Reporter:
    """Carries events to one listener, in order, without slowing the senders.

    Byte counts are folded: a listener that is slow, or async and waiting, is told the newest
    count and not every one in between. What the listener raises ends the upload.
    """

    def __init__(self, listener: Listener | None) -> None:
        self._listener = listener
        self._events: deque[UploadEvent] = deque()
        self._wake = asyncio.Event()
        self._ended = False

    @property
    def listens(self) -> bool:
        """Whether anybody is told."""
        return self._listener is not None

    def tell(self, event: UploadEvent) -> None:
        """Queue an event; a byte count replaces one that was not delivered yet."""
        if not self.listens:
            return
        if (
            self._events
            and isinstance(event, BytesSent)
            and isinstance(self._events[-1], BytesSent)
        ):
            self._events[-1] = event
        else:
            self._events.append(event)
        self._wake.set()

    async def pump(self) -> None:
        """Deliver events as they are told, until `end`."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self.drain()
            if self._ended:
                return

    def end(self) -> None:
        """Let `pump` return once everything told so far is delivered."""
        self._ended = True
        self._wake.set()

    async def drain(self) -> None:
        """Deliver what is queued."""
        while self._events and self._listener is not None:
            try:
                answer = self._listener(self._events.popleft())
                if inspect.isawaitable(answer):
                    await answer
            except asyncio.CancelledError as error:
                if was_cancelled():
                    raise
                # As of a future that it awaited: a task that ends so would only be missed.
                raise RuntimeError("on_progress was cancelled, and nobody did that") from error
