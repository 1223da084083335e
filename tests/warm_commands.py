"""Commands that need no new interpreter: forks of one that has imported what they use.

Most of the processor time of a short command is that of imports. A fork of an interpreter that has
done them is a process of its own all the same: it has its arguments, environment, folder and
pipes, it runs the package's `__main__`, and it ends as interpreters do, with whatever warnings
that brings. What depends on how an interpreter starts, on what it has imported or on a closed
output belongs in a new one.

Only on Linux; elsewhere `start` is not to be called.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NoReturn

__all__ = ["WarmProcess", "start", "suits"]

# What an interpreter, or a library that is imported, reads of its environment as it starts. A
# command with one of these set otherwise than for the server is no fork of it.
_READ_AT_START = ("PYTHON", "LC_", "LANG", "SSL_", "TZ", "LD_", "MALLOC_", "AIOHTTP_")

# The server: it forks for each request, and writes each child's number and exit code to the socket
# that came with the request. In a child, `serve` returns: the command runs at the top level.
_SERVER = r"""
import gc, json, os, select, signal, socket, sys

control = socket.socket(fileno=int(sys.argv[1]))

def serve():
    running = {}  # the socket to tell of the end of each child
    asleep, awake = socket.socketpair()
    for end in asleep, awake:
        end.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(awake.fileno())
    while True:
        ready, _, _ = select.select([control, asleep], [], [])
        if asleep in ready:
            asleep.recv(4096)
        while running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            with running.pop(pid) as answers:
                try:
                    answers.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
                except OSError:  # nobody waits for it
                    pass
        if control not in ready:
            continue
        word, fds, _, _ = socket.recv_fds(control, 1, 3)
        if not word:
            os._exit(0)
        answers = socket.socket(fileno=fds[0])
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for other in control, asleep, awake, *running.values():
                other.close()
            os.dup2(fds[1], 1)
            os.dup2(fds[2], 2)
            os.close(fds[1])
            os.close(fds[2])
            with answers, answers.makefile("rb") as lines:
                return json.loads(lines.readline())
        os.close(fds[1])
        os.close(fds[2])
        answers.sendall(b"%d\n" % pid)
        running[pid] = answers

import runpy
import nunu_async.cli.run
for name in json.loads(sys.argv[2]):
    __import__(name)
gc.collect()
gc.freeze()
request = serve()
os.chdir(request["cwd"])
os.environ.clear()
os.environ.update(request["environ"])
sys.argv[1:] = request["arguments"]
del control, serve, name
runpy.run_module("nunu_async", run_name="__main__", alter_sys=True)
"""
# What the commands import as they run.
_MODULES = tuple(
    f"nunu_async.{name}"
    for name in (
        *("sandbox", "cli.upload", "cli.uploads", "cli.runs", "cli.executions", "cli.wait"),
        *("cli.ci", "cli.demo", "cli.serve"),
    )
)


class _Server:
    """The interpreter that forks, with how it was started."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str]) -> None:
        self.environ = dict(environ)
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter, and code from this file
                [*command, "-c", _SERVER, str(theirs.fileno()), json.dumps(_MODULES)],
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,  # Python makes other streams for what is no pipe
                stderr=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
            )
        self._sending = threading.Lock()
        atexit.register(self._end)

    def _end(self) -> None:
        self._control.close()
        try:
            self._process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    def complain(self) -> NoReturn:
        """Say why no command could be started."""
        self._control.close()
        raise AssertionError(f"the server of commands is gone: {self._process.communicate()}")

    def send(self, *fds: int) -> None:
        try:
            with self._sending:
                socket.send_fds(self._control, [b"+"], fds)
        except BrokenPipeError:
            self.complain()


@cache
def _server(command: tuple[str, ...], fixed: tuple[tuple[str, str], ...]) -> _Server:
    return _Server(command, dict(fixed))


def _fixed(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what of an environment an interpreter has to start with."""
    return {name: value for name, value in environ.items() if name.startswith(_READ_AT_START)}


def suits(environ: Mapping[str, str], usual: Mapping[str, str]) -> bool:
    """Whether a command in this environment can be a fork of an interpreter in the usual one."""
    return sys.platform == "linux" and _fixed(environ) == _fixed(usual)


class _PipeProtocol(asyncio.StreamReaderProtocol):
    """Closes its pipe at the end of the output, which uvloop leaves to the protocol."""

    def eof_received(self) -> bool:
        super().eof_received()
        return False


class WarmProcess:
    """What `asyncio.subprocess.Process` is, for a fork."""

    stdout: asyncio.StreamReader
    stderr: asyncio.StreamReader
    pid: int
    returncode: int | None = None

    def __init__(self, answers: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._answers = answers
        self._writer = writer
        self._ended: asyncio.Task[int]

    async def begin(self, server: _Server, request: Mapping[str, object]) -> None:
        self._writer.write(json.dumps(request).encode() + b"\n")
        if not (number := await self._answers.readline()):
            self._writer.close()
            server.complain()
        self.pid = int(number)
        self._ended = asyncio.ensure_future(self._end())

    async def _end(self) -> int:
        try:
            self.returncode = int(await self._answers.readline())
        finally:
            self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()
        return self.returncode

    async def wait(self) -> int:
        return await asyncio.shield(self._ended)

    def send_signal(self, which: int) -> None:
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, which)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


async def start(
    python: Sequence[str],
    arguments: Sequence[str | os.PathLike[str]],
    environ: Mapping[str, str],
    cwd: Path | None,
    limit: int,
) -> WarmProcess:
    """Run `python -m nunu_async` with these arguments, where `suits` says that a fork can."""
    loop = asyncio.get_running_loop()
    server = _server((sys.executable, *python), tuple(sorted(_fixed(environ).items())))
    ours, theirs = socket.socketpair()
    readers, writing = [], []
    try:
        for _ in range(2):
            reading, end = os.pipe()
            writing.append(end)
            stream = asyncio.StreamReader(limit, loop=loop)
            await loop.connect_read_pipe(
                lambda stream=stream: _PipeProtocol(stream, loop=loop),
                os.fdopen(reading, "rb", 0),
            )
            readers.append(stream)
        server.send(theirs.fileno(), *writing)
    finally:
        for end in writing:
            os.close(end)
        theirs.close()
    process = WarmProcess(*await asyncio.open_unix_connection(sock=ours))
    process.stdout, process.stderr = readers
    await process.begin(
        server,
        {
            "arguments": [os.fspath(one) for one in arguments],
            "environ": dict(environ),
            "cwd": os.fspath(cwd or Path.cwd()),
        },
    )
    return process
