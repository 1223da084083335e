"""Arguments of a wait that are refused before anything is sent."""

from __future__ import annotations

import math
from typing import Any

import pytest
from waits import KINDS, OpenWorld

from nunu_async import InputError

BAD_IDS: list[Any] = [
    "abc",
    b"abc",
    [1],
    [None],
    [b"abc"],
    [""],
    ["a/b"],
    ["../x"],
    ["a b"],
    ["ok", 7],
    [["ok"]],
    None,
    5,
]


@pytest.mark.parametrize("names", BAD_IDS, ids=repr)
async def test_invalid_ids_are_refused_before_anything_is_sent(
    world: OpenWorld, names: Any
) -> None:
    on = await world()
    for kind in KINDS:
        with pytest.raises(InputError):
            await on.many(kind, names)
        with pytest.raises(InputError):
            await anext(on.each(kind, names))
    assert len(on.box.journal) == 0


@pytest.mark.parametrize("name", [None, 1, b"x", "", "a/b", ["x"]], ids=repr)
async def test_an_invalid_id_is_refused_before_anything_is_sent(
    world: OpenWorld, name: Any
) -> None:
    on = await world()
    for kind in KINDS:
        with pytest.raises(InputError):
            await on.one(kind, name)
    assert len(on.box.journal) == 0


@pytest.mark.parametrize(
    "seconds",
    [0, 0.0, -1, -0.5, math.nan, math.inf, -math.inf, True, False, "10", [1], 10**400],
    ids=lambda value: repr(value)[:12],
)
@pytest.mark.parametrize("field", ["timeout", "interval"])
async def test_an_invalid_time_is_refused_before_anything_is_sent(
    world: OpenWorld, field: str, seconds: Any
) -> None:
    on = await world()
    for kind in KINDS:
        name = on.add(kind, 0)
        with pytest.raises(InputError) as caught:
            await on.one(kind, name, **{field: seconds})
        assert caught.value.field == field
        with pytest.raises(InputError):
            await on.many(kind, [name], **{field: seconds})
        with pytest.raises(InputError):
            await anext(on.each(kind, [name], **{field: seconds}))
    assert len(on.box.journal) == 0


async def test_an_interval_of_none_is_refused(world: OpenWorld) -> None:
    on = await world()
    with pytest.raises(InputError):
        await on.one("run", "abc", interval=None)
    assert len(on.box.journal) == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_waiting_for_nothing_sends_nothing(world: OpenWorld, kind: str) -> None:
    on = await world()
    assert await on.many(kind, []) == ()
    assert await on.many(kind, (), timeout=5) == ()
    assert [row async for row in on.each(kind, [])] == []
    assert len(on.box.journal) == 0
    assert on.clock.sleeps == []
    assert on.clock.waiting == 0
