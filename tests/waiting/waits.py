"""What tests of waiting share: a sandbox with a client on one clock, and rows to wait for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Literal

import attrs
from doubles import HeldClock, ManualClock, is_accepting, until
from scripted import Reply, execution, json_answer, page, run
from yarl import URL

from nunu_async import Change, NunuClient, RetryPolicy
from nunu_async.sandbox import Outcome, Sandbox, Script

EPOCH = 1_780_000_000.0
ONCE = RetryPolicy(attempts=1)
KINDS = ("execution", "run", "job")
UUID = "d1e2f3a4-b5c6-4d7e-8f90-a1b2c3d4e5{:02x}"


@attrs.define
class World:
    """A sandbox and a client on one clock."""

    box: Sandbox
    nunu: NunuClient
    clock: Any

    def add(self, kind: str, seconds: float = 25.0, result: str = "SUCCESS") -> str:
        """Add a row to the sandbox that runs for so many seconds; with 0 it is over."""
        if kind == "execution":
            word = "passed" if result == "SUCCESS" else "failed"
            outcome = Outcome(**{word: 1}, run_seconds=seconds)
            status: Literal["in_progress", "completed"] = "in_progress" if seconds else "completed"
            return self.box.add_execution(outcome=outcome, status=status).execution_id
        script = Script(run_seconds=seconds, result=result)
        row = self.box.add_run(script=script, state="RUNNING" if seconds else "COMPLETED")
        return row.run_id if kind == "run" else row.job_id

    def one(self, kind: str, name: str, **options: Any) -> Coroutine[Any, Any, Any]:
        waiting: Coroutine[Any, Any, Any] = getattr(self.nunu, f"wait_for_{kind}")(name, **options)
        return waiting

    def many(self, kind: str, names: Any, **options: Any) -> Coroutine[Any, Any, Any]:
        waiting: Coroutine[Any, Any, Any] = getattr(self.nunu, f"wait_for_{kind}s")(
            names, **options
        )
        return waiting

    def each(self, kind: str, names: Any, **options: Any) -> Any:
        return getattr(self.nunu, f"{kind}s_as_completed")(names, **options)


OpenWorld = Callable[..., Awaitable[World]]
"""The fixture `world`, with the parameters of `opened`."""


def id_of(row: Any) -> str:
    for name in ("id", "multiplayer_run_id", "job_id"):
        if hasattr(row, name):
            return str(getattr(row, name))
    raise AssertionError(row)


async def noted(rows: Any, seen: list[str], then: Callable[[], None] = lambda: None) -> None:
    """Note each row as it comes, so that those before an error are known."""
    async for row in rows:
        seen.append(id_of(row))
        then()


@asynccontextmanager
async def opened(
    clock: ManualClock | None = None, box: dict[str, Any] | None = None, **settings: Any
) -> AsyncIterator[World]:
    """Open a sandbox, made with the arguments `box`, and a client with these settings.

    Without a clock, pauses pass at once.
    """
    on = clock or ManualClock()
    async with Sandbox(now=lambda: EPOCH + on.now, **(box or {})) as sandbox:
        usual: dict[str, Any] = {"project_id": sandbox.project_id, "base_url": sandbox.base_url}
        async with NunuClient(sandbox.api_key, clock=on, **(usual | settings)) as nunu:
            yield World(sandbox, nunu, on)


def others() -> set[asyncio.Task[Any]]:
    """Return the tasks that are neither the test's own nor the sandbox's."""
    return {
        task
        for task in asyncio.all_tasks()
        if task is not asyncio.current_task()
        and "sandbox" not in repr(task.get_coro())
        and "aiohttp/web" not in repr(task)
        and "RequestHandler" not in repr(task.get_coro())
        and "raw_server" not in repr(task.get_coro())
        and not is_accepting(task)
    }


async def paused(clock: HeldClock, count: int, seconds: float = 20.0) -> None:
    """Wait until so many pauses have begun."""
    await until(lambda: len(clock.sleeps) >= count, seconds)


def spawn(coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    return asyncio.get_running_loop().create_task(coroutine)


class Notes:
    """The changes that `on_change` was called with."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str | None, str]] = []

    def note(self, change: Change[Any]) -> None:
        assert id_of(change.row) is not None
        self.seen.append((change.id, change.before, change.after))

    async def note_slowly(self, change: Change[Any]) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        self.note(change)

    def of(self, name: str) -> list[tuple[str | None, str]]:
        return [
            (before.upper() if before else None, after.upper())
            for changed, before, after in self.seen
            if changed == name
        ]


