"""Presigned URLs of one upload: requested late, and renewed when old or refused."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Container, Iterable, Sequence
from typing import Final

import attrs

from nunu_async.core.clock import Clock
from nunu_async.endpoints.builds import Builds
from nunu_async.errors import DecodeError
from nunu_async.models.builds import MultipartTicket, PartUrl, Ticket
from nunu_async.upload.plan import Part, Plan, filled_batches

# Presigned URLs are valid for "about an hour", or as long as they say. Their age counts from
# receipt: clocks disagree, and the signing time in the URL is from the server's clock.
_LONGEST_LIFE: Final = 3600.0
_LIFE: Final = re.compile(r"[?&]X-Amz-Expires=([0-9]{1,9})(?:&|$)", re.IGNORECASE)
# The part number in the URL itself: a wrong one would store bytes as the wrong part.
_PART: Final = re.compile(r"(?<=[?&])partNumber=([0-9]{1,9})(?=&|$)", re.IGNORECASE)
# A URL older than this fraction of its lifetime is renewed before it is used.
_USABLE: Final = 0.8
# Maximum number of requests for the same URLs if the server leaves some out.
_SIGN_ROUNDS: Final = 3
# Initial and maximum number of batches to keep ready or requested. The number grows if senders are
# faster than the API.
_BATCHES_AHEAD: Final = 2
_MOST_BATCHES_AHEAD: Final = 10


@attrs.frozen
class SignedPart:
    """A part with its presigned URL."""

    part: Part
    address: PartUrl
    received: float
    """When the URL was received, in monotonic seconds."""
    batch: int = 0
    """The number of the response that contained the URL, counted from 1."""


class PartUrls:
    """Requests and renews the presigned URLs of one upload.

    Expired URLs are renewed together, as they tend to expire together: renewals requested while a
    request is in flight go into the next one, which is filled up with old URLs of unsent parts.

    Attributes:
        renews: whether URLs can be renewed; a single-part upload would need a new reservation
            instead.
        batch: how many URLs to request per call.
    """

    def __init__(
        self, builds: Builds, clock: Clock, ticket: Ticket, plan: Plan, batch: int
    ) -> None:
        self.batch = batch
        self._builds = builds
        self._clock = clock
        self._ticket = ticket
        self._plan = plan
        self._began = clock.monotonic()
        self._owners: dict[int, int] = {}  # URL hash -> part number
        self._responses = 0
        self._expired = 0  # batches up to this one have expired
        self._unsent: dict[int, SignedPart] = {}
        self._to_renew: list[int] = []
        self._renewals: dict[int, asyncio.Future[SignedPart]] = {}
        self._has_renewals = asyncio.Event()
        self.renews = isinstance(ticket, MultipartTicket)

    async def sign(self, numbers: Sequence[int]) -> list[SignedPart]:
        """Return a URL for each of `numbers`, in that order; call `latest` before using one.

        Raises: DecodeError if the server keeps leaving some out; errors of the request.
        """
        signed = await self._sign(numbers)
        self._unsent |= {one.part.number: one for one in signed}
        return signed

    def latest(self, signed: SignedPart) -> SignedPart:
        """Return the newest URL of a part: it may have been renewed since it was signed."""
        return self._unsent.pop(signed.part.number, signed)

    async def _sign(self, numbers: Sequence[int]) -> list[SignedPart]:
        ticket = self._ticket
        if not isinstance(ticket, MultipartTicket):
            address = PartUrl(part_number=1, url=ticket.upload_url)
            return [SignedPart(self._plan.part(1), address, self._began)]
        urls: dict[int, PartUrl] = {}
        for _ in range(_SIGN_ROUNDS):
            missing = [n for n in numbers if n not in urls]
            if not missing:
                break
            response = await self._builds.get_upload_parts(ticket, missing)
            for url in response:
                if _is_for(url, missing) and self._claim(url):
                    urls[url.part_number] = url
        now = self._clock.monotonic()
        self._responses += 1
        try:
            return [SignedPart(self._plan.part(n), urls[n], now, self._responses) for n in numbers]
        except KeyError as error:
            raise DecodeError(
                "get_upload_parts", (f"no URL for part {error} in {_SIGN_ROUNDS} answers",)
            ) from None

    def _claim(self, address: PartUrl) -> bool:
        """Remember which part owns a URL; False if another part does, which it would overwrite."""
        # Only hashes are kept, as there may be ten thousand URLs of half a KiB.
        owner = self._owners.setdefault(hash(address.url), address.part_number)
        return owner == address.part_number

    async def renewed(self, signed: SignedPart) -> SignedPart:
        """Return a fresh URL for the part; `run` must be running. Raises: same as `sign`."""
        number = signed.part.number
        if number not in self._renewals:
            self._renewals[number] = asyncio.get_running_loop().create_future()
            self._to_renew.append(number)
            self._has_renewals.set()
        # Shielded: other senders may wait for the same renewal, or for others in its request.
        return await asyncio.shield(self._renewals[number])

    async def run(self) -> None:
        """Serve `renewed` until cancelled."""
        while True:
            await self._has_renewals.wait()
            self._has_renewals.clear()
            wanted, self._to_renew = self._to_renew, []
            spare = (
                number
                for number, signed in self._unsent.items()
                if number not in self._renewals and self.is_old(signed)
            )
            async with asyncio.TaskGroup() as group:
                for numbers in filled_batches(wanted, spare, self.batch):
                    group.create_task(self._renew(numbers))

    async def _renew(self, numbers: Sequence[int]) -> None:
        create = asyncio.get_running_loop().create_future
        renewals = {number: self._renewals.setdefault(number, create()) for number in numbers}
        try:
            for signed in await self._sign(numbers):
                if signed.part.number in self._unsent:
                    self._unsent[signed.part.number] = signed
                renewals[signed.part.number].set_result(signed)
        except Exception as error:  # noqa: BLE001 - raised to the waiters
            for future in renewals.values():
                future.set_exception(error)
                future.exception()  # avoids a warning if no sender waits any more
        finally:
            for number in numbers:
                del self._renewals[number]

    def expired(self, signed: SignedPart) -> None:
        """Record that a URL was refused as expired; URLs received before it have expired too."""
        self._expired = max(self._expired, signed.batch)

    def is_old(self, signed: SignedPart) -> bool:
        """Return whether a URL must be renewed before it is used."""
        found = _LIFE.search(signed.address.url)
        life = min(_LONGEST_LIFE, float(found[1])) if found else _LONGEST_LIFE
        age = self._clock.monotonic() - signed.received
        return self.renews and (age > _USABLE * life or signed.batch <= self._expired)


class UrlPrefetcher:
    """Prefetches the URLs of one upload's parts for its senders.

    URLs are requested shortly before they are needed, because they expire. Two batches
    are requested ahead at first; each time that a sender has to wait, one more, up to ten.

    Args:
        batches: part numbers, in the order in which they are to be sent.
        senders: the number of tasks that call `take`.
    """

    def __init__(self, signer: PartUrls, batches: Iterable[Sequence[int]], senders: int) -> None:
        self._signer = signer
        self._batches = batches
        self._senders = senders
        self._max_ahead = _BATCHES_AHEAD * signer.batch
        self._count = 0  # URLs ready or requested
        self._waiting_senders = 0
        self._changed = asyncio.Event()
        self._ready: asyncio.Queue[SignedPart | None] = asyncio.Queue()
        self._began = False
        self._all_requested = False

    async def run(self) -> None:
        """Request URLs until there is one for every part.

        Raises: an ExceptionGroup of the requests' errors.
        """
        async with asyncio.TaskGroup() as group:
            for numbers in self._batches:
                while self._count >= self._max_ahead + self._waiting_senders:
                    self._changed.clear()
                    await self._changed.wait()
                self._count += len(numbers)
                group.create_task(self._request(numbers))
            self._all_requested = True
        for _ in range(self._senders):
            self._ready.put_nowait(None)

    async def _request(self, numbers: Sequence[int]) -> None:
        for signed in await self._signer.sign(numbers):
            self._ready.put_nowait(signed)
        self._began = True

    async def take(self) -> SignedPart | None:
        """Return the next part with its URL; None when there are no more."""
        if self._ready.empty():
            if self._began and not self._all_requested:
                batch = self._signer.batch
                self._max_ahead = min(self._max_ahead + batch, _MOST_BATCHES_AHEAD * batch)
            self._waiting_senders += 1
            self._changed.set()
            try:
                signed = await self._ready.get()
            finally:
                self._waiting_senders -= 1
        else:
            signed = self._ready.get_nowait()
        if signed is not None:
            self._count -= 1
            self._changed.set()
        return signed


def _is_for(address: PartUrl, wanted: Container[int]) -> bool:
    """Return whether a URL is for one of the wanted parts, and names no other."""
    numbers_in_url = {int(number) for number in _PART.findall(address.url)}
    return address.part_number in wanted and numbers_in_url <= {address.part_number}
