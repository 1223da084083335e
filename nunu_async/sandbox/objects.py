"""Storage of bytes: parts while they are uploaded, objects once they are assembled."""

import asyncio
import hashlib
import io
import itertools
import os
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

_COPY_SIZE = 16 * 1024 * 1024
# A thread hop costs about 50 us, MD5 about 1.6 us per KiB: below this, hash in the event loop.
_HASH_INLINE = 64 * 1024
_NAME_LENGTH = 100  # file systems allow 255, but Windows allows 260 for a whole path
# Windows reserves these names for devices, with any extension.
_DEVICE = re.compile(r"(CON|PRN|AUX|NUL|(COM|LPT)[0-9])(\..*)?", re.IGNORECASE)

T = TypeVar("T")

_Stored = bytes | Path
"""A part or an object: its bytes if kept in memory, otherwise the path of its file."""


class Attempt:
    """One PUT of one part; its data is invisible until `publish`."""

    def __init__(
        self, parts: dict[int, _Stored], part_number: int, temporary: Path | None = None
    ) -> None:
        self._parts = parts
        self._part_number = part_number
        self._temporary = temporary
        self._file: BinaryIO = io.BytesIO() if temporary is None else temporary.open("wb")
        self._digest = hashlib.md5(usedforsecurity=False)

    async def write(self, block: bytes) -> None:
        """Append a block."""
        if len(block) <= _HASH_INLINE:
            self._write(block)
        else:
            await _in_thread(lambda: self._write(block))

    def publish(self) -> str:
        """Store the data as the part, replacing any earlier one; return the unquoted ETag.

        Never yields to the event loop, so that a check made just before still holds.
        """
        stored: _Stored
        if self._temporary is None:
            stored = cast("io.BytesIO", self._file).getvalue()
        else:
            self._file.close()
            stored = self._temporary.replace(self._temporary.with_suffix(""))
        self._parts[self._part_number] = stored
        return self._digest.hexdigest()

    def discard(self) -> None:
        """Delete the written data unless it was published."""
        self._file.close()
        if self._temporary is not None:
            self._temporary.unlink(missing_ok=True)

    def _write(self, block: bytes) -> None:
        self._file.write(block)
        self._digest.update(block)


class ObjectStore:
    """Parts and objects of all builds, keyed by build id, in memory or in a directory.

    In a directory, objects are `directory/BUILD_ID/NAME`; parts are in `directory/.parts`.
    """

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._parts: dict[str, dict[int, _Stored]] = {}
        self._objects: dict[str, _Stored] = {}
        self._serial = itertools.count(1)

    def open(self) -> None:
        """Create the directory, if one is used. Raises: OSError."""
        if self._directory is not None:
            (self._directory / ".parts").mkdir(parents=True, exist_ok=True)

    def attempt(self, build_id: str, part_number: int) -> Attempt:
        """Begin a PUT. Raises: OSError."""
        temporary = None
        if self._directory is not None:
            name = f"{build_id}.{part_number}.{next(self._serial)}"
            temporary = self._directory / ".parts" / name
        return Attempt(self._parts.setdefault(build_id, {}), part_number, temporary)

    async def assemble(self, build_id: str, total_parts: int, file_name: str) -> None:
        """Join parts 1 to `total_parts` into the object, and delete the parts.

        Raises: OSError on failure; the parts are then kept.
        """
        parts = [self._parts[build_id][number] for number in range(1, total_parts + 1)]
        if self._directory is None:
            in_memory = cast("list[bytes]", parts)
            self._objects[build_id] = await _in_thread(lambda: b"".join(in_memory))
        else:
            files = cast("list[Path]", parts)
            target = self._directory / build_id / safe_name(file_name)
            try:
                await _in_thread(lambda: _concatenate(files, target))
            except asyncio.CancelledError:
                _delete_object(target)  # the build is not completed
                raise
            self._objects[build_id] = target
        del self._parts[build_id]

    async def delete(self, build_ids: Sequence[str]) -> None:
        """Delete parts and objects."""
        parts = [part for name in build_ids for part in self._parts.pop(name, {}).values()]
        objects = [self._objects.pop(name) for name in build_ids if name in self._objects]
        if self._directory is not None and (parts or objects):
            await _in_thread(lambda: _delete(parts, objects))

    async def close(self) -> None:
        """Delete parts that were never assembled; keep the objects."""
        await self.delete(list(self._parts))
        if self._directory is not None:
            with suppress(OSError):  # another sandbox may be using the directory
                (self._directory / ".parts").rmdir()

    def path(self, build_id: str) -> Path | None:
        """Return the path of an object; None if in memory. Raises: KeyError if not found."""
        stored = self._objects[build_id]
        return stored if isinstance(stored, Path) else None

    def read(self, build_id: str) -> bytes:
        """Read a whole object. Raises: KeyError if not found."""
        with self._open(build_id) as file:
            return file.read()

    def sha256(self, build_id: str) -> str:
        """Return the SHA-256 of an object in hex, at any size. Raises: KeyError if not found."""
        with self._open(build_id) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def _open(self, build_id: str) -> io.BytesIO | io.BufferedReader:
        stored = self._objects[build_id]
        return stored.open("rb") if isinstance(stored, Path) else io.BytesIO(stored)


def safe_name(file_name: str) -> str:
    """Turn any string into a non-empty file name that is valid on every system.

    The result has no separators, leading or trailing dots, and is no Windows device name.
    """
    plain = re.sub(r"[^A-Za-z0-9._+()-]", "_", file_name).strip(".")[-_NAME_LENGTH:].lstrip(".")
    return f"_{plain}" if _DEVICE.fullmatch(plain) else plain or "object"


async def _in_thread(work: Callable[[], T]) -> T:
    """Run `work` in a thread; if the caller is cancelled, wait for the thread first."""
    job = asyncio.create_task(asyncio.to_thread(work))
    try:
        return await asyncio.shield(job)
    except asyncio.CancelledError:
        await asyncio.wait({job})
        raise


def _concatenate(parts: list[Path], target: Path) -> None:
    """Append all parts to the first, then move it to `target`, so the object appears atomically."""
    first, *others = parts
    size = first.stat().st_size
    target.parent.mkdir(exist_ok=True)
    try:
        with first.open("ab") as out:
            for part in others:
                with part.open("rb") as source:
                    shutil.copyfileobj(source, out, _COPY_SIZE)
        first.replace(target)
    except BaseException:
        os.truncate(first, size)
        raise
    for part in others:
        part.unlink()


def _delete(parts: Iterable[_Stored], objects: Iterable[_Stored]) -> None:
    for path in cast("Iterable[Path]", parts):
        path.unlink(missing_ok=True)
    for path in cast("Iterable[Path]", objects):
        _delete_object(path)


def _delete_object(path: Path) -> None:
    path.unlink(missing_ok=True)
    with suppress(OSError):  # the user may have added other files
        path.parent.rmdir()
