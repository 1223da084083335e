"""Many who wait for executions, on one shared loop, beside a task for each that asks by itself.

Run with `python -m benchmarks.wait`. The sandbox has a process of its own, and so has the client
in every measurement, so that CPU is the client's alone. Each waiter is a task of its own that calls
`wait_for_execution`. A twentieth of the executions, picked at random, ends with each of 20 ticks;
a tick is the poll interval and takes no time: the client's clock moves the sandbox's instead of
sleeping. There are 21 looks therefore, as the first is at once, and "per tick" is per look.

Requests are counted by the sandbox. CPU is that of the client's process between two ticks, the
start of all waits being part of the first look. Memory is what tracemalloc sees, in processes of
its own: the peak over the looks, less the peak of as many tasks that await a future each.

The naive way is a task for each id that asks for it once a tick, over the same client. The API has
no operation that reads one execution, so it waits for runs, with GET /runs/{id}.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import gc
import multiprocessing
import random
import statistics
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import attrs

from benchmarks.machine import describe, tell
from nunu_async import NunuClient
from nunu_async.core.clock import Clock, SystemClock
from nunu_async.models.runs import Run
from nunu_async.models.test_plan_executions import TestPlanExecution
from nunu_async.sandbox import Outcome, Sandbox, Script

TICKS = 20
INTERVAL = 10.0
START = 1_775_000_000.0
DAY = 86_400.0
SEED = 7

MOST_REQUESTS = 101
MOST_BY_HISTORY = 2
MOST_BYTES = 2048
JUDGED = 10_000

_SPAWN = multiprocessing.get_context("spawn")


@attrs.frozen(kw_only=True)
class Plan:
    """What is measured.

    Attributes:
        waiters: how many wait.
        ticks: so many are played; after all `TICKS` of them all waiters are done.
        quiet: so many pass before the first execution ends.
        older: finished executions that had begun before all of these.
        newer: finished executions that began after all of these.
    """

    waiters: int
    ticks: int = TICKS
    quiet: int = 0
    older: int = 0
    newer: int = 0

    def ends(self) -> list[int]:
        """Return with which tick each one ends."""
        ends = [self.quiet + 1 + number * TICKS // self.waiters for number in range(self.waiters)]
        random.Random(SEED).shuffle(ends)  # noqa: S311 - an order
        return ends


def ends_well(number: int) -> bool:
    """Tell whether the one of this number succeeds."""
    return number % 7 != 0


# The sandbox's process.


def serve(plan: Plan, pipe: Connection, *, runs: bool) -> None:
    """Be the sandbox until the pipe is closed; it carries seconds in, requests since then out."""
    asyncio.run(_serve(plan, pipe, runs=runs))


async def _serve(plan: Plan, pipe: Connection, *, runs: bool) -> None:
    now = START
    sandbox = Sandbox(now=lambda: now)
    gc.disable()
    ids = (_fill_runs if runs else _fill_executions)(sandbox, plan)
    gc.enable()
    gc.freeze()
    # The sandbox filters all rows for each request, which is too much for a million of them. Here
    # rows only change with `now`, so a list is that of the same request a page before.
    history = sandbox._history  # noqa: SLF001 - no test needs that
    history.executions = functools.lru_cache(4)(history.executions)  # type: ignore[method-assign]
    counted = 0
    loop = asyncio.get_running_loop()
    closed = loop.create_future()

    def asked() -> None:
        nonlocal now, counted
        try:
            now += pipe.recv()
        except EOFError:
            loop.remove_reader(pipe.fileno())
            closed.set_result(None)
            return
        arrived = len(sandbox.journal)
        pipe.send(arrived - counted)
        counted = arrived

    async with sandbox:
        pipe.send((sandbox.environment, ids))
        loop.add_reader(pipe.fileno(), asked)
        await closed


def _fill_executions(sandbox: Sandbox, plan: Plan) -> list[str]:
    over = Outcome(passed=2, queue_seconds=0.0, run_seconds=1.0)
    for number in range(plan.older):
        sandbox.add_execution(outcome=over, created=START - DAY + number * DAY / plan.older / 2)
    ways = {
        (end, well): Outcome(
            passed=2 if well else 1,
            failed=0 if well else 1,
            queue_seconds=0.0,
            run_seconds=(end - 0.5) * INTERVAL + 600.0,
        )
        for end in range(1, plan.quiet + TICKS + 1)
        for well in (True, False)
    }
    ids = [
        sandbox.add_execution(outcome=ways[end, ends_well(number)], created=START - 600.0)
        for number, end in enumerate(plan.ends())
    ]
    for number in range(plan.newer):
        sandbox.add_execution(outcome=over, created=START - 300.0 + number * 200.0 / plan.newer)
    return [one.execution_id for one in ids]


def _fill_runs(sandbox: Sandbox, plan: Plan) -> list[str]:
    ways = {
        (end, well): Script(
            initialize_seconds=0.0,
            run_seconds=(end - 0.5) * INTERVAL,
            result="SUCCESS" if well else "FAILED",
        )
        for end in range(1, plan.quiet + TICKS + 1)
        for well in (True, False)
    }
    return [
        sandbox.add_run(script=ways[end, ends_well(number)], state="RUNNING", created=START).run_id
        for number, end in enumerate(plan.ends())
    ]


# The client's process.


class Ticks:
    """The sandbox's time, which is moved from here, and what each look took."""

    def __init__(self, plan: Plan, pipe: Connection) -> None:
        self._plan = plan
        self._pipe = pipe
        self._began = 0.0
        self._asleep = 0
        self._next = asyncio.Event()
        self._ends = plan.ends()
        self.awake = plan.waiters
        self.number = 0
        self.right = 0
        self.requests: list[int] = []
        self.cpu: list[float] = []
        self.traced = False
        self.held = 0
        self.peak = 0
        self.over = asyncio.Event()

    def start(self) -> None:
        """Begin to count: what was sent until now was for warming up."""
        gc.collect()
        self._pipe.send(0.0)
        self._pipe.recv()
        if self.traced:
            tracemalloc.start()
        self._began = time.process_time()

    def stop(self) -> None:
        """Take note of what the look took that now ends."""
        self.cpu.append(time.process_time() - self._began)
        self.weigh()
        is_last = self.number == self._plan.ticks or self.right == self._plan.waiters
        self._pipe.send(0.0 if is_last else INTERVAL)
        self.requests.append(self._pipe.recv())
        if is_last:
            self.over.set()
        else:
            self.number += 1
        self._began = time.process_time()

    def weigh(self) -> None:
        """Take note of the memory, if that is what is measured."""
        if self.traced:
            gc.collect()
            held, self.peak = tracemalloc.get_traced_memory()
            self.held = max(self.held, held)

    async def together(self) -> None:
        """Sleep until all who have not `left` sleep as well: that ends a look."""
        self._asleep += 1
        woken = self._next
        self._stop_if_all()
        await woken.wait()

    def left(self) -> None:
        """Take note that one will not sleep again."""
        self.awake -= 1
        self._stop_if_all()

    def _stop_if_all(self) -> None:
        if self._asleep < self.awake:
            return
        self.stop()
        if not self.over.is_set():
            self._asleep, woken, self._next = 0, self._next, asyncio.Event()
            woken.set()

    def check(self, number: int, name: str, id_of_row: str, row: Run | TestPlanExecution) -> None:
        """Take note of a result: of whom it tells what, and that it is neither early nor late."""
        if (id_of_row, row.is_terminal, row.succeeded) != (name, True, ends_well(number)):
            raise RuntimeError(f"{name} came to {row!r}")
        if self.number != self._ends[number]:
            raise RuntimeError(
                f"{name} ended at {self._ends[number]}, and that was reported at {self.number}"
            )
        self.right += 1


