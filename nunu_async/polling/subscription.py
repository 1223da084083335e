"""The state of one wait: pending ids, and updates that the caller has not handled yet."""

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
        """Whether the state can no longer change."""

    @property
    def succeeded(self) -> bool:
        """Whether the row is terminal and successful."""


R = TypeVar("R", bound=Pollable)

# A shared empty default, as ten thousand waits may need no dictionary of their own.
_NONE: Final[dict[str, list[str]]] = {}


@attrs.frozen(kw_only=True)
class Change(Generic[R]):
    """A state change of an id that is waited for.

    Attributes:
        id: the id, as the caller passed it.
        before: the previous state; None for the first state seen.
        after: the new state, as the API spells it.
        row: the row with the new state.
    """

    id: str
    before: str | None
    after: str
    row: R


@attrs.define(eq=False, weakref_slot=False)
class Subscription(Generic[R]):
    """One call that waits for one or more ids.

    Attributes:
        pending: ids without an outcome, mapped to the state of their last `Change`.
        interval: seconds between two polls.
        turns: limits how many waits are woken per event loop iteration; shared by all waits.
        changes: state changes not handled by the caller yet; None if it does not want them.
        news: ids whose outcome the caller has not handled yet.
        finished: terminal rows, keyed by id as the caller passed it.
        id_errors: errors of single ids, keyed by id as the caller passed it.
        error: the error that ended the wait for all ids.
        expired: whether the timeout has passed.
        timer: calls `expire` at the timeout.
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
        """Return a future that is done as soon as there is an update to handle.

        A plain future instead of a task, as thousands of them may be pending for a long time.
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
        """Record a `Change` if the state of this id is new to this wait."""
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
