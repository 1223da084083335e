"""One call that waits, and what it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

import attrs

from nunu_async.core.clock import Timer
from nunu_async.core.turns import Turns
from nunu_async.errors import NunuError
from nunu_async.polling.board import fold

__all__ = ["Change", "Outcome", "Wait"]


class Outcome(Protocol):
    """A row that says whether it is over."""

    @property
    def is_terminal(self) -> bool:
        """Whether nothing about it will change any more."""

    @property
    def succeeded(self) -> bool:
        """Whether it is over and ended well."""


R = TypeVar("R", bound=Outcome)


@attrs.frozen(kw_only=True)
class Change(Generic[R]):
    """Something that is waited for was seen in another state.

    Attributes:
        id: the id that was asked for.
        before: the state seen before; None at the first sight.
        after: the state now, in the service's word.
        row: the whole row that says so.
    """

    id: str
    before: str | None
    after: str
    row: R


class Wait(Generic[R]):
    """One call that waits, for one id or for many.

    Args:
        turns: who of all that wait is woken in which turn of the loop.

    Attributes:
        pending: ids that are neither over nor given up, each with the state told last.
        news: ids that ended since the caller looked.
        changes: what was seen since the caller looked; None where nobody wants to know.
        finished: rows that are over, by id as asked for.
        given_up: errors that ended the wait for one id alone.
        error: what ended the wait for all of them.
        expired: its time is over.
        timer: what tells so.
    """

    __slots__ = (
        "_spelt",
        "_turns",
        "_waker",
        "changes",
        "error",
        "expired",
        "finished",
        "given_up",
        "interval",
        "news",
        "pending",
        "timer",
    )

    def __init__(
        self, ids: Iterable[str], *, interval: float, wants_changes: bool, turns: Turns
    ) -> None:
        self._turns = turns
        self.interval = interval
        self.pending: dict[str, str | None] = dict.fromkeys(ids)
        # UUIDs that were written in another case than they are compared in.
        self._spelt: dict[str, list[str]] = {}
        for name in self.pending:
            if (key := fold(name)) != name:
                self._spelt.setdefault(key, []).append(name)
        self.news: list[str] = []
        self.changes: list[Change[R]] | None = [] if wants_changes else None
        self.finished: dict[str, R] = {}
        self.given_up: dict[str, NunuError] = {}
        self.error: NunuError | None = None
        self.expired = False
        self.timer: Timer | None = None
        self._waker: asyncio.Future[None] | None = None

    def stirred(self) -> asyncio.Future[None]:
        """Return what is done once there is anything new: a bare future, for it is kept long."""
        waker = asyncio.get_running_loop().create_future()
        if self.news or self.changes or self.error or self.expired:
            waker.set_result(None)
        else:
            self._waker = waker
        return waker

    def _wake(self) -> None:
        waker, self._waker = self._waker, None
        if waker is not None:
            self._turns.wake(waker)

    def ended(self, key: str, outcome: R | NunuError) -> None:
        """Take note of what became of one id."""
        for name in self._named(key):
            del self.pending[name]
            if isinstance(outcome, NunuError):
                self.given_up[name] = outcome
            else:
                self.finished[name] = outcome
            self.news.append(name)
        self._wake()

    def saw(self, key: str, state: str, row: R) -> None:
        """Take note of a sight of one id, where that is news to this wait."""
        if self.changes is None:
            return
        for name in self._named(key):
            before = self.pending[name]
            if before is None or (before is not state and before.lower() != state.lower()):
                self.pending[name] = state
                self.changes.append(Change(id=name, before=before, after=state, row=row))
                self._wake()

    def fail(self, error: NunuError) -> None:
        """Take note of what ends it all."""
        self.error = error
        self._wake()

    def expire(self) -> None:
        """Take note that its time is over."""
        self.expired = True
        self._wake()

    def _named(self, key: str) -> list[str]:
        names = self._spelt.get(key, ())
        return [name for name in (key, *names) if name in self.pending]
