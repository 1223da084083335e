"""Initiate, sign late, send concurrently under one semaphore, complete; or cancel."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import suppress
from typing import Final

import attrs

from nunu_async.config import Timeouts
from nunu_async.core.cancellation import finish
from nunu_async.core.clock import Clock, time_limit
from nunu_async.core.request import Flight, Replay
from nunu_async.core.retry import Attempts, RetryPolicy, is_signature_refused
from nunu_async.core.traffic import Traffic
from nunu_async.endpoints.builds import Builds
from nunu_async.errors import (
    ClientClosed,
    DecodeError,
    InputError,
    NotFound,
    NunuError,
    StorageError,
    TransportError,
    UploadError,
)
from nunu_async.models.builds import (
    BuildDetails,
    DeletionPolicy,
    InitiateUpload,
    MultipartTicket,
    PartUrl,
    Platform,
    SinglePartTicket,
    Ticket,
)
from nunu_async.upload import journal as journals
from nunu_async.upload.completion import Completion
from nunu_async.upload.plan import MULTIPART_ABOVE, Part, Plan, batch_size, minutes_to_ask
from nunu_async.upload.platforms import infer_platform
from nunu_async.upload.progress import (
    BytesSent,
    Cancelled,
    Completed,
    Completing,
    Kept,
    Ledger,
    Listener,
    PartDone,
    Reporter,
    Retrying,
    UploadEvent,
    UploadStarted,
)
from nunu_async.upload.resume import (
    give_up,
    is_forgotten,
    is_resumable,
    kept_note,
    standing,
    unknown,
    was_built,
)
from nunu_async.upload.shelf import Journal, Shelf
from nunu_async.upload.source import Source
from nunu_async.upload.storage import Storage

__all__ = ["UploadJob", "UploadedBuild", "Uploader"]

_LOG = logging.getLogger("nunu_async.upload")

# Presigned URLs last "about an hour"; one older than this is replaced before it is used.
_URL_LIFE: Final = 0.8 * 3600
# Object storage takes one write a second to one key; a single-part body is one key.
_SINGLE_PART_PAUSE: Final = 1.0
# A server that answers a request for URLs without some of them is asked again so often.
_SIGN_ROUNDS: Final = 3


@attrs.frozen(kw_only=True)
class UploadJob:
    """One file to be uploaded, and how."""

    path: str | os.PathLike[str]
    name: str
    platform: Platform | None = None
    description: str | None = None
    tags: Sequence[str] = ()
    multipart: bool | None = None
    auto_delete: bool = False
    deletion_policy: DeletionPolicy | None = None
    upload_timeout: int | None = None
    details: BuildDetails | None = None
    concurrency: int = 4
    verify: bool = False
    resume: bool = False

    def __attrs_post_init__(self) -> None:
        if type(self.concurrency) is not int or self.concurrency < 1:
            raise InputError("concurrency", f"must be at least 1, not {self.concurrency!r}")

    def request(self, file_name: str, size: int) -> InitiateUpload:
        """Return what is asked of the server for a file of this name and size."""
        multipart = size > MULTIPART_ABOVE if self.multipart is None else self.multipart
        minutes = self.upload_timeout
        if minutes is None:
            minutes = minutes_to_ask(size, multipart=multipart, resume=self.resume)
        return InitiateUpload(
            name=self.name,
            file_name=file_name,
            file_size=size,
            platform=self.platform or infer_platform(file_name),
            description=self.description,
            multipart=multipart,
            auto_delete=self.auto_delete,
            deletion_policy=self.deletion_policy,
            upload_timeout=minutes,
            tags=self.tags,
            details=self.details,
        )


@attrs.frozen(kw_only=True)
class UploadedBuild:
    """A build that is in storage."""

    build_id: str
    object_key: str
    upload_type: str
    """``single-part`` or ``multipart``."""
    size: int
    """Bytes."""
    parts: int
    seconds: float
    """From opening the file to the server's confirmation."""
    verified: int | None = None
    """Parts that storage has with the MD5 of what was sent; fewer than `parts` where an ETag is no
    MD5, and None if `verify` was not asked for."""


