"""One upload: initiate, send, complete; on failure, cancel it or keep it to be resumed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress

import attrs

from nunu_async.core.cancellation import finish, finish_in_flight
from nunu_async.core.clock import time_limit
from nunu_async.core.request import InFlight, Replay
from nunu_async.core.retry import is_signature_refused
from nunu_async.errors import NunuError, UploadError, UploadOutcomeUnknown
from nunu_async.models.builds import InitiateUpload, MultipartTicket, SinglePartTicket, Ticket
from nunu_async.redact import sanitize
from nunu_async.upload.completion import BuildState, Completion, build_state
from nunu_async.upload.guard import SourceGuard
from nunu_async.upload.job import UploadedBuild
from nunu_async.upload.journal import JournalState
from nunu_async.upload.journal_store import Journal
from nunu_async.upload.parts import PartPipeline, UploadContext, tell_retry
from nunu_async.upload.plan import Plan, minutes_kept
from nunu_async.upload.progress import (
    BytesSent,
    Cancelled,
    Completed,
    Completing,
    Kept,
    Ledger,
    Reporter,
    UploadEvent,
    UploadStarted,
)
from nunu_async.upload.resume import (
    is_forgotten,
    is_resumable,
    kept_note,
    unknown,
    was_built,
)
from nunu_async.upload.source import Source

_LOG = logging.getLogger("nunu_async.upload")


@attrs.define(kw_only=True, eq=False)
class Upload:
    """One upload, from the initiate request to its end.

    Attributes:
        began: when the upload began, in monotonic seconds.
        concurrency: how many parts to send at once.
        verify: compare each part's MD5 with its ETag.
        journal: records what a later call needs to resume; None records nothing.
    """

    _context: UploadContext
    _source: Source
    _request: InitiateUpload
    _reporter: Reporter
    _began: float
    _concurrency: int
    _verify: bool
    _journal: Journal | None = None
    _completion: Completion = attrs.field(init=False)
    _kept: JournalState | None = attrs.field(init=False, default=None)
    # The current reservation; None if there is none, e.g. while it is being replaced.
    _ticket: Ticket | None = attrs.field(init=False, default=None)
    _is_cancelled: bool | None = attrs.field(init=False, default=None)  # None before cancelling
    _is_second: bool = attrs.field(init=False, default=False)  # a second reservation
    _orphans: int = attrs.field(init=False, default=0)
    _ledger: Ledger = attrs.field(init=False, factory=Ledger)

    def __attrs_post_init__(self) -> None:
        self._completion = Completion(
            builds=self._context.builds,
            clock=self._context.clock,
            policy=self._context.policy,
            timeouts=self._context.timeouts,
            on_retry=self._on_retry,
        )

    async def _on_retry(self, attempt: int, delay: float, failure: NunuError) -> None:
        await tell_retry(self._reporter, None, attempt, delay, failure)
        await self._reporter.drain()  # deliver it now: completing may take minutes

    async def resume(self, kept: JournalState) -> UploadedBuild | None:
        """Send the missing parts and complete; None if the server no longer knows the upload."""
        self._kept = kept
        try:
            return await self.run()
        except NunuError as error:
            if not (is_forgotten(error) and self._completion.may_cancel):
                raise
        clock, within = self._context.clock, self._context.timeouts.complete
        built = await was_built(self._context.builds, kept, clock=clock, within=within)
        return await self._end(kept.head.ticket) if built else None

    async def run(self) -> UploadedBuild:
        """Upload, from the start or from where an earlier call was interrupted.

        When this raises or is cancelled, nothing of the upload is still running, and it was
        cancelled on the server unless it may have completed or is kept to be resumed.
        """
        try:
            ticket = await self._reserve_and_send()
        except BaseException as error:
            if self._ticket is not None:
                await finish_after(error, self._clean_up(self._ticket, error))
            raise
        return await self._end(ticket)

    async def _reserve_and_send(self) -> Ticket:
        ticket = await self._initiate() if self._kept is None else self._kept.head.ticket
        self._ticket = ticket
        try:
            await self._transfer(ticket)
            return ticket
        except UploadError as error:
            # A single-part upload gets a new URL only with a new reservation. That is safe once the
            # first reservation is deleted.
            refusal = _refusal_of_url(ticket, error)
            if refusal is None or not await self._cancel_once(ticket):
                raise
            await tell_retry(self._reporter, 1, error.attempts, 0.0, refusal)
        await self._reporter.drain()
        self._ticket = self._is_cancelled = None
        self._is_second, self._ledger = True, Ledger()
        self._ticket = second = await self._initiate_again(ticket, refusal)
        await self._transfer(second)
        return second

    async def _initiate_again(self, first: Ticket, refusal: NunuError) -> Ticket:
        """Make a new reservation to replace one that was deleted."""
        try:
            return await self._initiate()
        except BaseException as error:
            error.add_note(
                f"it was to replace build {first.build_id}, whose presigned URL was refused "
                f"({refusal}) and which was cancelled on the server"
            )
            await self._emit_final(Cancelled(build_id=first.build_id, on_server=True), error)
            raise

    async def _transfer(self, ticket: Ticket) -> None:
        """Send the missing parts and complete."""
        plan = self._plan(ticket)
        guard = SourceGuard(self._source, plan, self._ledger)
        kept = self._kept
        if kept is not None:
            self._restore(plan, guard, kept)
        elif self._journal is not None and isinstance(ticket, MultipartTicket):
            await self._journal.begin(ticket)
        self._reporter.emit(
            UploadStarted(
                build_id=ticket.build_id,
                upload_type=ticket.upload_type,
                size=plan.size,
                parts=plan.total_parts,
                done=len(self._ledger.etags),
            )
        )
        if kept is not None:
            self._reporter.emit(BytesSent(sent=self._ledger.sent, size=plan.size))
        await self._reporter.drain()
        if kept is not None and await self._is_built(plan, kept):
            self._completion.may_cancel, self._completion.done = False, True
            await guard.confirm()  # a build of the file's old contents is not a success
            return
        if len(self._ledger.etags) < plan.total_parts:
            pipeline = PartPipeline(
                context=self._context,
                ticket=ticket,
                plan=plan,
                concurrency=self._concurrency,
                guard=guard,
                ledger=self._ledger,
                reporter=self._reporter,
                journal=self._journal,
                verify=self._verify,
                minutes=minutes_kept(self._request),
                is_second=self._is_second,
            )
            await pipeline.run()
        await guard.confirm()
        self._reporter.emit(Completing())
        await self._reporter.drain()
        parts = plan.completion(self._ledger.etags)
        if self._journal is not None:
            await self._journal.completing()
        is_multipart = isinstance(ticket, MultipartTicket)
        await self._completion.run(ticket, plan.size, parts if is_multipart else ())

    def _restore(self, plan: Plan, guard: SourceGuard, kept: JournalState) -> None:
        for number, etag in kept.etags.items():
            is_md5 = number in kept.md5_parts
            self._ledger.finish(number, plan.part(number).length, etag, is_md5=is_md5)
        guard.resume(kept.head.identity.ctime_ns)
        message = "going on with build %s: %d of %d parts are there"
        _LOG.info(message, kept.head.ticket.build_id, len(kept.etags), plan.total_parts)

    def _is_recorded(self, ticket: Ticket) -> bool:
        """Whether this upload has a journal; writing one may have failed."""
        return self._journal is not None and self._journal.build_id == ticket.build_id

    async def _forget_journal(self) -> None:
        if self._journal is not None:
            await self._journal.forget()

    async def _is_built(self, plan: Plan, kept: JournalState) -> bool:
        """Return whether an earlier call has already completed the upload."""
        if not kept.completing and len(kept.etags) < plan.total_parts:
            return False
        state = await build_state(self._context.builds, kept.head.ticket, plan.size)
        if state.is_unknown and kept.completing:
            self._completion.may_cancel = False
            raise unknown(kept.head.ticket)
        return state is BuildState.BUILT

    async def _end(self, ticket: Ticket) -> UploadedBuild:
        plan = self._plan(ticket)
        try:
            # Must not be interrupted: a leftover journal would describe a finished upload.
            await finish(self._forget_journal())
            seconds = self._context.clock.monotonic() - self._began
            self._reporter.emit(Completed(build_id=ticket.build_id, seconds=seconds))
            await self._reporter.drain()
        except BaseException as error:  # a cancellation, or an error of the listener
            error.add_note(f"build {ticket.build_id} is complete")
            raise
        return UploadedBuild(
            build_id=ticket.build_id,
            object_key=ticket.object_key,
            upload_type=ticket.upload_type,
            size=plan.size,
            parts=plan.total_parts,
            seconds=seconds,
            verified=self._ledger.verified if self._verify else None,
            possible_orphans=self._orphans,
        )

    async def _initiate(self) -> Ticket:
        flight = InFlight()
        # An orphaned reservation only holds space until it expires, so retrying is the lesser evil.
        request = self._context.builds.initiate_upload(
            self._request, replay=Replay.TWICE_UNHEARD, flight=flight
        )
        try:
            ticket = await finish_in_flight(
                request,
                flight,
                self._cancel_late,
                clock=self._context.clock,
                within=self._context.timeouts.settle,
            )
        except NunuError as error:
            leftover = _leftover(error)
            if leftover is not None:
                self._ticket = leftover  # to be cleaned up
            elif flight.unheard and not isinstance(error, UploadOutcomeUnknown):
                error.add_note(
                    f"the server may hold up to {flight.unheard} reservations of which no answer "
                    "came; they take up space until they expire"
                )
            raise
        self._orphans += flight.unheard
        return ticket

    async def _cancel_late(self, initiate: asyncio.Task[Ticket]) -> None:
        """Cancel the reservation of an initiate request whose caller was cancelled meanwhile."""
        if initiate.cancelled():
            return  # nothing was reserved, or there is no way to know
        error = initiate.exception()
        ticket = initiate.result() if error is None else _leftover(error)
        if ticket is not None:
            await self._context.cancel(ticket)

    def _plan(self, ticket: Ticket) -> Plan:
        size = self._source.size
        if isinstance(ticket, MultipartTicket):
            return Plan(size, ticket.part_size, ticket.total_parts)
        return Plan(size, size, 1)

    async def _clean_up(self, ticket: Ticket, error: BaseException) -> None:
        if not self._completion.may_cancel:
            if self._completion.done:
                error.add_note(f"build {ticket.build_id} is complete")
                await self._forget_journal()
            else:
                hint = ""
                if self._is_recorded(ticket):
                    hint = "; the same call or command asks for it before anything is sent"
                error.add_note(f"build {ticket.build_id} may be complete, and was let be{hint}")
            return
        if self._kept is not None and is_forgotten(error):
            return  # `resume` handles it
        if self._is_recorded(ticket) and is_resumable(error):
            parts = self._plan(ticket).total_parts
            done_parts = len(self._ledger.etags)
            error.add_note(kept_note(ticket.build_id, done_parts, parts))
            await self._emit_final(
                Kept(build_id=ticket.build_id, done=done_parts, parts=parts), error
            )
            return
        if await self._leave_to_earlier_call(ticket, error):
            return
        done = await self._cancel_once(ticket)
        if done:
            await self._forget_journal()
        if isinstance(error, UploadError):
            error.cancelled = done
        outcome = "was cancelled" if done else "could not be cancelled"
        # Sanitized: the response may have been rejected for invalid ids.
        error.add_note(f"the upload of build {sanitize(ticket.build_id)} {outcome} on the server")
        await self._emit_final(Cancelled(build_id=ticket.build_id, on_server=done), error)

    async def _emit_final(self, event: UploadEvent, error: BaseException) -> None:
        self._reporter.emit(event)
        try:
            async with time_limit(self._context.clock, self._context.timeouts.cleanup):
                await self._reporter.drain()
        except Exception as listener_error:  # noqa: BLE001 - the first error is the one to raise
            error.add_note(f"on_progress failed as well: {listener_error!r}")

    async def _leave_to_earlier_call(self, ticket: Ticket, error: BaseException) -> bool:
        """Leave an upload alone if an earlier call has asked the server to complete it.

        A changed file must not cause a finished build to be deleted. Returns False if there was no
        such call, or if the server no longer has the upload.
        """
        if self._kept is None or not self._kept.completing:
            return False
        end = await self._context.abandon(self._kept)
        if end == "cancelled":
            self._is_cancelled = True
            return False
        if end == "built":
            error.add_note(f"build {ticket.build_id} is complete, with what was sent before")
            await self._forget_journal()
        else:
            error.add_note(
                f"build {ticket.build_id} may be complete, and was let be; `nunu-async uploads "
                f"cancel {ticket.build_id}` gives it up"
            )
            if self._journal is not None:
                with suppress(NunuError):  # on failure, the next call finds it again
                    await self._journal.set_aside()
        return True

    async def _cancel_once(self, ticket: Ticket) -> bool:
        """Cancel on the server, uninterruptibly and at most once; return whether it succeeded."""
        if self._is_cancelled is None:
            await finish(self._cancel_and_record(ticket))
        return bool(self._is_cancelled)

    async def _cancel_and_record(self, ticket: Ticket) -> None:
        self._is_cancelled = await self._context.cancel(ticket)


async def finish_after(error: BaseException, work: Coroutine[object, object, None]) -> None:
    """Finish `work` after an error, even if cancelled; the CancelledError gets the error's notes.

    Raises: CancelledError if the caller was cancelled meanwhile.
    """
    try:
        await finish(work)
    except asyncio.CancelledError as cancelled:
        for note in getattr(error, "__notes__", ()):
            cancelled.add_note(note)
        raise


def _refusal_of_url(ticket: Ticket, error: UploadError) -> NunuError | None:
    """Return the error with which storage refused a single-part URL; None if it did not."""
    cause = error.__cause__
    if not (isinstance(ticket, SinglePartTicket) and isinstance(cause, NunuError)):
        return None
    return cause if is_signature_refused(cause) else None


def _leftover(error: BaseException) -> Ticket | None:
    """Return the ticket recovered from a response that could not be decoded; None if none was."""
    leftover = getattr(error, "leftover", None)
    return leftover if isinstance(leftover, SinglePartTicket | MultipartTicket) else None
