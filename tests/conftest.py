"""What most tests need: a sandbox, a client to it, a clock that does not wait, a file."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import random
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import pytest
import pytest_asyncio
import trustme
from doubles import ManualClock
from hypothesis import settings
from uploads import PART

import nunu_async
from nunu_async import NunuClient
from nunu_async.sandbox import Sandbox

NewLoop = Callable[[], asyncio.AbstractEventLoop]

# How long an example takes says more of the machine than of what is tested.
settings.register_profile("nunu", deadline=None)
settings.load_profile("nunu")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--loop",
        choices=("asyncio", "uvloop", "eager", "debug", "selector"),
        default="asyncio",
        help="the event loop of the tests: asyncio's own, uvloop's, asyncio's with eager tasks "
        "(Python 3.12 or newer), asyncio's in debug mode, the one of Windows that is not its own",
    )


def pytest_configure(config: pytest.Config) -> None:
    loop = config.getoption("--loop")
    if loop == "debug":
        config.option.asyncio_debug = True  # pytest-asyncio sets this on every loop it is given
    _loop_factory(loop)  # what was asked for and is not there fails here, never by a skip
    # Both workers, and each process that a test starts, would compile all that they import anew.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False


def pytest_asyncio_loop_factories(config: pytest.Config) -> Mapping[str, NewLoop]:
    loop = config.getoption("--loop")
    return {loop: _loop_factory(loop)}


def _loop_factory(name: str) -> NewLoop:
    """Return what makes the loops of `--loop name`. Raises: UsageError when it is not here."""
    if name == "uvloop":
        try:
            import uvloop  # noqa: PLC0415 - not on Windows, where only this option fails
        except ImportError as error:
            raise pytest.UsageError(f"--loop uvloop: {error}") from None
        return uvloop.new_event_loop
    if name == "eager":
        if sys.version_info < (3, 12):
            raise pytest.UsageError("--loop eager needs Python 3.12 or newer")
        return _eager_loop
    if name == "selector":
        return asyncio.SelectorEventLoop
    return asyncio.new_event_loop


def _eager_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_task_factory(asyncio.eager_task_factory)
    return loop


@pytest.fixture(scope="module", autouse=True)
def _only_new_objects_are_collected() -> None:
    """Many tests look for garbage, and need not look through all that was there before.

    Never undone: that would have the collector look through everything from then on.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def _own_states(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where each test has a place for its state; few ever make it."""
    room = tmp_path_factory.mktemp("nunu states")
    return (room / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, _own_states: Iterator[Path]) -> None:
    """The machine's own settings must not reach a test, nor one its state.

    Each client reads the certificates that a variable names, and a whole bundle takes a while.
    """
    for name in list(os.environ):
        if name.startswith(("NUNU_", "SSL_CERT_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NUNU_STATE_DIR", str(next(_own_states)))
    # `python -m pytest` imports the checkout; elsewhere a child would import what is installed.
    monkeypatch.setenv("PYTHONPATH", str(Path(nunu_async.__file__).parents[1]), prepend=os.pathsep)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def box() -> AsyncIterator[Sandbox]:
    """A local nunu.ai with parts of 256 KiB."""
    async with Sandbox(part_size=PART) as sandbox:
        yield sandbox


@pytest.fixture
async def nunu(box: Sandbox, clock: ManualClock) -> AsyncIterator[NunuClient]:
    """A client of `box` on `clock`."""
    async with NunuClient(
        box.api_key, project_id=box.project_id, base_url=box.base_url, clock=clock
    ) as client:
        yield client


@pytest.fixture
def make_file(tmp_path: Path) -> Callable[..., Path]:
    """Make a file of reproducible bytes in which no two parts are alike."""

    def make(size: int, name: str = "game.zip") -> Path:
        path = tmp_path / name
        path.write_bytes(random.Random(size).randbytes(size))
        return path

    return make


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """One that nobody trusts by himself."""
    return trustme.CA()


@pytest.fixture
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    """What a server on this machine shows, also under a name that proxies know."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "nunu.test").configure_cert(context)
    return context


@pytest.fixture
def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    """What trusts `server_tls`."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture
async def open_descriptors() -> Callable[[], int]:
    """Count this process's open descriptors; skip where the system does not list them."""
    if not sys.platform.startswith("linux"):
        pytest.skip("this system does not list open descriptors")
    # libuv opens a spare one with a loop's first socket and keeps it while the loop lives.
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    server.close()
    await server.wait_closed()

    def count() -> int:
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir()))

    return count


@pytest.fixture(autouse=True)
def _quiet(request: pytest.FixtureRequest) -> None:
    """After each test on a loop no task is left over; any other test needs no loop for that."""
    if pytest_asyncio.is_async_test(request.node) or "box" in request.fixturenames:
        request.getfixturevalue("_no_task_left")


@pytest.fixture
async def _no_task_left() -> AsyncIterator[None]:
    yield
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert not left, f"tasks left running: {left}"
