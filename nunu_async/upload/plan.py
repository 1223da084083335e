"""Splits a file into parts, and lists the parts to complete. Pure."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from math import ceil

import attrs

from nunu_async.errors import PlanMismatch
from nunu_async.models.builds import CompletedPart, InitiateUpload

MULTIPART_ABOVE = 128 * 1024 * 1024
"""Size in bytes above which multipart is used: a single PUT cannot be parallelized or retried in
parts."""

# The service's limits in minutes: single-part default, multipart default, maximum.
_SINGLE_MINUTES, _MULTIPART_MINUTES, MOST_MINUTES = 10, 60, 1440
# Assumed upload speed in bytes per second.
_PESSIMISTIC_RATE = 1024 * 1024

# The service recommends 3 to 10 URLs per request.
_SMALLEST_BATCH, _LARGEST_BATCH = 3, 10


@attrs.frozen
class Part:
    """A contiguous range of the file."""

    number: int
    """1-based."""
    offset: int
    """Bytes from the start of the file."""
    length: int
    """Bytes."""


@attrs.frozen
class Plan:
    """How a file is split: ascending, gap-free parts of `part_size` bytes; the last may be shorter.

    Raises: PlanMismatch when `total_parts`, the server's count, does not match the sizes.
    """

    size: int
    part_size: int
    total_parts: int

    def __attrs_post_init__(self) -> None:
        if self.part_size < 1 or self.total_parts != -(-self.size // self.part_size):
            raise PlanMismatch(
                f"the server wants {self.total_parts} parts of {self.part_size} bytes, which does "
                f"not make the file's {self.size} bytes"
            )

    def part(self, number: int) -> Part:
        """Return part `number`, 1 to `total_parts`."""
        offset = (number - 1) * self.part_size
        return Part(number, offset, min(self.part_size, self.size - offset))

    def batches(self, length: int, done: Container[int] = ()) -> Iterator[Sequence[int]]:
        """Yield the numbers of parts not `done` in batches of `length`; the last may be shorter."""
        wanted = (n for n in range(1, self.total_parts + 1) if n not in done)
        while batch := tuple(islice(wanted, length)):
            yield batch

    def completion(self, etags: Mapping[int, str]) -> tuple[CompletedPart, ...]:
        """Return all parts in ascending order.

        Raises: PlanMismatch if one is missing; completing without it would lose its bytes.
        """
        missing = [n for n in range(1, self.total_parts + 1) if n not in etags]
        if missing:
            raise PlanMismatch(f"parts without an ETag: {missing[:10]}")
        if len(etags) != self.total_parts:
            raise PlanMismatch(f"{len(etags)} ETags for {self.total_parts} parts")
        return tuple(
            CompletedPart(part_number=n, etag=etags[n]) for n in range(1, self.total_parts + 1)
        )


def batch_size(concurrency: int) -> int:
    """Return how many URLs to request at once: one per sender, within the recommendation."""
    return max(_SMALLEST_BATCH, min(concurrency, _LARGEST_BATCH))


def filled_batches(
    wanted: Sequence[int], spare: Iterable[int], length: int
) -> Iterator[Sequence[int]]:
    """Yield `wanted` in batches of up to `length`, the last one filled up from `spare`."""
    numbers = [*wanted, *islice(spare, -len(wanted) % length)]
    for start in range(0, len(numbers), length):
        yield numbers[start : start + length]


def upload_minutes(size: int, *, multipart: bool, max_bandwidth: float | None = None) -> int:
    """Return the minutes to allow for an upload: the time it takes at 1 MiB/s, rounded up.

    `max_bandwidth`, in bytes per second, is used instead if it is lower. At least the service's
    defaults (10 for single-part, 60 for multipart), at most its maximum (1440).
    """
    least = _MULTIPART_MINUTES if multipart else _SINGLE_MINUTES
    rate = min(_PESSIMISTIC_RATE, max_bandwidth or _PESSIMISTIC_RATE)
    return min(max(least, ceil(size / (60 * rate))), MOST_MINUTES)


def minutes_kept(request: InitiateUpload) -> int:
    """Return how many minutes the server keeps an upload initiated by `request`."""
    if request.upload_timeout is not None:
        return request.upload_timeout
    return _MULTIPART_MINUTES if request.multipart else _SINGLE_MINUTES


def minutes_to_ask(
    size: int, *, multipart: bool, resume: bool, max_bandwidth: float | None = None
) -> int | None:
    """Return the `upload_timeout` to send; None for the service's default.

    A resumable upload gets the service's maximum: one day.
    """
    if resume and multipart:
        return MOST_MINUTES
    minutes = upload_minutes(size, multipart=multipart, max_bandwidth=max_bandwidth)
    return None if minutes == (_MULTIPART_MINUTES if multipart else _SINGLE_MINUTES) else minutes
