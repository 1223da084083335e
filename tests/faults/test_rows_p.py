"""Rows P that are no plain data: processes, threads, loops, garbage, and what swallows."""

from __future__ import annotations

import ast
import asyncio
import gc
import io
import logging
import random
import signal
import sys
import threading
import warnings
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_tools import environment, started, until
from doubles import Gate, ManualClock
from fault_case import PART
from fault_invariants import Evidence, check_invariants
from fault_server import KEY, FaultServer
from fault_steps import hold, serve, stop_reading
from uploads import MakeFile, stalled, states

import nunu_async
from nunu_async import ConfigError, NunuClient
from nunu_async.sandbox import Fault, Sandbox

ROOT = Path(nunu_async.__file__).parent
STALL = Fault(on="put_part", times=None, do="stall")
SOON = 10.0

_signals = pytest.mark.skipif(sys.platform == "win32", reason="no such signals on Windows")


def judge(box: Sandbox, path: Path, **allowed: str) -> None:
    check_invariants(Evidence.of_sandbox(box, content=path.read_bytes(), allowed=allowed))


# --- Processes that are asked to end

_PROGRAM = """
import asyncio, signal, sys
from nunu_async import NunuClient

async def main():
    # Any handler of the loop lets every signal wake it: one that comes just before the loop begins
    # to wait is seen otherwise only when something else happens.
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, print)
    async with NunuClient() as nunu:
        await nunu.upload_build("game.zip", name="n", platform="linux", multipart=True)

signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs the tests may ignore it
default = signal.getsignal(signal.SIGTERM)
try:
    asyncio.run(main())
finally:
    assert signal.getsignal(signal.SIGTERM) is default is signal.SIG_DFL
"""


async def program(box: Sandbox, folder: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-X", "dev", "-W", "error", "-c", _PROGRAM),
        env=environment(box.environment),
        cwd=folder,
        stderr=asyncio.subprocess.PIPE,
    )


async def ended(process: asyncio.subprocess.Process) -> str:
    async with asyncio.timeout(SOON):
        _, err = await process.communicate()
    assert KEY not in err.decode()
    return err.decode()


@_signals
async def test_p8_an_interrupt_under_asyncio_run_cancels_the_upload(make_file: MakeFile) -> None:
    path = make_file(3 * PART)
    async with Sandbox(part_size=PART, faults=[STALL]) as box:
        process = await program(box, path.parent)
        await until(lambda: stalled(box) == 3)
        process.send_signal(signal.SIGINT)
        err = await ended(process)
        assert "KeyboardInterrupt" in err
        assert "never" not in err
        assert box.api_key not in err
        assert states(box) == ["cancelled"]
        assert box.journal[-1].operation == "cancel_upload"
        judge(box, path)


@_signals
async def test_p8_a_second_interrupt_ends_the_program_with_the_delete_on_its_way(
    make_file: MakeFile,
) -> None:
    path = make_file(3 * PART)
    gate = Gate()
    faults = [STALL, Fault(on="cancel_upload", latency=1.0)]
    async with Sandbox(part_size=PART, faults=faults, sleep=gate.sleep) as box:
        process = await program(box, path.parent)
        await until(lambda: stalled(box) == 3)
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(SOON):
            await gate.reached.wait()
        process.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in await ended(process)
        gate.open()
        assert len(box.journal.of("cancel_upload")) == 1
        judge(box, path, I1="its one DELETE may have been cut off")


@_signals
async def test_p9_the_library_takes_no_signals(make_file: MakeFile) -> None:
    """What handles them is the program; the command line does."""
    path = make_file(3 * PART)
    async with Sandbox(part_size=PART, faults=[STALL]) as box:
        process = await program(box, path.parent)
        await until(lambda: stalled(box) == 3)
        process.send_signal(signal.SIGTERM)
        await ended(process)
        assert process.returncode == -signal.SIGTERM
        judge(box, path, I1="left to the server: a program that handles no SIGTERM just ends")


