"""Who is watched, what was seen of them, who is due. Pure: time and chance are passed in."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable
from collections.abc import Set as AbstractSet
from datetime import datetime
from typing import Generic, Protocol, TypeVar

import attrs

__all__ = ["Board", "Watched", "fold"]

# A row may take a moment to appear after what made it; then its absence is an answer. That of one
# which was seen before is more likely to pass.
_GRACE = 15.0
_GRACE_ONCE_SEEN = 300.0
# Two looks at lists that stood still, or twenty at lists that moved while they were read.
_MISS = 10
_MISS_WHILE_MOVING = 1
_ENOUGH_MISSES = 20
# Looks of many clients that were started together drift apart.
_JITTER = 0.1
_LONGEST_PAUSE = 300.0
# A server may ask for more, and by mistake for years.
_LONGEST_ASKED = 3600.0
_LONGEST_WAIT = 5.0
_UUID_LENGTH = 36


class Waiting(Protocol):
    """Somebody who waits."""

    interval: float


W = TypeVar("W", bound=Waiting)


def fold(name: str) -> str:
    """Return an id as it is compared: UUIDs in lower case, whatever case a caller has."""
    return name.lower() if len(name) == _UUID_LENGTH and not name.islower() else name


@attrs.define(eq=False)
class Watched(Generic[W]):
    """One id that somebody waits for; times are monotonic seconds.

    Attributes:
        asked: the id as the first caller wrote it.
        waits: who waits for it.
        interval: seconds between two looks, the least that any of them asked for.
        state: the last state seen, in the service's word; None before the first sight.
        moment: when it began, by the service; what its place in a sorted list goes by.
        missed_at: when the first look ended that did not find it, since it was seen last.
        misses: how much those looks, one after the other, tell of its absence.
        unsettled: looks, one after the other, that found it over but without its result.
        over: the row of the last of them.
    """

    asked: str
    waits: list[W]
    interval: float
    state: str | None = None
    moment: datetime | None = None
    missed_at: float = 0.0
    misses: int = 0
    unsettled: int = 0
    over: object = None


class Board(Generic[W]):
    """The ids that are watched, each once, whoever waits for it."""

    def __init__(self) -> None:
        self._watched: dict[str, Watched[W]] = {}
        # When the last look at each ended, by its interval: thousands share both, and who is due
        # is found without a step for each.
        self._looked: defaultdict[float, dict[str, float]] = defaultdict(dict)
        self._fresh: set[str] = set()
        self._stale: set[str] = set()
        self._not_before = -math.inf
        self._retry_at = -math.inf
        self._open_at = -math.inf
        self._failures = 0

    def __len__(self) -> int:
        return len(self._watched)

    def get(self, key: str) -> Watched[W] | None:
        """Return what is watched under a folded id."""
        return self._watched.get(key)

    @property
    def has_fresh(self) -> bool:
        """Whether a look is wanted at once."""
        return bool(self._fresh)

    def watch(self, name: str, wait: W) -> None:
        """Watch an id for one more; it is looked at without waiting for its turn."""
        key = fold(name)
        watched = self._watched.get(key)
        if watched is None:
            self._watched[key] = Watched(name, [wait], wait.interval)
            self._looked[wait.interval][key] = -math.inf
        elif watched.waits[-1] is not wait:  # or it was named in another case just before
            watched.waits.append(wait)
            self._set_interval(key, watched, min(watched.interval, wait.interval))
        self._fresh.add(key)

    def leave(self, name: str, wait: W) -> None:
        """Forget that somebody waits for an id, and the id with the last of them."""
        watched = self._watched.get(key := fold(name))
        if watched is None or wait not in watched.waits:
            return
        watched.waits.remove(wait)
        if not watched.waits:
            self.take(key)
        elif wait.interval == watched.interval:
            # Worked out when it is needed: thousands may leave at once.
            self._stale.add(key)

    def _freshen(self) -> None:
        for key in self._stale & self._watched.keys():
            watched = self._watched[key]
            self._set_interval(key, watched, min(wait.interval for wait in watched.waits))
        self._stale.clear()

    def _set_interval(self, key: str, watched: Watched[W], interval: float) -> None:
        if interval != watched.interval:
            self._looked[interval][key] = self._forget_look(key, watched)
            watched.interval = interval

    def _forget_look(self, key: str, watched: Watched[W]) -> float:
        of_interval = self._looked[watched.interval]
        looked = of_interval.pop(key)
        if not of_interval:
            del self._looked[watched.interval]
        return looked

    def take(self, key: str) -> list[W]:
        """Watch an id no longer; return who waited for it."""
        self._fresh.discard(key)
        watched = self._watched.pop(key)
        self._forget_look(key, watched)
        return watched.waits

    def clear(self) -> set[W]:
        """Watch nothing any longer; return everybody who waited."""
        everybody = {wait for watched in self._watched.values() for wait in watched.waits}
        self._watched.clear()
        self._looked.clear()
        self._fresh.clear()
        return everybody

    def next_look(self, chance: float) -> float:
        """Return when the next look is to begin; `chance` in [0, 1) is the jitter."""
        if self._fresh:
            return max(self._retry_at, self._open_at)
        self._freshen()
        turns = [
            (at + interval, at, interval)
            for interval, looked in self._looked.items()
            for at in set(looked.values())
        ]
        _, at, interval = min(turns)
        turn = at + interval * (1 + _JITTER * chance)
        # Those whose turns come before anybody has waited that tenth more share one look. By
        # chance alone, looks that began apart stay apart for long, each with its own requests.
        longest = min(at + interval * (1 + _JITTER) for _, at, interval in turns)
        return max(self._not_before, turn, *(due for due, _, _ in turns if due <= longest))

    def due(self, now: float) -> set[str]:
        """Return the ids that a look which begins now is for."""
        self._freshen()
        due, self._fresh = self._fresh, set()
        for interval, looked in self._looked.items():
            due.update([key for key, at in looked.items() if at + interval <= now])
        return due

    def saw(self, key: str, state: str, moment: datetime | None, now: float) -> None:
        """Take note of a row of a watched id."""
        watched = self._watched[key]
        self._fresh.discard(key)
        watched.state, watched.moment = state, moment or watched.moment
        watched.misses = 0
        self._looked[watched.interval][key] = now

    def looked(self, keys: AbstractSet[str], now: float) -> None:
        """Take note that a look at these ended."""
        for looked in self._looked.values():
            looked.update(dict.fromkeys(looked.keys() & keys, now))

    def missed(self, keys: Iterable[str], now: float, *, moving: bool = False) -> list[str]:
        """Take note that a look did not find these; return those that have been gone too long.

        `moving` tells that rows left a list while it was read, so that others may have slipped by.
        """
        gone = []
        for key in keys:
            watched = self._watched.get(key)
            if watched is None:
                continue
            if watched.misses == 0:
                watched.missed_at = now
            watched.misses += _MISS_WHILE_MOVING if moving else _MISS
            grace = _GRACE if watched.state is None else _GRACE_ONCE_SEEN
            if watched.misses >= _ENOUGH_MISSES and now - watched.missed_at >= grace:
                gone.append(key)
        return gone

    def placed(self, keys: Collection[str]) -> dict[str, datetime]:
        """Return when each of these began that was seen and never missed since."""
        found = {}
        for key in keys:
            watched = self._watched.get(key)
            if watched is not None and watched.moment is not None and not watched.misses:
                found[key] = watched.moment
        return found

    def went_well(self, now: float, requests: int) -> None:
        """Take note of a look without a failure, and of what it cost.

        Whoever comes next is looked at at once, but all newcomers together cause no more than
        fifty requests a second.
        """
        self._failures = 0
        self._not_before = self._retry_at = -math.inf
        self._open_at = now + min(1.0, 0.02 * requests)

    def went_wrong(self, now: float, retry_after: float | None) -> float:
        """Take note of a look that failed in part; return the seconds until the next."""
        self._failures += 1
        least = min((watched.interval for watched in self._watched.values()), default=1.0)
        pause = min(least * (1 << min(self._failures, 10)), max(least, _LONGEST_PAUSE))
        asked = min(retry_after or 0.0, _LONGEST_ASKED)
        pause = max(pause, asked)
        self._not_before, self._retry_at = now + pause, now + asked
        # Newcomers find out by themselves, but not each for itself.
        self._open_at = now + min(pause, _LONGEST_WAIT)
        return pause