class Uploader:
    """Uploads files; what they share is one storage, one semaphore and one pool of readers."""

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
        shelf: Shelf,
    ) -> None:
        self.builds = builds
        self.storage = storage
        self.clock = clock
        self.policy = policy
        self.timeouts = timeouts
        self.slots = asyncio.Semaphore(concurrency)
        self.executor = executor
        self.traffic = Traffic(clock, policy, concurrency)
        self.shelf = shelf
        # An upload that could send nothing yet must not reserve a build either: its URLs would
        # age, and a single-part URL cannot be signed anew. Nor hold its file open.
        self._admission = asyncio.Semaphore(concurrency)
        self._running: dict[asyncio.Task[object], asyncio.Event] = {}
        self._closed = False

    async def upload(self, job: UploadJob, listener: Listener | None = None) -> UploadedBuild:
        """Put one file into build storage.

        When this raises, cancellation included, nothing of the upload is still running, and the
        server was told to forget it unless it may have completed.
        """
        if self._is_closed():
            raise ClientClosed("this client is closed; make a new one")
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - for the type checker: we are in a coroutine
        over = asyncio.Event()
        self._running[task] = over
        try:
            async with self._admission:
                return await self._upload(job, listener)
        except asyncio.CancelledError as error:
            if (
                self._is_closed() and task.uncancel() == 0
            ):  # cancelled by `close`, and by nobody else
                told = "; ".join(getattr(error, "__notes__", ["nothing was begun"]))
                raise ClientClosed(f"the client was closed while uploading: {told}") from None
            raise
        finally:
            del self._running[task]
            over.set()

    def _is_closed(self) -> bool:
        return self._closed

    async def _upload(self, job: UploadJob, listener: Listener | None) -> UploadedBuild:
        began = self.clock.monotonic()
        async with await Source.open(job.path, self.executor) as source:
            request = job.request(source.path.name, source.size)
            if not job.resume:
                upload = _Upload(
                    self, source, request, job.concurrency, Reporter(listener), verify=job.verify
                )
                return await upload.run(began)
            journal = await self.shelf.open(source, request)
            try:
                return await self._resume(job, source, request, listener, began, journal)
            finally:
                await journal.close()

    async def _resume(
        self,
        job: UploadJob,
        source: Source,
        request: InitiateUpload,
        listener: Listener | None,
        began: float,
        journal: Journal,
    ) -> UploadedBuild:
        """Go on with what the journal has of this very file; else start, and keep a journal."""
        for old in await self.shelf.outdated(source):
            try:
                if old.kept is not None and await self._give_up(old.kept):
                    await old.forget()
            finally:
                await old.close()
        kept = journal.kept
        if kept is not None:
            if kept.head.identity == source.identity:
                reporter = Reporter(listener)
                upload = _Upload(
                    self, source, request, job.concurrency, reporter, journal, verify=job.verify
                )
                done = await upload.go_on(began, kept)
                if done is not None:
                    return done
            if await self._give_up(kept):
                await journal.void()
        upload = _Upload(
            self,
            source,
            request,
            job.concurrency,
            Reporter(listener),
            journal,
            verify=job.verify,
        )
        return await upload.run(began)

    async def _give_up(self, kept: journals.Kept) -> bool:
        """Let go of an upload of which nothing can be used; False where the server may have it."""
        end = await give_up(self.builds, kept, clock=self.clock, within=self.timeouts.cleanup)
        _LOG.info(
            "build %s was left behind and is of no more use: %s", kept.head.ticket.build_id, end
        )
        return end != "failed"

    async def close(self) -> None:
        """End the uploads that are under way, as a cancellation would, and wait for their ends."""
        if self._closed:  # also a listener of an upload that is being ended
            return
        self._closed = True
        ends = list(self._running.values())
        for task in list(self._running):
            task.cancel()
        limit = self.timeouts.settle + self.timeouts.cleanup
        with suppress(TimeoutError):  # a listener that closes the client waits for itself
            async with time_limit(self.clock, limit):
                for end in ends:
                    await end.wait()


@attrs.frozen
class _Signed:
    part: Part
    address: PartUrl
    received: float
    """Monotonic seconds."""


