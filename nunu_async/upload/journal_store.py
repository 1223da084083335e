"""The journals on disk: one locked file per resumable upload."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Final, TypeVar

import attrs
import platformdirs
from aiofiles.os import wrap

from nunu_async.core.cancellation import finish
from nunu_async.core.clock import Clock, time_limit
from nunu_async.errors import ConfigError, SourceError
from nunu_async.models.builds import InitiateUpload, MultipartTicket
from nunu_async.redact import Secret
from nunu_async.upload.journal import (
    VERSION,
    JournalHeader,
    JournalState,
    foreign_format,
    head_line,
    mark_line,
    part_line,
    read,
)
from nunu_async.upload.paths import absolute, path_key
from nunu_async.upload.plan import MOST_MINUTES
from nunu_async.upload.source import Identity, Source

if sys.platform == "win32":
    from nunu_async.upload.windows import try_lock
else:
    import fcntl

    def try_lock(descriptor: int, *, shared: bool = False) -> bool:
        """Lock an open file until it is closed or its process ends; False if it is already locked.

        A `shared` lock conflicts only with exclusive ones. Raises: OSError where files cannot be
        locked.
        """
        # Not `lockf`: its locks are per process, so two uploads in one process could both get one.
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


T = TypeVar("T")

_LOG = logging.getLogger("nunu_async.upload.journal")

_SUFFIX: Final = ".jsonl"
_LARGEST: Final = 64 * 1024 * 1024
# O_NONBLOCK in case a FIFO was put there: opening it would wait for a writer.
_FLAGS: Final = (
    getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_BINARY", 0)
)
# Seconds for one disk operation; a local disk takes far less than one second, and a hung disk must
# not block anything.
_DISK_TIMEOUT: Final = 30.0
# Lock attempts: several, as `uploads list` briefly takes the lock to see whether it is free.
_LOCK_ATTEMPTS: Final = 5
_LOCK_PAUSE: Final = 0.02


@attrs.frozen(kw_only=True)
class PendingUpload:
    """A pending upload: its journal, and the state of its build file."""

    path: Path
    kept: JournalState
    is_ours: bool
    """Whether the upload belongs to this client's API and project."""
    is_busy: bool
    """Whether a process is sending the upload right now."""
    file: str = ""
    """The state of the build file: ``same``, ``changed`` or ``missing``; "" if it was not checked,
    as it may be on a hung disk."""


@attrs.frozen
class _Disk:
    """Runs operations on the journals' disk on one thread: in order, and with a timeout."""

    executor: Executor
    _clock: Clock

    async def run(self, work: Callable[[], T]) -> T:
        """Run `work`, even if the caller is cancelled. Raises: TimeoutError if the disk hangs."""
        async with time_limit(self._clock, _DISK_TIMEOUT):
            return await asyncio.shield(asyncio.ensure_future(wrap(work)(executor=self.executor)))