class TickClock(SystemClock):
    """Time stands still but for polls, each of which takes one tick."""

    def __init__(self, ticks: Ticks) -> None:
        self._ticks = ticks

    def monotonic(self) -> float:
        """Return the simulated seconds."""
        return self._ticks.number * INTERVAL

    def random(self) -> float:
        """Return the same each time: no jitter."""
        return 0.0

    async def sleep(self, delay: float) -> None:
        """Move the sandbox's time, once the waiters whose runs are done have left."""
        if delay < INTERVAL:
            raise RuntimeError(f"a pause of {delay} s, though nothing went wrong")
        for _ in range(100):  # they are woken in as many turns of the loop, at most
            await asyncio.sleep(0)
        self._ticks.stop()
        if self._ticks.over.is_set():
            await asyncio.get_running_loop().create_future()


@contextlib.contextmanager
def sandbox_of(plan: Plan, *, runs: bool) -> Iterator[tuple[Ticks, dict[str, str], list[str]]]:
    """Run a sandbox in a process of its own."""
    ours, its = _SPAWN.Pipe()
    server = _SPAWN.Process(target=serve, args=(plan, its), kwargs={"runs": runs}, daemon=True)
    server.start()
    its.close()
    try:
        environ, ids = ours.recv()
        yield Ticks(plan, ours), environ, ids
    finally:
        ours.close()
        server.join(10)
        server.kill()


