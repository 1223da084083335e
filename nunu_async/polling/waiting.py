"""Waiting, as callers see it: for one, for many, or for each as it is over."""

from __future__ import annotations

import copy
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from typing import Generic, TypeVar

import attrs

from nunu_async.core.clock import Clock
from nunu_async.endpoints.ids import in_path
from nunu_async.errors import InputError, NotFound, NunuError, RunFailed, WaitTimeout
from nunu_async.models.checks import short
from nunu_async.polling import INTERVAL
from nunu_async.polling.wait import Change, Outcome, Wait
from nunu_async.polling.watcher import Watcher

__all__ = ["OnChange", "Terms", "Waiter"]

R = TypeVar("R", bound=Outcome)

_LONGEST = 1e9
OnChange = Callable[[Change[R]], Awaitable[None] | None]


@attrs.frozen
class Terms(Generic[R]):
    """How one call waits.

    Raises: InputError for a time that cannot be meant.
    """

    timeout: float | None = None
    interval: float = INTERVAL
    on_change: OnChange[R] | None = None
    raise_on_failure: bool = False

    def __attrs_post_init__(self) -> None:
        if self.timeout is not None:
            _check_seconds("timeout", self.timeout)
        _check_seconds("interval", self.interval)


def _check_seconds(field: str, value: object) -> None:
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else 0
    # Thirty years: more is infinity, or an integer that is no float. NaN is not above 0.
    if not 0 < number <= _LONGEST:
        raise InputError(field, f"must be a number of seconds above 0, not {short(value)}")


class Waiter(Generic[R]):
    """Waits for one kind of thing."""

    def __init__(self, watcher: Watcher[R], *, clock: Clock) -> None:
        self._watcher = watcher
        self._clock = clock

    async def one(self, name: str, terms: Terms[R]) -> R:
        """Return the row of one id once it is over.

        Raises: what `many` does.
        """
        # As `many`, in one coroutine: ten thousand tasks are kept in this very frame.
        (wanted,) = self._checked((name,))
        wait = self._open((wanted,), terms)
        try:
            self._watcher.join(wait)
            while wait.pending:
                await wait.stirred()
                await self._tell(wait, terms)
                self._check(wait, terms)
                wait.news.clear()
        finally:
            await self._close(wait)
        return self._outcome([wanted], wait, terms)[0]

    async def many(self, names: Sequence[str], terms: Terms[R]) -> tuple[R, ...]:
        """Return the rows of ids in the order given, once all are over.

        Raises: InputError; WaitTimeout; NotFound, once all the others are over; RunFailed where
        that was asked for; AuthenticationError, PermissionDenied and ClientClosed at once.
        """
        wanted = self._checked(names)
        wait = self._open(wanted, terms)
        try:
            if wanted:
                await self._watcher.join_many(wait)
            while wait.pending:
                await wait.stirred()
                await self._tell(wait, terms)
                self._check(wait, terms)
                wait.news.clear()
        finally:
            await self._close(wait)
        return self._outcome(wanted, wait, terms)

    async def as_completed(self, names: Sequence[str], terms: Terms[R]) -> AsyncGenerator[R, None]:
        """Give the row of each id as it is over, each id once.

        Raises: what `many` does; RunFailed at the first that failed.
        """
        wanted = self._checked(names)
        wait = self._open(wanted, terms)
        try:
            if wanted:
                await self._watcher.join_many(wait)
            while wait.pending or wait.news:
                await wait.stirred()
                await self._tell(wait, terms)
                self._check(wait, terms)
                ready, wait.news = wait.news, []
                for name in ready:
                    if name not in wait.finished:
                        continue
                    row = wait.finished[name]
                    if terms.raise_on_failure and not row.succeeded:
                        raise RunFailed((name,), finished=wait.finished)
                    yield row
        finally:
            await self._close(wait)
        for name in wait.given_up:
            raise _with_rest(wait.given_up[name], wait)

    def _checked(self, names: Sequence[str]) -> list[str]:
        kind = self._watcher.kind.name
        if isinstance(names, str) or not isinstance(names, Iterable):
            raise InputError(f"{kind}_ids", f"must be a list of ids, not {short(names)}")
        return [in_path(f"{kind}_id", name) for name in names]

    def _open(self, names: Sequence[str], terms: Terms[R]) -> Wait[R]:
        wait: Wait[R] = Wait(
            names,
            interval=terms.interval,
            wants_changes=terms.on_change is not None,
            turns=self._watcher.turns,
        )
        if names and terms.timeout is not None:
            wait.timer = self._clock.call_later(terms.timeout, wait.expire)
        return wait

    async def _close(self, wait: Wait[R]) -> None:
        if wait.timer is not None:
            wait.timer.cancel()
        await self._watcher.leave(wait)

    def _outcome(self, names: list[str], wait: Wait[R], terms: Terms[R]) -> tuple[R, ...]:
        for name in names:
            if name in wait.given_up:
                raise _with_rest(wait.given_up[name], wait)
        if terms.raise_on_failure:
            failed = [name for name in names if not wait.finished[name].succeeded]
            if failed:
                raise RunFailed(tuple(dict.fromkeys(failed)), finished=wait.finished)
        return tuple([wait.finished[name] for name in names])

    def _check(self, wait: Wait[R], terms: Terms[R]) -> None:
        """Raise what ends the whole wait; what came in time is given out first."""
        if wait.expired and wait.error is None:
            self._watcher.settle(wait)
        if wait.news:
            return
        if wait.error is not None:
            raise copy.copy(wait.error)  # shared by all: each adds to the traceback of its own
        if wait.expired and terms.timeout is not None:
            raise WaitTimeout(
                terms.timeout,
                finished=wait.finished,
                pending=dict.fromkeys(wait.given_up)
                | {name: self._watcher.state_of(name) for name in wait.pending},
            )

    async def _tell(self, wait: Wait[R], terms: Terms[R]) -> None:
        while wait.changes and terms.on_change is not None:
            changes, wait.changes = wait.changes, []
            for change in changes:
                if wait.expired or wait.error is not None:
                    return
                told = terms.on_change(change)
                if inspect.isawaitable(told):
                    await told


def _with_rest(error: NunuError, wait: Wait[R]) -> NunuError:
    if isinstance(error, NotFound):
        error.finished = dict(wait.finished)
    if len(wait.given_up) > 1:
        error.add_note(f"the same or another error came for {len(wait.given_up) - 1} more ids")
    return error
