"""`nunu-async uploads`: what interrupted uploads have left behind."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from rich.filesize import decimal

from nunu_async.cli.display import Board, show
from nunu_async.cli.output import tell
from nunu_async.cli.rows import Column, ask, cell, span, tell_table
from nunu_async.cli.stdout import result, write
from nunu_async.cli.threads import beside_the_loop
from nunu_async.cli.upload import TIMEOUTS, Results, upload_all
from nunu_async.client import NunuClient
from nunu_async.config import KEY_VARIABLES, Config
from nunu_async.core.clock import SystemClock
from nunu_async.errors import ConfigError, InputError, SourceError
from nunu_async.upload.job import BuildFile
from nunu_async.upload.paths import path_key
from nunu_async.upload.readers import Readers
from nunu_async.upload.resume import give_up
from nunu_async.upload.shelf import LeftBehind, Shelf

__all__ = ["cancel", "list_uploads", "resume"]

_USAGE = 2
_NOTHING = "nunu-async: nothing was left behind"

# Without room for all of them it is files that people know their uploads by, and name them by.
_COLUMNS: tuple[Column[LeftBehind], ...] = (
    Column(title="BUILD", text=lambda left: cell(left.kept.head.ticket.build_id), rank=1),
    Column(title="STATE", text=lambda left: _state(left)),  # noqa: PLW0108 - it is below
    Column(title="PARTS", text=lambda left: f"{len(left.kept.etags)}/{_parts(left)}", rank=1),
    Column(title="SIZE", text=lambda left: decimal(left.kept.head.identity.size), rank=1),
    Column(title="AGE", text=lambda left: span(_age(left) * 1000)),
    Column(
        title="FILE",
        text=lambda left: cell(left.kept.head.path),
        least=12,
        fair=14,
        keeps_end=True,
    ),
    Column(title="NAME", text=lambda left: cell(left.kept.head.request.name), least=8, fair=8),
)


async def list_uploads(arguments: argparse.Namespace) -> int:
    """Print what was left behind, of every project; sends nothing and needs no key."""
    try:
        shelf = _shelf()
        lefts = await beside_the_loop(lambda _: shelf.left_behind())
    except ConfigError as error:
        tell(f"nunu-async: {error}")
        return _USAGE
    _tell_foreign(shelf)
    try:
        if arguments.json:
            await write(json.dumps([_as_object(left) for left in lefts]) + "\n", is_json=True)
        elif lefts:
            await tell_table(lefts, _COLUMNS)
        elif not shelf.foreign:
            tell(_NOTHING)
    except BrokenPipeError:
        pass
    except OSError as error:
        tell(f"nunu-async: cannot write the result: {error.strerror}")
        return 1
    return 0


async def cancel(arguments: argparse.Namespace) -> int:
    """Cancel uploads on the server and remove their journals; return the exit code."""

    async def command(nunu: NunuClient) -> int:
        shelf = _shelf()
        chosen, code = await _choose(shelf, arguments)
        for left in chosen:
            build_id = left.kept.head.ticket.build_id
            journal = await shelf.take(left)
            try:
                end = "cancelled"
                if journal.kept is not None:  # else it was settled a moment ago
                    clock, within = SystemClock(), TIMEOUTS.cleanup
                    end = await give_up(
                        nunu.builds, journal.kept, clock=clock, within=within, asked=True
                    )
                if end != "failed":
                    await journal.forget()
            finally:
                await journal.close()
            told = {
                "cancelled": f"cancelled build {build_id}",
                "built": f"build {build_id} is complete, and was let be",
            }
            if end in told:
                code = code if await result(told[end]) else 1
            else:
                tell(
                    f"nunu-async: build {build_id} could not be cancelled on the server; try later"
                )
                code = 1
        return code

    return await ask(command)


async def resume(arguments: argparse.Namespace) -> int:
    """Send what is missing of uploads that were left behind; return the exit code."""

    async def command(nunu: NunuClient) -> int:
        chosen, code = await _choose(_shelf(), arguments)
        results = Results(arguments.json)
        jobs: dict[str, BuildFile] = {}
        sizes: dict[str, int] = {}
        for left in chosen:
            head = left.kept.head
            # A file may have been begun under several names, and under one for several platforms.
            label = head.path if head.path not in sizes else f"{head.path} ({head.request.name})"
            label = label if label not in sizes else f"{head.path} ({head.ticket.build_id})"
            sizes[label] = head.identity.size
            if left.file == "same":
                jobs[label] = _job(left, arguments.concurrency)
            else:
                gone = "is not there any more" if left.file == "missing" else "has changed since"
                build_id = head.ticket.build_id
                why = f"{gone}; `nunu-async uploads cancel {build_id}` gives the upload up"
                results.failed[label] = SourceError(head.path, why)
        board = Board(sizes)
        for label in results.failed:
            board.give_up(label)
        try:
            async with show(board):
                await upload_all(nunu, jobs, board, results)
        finally:
            for label in jobs:
                if label not in results.built:
                    results.failed.setdefault(label, asyncio.CancelledError())
            written = True
            if sizes or arguments.json:
                written = await results.tell(sizes)
        return 1 if results.failed or not written else code

    def client() -> NunuClient:
        return NunuClient(
            storage_concurrency=arguments.concurrency,
            max_bandwidth=arguments.max_bandwidth,
            timeout=TIMEOUTS,
        )

    return await ask(command, client)


async def _choose(shelf: Shelf, arguments: argparse.Namespace) -> tuple[list[LeftBehind], int]:
    """Return the uploads that are meant and can be settled, and the exit code for the others.

    Raises: InputError for a name that is none of them, and where it is not clear what is meant.
    """
    lefts = await beside_the_loop(lambda _: shelf.left_behind())
    _tell_foreign(shelf)
    ours = [left for left in lefts if left.is_ours]
    if arguments.names:
        meant = [left for name in arguments.names for left in _named(name, lefts)]
    elif arguments.all or len(ours) <= 1:
        meant = lefts
    else:
        ids = ", ".join(left.kept.head.ticket.build_id for left in ours)
        raise InputError("BUILD", f"which of {ids}? name them, or say --all")
    if not meant and not shelf.foreign:
        tell(_NOTHING)
    chosen: dict[str, LeftBehind] = {}
    # What another version has left behind is not settled.
    code = 1 if shelf.foreign and not arguments.names else 0
    for left in meant:
        build_id = left.kept.head.ticket.build_id
        if not left.is_ours:
            place = _place(left)
            tell(f"nunu-async: build {build_id} was left behind at {place}, and is skipped here")
            code = 1 if arguments.names else code
        elif left.is_busy:
            tell(f"nunu-async: build {build_id} is being sent right now, and is skipped")
            code = 1
        else:
            chosen[build_id] = left
    return list(chosen.values()), code


def _tell_foreign(shelf: Shelf) -> None:
    for line in shelf.foreign:
        tell(f"nunu-async: {cell(line)}")


def _named(name: str, lefts: Sequence[LeftBehind]) -> list[LeftBehind]:
    key, gone = None, None
    try:
        key = path_key(name)
    except SourceError as error:  # the working directory is not there; a build id needs none
        gone = error
    found = [
        left
        for left in lefts
        if name == left.kept.head.ticket.build_id or key == path_key(left.kept.head.path)
    ]
    if gone is not None and not found:
        raise InputError("BUILD", str(gone))
    if not found:
        raise InputError("BUILD", f"no upload of {name!a} was left behind")
    return found


def _shelf() -> Shelf:
    """Return the shelf that the environment leads to. Raises: ConfigError."""
    # Looking at files needs no key; where one is set, it is still checked.
    has_key = any(os.environ.get(name, "").strip() for name in KEY_VARIABLES)
    environ = os.environ if has_key else {**os.environ, KEY_VARIABLES[0]: "none"}
    config = Config.load(environ)
    return Shelf(
        config.state_dir,
        base_url=config.base_url,
        project_id=config.project_id,
        key=config.api_key if has_key else None,
        executor=Readers(1),
        clock=SystemClock(),
    )


def _job(left: LeftBehind, concurrency: int) -> BuildFile:
    head = left.kept.head
    asked = head.request
    return BuildFile(
        path=head.path,
        name=asked.name,
        platform=asked.platform,
        description=asked.description,
        tags=asked.tags,
        multipart=asked.multipart,
        auto_delete=asked.auto_delete,
        deletion_policy=asked.deletion_policy,
        upload_timeout=asked.upload_timeout,
        details=asked.details,
        verify=head.verify,
        concurrency=concurrency,
        resume=True,
    )


def _as_object(left: LeftBehind) -> dict[str, object]:
    head = left.kept.head
    return {
        "build_id": head.ticket.build_id,
        "state": _state(left),
        "file": head.path,
        "name": head.request.name,
        "platform": head.request.platform,
        "size": head.identity.size,
        "parts": _parts(left),
        "done": len(left.kept.etags),
        "began": datetime.fromtimestamp(head.began, UTC).isoformat(timespec="seconds"),
        "base_url": head.base_url,
        "project_id": head.project_id,
    }


def _state(left: LeftBehind) -> str:
    """Return what can be done with it, in a word."""
    if left.is_busy:
        return "sending"
    if not left.is_ours:
        return "elsewhere"
    if left.kept.completing:
        return "completing"
    return {"same": "ready", "changed": "changed", "missing": "missing"}[left.file]


def _parts(left: LeftBehind) -> int:
    return left.kept.head.ticket.total_parts


def _age(left: LeftBehind) -> float:
    return max(0.0, time.time() - left.kept.head.began)


def _place(left: LeftBehind) -> str:
    head = left.kept.head
    named = head.project_id is not None
    project = f", project {head.project_id}" if named else ", with the key of then"
    return cell(f"{head.base_url}{project}")
