"""A resource to poll, and the targets and results of one poll round."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from datetime import datetime
from typing import Generic, TypeVar

import attrs

from nunu_async.core.retry import is_passing
from nunu_async.errors import (
    AuthenticationError,
    CertificateError,
    ConfigError,
    NunuError,
    PermissionDenied,
)
from nunu_async.models.page import Page
from nunu_async.polling.subscription import Pollable

R = TypeVar("R", bound=Pollable)
T = TypeVar("T")
Read = Callable[[int], Awaitable[Page[R]]]

# Concurrent requests; kept low, as other calls share the session's request limit.
CONCURRENCY = 8
# Failed requests after which a poll round sends no more.
MAX_FAILURES = 8
_PAGE_SIZE = 100


@attrs.frozen(kw_only=True)
class PollSource(Generic[R]):
    """A resource that can be waited for, and the operations that poll it.

    Attributes:
        name: the singular noun for messages.
        key: returns the id of a row.
        state: returns the state of a row, as the API spells it.
        moment: returns the start time of a row. If `get` is None, `done` must be sorted by start
            time, newest first.
        active: functions that each read a page of one list of non-terminal rows; in the order in
            which a row moves through the lists, so that a row that moves meanwhile is not missed.
        done: reads a page of the list of terminal rows.
        get: reads one row by its id; None where the API has no such operation.
        path: the API path of the list, for messages.
        is_settled: returns whether a terminal row has its result. An eventually consistent server
            may return a row as terminal without a result, and later as active again.
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
class PollRound:
    """The targets and the progress of one poll round.

    Attributes:
        left: ids not found yet.
        inconclusive: ids that may be on a page that was not read.
        retry_after: the longest Retry-After received, in seconds.
        unknown: ids for which the server returned 404.
        is_moving: whether rows entered or left a list while it was read.
        unreadable: the last non-transient error, or a DecodeError for skipped rows.
        fatal: an error that ends every wait.
    """

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
    def is_done(self) -> bool:
        """Whether the round is finished: all ids were found, or a Retry-After was received."""
        return not self.left or self.retry_after is not None

    def failed(self, error: NunuError) -> bool:
        """Record a failed request; return whether the error is transient."""
        if is_passing(error):
            self.failures += 1
            retry_after = getattr(error, "retry_after", None)
            if retry_after is not None:
                self.retry_after = max(self.retry_after or 0.0, retry_after)
            return True
        if isinstance(
            error, AuthenticationError | PermissionDenied | ConfigError | CertificateError
        ):
            self.fatal = error
        return False


async def gather_all(coroutines: Iterable[Coroutine[object, object, T]]) -> list[T]:
    """Run coroutines concurrently; on an error, cancel the others and wait for them to end."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    finally:
        if not all(task.done() for task in tasks):
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


def batch_size(left: int) -> int:
    """Return how many pages to request concurrently: enough for `left` adjacent rows."""
    return min(-(-left // _PAGE_SIZE), CONCURRENCY)


def page_count(page: Page[R]) -> int:
    """Return the number of pages of a list: the larger one if the server's two counts differ."""
    counts = page.pagination
    return max(counts.total_pages, -(-counts.total_count // max(counts.page_size, 1)))
