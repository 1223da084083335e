"""Taking up an upload that was left behind: what became of it, and when it is given up."""

from __future__ import annotations

import logging
from typing import Final, Literal, TypeAlias

from nunu_async.core.clock import Clock, Deadline, time_limit
from nunu_async.core.request import Replay
from nunu_async.core.retry import may_pass, pause_between
from nunu_async.endpoints.builds import Builds
from nunu_async.errors import (
    ApiError,
    BadRequest,
    NotFound,
    NunuError,
    PlanMismatch,
    SourceChanged,
    UploadError,
    UploadOutcomeUnknown,
)
from nunu_async.models.builds import MultipartTicket, Ticket
from nunu_async.redact import clean
from nunu_async.upload.completion import is_built
from nunu_async.upload.journal import Kept

__all__ = [
    "KEPT",
    "Standing",
    "cancel",
    "give_up",
    "is_forgotten",
    "is_resumable",
    "kept_note",
    "standing",
    "unknown",
    "was_built",
]

_LOG = logging.getLogger("nunu_async.upload")

Standing: TypeAlias = Literal["built", "sending", "gone", "unknown"]

# Statuses by which HTTP says that something is not there, or no more.
_GONE: Final = frozenset({404, 410})
KEPT: Final = "is kept on the server"
# Seconds between looks at a build that is being assembled: at first, and at most.
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 20.0
# Seconds between tries to cancel: at first, and at most.
_CANCEL_PAUSE, _LONGEST_CANCEL_PAUSE = 0.5, 8.0
# Of the time for all tries, one gets this part.
_CANCEL_SHARES: Final = 2
# Seconds that a last try gets when the time for all of them is nearly spent.
_LEAST: Final = 0.001


def kept_note(build_id: str, done: int, parts: int) -> str:
    """Say of an upload what can be done with it."""
    return (
        f"the upload of build {build_id} {KEPT} with {done} of {parts} parts; the same call or "
        f"command resumes it, and `nunu-async uploads cancel {build_id}` gives it up"
    )


def is_forgotten(error: BaseException) -> bool:
    """Tell whether the server does not know the upload any more, or can make nothing of it.

    The contract has 404 for completing and 400 for part URLs. A 400 to a complete says that parts
    are not what the journal has: nothing would ever change that.
    """
    if isinstance(error, UploadError):
        return error.code == "NoSuchUpload"
    return (
        isinstance(error, NotFound | BadRequest)
        and error.explained
        and "/builds/upload" in error.path
    )


def is_resumable(error: BaseException) -> bool:
    """Tell whether what ended an upload leaves something that a later call can go on with."""
    return not (isinstance(error, SourceChanged | PlanMismatch) or is_forgotten(error))


async def standing(builds: Builds, ticket: MultipartTicket, size: int) -> Standing:
    """Ask what became of the build of an upload."""
    try:
        build = await builds.of_upload(ticket)
    except NotFound as error:
        return "gone" if error.explained else "unknown"
    except NunuError as error:
        _LOG.warning("build %s: asking for it failed: %s", ticket.build_id, error)
        return "unknown"
    built = is_built(build, size)
    if built is None:
        return "unknown"
    return "built" if built else "sending"


async def was_built(builds: Builds, kept: Kept, *, clock: Clock, within: float) -> bool:
    """Find out whether an upload that the server takes nothing for any more is a build.

    Where it had been asked to complete it, it may be assembling still: then this waits for the
    end of that, for `within` seconds.

    Raises: UploadOutcomeUnknown when it may be a build and the server would not say.
    """
    ticket, size = kept.head.ticket, kept.head.identity.size
    deadline = Deadline(clock, within)
    pause = _FIRST_PAUSE
    while True:
        found = await standing(builds, ticket, size)
        if found == "built":
            return True
        if found == "gone" or not kept.completing:
            return False
        if found == "unknown" or pause >= deadline.remaining():
            raise unknown(ticket)
        await clock.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def unknown(ticket: MultipartTicket) -> UploadOutcomeUnknown:
    """Return the error for an upload that may be complete."""
    return UploadOutcomeUnknown(
        f"build {ticket.build_id}: the server was asked to complete the upload by an earlier call, "
        "and does not say whether it did; nothing was sent or deleted, try again later",
        build_id=ticket.build_id,
        stage="complete",
    )


async def give_up(
    builds: Builds, kept: Kept, *, clock: Clock, within: float, asked: bool
) -> Literal["cancelled", "built", "failed"]:
    """Cancel an upload on the server, unless it may have become a build.

    One that the server was asked to complete, and that is no build yet, may be on its way to be
    one: that is deleted only where the user has `asked`.

    ``cancelled`` is also one that the server has forgotten; ``failed`` one that it may still have.
    """
    ticket = kept.head.ticket
    if kept.completing:
        found = await standing(builds, ticket, kept.head.identity.size)
        if found == "built":
            return "built"
        if found == "unknown" or (found == "sending" and not asked):
            return "failed"
    return "cancelled" if await cancel(builds, ticket, clock=clock, within=within) else "failed"


async def cancel(builds: Builds, ticket: Ticket, *, clock: Clock, within: float) -> bool:
    """Have the server delete an upload, trying for `within` seconds; False where it may remain.

    Anything but a success or a definite refusal is tried again with growing pauses: a part may
    still be on its way to storage (409), a connection may drop or hang, the server may say that
    it failed.
    """
    # Cleaned: an answer that was refused may have been so for its ids.
    build_id = clean(ticket.build_id)
    deadline = Deadline(clock, within)
    tries = 0
    while True:
        # One that hangs must not take all of the time.
        patience = max(min(deadline.remaining(), within / _CANCEL_SHARES), _LEAST)
        failure: NunuError | None = None
        try:
            async with time_limit(clock, patience):
                await builds.cancel_upload(ticket, replay=Replay.NEVER, within=patience)
            return True
        except NunuError as error:
            if isinstance(error, ApiError) and error.status in _GONE and error.explained:
                return True  # already; the page of some edge would say nothing of it
            failure = error
        except TimeoutError:
            pass
        tries += 1
        reason = str(failure) if failure else f"no answer within {patience:g} seconds"
        chance = clock.random()
        delay = pause_between(
            tries, first=_CANCEL_PAUSE, longest=_LONGEST_CANCEL_PAUSE, chance=chance
        )
        asked = getattr(failure, "retry_after", None) or 0.0
        delay = max(delay, asked * (1 + 0.25 * chance))
        if (failure and not may_pass(failure)) or delay >= deadline.remaining():
            _LOG.warning("build %s: cancelling on the server failed: %s", build_id, reason)
            return False
        _LOG.info("build %s: cancelling failed, next in %.2f s: %s", build_id, delay, reason)
        await clock.sleep(delay)