class _Upload:
    """One upload from initiate to its end."""

    def __init__(
        self,
        uploader: Uploader,
        source: Source,
        request: InitiateUpload,
        concurrency: int,
        reporter: Reporter,
        journal: Journal | None = None,
        *,
        verify: bool = False,
    ) -> None:
        self._journal = journal
        self._resumed = False
        self._builds = uploader.builds
        self._storage = uploader.storage
        self._clock = uploader.clock
        self._policy = uploader.policy
        self._timeouts = uploader.timeouts
        self._slots = uploader.slots
        self._traffic = uploader.traffic
        self._source = source
        self._request = request
        self._concurrency = concurrency
        self._reporter = reporter
        self._verify = verify
        self._verified = 0
        self._ledger = Ledger()
        self._completion = Completion(
            uploader.builds,
            clock=uploader.clock,
            policy=uploader.policy,
            timeouts=uploader.timeouts,
            on_retry=lambda attempt, delay, why: self._retrying(None, attempt, delay, why),
        )

    async def go_on(self, began: float, kept: journals.Kept) -> UploadedBuild | None:
        """Send what is missing, and complete; None when the server does not know the upload."""
        self._resumed = True
        try:
            return await self.run(began, kept)
        except NunuError as error:
            if not (is_forgotten(error) and self._completion.may_cancel):
                raise
        built = await was_built(
            self._builds, kept, clock=self._clock, within=self._timeouts.complete
        )
        return await self._end(kept.head.ticket, began) if built else None

    async def run(self, began: float, kept: journals.Kept | None = None) -> UploadedBuild:
        ticket = await self._initiate() if kept is None else kept.head.ticket
        try:
            plan = self._plan(ticket)
            kind = "multipart" if isinstance(ticket, MultipartTicket) else "single-part"
            if kept is not None:
                self._take_up(plan, kept)
            elif self._journal is not None and isinstance(ticket, MultipartTicket):
                await self._journal.begin(ticket)
            self._reporter.tell(
                UploadStarted(
                    build_id=ticket.build_id,
                    upload_type=kind,
                    size=plan.size,
                    parts=plan.total_parts,
                    done=len(self._ledger.etags),
                )
            )
            if kept is not None:
                self._tell_sent()
            await self._reporter.drain()
            if kept is None or not await self._is_built(plan, kept):
                if len(self._ledger.etags) < plan.total_parts:
                    await self._send_parts(ticket, plan)
                await self._source.check()
                self._reporter.tell(Completing())
                await self._reporter.drain()
                parts = plan.completion(self._ledger.etags)
                if (journal := self._journal_of(ticket)) is not None:
                    await journal.completing()
                await self._completion.run(ticket, plan.size, parts if kind == "multipart" else ())
        except BaseException as error:
            await finish(self._clean_up(ticket, error))
            raise
        return await self._end(ticket, began)

    def _take_up(self, plan: Plan, kept: journals.Kept) -> None:
        for number, etag in kept.etags.items():
            self._ledger.finish(number, plan.part(number).length, etag)
        told = "going on with build %s: %d of %d parts are there"
        _LOG.info(told, kept.head.ticket.build_id, len(kept.etags), plan.total_parts)

    def _journal_of(self, ticket: Ticket) -> Journal | None:
        """Return the journal if this very upload is in it; a disk may have refused it."""
        journal = self._journal
        return journal if journal is not None and journal.build_id == ticket.build_id else None

    async def _forget_journal(self, ticket: Ticket) -> None:
        if (journal := self._journal_of(ticket)) is not None:
            await journal.forget()

    async def _is_built(self, plan: Plan, kept: journals.Kept) -> bool:
        """Settle a complete that an earlier call may have sent, before anything else is."""
        if not kept.completing and len(kept.etags) < plan.total_parts:
            return False
        found = await standing(self._builds, kept.head.ticket, plan.size)
        if found == "unknown" and kept.completing:
            self._completion.may_cancel = False
            raise unknown(kept.head.ticket)
        return found == "built"

    async def _end(self, ticket: Ticket, began: float) -> UploadedBuild:
        plan = self._plan(ticket)
        # To its end, whoever cancels: a journal that is left would speak of an upload that is over.
        await finish(self._forget_journal(ticket))
        kind = "multipart" if isinstance(ticket, MultipartTicket) else "single-part"
        seconds = self._clock.monotonic() - began
        self._reporter.tell(Completed(build_id=ticket.build_id, seconds=seconds))
        await self._reporter.drain()
        return UploadedBuild(
            build_id=ticket.build_id,
            object_key=ticket.object_key,
            upload_type=kind,
            size=plan.size,
            parts=plan.total_parts,
            seconds=seconds,
            verified=self._verified if self._verify else None,
        )

    async def _initiate(self) -> Ticket:
        flight = Flight()
        task = asyncio.ensure_future(self._builds.initiate_upload(self._request, flight=flight))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await finish(self._forget(task, flight))
            raise
        except DecodeError as error:
            if isinstance(error.leftover, SinglePartTicket | MultipartTicket):
                await finish(self._clean_up(error.leftover, error))
            raise

    async def _forget(self, task: asyncio.Task[Ticket], flight: Flight) -> None:
        """Free what an initiate under way may still reserve; nobody else ever could."""
        flight.last = True
        if not flight.on_wire:  # queued, or pausing; or just answered, and this does nothing
            task.cancel()
        try:
            async with time_limit(self._clock, self._timeouts.settle):
                ticket = await task
        except (NunuError, TimeoutError, asyncio.CancelledError):
            return  # nothing was reserved, or nobody can know it
        await self._cancel_on_server(ticket)

    def _plan(self, ticket: Ticket) -> Plan:
        size = self._source.size
        if isinstance(ticket, MultipartTicket):
            return Plan(size, ticket.part_size, ticket.total_parts)
        return Plan(size, size, 1)

    async def _send_parts(self, ticket: Ticket, plan: Plan) -> None:
        batch = batch_size(self._concurrency)
        # One batch waits here while another is being asked for: signed late, sent soon.
        ready: asyncio.Queue[_Signed | None] = asyncio.Queue(batch)
        senders = min(self._concurrency, plan.total_parts - len(self._ledger.etags))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._feed(ticket, plan, batch, ready, senders))
                group.create_task(self._reporter.pump())
                await asyncio.wait(
                    [group.create_task(self._send(ticket, plan, ready)) for _ in range(senders)]
                )
                self._reporter.end()
                return
        except BaseExceptionGroup as failures:
            first = _first(failures)
        # Out here, so that the group does not hang on to the error as its context.
        raise first

    async def _feed(
        self,
        ticket: Ticket,
        plan: Plan,
        batch: int,
        ready: asyncio.Queue[_Signed | None],
        senders: int,
    ) -> None:
        for numbers in plan.batches(batch, self._ledger.etags):
            for signed in await self._sign(ticket, plan, numbers):
                await ready.put(signed)
        for _ in range(senders):
            await ready.put(None)

    async def _sign(self, ticket: Ticket, plan: Plan, numbers: Sequence[int]) -> list[_Signed]:
        """Return a URL for each of `numbers`, in that order."""
        if not isinstance(ticket, MultipartTicket):
            address = PartUrl(part_number=1, url=ticket.upload_url)
            return [_Signed(plan.part(1), address, self._clock.monotonic())]
        urls: dict[int, PartUrl] = {}
        for _ in range(_SIGN_ROUNDS):
            missing = [n for n in numbers if n not in urls]
            if not missing:
                break
            answer = await self._builds.get_upload_parts(ticket, missing)
            urls |= {url.part_number: url for url in answer if url.part_number in missing}
        now = self._clock.monotonic()
        try:
            return [_Signed(plan.part(n), urls[n], now) for n in numbers]
        except KeyError as error:
            raise DecodeError(
                "get_upload_parts", (f"no URL for part {error} in {_SIGN_ROUNDS} answers",)
            ) from None

    async def _send(self, ticket: Ticket, plan: Plan, ready: asyncio.Queue[_Signed | None]) -> None:
        while (signed := await ready.get()) is not None:
            await self._send_part(ticket, plan, signed)

    async def _send_part(self, ticket: Ticket, plan: Plan, signed: _Signed) -> None:
        part = signed.part
        attempts = Attempts(self._policy, self._policy.part_attempts, self._traffic.budget)
        renewed = False
        while True:
            async with self._slots:
                await self._traffic.ready()
                began = self._clock.monotonic()
                if self._clock.monotonic() - signed.received > _URL_LIFE:
                    (signed,) = await self._sign(ticket, plan, [part.number])
                try:
                    stored = await self._storage.put(
                        signed.address,
                        part,
                        self._source,
                        lambda sent: self._sent(part, sent),
                        verify=self._verify,
                    )
                    attempts.succeeded()
                    self._traffic.succeeded(began)
                    break
                except (StorageError, TransportError) as error:
                    failure = error
            self._sent(part, 0)
            refused = is_signature_refused(failure)
            if refused and not renewed and isinstance(ticket, MultipartTicket):
                renewed = True
                attempts.made += 1
                self._retrying(part.number, attempts.made, 0.0, failure)
                (signed,) = await self._sign(ticket, plan, [part.number])
                continue
            delay = attempts.pause_after(
                failure,
                replay=Replay.ALWAYS,
                chance=self._clock.random(),
                at_least=0.0 if isinstance(ticket, MultipartTicket) else _SINGLE_PART_PAUSE,
            )
            self._traffic.failed(failure, began, delay)
            if delay is None:
                raise self._failed(ticket, plan, part, attempts.made, failure) from failure
            self._retrying(part.number, attempts.made, delay, failure)
            await self._clock.sleep(delay)
        self._verified += stored.verified
        self._ledger.finish(part.number, part.length, stored.etag)
        self._reporter.tell(
            PartDone(part_number=part.number, done=len(self._ledger.etags), parts=plan.total_parts)
        )
        self._tell_sent()
        # The next part waits for this line: a kill then costs no more than a part for each sender.
        if (journal := self._journal_of(ticket)) is not None:
            await journal.part(part.number, stored.etag)

    def _sent(self, part: Part, count: int) -> None:
        self._ledger.set_sent(part.number, count)
        self._tell_sent()

    def _tell_sent(self) -> None:
        self._reporter.tell(BytesSent(sent=self._ledger.sent, size=self._source.size))

    def _retrying(
        self, part_number: int | None, attempt: int, delay: float, failure: NunuError
    ) -> None:
        what = "complete" if part_number is None else f"part {part_number}"
        _LOG.warning("%s: attempt %d failed, next in %.2f s: %s", what, attempt, delay, failure)
        self._reporter.tell(
            Retrying(part_number=part_number, attempt=attempt, delay=delay, reason=str(failure))
        )

    def _failed(
        self, ticket: Ticket, plan: Plan, part: Part, attempts: int, failure: NunuError
    ) -> UploadError:
        hint = ""
        if is_signature_refused(failure):
            hint = (
                "; a single-part URL cannot be signed anew, start the upload again"
                if not isinstance(ticket, MultipartTicket)
                else "; a fresh URL was refused too"
            )
        if failure.retry_budget_exhausted:
            hint += "; the client's retry budget is spent"
        times = "1 attempt" if attempts == 1 else f"{attempts} attempts"
        error = UploadError(
            f"build {ticket.build_id}: part {part.number} of {plan.total_parts} did not go up in "
            f"{times}: {str(failure).removeprefix(f'part {part.number}: ')}{hint}",
            build_id=ticket.build_id,
            part_number=part.number,
            status=getattr(failure, "status", None),
            code=getattr(failure, "code", None),
            message=getattr(failure, "message", str(failure)),
            attempts=attempts,
        )
        error.retry_budget_exhausted = failure.retry_budget_exhausted
        return error

    async def _clean_up(self, ticket: Ticket, error: BaseException) -> None:
        if not self._completion.may_cancel:
            told = "is complete" if self._completion.done else "may be complete, and was let be"
            error.add_note(f"build {ticket.build_id} {told}")
            if self._completion.done:
                await self._forget_journal(ticket)
            return
        if self._resumed and is_forgotten(error):
            return  # for `go_on` to answer
        if self._journal_of(ticket) is not None and is_resumable(error):
            parts = self._plan(ticket).total_parts
            done_parts = len(self._ledger.etags)
            error.add_note(kept_note(ticket.build_id, done_parts, parts))
            await self._tell_end(
                Kept(build_id=ticket.build_id, done=done_parts, parts=parts), error
            )
            return
        done = await self._cancel_on_server(ticket)
        if done:
            await self._forget_journal(ticket)
        if isinstance(error, UploadError):
            error.cancelled = done
        told = "was cancelled" if done else "could not be cancelled"
        error.add_note(f"the upload of build {ticket.build_id} {told} on the server")
        await self._tell_end(Cancelled(build_id=ticket.build_id, on_server=done), error)

    async def _tell_end(self, event: UploadEvent, error: BaseException) -> None:
        self._reporter.tell(event)
        try:
            async with time_limit(self._clock, self._timeouts.cleanup):
                await self._reporter.drain()
        except Exception as listener_error:  # noqa: BLE001 - the first error is the one to raise
            error.add_note(f"on_progress failed as well: {listener_error!r}")

    async def _cancel_on_server(self, ticket: Ticket) -> bool:
        try:
            async with time_limit(self._clock, self._timeouts.cleanup):
                await self._builds.cancel_upload(ticket, within=self._timeouts.cleanup)
        except NotFound:
            return True  # gone already
        except (NunuError, TimeoutError) as error:
            _LOG.warning("build %s: cancelling on the server failed: %s", ticket.build_id, error)
            return False
        return True


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the failure that ended the others; a cancellation only if there is nothing else."""
    found = [
        _first(failure) if isinstance(failure, BaseExceptionGroup) else failure
        for failure in failures.exceptions
    ]
    return next((f for f in found if not isinstance(f, asyncio.CancelledError)), found[0])
