"""Record every request that the sandbox receives."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Literal
from weakref import WeakKeyDictionary

import attrs

Origin = Literal["api", "storage"]
Outcome = Literal["open", "answered", "cut", "stalled", "gone"]


@attrs.define(eq=False, kw_only=True)
class Seen:
    """One request, from its arrival on; filled in while it is handled."""

    origin: Origin
    operation: str
    """`unknown` when the method and path match no operation."""
    method: str
    target: str
    """The request target exactly as it was received."""
    headers: Mapping[str, str]
    """Case-insensitive."""
    number: int = 0
    """1 for the first request of the sandbox, both origins counted together."""
    in_flight: int = 0
    """Requests open on this origin at the arrival, this one included."""
    connection: int = 0
    """Number of the TCP connection, from 1 for each origin; 0 when it was lost at once."""
    part_number: int | None = None
    build_id: str | None = None
    body: object = None
    """Parsed JSON; None when there was none or it was not read."""
    status: int | None = None
    """None until a response is sent, and for good when none is."""
    received: int = 0
    """Bytes of the request body that were read."""
    outcome: Outcome = "open"
    """`gone`: the peer disconnected, or the sandbox closed, before the response."""


class Journal:
    """The requests in the order of their arrival."""

    def __init__(self) -> None:
        self._seen: list[Seen] = []
        self._open: Counter[Origin] = Counter()
        self._connection_counts: Counter[Origin] = Counter()
        # Keyed by the transport and not by the peer's address, as ports are reused.
        self._connection_numbers: WeakKeyDictionary[asyncio.BaseTransport, tuple[Origin, int]] = (
            WeakKeyDictionary()
        )

    def __iter__(self) -> Iterator[Seen]:
        return iter(tuple(self._seen))

    def __len__(self) -> int:
        return len(self._seen)

    def __getitem__(self, index: int) -> Seen:
        return self._seen[index]

    def of(self, operation: str, part_number: int | None = None) -> list[Seen]:
        """List the requests of one operation, or of one part of it."""
        return [
            seen
            for seen in self._seen
            if seen.operation == operation and part_number in (None, seen.part_number)
        ]

    def operations(self) -> list[str]:
        """List the operations in order, repeats included."""
        return [seen.operation for seen in self._seen]

    def peak(self, origin: Origin) -> int:
        """Return the highest number of requests that were open at once; 0 without any.

        A stalled request does not count as open, as its client may give up unnoticed.
        """
        return max((seen.in_flight for seen in self._seen if seen.origin == origin), default=0)

    def connections(self, origin: Origin) -> int:
        """Count the TCP connections that carried at least one request."""
        return self._connection_counts[origin]

    def connections_open(self, origin: Origin) -> int:
        """Count those of `connections` that are still open, as far as this side knows."""
        return sum(
            owner == origin and not transport.is_closing()
            for transport, (owner, _) in self._connection_numbers.items()
        )

    def arrive(self, seen: Seen, transport: asyncio.BaseTransport | None) -> None:
        """Record a request, and number it; the listeners call this once per request."""
        self._open[seen.origin] += 1
        self._seen.append(seen)
        seen.number = len(self._seen)
        seen.in_flight = self._open[seen.origin]
        seen.connection = self._connection_number(seen.origin, transport)

    def settle(self, seen: Seen, outcome: Outcome, status: int | None = None) -> None:
        """Record how a request ended; later calls replace the outcome and the status."""
        if seen.outcome == "open":
            self._open[seen.origin] -= 1
        seen.outcome = outcome
        seen.status = status

    def _connection_number(self, origin: Origin, transport: asyncio.BaseTransport | None) -> int:
        if transport is None:
            return 0
        if transport not in self._connection_numbers:
            self._connection_counts[origin] += 1
            self._connection_numbers[transport] = (origin, self._connection_counts[origin])
        return self._connection_numbers[transport][1]
