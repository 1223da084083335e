"""`nunu-async sandbox`: a local nunu.ai until Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import shlex

from nunu_async.cli.output import result, tell
from nunu_async.sandbox import Sandbox

__all__ = ["serve"]


async def serve(arguments: argparse.Namespace) -> int:
    """Run the sandbox until it is interrupted; print what to export first."""
    sandbox = Sandbox(
        port=arguments.port,
        storage_port=arguments.storage_port,
        directory=arguments.directory,
        part_size=arguments.part_size,
        capacity=arguments.capacity,
    )
    try:
        await sandbox.start()
    except OSError as error:
        tell(f"nunu-async: cannot start the sandbox: {error}")
        return 1
    try:
        for name, value in sandbox.environment.items():
            result(f"export {name}={shlex.quote(value)}")
        tell("nunu-async: the sandbox is running; Ctrl-C ends it")
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        return 0  # being interrupted is how a server ends
    finally:
        await sandbox.close()
    return 0
