"""Wire the sandbox together and give it a lifetime."""

import asyncio
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

from nunu_async.sandbox.api import Api
from nunu_async.sandbox.faults import Fault, Faults
from nunu_async.sandbox.journal import Journal
from nunu_async.sandbox.listener import Listener, Sleep
from nunu_async.sandbox.objects import DirectoryStore, MemoryStore, ObjectStore
from nunu_async.sandbox.state import Depot, Upload
from nunu_async.sandbox.storage import Storage

_PROJECT = re.compile(r"[A-Za-z0-9_-]+")


class Sandbox:
    """A local nunu.ai: use it with `async with`, or call `start` and `close`.

    Sizes are bytes, times seconds; `port` and `storage_port` 0 take free ports. Uploads become
    multipart from `multipart_from` bytes on unless they say otherwise. `capacity` None means no
    quota, `directory` None keeps all bytes in memory. Objects in a directory outlive the sandbox.

    Raises: ValueError for an impossible setting.
    """

    def __init__(  # noqa: PLR0913 - keyword-only settings, each with a default
        self,
        *,
        api_key: str = "nunu_sandbox_key_0123456789abcdef",
        project_id: str = "sandbox-project",
        part_size: int = 104_857_600,
        multipart_from: int = 3_000_000_000,
        capacity: int | None = None,
        max_file_size: int = 5 * 1024**4,
        url_life: float = 3600.0,
        directory: str | os.PathLike[str] | None = None,
        faults: Iterable[Fault] = (),
        host: str = "127.0.0.1",
        port: int = 0,
        storage_port: int = 0,
        now: Callable[[], float] = time.time,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        if not api_key:
            raise ValueError("api_key must not be empty")
        if not _PROJECT.fullmatch(project_id):
            raise ValueError(f"project_id {project_id!r} must be letters, digits, - and _")
        for name, value in (
            ("part_size", part_size),
            ("max_file_size", max_file_size),
            ("url_life", url_life),
        ):
            if value <= 0:
                raise ValueError(f"{name} must be more than 0, not {value}")
        if capacity is not None and capacity < 0:
            raise ValueError(f"capacity must be 0 or more bytes, not {capacity}")
        self.api_key = api_key
        self.project_id = project_id
        self.journal = Journal()
        self._faults = Faults(faults)
        self._depot = Depot(
            project_id=project_id,
            part_size=part_size,
            multipart_from=multipart_from,
            capacity=capacity,
            max_file_size=max_file_size,
        )
        self._directory = None if directory is None else Path(directory)
        self._url_life = url_life
        self._host = host
        self._ports = (port, storage_port)
        self._bound: tuple[int, int] | None = None
        self._now = now
        self._sleep = sleep
        self._objects: ObjectStore | None = None
        self._listeners: list[Listener] = []

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def base_url(self) -> str:
        """The API's URL, without a slash at the end. Raises: RuntimeError before the start."""
        return f"{self._origin(0)}/api/v1"

    @property
    def storage_url(self) -> str:
        """The storage origin's URL. Raises: RuntimeError before the start."""
        return self._origin(1)

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that point a client here."""
        return {
            "NUNU_BASE_URL": self.base_url,
            "NUNU_API_KEY": self.api_key,
            "NUNU_PROJECT_ID": self.project_id,
        }

    @property
    def faults(self) -> tuple[Fault, ...]:
        """The faults in the order they were added."""
        return self._faults.all

    @property
    def uploads(self) -> Mapping[str, Upload]:
        """Every upload by build id, oldest first; those whose time is over are expired."""
        self._depot.sweep(self._now())
        return MappingProxyType(self._depot.uploads)

    def add_fault(self, fault: Fault) -> None:
        """Add a fault; it counts requests from now on."""
        self._faults.add(fault)

    def read_object(self, build_id: str) -> bytes:
        """Read a completed object whole. Raises: KeyError when there is none."""
        return self._stored(build_id).read(build_id)

    def object_path(self, build_id: str) -> Path | None:
        """Tell where a completed object lies; None in memory. Raises: KeyError without one."""
        return self._stored(build_id).path(build_id)

    def object_sha256(self, build_id: str) -> str:
        """Hash a completed object, as hex. Raises: KeyError when there is none."""
        return self._stored(build_id).sha256(build_id)

    async def start(self) -> None:
        """Listen on both ports.

        Raises: OSError when a port is taken, RuntimeError on a second start; one object has one
        life.
        """
        if self._objects is not None:
            raise RuntimeError("sandbox was already started")
        self._objects = (
            MemoryStore() if self._directory is None else DirectoryStore(self._directory)
        )
        secret = secrets.token_bytes(32)
        api = Api(
            depot=self._depot,
            objects=self._objects,
            api_key=self.api_key,
            secret=secret,
            url_life=self._url_life,
            storage_url=lambda: self.storage_url,
            now=self._now,
        )
        storage = Storage(depot=self._depot, objects=self._objects, secret=secret, now=self._now)
        self._listeners = [
            Listener(room, journal=self.journal, faults=self._faults, sleep=self._sleep)
            for room in (api, storage)
        ]
        try:
            port, storage_port = [
                await listener.start(self._host, wanted)
                for listener, wanted in zip(self._listeners, self._ports, strict=True)
            ]
        except BaseException:
            await self.close()
            raise
        self._bound = (port, storage_port)

    async def close(self) -> None:
        """End open and stalled requests, stop listening, delete unfinished parts.

        Completed objects stay readable. Closing twice, or before the start, does nothing.
        """
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            await listener.close()
        if listeners and self._objects is not None:
            await self._objects.close()

    def _origin(self, index: int) -> str:
        if self._bound is None:
            raise RuntimeError("sandbox was not started")
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._bound[index]}"

    def _stored(self, build_id: str) -> ObjectStore:
        upload = self._depot.uploads[build_id]
        if self._objects is None or not upload.is_stored:
            raise KeyError(build_id)
        return self._objects