def job(**members: Any) -> dict[str, Any]:
    return {
        "job_id": UUID.format(0),
        "status": "RUNNING",
        "created_at": "2026-04-11T06:12:03.114520+00:00",
        "completed_at": None,
        "project_id": "pixel-harbor",
        "multiplayer_test_id": UUID.format(255),
        "tags": [],
        "retries": {"total": 0, "remaining": 0},
        "runs": [],
    } | members


def row_of(kind: str, name: str, state: str) -> dict[str, Any]:
    """Make a row in the state that filters call `state`."""
    if kind == "execution":
        return execution(id=name, status=state)
    word = {"in_progress": "RUNNING", "running": "RUNNING", "queued": "QUEUED"}.get(state, state)
    if kind == "run":
        result = "SUCCESS" if state.lower() == "completed" else None
        return run(multiplayer_run_id=name, state=word, result=result, completed_at=None)
    return job(job_id=name, status=word)


def answer_for(kind: str, target: str, states: dict[str, str]) -> Reply:
    """Answer a request for a page or a row, of rows in these states; filters ignore case."""
    url = URL(target)
    wanted = url.query.get("status") or url.query.get("state")
    if "page" not in url.query:
        name = url.path.rsplit("/", 1)[1]
        if name not in states:
            return json_answer({"error": "not found"}, 404)
        return json_answer(row_of(kind, name, states[name]))
    is_over = {name for name, state in states.items() if state.lower() == "completed"}
    first = "in_progress" if kind == "execution" else "running"
    if wanted == "completed":
        shown = [name for name in states if name in is_over]
    elif wanted == first:
        shown = [name for name in states if name not in is_over]
    else:
        shown = []
    number, size = int(url.query["page"]), int(url.query["page_size"])
    part = shown[number * size : (number + 1) * size]
    rows = [row_of(kind, name, states[name]) for name in part]
    return json_answer(page(rows, number=number, size=size, count=len(shown)))


TROUBLES: dict[str, dict[str, Any]] = {
    "500": {"status": 500},
    "502": {"status": 502, "body": "<html>"},
    "503": {"status": 503},
    "504": {"status": 504},
    "520": {"status": 520},
    "507": {"status": 507},
    "408": {"status": 408},
    "425": {"status": 425},
    "429": {"status": 429},
    "429 and when": {"status": 429, "headers": {"Retry-After": "33"}},
    "503 and when": {"status": 503, "headers": {"Retry-After": "21"}},
    "429 and long": {"status": 429, "headers": {"Retry-After": "400"}},
    "no json": {"status": 200, "body": "<html>gateway</html>"},
    "half an answer": {"status": 200, "body": '{"data": [', "headers": {}},
    "cut": {"do": "cut"},
}


BROKEN = json_answer({"error": "broken"}, 500)


def lists(rows: list[dict[str, Any]], state: str, broken: set[tuple[str, int]]) -> Any:
    """Answer for lists by state, some pages of which are broken."""

    def reply(target: str) -> Reply:
        query = URL(target).query
        number, size = int(query["page"]), int(query["page_size"])
        if (query[state], number) in broken:
            return BROKEN
        found = [row for row in rows if row[state].lower() == query[state]]
        shown = found[number * size : (number + 1) * size]
        return json_answer(page(shown, number=number, size=size, count=len(found)))

    return reply


def executions(count: int, status: str) -> list[dict[str, Any]]:
    return [execution(id=f"{status}-{number}", status=status) for number in range(count)]
