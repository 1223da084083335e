"""Presigned URLs of one upload: asked for late, and anew when they are old or refused."""

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

__all__ = ["Ahead", "Signed", "Signer"]

# Presigned URLs last "about an hour", or as long as they say. Judged by the time since they came:
# clocks disagree, and the moment of signing that stands in them is the server's.
_LONGEST_LIFE: Final = 3600.0
_LIFE: Final = re.compile(r"[?&]X-Amz-Expires=([0-9]{1,9})(?:&|$)", re.IGNORECASE)
# What the address itself says of its part: a mix-up there would mix up bytes.
_PART: Final = re.compile(r"(?<=[?&])partNumber=([0-9]{1,9})(?=&|$)", re.IGNORECASE)
# One older than this part of its life is replaced before it is used.
_USABLE: Final = 0.8
# A server that answers a request for URLs without some of them is asked again so often.
_SIGN_ROUNDS: Final = 3
# Batches that wait to be sent, or are asked for; with fewer, another is asked for. So many more may
# become of it where senders are quicker than the API.
_BATCHES_AHEAD: Final = 2
_MOST_BATCHES_AHEAD: Final = 10


@attrs.frozen
class Signed:
    """A part and where to send it."""

    part: Part
    address: PartUrl
    received: float
    """Monotonic seconds."""
    batch: int = 0
    """The answer that it came with, counted from 1."""


class Signer:
    """Where the parts of one upload go.

    URLs that are of no more use are replaced together. They tend to come to their end at one
    moment, and whoever asks for one while others are asked for is served by the next request,
    which asks for those that no part has been sent with yet as well.

    Attributes:
        renews: whether a URL can be had anew; for an upload of a single part the API has no
            way but another reservation.
    """

    def __init__(self, builds: Builds, clock: Clock, ticket: Ticket, plan: Plan) -> None:
        self._builds = builds
        self._clock = clock
        self._ticket = ticket
        self._plan = plan
        self._began = clock.monotonic()
        self._parts: dict[int, int] = {}
        self._answers = 0
        self._expired = 0  # batches, up to this one
        self._unsent: dict[int, Signed] = {}
        self._wanted: list[int] = []
        self._coming: dict[int, asyncio.Future[Signed]] = {}
        self._is_wanted = asyncio.Event()
        self.renews = isinstance(ticket, MultipartTicket)

    async def sign(self, numbers: Sequence[int]) -> list[Signed]:
        """Return a URL for each of `numbers`, in that order, for `latest` before it is used.

        Raises: DecodeError when the server keeps leaving some out; what the request raises.
        """
        signed = await self._sign(numbers)
        self._unsent |= {one.part.number: one for one in signed}
        return signed

    def latest(self, signed: Signed) -> Signed:
        """Return what to send a part with that was signed ahead."""
        return self._unsent.pop(signed.part.number, signed)

    async def _sign(self, numbers: Sequence[int]) -> list[Signed]:
        ticket = self._ticket
        if not isinstance(ticket, MultipartTicket):
            address = PartUrl(part_number=1, url=ticket.upload_url)
            return [Signed(self._plan.part(1), address, self._began)]
        urls: dict[int, PartUrl] = {}
        for _ in range(_SIGN_ROUNDS):
            missing = [n for n in numbers if n not in urls]
            if not missing:
                break
            answer = await self._builds.get_upload_parts(ticket, missing)
            for url in answer:
                if _is_for(url, missing) and self._gives(url):
                    urls[url.part_number] = url
        now = self._clock.monotonic()
        self._answers += 1
        try:
            return [Signed(self._plan.part(n), urls[n], now, self._answers) for n in numbers]
        except KeyError as error:
            raise DecodeError(
                "get_upload_parts", (f"no URL for part {error} in {_SIGN_ROUNDS} answers",)
            ) from None

    def _gives(self, address: PartUrl) -> bool:
        """Note whose an address is; False where it is another part's, which it would overwrite."""
        # Hashes, for there may be ten thousand addresses of half a KiB.
        return self._parts.setdefault(hash(address.url), address.part_number) == address.part_number

    async def renewed(self, signed: Signed) -> Signed:
        """Return a fresh URL for the part, while `run` runs. Raises: as `sign`."""
        number = signed.part.number
        if number not in self._coming:
            self._coming[number] = asyncio.get_running_loop().create_future()
            self._wanted.append(number)
            self._is_wanted.set()
        # Shielded: others may wait for it, or for what is asked for together with it.
        return await asyncio.shield(self._coming[number])

    async def run(self, length: int) -> None:
        """Serve `renewed`, up to `length` URLs a request, until cancelled."""
        while True:
            await self._is_wanted.wait()
            self._is_wanted.clear()
            wanted, self._wanted = self._wanted, []
            spare = (
                number
                for number, signed in self._unsent.items()
                if number not in self._coming and self.is_old(signed)
            )
            async with asyncio.TaskGroup() as group:
                for numbers in filled_batches(wanted, spare, length):
                    group.create_task(self._renew(numbers))

    async def _renew(self, numbers: Sequence[int]) -> None:
        create = asyncio.get_running_loop().create_future
        coming = {number: self._coming.setdefault(number, create()) for number in numbers}
        try:
            for signed in await self._sign(numbers):
                if signed.part.number in self._unsent:
                    self._unsent[signed.part.number] = signed
                coming[signed.part.number].set_result(signed)
        except Exception as error:  # noqa: BLE001 - theirs who wait
            for future in coming.values():
                future.set_exception(error)
                future.exception()  # no complaint of one that nobody waits for
        finally:
            for number in numbers:
                del self._coming[number]

    def expired(self, signed: Signed) -> None:
        """Take note that a URL was refused for its age: those that came before are older still."""
        self._expired = max(self._expired, signed.batch)

    def is_old(self, signed: Signed) -> bool:
        """Tell whether a URL is to be replaced before it is used."""
        found = _LIFE.search(signed.address.url)
        life = min(_LONGEST_LIFE, float(found[1])) if found else _LONGEST_LIFE
        age = self._clock.monotonic() - signed.received
        return self.renews and (age > _USABLE * life or signed.batch <= self._expired)