class JournalStore:
    """The journals in one state directory; tells which belong to one API and project.

    Args:
        directory: None for the system's state directory.
        key: identifies the project if `project_id` is None; None to only list journals.
        executor: one thread, so that lines are written in order, and never on the event loop.
    """

    def __init__(
        self,
        directory: str | None,
        *,
        base_url: str,
        project_id: str | None,
        key: Secret | None,
        executor: Executor,
        clock: Clock,
    ) -> None:
        self._directory = directory
        self._place = (base_url, project_id)
        self._key_mark = key.mark() if key is not None and project_id is None else None
        self._disk = _Disk(executor, clock)
        self.foreign: list[str] = []
        """A message for each journal that `left_behind` could not read."""

    @property
    def folder(self) -> Path:
        """The folder that contains the journals and nothing else.

        Raises: ConfigError if it depends on the home directory and none is known.
        """
        if self._directory is not None:
            state = os.path.expanduser(self._directory)  # noqa: PTH111 - `Path`'s raises
            if state.startswith("~"):
                raise ConfigError(
                    f"journals cannot be kept in {self._directory!a}: no home directory is known "
                    "for it; set NUNU_STATE_DIR to an absolute path"
                )
            return Path(state) / "uploads"
        try:
            state = platformdirs.user_state_dir("nunu_async", appauthor=False)
        except (KeyError, RuntimeError, OSError):
            state = ""
        # Some versions of platformdirs return an unexpanded "~".
        if not os.path.isabs(state):  # noqa: PTH117 - it may be no path at all
            raise ConfigError(
                "there is no place for journals: no home directory is known (HOME is not set, and "
                "the system has none for this user); set NUNU_STATE_DIR to a folder"
            )
        return Path(state) / "uploads"

    async def open(
        self, source: Source, request: InitiateUpload, *, verify: bool = False
    ) -> Journal:
        """Open and lock the journal of an upload; create it if there is none.

        Two calls are the same upload if their file, name, platform, description, tags and project
        are equal; other options are ignored. A new journal records `verify`.

        Raises: SourceError if the file is already being uploaded, or its path is not valid text;
        ConfigError if no journal can be kept.
        """
        path = absolute(source.path)  # as the user typed it: links are not followed
        try:
            path.encode()
        except UnicodeEncodeError:
            raise SourceError(
                ascii(path), "has a path that no journal can hold; it goes up without resume"
            ) from None
        try:
            # Not on the event loop: `path_key` may read from a disk, and `folder`, without `HOME`,
            # from a directory service.
            key, folder = await self._disk.run(lambda: (path_key(path), self.folder))
        except TimeoutError:
            raise ConfigError(
                "journals cannot be kept (a disk hangs, or what tells home directories); see "
                "NUNU_STATE_DIR"
            ) from None
        base_url, project_id = self._place
        identity: list[object] = [base_url, project_id, self._key_mark, key]
        identity += [request.name, request.platform]
        identity += [request.multipart, request.description, list(request.tags)]
        name = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]
        journal = Journal(folder / f"{name}{_SUFFIX}", self._disk)
        await journal.open(path, create=True)
        if journal.foreign:  # left for that version to resume or cancel; ours goes beside it
            _warn_once(_foreign_message(folder / f"{name}{_SUFFIX}", journal.foreign))
            journal = Journal(folder / f"{name}-{VERSION}{_SUFFIX}", self._disk)
            await journal.open(path, create=True)
        journal.head_of = partial(
            JournalHeader,
            path=path,
            identity=source.identity,
            base_url=base_url,
            project_id=project_id,
            key_mark=self._key_mark,
            request=request,
            verify=verify,
        )
        return journal

    async def outdated(self, source: Source) -> list[PendingUpload]:
        """Find our journals for earlier states of the file, under any build name."""

        def find() -> list[PendingUpload]:
            key = path_key(source.path)
            return [
                one
                for one in self._read_all_journals()
                if one.is_ours
                and path_key(one.kept.head.path) == key
                and one.kept.head.identity != source.identity
            ]

        try:
            return await self._disk.run(find)
        except TimeoutError:
            _LOG.warning("the journals' disk hangs; those of older states are let be")
            return []

    async def take(self, one: PendingUpload) -> Journal:
        """Open and lock a listed journal. Raises: SourceError if it is locked; ConfigError."""
        journal = Journal(one.path, self._disk)
        await journal.open(one.kept.head.path, create=False)
        return journal

    def _is_ours(self, head: JournalHeader) -> bool:
        if (head.base_url, head.project_id) != self._place:
            return False
        # An upload that has expired on the server is ours with any key: keys get replaced, and no
        # other client would clean it up.
        expired = time.time() - head.began > 60 * MOST_MINUTES
        return expired or head.key_mark in (None, self._key_mark) or self._key_mark is None

    def left_behind(self) -> list[PendingUpload]:
        """Read all journals, oldest first; blocks. Other versions' go to `foreign`.

        Raises: ConfigError if the folder cannot be read, or is not known.
        """
        pending = [
            attrs.evolve(one, file=_file_state(one.kept.head)) for one in self._read_all_journals()
        ]
        return sorted(pending, key=lambda one: one.kept.head.began)

    def _read_all_journals(self) -> Iterator[PendingUpload]:
        self.foreign = []
        try:
            paths = sorted(self.folder.glob(f"*{_SUFFIX}"))
        except OSError as error:
            raise _unusable(self.folder, error) from None
        for path in paths:
            data, is_busy = _read_unlocked(path)
            kept = read(data)
            if kept is not None:
                is_ours = self._is_ours(kept.head)
                yield PendingUpload(path=path, kept=kept, is_ours=is_ours, is_busy=is_busy)
            elif format_name := foreign_format(data):
                self.foreign.append(_foreign_message(path, format_name))


