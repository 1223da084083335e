"""`nunu-async sandbox`: a local nunu.ai until Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import shlex
import stat
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from nunu_async.cli.output import tell
from nunu_async.cli.samples import add_samples
from nunu_async.cli.stdout import write
from nunu_async.sandbox import Sandbox

__all__ = ["serve"]

_USAGE = 2
# How a shell sets a variable: by the suffix of --env-file, else that of the system's own shells.
_SHELLS: Final[dict[str, Callable[[str, str], str]]] = {
    "": lambda name, value: f"export {name}={shlex.quote(value)}",
    ".cmd": lambda name, value: f'set "{name}={value}"',
    ".ps1": lambda name, value: f"$env:{name} = '{value}'",
}
_SHELLS[".bat"] = _SHELLS[".cmd"]
_FIRST = tuple(line("NUNU_", "").partition("NUNU_")[0] + "NUNU_" for line in _SHELLS.values())


async def serve(arguments: argparse.Namespace) -> int:
    """Run the sandbox until it is interrupted; tell what to export first."""
    sandbox = Sandbox(
        port=arguments.port,
        storage_port=arguments.storage_port,
        directory=arguments.directory,
        part_size=arguments.part_size,
        capacity=arguments.capacity,
        dialect=arguments.dialect,
    )
    file: str | None = arguments.env_file
    try:
        if file is not None:
            _clear(file)
    except OSError as error:
        tell(f"nunu-async: --env-file {file}: {error.strerror}")
        return _USAGE
    try:
        await sandbox.start()
    except OSError as error:
        # Not `str(error)`, which doubles the backslashes of a path.
        where = f"{error.filename}: " if error.filename else ""
        tell(f"nunu-async: cannot start the sandbox: {where}{error.strerror or error}")
        return 1
    add_samples(sandbox, arguments.sample_runs)
    suffix = os.path.splitext(file)[1].lower() if file else ".cmd" if os.name == "nt" else ""
    exports = _settings(sandbox, suffix)
    text = "".join(f"{line}\n" for line in exports)
    try:
        _tell_ids(sandbox)
        if file is None:
            await write(text)
            if os.name == "nt":
                tell(f"nunu-async: in PowerShell: {'; '.join(_settings(sandbox, '.ps1'))}")
        else:
            _write(file, text)
        kill = f"taskkill /F /PID {os.getpid()}" if os.name == "nt" else f"kill {os.getpid()}"
        tell(f"nunu-async: the sandbox is running; Ctrl-C or `{kill}` ends it")
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        return 0  # being interrupted is how a server ends
    except OSError as error:
        where = "standard output; see --env-file" if file is None else f"--env-file {file}"
        tell(f"nunu-async: cannot write the environment to {where}: {error.strerror}")
        return 1
    finally:
        if file is not None:
            _remove(file, text)
        await sandbox.close()
    return 0


def _settings(sandbox: Sandbox, suffix: str) -> list[str]:
    """Return the lines that set the sandbox's environment in the shell of `suffix`."""
    line = _SHELLS.get(suffix, _SHELLS[""])
    return [line(name, value) for name, value in sandbox.environment.items()]


def _tell_ids(sandbox: Sandbox) -> None:
    """Name what runs can be started with; on standard error, so that the rest can be sourced."""
    for what, some in (
        ("deployment config", sandbox.deployment_configs),
        ("test", sandbox.tests),
        ("test plan", sandbox.test_plans),
    ):
        for one in some:
            tell(f"nunu-async: {what:17} {one.id}  {one.name}")


def _clear(file: str) -> None:
    """Take away what an earlier sandbox left: who waits for the file must not find the old one.

    Raises: OSError, also where there is something else.
    """
    try:
        found = os.lstat(file)
    except FileNotFoundError:
        return
    if not stat.S_ISREG(found.st_mode):
        raise OSError(None, "is there already, and no regular file")
    with open(file, "rb") as old:
        start = old.read(max(map(len, _FIRST))).decode("utf-8", "replace")
        if start and not start.startswith(_FIRST):
            raise OSError(None, "is there already, and no sandbox wrote it")
    os.unlink(file)


def _write(file: str, text: str) -> None:
    """Write a file that is there whole or not at all, and for its owner only: it holds a key."""
    draft = f"{file}.{secrets.token_hex(4)}"
    number = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        # A shell of POSIX, of which there are several on Windows, takes no carriage returns.
        with open(number, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
        os.replace(draft, file)
    except BaseException:
        with suppress(OSError):
            os.unlink(draft)
        raise


def _remove(file: str, text: str) -> None:
    """Take the file away, unless another sandbox has written its own there since."""
    with suppress(OSError, UnicodeError):
        with open(file, encoding="utf-8") as stream:
            ours = stream.read() == text
        if ours:
            os.unlink(file)
