"""One upload: initiate, send, complete; or cancel, or keep it to be resumed."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from nunu_async.core.cancellation import finish
from nunu_async.core.clock import time_limit
from nunu_async.core.request import Flight, Replay
from nunu_async.core.retry import is_signature_refused
from nunu_async.errors import NunuError, UploadError, UploadOutcomeUnknown
from nunu_async.models.builds import InitiateUpload, MultipartTicket, SinglePartTicket, Ticket
from nunu_async.redact import clean
from nunu_async.upload.completion import Completion
from nunu_async.upload.guard import SourceGuard
from nunu_async.upload.job import UploadedBuild
from nunu_async.upload.journal import Kept as KeptUpload
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
    cancel,
    give_up,
    is_forgotten,
    is_resumable,
    kept_note,
    standing,
    unknown,
    was_built,
)
from nunu_async.upload.sending import Equipment, Sending, tell_retry
from nunu_async.upload.shelf import Journal
from nunu_async.upload.source import Source

__all__ = ["Upload"]

_LOG = logging.getLogger("nunu_async.upload")


class Upload:
    """One upload from initiate to its end.

    Args:
        journal: where what a later call could resume is kept; None keeps nothing.
        verify: compare the MD5 of each part with its ETag.
    """

    def __init__(
        self,
        equipment: Equipment,
        source: Source,
        request: InitiateUpload,
        concurrency: int,
        reporter: Reporter,
        journal: Journal | None = None,
        *,
        verify: bool = False,
    ) -> None:
        self._equipment = equipment
        self._journal = journal
        self._resumed = False
        self._builds = equipment.builds
        self._clock = equipment.clock
        self._timeouts = equipment.timeouts
        self._source = source
        self._request = request
        self._concurrency = concurrency
        self._reporter = reporter
        self._verify = verify
        self._verified = 0
        self._orphans = 0
        self._is_second = False  # reservation
        self._gone: Ticket | None = None
        self._let_go_of: tuple[Ticket, bool] | None = None
        self._kept: KeptUpload | None = None
        self._ledger = Ledger()
        self._completion = Completion(
            equipment.builds,
            clock=equipment.clock,
            policy=equipment.policy,
            timeouts=equipment.timeouts,
            on_retry=self._tell_retry,
        )

    async def _tell_retry(self, attempt: int, delay: float, failure: NunuError) -> None:
        tell_retry(self._reporter, None, attempt, delay, failure)
        await self._reporter.drain()  # completing may take minutes

    async def go_on(self, began: float, kept: KeptUpload) -> UploadedBuild | None:
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

    async def run(self, began: float, kept: KeptUpload | None = None) -> UploadedBuild:
        """Upload, from the start or from where `kept` left it.

        When this raises, cancellation included, nothing of the upload is still running, and the
        server was told to forget it unless it may have completed, or is kept to be resumed.
        """
        self._kept = kept
        ticket = await self._initiate() if kept is None else kept.head.ticket
        try:
            refusal: NunuError | None = None
            try:
                await self._transfer(ticket, kept)
            except UploadError as error:
                # No other URL is to be had for a single part but by another reservation. With the
                # first one gone, nothing is in doubt.
                refusal = _refusal_of_url(ticket, error)
                if refusal is None or not await self._let_go(ticket):
                    raise
                tell_retry(self._reporter, 1, error.attempts, 0.0, refusal)
            if refusal is not None:
                await self._reporter.drain()
                self._ledger = Ledger()
                self._is_second = True
                ticket = await self._initiate_again(ticket, refusal)
                await self._transfer(ticket)
        except BaseException as error:
            try:
                if ticket is not self._gone:
                    await finish(self._clean_up(ticket, error))
            except asyncio.CancelledError as cancelled:
                for note in getattr(error, "__notes__", ()):  # this one is what the caller sees
                    cancelled.add_note(note)
                raise
            raise
        return await self._end(ticket, began)

    async def _initiate_again(self, first: Ticket, refusal: NunuError) -> Ticket:
        """Make another reservation in place of one that was deleted."""
        try:
            return await self._initiate()
        except BaseException as error:
            self._gone = first
            error.add_note(
                f"it was to replace build {first.build_id}, whose presigned URL was refused "
                f"({refusal}) and which was cancelled on the server"
            )
            await self._tell_end(Cancelled(build_id=first.build_id, on_server=True), error)
            raise

    async def _transfer(self, ticket: Ticket, kept: KeptUpload | None = None) -> None:
        """Send what is missing, and complete."""
        plan = self._plan(ticket)
        guard = SourceGuard(self._source, plan, self._ledger)
        kind = "multipart" if isinstance(ticket, MultipartTicket) else "single-part"
        if kept is not None:
            self._take_up(plan, guard, kept)
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
            self._reporter.tell(BytesSent(sent=self._ledger.sent, size=plan.size))
        await self._reporter.drain()
        if kept is not None and await self._is_built(plan, kept):
            self._completion.may_cancel, self._completion.done = False, True
            await guard.confirm()  # a build of what the file held then is no success now
            return
        if len(self._ledger.etags) < plan.total_parts:
            await self._send_parts(ticket, plan, guard)
        await guard.confirm()
        self._reporter.tell(Completing())
        await self._reporter.drain()
        parts = plan.completion(self._ledger.etags)
        if (journal := self._journal_of(ticket)) is not None:
            await journal.completing()
        await self._completion.run(ticket, plan.size, parts if kind == "multipart" else ())

    async def _send_parts(self, ticket: Ticket, plan: Plan, guard: SourceGuard) -> None:
        sending = Sending(
            self._equipment,
            ticket,
            plan,
            guard,
            self._ledger,
            self._reporter,
            journal=self._journal_of(ticket),
            verify=self._verify,
            minutes=minutes_kept(self._request),
            is_second=self._is_second,
        )
        await sending.run(self._concurrency)
        self._verified = sending.verified

    def _take_up(self, plan: Plan, guard: SourceGuard, kept: KeptUpload) -> None:
        for number, etag in kept.etags.items():
            is_md5 = number in kept.md5_parts
            self._ledger.finish(number, plan.part(number).length, etag, is_md5=is_md5)
        guard.resume(kept.head.identity.ctime_ns)
        told = "going on with build %s: %d of %d parts are there"
        _LOG.info(told, kept.head.ticket.build_id, len(kept.etags), plan.total_parts)

    def _journal_of(self, ticket: Ticket) -> Journal | None:
        """Return the journal if this very upload is in it; a disk may have refused it."""
        journal = self._journal
        return journal if journal is not None and journal.build_id == ticket.build_id else None

    async def _forget_journal(self, ticket: Ticket) -> None:
        if (journal := self._journal_of(ticket)) is not None:
            await journal.forget()

    async def _is_built(self, plan: Plan, kept: KeptUpload) -> bool:
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
        kind = "multipart" if isinstance(ticket, MultipartTicket) else "single-part"
        try:
            # To its end, whoever cancels: a journal that is left would speak of an upload that is
            # over.
            await finish(self._forget_journal(ticket))
            seconds = self._clock.monotonic() - began
            self._reporter.tell(Completed(build_id=ticket.build_id, seconds=seconds))
            await self._reporter.drain()
        except BaseException as error:  # a cancellation, or what the listener raises
            error.add_note(f"build {ticket.build_id} is complete")
            raise
        return UploadedBuild(
            build_id=ticket.build_id,
            object_key=ticket.object_key,
            upload_type=kind,
            size=plan.size,
            parts=plan.total_parts,
            seconds=seconds,
            verified=self._verified if self._verify else None,
            possible_orphans=self._orphans,
        )

    async def _initiate(self) -> Ticket:
        flight = Flight()
        # A reservation that nobody has heard of holds space until it expires, and no build: better
        # one of those than an upload that fails.
        asking = self._builds.initiate_upload(
            self._request, replay=Replay.TWICE_UNHEARD, flight=flight
        )
        task = asyncio.ensure_future(asking)
        try:
            ticket = await asyncio.shield(task)
            self._orphans += flight.unheard
            return ticket
        except asyncio.CancelledError:
            await finish(self._forget(task, flight))
            raise
        except NunuError as error:
            leftover = getattr(error, "leftover", None)
            if isinstance(leftover, SinglePartTicket | MultipartTicket):
                await finish(self._clean_up(leftover, error))
            elif flight.unheard and not isinstance(error, UploadOutcomeUnknown):
                error.add_note(
                    f"the server may hold up to {flight.unheard} reservations of which no answer "
                    "came; they take up space until they expire"
                )
            raise

    async def _forget(self, task: asyncio.Task[Ticket], flight: Flight) -> None:
        """Free what an initiate under way may still reserve; nobody else ever could."""
        flight.last = True
        if not flight.on_wire:  # queued, or pausing; or just answered, and this does nothing
            task.cancel()
        try:
            async with time_limit(self._clock, self._timeouts.settle):
                ticket = await task
        except (NunuError, TimeoutError, asyncio.CancelledError) as error:
            leftover = getattr(error, "leftover", None)
            if not isinstance(leftover, SinglePartTicket | MultipartTicket):
                return  # nothing was reserved, or nobody can know it
            ticket = leftover
        await self._cancel_on_server(ticket)

    def _plan(self, ticket: Ticket) -> Plan:
        size = self._source.size
        if isinstance(ticket, MultipartTicket):
            return Plan(size, ticket.part_size, ticket.total_parts)
        return Plan(size, size, 1)

    async def _clean_up(self, ticket: Ticket, error: BaseException) -> None:
        if not self._completion.may_cancel:
            if self._completion.done:
                error.add_note(f"build {ticket.build_id} is complete")
                await self._forget_journal(ticket)
            else:
                hint = ""
                if self._journal_of(ticket) is not None:
                    hint = "; the same call or command asks for it before anything is sent"
                error.add_note(f"build {ticket.build_id} may be complete, and was let be{hint}")
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
        if await self._may_be_of_an_earlier_call(ticket, error):
            return
        done = await self._let_go(ticket)
        if done:
            await self._forget_journal(ticket)
        if isinstance(error, UploadError):
            error.cancelled = done
        told = "was cancelled" if done else "could not be cancelled"
        # Cleaned, as below: an answer that was refused may have been so for its ids.
        error.add_note(f"the upload of build {clean(ticket.build_id)} {told} on the server")
        await self._tell_end(Cancelled(build_id=ticket.build_id, on_server=done), error)

    async def _tell_end(self, event: UploadEvent, error: BaseException) -> None:
        self._reporter.tell(event)
        try:
            async with time_limit(self._clock, self._timeouts.cleanup):
                await self._reporter.drain()
        except Exception as listener_error:  # noqa: BLE001 - the first error is the one to raise
            error.add_note(f"on_progress failed as well: {listener_error!r}")

    async def _may_be_of_an_earlier_call(self, ticket: Ticket, error: BaseException) -> bool:
        """Leave alone what an earlier call has asked to be completed; a changed file ends no build.

        False where there is no such call, or where the server has nothing of it any more.
        """
        if self._kept is None or not self._kept.completing:
            return False
        end = await give_up(
            self._builds, self._kept, clock=self._clock, within=self._timeouts.cleanup, asked=False
        )
        if end == "cancelled":
            self._let_go_of = ticket, True
            return False
        if end == "built":
            error.add_note(f"build {ticket.build_id} is complete, with what was sent before")
            await self._forget_journal(ticket)
        else:
            error.add_note(
                f"build {ticket.build_id} may be complete, and was let be; `nunu-async uploads "
                f"cancel {ticket.build_id}` gives it up"
            )
            if (journal := self._journal_of(ticket)) is not None:
                with suppress(NunuError):  # or the next call meets it again
                    await journal.set_aside()
        return True

    async def _let_go(self, ticket: Ticket) -> bool:
        """Cancel on the server, whoever cancels meanwhile; of what was, tell how that ended."""
        if self._let_go_of is None or self._let_go_of[0] is not ticket:
            await finish(self._try_to_let_go(ticket))
        assert self._let_go_of is not None  # noqa: S101 - for the type checker
        return self._let_go_of[1]

    async def _try_to_let_go(self, ticket: Ticket) -> None:
        self._let_go_of = ticket, await self._cancel_on_server(ticket)

    async def _cancel_on_server(self, ticket: Ticket) -> bool:
        return await cancel(self._builds, ticket, clock=self._clock, within=self._timeouts.cleanup)


def _refusal_of_url(ticket: Ticket, error: UploadError) -> NunuError | None:
    """Return what ended the upload of a single part, if it was that storage refused its URL."""
    cause = error.__cause__
    if not (isinstance(ticket, SinglePartTicket) and isinstance(cause, NunuError)):
        return None
    return cause if is_signature_refused(cause) else None
