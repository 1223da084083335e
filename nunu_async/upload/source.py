"""The file to upload: opened once, and read at any offset without blocking the event loop."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import stat
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    contextmanager,
    nullcontext,
    suppress,
)
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, ParamSpec, Self, TypeVar

import attrs

from nunu_async.errors import SourceChanged, SourceError

if sys.platform == "win32":
    from nunu_async.upload.windows import change_time, is_held

P = ParamSpec("P")
R = TypeVar("R")

_NOWAIT: Final[int | None] = getattr(os, "RWF_NOWAIT", None) if hasattr(os, "preadv") else None
# Opening a FIFO without O_NONBLOCK would block the thread for ever; regular files ignore the flag.
_FLAGS: Final = (
    os.O_RDONLY
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_BINARY", 0)
)
# Whether the system has sendfile, and can tell in advance what is in the page cache.
_SENDS: Final = _NOWAIT is not None and hasattr(os, "sendfile")
# Older container runtimes return EPERM for unknown system calls.
_UNSUPPORTED: Final = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM}
_CONNECTION_ERRORS: Final = {
    errno.EPIPE,
    errno.ECONNRESET,
    errno.ECONNABORTED,
    errno.ENOTCONN,
    errno.ETIMEDOUT,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.ENETDOWN,
    errno.ENETRESET,
}
# The page cache is probed for one byte per this many bytes. Pages are loaded and evicted in long
# runs, and each probe is a system call: at 64 KiB, probes made up a tenth of the cost of sending.
_PROBE: Final = 256 * 1024
# Bytes that must come from memory after a cache miss before sendfile is used again: while a file is
# being loaded into memory, sendfile would wait for reads, which with a busy disk blocked the loop
# for up to 300 ms. _WARM_UP, enough to get past a hole in the cached data, applies to the part with
# the miss. The limit for all parts starts there; further misses double it, up to _LONGEST_WARM_UP,
# unless that many more bytes came from memory in between.
_WARM_UP: Final = 16 * 1024 * 1024
_LONGEST_WARM_UP: Final = 256 * 1024 * 1024
# Bytes of read-ahead requested with a read from the disk: the next blocks are then cached.
_READ_AHEAD: Final = 4 * 1024 * 1024
# Bytes per read for hashing; larger blocks do not stay in the CPU cache until they are hashed.
_HASH_BLOCK: Final = 1024 * 1024
# The read-ahead request of macOS. Source: sys/fcntl.h; `struct radvisory`: off_t, int.
_F_RDADVISE: Final = 44
_RADVISORY: Final = struct.Struct("qi4x")
# A file with a lease (F_SETLEASE; Samba takes one for a client's oplock) can be opened once the
# holder releases the lease: the attempt to open requests that, and Linux enforces it after 45 s
# (/proc/sys/fs/lease-break-time).
_LEASE_PATIENCE: Final = 60.0
_LEASE_PAUSE: Final = 0.05
_NO_LIMIT: Final = nullcontext()
# Threads that one file may keep busy.
_THREADS: Final = 4
_KINDS: Final = (
    (stat.S_ISFIFO, "is a pipe"),
    (stat.S_ISSOCK, "is a socket"),
    (stat.S_ISBLK, "is a device"),
    (stat.S_ISCHR, "is a device"),
)

_HELD: Final = "is open in another program, which does not share it; wait until it is written"
_LOCKED: Final = "cannot be read: another program has locked a part of it"


# Windows has none of these; sendfile is unused on macOS, which cannot tell what is cached
# (`_SENDS`).
if sys.platform == "win32":

    def _absent(*_: object) -> int:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    _send_file = _read_cached = _prefetch = _absent

    def _pread(*_: object) -> bytes:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

else:
    import fcntl

    def _send_file(out: int, descriptor: int, offset: int, length: int) -> int:
        return os.sendfile(out, descriptor, offset, length)

    def _read_cached(descriptor: int, block: bytearray, offset: int) -> int:
        return os.preadv(descriptor, [block], offset, _NOWAIT or 0)

    def _pread(descriptor: int, length: int, offset: int) -> bytes:
        return os.pread(descriptor, length, offset)

    def _prefetch(descriptor: int, offset: int) -> None:
        """Request read-ahead from the system."""
        if sys.platform == "darwin":
            fcntl.fcntl(descriptor, _F_RDADVISE, _RADVISORY.pack(offset, _READ_AHEAD))
        else:
            os.posix_fadvise(descriptor, offset, _READ_AHEAD, os.POSIX_FADV_WILLNEED)


@attrs.frozen
class Identity:
    """Identifies a file and its state."""

    size: int
    """Bytes."""
    mtime_ns: int
    inode: int = 0
    """0 if the system has none."""
    device: int = attrs.field(default=0, eq=False)
    """Not compared: network and container file systems get a new number with each mount."""
    ctime_ns: int | None = attrs.field(default=None, eq=False)
    """When contents or metadata last changed; None if unknown.

    No program can set it, unlike `mtime_ns`. Not compared: a chmod, a hard link or a rename changes
    it too, so the contents have to be compared (`upload/guard.py`).
    """

    @classmethod
    def of(cls, found: os.stat_result, descriptor: int | None = None) -> Self:
        """Create an Identity from a stat result; on Windows, the ctime needs an open file."""
        ctime_ns: int | None
        if sys.platform == "win32":  # where `st_ctime_ns` is the creation time
            ctime_ns = None if descriptor is None else change_time(descriptor)
        else:
            ctime_ns = found.st_ctime_ns
        return cls(found.st_size, found.st_mtime_ns, found.st_ino, found.st_dev, ctime_ns)

    def changes(self, now: Identity) -> str:
        """Describe what differs in `now`; "" if nothing does."""
        differences = []
        if now.size != self.size:
            differences.append(f"its size went from {self.size} to {now.size} bytes")
        if now.mtime_ns != self.mtime_ns:
            differences.append("its modification time moved")
        if now.inode != self.inode:
            differences.append("another file took its place")
        return ", ".join(differences)


class Source:
    """One regular file, held open by one descriptor until the upload has finished.

    Reads are positional, so they can run concurrently. If the platform allows it (`RWF_NOWAIT`),
    bytes in the page cache are read on the event loop itself; all others are read on `executor`,
    never on asyncio's default executor, whose few threads also resolve host names.
    """

    def __init__(self, path: Path, descriptor: int, identity: Identity, executor: Executor) -> None:
        self.path = path
        self.size = identity.size
        self._descriptor = descriptor
        self.identity = identity
        self._executor = executor
        # A file on a hung disk never releases its threads, so it must not get all of them.
        self._threads = asyncio.Semaphore(_THREADS)
        self._lock = threading.Lock()
        self._seek_lock = threading.Lock()
        self._spare: list[int] = []
        self._users = 1  # reads in progress, and the owner until `close`
        self._closed = False
        self._nowait = _NOWAIT is not None
        self.sends = _SENDS
        """Whether `send` works on this system, as far as is known."""
        self._since_miss = float("inf")
        self._warm_up = _WARM_UP

    @classmethod
    async def open(cls, path: str | os.PathLike[str], executor: Executor) -> Self:
        """Open and measure a file.

        Raises: SourceError if the file is missing, unreadable, empty or not a regular file.
        """
        is_abandoned = threading.Event()
        opening = executor.submit(_open, Path(path), is_abandoned.is_set)
        try:
            descriptor, identity = await asyncio.wrap_future(opening)
        except asyncio.CancelledError:
            is_abandoned.set()
            opening.add_done_callback(_close_opened)  # the thread cannot be stopped
            raise
        return cls(Path(path), descriptor, identity, executor)

    async def _on_thread(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a call on one of the file's threads, which stays occupied until the call ends."""
        await self._threads.acquire()
        future: Future[R] | None = None
        try:
            future = self._executor.submit(call, *args, **kwargs)
            return await asyncio.wrap_future(future)
        finally:
            if future is None or future.done():
                self._threads.release()
            else:  # cancelled, and the thread cannot be stopped
                loop = asyncio.get_running_loop()
                future.add_done_callback(partial(self._release_later, loop))

    def _release_later(self, loop: asyncio.AbstractEventLoop, _: Future[R]) -> None:
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(self._threads.release)

    async def read(
        self, offset: int, length: int, on_miss: Callable[[], None] = lambda: None
    ) -> bytes | bytearray:
        """Return exactly `length` bytes from `offset`; `on_miss` is called if some are not cached.

        The buffer is never reused: a transport may keep a reference to it.

        Raises: SourceChanged if the file has become shorter; SourceError if it cannot be read.
        """
        if self._nowait:
            block = bytearray(length)
            got = self._cached(block, offset)
            if got == length:
                self._since_miss += got
                return block
            self._missed()
            on_miss()
            if got:
                rest = await self._on_thread(self._pread_whole, offset + got, length - got)
                block[got:] = rest
                return block
        return await self._on_thread(self._pread_whole, offset, length)

    def is_warm(self, since_miss: float) -> bool:
        """Return whether to use `send`: the next bytes are probably in memory.

        `since_miss` is how many bytes came from memory since the caller's own last miss: bytes of
        other parts say nothing about the caller's place in the file.
        """
        return self.sends and since_miss >= _WARM_UP and self._since_miss >= self._warm_up

    def _missed(self) -> None:
        if self._since_miss >= self._warm_up + _LONGEST_WARM_UP:
            self._warm_up = _WARM_UP
        elif self._since_miss >= self._warm_up:
            self._warm_up = min(2 * self._warm_up, _LONGEST_WARM_UP)
        self._since_miss = 0

    def cached(self, offset: int, length: int) -> int:
        """Return how many bytes from `offset` can be sent without waiting for the disk.

        At most `length`; 0 if there are none, or if the platform cannot tell.

        Raises: SourceChanged if the file has become shorter; SourceError if it cannot be read.
        """
        probe = bytearray(1)
        for at in range(offset, offset + length, _PROBE):
            if not self._cached(probe, at):
                self._missed()
                return at - offset
        return length

    def send(self, descriptor: int, offset: int, length: int) -> int:
        """Send `cached` bytes by sendfile; return how many the socket accepted.

        Returns 0 if sendfile does not work: these and all following bytes must be read instead.

        Raises: BlockingIOError if the socket is full; other OSErrors of the connection;
        SourceChanged if the file has become shorter.
        """
        self._check_open()
        try:
            sent = _send_file(descriptor, self._descriptor, offset, length)
        except OSError as error:
            if isinstance(error, BlockingIOError) or error.errno in _CONNECTION_ERRORS:
                raise
            # A file error, or a system without sendfile: reading will show which.
            self.sends = False
            return 0
        if not sent:
            raise _shorter(self.path)
        self._since_miss += sent
        return sent

    async def check(self) -> Identity:
        """Return the file's current identity; only its `ctime_ns` may have changed.

        Raises: SourceChanged if size, modification time or inode have changed.
        """
        now = await self._on_thread(self._measure)
        if now != self.identity:
            changes = self.identity.changes(now)
            raise SourceChanged(str(self.path), f"changed while it was being uploaded ({changes})")
        return now

    async def md5(
        self,
        offset: int,
        length: int,
        *,
        processors: AbstractContextManager[object] = _NO_LIMIT,
        within: Callable[[], AbstractAsyncContextManager[object]] = nullcontext,
    ) -> str:
        """Read `length` bytes from `offset` on a thread and return their MD5 in hex.

        Threads acquire `processors` while they hash; every 4 MiB are awaited in a new `within`
        context.

        Raises: SourceChanged if the file has become shorter; SourceError if it cannot be read.
        """
        digest = hashlib.md5(usedforsecurity=False)
        end = offset + length
        for at in range(offset, end, _READ_AHEAD):  # can be cancelled between iterations
            async with within():
                count = min(_READ_AHEAD, end - at)
                await self._on_thread(self._hash_blocks, digest, at, count, processors)
        return digest.hexdigest()

    def _hash_blocks(
        self,
        digest: hashlib._Hash,
        offset: int,
        length: int,
        processors: AbstractContextManager[object],
    ) -> None:
        for block in self._blocks(offset, length, _HASH_BLOCK):
            with processors:
                digest.update(block)

    def _cached(self, block: bytearray, offset: int) -> int:
        self._check_open()
        try:
            return _read_cached(self._descriptor, block, offset)
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                self._nowait = self.sends = False
                return 0
            if error.errno == errno.EIO:
                return 0  # retried on a thread
            raise _unreadable(self.path, error) from None

    def _pread_whole(self, offset: int, length: int) -> bytes:
        blocks = list(self._blocks(offset, length, length))
        return blocks[0] if len(blocks) == 1 else b"".join(blocks)

    def _blocks(self, offset: int, length: int, most: int) -> Iterator[bytes]:
        """Yield `length` bytes in blocks of at most `most`; runs on a thread."""
        with self._held_open():
            with suppress(AttributeError, OSError):  # only a hint; some systems lack it
                _prefetch(self._descriptor, offset)
            while length:
                wanted = min(length, most)
                try:
                    block = self._pread_once(offset, wanted)
                except OSError as error:
                    # A read error of the device (EIO) may be transient; other errors are not.
                    if error.errno != errno.EIO:
                        raise
                    block = self._pread_once(offset, wanted)
                if not block:
                    raise _shorter(self.path)
                yield block
                offset += len(block)
                length -= len(block)

    def _pread_once(self, offset: int, length: int) -> bytes:
        if hasattr(os, "pread"):
            return _pread(self._descriptor, length, offset)
        # Windows: a descriptor has one position, so each concurrent read needs its own descriptor.
        descriptor = self._take_spare()
        if descriptor is None:
            with self._seek_lock:
                return _read_at(self._descriptor, offset, length)
        try:
            return _read_at(descriptor, offset, length)
        finally:
            with self._lock:
                self._spare.append(descriptor)

    def _take_spare(self) -> int | None:
        """Return another descriptor of the same file; None if its path no longer leads to it."""
        with self._lock:
            if self._spare:
                return self._spare.pop()
        try:
            descriptor = os.open(self.path, _FLAGS)
        except OSError:
            return None
        if os.path.samestat(os.fstat(descriptor), os.fstat(self._descriptor)):
            return descriptor
        os.close(descriptor)
        return None

    def _measure(self) -> Identity:
        with self._held_open():
            return Identity.of(os.fstat(self._descriptor), self._descriptor)

    @contextmanager
    def _held_open(self) -> Iterator[None]:
        """Keep the file open inside the `with` block, and convert OSError to SourceError.

        A read on a hung disk outlives its upload, so the last read closes the file: if it were
        closed during a read, the descriptor's number could be reused for another file.
        """
        with self._lock:
            self._check_open()
            self._users += 1
        try:
            yield
        except OSError as error:
            # On an open file, only ranges locked by other programs are denied.
            if sys.platform == "win32" and isinstance(error, PermissionError):
                raise SourceError(str(self.path), _LOCKED, errno=error.errno) from None
            raise _unreadable(self.path, error) from None
        finally:
            self._leave()

    def _check_open(self) -> None:
        if self._closed:  # the number may now belong to another file
            raise SourceError(str(self.path), "is closed already")

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1
            is_last = self._users == 0
        if is_last:
            for descriptor in (self._descriptor, *self._spare):
                os.close(descriptor)

    def close(self) -> None:
        """Close the file once no read is in progress; does not wait for one."""
        if not self._closed:
            self._closed = True
            self._leave()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def measure(path: str | os.PathLike[str]) -> int:
    """Return the size in bytes of a file that can be uploaded; blocks for at most a minute.

    Raises: SourceError, as `Source.open` does.
    """
    descriptor, identity = _open(Path(path))
    os.close(descriptor)
    return identity.size


