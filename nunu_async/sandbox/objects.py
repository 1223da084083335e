"""Storage of bytes: parts while they are uploaded, objects once they are assembled."""

import asyncio
import hashlib
import itertools
import os
import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import aiofiles

_COPY_SIZE = 16 * 1024 * 1024
# A thread hop costs about 50 us, MD5 about 1.6 us per KiB: below this, hash in the event loop.
_HASH_INLINE = 64 * 1024
_NAME_LENGTH = 100  # file systems allow 255, but Windows 260 for a whole path
# Windows reserves these names for devices, with any extension.
_DEVICE = re.compile(r"(CON|PRN|AUX|NUL|(COM|LPT)[0-9])(\..*)?", re.IGNORECASE)


class Attempt(ABC):
    """One PUT of one part; nothing of it is visible before `publish`."""

    def __init__(self) -> None:
        self._digest = hashlib.md5(usedforsecurity=False)

    @abstractmethod
    async def write(self, block: bytes) -> None:
        """Append a block."""

    @abstractmethod
    async def close(self) -> None:
        """Finish writing; call before `publish`."""

    @abstractmethod
    def publish(self) -> str:
        """Make this the part, replacing any former one, and return its ETag without quotes.

        Never yields to the event loop, so that a check made just before still holds.
        """

    @abstractmethod
    async def discard(self) -> None:
        """Delete what was written, unless it was published."""

    async def _hash(self, block: bytes) -> None:
        if len(block) <= _HASH_INLINE:
            self._digest.update(block)
        else:
            await asyncio.to_thread(self._digest.update, block)


class ObjectStore(ABC):
    """Parts and objects of all builds, by build id."""

    @abstractmethod
    async def attempt(self, build_id: str, part_number: int) -> Attempt:
        """Begin a PUT."""

    @abstractmethod
    async def assemble(self, build_id: str, total_parts: int, file_name: str) -> None:
        """Join parts 1 to `total_parts` into the object, and delete the parts.

        Raises: OSError when that fails; the parts are then kept.
        """

    @abstractmethod
    async def delete(self, build_ids: Sequence[str]) -> None:
        """Delete parts and objects."""

    @abstractmethod
    async def close(self) -> None:
        """Delete parts that never became objects; objects stay."""

    @abstractmethod
    def path(self, build_id: str) -> Path | None:
        """Return the path of an object; None in memory. Raises: KeyError when there is none."""

    @abstractmethod
    def read(self, build_id: str) -> bytes:
        """Read a whole object. Raises: KeyError when there is none."""

    @abstractmethod
    def sha256(self, build_id: str) -> str:
        """Return the hash of an object of any size, in hex. Raises: KeyError when there is none."""


class MemoryStore(ObjectStore):
    """Keeps everything in memory."""

    def __init__(self) -> None:
        self._parts: dict[str, dict[int, bytes]] = {}
        self._objects: dict[str, bytes] = {}

    async def attempt(self, build_id: str, part_number: int) -> Attempt:
        """Begin a PUT."""
        return _MemoryAttempt(self._parts.setdefault(build_id, {}), part_number)

    async def assemble(self, build_id: str, total_parts: int, file_name: str) -> None:
        """Join the parts; `file_name` does not matter here."""
        del file_name
        parts = self._parts[build_id]
        ordered = [parts[number] for number in range(1, total_parts + 1)]
        self._objects[build_id] = await asyncio.to_thread(b"".join, ordered)
        self._parts.pop(build_id, None)

    async def delete(self, build_ids: Sequence[str]) -> None:
        """Delete parts and objects."""
        for build_id in build_ids:
            self._parts.pop(build_id, None)
            self._objects.pop(build_id, None)

    async def close(self) -> None:
        """Delete the parts."""
        self._parts.clear()

    def path(self, build_id: str) -> Path | None:
        """Return None: objects in memory have no path."""
        del build_id
        return None

    def read(self, build_id: str) -> bytes:
        """Read a whole object."""
        return self._objects[build_id]

    def sha256(self, build_id: str) -> str:
        """Return the hash of an object."""
        return hashlib.sha256(self._objects[build_id]).hexdigest()


class _MemoryAttempt(Attempt):
    def __init__(self, parts: dict[int, bytes], part_number: int) -> None:
        super().__init__()
        self._parts = parts
        self._part_number = part_number
        self._blocks: list[bytes] = []

    async def write(self, block: bytes) -> None:
        self._blocks.append(block)
        await self._hash(block)

    async def close(self) -> None:
        self._blocks = [b"".join(self._blocks)]

    def publish(self) -> str:
        (self._parts[self._part_number],) = self._blocks
        return self._digest.hexdigest()

    async def discard(self) -> None:
        self._blocks = []


