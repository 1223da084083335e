"""Resuming an interrupted upload: its state on the server, and when to abandon it."""

from __future__ import annotations

import itertools
import logging
from typing import Final, Literal, TypeAlias

from nunu_async.core.clock import Clock, Deadline, time_limit
from nunu_async.core.request import Replay
from nunu_async.core.retry import is_gone, may_pass, pause_between
from nunu_async.endpoints.builds import Builds
from nunu_async.errors import (
    BadRequest,
    NotFound,
    NunuError,
    PlanMismatch,
    SourceChanged,
    UploadError,
    UploadOutcomeUnknown,
)
from nunu_async.models.builds import MultipartTicket, Ticket
from nunu_async.redact import sanitize
from nunu_async.upload.completion import ASSEMBLY_PAUSES, BuildState, build_state
from nunu_async.upload.journal import JournalState

_LOG = logging.getLogger("nunu_async.upload")

Abandoned: TypeAlias = Literal["cancelled", "built", "failed"]

KEPT: Final = "is kept on the server"
# Initial and maximum seconds between cancel attempts.
_CANCEL_PAUSE, _LONGEST_CANCEL_PAUSE = 0.5, 8.0
# An attempt may take at most one of this many equal shares of the total time.
_CANCEL_SHARES: Final = 2
# Minimum timeout of an attempt in seconds, even if less of the total time is left.
_MIN_TIMEOUT: Final = 0.001


def kept_note(build_id: str, done: int, parts: int) -> str:
    """Return the note that says how to resume or cancel an upload."""
    return (
        f"the upload of build {build_id} {KEPT} with {done} of {parts} parts; the same call or "
        f"command resumes it, and `nunu-async uploads cancel {build_id}` gives it up"
    )


def is_forgotten(error: BaseException) -> bool:
    """Return whether the server no longer knows the upload, or cannot complete it.

    By contract, an unknown upload gets 404 for completing and 400 for part URLs. A 400 for
    completing means that the parts differ from the journal, which no later call would change.
    """
    if isinstance(error, UploadError):
        return error.code == "NoSuchUpload"
    return (
        isinstance(error, NotFound | BadRequest)
        and error.explained
        and "/builds/upload" in error.path
    )


def is_resumable(error: BaseException) -> bool:
    """Return whether a later call can resume an upload that ended with this error."""
    return not (isinstance(error, SourceChanged | PlanMismatch) or is_forgotten(error))


async def was_built(builds: Builds, kept: JournalState, *, clock: Clock, within: float) -> bool:
    """Find out whether an upload that the server no longer accepts has become a build.

    If the server was asked to complete it, it may still be assembling the build: then wait for
    that, for at most `within` seconds.

    Raises: UploadOutcomeUnknown if it is unknown whether it has.
    """
    ticket, size = kept.head.ticket, kept.head.identity.size
    deadline = Deadline(clock, within)
    for tries in itertools.count(1):
        state = await build_state(builds, ticket, size)
        if state is BuildState.BUILT:
            return True
        if state is BuildState.GONE or not kept.completing:
            return False
        pause = pause_between(tries, **ASSEMBLY_PAUSES, chance=clock.random())
        if state.is_unknown or pause >= deadline.remaining():
            break
        await clock.sleep(pause)
    raise unknown(ticket)


def unknown(ticket: MultipartTicket) -> UploadOutcomeUnknown:
    """Return the error for an upload that may be complete."""
    return UploadOutcomeUnknown(
        f"build {ticket.build_id}: the server was asked to complete the upload by an earlier call, "
        "and does not say whether it did; nothing was sent or deleted, try again later",
        build_id=ticket.build_id,
        stage="complete",
    )


async def abandon(
    builds: Builds, kept: JournalState, *, clock: Clock, within: float, asked: bool
) -> Abandoned:
    """Cancel an upload on the server, unless it may have become a build.

    If the server was asked to complete an upload that is not a build yet, it may still become one:
    it is deleted only if the user has `asked` for that.

    ``cancelled`` includes an upload that the server no longer knows; ``failed`` means that it may
    still have the upload.
    """
    ticket = kept.head.ticket
    if kept.completing:
        state = await build_state(builds, ticket, kept.head.identity.size)
        if state is BuildState.BUILT:
            return "built"
        if state is not BuildState.GONE and (state.is_unknown or not asked):
            return "failed"
    return "cancelled" if await cancel(builds, ticket, clock=clock, within=within) else "failed"


async def cancel(builds: Builds, ticket: Ticket, *, clock: Clock, within: float) -> bool:
    """Delete an upload on the server, retrying for `within` seconds; False if it may remain.

    Anything but a success or a definite refusal is retried with growing pauses: a part may still be
    in flight to storage (409), a connection may drop or hang, the server may report a failure.
    """
    # Sanitized: the response may have been rejected for invalid ids.
    build_id = sanitize(ticket.build_id)
    deadline = Deadline(clock, within)
    attempts = 0
    while True:
        # An attempt that hangs must not use up all of the time.
        timeout = max(min(deadline.remaining(), within / _CANCEL_SHARES), _MIN_TIMEOUT)
        failure: NunuError | None = None
        try:
            async with time_limit(clock, timeout):
                await builds.cancel_upload(ticket, replay=Replay.NEVER, within=timeout)
            return True
        except NunuError as error:
            if is_gone(error):
                return True  # already deleted; an edge proxy's own 404 does not count
            failure = error
        except TimeoutError:
            pass
        attempts += 1
        reason = str(failure) if failure else f"no answer within {timeout:g} seconds"
        chance = clock.random()
        delay = pause_between(
            attempts, first=_CANCEL_PAUSE, longest=_LONGEST_CANCEL_PAUSE, chance=chance
        )
        retry_after = getattr(failure, "retry_after", None) or 0.0
        delay = max(delay, retry_after * (1 + 0.25 * chance))
        if (failure and not may_pass(failure)) or delay >= deadline.remaining():
            _LOG.warning("build %s: cancelling on the server failed: %s", build_id, reason)
            return False
        _LOG.info("build %s: cancelling failed, next in %.2f s: %s", build_id, delay, reason)
        await clock.sleep(delay)
