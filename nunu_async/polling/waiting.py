"""Wait for all of many ids, or yield each row as it becomes terminal."""

from __future__ import annotations

import copy
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from typing import Generic, TypeVar

import attrs
from attrs.validators import optional

from nunu_async.core.clock import Clock
from nunu_async.endpoints.ids import path_id
from nunu_async.errors import InputError, NotFound, NunuError, RunFailed, WaitTimeout
from nunu_async.models.checks import check, describe
from nunu_async.polling.arguments import INTERVAL
from nunu_async.polling.poller import Poller
from nunu_async.polling.subscription import Change, Pollable, Subscription

R = TypeVar("R", bound=Pollable)

# Thirty years; excludes infinity, and integers too large for a float.
_MAX_SECONDS = 1e9


def _is_seconds(value: object) -> bool:
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else 0
    return 0 < number <= _MAX_SECONDS  # also False for NaN


_seconds = check(_is_seconds, "a number of seconds above 0")
OnChange = Callable[[Change[R]], Awaitable[None] | None]


@attrs.frozen(kw_only=True)
class WaitOptions(Generic[R]):
    """The options of one wait.

    Raises: InputError when `timeout` or `interval` is not a positive number of seconds.
    """

    timeout: float | None = attrs.field(default=None, validator=optional(_seconds))
    interval: float = attrs.field(default=INTERVAL, validator=_seconds)
    on_change: OnChange[R] | None = None
    raise_on_failure: bool = False


class WaitApi(Generic[R]):
    """Waits for ids of one resource."""

    def __init__(self, poller: Poller[R], *, clock: Clock) -> None:
        self._poller = poller
        self._clock = clock

    async def many(self, names: Sequence[str], terms: WaitOptions[R]) -> tuple[R, ...]:
        """Wait until all ids are terminal; return their rows in the order of the ids.

        Raises: InputError; WaitTimeout; NotFound, once all other ids are terminal; RunFailed if
        `raise_on_failure` is set; AuthenticationError, PermissionDenied, ClientClosed immediately.
        """
        names = self._validated(names)  # rebound, as ten thousand tasks may keep this frame alive
        wait = self._open(names, terms)
        try:
            if names:
                await self._poller.join(wait)
            while wait.pending:
                await wait.next_update()
                await self._report_changes(wait, terms)
                self._raise_if_ended(wait, terms)
                wait.news.clear()
        finally:
            await self._close(wait)
        return self._result(names, wait, terms)

    async def as_completed(
        self, names: Sequence[str], terms: WaitOptions[R]
    ) -> AsyncGenerator[R, None]:
        """Yield the row of each id as it becomes terminal, each id once.

        Raises: the errors of `many`, but RunFailed at the first failed row.
        """
        ids = self._validated(names)
        wait = self._open(ids, terms)
        try:
            if ids:
                await self._poller.join(wait)
            while wait.pending or wait.news:
                await wait.next_update()
                await self._report_changes(wait, terms)
                self._raise_if_ended(wait, terms)
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
        for name in wait.id_errors:
            raise _annotated(wait.id_errors[name], wait)

    def _validated(self, names: Sequence[str]) -> list[str]:
        kind = self._poller.kind.name
        if isinstance(names, str) or not isinstance(names, Iterable):
            raise InputError(f"{kind}_ids", f"must be a list of ids, not {describe(names)}")
        return [path_id(f"{kind}_id", name) for name in names]

    def _open(self, names: Sequence[str], terms: WaitOptions[R]) -> Subscription[R]:
        wait: Subscription[R] = Subscription(
            pending=dict.fromkeys(names),
            interval=terms.interval,
            turns=self._poller.turns,
            changes=None if terms.on_change is None else [],
        )
        if names and terms.timeout is not None:
            wait.timer = self._clock.call_later(terms.timeout, wait.expire)
        return wait

    async def _close(self, wait: Subscription[R]) -> None:
        if wait.timer is not None:
            wait.timer.cancel()
        await self._poller.leave(wait)

    def _result(
        self, names: Sequence[str], wait: Subscription[R], terms: WaitOptions[R]
    ) -> tuple[R, ...]:
        for name in names:
            if name in wait.id_errors:
                raise _annotated(wait.id_errors[name], wait)
        if terms.raise_on_failure:
            failed = [name for name in names if not wait.finished[name].succeeded]
            if failed:
                raise RunFailed(tuple(dict.fromkeys(failed)), finished=wait.finished)
        return tuple([wait.finished[name] for name in names])

    def _raise_if_ended(self, wait: Subscription[R], terms: WaitOptions[R]) -> None:
        """Raise the error or timeout that ends this wait, once all outcomes have been handled."""
        if wait.expired and wait.error is None:
            self._poller.settle(wait)
        if wait.news:
            return
        if wait.error is not None:
            raise copy.copy(wait.error)  # shared by all waits, and raising extends its traceback
        if wait.expired and terms.timeout is not None:
            raise WaitTimeout(
                terms.timeout,
                finished=wait.finished,
                pending=dict.fromkeys(wait.id_errors)
                | {name: self._poller.state_of(name) for name in wait.pending},
            )

    async def _report_changes(self, wait: Subscription[R], terms: WaitOptions[R]) -> None:
        while wait.changes and terms.on_change is not None:
            changes, wait.changes = wait.changes, []
            for change in changes:
                if wait.expired or wait.error is not None:
                    return
                awaitable = terms.on_change(change)
                if inspect.isawaitable(awaitable):
                    await awaitable


def _annotated(error: NunuError, wait: Subscription[R]) -> NunuError:
    if isinstance(error, NotFound):
        error.finished = dict(wait.finished)
    if len(wait.id_errors) > 1:
        error.add_note(f"the same or another error came for {len(wait.id_errors) - 1} more ids")
    return error