@_signals
async def test_p10_what_a_kill_leaves_behind_is_gone_on_with_by_its_journal(
    make_file: MakeFile, tmp_path: Path, clock: ManualClock
) -> None:
    path = make_file(6 * PART)
    state = tmp_path / "state"
    said = ["upload", path, "-n", "N", "--platform", "linux", "--multipart", "--resume"]
    faults = [Fault(on="put_part", first=3, times=4, do="stall")]
    async with Sandbox(part_size=PART, faults=faults) as box:
        environ = box.environment | {"NUNU_STATE_DIR": str(state)}
        async with started(*said, env=environ) as running:
            await until(lambda: stalled(box) == 4)
            running.process.send_signal(signal.SIGKILL)
            await running.process.wait()
        (journal,) = (one for one in state.rglob("*") if one.is_file())
        assert journal.stat().st_mode & 0o777 == 0o600
        text = journal.read_text(encoding="utf-8")
        assert box.api_key not in text
        assert "X-Amz" not in text
        async with NunuClient(
            box.api_key,
            project_id=box.project_id,
            base_url=box.base_url,
            state_dir=state,
            clock=clock,
        ) as nunu:
            await nunu.upload_build(path, name="N", platform="linux", multipart=True, resume=True)
        assert [one for one in state.rglob("*") if one.is_file()] == []
        judge(box, path)


# --- Another loop, another thread


def in_another_loop(work: Callable[[], Awaitable[object]]) -> BaseException | None:
    """Run something in a thread with a loop of its own; return what it raised."""
    raised: list[BaseException] = []

    def target() -> None:
        async def bounded() -> None:
            async with asyncio.timeout(5):
                await work()

        try:
            asyncio.run(bounded())
        except BaseException as error:  # noqa: BLE001 - it is what is asked for
            raised.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    return raised[0] if raised else None


USES: dict[str, Callable[[NunuClient, Path], Awaitable[object]]] = {
    "list": lambda nunu, _: nunu.runs.list_page(),
    "upload": lambda nunu, path: nunu.upload_build(path, name="n", platform="linux"),
    "wait": lambda nunu, _: nunu.wait_for_run("1g20ccrgksb"),
    "start": lambda nunu, _: nunu.runs.start(deployment_config_id="c", instructions="i"),
}


@pytest.mark.parametrize("second", USES)
@pytest.mark.parametrize("first", ["list", "upload"])
async def test_p12_a_client_says_that_it_belongs_to_another_loop(
    first: str, second: str, box: Sandbox, clock: ManualClock, make_file: MakeFile
) -> None:
    path = make_file(1000)
    async with NunuClient(box.api_key, base_url=box.base_url, clock=clock) as nunu:
        await USES[first](nunu, path)
        before = len(box.journal)
        error = in_another_loop(lambda: USES[second](nunu, path))
        assert isinstance(error, ConfigError), error
        assert "another event loop" in str(error)
        assert len(box.journal) == before
        await USES[first](nunu, path)
    judge(box, path, I2="an upload, and another")


async def test_p12_also_while_all_its_places_are_taken(
    box: Sandbox, clock: ManualClock, make_file: MakeFile
) -> None:
    """A semaphore that has had no waiter yet is of no loop, and would wait in any."""
    path = make_file(2 * PART)
    box.add_fault(STALL)
    async with NunuClient(
        box.api_key, base_url=box.base_url, clock=clock, storage_concurrency=1
    ) as nunu:
        task = asyncio.ensure_future(nunu.upload_build(path, name="n", platform="linux"))
        await until(lambda: stalled(box))
        error = in_another_loop(lambda: USES["upload"](nunu, path))
        assert isinstance(error, ConfigError), error
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    judge(box, path)


def test_p12_a_client_whose_loop_is_gone(tmp_path: Path) -> None:
    """Used in one `asyncio.run`, then in another: an error of ours, and it can still be closed."""
    path = tmp_path / "game.zip"
    path.write_bytes(b"x" * 1000)
    clients: list[NunuClient] = []

    async def use() -> None:
        async with Sandbox() as box:
            nunu = NunuClient(box.api_key, base_url=box.base_url)
            clients.append(nunu)
            await USES["upload"](nunu, path)

    asyncio.run(use())
    (nunu,) = clients
    for again in USES.values():

        async def once_more(again: Callable[[NunuClient, Path], Awaitable[object]] = again) -> None:
            with pytest.raises(ConfigError, match="another event loop"):
                await again(nunu, path)

        asyncio.run(once_more())
    asyncio.run(nunu.close())


# --- The loop itself


async def test_p15_the_suite_runs_on_the_loop_that_was_asked_for(
    request: pytest.FixtureRequest,
) -> None:
    """`pytest --loop {asyncio,uvloop,eager,debug}` is how the whole suite is run four times."""
    asked = request.config.getoption("--loop")
    loop = asyncio.get_running_loop()
    assert type(loop).__module__.startswith("uvloop" if asked == "uvloop" else "asyncio.")
    assert loop.get_debug() == (asked == "debug")
    eager = sys.version_info >= (3, 12) and loop.get_task_factory() is asyncio.eager_task_factory
    assert eager == (asked == "eager")


