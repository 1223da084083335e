"""URLs of parts, asked for ahead of those who send them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import attrs
import pytest
from doubles import ManualClock
from hypothesis import given
from hypothesis import strategies as st

from nunu_async import DecodeError, MultipartTicket, PartUrl
from nunu_async.upload.plan import Plan, batch_size
from nunu_async.upload.signing import Ahead, Signed, Signer

PARTS = 400
PLAN = Plan(PARTS, 1, PARTS)


@attrs.define
class Answers:
    """Stands in for a `Signer`: answers when it is told to."""

    asked: list[tuple[int, ...]] = attrs.field(factory=list)
    held: list[asyncio.Future[None]] = attrs.field(factory=list)

    async def sign(self, numbers: Sequence[int]) -> list[Signed]:
        self.asked.append(tuple(numbers))
        self.held.append(asyncio.get_running_loop().create_future())
        await self.held[-1]
        return [Signed(PLAN.part(n), PartUrl(part_number=n, url=f"u{n}"), 0.0) for n in numbers]

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


def ahead_of(answers: Answers, *, senders: int, parts: int = PARTS) -> Ahead:
    length = batch_size(senders)
    return Ahead(answers, Plan(parts, 1, parts).batches(length), length, senders)  # type: ignore[arg-type]


async def drain(ahead: Ahead, taken: list[int]) -> None:
    while (signed := await ahead.take()) is not None:
        taken.append(signed.part.number)


@pytest.mark.parametrize(("senders", "batches"), [(1, 3), (4, 3), (10, 3), (16, 4)])
async def test_idle_senders_and_two_batches_are_asked_for_at_once(
    senders: int, batches: int
) -> None:
    """All of it in one wait for the API, and no more of it than that."""
    answers = Answers()
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
def test_every_part_is_taken_once_and_every_sender_is_sent_home(
    senders: int, parts: int, steps: list[int]
) -> None:
    async def play() -> list[int]:
        answers, taken = Answers(), []
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


async def test_an_api_that_fails_ends_it_all() -> None:
    class Broken(Answers):
        async def sign(self, numbers: Sequence[int]) -> list[Signed]:
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


async def test_an_address_is_one_part_s_for_the_whole_upload() -> None:
    ticket = MultipartTicket(
        build_id="b", object_key="o", upload_id="u", total_parts=PARTS, part_size=1
    )
    signer = Signer(Forgetful(), ManualClock(), ticket, PLAN)  # type: ignore[arg-type]
    first, _ = await signer.sign([1, 2])
    assert (await signer.renewed(first)).address == first.address  # it may come again for its own
    await signer.sign([3])
    with pytest.raises(DecodeError, match="no URL for part 5"):
        await signer.sign([5])
