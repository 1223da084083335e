"""Completing an upload exactly once, and knowing whether it may still be deleted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from enum import Enum, auto
from typing import Final

from nunu_async.config import Timeouts
from nunu_async.core.cancellation import finish
from nunu_async.core.clock import Clock, Deadline, time_limit
from nunu_async.core.request import Flight, Replay
from nunu_async.core.retry import Attempts, RetryPolicy, is_in_progress, pause_between
from nunu_async.endpoints.builds import CARRIES_ERROR, Builds
from nunu_async.errors import (
    ApiError,
    ClientClosed,
    DecodeError,
    InputError,
    NotFound,
    NunuError,
    RateLimited,
    ServerError,
    TransportError,
    UploadOutcomeUnknown,
)
from nunu_async.models.builds import Build, CompletedPart, Ticket

__all__ = ["Completion", "is_built"]

_LOG = logging.getLogger("nunu_async.upload")

# Seconds that a last request gets when the time for all of them is nearly spent.
_LEAST: Final = 1.0

# Seconds between completes while the server says that one is in progress: at first, and at most.
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 20.0
# What the second of two equal requests is answered when the first has worked.
_OF_A_SECOND: Final = frozenset({404, 409, 410})
# 5xx that come from an edge which lost sight of the server, whatever their body says.
_EDGE_STATUS: Final = frozenset({502, 504, *range(520, 525)})
# Redirects that want the same request made elsewhere: here it was not acted on. The others may say
# where to read of what was done.
_SAME_AGAIN: Final = frozenset({307, 308})
# The words of all published pages; any other word settles nothing. `UNHEALTHY` is one of those: no
# page says whether a build that is still being sent can have it.
_BUILT: Final = frozenset({"ok", "ready"})
_NOT_BUILT: Final = frozenset({"uploading", "failed"})


class _Standing(Enum):
    """What the server says of a build."""

    BUILT = auto()
    NOT_BUILT = auto()
    FAILED = auto()
    """Not built, and never to be."""
    ODD = auto()
    """It is there, in a state that may be either."""
    UNHEARD = auto()


class Completion:
    """The end of one upload.

    Attributes:
        may_cancel: False from the moment a complete is on its way until a definite "no" to it:
            deleting then could delete a build that exists.
        done: whether the server has said that the build is complete.
    """

    def __init__(
        self,
        builds: Builds,
        *,
        clock: Clock,
        policy: RetryPolicy,
        timeouts: Timeouts,
        on_retry: Callable[[int, float, NunuError], Awaitable[None]],
    ) -> None:
        self._builds = builds
        self._clock = clock
        self._policy = policy
        self._timeouts = timeouts
        self._on_retry = on_retry
        self._flight = Flight()
        self._is_asking = False
        self._called_off = False
        self.may_cancel = True
        self.done = False

    async def run(self, ticket: Ticket, size: int, parts: Sequence[CompletedPart]) -> None:
        """Complete an upload of `size` bytes.

        When the caller is cancelled meanwhile, a request on the wire is heard out first, and so is
        the question what became of one, for at most the `settle` limit: deleting unheard could
        delete a finished build. None is begun any more.

        Raises: ApiError, TransportError or DecodeError when the server did not complete it;
        UploadOutcomeUnknown when it would not say.
        """
        task = asyncio.ensure_future(self._surely(ticket, size, parts))
        try:
            await asyncio.shield(task)
            self.done = True
        except asyncio.CancelledError:
            await finish(self._hear(ticket, task))
            raise

    async def _hear(self, ticket: Ticket, task: asyncio.Task[None]) -> None:
        self._flight.last = True
        if not (self._flight.on_wire or self._is_asking):
            self._called_off = True
            task.cancel()
            await asyncio.wait({task})
        else:
            with suppress(NunuError, TimeoutError):
                async with time_limit(self._clock, self._timeouts.settle):
                    await task
        if task.done() and not task.cancelled() and task.exception() is None:
            self.done = True
            _LOG.warning("build %s was cancelled too late: it is complete", ticket.build_id)

    async def _surely(self, ticket: Ticket, size: int, parts: Sequence[CompletedPart]) -> None:
        """Complete once; a lost answer is settled by asking for the build, never by guessing."""
        attempts = Attempts(self._policy, self._policy.attempts)
        deadline = Deadline(self._clock, self._timeouts.complete)
        sent = 0
        tried = False  # whether a request may have reached the part of the server that acts
        in_doubt = False  # whether one may have been acted on unheard
        while True:
            failure = await self._once(ticket, parts, deadline, in_doubt=in_doubt)
            if failure is None:
                return
            sent += 1
            refused = _did_nothing(failure)
            standing: _Standing | None = None
            if not refused or (tried and isinstance(failure, NotFound)):
                # A 404 after a try that went wrong may be the answer to one that went well.
                standing = await self._ask(ticket, size)
                if standing is _Standing.BUILT:
                    return
                settled = standing is _Standing.NOT_BUILT and _was_explained(failure)
                in_doubt = in_doubt or refused or not settled
                if standing is _Standing.FAILED:  # the end of whatever was in progress
                    in_doubt = False
            tried = tried or not refused
            self.may_cancel = not in_doubt
            delay = self._pause_after(failure, attempts, deadline, sent, in_doubt=in_doubt)
            if delay is None or self._flight.last:
                if refused and standing is None:
                    if await self._is_there(failure, ticket, size):
                        return
                    in_doubt = in_doubt or not self.may_cancel
                    self.may_cancel = not in_doubt
                if in_doubt:
                    raise _unknown(ticket, failure) from failure
                raise failure
            await self._on_retry(sent, delay, failure)
            await self._clock.sleep(delay)

    def _pause_after(
        self,
        failure: NunuError,
        attempts: Attempts,
        deadline: Deadline,
        sent: int,
        *,
        in_doubt: bool,
    ) -> float | None:
        """Return the seconds to wait before the next complete; None to give up."""
        if not (in_doubt and is_in_progress(failure)):
            return attempts.pause_after(
                _as_refusal(failure),
                replay=Replay.ALWAYS,
                chance=self._clock.random(),
                remaining=deadline.remaining(),
            )
        # No failure that `RetryPolicy.attempts` counts: a server at work has the whole limit.
        # Its end is waited for, so that the last look at the build is not an early one.
        remaining = deadline.remaining()
        pause = pause_between(
            sent, first=_FIRST_PAUSE, longest=_LONGEST_PAUSE, chance=self._clock.random()
        )
        delay = max(min(pause, remaining), getattr(failure, "retry_after", None) or 0.0)
        return delay if remaining and delay <= remaining else None

    async def _once(
        self,
        ticket: Ticket,
        parts: Sequence[CompletedPart],
        deadline: Deadline,
        *,
        in_doubt: bool,
    ) -> ApiError | DecodeError | TransportError | None:
        """Ask the server once to complete; return what went wrong, None where nothing did.

        Raises: what shows that nothing went out this time.
        """
        self.may_cancel = False
        try:
            await self._builds.complete_upload(
                ticket,
                parts,
                replay=Replay.NEVER,
                flight=self._flight,
                within=max(deadline.remaining(), _LEAST),
            )
        except asyncio.CancelledError:
            # Called off while it waited to go out: this one has asked for nothing.
            self.may_cancel = self._called_off and not in_doubt
            raise
        except (InputError, ClientClosed) as error:  # it cannot be written, or the session is gone
            self.may_cancel = not in_doubt
            if in_doubt:
                raise _unknown(ticket, error) from error
            raise
        except (ApiError, DecodeError, TransportError) as error:
            return error
        return None

    async def _is_there(self, failure: NunuError, ticket: Ticket, size: int) -> bool:
        """Ask for the build of an upload that was refused, before that is deleted.

        An edge may have sent the request twice, and have told of the second one. Where the answer
        leaves that open, `may_cancel` ends.
        """
        if not isinstance(failure, ApiError) or isinstance(failure, RateLimited):
            return False
        # The second one of two finds nothing to complete any more. Of that, too, silence is no no.
        is_second = failure.status in _OF_A_SECOND
        self.may_cancel = not is_second
        standing = await self._ask(ticket, size, within=self._timeouts.settle)
        self.may_cancel = standing in (_Standing.NOT_BUILT, _Standing.FAILED) or (
            standing is _Standing.UNHEARD and not is_second
        )
        return standing is _Standing.BUILT

    async def _ask(self, ticket: Ticket, size: int, *, within: float | None = None) -> _Standing:
        """Ask the server what became of the build: once, or for `within` seconds."""
        self._is_asking = True
        try:
            replay = Replay.NEVER if within is None else Replay.ALWAYS
            build = await self._builds.of_upload(ticket, replay=replay, within=within)
        except NotFound:
            return _Standing.NOT_BUILT
        except NunuError:
            return _Standing.UNHEARD
        finally:
            self._is_asking = False
        built = is_built(build, size)
        if built is None:
            return _Standing.ODD
        if (build.status or "").lower() == "failed":
            return _Standing.FAILED
        return _Standing.BUILT if built else _Standing.NOT_BUILT


def is_built(build: Build, size: int) -> bool | None:
    """Tell whether the server has made a build of an upload; None where it says neither."""
    status = (build.status or "").lower()
    if build.size in (None, size) and status in _BUILT | _NOT_BUILT:
        return status in _BUILT
    return None


def _unknown(ticket: Ticket, failure: NunuError) -> UploadOutcomeUnknown:
    return UploadOutcomeUnknown(
        f"build {ticket.build_id}: the server did not say whether it completed the "
        f"upload ({failure}); nothing was deleted, look for the build before "
        "uploading again",
        build_id=ticket.build_id,
        stage="complete",
    )


def _did_nothing(failure: NunuError) -> bool:
    """Tell whether it is certain that this very request was not acted on."""
    if isinstance(failure, TransportError):
        return not failure.sent
    return (
        isinstance(failure, ApiError)
        and 400 <= failure.status < 500  # noqa: PLR2004 - HTTP's client errors
        and failure.status != 408  # noqa: PLR2004 - an edge may have passed it on
        and not is_in_progress(failure)
        # "no such page" of some edge is not "no such upload"
        and (failure.explained or not isinstance(failure, NotFound))
    )


def _as_refusal(failure: NunuError) -> NunuError:
    """Return what to repeat by: a 200 that is no success is a server error that hides as one."""
    if isinstance(failure, DecodeError):
        return ServerError(status=500, message=str(failure))
    return failure


def _was_explained(failure: NunuError) -> bool:
    """Tell whether the API itself has ended the request, in its own words or by HTTP's."""
    if is_in_progress(failure):
        return False
    if isinstance(failure, DecodeError):
        return any(told.startswith(CARRIES_ERROR) for told in failure.problems)
    if not isinstance(failure, ApiError):
        return False
    if failure.status < 400:  # noqa: PLR2004 - HTTP's redirects
        return failure.status in _SAME_AGAIN
    return failure.explained and failure.status not in _EDGE_STATUS