@contextlib.asynccontextmanager
async def client_of(environ: dict[str, str], clock: Clock) -> AsyncIterator[NunuClient]:
    """Open a client and warm it up."""
    async with NunuClient(
        environ["NUNU_API_KEY"], base_url=environ["NUNU_BASE_URL"], clock=clock
    ) as nunu:
        for number in range(8):
            await nunu.test_plan_executions.list_page(page=number, page_size=100)
            await nunu.runs.list_page(page=number, page_size=100)
        await nunu.wait_for_executions([])  # loads what polls, or the first waits begin apart
        yield nunu


async def play(
    ticks: Ticks, caller: Callable[[int, str], Coroutine[object, object, None]], ids: list[str]
) -> None:
    """Run a task for each until all are done, or until all ticks are played."""
    tasks = [asyncio.create_task(caller(number, name)) for number, name in enumerate(ids)]
    all_waits = asyncio.gather(*tasks)
    over = asyncio.create_task(ticks.over.wait())
    either: set[asyncio.Future[Any]] = {all_waits, over}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if all_waits.done():
        over.cancel()
        all_waits.result()
        if not ticks.over.is_set():
            ticks.stop()
    else:
        all_waits.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await all_waits


async def shared(ticks: Ticks, environ: dict[str, str], ids: list[str]) -> None:
    """Wait with `wait_for_execution`."""
    async with client_of(environ, TickClock(ticks)) as nunu:

        async def caller(number: int, name: str) -> None:
            row = await nunu.wait_for_execution(name, interval=INTERVAL)
            ticks.check(number, name, row.id, row)

        ticks.start()
        await play(ticks, caller, ids)


async def naive(ticks: Ticks, environ: dict[str, str], ids: list[str]) -> None:
    """Let each ask by itself, once a tick."""
    async with client_of(environ, SystemClock()) as nunu:

        async def caller(number: int, name: str) -> None:
            while not (row := await nunu.runs.get(name)).is_terminal:
                await ticks.together()
            ticks.check(number, name, row.multiplayer_run_id, row)
            ticks.left()

        ticks.start()
        await play(ticks, caller, ids)


async def idle(ticks: Ticks, environ: dict[str, str], ids: list[str]) -> None:
    """Wait for nothing: what the tasks of the callers cost."""
    async with client_of(environ, SystemClock()):

        async def caller(_number: int, _name: str) -> None:
            await asyncio.get_running_loop().create_future()

        async def weigh() -> None:
            for _ in range(5):
                await asyncio.sleep(0)
            ticks.weigh()
            ticks.over.set()

        ticks.start()
        weighing = asyncio.create_task(weigh())
        await play(ticks, caller, ids)
        await weighing


WAYS = {"shared": shared, "naive": naive, "idle": idle}


def measure(way: str, plan: Plan, *, traced: bool) -> dict[str, Any]:
    """Play a plan in this process; return the requests and the CPU, or else the memory."""
    with sandbox_of(plan, runs=way == "naive") as (ticks, environ, ids):
        ticks.traced = traced
        asyncio.run(WAYS[way](ticks, environ, ids))
    if traced:
        return {"peak": ticks.peak, "held": ticks.held}
    due = sum(end <= plan.ticks for end in plan.ends())
    if ticks.right != due:
        raise SystemExit(f"{ticks.right} of {due} got their results")
    return {"requests": ticks.requests, "cpu_s": ticks.cpu, "right": ticks.right}