class Journal:
    """One upload's journal, locked from `open` to `close`.

    A part's line is handed to the kernel before the part counts as done, so it survives a killed
    process. The header and the mark before completing are also flushed to the disk, as their data
    cannot be recovered otherwise. Part lines are not flushed: the kernel writes them within half a
    minute, and after a crash before that, those parts are sent again; flushing every line could
    make senders wait for a busy disk.

    If the disk is full or hangs, the journal is given up, and the upload goes on.
    """

    def __init__(self, path: Path, disk: _Disk) -> None:
        self._path = path
        self._disk = disk
        self._hangs = False
        self._descriptor: int | None = None
        self._checksum = 0
        self._broken = False
        self.head_of: Callable[..., JournalHeader] | None = None
        """Makes the header from `ticket` and `began`, the start time."""
        self.kept: JournalState | None = None
        """The state read from the journal."""
        self.foreign = ""
        """The format if another version wrote the journal, which is then neither changed nor kept
        open."""
        self.build_id: str | None = None
        """Build id of the resumable upload in the header; None without a header."""

    async def open(self, path: str, *, create: bool) -> None:
        """Lock and read the journal; `path` is the build file, for messages.

        Raises: SourceError if it is already locked; ConfigError if it cannot be opened or locked.
        """
        try:
            await self._disk.run(partial(self._open, path, create=create))
        except TimeoutError:
            self._disk.executor.submit(self._close)  # the only thread runs it after `_open`
            raise ConfigError(
                f"journals cannot be kept in {self._path.parent} (the disk hangs); see "
                "NUNU_STATE_DIR"
            ) from None
        except asyncio.CancelledError:
            self._disk.executor.submit(self._close)
            raise

    async def begin(self, ticket: MultipartTicket) -> None:
        """Write a header, replacing any contents."""
        assert self.head_of is not None  # noqa: S101 - for the type checker: `JournalStore.open` made it
        head = self.head_of(ticket=ticket, began=time.time())
        await self._finish(lambda: self._begin(head))

    async def part(self, number: int, etag: str, *, is_md5: bool = False) -> None:
        """Record that a part is in storage."""
        line = partial(part_line, number, etag, is_md5=is_md5)
        await self._finish(lambda: self._append(line))

    async def completing(self) -> None:
        """Record that from now on the upload may be complete.

        If that fails, the journal is removed: without the mark, a later call would assume that the
        upload may be deleted.
        """
        await self._finish(self._mark)

    async def void(self) -> None:
        """Empty the journal for another upload."""
        await self._finish(self._void)

    async def set_aside(self) -> None:
        """Rename the journal, so that `uploads cancel` finds it, and open an empty one.

        Raises: ConfigError if that fails.
        """
        await self._finish(self._set_aside)

    async def forget(self) -> None:
        """Remove and unlock the journal: nothing is left to resume or to record."""
        await self._finish(self._forget)

    async def close(self) -> None:
        """Unlock the journal, and remove it if there is nothing to resume."""
        await self._finish(self._close)

    async def _finish(self, work: Callable[[], None]) -> None:
        """Run `work` on the disk thread, and wait for it even if the caller is cancelled."""
        if self._hangs:
            self._disk.executor.submit(work)
            return
        await finish(self._run(work))

    async def _run(self, work: Callable[[], None]) -> None:
        try:
            await self._disk.run(work)
        except TimeoutError:
            self._hangs = self._broken = True
            _LOG.warning("the journal's disk hangs; the upload goes on without")

    def _open(self, path: str, *, create: bool) -> None:
        flags = os.O_RDWR | os.O_APPEND | (os.O_CREAT if create else 0) | _FLAGS
        try:
            if create:
                _make_private(self._path.parent)
            for attempt in range(_LOCK_ATTEMPTS):
                if attempt:
                    time.sleep(_LOCK_PAUSE)
                descriptor = self._descriptor = os.open(self._path, flags, 0o600)
                # The previous lock holder may have removed the file before unlocking it.
                if try_lock(descriptor) and _is_at(self._path, descriptor):
                    break
                self._close(remove=False)
            else:
                raise SourceError(
                    path, "is being uploaded already, by another process or another task"
                )
            if hasattr(os, "fchmod"):
                os.fchmod(descriptor, 0o600)
            data = _read_all(descriptor)
            self.kept = read(data)
            if self.kept is not None:
                os.ftruncate(descriptor, self.kept.length)  # or lines would follow a torn one
                self._checksum = self.kept.checksum
                self.build_id = self.kept.head.ticket.build_id
            else:
                self.foreign = foreign_format(data)
                if self.foreign:  # for that version to resume or cancel
                    self._close(remove=False)
        except OSError as error:
            self._close(remove=False)
            raise _unusable(self._path, error) from None

    def _begin(self, head: JournalHeader) -> None:
        self._void()
        if self._descriptor is None or self._broken:
            return
        with self._writing():
            line, self._checksum = head_line(head)
            _write_all(self._descriptor, line)
            _flush(self._descriptor)
            _sync_folder(self._path.parent)
            self.build_id = head.ticket.build_id

    def _append(
        self, line_after: Callable[[int], tuple[bytes, int]], *, flush: bool = False
    ) -> None:
        if self._descriptor is None or self._broken or self.build_id is None:
            return
        with self._writing():
            line, checksum = line_after(self._checksum)
            _write_all(self._descriptor, line)
            if flush:
                _flush(self._descriptor)
            self._checksum = checksum

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            # Nothing may be appended after a line that may be incomplete.
            self._broken = True
            reason = error.strerror or type(error).__name__
            _LOG.warning("the journal cannot be written (%s); the upload goes on without", reason)

    def _mark(self) -> None:
        self._append(mark_line, flush=True)
        if self._broken and self.build_id is not None:
            self._forget()

    def _void(self) -> None:
        self.build_id = None
        if self._descriptor is not None:
            with self._writing():
                os.ftruncate(self._descriptor, 0)

    def _set_aside(self) -> None:
        kept, self.kept, self.build_id = self.kept, None, None
        if self._descriptor is None or kept is None:
            return
        name = hashlib.sha256(kept.head.ticket.build_id.encode()).hexdigest()[:32] + _SUFFIX
        if os.name == "nt":  # Windows cannot rename an open file
            self._close(remove=False)
        try:
            self._path.rename(self._path.with_name(name))
        except OSError as error:
            raise _unusable(self._path, error) from None
        finally:
            self._close(remove=False)
        self._open(kept.head.path, create=True)

    def _forget(self) -> None:
        self._void()
        self._close()

    def _close(self, *, remove: bool = True) -> None:
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        if os.name == "nt":  # Windows cannot remove an open file; others keep it locked until then
            os.close(descriptor)
        if remove and self.build_id is None:
            with suppress(OSError):
                # The name may be that of another upload's journal if the folder was made anew.
                if os.name == "nt" or _is_at(self._path, descriptor):
                    self._path.unlink()
        if os.name != "nt":
            os.close(descriptor)


