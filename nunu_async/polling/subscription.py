"""The state of one wait: what is pending, and what the caller has not handled yet."""

from __future__ import annotations

import asyncio
from typing import Final, Generic, Protocol, TypeVar

import attrs

from nunu_async.core.clock import Timer
from nunu_async.core.turns import Turns
from nunu_async.errors import NunuError
from nunu_async.polling.schedule import fold


class Pollable(Protocol):
    """A row that can be polled until it is terminal."""

    @property
    def is_terminal(self) -> bool:
        """Whether its state will not change any more."""

    @property
    def succeeded(self) -> bool:
        """Whether it is terminal and ended in success."""


R = TypeVar("R", bound=Pollable)

# Shared, as ten thousand waits may need none of their own.
_NONE: Final[dict[str, list[str]]] = {}


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


@attrs.define(eq=False, weakref_slot=False)
class Subscription(Generic[R]):
    """One call that waits, for one id or for many.

    Attributes:
        pending: ids without an outcome, each with the state of the last `Change` for it.
        interval: seconds between two polls.
        turns: limits how many of all waits are woken in one turn of the event loop.
        changes: those that the caller has not handled yet; None where it wants none.
        news: ids that got an outcome and that the caller has not handled yet.
        finished: terminal rows, by id as the caller passed it.
        id_errors: the errors of single ids, by id as the caller passed it.
        error: what ended the wait for all ids.
        expired: whether the timeout has passed.
        timer: calls `expire`.
    """

    pending: dict[str, str | None]
    interval: float
    turns: Turns
    changes: list[Change[R]] | None
    news: list[str] = attrs.field(factory=list, init=False)
    finished: dict[str, R] = attrs.field(factory=dict, init=False)
    id_errors: dict[str, NunuError] = attrs.field(factory=dict, init=False)
    error: NunuError | None = attrs.field(default=None, init=False)
    expired: bool = attrs.field(default=False, init=False)
    timer: Timer | None = attrs.field(default=None, init=False)
    # UUIDs as the caller wrote them, keyed by lower-case form; only if they differ.
    _spellings: dict[str, list[str]] = attrs.field(default=_NONE, init=False)
    _waker: asyncio.Future[None] | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        spellings: dict[str, list[str]] = {}
        for name in self.pending:
            if (key := fold(name)) != name:
                spellings.setdefault(key, []).append(name)
        if spellings:
            self._spellings = spellings

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
            self.turns.wake(waker)

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
