"""Runs the uploads of one client: shared limits, resuming, and closing."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import TypeAlias

import attrs

from nunu_async.core.cancellation import first_of
from nunu_async.core.clock import time_limit
from nunu_async.errors import ClientClosed, ConfigError, InputError, NunuError, SourceError
from nunu_async.upload.job import BuildFile, UploadedBuild, UploadResult
from nunu_async.upload.journal import JournalState
from nunu_async.upload.journal_store import Journal
from nunu_async.upload.parts import UploadContext
from nunu_async.upload.paths import path_key
from nunu_async.upload.pipeline import Upload, finish_after
from nunu_async.upload.progress import Listener, Reporter, UploadEvent
from nunu_async.upload.source import Source

__all__ = ["FileListener", "Uploader", "check"]

_LOG = logging.getLogger("nunu_async.upload")

FileListener: TypeAlias = Callable[[BuildFile, UploadEvent], Awaitable[None] | None]

# The uploads that the current code runs inside of, in a listener or another of their tasks.
_ENCLOSING: ContextVar[tuple[_Running, ...]] = ContextVar("nunu_async_enclosing", default=())


@attrs.frozen(eq=False)
class _Running:
    """An upload that is running; its listener may upload another file in the same task."""

    task: asyncio.Task[object]
    done: asyncio.Event = attrs.field(factory=asyncio.Event)
    nested: asyncio.Lock = attrs.field(factory=asyncio.Lock)
    """Admits one upload at a time from those that the listener starts."""


class Uploader:
    """Uploads files with one storage client, its slots and one pool of reader threads."""

    def __init__(self, context: UploadContext) -> None:
        self.context = context
        self._clock = context.clock
        # Bytes per second for each upload if the maximum number of uploads runs.
        rate = context.max_bandwidth
        self._share = None if rate is None else rate / context.concurrency
        # An upload that cannot send anything yet must not reserve a build: its URLs would age, and
        # a fresh URL for a single-part upload needs a new reservation. Nor may it keep its file
        # open.
        self._admission = asyncio.Semaphore(context.concurrency)
        self._running: dict[_Running, None] = {}  # in the order they began
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    async def upload(self, job: BuildFile, listener: Listener | None = None) -> UploadedBuild:
        """Upload one file to build storage.

        When this raises or is cancelled, nothing of the upload is still running, and it was
        cancelled on the server unless it may have completed or is kept to be resumed.

        Raises: ConfigError if called in a different event loop than the first call; ClientClosed.
        """
        if self._is_closed():
            raise ClientClosed("this client is closed; make a new one")
        loop = asyncio.get_running_loop()
        if self._loop not in (None, loop):  # or it would wait for ever for a slot of the other loop
            raise ConfigError(
                "this client was first used in another event loop; make one for each loop"
            )
        self._loop = loop
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - for the type checker: we are in a coroutine
        admission = self._admission_for(_ENCLOSING.get())
        running = _Running(task)
        token = _ENCLOSING.set((*_ENCLOSING.get(), running))
        self._running[running] = None
        try:
            async with admission:
                if self._is_closed():  # closed while this waited, but not cancelled yet
                    raise ClientClosed("the client was closed while uploading: nothing was begun")
                return await self._upload(job, listener)
        except asyncio.CancelledError as error:
            if self._is_closed() and task.uncancel() == 0:  # cancelled by `close` only
                notes = "; ".join(getattr(error, "__notes__", ["nothing was begun"]))
                raise ClientClosed(f"the client was closed while uploading: {notes}") from None
            raise
        finally:
            del self._running[running]
            running.done.set()
            with suppress(ValueError):  # coroutine dropped, and closed in another context
                _ENCLOSING.reset(token)

    async def upload_all(
        self,
        files: Sequence[BuildFile],
        *,
        fail_fast: bool,
        on_progress: FileListener | None,
        on_result: Callable[[UploadResult], None] | None,
    ) -> tuple[UploadResult, ...]:
        """Upload `files`; return a result for each, in the same order.

        A failed upload does not stop the others unless `fail_fast`. When this raises, nothing is
        being sent any more, as with `upload`.

        Raises: the first failure with `fail_fast`; any error of a listener.
        """
        results: dict[int, UploadResult] = {}
        # One iterator shared by all workers: files are started in order, and none twice.
        waiting = iter(enumerate(files))

        async def work() -> None:
            for number, file in waiting:
                listener = None if on_progress is None else partial(on_progress, file)
                try:
                    result = UploadResult(file=file, build=await self.upload(file, listener))
                except (NunuError, asyncio.CancelledError) as error:
                    result = UploadResult(file=file, error=error)
                results[number] = result
                if on_result is not None:
                    on_result(result)
                if result.error is not None and (
                    fail_fast or isinstance(result.error, asyncio.CancelledError)
                ):
                    raise result.error

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self.context.concurrency, len(files))):
                    group.create_task(work())
        except BaseExceptionGroup as failures:
            first = first_of(failures)
        else:
            if len(results) < len(files):
                raise asyncio.CancelledError  # from outside: the sending tasks were cancelled
            return tuple(results[number] for number in range(len(files)))
        # Outside the `except`, so that the error does not keep the group as its context.
        raise first

    def _admission_for(self, outer: tuple[_Running, ...]) -> AbstractAsyncContextManager[None]:
        """Return the lock that a new upload must acquire; `outer` are the uploads around it.

        If no slot is free, an upload started in a listener uses the `nested` lock of the listener's
        own upload: that upload does not end before its listener, so waiting would be a deadlock.
        """
        nested = [one.nested for one in outer if one in self._running]
        return nested[-1] if nested and self._admission.locked() else self._admission

    def _is_closed(self) -> bool:
        return self._closed

    async def _upload(self, job: BuildFile, listener: Listener | None) -> UploadedBuild:
        began = self._clock.monotonic()
        async with await Source.open(job.path, self.context.executor) as source:
            request = job.request(source.path.name, source.size, self._share)

            def prepared(journal: Journal | None = None) -> Upload:
                return Upload(
                    context=self.context,
                    source=source,
                    request=request,
                    reporter=Reporter(listener),
                    began=began,
                    concurrency=job.concurrency,
                    verify=job.verify,
                    journal=journal,
                )

            if not job.resume:
                return await prepared().run()
            journal = await self.context.journals.open(source, request, verify=job.verify)
            try:
                await self._abandon_outdated(source)
                return await self._resume(source, journal, partial(prepared, journal))
            except BaseException as error:
                await finish_after(error, journal.close())
                raise

    async def _abandon_outdated(self, source: Source) -> None:
        """Abandon the uploads of earlier states of the file."""
        for found in await self.context.journals.outdated(source):
            try:
                old = await self.context.journals.take(found)
            except (SourceError, ConfigError):  # busy, or gone
                continue
            try:
                if old.kept is not None and await self._abandon(old.kept):
                    await old.forget()
            finally:
                await old.close()

    async def _resume(
        self, source: Source, journal: Journal, prepared: Callable[[], Upload]
    ) -> UploadedBuild:
        """Resume the journal's upload if the file is unchanged; else start a new one."""
        kept = journal.kept
        if kept is not None:
            if kept.head.identity == source.identity:
                done = await prepared().resume(kept)
                if done is not None:
                    return done
            if await self._abandon(kept):
                await journal.void()
            else:
                await journal.set_aside()
        return await prepared().run()

    async def _abandon(self, kept: JournalState) -> bool:
        """Abandon an upload that cannot be resumed; False if the server may still have it."""
        end = await self.context.abandon(kept)
        _LOG.info(
            "build %s was left behind and is of no more use: %s", kept.head.ticket.build_id, end
        )
        return end != "failed"

    async def close(self) -> None:
        """Cancel the uploads that are running, and wait until they have ended.

        A second call waits too, as its caller will then close the connections that cleanup needs.
        But a call from a listener does not wait for the listener's own upload.
        """
        first, self._closed = not self._closed, True
        own = _ENCLOSING.get()
        running = [one for one in self._running if first or one not in own]
        if first:
            # Enclosing uploads last: cancelling them cancels this call, too.
            await self._cancel([one for one in running if one not in own] + [*own])
        limit = self.context.timeouts.settle + self.context.timeouts.cleanup
        with suppress(TimeoutError):  # a listener that closes the client waits for itself
            async with time_limit(self._clock, limit):
                for one in running:
                    await one.done.wait()

    async def _cancel(self, uploads: Iterable[_Running]) -> None:
        """Cancel uploads, a few per event loop iteration; all at once if this is cancelled."""
        cancelled: set[asyncio.Task[object]] = set()

        def cancel(one: _Running) -> None:
            # The task of a finished upload is the caller's again; two uploads may share a task.
            if one in self._running and one.task not in cancelled:
                cancelled.add(one.task)
                one.task.cancel()

        left = deque(uploads)
        try:
            while left:
                await self.context.endings.ready()
                cancel(left.popleft())
        finally:
            for one in left:
                cancel(one)


def check(files: Sequence[BuildFile]) -> None:
    """Check all files before anything is sent.

    Raises: InputError if a value exceeds a documented limit, or a file is given twice; SourceError
    for a relative path if the working directory no longer exists.
    """
    seen: set[tuple[str, str]] = set()
    for file in files:
        try:
            file.request(Path(file.path).name, 1)
        except InputError as error:
            error.add_note(f"of the file {os.fspath(file.path)!a}")
            raise
        # The same file under another name is another build.
        key = (path_key(file.path), file.name)
        if key in seen:
            raise InputError("files", f"{os.fspath(file.path)!a} is given twice under one name")
        seen.add(key)
