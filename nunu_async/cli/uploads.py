"""`nunu-async uploads`: list, resume and cancel interrupted uploads."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial

import attrs
from rich.filesize import decimal

from nunu_async.cli.display import Board
from nunu_async.cli.fields import fields_from
from nunu_async.cli.output import echo_err
from nunu_async.cli.rows import Column, cell, reported, span, tell_table, with_client
from nunu_async.cli.stdout import echo, write
from nunu_async.cli.threads import beside_the_loop
from nunu_async.cli.upload import TIMEOUTS, Results, client_for, upload_all
from nunu_async.client import NunuClient
from nunu_async.config import KEY_VARIABLES, Config
from nunu_async.core.clock import SystemClock
from nunu_async.errors import InputError, SourceError
from nunu_async.upload.job import BuildFile
from nunu_async.upload.journal_store import JournalStore, PendingUpload
from nunu_async.upload.paths import path_key
from nunu_async.upload.resume import abandon
from nunu_async.upload.threads import DaemonThreadPool

_NOTHING = "nothing was left behind"

# A narrow terminal still shows FILE, by which users recognize their uploads.
_COLUMNS: tuple[Column[PendingUpload], ...] = (
    Column(title="BUILD", text=lambda upload: cell(upload.kept.head.ticket.build_id), rank=1),
    Column(title="STATE", text=lambda upload: _state(upload)),  # noqa: PLW0108 - defined below
    Column(title="PARTS", text=lambda upload: f"{len(upload.kept.etags)}/{_parts(upload)}", rank=1),
    Column(title="SIZE", text=lambda upload: decimal(upload.kept.head.identity.size), rank=1),
    Column(title="AGE", text=lambda upload: span(_age(upload) * 1000)),
    Column(title="FILE", text=lambda row: cell(row.kept.head.path), least=12, keeps_end=True),
    Column(title="NAME", text=lambda upload: cell(upload.kept.head.request.name), least=8),
)


@reported
async def list_uploads(arguments: argparse.Namespace) -> int:
    """Print the interrupted uploads of every project; sends nothing and needs no key."""
    store = _open_store()
    uploads = await beside_the_loop(lambda _: store.left_behind())
    _print_foreign(store)
    if arguments.json:
        await write(json.dumps([_as_object(upload) for upload in uploads]) + "\n", is_json=True)
    elif uploads:
        await tell_table(uploads, _COLUMNS)
    elif not store.foreign:
        echo_err(_NOTHING)
    return 0


@with_client
async def cancel(nunu: NunuClient, arguments: argparse.Namespace) -> int:
    """Cancel uploads on the server and remove their journals; return the exit code."""
    store = _open_store()
    selected, code = await _select(store, arguments)
    for upload in selected:
        build_id = upload.kept.head.ticket.build_id
        journal = await store.take(upload)
        try:
            outcome = "cancelled"
            if journal.kept is not None:  # else it was completed or cancelled meanwhile
                clock, within = SystemClock(), TIMEOUTS.cleanup
                outcome = await abandon(
                    nunu.builds, journal.kept, clock=clock, within=within, asked=True
                )
            if outcome != "failed":
                await journal.forget()
        finally:
            await journal.close()
        messages = {
            "cancelled": f"cancelled build {build_id}",
            "built": f"build {build_id} is complete, and was let be",
        }
        if outcome in messages:
            await echo(messages[outcome])
        else:
            echo_err(f"build {build_id} could not be cancelled on the server; try later")
            code = 1
    return code


@partial(with_client, client=client_for)
async def resume(nunu: NunuClient, arguments: argparse.Namespace) -> int:
    """Resume interrupted uploads; return the exit code."""
    selected, code = await _select(_open_store(), arguments)
    results = Results(arguments.json)
    jobs: dict[str, BuildFile] = {}
    sizes: dict[str, int] = {}
    for upload in selected:
        head = upload.kept.head
        # A file may be uploaded under several names, or under one name for several platforms.
        label = head.path if head.path not in sizes else f"{head.path} ({head.request.name})"
        label = label if label not in sizes else f"{head.path} ({head.ticket.build_id})"
        sizes[label] = head.identity.size
        if upload.file == "same":
            jobs[label] = _job(upload, arguments.concurrency)
        else:
            problem = "is not there any more" if upload.file == "missing" else "has changed since"
            build_id = head.ticket.build_id
            reason = f"{problem}; `nunu-async uploads cancel {build_id}` gives the upload up"
            results.failed[label] = SourceError(head.path, reason)
    results.files = list(sizes)
    board = Board(sizes)
    for label in results.failed:
        board.give_up(label)
    await upload_all(nunu, jobs, board, results)
    return 1 if results.failed else code


async def _select(
    store: JournalStore, arguments: argparse.Namespace
) -> tuple[list[PendingUpload], int]:
    """Return the selected uploads without the skipped ones, and the exit code so far.

    Raises: InputError if a name matches no upload, or if there are several and none is named.
    """
    uploads = await beside_the_loop(lambda _: store.left_behind())
    _print_foreign(store)
    ours = [upload for upload in uploads if upload.is_ours]
    if arguments.names:
        matching = [upload for name in arguments.names for upload in _find(name, uploads)]
    elif arguments.all or len(ours) <= 1:
        matching = uploads
    else:
        ids = ", ".join(upload.kept.head.ticket.build_id for upload in ours)
        raise InputError("BUILD", f"which of {ids}? name them, or say --all")
    if not matching and not store.foreign:
        echo_err(_NOTHING)
    selected: dict[str, PendingUpload] = {}
    # Journals in another version's format cannot be handled.
    code = 1 if store.foreign and not arguments.names else 0
    for upload in matching:
        build_id = upload.kept.head.ticket.build_id
        if not upload.is_ours:
            owner = _owner(upload)
            echo_err(f"build {build_id} was left behind at {owner}, and is skipped here")
            code = 1 if arguments.names else code
        elif upload.is_busy:
            echo_err(f"build {build_id} is being sent right now, and is skipped")
            code = 1
        else:
            selected[build_id] = upload
    return list(selected.values()), code


def _print_foreign(store: JournalStore) -> None:
    for line in store.foreign:
        echo_err(f"{cell(line)}")


def _find(name: str, uploads: Sequence[PendingUpload]) -> list[PendingUpload]:
    """Find uploads by build id, else by file. Raises: InputError if there are none."""
    found = [upload for upload in uploads if name == upload.kept.head.ticket.build_id]
    if not found:
        try:
            key = path_key(name)
        except SourceError as error:  # the working directory is gone
            raise InputError("BUILD", str(error)) from None
        found = [upload for upload in uploads if key == path_key(upload.kept.head.path)]
    if not found:
        raise InputError("BUILD", f"no upload of {name!a} was left behind")
    return found


def _open_store() -> JournalStore:
    """Return the journal store of the configured state folder. Raises: ConfigError."""
    # Reading journals needs no key, but a key that is set is validated.
    has_key = any(os.environ.get(name, "").strip() for name in KEY_VARIABLES)
    environ = os.environ if has_key else {**os.environ, KEY_VARIABLES[0]: "none"}
    config = Config.load(environ)
    return JournalStore(
        config.state_dir,
        base_url=config.base_url,
        project_id=config.project_id,
        key=config.api_key if has_key else None,
        executor=DaemonThreadPool(1),
        clock=SystemClock(),
    )


def _job(upload: PendingUpload, concurrency: int) -> BuildFile:
    head = upload.kept.head
    return BuildFile(
        **fields_from(BuildFile, attrs.asdict(head.request, recurse=False)),
        path=head.path,
        verify=head.verify,
        concurrency=concurrency,
        resume=True,
    )


def _as_object(upload: PendingUpload) -> dict[str, object]:
    head = upload.kept.head
    return {
        "build_id": head.ticket.build_id,
        "state": _state(upload),
        "file": head.path,
        "name": head.request.name,
        "platform": head.request.platform,
        "size": head.identity.size,
        "parts": _parts(upload),
        "done": len(upload.kept.etags),
        "began": datetime.fromtimestamp(head.began, UTC).isoformat(timespec="seconds"),
        "base_url": head.base_url,
        "project_id": head.project_id,
    }


def _state(upload: PendingUpload) -> str:
    """Return the state of an upload in one word."""
    if upload.is_busy:
        return "sending"
    if not upload.is_ours:
        return "elsewhere"
    if upload.kept.completing:
        return "completing"
    return {"same": "ready", "changed": "changed", "missing": "missing"}[upload.file]


def _parts(upload: PendingUpload) -> int:
    return upload.kept.head.ticket.total_parts


def _age(upload: PendingUpload) -> float:
    return max(0.0, time.time() - upload.kept.head.began)


def _owner(upload: PendingUpload) -> str:
    head = upload.kept.head
    has_project = head.project_id is not None
    project = f", project {head.project_id}" if has_project else ", with the key of then"
    return cell(f"{head.base_url}{project}")
