"""URLs of parts, requested before they are needed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import attrs
import pytest
from doubles import ManualClock
from hypothesis import given
from hypothesis import strategies as st

from nunu_async import DecodeError, MultipartTicket, PartUrl
from nunu_async.upload.part_urls import PartUrls, SignedPart, UrlPrefetcher
from nunu_async.upload.plan import Plan, batch_size

PARTS = 400
PLAN = Plan(PARTS, 1, PARTS)


@attrs.define
class Answers:
    """Stands in for a `PartUrls`: answers when the test says so."""

    batch: int = batch_size(4)
    asked: list[tuple[int, ...]] = attrs.field(factory=list)
    held: list[asyncio.Future[None]] = attrs.field(factory=list)

    async def sign(self, numbers: Sequence[int]) -> list[SignedPart]:
        self.asked.append(tuple(numbers))
        self.held.append(asyncio.get_running_loop().create_future())
        await self.held[-1]
        return [SignedPart(PLAN.part(n), PartUrl(part_number=n, url=f"u{n}"), 0.0) for n in numbers]

    async def answer(self) -> None:
        """Answer all that was asked until now."""
        for future in self.held:
            if not future.done():
                future.set_result(None)
        await turns()

    @property
    def waiting(self) -> int:
        return sum(not future.done() for future in self.held)


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def ahead_of(answers: Answers, *, senders: int, parts: int = PARTS) -> UrlPrefetcher:
    return UrlPrefetcher(answers, Plan(parts, 1, parts).batches(answers.batch), senders)  # type: ignore[arg-type]


async def drain(ahead: UrlPrefetcher, taken: list[int]) -> None:
    while (signed := await ahead.take()) is not None:
        taken.append(signed.part.number)


@pytest.mark.parametrize(("senders", "batches"), [(1, 3), (4, 3), (10, 3), (16, 4)])
async def test_idle_senders_and_two_batches_are_asked_for_at_once(
    senders: int, batches: int
) -> None:
    """All of it in one wait for the API, and no more of it than that."""
    answers = Answers(batch_size(senders))
    ahead = ahead_of(answers, senders=senders)
    running = asyncio.ensure_future(ahead.run())
    takers = [asyncio.ensure_future(ahead.take()) for _ in range(senders)]
    await turns()
    assert answers.waiting == batches
    await answers.answer()
    assert [taker.result().part.number for taker in takers] == list(range(1, senders + 1))  # type: ignore[union-attr]
    assert len(answers.asked) == batches
    running.cancel()
    await asyncio.wait({running})


async def test_the_next_batch_is_asked_for_before_two_are_used_up() -> None:
    answers = Answers()
    ahead = ahead_of(answers, senders=4)
    running = asyncio.ensure_future(ahead.run())
    await turns()
    await answers.answer()
    assert len(answers.asked) == 2
    await ahead.take()
    await turns()
    assert answers.asked[2:] == [(9, 10, 11, 12)]
    running.cancel()
    await asyncio.wait({running})


async def test_senders_that_outrun_the_api_are_asked_for_further_ahead() -> None:
    """Up to ten batches, however long they have to wait."""
    answers, taken = Answers(), []
    ahead = ahead_of(answers, senders=4)
    running = asyncio.ensure_future(ahead.run())
    takers = [asyncio.ensure_future(drain(ahead, taken)) for _ in range(4)]
    at_once = []
    for _ in range(11):
        await turns()
        at_once.append(answers.waiting)
        await answers.answer()
    # At the end ten batches of four, and a URL for each who waits.
    assert at_once == [3, 4, 5, 6, 7, 8, 9, 10, 11, 11, 11]
    while not running.done():
        await answers.answer()
    await asyncio.wait(takers)
    assert taken == list(range(1, PARTS + 1))


@given(
    senders=st.integers(1, 20),
    parts=st.integers(1, 90),
    steps=st.lists(st.integers(0, 5), max_size=40),
)
def test_every_part_is_taken_once_and_every_sender_ends(
    senders: int, parts: int, steps: list[int]
) -> None:
    async def play() -> list[int]:
        answers, taken = Answers(batch_size(senders)), []
        ahead = ahead_of(answers, senders=senders, parts=parts)
        running = asyncio.ensure_future(ahead.run())
        takers = [asyncio.ensure_future(drain(ahead, taken)) for _ in range(senders)]
        for step in steps:
            await turns()
            waiting = [future for future in answers.held if not future.done()]
            if waiting:
                waiting[step % len(waiting)].set_result(None)  # answers come in any order
        while not running.done():
            await answers.answer()
        await asyncio.wait(takers)
        assert all(len(numbers) <= 10 for numbers in answers.asked)
        return taken

    assert sorted(asyncio.run(play())) == list(range(1, parts + 1))


async def test_an_api_that_fails_ends_every_sender() -> None:
    class Broken(Answers):
        async def sign(self, numbers: Sequence[int]) -> list[SignedPart]:
            await super().sign(numbers)
            raise KeyError(numbers[0])

    answers = Broken()
    running = asyncio.ensure_future(ahead_of(answers, senders=4).run())
    await turns()
    answers.held[1].set_result(None)
    with pytest.raises(ExceptionGroup) as caught:
        await running
    assert [type(error) for error in caught.value.exceptions] == [KeyError]
    assert answers.waiting == 0


class Forgetful:
    """Stands in for `Builds`: gives the same three addresses over and over."""

    async def get_upload_parts(
        self, ticket: MultipartTicket, numbers: Sequence[int]
    ) -> tuple[PartUrl, ...]:
        return tuple(PartUrl(part_number=n, url=f"https://s.test/{n % 3}") for n in numbers)


TICKET = MultipartTicket(
    build_id="b", object_key="o", upload_id="u", total_parts=PARTS, part_size=1
)


@attrs.define
class Urls:
    """Stands in for `Builds`: a new URL each time, when the test lets it answer."""

    asked: list[tuple[int, ...]] = attrs.field(factory=list)
    held: list[asyncio.Future[None]] = attrs.field(factory=list)
    holds: bool = True

    async def get_upload_parts(
        self, ticket: MultipartTicket, numbers: Sequence[int]
    ) -> tuple[PartUrl, ...]:
        self.asked.append(tuple(numbers))
        time = len(self.asked)
        if self.holds:
            self.held.append(asyncio.get_running_loop().create_future())
            await self.held[-1]
        return tuple(PartUrl(part_number=n, url=f"https://s.test/{n}/{time}") for n in numbers)

    async def answer(self, error: Exception | None = None) -> None:
        """Answer all that was asked until now."""
        for future in self.held:
            if not future.done():
                future.set_exception(error) if error else future.set_result(None)
        await turns()


def signer_of(urls: object, clock: ManualClock | None = None, batch: int = 10) -> PartUrls:
    return PartUrls(urls, clock or ManualClock(), TICKET, PLAN, batch)  # type: ignore[arg-type]


@asynccontextmanager
async def renewing(part_urls: PartUrls) -> AsyncIterator[None]:
    running = asyncio.ensure_future(part_urls.run())
    try:
        yield
    finally:
        running.cancel()
        await asyncio.wait({running})


async def signed_ahead(part_urls: PartUrls, urls: Urls, numbers: Sequence[int]) -> list[SignedPart]:
    """Sign without holding; the answers that follow are held."""
    urls.holds = False
    signed = await part_urls.sign(numbers)
    urls.holds = True
    return signed


async def test_fresh_urls_wanted_meanwhile_share_the_next_request() -> None:
    urls = Urls()
    part_urls = signer_of(urls)
    taken = [part_urls.latest(one) for one in await signed_ahead(part_urls, urls, range(1, 17))]
    async with renewing(part_urls):
        first = asyncio.ensure_future(part_urls.renewed(taken[0]))
        await turns()
        others = [asyncio.ensure_future(part_urls.renewed(one)) for one in taken[1:]]
        await turns()
        assert urls.asked[1:] == [(1,)]
        await urls.answer()
        assert urls.asked[2:] == [tuple(range(2, 12)), tuple(range(12, 17))]
        await urls.answer()
        fresh = await asyncio.gather(first, *others)
    assert [one.part.number for one in fresh] == list(range(1, 17))
    assert all(one.address != old.address for one, old in zip(fresh, taken, strict=True))
    assert all(one.batch > old.batch for one, old in zip(fresh, taken, strict=True))


async def test_urls_wanted_in_one_turn_share_a_request() -> None:
    urls = Urls(holds=False)
    part_urls = signer_of(urls)
    taken = [part_urls.latest(one) for one in await part_urls.sign(range(1, 8))]
    async with renewing(part_urls):
        await asyncio.gather(*(part_urls.renewed(one) for one in taken))
    assert urls.asked[1:] == [tuple(range(1, 8))]


async def test_urls_that_expired_with_a_refused_one_are_renewed() -> None:
    urls = Urls()
    part_urls = signer_of(urls)
    ahead = await signed_ahead(part_urls, urls, range(1, 7))
    later = await signed_ahead(part_urls, urls, range(7, 10))
    taken = [part_urls.latest(one) for one in ahead[:2]]
    part_urls.expired(taken[0])
    assert [part_urls.is_old(one) for one in [*ahead, *later]] == [True] * 6 + [False] * 3
    async with renewing(part_urls):
        fresh = asyncio.ensure_future(part_urls.renewed(taken[0]))
        await turns()
        assert urls.asked[2:] == [(1, 3, 4, 5, 6)]  # 2 is being sent
        third = part_urls.latest(ahead[2])  # taken while it is asked for
        assert part_urls.is_old(third)
        coming = asyncio.ensure_future(part_urls.renewed(third))
        await urls.answer()
        assert len(urls.asked) == 3
        assert not part_urls.is_old(await fresh)
        assert (await coming).part.number == 3
    assert not part_urls.is_old(part_urls.latest(ahead[3]))
    assert part_urls.latest(later[0]) == later[0]


async def test_urls_that_are_too_old_are_renewed_together() -> None:
    urls, clock = Urls(holds=False), ManualClock()
    part_urls = signer_of(urls, clock)
    ahead = await part_urls.sign(range(1, 7))
    clock.advance(3000)
    async with renewing(part_urls):
        for one in ahead:
            taken = part_urls.latest(one)
            if part_urls.is_old(taken):
                taken = await part_urls.renewed(taken)
            assert not part_urls.is_old(taken)
    assert len(urls.asked) == 2


async def test_a_cancelled_sender_takes_no_url_from_others() -> None:
    urls = Urls()
    part_urls = signer_of(urls)
    taken = [part_urls.latest(one) for one in await signed_ahead(part_urls, urls, [1, 2, 3])]
    async with renewing(part_urls):
        waits = [asyncio.ensure_future(part_urls.renewed(one)) for one in taken]
        await turns()
        waits[0].cancel()
        await turns()
        await urls.answer()
        assert waits[0].cancelled()
        assert [(await wait).part.number for wait in waits[1:]] == [2, 3]


async def test_a_failed_request_fails_its_waiters_and_no_later_one() -> None:
    urls = Urls()
    part_urls = signer_of(urls)
    taken = [part_urls.latest(one) for one in await signed_ahead(part_urls, urls, [1, 2, 3, 4])]
    async with renewing(part_urls):
        waits = [asyncio.ensure_future(part_urls.renewed(one)) for one in taken[:3]]
        await turns()
        later = asyncio.ensure_future(part_urls.renewed(taken[3]))
        await turns()
        await urls.answer(KeyError("no"))
        assert [type(wait.exception()) for wait in waits] == [KeyError] * 3
        again = asyncio.ensure_future(part_urls.renewed(taken[0]))
        await urls.answer()
        await urls.answer()
        assert (await later).part.number == 4
        assert (await again).part.number == 1


@given(
    steps=st.lists(st.tuples(st.integers(0, 12), st.booleans()), max_size=30),
    cancelled=st.sets(st.integers(0, 60)),
)
def test_every_sender_gets_its_url_in_few_requests(
    steps: list[tuple[int, bool]], cancelled: set[int]
) -> None:
    """However the asking, the answers and cancellations are mixed."""

    async def play() -> None:
        urls = Urls()
        part_urls = signer_of(urls)
        ahead = iter(await signed_ahead(part_urls, urls, range(1, PARTS + 1)))
        waits: list[asyncio.Future[SignedPart]] = []
        async with renewing(part_urls):
            rounds = 0
            for count, answers in steps:
                taken = [part_urls.latest(next(ahead)) for _ in range(count)]
                waits += [asyncio.ensure_future(part_urls.renewed(one)) for one in taken]
                await turns()
                for number in cancelled:
                    if number < len(waits):
                        waits[number].cancel()
                if answers:
                    rounds += 1
                    await urls.answer()
            while any(not wait.done() for wait in waits):
                rounds += 1
                await urls.answer()
            for number, wait in enumerate(waits, 1):
                assert wait.cancelled() or wait.result().part.number == number
        asked = [number for numbers in urls.asked[1:] for number in numbers]
        assert sorted(asked) == list(range(1, len(waits) + 1))
        assert len(urls.asked) - 1 <= len(waits) // 10 + rounds + 1

    asyncio.run(play())


async def test_a_url_belongs_to_one_part_for_the_whole_upload() -> None:
    part_urls = signer_of(Forgetful())
    first, _ = await part_urls.sign([1, 2])
    async with renewing(part_urls):
        again = await part_urls.renewed(first)
    assert again.address == first.address  # it may come again for its own
    await part_urls.sign([3])
    with pytest.raises(DecodeError, match="no URL for part 5"):
        await part_urls.sign([5])
