"""One look at the service: what it is for, how it reads, and how it goes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from datetime import datetime
from typing import Generic, TypeVar

import attrs

from nunu_async.errors import (
    ApiError,
    AuthenticationError,
    CertificateError,
    ConfigError,
    DecodeError,
    NunuError,
    PermissionDenied,
    TransportError,
)
from nunu_async.models.page import Page
from nunu_async.polling.wait import Outcome

__all__ = ["ENOUGH_FAILURES", "WIDTH", "Kind", "Look", "Read", "all_at_once", "batch", "page_count"]

R = TypeVar("R", bound=Outcome)
T = TypeVar("T")
Read = Callable[[int], Awaitable[Page[R]]]

# Pages or single rows asked for at once; the gate of the session is shared with other calls.
WIDTH = 8
# Failures after which the server is left in peace.
ENOUGH_FAILURES = 8
_ROWS = 100
_TRANSIENT = frozenset({408, 425, 429})


@attrs.frozen(kw_only=True)
class Kind(Generic[R]):
    """What can be waited for, and how to look at it.

    Attributes:
        name: in the singular, for messages.
        key: the id of a row.
        state: the state of a row, in the service's word.
        moment: when a row began: what `done` is sorted by, newest first, where there is no `get`.
        active: pages of the lists that together hold all that is not over, in the order in which
            a row goes through them: one that moves on while they are read is met again.
        done: pages of the list of what is over.
        get: one row by its id; None where the service has no such operation.
        path: of the list, for messages.
        is_settled: whether a row that is over has its result; a server that lags behind may take
            back that it is over.
    """

    name: str
    key: Callable[[R], str]
    state: Callable[[R], str]
    moment: Callable[[R], datetime | None]
    active: tuple[Read[R], ...]
    done: Read[R]
    path: str
    is_settled: Callable[[R], bool] = lambda _: True
    get: Callable[[str], Awaitable[R]] | None = None


@attrs.define
class Look:
    """What one look is for, and how it goes."""

    left: set[str]
    inconclusive: set[str] = attrs.field(factory=set)
    requests: int = 0
    failures: int = 0
    retry_after: float | None = None
    unknown: set[str] = attrs.field(factory=set)
    is_moving: bool = False
    unreadable: NunuError | None = None
    fatal: NunuError | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to be asked now: all was found, or the server named a time."""
        return not self.left or self.retry_after is not None

    def failed(self, error: NunuError) -> bool:
        """Take note of a failure; tell whether it may pass by itself."""
        if is_transient(error):
            self.failures += 1
            asked = getattr(error, "retry_after", None)
            if asked is not None:
                self.retry_after = max(self.retry_after or 0.0, asked)
            return True
        if isinstance(
            error, AuthenticationError | PermissionDenied | ConfigError | CertificateError
        ):
            self.fatal = error
        return False


async def all_at_once(work: Iterable[Coroutine[object, object, T]]) -> list[T]:
    """Do all at once; the first that fails ends the others, and none is left behind."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        if not all(task.done() for task in tasks):
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


def batch(left: int) -> int:
    """Return how many pages to ask for at once: what is left would fill them, all in one place."""
    return min(-(-left // _ROWS), WIDTH)


def page_count(page: Page[R]) -> int:
    """Return how many pages a list has, by whichever of the server's two counts says more."""
    told = page.pagination
    return max(told.total_pages, -(-told.total_count // max(told.page_size, 1)))


def is_transient(error: NunuError) -> bool:
    match error:
        case CertificateError():
            return False
        case TransportError():
            return True
        case ApiError():
            return error.status in _TRANSIENT or error.status >= 500  # noqa: PLR2004 - server's
        case DecodeError():
            return error.garbled
        case _:
            return False
