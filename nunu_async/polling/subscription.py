"""The state of one wait: what is pending, and what the caller has not handled yet."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

import attrs

from nunu_async.core.clock import Timer
from nunu_async.core.turns import Turns
from nunu_async.errors import NunuError
from nunu_async.polling.schedule import fold

__all__ = ["Change", "Pollable", "Subscription"]


class Pollable(Protocol):
    """A row that can be polled until it is terminal."""

    @property
    def is_terminal(self) -> bool:
        """Whether its state will not change any more."""

    @property
    def succeeded(self) -> bool:
        """Whether it is terminal and ended in success."""


R = TypeVar("R", bound=Pollable)


@attrs.frozen(kw_only=True)
class Change(Generic[R]):
    """A change in the state of something that is waited for.

    Attributes:
        id: the id, as the caller passed it.
        before: the previous state; None the first time that a state is seen.
        after: the new state, as the API spells it.
        row: the row that has the new state.
    """

    id: str
    before: str | None
    after: str
    row: R


class Subscription(Generic[R]):
    """One call that waits, for one id or for many.

    Args:
        turns: limits how many of all waits are woken in one turn of the event loop.

    Attributes:
        pending: ids without an outcome, each with the state of the last `Change` for it.
        news: ids that got an outcome and that the caller has not handled yet.
        changes: those that the caller has not handled yet; None where it wants none.
        finished: terminal rows, by id as the caller passed it.
        id_errors: the errors of single ids, by id as the caller passed it.
        error: what ended the wait for all ids.
        expired: whether the timeout has passed.
        timer: calls `expire`.
    """

    __slots__ = (
        "_spellings",
        "_turns",
        "_waker",
        "changes",
        "error",
        "expired",
        "finished",
        "id_errors",
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
        # UUIDs as the caller wrote them, by their lower-case form where the two differ.
        self._spellings: dict[str, list[str]] = {}
        for name in self.pending:
            if (key := fold(name)) != name:
                self._spellings.setdefault(key, []).append(name)
        self.news: list[str] = []
        self.changes: list[Change[R]] | None = [] if wants_changes else None
        self.finished: dict[str, R] = {}
        self.id_errors: dict[str, NunuError] = {}
        self.error: NunuError | None = None
        self.expired = False
        self.timer: Timer | None = None
        self._waker: asyncio.Future[None] | None = None

    def next_update(self) -> asyncio.Future[None]:
        """Return a future that is done as soon as there is anything to handle.

        A bare future and no task, as thousands of them are kept for long.
        """
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

    def resolve(self, key: str, outcome: R | NunuError) -> None:
        """Record the outcome of one id: its terminal row, or an error."""
        for name in self._pending_names(key):
            del self.pending[name]
            if isinstance(outcome, NunuError):
                self.id_errors[name] = outcome
            else:
                self.finished[name] = outcome
            self.news.append(name)
        self._wake()

    def record_state(self, key: str, state: str, row: R) -> None:
        """Record a `Change` if the state of this id is a new one for this wait."""
        if self.changes is None:
            return
        for name in self._pending_names(key):
            before = self.pending[name]
            if before is None or (before is not state and before.lower() != state.lower()):
                self.pending[name] = state
                self.changes.append(Change(id=name, before=before, after=state, row=row))
                self._wake()

    def fail(self, error: NunuError) -> None:
        """End the wait for all ids with an error."""
        self.error = error
        self._wake()

    def expire(self) -> None:
        """Record that the timeout has passed."""
        self.expired = True
        self._wake()

    def _pending_names(self, key: str) -> list[str]:
        names = self._spellings.get(key, ())
        return [name for name in (key, *names) if name in self.pending]
