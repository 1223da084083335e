"""Completing an upload exactly once, and knowing whether it may still be deleted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from nunu_async.core.cancellation import finish
from nunu_async.core.clock import Clock, time_limit
from nunu_async.core.request import Replay
from nunu_async.core.retry import Attempts, RetryPolicy
from nunu_async.endpoints.builds import Builds
from nunu_async.errors import (
    ApiError,
    DecodeError,
    NotFound,
    NunuError,
    TransportError,
    UploadOutcomeUnknown,
)
from nunu_async.models.builds import CompletedPart, Ticket

__all__ = ["Completion"]

_LOG = logging.getLogger("nunu_async.upload")

# 4xx that do not settle whether the request was acted on.
_UNSETTLED_STATUS: Final = frozenset({408, 409, 425})
# 5xx that the server gives itself; 502, 504 and 52x come from an edge that lost sight of it.
_ENDED_STATUS: Final = frozenset({500, 501})
_UNAVAILABLE: Final = 503
# The words of all published pages; any other word settles nothing.
_BUILT: Final = frozenset({"ok", "ready", "unhealthy"})
_NOT_BUILT: Final = frozenset({"uploading", "failed"})


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
        patience: float,
        on_retry: Callable[[int, float, NunuError], None],
    ) -> None:
        self._builds = builds
        self._clock = clock
        self._policy = policy
        self._patience = patience
        self._on_retry = on_retry
        self.may_cancel = True
        self.done = False
        self._pausing = False

    async def run(self, ticket: Ticket, parts: Sequence[CompletedPart]) -> None:
        """Complete an upload.

        When the caller is cancelled meanwhile, a request under way is heard out first, for at most
        `patience` seconds: deleting unheard could delete a finished build. None is begun any more.

        Raises: ApiError, TransportError or DecodeError when the server did not complete it;
        UploadOutcomeUnknown when it would not say.
        """
        task = asyncio.ensure_future(self._surely(ticket, parts))
        try:
            await asyncio.shield(task)
            self.done = True
        except asyncio.CancelledError:
            await finish(self._hear(ticket, task))
            raise

    async def _hear(self, ticket: Ticket, task: asyncio.Task[None]) -> None:
        if self._pausing:
            task.cancel()
            await asyncio.wait({task})
            return
        try:
            async with time_limit(self._clock, self._patience):
                await task
        except (NunuError, TimeoutError):
            return
        self.done = True
        _LOG.warning("build %s was cancelled too late: it is complete", ticket.build_id)

    async def _surely(self, ticket: Ticket, parts: Sequence[CompletedPart]) -> None:
        """Complete once; a lost answer is settled by asking for the build, never by guessing."""
        attempts = Attempts(self._policy, self._policy.attempts)
        in_doubt = False  # whether a request of ours may have been acted on unheard
        while True:
            self.may_cancel = False
            try:
                await self._builds.complete_upload(ticket, parts)
                return
            except (ApiError, DecodeError, TransportError) as error:
                failure = error
            refused = _did_nothing(failure)
            if refused and not in_doubt:
                self.may_cancel = True
                raise failure
            built = await self._is_built(ticket)
            if built:
                return
            in_doubt = in_doubt or built is None or not _was_answered(failure)
            delay = None
            if not refused:
                chance = self._clock.random()
                delay = attempts.pause_after(failure, replay=Replay.ALWAYS, chance=chance)
            if delay is None:
                if not in_doubt:
                    self.may_cancel = True
                    raise failure
                raise UploadOutcomeUnknown(
                    f"build {ticket.build_id}: the server did not say whether it completed the "
                    f"upload ({failure}); nothing was deleted, look for the build before "
                    "uploading again",
                    build_id=ticket.build_id,
                    stage="complete",
                ) from failure
            self._on_retry(attempts.made, delay, failure)
            self.may_cancel = not in_doubt
            self._pausing = True
            await self._clock.sleep(delay)
            self._pausing = False

    async def _is_built(self, ticket: Ticket) -> bool | None:
        """Ask the server whether the build exists; None where it would not say."""
        try:
            build = await self._builds.get(ticket.build_id)
        except NotFound:
            return False
        except NunuError:
            return None
        status = (build.status or "").lower()
        return True if status in _BUILT else False if status in _NOT_BUILT else None


def _did_nothing(failure: NunuError) -> bool:
    """Tell whether it is certain that this very request was not acted on."""
    if isinstance(failure, TransportError):
        return not failure.sent
    if not isinstance(failure, ApiError):
        return False
    if failure.status == _UNAVAILABLE:
        return True  # and the session has tried it as often as the policy allows
    return (
        300 <= failure.status < 500  # noqa: PLR2004 - HTTP's redirects and client errors
        and failure.status not in _UNSETTLED_STATUS
    )


def _was_answered(failure: NunuError) -> bool:
    """Tell whether the server itself has ended the request, and not an edge in front of it."""
    return isinstance(failure, ApiError) and failure.status in _ENDED_STATUS
