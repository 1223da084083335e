"""`nunu-async wait`: wait until runs, jobs or executions are terminal."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import islice
from typing import TypeVar

import attrs

from nunu_async.cli.live import show
from nunu_async.cli.output import count, echo_err, echo_lost, with_notes
from nunu_async.cli.rows import NOTHING, Column, cell, span, tell_table, with_client
from nunu_async.cli.standings import Standings
from nunu_async.cli.stdout import echo
from nunu_async.cli.verdict import Row, milliseconds, name_of, result_of
from nunu_async.client import NunuClient
from nunu_async.endpoints.ids import path_id
from nunu_async.errors import NotFound, NunuError, WaitTimeout
from nunu_async.polling.schedule import fold

TIMED_OUT = 3
_MAX_SHOWN = 5
_HINTS = {
    "run": "a job id? `nunu-async wait job ID` waits for a job",
    "job": "a run id? `nunu-async wait run ID` waits for a run",
    "execution": "`nunu-async executions list` shows them",
}

T = TypeVar("T")


@attrs.define
class _Outcome:
    """The results of a wait, keyed by id."""

    standings: Standings[Row]
    finished: dict[str, Row] = attrs.field(factory=dict)
    errors: dict[str, NunuError] = attrs.field(factory=dict)
    timed_out: bool = False

    @property
    def pending(self) -> dict[str, str | None]:
        """The last known state of each id that has no result and no error yet."""
        return {
            key: self.standings.state(key)
            for key in self.standings.ids
            if key not in self.finished and key not in self.errors
        }

    async def follow(
        self, key: str, wait_for: Callable[..., Awaitable[Row]], arguments: argparse.Namespace
    ) -> None:
        """Wait for one id and record its result or error; concurrent waits share polls."""
        try:
            self.finished[key] = await wait_for(
                key,
                timeout=arguments.timeout,
                interval=arguments.interval,
                on_change=self.standings.note,
            )
        except WaitTimeout:
            self.timed_out = True
        except NunuError as error:
            if isinstance(error, NotFound):
                error.add_note(_HINTS[arguments.kind])
            self.errors[key] = error

    def exit_code(self, fail_on: str) -> int:
        """Return the exit code; a timeout takes precedence over failures."""
        if self.timed_out:
            return TIMED_OUT
        failed = any(not row.succeeded for row in self.finished.values())
        return 1 if self.errors or (failed and fail_on == "any") else 0

    def to_dict(self) -> dict[str, object]:
        """Return the object printed by --json."""
        ids = self.standings.ids
        succeeded = all(key in self.finished and self.finished[key].succeeded for key in ids)
        return {
            "succeeded": succeeded,
            "timed_out": self.timed_out,
            "results": [self.finished[key].to_dict() for key in ids if key in self.finished],
            "pending": self.pending,
            "errors": {key: str(self.errors[key]) for key in ids if key in self.errors},
        }

    def columns(self) -> tuple[Column[str], ...]:
        """Return the columns of the result table, whose rows are ids."""
        return (
            Column(title=self.standings.noun.upper(), text=cell),
            Column(title="RESULT", text=self._result),
            Column(title="DURATION", text=self._duration),
            Column(title="NAME", text=self._name, least=8),
        )

    def _result(self, key: str) -> str:
        if key in self.finished:
            return result_of(self.finished[key])
        return "unknown" if key in self.errors else "pending"

    def _duration(self, key: str) -> str:
        return span(milliseconds(self.finished[key])) if key in self.finished else NOTHING

    def _name(self, key: str) -> str:
        row = self.standings.rows.get(key)
        return NOTHING if row is None else name_of(row)


@with_client
async def wait(nunu: NunuClient, arguments: argparse.Namespace) -> int:
    """Wait until all ids are terminal and print results; return the exit code."""
    kind: str = arguments.kind
    unique: dict[str, str] = {}
    for given in arguments.ids:
        unique.setdefault(fold(given), given)
    ids = list(unique.values())
    for key in ids:  # validate all ids before the first request
        path_id(f"{kind}_id", key)
    functions: dict[str, Callable[..., Awaitable[Row]]] = {
        "run": nunu.wait_for_run,
        "job": nunu.wait_for_job,
        "execution": nunu.wait_for_execution,
    }
    outcome = _Outcome(Standings[Row](kind, ids))

    try:
        async with show(outcome.standings), asyncio.TaskGroup() as group:
            for key in ids:
                group.create_task(outcome.follow(key, functions[kind], arguments))
    except asyncio.CancelledError:
        if outcome.pending:
            echo_err(f"still pending: {some(outcome.pending)}")
        await _print_results(outcome, as_json=arguments.json)
        raise
    if outcome.timed_out:
        echo_err(f"not over after {arguments.timeout:g} s: {some(outcome.pending)}")
    await _print_results(outcome, as_json=arguments.json)
    return outcome.exit_code(arguments.fail_on)


async def _print_results(outcome: _Outcome, *, as_json: bool) -> None:
    """Print errors and results."""
    by_message: dict[str, list[str]] = {}
    for key, error in outcome.errors.items():
        message = with_notes(error)
        by_message.setdefault(message, []).append(key)
    for message, ids in by_message.items():  # a rejected API key fails every id
        subject = ids[0] if len(ids) == 1 else count(len(ids), outcome.standings.noun)
        echo_err(f"{subject}: {message}")
    if as_json:
        await echo(json.dumps(outcome.to_dict()), is_json=True)
    else:
        await tell_columns(outcome.standings.ids, outcome.columns())


async def tell_columns(rows: Sequence[T], columns: Sequence[Column[T]]) -> None:
    """Print a table of results; if that fails, report the loss on standard error."""
    try:
        await tell_table(rows, columns)
    except OSError as error:
        echo_lost(f"cannot write the result: {error.strerror}")


def some(pending: Mapping[str, str | None]) -> str:
    """Return the first few pending ids and their states as text."""
    entries = [
        f"{cell(key)} ({cell(state.lower()) if state is not None else 'never seen'})"
        for key, state in islice(pending.items(), _MAX_SHOWN)
    ]
    if len(pending) > _MAX_SHOWN:
        entries.append(f"{len(pending) - _MAX_SHOWN} more")
    return ", ".join(entries)