def alone(way: str, plan: Plan, *, traced: bool = False) -> dict[str, Any]:
    """Measure in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=_SPAWN) as pool:
        return pool.submit(measure, way, plan, traced=traced).result()


# What is measured, and what is reported.


@attrs.frozen(kw_only=True)
class Course:
    """How much of it all is measured.

    Attributes:
        shared: plans, and how many rounds of each.
        naive: the same for the naive way.
        memory: plans.
        histories: older finished executions.
        history: the plan that they are put before.
        newer: so many are put after it once, with none before.
    """

    shared: tuple[tuple[Plan, int], ...]
    naive: tuple[tuple[Plan, int], ...]
    memory: tuple[Plan, ...]
    histories: tuple[int, ...]
    history: Plan
    newer: int = 0


FULL = Course(
    shared=(
        (Plan(waiters=100), 5),
        (Plan(waiters=1_000), 5),
        (Plan(waiters=10_000), 3),
        (Plan(waiters=100_000), 1),
    ),
    naive=((Plan(waiters=100), 5), (Plan(waiters=1_000), 3), (Plan(waiters=10_000, ticks=2), 1)),
    memory=(
        Plan(waiters=100),
        Plan(waiters=1_000),
        Plan(waiters=JUDGED),
        Plan(waiters=100_000, ticks=1),
    ),
    histories=(0, 10_000, 1_000_000),
    history=Plan(waiters=JUDGED, ticks=5, quiet=2),
    newer=10_000,
)
SHORT = Course(
    shared=((Plan(waiters=100), 1), (Plan(waiters=1_000), 1)),
    naive=((Plan(waiters=100), 1), (Plan(waiters=1_000, ticks=1), 1)),
    memory=(Plan(waiters=JUDGED, ticks=0),),
    histories=(0, 100_000),
    history=Plan(waiters=JUDGED, ticks=2, quiet=1),
)


def costs(way: str, plans: tuple[tuple[Plan, int], ...]) -> list[dict[str, Any]]:
    """Measure requests and CPU, and print a line for each plan."""
    rows = []
    for plan, rounds in plans:
        found = [alone(way, plan) for _ in range(rounds)]
        requests = found[0]["requests"]
        if any(one["requests"] != requests for one in found):
            raise SystemExit(f"{way}, {plan.waiters}: not each round took the same requests")
        spent = [statistics.mean(one["cpu_s"]) for one in found]
        is_scaled = plan.ticks < TICKS
        if is_scaled:
            # All others are asked for in each look, so it would come to this over all ticks.
            each = sum(map(sum, (one["cpu_s"] for one in found))) / (rounds * sum(requests))
            mean = plan.waiters * (1 + sum(range(1, TICKS + 1)) / TICKS) / (TICKS + 1)
            spent = [each * mean]
        else:
            mean = statistics.mean(requests)
        row = {
            "waiters": plan.waiters,
            "looks": len(requests),
            "rounds": rounds,
            "is_scaled": is_scaled,
            "right": found[0]["right"],
            "requests": requests,
            "requests_mean": mean,
            "requests_max": max(requests),
            "cpu_s": statistics.median(spent),
            "cpu_s_least": min(spent),
            "cpu_s_most": max(spent),
            "cpu_s_first": statistics.median(one["cpu_s"][0] for one in found),
        }
        rows.append(row)
        print(
            f"{way:>7} {plan.waiters:>8} {len(requests):>6} {row['requests_mean']:>10.1f} "
            f"{row['requests_max']:>7} {1000 * row['cpu_s']:>10.1f} "
            f"({1000 * min(spent):.1f}-{1000 * max(spent):.1f})"
            f"{' scaled to 21 looks' if is_scaled else ''}",
            flush=True,
        )
    return rows


def weights(plans: tuple[Plan, ...]) -> list[dict[str, Any]]:
    """Measure memory, and print a line for each plan."""
    rows = []
    for plan in plans:
        ours, tasks = alone("shared", plan, traced=True), alone("idle", plan, traced=True)
        row = {
            "waiters": plan.waiters,
            "looks": plan.ticks + 1,
            "task": tasks["peak"] / plan.waiters,
            "peak": (ours["peak"] - tasks["peak"]) / plan.waiters,
            "held": (ours["held"] - tasks["held"]) / plan.waiters,
        }
        rows.append(row)
        print(
            f"{plan.waiters:>8} {row['looks']:>6} {row['task']:>10.0f} {row['peak']:>10.0f} "
            f"{row['held']:>10.0f}",
            flush=True,
        )
    return rows


def histories(course: Course) -> list[dict[str, Any]]:
    """Measure requests beside a history, and print a line for each."""
    plans = [attrs.evolve(course.history, older=number) for number in course.histories]
    if course.newer:
        plans.append(attrs.evolve(course.history, newer=course.newer))
    rows = []
    for plan in plans:
        requests = alone("shared", plan)["requests"]
        row = {
            "waiters": plan.waiters,
            "older": plan.older,
            "newer": plan.newer,
            "active": requests[: plan.quiet + 1],
            "ending": requests[plan.quiet + 1 :],
        }
        rows.append(row)
        print(
            f"{plan.older:>9} {plan.newer:>7} {max(row['active']):>10} {max(row['ending']):>17}",
            flush=True,
        )
    return rows


def judge(report: dict[str, Any]) -> bool:
    """Print what was promised and what came of it; tell whether it was kept."""
    older = [row for row in report["histories"] if not row["newer"]]
    active, ending = ([max(row[name]) for row in older] for name in ("active", "ending"))
    by_history = max(max(some) - min(some) for some in (active, ending))
    (weight,) = (row for row in report["memory"] if row["waiters"] == JUDGED)
    lines = (
        (f"{JUDGED:,} active: requests per tick", active[0], MOST_REQUESTS),
        (f"history 0 to {older[-1]['older']:,}: change of that", by_history, MOST_BY_HISTORY),
        (f"{JUDGED:,} waiters: bytes for each over its task", weight["peak"], MOST_BYTES),
    )
    for text, figure, most in lines:
        word = "kept" if figure <= most else "MISSED"
        print(f"{word}: {text} {figure:.0f} (at most {most})")
    report["judged"] = [
        {"what": text, "figure": figure, "most": most} for text, figure, most in lines
    ]
    return all(figure <= most for _, figure, most in lines)


def draw(report: dict[str, Any], path: Path) -> None:
    """Draw requests and CPU per tick against waiters."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - only here, as it is large
    except ImportError:
        raise SystemExit("a chart needs matplotlib: pip install 'nunu_async[bench]'") from None
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    for axes, name, title in zip(
        figure.subplots(1, 2),
        ("requests_mean", "cpu_s"),
        ("Requests per tick", "Client CPU seconds per tick"),
        strict=True,
    ):
        for way, label, color in (
            ("naive", "naive: a GET for each, each tick", "tab:red"),
            ("shared", "wait_for_execution", "tab:blue"),
        ):
            rows = report[way]
            axes.plot(
                [row["waiters"] for row in rows],
                [row[name] for row in rows],
                color=color,
                label=label,
            )
            for row in rows:
                # Hollow: scaled from a few looks.
                inside = "white" if row["is_scaled"] else color
                axes.plot(row["waiters"], row[name], "o", color=color, markerfacecolor=inside)
        axes.set(xscale="log", yscale="log", xlabel="waiters", title=title)
        axes.grid(visible=True, which="major", alpha=0.3)
        axes.legend()
    machine = report["machine"]
    figure.suptitle(
        f"Executions that end over {TICKS} ticks; Python {machine['python']}, "
        f"{machine['cores']} cores, sandbox on loopback. Hollow: scaled from a few looks.",
        fontsize=9,
    )
    figure.savefig(path, dpi=120)