class DirectoryStore(ObjectStore):
    """Keeps objects as `directory/BUILD_ID/NAME`, and parts until then in `directory/.parts`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._parts_directory = directory / ".parts"
        self._parts_directory.mkdir(parents=True, exist_ok=True)
        self._parts: dict[str, dict[int, Path]] = {}
        self._objects: dict[str, Path] = {}
        self._unfinished: set[Path] = set()
        self._serial = itertools.count(1)
        self._jobs: set[asyncio.Task[Any]] = set()

    async def attempt(self, build_id: str, part_number: int) -> Attempt:
        """Open a separate file for the PUT."""
        final = self._parts_directory / f"{build_id}.{part_number}"
        attempt = _FileAttempt(
            final.with_name(f"{final.name}.{next(self._serial)}"),
            final,
            lambda: self._parts.setdefault(build_id, {}).__setitem__(part_number, final),
        )
        await attempt.open()
        return attempt

    async def assemble(self, build_id: str, total_parts: int, file_name: str) -> None:
        """Concatenate the part files in a worker thread; a lone part is moved."""
        parts = self._parts[build_id]
        ordered = [parts[number] for number in range(1, total_parts + 1)]
        target = self._directory / build_id / safe_name(file_name)
        self._unfinished.add(target)
        await self._in_thread(lambda: _concatenate(ordered, target))
        self._unfinished.discard(target)
        self._objects[build_id] = target
        self._parts.pop(build_id, None)

    async def delete(self, build_ids: Sequence[str]) -> None:
        """Delete part files and objects in a worker thread."""
        parts = [path for name in build_ids for path in self._parts.pop(name, {}).values()]
        objects = [self._objects.pop(name) for name in build_ids if name in self._objects]
        if parts or objects:
            await self._in_thread(lambda: _delete(parts, objects))

    async def close(self) -> None:
        """Wait for the worker threads and delete the part files."""
        while self._jobs:
            await asyncio.wait(self._jobs)
        parts = [path for paths in self._parts.values() for path in paths.values()]
        self._parts.clear()
        # A thread may have finished an object after its request was cancelled.
        await self._in_thread(lambda: _delete(parts, list(self._unfinished)))
        with suppress(OSError):  # another sandbox uses the directory too
            self._parts_directory.rmdir()

    def path(self, build_id: str) -> Path | None:
        """Return the path of an object."""
        return self._objects[build_id]

    def read(self, build_id: str) -> bytes:
        """Read a whole object."""
        return self._objects[build_id].read_bytes()

    def sha256(self, build_id: str) -> str:
        """Return the hash of an object, which is read in blocks."""
        with self._objects[build_id].open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    async def _in_thread(self, work: Callable[[], None]) -> None:
        # A thread cannot be cancelled, so it is shielded, and close() waits for it.
        job = asyncio.create_task(asyncio.to_thread(work))
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)
        await asyncio.shield(job)


class _FileAttempt(Attempt):
    def __init__(self, temporary: Path, final: Path, on_publish: Callable[[], None]) -> None:
        super().__init__()
        self._temporary = temporary
        self._final = final
        self._on_publish = on_publish
        self._file: Any = None

    async def open(self) -> None:
        self._file = await aiofiles.open(self._temporary, "wb")

    async def write(self, block: bytes) -> None:
        # Writing and hashing overlap, as both release the interpreter lock.
        await asyncio.gather(self._file.write(block), self._hash(block))

    async def close(self) -> None:
        await self._file.close()

    def publish(self) -> str:
        self._temporary.replace(self._final)
        self._on_publish()
        return self._digest.hexdigest()

    async def discard(self) -> None:
        await self._file.close()
        self._temporary.unlink(missing_ok=True)


def safe_name(file_name: str) -> str:
    """Turn any string into a non-empty name of a plain file on every system.

    Without separators and leading dots; nor, for Windows, with trailing dots or a device name.
    """
    plain = re.sub(r"[^A-Za-z0-9._+()-]", "_", file_name).strip(".")[-_NAME_LENGTH:].lstrip(".")
    return f"_{plain}" if _DEVICE.fullmatch(plain) else plain or "object"


def _concatenate(parts: list[Path], target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    if len(parts) == 1:
        parts[0].replace(target)
        return
    # Written beside the parts and then moved, so that the object appears whole or not at all.
    unfinished = parts[0].with_name(f"{parts[0].name}.object")
    try:
        with unfinished.open("wb") as out:
            for part in parts:
                with part.open("rb") as source:
                    _append(source, out)
        unfinished.replace(target)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    for part in parts:
        part.unlink()


def _append(source: BinaryIO, out: BinaryIO) -> None:
    if hasattr(os, "copy_file_range"):
        out.flush()
        try:
            while os.copy_file_range(source.fileno(), out.fileno(), _COPY_SIZE):
                pass
        except OSError:  # unsupported by this file system; the rest is copied below
            pass
        source.seek(os.lseek(source.fileno(), 0, os.SEEK_CUR))
    shutil.copyfileobj(source, out, _COPY_SIZE)


def _delete(parts: list[Path], objects: list[Path]) -> None:
    for path in parts:
        path.unlink(missing_ok=True)
    for path in objects:
        path.unlink(missing_ok=True)
        with suppress(OSError):  # the user put other files beside it
            path.parent.rmdir()
