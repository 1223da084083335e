"""Runs the uploads of one client: what they share, resuming, and closing."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager, suppress
from contextvars import ContextVar

from nunu_async.config import Timeouts
from nunu_async.core.attempt import OnAttempt
from nunu_async.core.clock import Clock, time_limit
from nunu_async.core.retry import RetryPolicy
from nunu_async.core.throttle import Throttle
from nunu_async.core.turns import Turns
from nunu_async.endpoints.builds import Builds
from nunu_async.errors import ClientClosed, ConfigError, SourceError
from nunu_async.models.builds import InitiateUpload
from nunu_async.upload.job import BuildFile, UploadedBuild
from nunu_async.upload.journal import JournalState
from nunu_async.upload.journal_store import Journal, JournalStore
from nunu_async.upload.limiter import AdaptiveLimiter
from nunu_async.upload.parts import UploadContext
from nunu_async.upload.pipeline import Upload
from nunu_async.upload.progress import Listener, Reporter
from nunu_async.upload.resume import abandon
from nunu_async.upload.source import Source
from nunu_async.upload.storage import Storage

__all__ = ["Uploader"]

_LOG = logging.getLogger("nunu_async.upload")

# Uploads that begin to end in one iteration of the loop; each takes some tenths of a millisecond.
_ENDED_AT_ONCE = 2

# The done events of the uploads in whose listeners, or other tasks, the current code runs.
_ENCLOSING: ContextVar[tuple[asyncio.Event, ...]] = ContextVar("nunu_async_enclosing", default=())


class Uploader:
    """Uploads files, which share one storage client, its slots and one pool of reader threads.

    Attributes:
        limit: how many uploads, and how many parts of them all, are in flight at once.
    """

    def __init__(
        self,
        builds: Builds,
        storage: Storage,
        *,
        clock: Clock,
        policy: RetryPolicy,
        timeouts: Timeouts,
        concurrency: int,
        executor: Executor,
        shelf: JournalStore,
        max_bandwidth: float | None,
        on_attempt: OnAttempt | None,
    ) -> None:
        self.context = UploadContext(
            builds=builds,
            storage=storage,
            clock=clock,
            policy=policy,
            timeouts=timeouts,
            slots=AdaptiveLimiter(concurrency),
            traffic=Throttle(clock, policy, concurrency),
            endings=Turns(_ENDED_AT_ONCE),
            on_attempt=on_attempt,
        )
        self.limit = concurrency
        self._clock = clock
        self._timeouts = timeouts
        self._executor = executor
        self._shelf = shelf
        # Bytes per second for each of as many uploads as may run.
        self._share = None if max_bandwidth is None else max_bandwidth / concurrency
        # An upload that cannot send anything yet must not reserve a build: its URLs would age, and
        # a fresh one for a single part takes another reservation. Nor may it hold its file open.
        self._admission = asyncio.Semaphore(concurrency)
        # By done event: a listener may upload another file in the same task.
        self._running: dict[asyncio.Event, asyncio.Task[object]] = {}
        # Spreads the cancellations by `close`.
        self._turns = Turns(_ENDED_AT_ONCE)
        # For each of them, what admits one upload at a time that is made in its listener.
        self._nested: dict[asyncio.Event, asyncio.Lock] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    async def upload(self, job: BuildFile, listener: Listener | None = None) -> UploadedBuild:
        """Put one file into build storage.

        When this raises, cancellation included, nothing of the upload is still running, and it was
        cancelled on the server unless it may have completed, or is kept to be resumed.

        Raises: ConfigError in another event loop than the first; ClientClosed.
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
        done = asyncio.Event()
        admission = self._admission_for(_ENCLOSING.get())
        token = _ENCLOSING.set((*_ENCLOSING.get(), done))
        self._running[done] = task
        self._nested[done] = asyncio.Lock()
        try:
            async with admission:
                if self._is_closed():  # while it waited; its own cancellation is still to come
                    raise ClientClosed("the client was closed while uploading: nothing was begun")
                return await self._upload(job, listener)
        except asyncio.CancelledError as error:
            if self._is_closed() and task.uncancel() == 0:  # cancelled by `close` only
                notes = "; ".join(getattr(error, "__notes__", ["nothing was begun"]))
                raise ClientClosed(f"the client was closed while uploading: {notes}") from None
            raise
        finally:
            del self._running[done], self._nested[done]
            done.set()
            with suppress(ValueError):  # dropped, and closed in another context
                _ENCLOSING.reset(token)

    def _admission_for(self, outer: tuple[asyncio.Event, ...]) -> AbstractAsyncContextManager[None]:
        """Return what a new upload, made within the listeners of others, has to acquire.

        Where none is free, a listener's upload uses the admission of the one that it listens to:
        that one does not end before its listener does, so waiting would be a deadlock.
        """
        nested = [self._nested[done] for done in outer if done in self._nested]
        return nested[-1] if nested and self._admission.locked() else self._admission

    def _is_closed(self) -> bool:
        return self._closed

    async def _upload(self, job: BuildFile, listener: Listener | None) -> UploadedBuild:
        began = self._clock.monotonic()
        async with await Source.open(job.path, self._executor) as source:
            request = job.request(source.path.name, source.size, self._share)
            if not job.resume:
                return await self._begin(job, source, request, listener).run(began)
            journal = await self._shelf.open(source, request, verify=job.verify)
            notes: list[str] = []
            try:
                built = await self._resume(job, source, request, listener, began, journal)
                notes = [f"build {built.build_id} is complete"]
                return built
            except BaseException as error:
                notes = getattr(error, "__notes__", [])
                raise
            finally:
                try:
                    await journal.close()
                except asyncio.CancelledError as cancelled:
                    for note in notes:  # this one is what the caller sees
                        cancelled.add_note(note)
                    raise

    async def _resume(
        self,
        job: BuildFile,
        source: Source,
        request: InitiateUpload,
        listener: Listener | None,
        began: float,
        journal: Journal,
    ) -> UploadedBuild:
        """Resume what the journal has of this unchanged file; else start anew, with a journal."""
        for found in await self._shelf.outdated(source):
            try:
                old = await self._shelf.take(found)
            except (SourceError, ConfigError):  # busy, or gone
                continue
            try:
                if old.kept is not None and await self._abandon(old.kept):
                    await old.forget()
            finally:
                await old.close()
        kept = journal.kept
        if kept is not None:
            if kept.head.identity == source.identity:
                upload = self._begin(job, source, request, listener, journal)
                done = await upload.resume(began, kept)
                if done is not None:
                    return done
            if await self._abandon(kept):
                await journal.void()
            else:
                await journal.set_aside()
        return await self._begin(job, source, request, listener, journal).run(began)

    def _begin(
        self,
        job: BuildFile,
        source: Source,
        request: InitiateUpload,
        listener: Listener | None,
        journal: Journal | None = None,
    ) -> Upload:
        return Upload(
            self.context,
            source,
            request,
            job.concurrency,
            Reporter(listener),
            journal,
            verify=job.verify,
        )

    async def _abandon(self, kept: JournalState) -> bool:
        """Abandon an upload that cannot be resumed; False where the server may still have it."""
        end = await abandon(
            self.context.builds,
            kept,
            clock=self._clock,
            within=self._timeouts.cleanup,
            asked=False,
        )
        _LOG.info(
            "build %s was left behind and is of no more use: %s", kept.head.ticket.build_id, end
        )
        return end != "failed"

    async def close(self) -> None:
        """Cancel the uploads that are running, and wait until they have ended.

        A second call waits as well: what comes after it closes the connections that cleaning up
        needs. But it does not wait for its own upload, if a listener makes it during that.
        """
        first, self._closed = not self._closed, True
        own = _ENCLOSING.get()
        ends = [end for end in self._running if first or end not in own]
        if first:
            # The enclosing ones last, as that cancels this very call.
            await self._cancel([end for end in ends if end not in own] + [*own])
        limit = self._timeouts.settle + self._timeouts.cleanup
        with suppress(TimeoutError):  # a listener that closes the client waits for itself
            async with time_limit(self._clock, limit):
                for end in ends:
                    await end.wait()

    async def _cancel(self, ends: Sequence[asyncio.Event]) -> None:
        """Cancel these uploads, a few per iteration of the loop; at once if this is cancelled."""
        left = deque(ends)
        cancelled: set[asyncio.Task[object]] = set()
        try:
            while left:
                await self._turns.ready()
                self._cancel_one(left.popleft(), cancelled)
        finally:
            while left:
                self._cancel_one(left.popleft(), cancelled)

    def _cancel_one(self, end: asyncio.Event, cancelled: set[asyncio.Task[object]]) -> None:
        # One that has ended has returned its task to the caller; two may be in the same task.
        task = self._running.get(end)
        if task is not None and task not in cancelled:
            cancelled.add(task)
            task.cancel()
