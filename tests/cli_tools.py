"""Run the command line as a user does: a process of its own, against a sandbox in this one."""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import attrs
from disclosed import OBEYED
from warm_commands import WarmProcess, start, suits

from nunu_async.sandbox import Sandbox

# Starting a process takes Windows longer, and Wine much longer.
PATIENCE = 60.0 if sys.platform == "win32" else 20.0
SOON = PATIENCE / 2  # for the end of what has been asked to end
BUILD_KEYS = {
    *("file", "build_id", "object_key", "upload_type", "size", "parts", "seconds", "verified"),
    "possible_orphans",
}
# Development mode closes nothing by itself and every warning is an error: a leaked connection
# or a task never awaited shows up on standard error.
STRICT = ("-X", "dev", "-W", "error")
# Development mode also tells of slow turns of the loop, and on a busy machine each one is.
_SLOW = re.compile(r"^Executing <.* took [0-9.]+ seconds\n", re.MULTILINE)


_LONGEST_LINE = 1024 * 1024  # the report is one line

# On Windows a process can send signals to those of its console only. So a command raises in itself
# what it is asked for: by files named 1, 2, ... in a folder, with the number of a signal in each.
_RAISES = """
import itertools, pathlib, signal, threading, time
def watch():
    for number in itertools.count(1):
        file = pathlib.Path(__file__).with_name(str(number))
        while not (file.exists() and file.read_text()):
            time.sleep(0.01)
        signal.raise_signal(int(file.read_text()))
threading.Thread(target=watch, daemon=True).start()
"""


@attrs.frozen
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def report(self) -> dict[str, list[dict[str, Any]]]:
        """The one object of --json; its shape is checked on the way."""
        assert self.out.endswith("\n")
        found: dict[str, list[dict[str, Any]]] = json.loads(self.out)
        assert list(found) == ["builds", "failed"]
        for build in found["builds"]:
            assert set(build) == BUILD_KEYS
            assert build["upload_type"] in {"single-part", "multipart"}
            assert isinstance(build["seconds"], float)
        for failure in found["failed"]:
            assert set(failure) == {"file", "error", "message"}
        return found

    def tells(self, *words: str) -> None:
        """Check that standard error has all of these words."""
        for word in words:
            assert word in self.err, f"{word!r} is not in {self.err!r}"


def environment(*layers: Mapping[str, str]) -> dict[str, str]:
    """Make a minimal environment; what the machine has set of ours is not in it."""
    clean = {name: os.environ[name] for name in ("PATH", "PYTHONPATH")}
    clean |= {"HOME": "/nonexistent", "LC_ALL": "C.UTF-8"}
    # aiohttp reads the system's certificates when it is imported, which no command here needs:
    # over 30 of the 400 ms of processor time that each takes to start.
    clean["SSL_CERT_FILE"] = clean["SSL_CERT_DIR"] = os.devnull
    # Development mode would have every block of memory checked for what C code may do to it, which
    # is none of ours, for a sixth of the time of a command.
    clean["PYTHONMALLOC"] = "pymalloc"
    # What Windows cannot do without, and where bytecode is kept when not beside the source.
    for name in ("SYSTEMROOT", "PYTHONPYCACHEPREFIX"):
        if name in os.environ:
            clean[name] = os.environ[name]
    for layer in layers:
        clean |= layer
    return clean


def _check(ran: Ran, environ: Mapping[str, str]) -> None:
    """Check what holds for every run: no key is shown, nothing leaks, nothing blows up."""
    for variable in ("NUNU_API_KEY", "NUNU_API_TOKEN"):
        if key := environ.get(variable):
            assert key not in ran.out + ran.err
    assert not OBEYED.search(ran.err), ran.err
    if not ran.out.startswith(("{", "[")):  # JSON is exact
        assert not OBEYED.search(ran.out), ran.out
    for trouble in ("Traceback", "Warning", "Exception ignored", "never retrieved"):
        assert trouble not in ran.err, ran.err


