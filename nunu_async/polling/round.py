"""One poll round: what can be polled, what a round has to find, and how it went."""

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

# Requests in flight at once: the request limit of the session is shared with other calls.
CONCURRENCY = 8
# Failures after which a poll round sends no more requests.
MAX_FAILURES = 8
_PAGE_SIZE = 100


@attrs.frozen(kw_only=True)
class PollSource(Generic[R]):
    """A resource that can be waited for, and the operations that poll it.

    Attributes:
        name: the singular, for messages.
        key: returns the id of a row.
        state: returns the state of a row, as the API spells it.
        moment: returns the start time of a row. Without `get`, `done` must be sorted by it,
            newest first.
        active: read a page of each list of rows that are not terminal. In the order in which a
            row passes through the lists, so that one that moves on meanwhile is met again.
        done: reads a page of the list of terminal rows.
        get: reads one row by its id; None where the API has no such operation.
        path: of the list, for messages.
        is_settled: whether a terminal row has its result. A server whose data lags may show a
            row as terminal, without a result, and then as active again.
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
        left: ids that no request has found yet.
        inconclusive: ids of which it is unknown whether the lists hold them.
        retry_after: the longest that the server asked to wait, in seconds.
        unknown: ids for which the server answered 404.
        is_moving: whether rows left or entered a list while it was read.
        unreadable: the last error that is not transient, or about a row that was skipped.
        fatal: what ends every wait.
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
        """Whether to send no more requests: all was found, or the server sent a Retry-After."""
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
    """Run coroutines concurrently; the first error cancels the others, and waits for them."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    finally:
        if not all(task.done() for task in tasks):
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


def batch_size(left: int) -> int:
    """Return how many pages to request at once: as many as `left` rows in sequence fill."""
    return min(-(-left // _PAGE_SIZE), CONCURRENCY)


def page_count(page: Page[R]) -> int:
    """Return how many pages a list has: the greater one where the server's two counts differ."""
    counts = page.pagination
    return max(counts.total_pages, -(-counts.total_count // max(counts.page_size, 1)))