class Ahead:
    """URLs of the parts of one upload, asked for ahead of those who send them.

    Signed late, sent soon; but several batches may be asked for at once: one at a time would hold
    up senders that are quicker than the API. Each time that one of them has to wait for a URL,
    there may be a batch more.

    Args:
        batches: numbers of parts, in the order in which they are to be sent.
        length: of a batch, the last apart.
        senders: how many take from it.
    """

    def __init__(
        self, signer: Signer, batches: Iterable[Sequence[int]], length: int, senders: int
    ) -> None:
        self._signer = signer
        self._batches = batches
        self._length = length
        self._senders = senders
        self._enough = _BATCHES_AHEAD * length
        self._count = 0  # ready, or asked for
        self._idle = 0  # senders that wait
        self._changed = asyncio.Event()
        self._ready: asyncio.Queue[Signed | None] = asyncio.Queue()
        self._began = False
        self._all_asked_for = False

    async def run(self) -> None:
        """Ask until there is a URL for every part.

        Raises: what asking raises, in a group.
        """
        async with asyncio.TaskGroup() as group:
            for numbers in self._batches:
                while self._count >= self._enough + self._idle:
                    self._changed.clear()
                    await self._changed.wait()
                self._count += len(numbers)
                group.create_task(self._ask(numbers))
            self._all_asked_for = True
        for _ in range(self._senders):
            self._ready.put_nowait(None)

    async def _ask(self, numbers: Sequence[int]) -> None:
        for signed in await self._signer.sign(numbers):
            self._ready.put_nowait(signed)
        self._began = True

    async def take(self) -> Signed | None:
        """Return the next part and where to send it; None when there is no further one."""
        if self._ready.empty():
            if self._began and not self._all_asked_for:
                most = _MOST_BATCHES_AHEAD * self._length
                self._enough = min(self._enough + self._length, most)
            self._idle += 1
            self._changed.set()
            try:
                signed = await self._ready.get()
            finally:
                self._idle -= 1
        else:
            signed = self._ready.get_nowait()
        if signed is not None:
            self._count -= 1
            self._changed.set()
        return signed


def _is_for(address: PartUrl, wanted: Container[int]) -> bool:
    """Tell whether an address is for one of the parts wanted, and for no other."""
    told = {int(number) for number in _PART.findall(address.url)}
    return address.part_number in wanted and told <= {address.part_number}