def _foreign_message(path: Path, format_name: str) -> str:
    return (
        f"{path} was written by another version of nunu_async ({format_name}) and is left alone; "
        "resume or cancel its upload with that version"
    )


@cache
def _warn_once(message: str) -> None:
    _LOG.warning("%s", message)


def _read_unlocked(path: Path) -> tuple[bytes, bool]:
    """Return a journal's contents and whether it is locked; empty contents if it cannot be read."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | _FLAGS)
        try:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                is_busy = not try_lock(descriptor, shared=True)
                return _read_all(descriptor), is_busy
        finally:
            os.close(descriptor)
    return b"", False


def _make_private(folder: Path) -> None:
    # Only the folder must be private; its parents may be shared.
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    if stat.S_IMODE(folder.stat().st_mode) & 0o077:
        folder.chmod(0o700)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _read_all(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb", closefd=False) as file:
        file.seek(0)
        # The size, as a buffer of the whole limit would be allocated for every journal.
        return file.read(min(_LARGEST, os.fstat(descriptor).st_size))


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _flush(descriptor: int) -> None:
    """Flush a file to the disk, so that it survives a power loss."""
    if sys.platform == "darwin":
        # On macOS, `fsync` leaves data in the drive's cache. Network file systems refuse
        # F_FULLFSYNC.
        with suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)


def _sync_folder(folder: Path) -> None:
    """Flush a folder, so that the name of a new file in it survives a power loss."""
    if os.name == "nt":  # Windows cannot open a folder
        return
    descriptor = os.open(folder, os.O_RDONLY | _FLAGS)
    try:
        _flush(descriptor)
    finally:
        os.close(descriptor)


def _file_state(head: JournalHeader) -> str:
    try:
        found = os.stat(head.path)  # noqa: PTH116 - as it was opened
    except (OSError, ValueError):
        return "missing"
    return "same" if Identity.of(found) == head.identity else "changed"


def _unusable(path: Path, error: OSError) -> ConfigError:
    reason = error.strerror or type(error).__name__
    return ConfigError(f"journals cannot be kept in {path.parent} ({reason}); see NUNU_STATE_DIR")