class Running:
    """A command under way."""

    def __init__(
        self,
        process: asyncio.subprocess.Process | WarmProcess,
        environ: Mapping[str, str],
        signals: Path | None = None,
    ) -> None:
        self.process = process
        self._signals = signals
        self._sent = 0
        self._environ = environ
        self._text = {"out": "", "err": ""}
        self._grown = asyncio.Condition()
        self._readers = [
            asyncio.ensure_future(self._read(name, stream))
            for name, stream in (("out", process.stdout), ("err", process.stderr))
            if stream is not None
        ]
        self._open = len(self._readers)

    async def _read(self, name: str, stream: asyncio.StreamReader) -> None:
        while line := await stream.readline():
            self._text[name] += line.decode("utf-8", "backslashreplace").replace("\r\n", "\n")
            await self._wake()
        self._open -= 1
        await self._wake()

    async def _wake(self) -> None:
        async with self._grown:
            self._grown.notify_all()

    @property
    def out(self) -> str:
        return self._text["out"]

    @property
    def err(self) -> str:
        return self._text["err"]

    def send_signal(self, which: signal.Signals) -> None:
        """Send a signal, or have the command raise it where there are none to send."""
        if self._signals is None:
            self.process.send_signal(which)
        else:
            self._sent += 1
            (self._signals / str(self._sent)).write_text(str(which.value))

    async def says(self, words: str, times: int = 1) -> None:
        """Wait until standard output or error has `words` so many times."""

        def said() -> bool:
            return "".join(self._text.values()).count(words) >= times

        async with asyncio.timeout(PATIENCE), self._grown:
            await self._grown.wait_for(lambda: said() or not self._open)
        assert said(), f"ended without {words!r}: {self._text}"

    async def end(self, within: float = PATIENCE) -> Ran:
        """Wait for the end of the process."""
        try:
            async with asyncio.timeout(within):
                code = await self.process.wait()
                await asyncio.wait(self._readers)
        except TimeoutError:
            raise AssertionError(f"not over after {within} s: {self._text}") from None
        ran = Ran(code, self._text["out"], _SLOW.sub("", self._text["err"]))
        _check(ran, self._environ)
        return ran

    async def destroy(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        await asyncio.wait(self._readers)


@asynccontextmanager
async def started(
    *arguments: str | os.PathLike[str],
    env: Mapping[str, str],
    cwd: Path | None = None,
    python: tuple[str, ...] = STRICT,
    stdout: int = asyncio.subprocess.PIPE,
    wrapper: tuple[str, ...] = (),
    warm: bool = False,
) -> AsyncIterator[Running]:
    """Start `nunu-async` with these arguments; it is gone when the context ends.

    A `wrapper` is a command that runs the one that its own arguments are. A `warm` one is a fork
    of an interpreter with all imports done, unless what is asked for needs one of its own.
    """
    environ = environment(env)
    with ExitStack() as stack:
        usual = python == STRICT and stdout == asyncio.subprocess.PIPE and not wrapper
        if warm and usual and suits(environ, environment()):
            forked = Running(await start(STRICT, arguments, environ, cwd, _LONGEST_LINE), environ)
            try:
                yield forked
            finally:
                await forked.destroy()
            return
        signals = None
        if sys.platform == "win32":
            signals = Path(stack.enter_context(TemporaryDirectory(ignore_cleanup_errors=True)))
            (signals / "sitecustomize.py").write_text(_RAISES)
            environ["PYTHONPATH"] = os.pathsep.join((str(signals), environ["PYTHONPATH"]))
        process = await asyncio.create_subprocess_exec(
            *wrapper,
            sys.executable,
            *python,
            "-m",
            "nunu_async",
            *arguments,
            env=environ,
            cwd=cwd,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=stdout,
            stderr=asyncio.subprocess.PIPE,
            limit=_LONGEST_LINE,
        )
        running = Running(process, environ, signals)
        try:
            yield running
        finally:
            await running.destroy()


async def run(
    *arguments: str | os.PathLike[str],
    env: Mapping[str, str],
    cwd: Path | None = None,
    python: tuple[str, ...] = STRICT,
    stdout: int = asyncio.subprocess.PIPE,
) -> Ran:
    """Run `nunu-async` to its end, as a fork where it can be one."""
    async with started(
        *arguments, env=env, cwd=cwd, python=python, stdout=stdout, warm=True
    ) as running:
        return await running.end()


async def together(*runs: Coroutine[object, object, Ran]) -> list[Ran]:
    """Run several commands at once; none is left over when one of them is not as it should be."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one) for one in runs]
    return [task.result() for task in tasks]


async def until(condition: Callable[[], object], seen_instead: Callable[[], str] = str) -> None:
    """Wait until a condition holds; if it never does, fail with what `seen_instead` returns."""
    try:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"not seen in {PATIENCE:g} seconds; {seen_instead()}") from None


def make(folder: Path, *names: str, size: int = 1000) -> list[Path]:
    """Make files, each with bytes of its own."""
    made = []
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        word = os.fsencode(name)
        path.write_bytes((word * (size // len(word) + 1))[:size])
        made.append(path)
    return made


def bodies(box: Sandbox) -> list[dict[str, Any]]:
    """Give the bodies of the initiate requests, in order."""
    found: list[Any] = [seen.body for seen in box.journal.of("initiate_upload")]
    return found


def names(box: Sandbox) -> list[str]:
    """Give the names of the uploads, sorted: several are begun at once."""
    return sorted(upload.name for upload in box.uploads.values())


def listing(folder: Path) -> list[str]:
    """Name what is in a folder."""
    return sorted(path.name for path in folder.iterdir())
