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
    """One request, recorded on arrival and updated while it is handled."""

    origin: Origin
    operation: str
    """`unknown` when the method and path match no operation."""
    method: str
    target: str
    """The request target exactly as it was received."""
    headers: Mapping[str, str]
    """Case-insensitive."""
    number: int = 0
    """1 for the first request of the sandbox; both origins share one count."""
    in_flight: int = 0
    """Open requests on this origin on arrival, including this one."""
    connection: int = 0
    """1-based number of the TCP connection per origin; 0 if it was lost immediately."""
    part_number: int | None = None
    build_id: str | None = None
    body: object = None
    """Parsed JSON; None if the body was missing, not read or not valid JSON."""
    status: int | None = None
    """None until a response is sent; stays None if none is sent."""
    received: int = 0
    """Bytes of the request body that were read."""
    outcome: Outcome = "open"
    """`gone`: the peer disconnected, or the sandbox closed, before the response."""


class Journal:
    """All requests in order of arrival."""

    def __init__(self) -> None:
        self._seen: list[Seen] = []
        self._open: Counter[Origin] = Counter()
        self._connection_counts: Counter[Origin] = Counter()
        # Keyed by transport, not by peer address, because ports are reused.
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
        """List the requests of one operation, optionally only those for one part."""
        return [
            seen
            for seen in self._seen
            if seen.operation == operation and part_number in (None, seen.part_number)
        ]

    def operations(self) -> list[str]:
        """List the operation of every request, in order of arrival."""
        return [seen.operation for seen in self._seen]

    def peak(self, origin: Origin) -> int:
        """Return the peak number of open requests; 0 if there were no requests.

        Stalled requests are not counted: a client that gives up on one may go unnoticed.
        """
        return max((seen.in_flight for seen in self._seen if seen.origin == origin), default=0)

    def connections(self, origin: Origin) -> int:
        """Count the TCP connections that carried at least one request."""
        return self._connection_counts[origin]

    def connections_open(self, origin: Origin) -> int:
        """Count the `connections` still open, as far as the server knows."""
        return sum(
            owner == origin and not transport.is_closing()
            for transport, (owner, _) in self._connection_numbers.items()
        )

    def arrive(self, seen: Seen, transport: asyncio.BaseTransport | None) -> None:
        """Record and number a request; listeners call this once per request."""
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