# --- Very many, and none at all


async def test_p16_after_many_requests_cancelled_at_random_all_places_are_free(
    clock: ManualClock,
) -> None:
    """Six hundred over four connections; ten thousand show no more, and take a minute."""
    chance = random.Random(16)
    async with (
        FaultServer(clock) as server,
        NunuClient(KEY, base_url=server.url("api"), clock=clock, api_concurrency=4) as nunu,
    ):
        left = 600
        while left:
            tasks = [asyncio.ensure_future(nunu.runs.list_page()) for _ in range(20)]
            left -= len(tasks)
            for task in chance.sample(tasks, len(tasks)):
                for _ in range(chance.randrange(4)):
                    await asyncio.sleep(0)
                task.cancel()
            done, _ = await asyncio.wait(tasks)
            for task in done:
                assert task.cancelled() or task.exception() is None
        async with asyncio.timeout(SOON):
            pages = await asyncio.gather(*(nunu.runs.list_page() for _ in range(8)))
        assert len(pages) == 8
        assert nunu._session._gate._value == 4
        assert clock.waiting == 0
        await until(lambda: not server.in_flight)
        assert sum(connection.is_alive for connection in server.connections) <= 4


@pytest.mark.parametrize(
    ("on", "step"),
    [
        ("initiate_upload", hold()),
        ("get_upload_parts", hold()),
        ("put_part", stop_reading("half")),
        ("complete_upload", hold(effect=True)),
        ("nothing", serve()),
    ],
)
def test_p17_an_upload_that_is_dropped_tells_no_secret(
    on: str,
    step: Any,
    make_file: MakeFile,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A loop that ends with it under way, or a coroutine that is never awaited."""
    path = make_file(2 * PART)
    unraisable: list[str] = []
    monkeypatch.setattr(
        sys,
        "unraisablehook",
        lambda it: unraisable.append(f"{it.exc_value!r} {it.err_msg} {it.object!r}"),
    )
    log = io.StringIO()
    for name in ("asyncio", "aiohttp", "nunu_async"):
        logger = logging.getLogger(name)
        monkeypatch.setattr(logger, "handlers", [logging.StreamHandler(log)])
        monkeypatch.setattr(logger, "propagate", False)  # records hold on to what they tell of
        monkeypatch.setattr(logger, "level", logging.DEBUG)
        logger.manager._clear_cache()  # type: ignore[attr-defined] - as `setLevel` does
    secrets: list[str] = []

    async def leave() -> None:
        clock = ManualClock()
        server = FaultServer(clock, steps={on: [step]})
        await server.__aenter__()
        secrets.extend(server.secrets)
        nunu = NunuClient(KEY, base_url=server.url("api"), clock=clock)
        upload = nunu.upload_build(path, name="n", platform="linux", multipart=True)
        if on == "nothing":
            del upload
        else:
            task = asyncio.ensure_future(upload)
            await until(lambda: server.stuck)
            task.add_done_callback(lambda _: None)
        secrets.extend(server.secrets)
        for listener in server._servers.values():
            listener.close()

    warned: list[str] = []

    def drop() -> None:
        loop = asyncio.new_event_loop()
        loop.set_debug(True)
        loop.run_until_complete(leave())
        loop.close()
        del loop
        for _ in range(5):
            gc.collect()
            warned.extend(str(one.message) for one in caught)
            caught.clear()  # each holds on to what it warns of

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        thread = threading.Thread(target=drop)  # where no other loop is set
        thread.start()
        thread.join()
    text = "\n".join([*unraisable, *warned, log.getvalue(), *capfd.readouterr()])
    assert ("was never awaited" if on == "nothing" else "was destroyed but it is pending") in text
    assert [secret for secret in secrets if secret in text] == []


# --- What could swallow a cancellation

_BROAD = {"BaseException", "CancelledError", "GeneratorExit", "KeyboardInterrupt"}
# Handlers of these that end otherwise than with a raise, and why they may.
_MAY_END = {
    ("core/cancellation.py", "finish"): "remembered, and raised once the work is over",
    ("upload/uploader.py", "work"): "raised by the caller once the result has been reported",
    ("upload/uploader.py", "upload_all"): "a group: the first of its failures is raised behind it",
    ("upload/parts.py", "run"): "a group: the first of its failures is raised behind it",
    ("upload/threads.py", "run"): "not in a coroutine: the future of a thread carries it",
    ("core/session.py", "_exchange"): "an unrequested one: the session was closed",
    ("upload/storage.py", "_exchange"): "an unrequested one: the session was closed",
    ("cli/serve.py", "serve"): "how the command is stopped",
    ("cli/run.py", "run"): "not in a coroutine: the process ends with this code",
    ("__main__.py", ""): "not in a coroutine: the process ends with this code",
}


def names_in(handler: ast.ExceptHandler) -> set[str]:
    if handler.type is None:
        return {"BaseException"}
    return {
        node.id if isinstance(node, ast.Name) else node.attr
        for node in ast.walk(handler.type)
        if isinstance(node, ast.Name | ast.Attribute)
    }


def always_raises(body: list[ast.stmt]) -> bool:
    """Tell whether no way through these statements ends but with a raise."""
    for statement in body:
        if isinstance(statement, ast.Raise):
            return True
        if isinstance(statement, ast.Return | ast.Break | ast.Continue):
            return False
        if (
            isinstance(statement, ast.If)
            and always_raises(statement.body)
            and always_raises(statement.orelse)
        ):
            return True
        if any(isinstance(node, ast.Return) for node in ast.walk(statement)):
            return False
    return False


def swallowers(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield the function and line of each place that may end a cancellation."""
    inside: list[tuple[ast.AST, str]] = [(tree, "")]
    while inside:
        node, function = inside.pop()
        for child in ast.iter_child_nodes(node):
            named = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            name = child.name if named else function  # type: ignore[union-attr] - just checked
            inside.append((child, name))
            if isinstance(child, ast.ExceptHandler):
                broad = names_in(child) & (_BROAD | {"BaseExceptionGroup"})
                if broad and not always_raises(child.body):
                    yield name, child.lineno
            elif isinstance(child, ast.Call):
                called = child.func.attr if isinstance(child.func, ast.Attribute) else ""
                called = child.func.id if isinstance(child.func, ast.Name) else called
                given = {n.id for a in child.args for n in ast.walk(a) if isinstance(n, ast.Name)}
                given |= {
                    n.attr for a in child.args for n in ast.walk(a) if isinstance(n, ast.Attribute)
                }
                if called == "suppress" and given & _BROAD:
                    yield name, child.lineno
            elif isinstance(child, ast.Try) and any(
                isinstance(n, ast.Return | ast.Break | ast.Continue)
                for one in child.finalbody
                for n in ast.walk(one)
            ):
                yield name, child.lineno  # a `return` there drops whatever was on its way


@pytest.mark.parametrize(
    "file", sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))
)
def test_p18_nothing_swallows_a_cancellation(file: str) -> None:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    found = [(function, line) for function, line in swallowers(tree)]
    assert [one for one in found if (file, one[0]) not in _MAY_END] == []