def _open(path: Path, abandoned: Callable[[], bool] = lambda: False) -> tuple[int, Identity]:
    try:
        descriptor = _open_leased(path, abandoned)
    except (OSError, ValueError) as error:
        # Windows cannot open a directory at all.
        if isinstance(error, OSError) and os.path.isdir(path):  # noqa: PTH112 - `Path`'s may raise
            raise SourceError(str(path), _directory(path)) from None
        if sys.platform == "win32" and isinstance(error, PermissionError) and is_held(path):
            raise SourceError(str(path), _HELD, errno=error.errno) from None
        raise _unreadable(path, error) from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            if stat.S_ISDIR(found.st_mode):
                raise SourceError(str(path), _directory(path))
            what = next((kind for test, kind in _KINDS if test(found.st_mode)), "is special")
            raise SourceError(str(path), f"{what}; only a regular file can be uploaded")
        if found.st_size == 0:
            raise SourceError(str(path), "is empty; the API wants at least one byte")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, Identity.of(found, descriptor)


def _open_leased(path: Path, abandoned: Callable[[], bool]) -> int:
    """Open a file once it has no lease. Raises: OSError; SourceError if that takes a minute."""
    until = time.monotonic() + _LEASE_PATIENCE
    while True:
        try:
            return os.open(path, _FLAGS)
        except BlockingIOError as error:
            if abandoned() or time.monotonic() >= until:
                reason = (
                    "cannot be opened: another program holds a lease on it (as a file server does "
                    f"for a client that has it open) and has not let go of it for "
                    f"{_LEASE_PATIENCE:g} s; close the file there"
                )
                raise SourceError(str(path), reason, errno=error.errno) from None
            time.sleep(_LEASE_PAUSE)


def _close_opened(opening: Future[tuple[int, Identity]]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        os.close(opening.result()[0])


def _directory(path: Path) -> str:
    if path.suffix.lower() == ".app":
        return (
            "is a directory, as every .app is; only a regular file can be uploaded, so pack it "
            "first, on macOS by: ditto -c -k --keepParent NAME.app NAME.zip"
        )
    return "is a directory; only a regular file can be uploaded"


def _read_at(descriptor: int, offset: int, length: int) -> bytes:
    os.lseek(descriptor, offset, os.SEEK_SET)
    return os.read(descriptor, length)


def _shorter(path: Path) -> SourceChanged:
    return SourceChanged(str(path), "became shorter while it was being uploaded")


def _unreadable(path: Path, error: OSError | ValueError) -> SourceError:
    reason, number = str(error), None
    if isinstance(error, OSError):
        reason, number = error.strerror or reason, error.errno
    return SourceError(str(path), f"cannot be read ({reason})", errno=number)
