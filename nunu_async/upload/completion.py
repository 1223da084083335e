"""Completes an upload exactly once, and tracks whether it may still be deleted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from enum import Enum, auto
from functools import partial
from typing import Final

import attrs

from nunu_async.config import Timeouts
from nunu_async.core.attempt import AttemptLoop, OnRetry
from nunu_async.core.cancellation import finish_in_flight
from nunu_async.core.clock import Clock, Deadline
from nunu_async.core.request import InFlight, Replay
from nunu_async.core.retry import (
    Attempts,
    RetryPolicy,
    had_no_effect,
    is_in_progress,
    may_be_duplicate,
    pause_between,
    was_explained,
)
from nunu_async.endpoints.builds import Builds
from nunu_async.errors import (
    ApiError,
    ClientClosed,
    InputError,
    NotFound,
    NunuError,
    RateLimited,
    UploadOutcomeUnknown,
)
from nunu_async.models.builds import CompletedPart, Ticket

_LOG = logging.getLogger("nunu_async.upload")

# Minimum timeout of a request in seconds, even if less time is left for all of them.
_MIN_TIMEOUT: Final = 1.0

# Initial and maximum seconds between complete requests while the server reports one in progress.
ASSEMBLY_PAUSES: Final = {"first": 1.0, "longest": 20.0}


class BuildState(Enum):
    """What the server says about the build of an upload."""

    BUILT = auto()
    UPLOADING = auto()
    """Not a build yet, but it may still become one."""
    FAILED = auto()
    """Not a build, and it never will be."""
    GONE = auto()
    """The API says that the build does not exist."""
    NOT_FOUND = auto()
    """An edge proxy answered 404; the API may never have seen the request."""
    UNCLEAR = auto()
    """The build exists, but its status does not tell whether it is finished."""
    UNANSWERED = auto()

    @property
    def is_unknown(self) -> bool:
        """Whether it is unknown if the upload has become a build."""
        return self in (BuildState.NOT_FOUND, BuildState.UNCLEAR, BuildState.UNANSWERED)


# Documented statuses with a clear meaning; all others are UNCLEAR. That includes `UNHEALTHY`: no
# page says whether a build that is still being uploaded can have it.
_STATUSES: Final = {
    "ok": BuildState.BUILT,
    "ready": BuildState.BUILT,
    "uploading": BuildState.UPLOADING,
    "failed": BuildState.FAILED,
}
_NOT_BUILT: Final = (
    BuildState.UPLOADING,
    BuildState.FAILED,
    BuildState.GONE,
    BuildState.NOT_FOUND,
)


async def build_state(
    builds: Builds,
    ticket: Ticket,
    size: int,
    *,
    replay: Replay = Replay.ALWAYS,
    within: float | None = None,
) -> BuildState:
    """Look up the build of an upload of `size` bytes; takes at most `within` seconds."""
    try:
        build = await builds.of_upload(ticket, replay=replay, within=within)
    except NotFound as error:
        return BuildState.GONE if error.explained else BuildState.NOT_FOUND
    except NunuError as error:
        _LOG.info("build %s: asking for it failed: %s", ticket.build_id, error)
        return BuildState.UNANSWERED
    # A build of a different size does not belong to this upload.
    known = _STATUSES if build.size in (None, size) else {}
    return known.get((build.status or "").lower(), BuildState.UNCLEAR)


@attrs.define(kw_only=True, eq=False)
class Completion:
    """Completes one upload.

    Attributes:
        may_cancel: False from when a complete request is sent until it is definitely refused:
            cancelling in between could delete a finished build.
        done: whether the server has confirmed that the build is complete.
    """

    _builds: Builds
    _clock: Clock
    _policy: RetryPolicy
    _timeouts: Timeouts
    _on_retry: OnRetry
    _flight: InFlight = attrs.field(init=False, factory=InFlight)
    may_cancel: bool = attrs.field(init=False, default=True)
    done: bool = attrs.field(init=False, default=False)

    async def run(self, ticket: Ticket, size: int, parts: Sequence[CompletedPart]) -> None:
        """Complete an upload of `size` bytes.

        If the caller is cancelled, an in-flight complete and the lookup after it are awaited first,
        for at most the `settle` timeout: cancelling without their responses could delete a finished
        build. No other request is started.

        Raises: ApiError, TransportError or DecodeError if the server did not complete it;
        UploadOutcomeUnknown if it is unknown whether it did.
        """
        await finish_in_flight(
            self._complete_with_retries(ticket, size, parts),
            self._flight,
            partial(self._on_cancel, ticket),
            clock=self._clock,
            within=self._timeouts.settle,
        )
        self.done = True

    async def _on_cancel(self, ticket: Ticket, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is None:
            self.done = True
            _LOG.warning("build %s was cancelled too late: it is complete", ticket.build_id)

    async def _complete_with_retries(  # noqa: C901 - one loop, read downwards
        self, ticket: Ticket, size: int, parts: Sequence[CompletedPart]
    ) -> None:
        """Complete once; after a lost response, look up the build instead of guessing."""
        deadline = Deadline(self._clock, self._timeouts.complete)
        attempts = AttemptLoop(
            clock=self._clock,
            rules=Attempts(self._policy, self._policy.attempts),
            replay=Replay.UNTIL_READ,
            deadline=deadline,
            on_retry=self._on_retry,
        )
        reached = False  # whether a request may have reached the application server
        in_doubt = False  # whether one may have succeeded with its response lost
        async for attempt in attempts:
            with attempt:
                await self._send(ticket, parts, deadline, in_doubt=in_doubt)
                return
            failure = attempt.failure
            refused = had_no_effect(failure)
            state: BuildState | None = None
            if not refused or (reached and isinstance(failure, NotFound)):
                # A 404 after a failed attempt may mean that the earlier attempt did succeed.
                state = await self._look_up(ticket, size)
                if state is BuildState.BUILT:
                    return
                settled = state in _NOT_BUILT and was_explained(failure)
                in_doubt = in_doubt or refused or not settled
                if state is BuildState.FAILED:  # nothing is in progress any more
                    in_doubt = False
            reached = reached or not refused
            self.may_cancel = not in_doubt
            if self._flight.last:
                break
            if in_doubt and is_in_progress(failure):
                delay = self._assembly_pause(failure, attempts.number, deadline.remaining())
                if delay is None:
                    break
                attempts.retry_in(delay)
        if refused and state is None:
            if await self._is_built_anyway(failure, ticket, size):
                return
            in_doubt = in_doubt or not self.may_cancel
            self.may_cancel = not in_doubt
        if in_doubt:
            raise _unknown(ticket, failure) from failure
        raise failure

    def _assembly_pause(self, failure: NunuError, sent: int, remaining: float) -> float | None:
        """Return the seconds to wait while the server completes; None if it took too long.

        `RetryPolicy.attempts` does not count these waits; only the deadline limits them. The last
        wait lasts until the deadline, so that the last lookup of the build is not too early.
        """
        pause = pause_between(sent, **ASSEMBLY_PAUSES, chance=self._clock.random())
        delay = max(min(pause, remaining), getattr(failure, "retry_after", None) or 0.0)
        return delay if remaining and delay <= remaining else None

    async def _send(
        self,
        ticket: Ticket,
        parts: Sequence[CompletedPart],
        deadline: Deadline,
        *,
        in_doubt: bool,
    ) -> None:
        """Send one complete request.

        Raises: ApiError, DecodeError, TransportError; InputError or ClientClosed if it was not sent
        (with `in_doubt`, UploadOutcomeUnknown instead).
        """
        self.may_cancel = False
        try:
            await self._builds.complete_upload(
                ticket,
                parts,
                replay=Replay.NEVER,
                flight=self._flight,
                within=max(deadline.remaining(), _MIN_TIMEOUT),
            )
        except asyncio.CancelledError:
            # `unsent`: the request was cancelled while still queued.
            self.may_cancel = self._flight.unsent and not in_doubt
            raise
        except (InputError, ClientClosed) as error:  # not encodable, or session closed
            self.may_cancel = not in_doubt
            if in_doubt:
                raise _unknown(ticket, error) from error
            raise

    async def _is_built_anyway(self, failure: NunuError, ticket: Ticket, size: int) -> bool:
        """Look up the build after a refused complete, before the upload is deleted.

        An edge proxy may have sent the request twice and returned the second response. If the
        lookup does not settle that, `may_cancel` becomes False.
        """
        if not isinstance(failure, ApiError) or isinstance(failure, RateLimited):
            return False
        # A duplicate complete gets 404/409/410, so after one of these an unanswered lookup does not
        # prove that nothing was built.
        is_duplicate = may_be_duplicate(failure)
        self.may_cancel = not is_duplicate
        state = await self._look_up(ticket, size, within=self._timeouts.settle)
        self.may_cancel = state in _NOT_BUILT or (
            state is BuildState.UNANSWERED and not is_duplicate
        )
        return state is BuildState.BUILT

    async def _look_up(
        self, ticket: Ticket, size: int, *, within: float | None = None
    ) -> BuildState:
        """Look up the state of the build: once, or with retries for `within` seconds.

        Marked as in flight: if the caller is cancelled, it is awaited like the complete request
        itself.
        """
        self._flight.on_wire = True
        try:
            replay = Replay.NEVER if within is None else Replay.ALWAYS
            return await build_state(self._builds, ticket, size, replay=replay, within=within)
        finally:
            self._flight.on_wire = False


def _unknown(ticket: Ticket, failure: NunuError) -> UploadOutcomeUnknown:
    return UploadOutcomeUnknown(
        f"build {ticket.build_id}: the server did not say whether it completed the "
        f"upload ({failure}); nothing was deleted, look for the build before "
        "uploading again",
        build_id=ticket.build_id,
        stage="complete",
    )
