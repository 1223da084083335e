"""Upload events, their delivery, and the ledger that they are made from."""

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
    "Listener",
    "PartDone",
    "Retrying",
    "UploadEvent",
    "UploadStarted",
]


@attrs.frozen(kw_only=True)
class UploadStarted:
    """The server has reserved the build; nothing is sent yet.

    Emitted a second time, with a new `build_id`, when a single-part URL was refused and the server
    has cancelled the first reservation: after a `Retrying`, without a `Cancelled`.
    """

    build_id: str
    upload_type: str
    size: int
    """Bytes."""
    parts: int
    done: int = 0
    """Parts that an earlier call has sent, if this one resumes it."""


@attrs.frozen(kw_only=True)
class BytesSent:
    """Bytes were sent; the count decreases when a part has to be sent again."""

    sent: int
    """Bytes of all parts handed to the network."""
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
    """A part or the completion failed and will be retried."""

    part_number: int | None
    """1-based; None for the completion of the upload."""
    attempt: int
    """The attempt that failed, counted from 1."""
    delay: float
    """Seconds until the next attempt."""
    reason: str


@attrs.frozen(kw_only=True)
class Completing:
    """Every part is in storage; the server is now asked to complete the build."""


@attrs.frozen(kw_only=True)
class Completed:
    """The build is in storage."""

    build_id: str
    seconds: float


@attrs.frozen(kw_only=True)
class Cancelled:
    """The upload failed or was cancelled, and cannot be resumed."""

    build_id: str
    on_server: bool
    """Whether the server confirmed the cancellation."""


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
    """Counts the bytes sent of unfinished parts, and records the finished parts.

    Memory use grows with the parts in flight and the ETags, not with bytes.

    Attributes:
        etags: ETags of finished parts, keyed by part number.
        md5_parts: the numbers of finished parts whose ETag is the MD5 of their bytes.
        verified: how many parts have an ETag that matched the MD5 of the file's bytes.
    """

    def __init__(self) -> None:
        self.etags: dict[int, str] = {}
        self.md5_parts: set[int] = set()
        self.verified = 0
        self._in_flight: dict[int, int] = {}
        self._settled = 0

    @property
    def sent(self) -> int:
        """Bytes handed to the network, not counting retries."""
        return self._settled + sum(self._in_flight.values())

    def set_sent(self, number: int, count: int) -> None:
        """Set how many bytes of a part were sent; 0 when it has to be sent again."""
        self._in_flight[number] = count

    def finish(self, number: int, length: int, etag: str, *, is_md5: bool = False) -> None:
        """Record that storage has the whole part."""
        self._in_flight.pop(number, None)
        self._settled += length
        self.etags[number] = etag
        if is_md5:
            self.md5_parts.add(number)


class Reporter:
    """Delivers events to one listener, in order, without slowing the senders.

    Byte counts are coalesced: a slow or awaiting listener gets the newest count, not every one in
    between. An exception that the listener raises aborts the upload.
    """

    def __init__(self, listener: Listener | None) -> None:
        self._listener = listener
        self._events: deque[UploadEvent] = deque()
        self._wake = asyncio.Event()
        self._ended = False

    @property
    def has_listener(self) -> bool:
        """Whether there is a listener."""
        return self._listener is not None

    def emit(self, event: UploadEvent) -> None:
        """Queue an event; a byte count replaces an undelivered one."""
        if not self.has_listener:
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
        """Deliver events as they are emitted, until `end`."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self.drain()
            if self._ended:
                return

    def end(self) -> None:
        """Let `pump` return once everything emitted so far is delivered."""
        self._ended = True
        self._wake.set()

    async def drain(self) -> None:
        """Deliver the queued events."""
        while self._events and self._listener is not None:
            try:
                result = self._listener(self._events.popleft())
                if inspect.isawaitable(result):
                    await result
            except asyncio.CancelledError as error:
                if was_cancelled(error):
                    raise
                # E.g. the listener awaited a cancelled future. Re-raising would silently end this
                # task.
                raise RuntimeError("on_progress was cancelled, and nobody did that") from error
