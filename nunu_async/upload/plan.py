"""From a size to parts, and from parts to a completion. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs

from nunu_async.errors import PlanMismatch
from nunu_async.models.builds import CompletedPart

__all__ = ["MULTIPART_ABOVE", "Part", "Plan", "batch_size"]

MULTIPART_ABOVE = 128 * 1024 * 1024
"""Bytes above which multipart is asked for: one PUT can neither be sent in parallel nor be
repeated in pieces."""

# The service advises 3 to 10 URLs a request.
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
    """How a file of `size` bytes is cut: ascending, gap-free, every part `part_size` but the last.

    Raises: PlanMismatch when `total_parts`, the server's count, is not what the sizes give.
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

    def batches(self, length: int) -> Iterator[range]:
        """Yield the part numbers in runs of `length`; the last may be shorter."""
        for first in range(1, self.total_parts + 1, length):
            yield range(first, min(first + length, self.total_parts + 1))

    def completion(self, etags: Mapping[int, str]) -> tuple[CompletedPart, ...]:
        """Return all parts ascending.

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
    """Return how many URLs to ask for at once: enough for every sender, within the advice."""
    return max(_SMALLEST_BATCH, min(concurrency, _LARGEST_BATCH))
