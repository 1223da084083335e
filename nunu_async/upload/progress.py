"""The events of an upload, the ledger they are made from, and their delivery."""

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

    Comes a second time, with another `build_id`, when the URL of a single part was refused and the
    server has cancelled the first reservation: after a `Retrying`, and without a `Cancelled`.
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
    """Bytes were sent; the count falls back when a part has to be sent again."""

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
    """Something failed and will be attempted again."""

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
    """Counts the bytes sent of each unfinished part, and records the finished ones.

    Memory grows with the parts in flight and with the ETags, not with bytes.

    Attributes:
        etags: of finished parts, by number.
        md5_parts: the numbers of those whose ETag is the MD5 of their bytes.
        verified: how many parts have been compared with the file by their MD5s.
    """

    def __init__(self) -> None:
        self.etags: dict[int, str] = {}
        self.md5_parts: set[int] = set()
        self.verified = 0
        self._in_flight: dict[int, int] = {}
        self._settled = 0

    @property
    def sent(self) -> int:
        """Bytes handed to the network, repeats not counted."""
        return self._settled + sum(self._in_flight.values())

    def set_sent(self, number: int, count: int) -> None:
        """Record that `count` bytes of a part were sent; 0 takes them back."""
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

    Byte counts are coalesced: a listener that is slow, or async and waiting, gets the newest count
    and not every one in between. An exception that the listener raises aborts the upload.
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
        """Queue an event; a byte count replaces one that is not delivered yet."""
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
        """Deliver what is queued."""
        while self._events and self._listener is not None:
            try:
                result = self._listener(self._events.popleft())
                if inspect.isawaitable(result):
                    await result
            except asyncio.CancelledError as error:
                if was_cancelled(error):
                    raise
                # E.g. it awaited a cancelled future. Re-raising would silently end this task.
                raise RuntimeError("on_progress was cancelled, and nobody did that") from error