def main(argv: list[str] | None = None) -> int:
    """Measure, print tables, and write JSON and a chart where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--short", action="store_true", help="to 1,000 waiters, one round")
    size.add_argument("--full", action="store_true", help="to 100,000 waiters; the default")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--chart", type=Path, help="draw a PNG here; needs matplotlib")
    asked = parser.parse_args(argv)
    course = SHORT if asked.short else FULL
    report: dict[str, Any] = {"machine": describe("aiohttp", seed=SEED)}
    print("per tick: mean and most requests, client CPU milliseconds, median (min-max) of rounds")
    print(f"{'way':>7} {'waiters':>8} {'looks':>6} {'requests':>10} {'most':>7} {'CPU ms':>10}")
    report["shared"] = costs("shared", course.shared)
    report["naive"] = costs("naive", course.naive)
    print("the naive way with more waiters was not run")
    print("\nbytes for each waiter: the caller's task, and over it at the peak and between looks")
    print(f"{'waiters':>8} {'looks':>6} {'task':>10} {'peak':>10} {'held':>10}")
    report["memory"] = weights(course.memory)
    print(f"\n{JUDGED:,} waiters beside a finished history: most requests per tick")
    print(f"{'older':>9} {'newer':>7} {'all active':>10} {'a 20th ends each':>17}")
    report["histories"] = histories(course)
    print()
    is_kept = judge(report)
    tell(report["machine"], report, asked.json)
    if asked.chart:
        draw(report, asked.chart)
    return 0 if is_kept else 1


if __name__ == "__main__":
    sys.exit(main())
