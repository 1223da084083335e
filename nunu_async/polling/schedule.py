"""Track polled ids, their last state and their due times. Pure: no clock, no randomness."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable
from collections.abc import Set as AbstractSet
from datetime import datetime
from typing import Generic, Protocol, TypeVar

import attrs

# Seconds of absence after which an id may count as missing. A new row may appear in lists with a
# delay; a row that was seen before is more likely absent only temporarily.
_GRACE = 15.0
_GRACE_ONCE_SEEN = 300.0
# An id is missing after two rounds over stable lists, or twenty over lists that changed meanwhile.
_ABSENCE = 10
_ABSENCE_WHILE_MOVING = 1
_MAX_ABSENCES = 20
# Fraction of the interval; spreads the polls of many clients that were started together.
_JITTER = 0.1
# All in seconds. A server may send any Retry-After, by mistake even one of years.
_MAX_BACKOFF = 300.0
_MAX_RETRY_AFTER = 3600.0
_MAX_BACKOFF_OF_NEW = 5.0
_UUID_LENGTH = 36


class Subscriber(Protocol):
    """A wait for one or more ids; `interval` is in seconds."""

    interval: float


W = TypeVar("W", bound=Subscriber)


def fold(name: str) -> str:
    """Normalize an id for comparison: UUIDs to lower case, other ids unchanged."""
    return name.lower() if len(name) == _UUID_LENGTH and not name.islower() else name


@attrs.define(eq=False)
class TrackedId(Generic[W]):
    """One id that is polled; times are monotonic seconds.

    Attributes:
        original: the id as the first caller wrote it.
        waits: the waits for this id.
        interval: seconds between two polls; the minimum over `waits`.
        state: the last state seen, as the API spells it; None until the id is first seen.
        moment: start time from the server; determines the row's position in a sorted list.
        absent_since: when the first of the consecutive polls that did not find the id ended.
        absences: the weighted number of consecutive polls that did not find the id.
        unsettled: the number of consecutive polls that found the row terminal without a result.
        unsettled_row: the row found by the last of these polls.
    """

    original: str
    waits: list[W]
    interval: float
    state: str | None = None
    moment: datetime | None = None
    absent_since: float = 0.0
    absences: int = 0
    unsettled: int = 0
    unsettled_row: object = None


class PollSchedule(Generic[W]):
    """The polled ids and their due times; an id with several waits is polled only once."""

    def __init__(self) -> None:
        self._watched: dict[str, TrackedId[W]] = {}
        # End time of each id's last poll, grouped by interval. Thousands of ids share both values,
        # so `next_poll` has only a few distinct pairs to compare.
        self._polled_at: defaultdict[float, dict[str, float]] = defaultdict(dict)
        self._new: set[str] = set()
        self._stale: set[str] = set()
        self._not_before = -math.inf
        self._retry_at = -math.inf
        self._new_not_before = -math.inf
        self._failures = 0

    def __len__(self) -> int:
        return len(self._watched)

    def get(self, key: str) -> TrackedId[W] | None:
        """Return the entry of a folded id, or None."""
        return self._watched.get(key)

    @property
    def has_new(self) -> bool:
        """Whether any id has not been polled since its newest wait was added."""
        return bool(self._new)

    def watch(self, name: str, wait: W) -> None:
        """Add a wait for an id and make the id due immediately."""
        key = fold(name)
        watched = self._watched.get(key)
        if watched is None:
            self._watched[key] = TrackedId(name, [wait], wait.interval)
            self._polled_at[wait.interval][key] = -math.inf
        elif watched.waits[-1] is not wait:  # else the wait has this id twice, in different case
            watched.waits.append(wait)
            self._set_interval(key, watched, min(watched.interval, wait.interval))
        self._new.add(key)

    def leave(self, name: str, wait: W) -> None:
        """Remove a wait from an id; remove the id if it was the last wait."""
        watched = self._watched.get(key := fold(name))
        if watched is None or wait not in watched.waits:
            return
        watched.waits.remove(wait)
        if not watched.waits:
            self.take(key)
        elif wait.interval == watched.interval:
            # Recompute the minimum interval lazily, as thousands of waits may end at once.
            self._stale.add(key)

    def _update_intervals(self) -> None:
        for key in self._stale & self._watched.keys():
            watched = self._watched[key]
            self._set_interval(key, watched, min(wait.interval for wait in watched.waits))
        self._stale.clear()

    def _set_interval(self, key: str, watched: TrackedId[W], interval: float) -> None:
        if interval != watched.interval:
            self._polled_at[interval][key] = self._pop_polled_at(key, watched)
            watched.interval = interval

    def _pop_polled_at(self, key: str, watched: TrackedId[W]) -> float:
        of_interval = self._polled_at[watched.interval]
        polled_at = of_interval.pop(key)
        if not of_interval:
            del self._polled_at[watched.interval]
        return polled_at

    def take(self, key: str) -> list[W]:
        """Remove an id; return its waits."""
        self._new.discard(key)
        watched = self._watched.pop(key)
        self._pop_polled_at(key, watched)
        return watched.waits

    def clear(self) -> set[W]:
        """Remove all ids; return their waits."""
        waits = {wait for watched in self._watched.values() for wait in watched.waits}
        self._watched.clear()
        self._polled_at.clear()
        self._new.clear()
        return waits

    def next_poll(self, chance: float) -> float:
        """Return the time of the next poll; `chance` in [0, 1) scales the jitter."""
        if self._new:
            return max(self._retry_at, self._new_not_before)
        self._update_intervals()
        due_times = [
            (at + interval, at, interval)
            for interval, times in self._polled_at.items()
            for at in set(times.values())
        ]
        _, at, interval = min(due_times)
        next_poll_at = at + interval * (1 + _JITTER * chance)
        # Poll ids that become due within the first id's jitter in the same round. Otherwise, rounds
        # that began apart would stay apart for a long time, each with its own requests.
        latest = min(at + interval * (1 + _JITTER) for _, at, interval in due_times)
        return max(
            self._not_before, next_poll_at, *(due for due, _, _ in due_times if due <= latest)
        )

    def due(self, now: float) -> set[str]:
        """Return the ids to poll now, and clear the set of new ids."""
        self._update_intervals()
        due, self._new = self._new, set()
        for interval, times in self._polled_at.items():
            due.update([key for key, at in times.items() if at + interval <= now])
        return due

    def record_row(self, key: str, state: str, moment: datetime | None, now: float) -> None:
        """Record that a poll found an id."""
        watched = self._watched[key]
        self._new.discard(key)
        watched.state, watched.moment = state, moment or watched.moment
        watched.absences = 0
        self._polled_at[watched.interval][key] = now

    def record_poll(self, keys: AbstractSet[str], now: float) -> None:
        """Record the end of a poll of these ids."""
        for times in self._polled_at.values():
            times.update(dict.fromkeys(times.keys() & keys, now))

    def record_absence(self, keys: Iterable[str], now: float, *, moving: bool = False) -> list[str]:
        """Record that a poll did not find these ids; return the ids that now count as missing.

        `moving`: the lists changed while they were read, so rows may have been missed.
        """
        missing = []
        for key in keys:
            watched = self._watched.get(key)
            if watched is None:
                continue
            if watched.absences == 0:
                watched.absent_since = now
            watched.absences += _ABSENCE_WHILE_MOVING if moving else _ABSENCE
            grace = _GRACE if watched.state is None else _GRACE_ONCE_SEEN
            if watched.absences >= _MAX_ABSENCES and now - watched.absent_since >= grace:
                missing.append(key)
        return missing

    def start_times(self, keys: Collection[str]) -> dict[str, datetime]:
        """Return start times, keyed by id, of the ids that were seen and not absent since."""
        found = {}
        for key in keys:
            watched = self._watched.get(key)
            if watched is not None and watched.moment is not None and not watched.absences:
                found[key] = watched.moment
        return found

    def record_success(self, now: float, requests: int) -> None:
        """Record a poll round without failures, and its number of requests.

        New ids wait 20 ms per request of this round, but at most one second.
        """
        self._failures = 0
        self._not_before = self._retry_at = -math.inf
        self._new_not_before = now + min(1.0, 0.02 * requests)

    def record_failure(self, now: float, retry_after: float | None) -> float:
        """Record a poll round with failures; return the seconds to wait until the next round."""
        self._failures += 1
        least = min((watched.interval for watched in self._watched.values()), default=1.0)
        pause = min(least * (1 << min(self._failures, 10)), max(least, _MAX_BACKOFF))
        retry_after = min(retry_after or 0.0, _MAX_RETRY_AFTER)
        pause = max(pause, retry_after)
        self._not_before, self._retry_at = now + pause, now + retry_after
        # New ids wait for less than the whole pause, but long enough to be polled together.
        self._new_not_before = now + min(pause, _MAX_BACKOFF_OF_NEW)
        return pause
