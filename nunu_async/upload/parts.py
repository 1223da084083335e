"""Sends the parts of one upload concurrently, with retries and fresh URLs."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import Executor
from functools import partial
from typing import Final

import attrs

from nunu_async.config import Timeouts
from nunu_async.core.attempt import AttemptLoop, OnAttempt
from nunu_async.core.cancellation import first_of
from nunu_async.core.clock import Clock
from nunu_async.core.request import Replay
from nunu_async.core.retry import Attempts, RetryPolicy, is_expired, is_signature_refused, renewals
from nunu_async.core.throttle import Throttle
from nunu_async.core.turns import Turns
from nunu_async.endpoints.builds import Builds, secrets_of
from nunu_async.errors import NunuError, UploadError
from nunu_async.models.builds import Ticket
from nunu_async.upload.guard import SourceGuard
from nunu_async.upload.journal import JournalState
from nunu_async.upload.journal_store import Journal, JournalStore
from nunu_async.upload.limits import AdaptiveLimiter
from nunu_async.upload.part_urls import PartUrls, SignedPart, UrlPrefetcher
from nunu_async.upload.plan import Part, Plan, batch_size
from nunu_async.upload.progress import BytesSent, Ledger, PartDone, Reporter, Retrying
from nunu_async.upload.resume import Abandoned, abandon, cancel
from nunu_async.upload.storage import Storage, Stored

_LOG = logging.getLogger("nunu_async.upload")

# Cancelled uploads that may start cleanup per event loop iteration; each takes a few tenths of a
# millisecond.
_ENDED_AT_ONCE: Final = 2
# Object storage accepts one write per second per key; a single-part upload writes to one key.
_SINGLE_PART_PAUSE: Final = 1.0


@attrs.define(kw_only=True, eq=False)
class UploadContext:
    """The state shared by all uploads of a client.

    Attributes:
        concurrency: the maximum of concurrent uploads, and of concurrent parts over all uploads.
        executor: runs file reads.
        max_bandwidth: bytes per second for all uploads together; None means no limit.
        endings: spreads the cleanup of cancelled uploads over event loop iterations.
    """

    builds: Builds
    storage: Storage
    journals: JournalStore
    clock: Clock
    policy: RetryPolicy
    timeouts: Timeouts
    concurrency: int
    executor: Executor
    max_bandwidth: float | None
    on_attempt: OnAttempt | None
    slots: AdaptiveLimiter = attrs.field(init=False)
    traffic: Throttle = attrs.field(init=False)
    endings: Turns = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.slots = AdaptiveLimiter(self.concurrency)
        self.traffic = Throttle(self.clock, self.policy, self.concurrency)
        self.endings = Turns(_ENDED_AT_ONCE)

    async def cancel(self, ticket: Ticket) -> bool:
        """Delete an upload on the server; False if it may remain."""
        within = self.timeouts.cleanup
        return await cancel(self.builds, ticket, clock=self.clock, within=within)

    async def abandon(self, kept: JournalState) -> Abandoned:
        """Cancel an upload of an earlier call, unless it is or may become a build."""
        within = self.timeouts.cleanup
        return await abandon(self.builds, kept, clock=self.clock, within=within, asked=False)


@attrs.define(kw_only=True, eq=False)
class PartPipeline:
    """Sends the parts of one upload to storage.

    Attributes:
        journal: records each part that is in storage; None for no journal.
        verify: compare each part's MD5 with its ETag.
        minutes: how long the server keeps the upload.
        is_second: whether this upload is a second reservation, made because the first one's URL was
            refused.
    """

    _context: UploadContext
    _ticket: Ticket
    _plan: Plan
    _concurrency: int
    _guard: SourceGuard
    _ledger: Ledger
    _reporter: Reporter
    _journal: Journal | None
    _verify: bool
    _minutes: int
    _is_second: bool
    _clock: Clock = attrs.field(init=False)
    _began: float = attrs.field(init=False)
    _signer: PartUrls = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._clock = self._context.clock
        self._began = self._clock.monotonic()
        self._signer = PartUrls(
            self._context.builds,
            self._clock,
            self._ticket,
            self._plan,
            batch_size(self._concurrency),
        )

    async def run(self) -> None:
        """Send all parts missing from the ledger, up to `concurrency` at a time.

        When this raises or is cancelled, nothing is being sent any more.

        Raises: UploadError if a part failed for good; SourceError; errors of URL requests and of
        the listener.
        """
        done = self._ledger.etags
        senders = min(self._concurrency, self._plan.total_parts - len(done))
        batches = self._plan.batches(self._signer.batch, done)
        ahead = UrlPrefetcher(self._signer, batches, senders)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(ahead.run())]
                group.create_task(self._reporter.pump())
                tasks += [group.create_task(self._send_all(ahead)) for _ in range(senders)]
                renewing = group.create_task(self._signer.run())
                try:
                    await asyncio.wait(tasks)
                except asyncio.CancelledError:
                    # Each upload has tasks to cancel and a connection to close: cancelling a
                    # thousand at once would block the loop until all are done.
                    await self._context.endings.ready()
                    raise
                renewing.cancel()
                self._reporter.end()
                return
        except BaseExceptionGroup as failures:
            first = first_of(failures)
        # Outside the `except`, so that the group does not become the error's `__context__`.
        raise first

    async def _send_all(self, ahead: UrlPrefetcher) -> None:
        while (signed := await ahead.take()) is not None:
            await self._send(self._signer.latest(signed))

    async def _send(self, signed: SignedPart) -> None:
        part = signed.part
        if self._plan.total_parts > 1:  # a change in a one-part file costs only this part
            await self._guard.before(part)
        stored = await self._store(signed)
        self._ledger.verified += stored.verified
        self._ledger.finish(part.number, part.length, stored.etag, is_md5=stored.is_md5)
        done = len(self._ledger.etags)
        self._reporter.emit(
            PartDone(part_number=part.number, done=done, parts=self._plan.total_parts)
        )
        self._emit_sent()
        # The sender's next part waits for this journal line, so a kill costs at most one part per
        # sender.
        if self._journal is not None:
            await self._journal.part(part.number, stored.etag, is_md5=stored.is_md5)

    async def _store(self, signed: SignedPart) -> Stored:
        """Send a part, with retries, and with fresh URLs if they may help."""
        part = signed.part
        tools = self._context
        attempts = AttemptLoop(
            clock=self._clock,
            rules=Attempts(tools.policy, tools.policy.part_attempts, tools.traffic.budget),
            replay=Replay.ALWAYS,
            throttle=tools.traffic,
            at_least=0.0 if self._signer.renews else _SINGLE_PART_PAUSE,
            on_retry=partial(tell_retry, self._reporter, part.number),
            on_attempt=tools.on_attempt,
            operation="put_part",
            method="PUT",
            part_number=part.number,
        )
        needs_renewal = False
        renewed = 0
        async for attempt in attempts:
            if needs_renewal:
                signed = await self._signer.renewed(signed)
            async with tools.slots:
                await tools.traffic.ready()
                if self._signer.is_old(signed):
                    signed = await self._signer.renewed(signed)
                with attempt:
                    stored = await tools.storage.put(
                        signed.address,
                        part,
                        self._guard.source,
                        lambda sent: self._set_sent(part, sent),
                        verify=self._verify,
                        secrets=secrets_of(self._ticket),
                    )
                    attempt.status, attempt.request_id = stored.status, stored.request_id
                    tools.slots.succeeded()
                    return stored
                failure = attempt.failure
                if is_expired(failure):
                    self._signer.expired(signed)
                tools.slots.failed(failure, attempt.began, self._clock.monotonic())
            self._set_sent(part, 0)
            needs_renewal = self._signer.renews and renewed < renewals(failure)
            if needs_renewal:
                renewed += 1
                attempts.retry_at_once()
        raise self._failed(part, attempts.number, failure) from failure

    def _set_sent(self, part: Part, count: int) -> None:
        self._ledger.set_sent(part.number, count)
        self._emit_sent()

    def _emit_sent(self) -> None:
        if self._reporter.has_listener:
            self._reporter.emit(BytesSent(sent=self._ledger.sent, size=self._plan.size))

    def _failed(self, part: Part, attempts: int, failure: NunuError) -> UploadError:
        hint = ""
        if is_signature_refused(failure):
            hint = (
                "; a fresh URL was refused too"
                if self._signer.renews or self._is_second
                else "; a single-part URL cannot be signed anew, start the upload again"
            )
        if getattr(failure, "code", None) == "NoSuchUpload":
            seconds = self._clock.monotonic() - self._began
            hint = (
                f"; the server has let go of the upload, which was sent for {seconds:.0f} seconds "
                f"(its upload_timeout: {self._minutes} minutes)"
            )
        if failure.retry_budget_exhausted:
            hint += "; the client's retry budget is spent"
        times = "1 attempt" if attempts == 1 else f"{attempts} attempts"
        build_id = self._ticket.build_id
        error = UploadError(
            f"build {build_id}: part {part.number} of {self._plan.total_parts} did not go up in "
            f"{times}: {str(failure).removeprefix(f'part {part.number}: ')}{hint}",
            build_id=build_id,
            part_number=part.number,
            status=getattr(failure, "status", None),
            code=getattr(failure, "code", None),
            message=getattr(failure, "message", str(failure)),
            attempts=attempts,
        )
        error.retry_budget_exhausted = failure.retry_budget_exhausted
        return error


async def tell_retry(
    reporter: Reporter, part_number: int | None, attempt: int, delay: float, failure: NunuError
) -> None:
    """Log and report a retry of a part, or of the completion if `part_number` is None."""
    what = "complete" if part_number is None else f"part {part_number}"
    _LOG.warning("%s: attempt %d failed, next in %.2f s: %s", what, attempt, delay, failure)
    reporter.emit(
        Retrying(part_number=part_number, attempt=attempt, delay=delay, reason=str(failure))
    )