def test_p18_no_exception_from_the_rule_is_out_of_date() -> None:
    found = {
        (file, function)
        for file in {file for file, _ in _MAY_END}
        for function, _ in swallowers(ast.parse((ROOT / file).read_text(encoding="utf-8")))
    }
    assert set(_MAY_END) - found == set()


@pytest.mark.parametrize(
    "code",
    [
        "try: f()\nexcept: pass",
        "try: f()\nexcept BaseException as e: log(e)",
        "try: f()\nexcept (ValueError, asyncio.CancelledError): return 1",
        "try: f()\nexcept asyncio.CancelledError:\n    if closed: raise",
        "with suppress(asyncio.CancelledError): f()",
        "def g():\n    try: f()\n    finally: return 1",
    ],
)
def test_p18_the_rule_finds_what_it_is_for(code: str) -> None:
    assert list(swallowers(ast.parse(code))) != []


@pytest.mark.parametrize(
    "code",
    [
        "try: f()\nexcept BaseException:\n    g()\n    raise",
        "try: f()\nexcept Exception: pass",
        "try: f()\nexcept CancelledError as e:\n    if a: raise B from None\n    raise",
        "try: f()\nexcept BaseException as e:\n    if a: raise\n    else: raise B",
    ],
)
def test_p18_the_rule_lets_what_raises_be(code: str) -> None:
    assert list(swallowers(ast.parse(code))) == []
