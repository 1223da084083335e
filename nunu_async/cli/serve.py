"""`nunu-async sandbox`: run a local nunu.ai until Ctrl-C."""

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

from nunu_async.cli.output import echo_err, usage_error
from nunu_async.cli.samples import add_samples
from nunu_async.cli.stdout import write
from nunu_async.sandbox import Sandbox

# Syntax for setting a variable, keyed by --env-file suffix; "" is for POSIX shells.
_SHELLS: Final[dict[str, Callable[[str, str], str]]] = {
    "": lambda name, value: f"export {name}={shlex.quote(value)}",
    ".cmd": lambda name, value: f'set "{name}={value}"',
    ".ps1": lambda name, value: f"$env:{name} = '{value}'",
}
_SHELLS[".bat"] = _SHELLS[".cmd"]
_PREFIXES = tuple(line("NUNU_", "").partition("NUNU_")[0] + "NUNU_" for line in _SHELLS.values())


async def serve(arguments: argparse.Namespace) -> int:
    """Start a sandbox, print its environment, run until interrupted; return the exit code."""
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
            _remove_stale(file)
    except OSError as error:
        return usage_error(f"--env-file {file}: {error.strerror}")
    try:
        await sandbox.start()
    except OSError as error:
        # Not `str(error)`, which doubles the backslashes of a path.
        prefix = f"{error.filename}: " if error.filename else ""
        echo_err(f"cannot start the sandbox: {prefix}{error.strerror or error}")
        return 1
    add_samples(sandbox, arguments.sample_runs)
    suffix = os.path.splitext(file)[1].lower() if file else ".cmd" if os.name == "nt" else ""
    text = "".join(f"{line}\n" for line in _export_lines(sandbox, suffix))
    try:
        _print_ids(sandbox)
        if file is None:
            await write(text)
            if os.name == "nt":
                echo_err(f"in PowerShell: {'; '.join(_export_lines(sandbox, '.ps1'))}")
        else:
            _write(file, text)
        kill = f"taskkill /F /PID {os.getpid()}" if os.name == "nt" else f"kill {os.getpid()}"
        echo_err(f"the sandbox is running; Ctrl-C or `{kill}` ends it")
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        return 0  # an interrupt is the normal end of a server
    except OSError as error:
        target = "standard output; see --env-file" if file is None else f"--env-file {file}"
        echo_err(f"cannot write the environment to {target}: {error.strerror}")
        return 1
    finally:
        if file is not None:
            _remove_own(file, text)
        await sandbox.close()
    return 0


def _export_lines(sandbox: Sandbox, suffix: str) -> list[str]:
    """Return the lines that set the sandbox's environment in the shell for `suffix`."""
    export = _SHELLS.get(suffix, _SHELLS[""])
    return [export(name, value) for name, value in sandbox.environment.items()]


def _print_ids(sandbox: Sandbox) -> None:
    """Print ids for starting runs to standard error: standard output may be sourced."""
    for noun, items in (
        ("deployment config", sandbox.deployment_configs),
        ("test", sandbox.tests),
        ("test plan", sandbox.test_plans),
    ):
        for item in items:
            echo_err(f"{noun:17} {item.id}  {item.name}")


def _remove_stale(file: str) -> None:
    """Remove an earlier sandbox's file, which a script waiting for the new one must not read.

    Raises: OSError, also if the file was not written by a sandbox.
    """
    try:
        status = os.lstat(file)
    except FileNotFoundError:
        return
    if not stat.S_ISREG(status.st_mode):
        raise OSError(None, "is there already, and no regular file")
    with open(file, "rb") as old:
        start = old.read(max(map(len, _PREFIXES))).decode("utf-8", "replace")
        if start and not start.startswith(_PREFIXES):
            raise OSError(None, "is there already, and no sandbox wrote it")
    os.unlink(file)


def _write(file: str, text: str) -> None:
    """Write a file atomically, readable by its owner only: it holds a key."""
    temporary = f"{file}.{secrets.token_hex(4)}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        # POSIX shells, which Windows has as well, do not accept carriage returns.
        with open(descriptor, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
        os.replace(temporary, file)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def _remove_own(file: str, text: str) -> None:
    """Remove the file, unless another sandbox has overwritten it."""
    with suppress(OSError, UnicodeError):
        with open(file, encoding="utf-8") as stream:
            ours = stream.read() == text
        if ours:
            os.unlink(file)
