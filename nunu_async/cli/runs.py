"""`nunu-async runs`: list, show, start and stop runs."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from nunu_async.cli.fields import fields_from
from nunu_async.cli.output import echo_err
from nunu_async.cli.rows import (
    Column,
    as_json,
    at_a_time,
    build_of,
    cell,
    span,
    tell_rows,
    when,
    with_client,
    word,
)
from nunu_async.cli.stdout import echo, write
from nunu_async.client import NunuClient
from nunu_async.core.retry import may_have_acted
from nunu_async.errors import NotFound, NunuError
from nunu_async.models.run_requests import StartRun
from nunu_async.models.runs import BugOccurrence, Run

# Added to errors after which the run may have been started.
MAYBE = "the run may have been started: `nunu-async runs list` tells, before another start"

_RUN_ID_HINT = "a job id? `runs list --job ID` gives the runs of a job"
_JOB_ID_HINT = "`runs stop` takes job ids; `runs list` shows them"


_RUNS: tuple[Column[Run], ...] = (
    Column(title="RUN", text=lambda run: cell(run.multiplayer_run_id)),
    Column(title="STATE", text=lambda run: word(run.state)),
    Column(title="RESULT", text=lambda run: word(run.result)),
    Column(title="CREATED", text=lambda run: when(run.created_at)),
    Column(title="TEST", text=lambda run: cell(run.test.name), least=8),
    Column(title="DURATION", text=lambda run: span(run.duration_ms)),
    Column(title="BUGS", text=lambda run: cell(run.bug_info and run.bug_info.bug_count)),
    Column(title="JOB", text=lambda run: cell(run.job_id)),
    Column(title="TAGS", text=lambda run: cell(",".join(run.tags)), least=12),
    Column(title="BUILD", text=build_of, least=12),
)

_BUGS: tuple[Column[BugOccurrence], ...] = (
    Column(title="SEVERITY", text=lambda bug: word(bug.severity)),
    Column(title="CATEGORY", text=lambda bug: word(bug.category)),
    Column(title="TITLE", text=lambda bug: cell(bug.title), least=20),
    Column(title="STEP", text=lambda bug: cell(bug.test_step)),
    Column(title="DETECTED", text=lambda bug: when(bug.detected_at)),
    Column(title="CONFIDENCE", text=lambda bug: word(bug.confidence)),
    Column(title="PLAYER", text=lambda bug: cell(bug.player_number)),
    Column(title="BUG", text=lambda bug: cell(bug.bug_id)),
)


@with_client
async def list_runs(nunu: NunuClient, arguments: argparse.Namespace) -> int:
    """Print the matching runs; return the exit code."""
    runs = nunu.runs.list(
        state=arguments.state,
        multiplayer_test_id=arguments.test,
        job_id=arguments.job,
        test_plan_execution_id=arguments.execution,
        test_type=arguments.type,
        tags=arguments.tags,
        bugs=arguments.bugs,
        page_size=at_a_time(arguments.limit),
    )
    return await tell_rows(runs, arguments, _RUNS, "run")


@with_client
async def get(nunu: NunuClient, arguments: argparse.Namespace) -> int:
    """Print one run in full; return the exit code."""
    with _hint_on_404(_RUN_ID_HINT):
        run = await nunu.runs.get(arguments.run_id)
    if arguments.json:
        await write(as_json(run) + "\n", is_json=True)
        return 0
    from nunu_async.cli.summary import summary  # noqa: PLC0415 - drawing takes a while to load

    await write(summary(run))
    return 0


@with_client
async def bugs(nunu: NunuClient, arguments: argparse.Namespace) -> int:
    """Print the bugs found in one run; return the exit code."""

    async def found() -> AsyncIterator[BugOccurrence]:
        with _hint_on_404(_RUN_ID_HINT):
            occurrences = await nunu.runs.bugs(arguments.run_id)
        for bug in occurrences:
            yield bug

    return await tell_rows(found(), arguments, _BUGS, "bug")


@with_client
async def start(nunu: NunuClient, arguments: argparse.Namespace) -> int:
    """Start runs and print the ids of their jobs; return the exit code."""
    try:
        started = await nunu.runs.start(
            **fields_from(StartRun, vars(arguments)), marker=arguments.marker
        )
    except asyncio.CancelledError:
        echo_err(MAYBE)
        raise
    except NunuError as error:
        if may_have_acted(error):
            error.add_note(MAYBE)
        raise
    if arguments.json:
        await echo(as_json(started), is_json=True)
        return 0
    if started.test_plan_execution_id is not None:
        echo_err(f"execution {cell(started.test_plan_execution_id)}")
    ids = started.job_ids
    if not ids and started.multiplayer_run_id is not None:
        ids = (started.multiplayer_run_id,)
        echo_err("the server named a run, and no job; `nunu-async wait run` takes it")
    if not ids and started.test_plan_execution_id is None:
        echo_err("the server named nothing that it started")
        return 1
    for job_id in ids:
        await echo(cell(job_id))
    return 0


@with_client
async def stop(nunu: NunuClient, arguments: argparse.Namespace) -> int:
    """Stop jobs and print the ids of the stopped ones; return the exit code."""
    job_ids = list(dict.fromkeys(arguments.job_ids))
    with _hint_on_404(_JOB_ID_HINT):
        answer = await nunu.runs.stop(job_ids)
    # The response counts unknown ids, but has no entries for them.
    known = {outcome.job_id.lower() for outcome in answer.results}
    missing = [job_id for job_id in job_ids if job_id.lower() not in known]
    for outcome in answer.failed:
        reason = cell(outcome.error or outcome.message or outcome.status)
        echo_err(f"{cell(outcome.job_id)}: not stopped: {reason}")
    for job_id in missing:
        echo_err(f"{cell(job_id)}: not stopped: no such job")
    if arguments.json:
        await echo(as_json(answer), is_json=True)
    else:
        for outcome in answer.stopped:
            await echo(cell(outcome.job_id))
    return 0 if answer.ok and not answer.failed and not missing else 1


@contextmanager
def _hint_on_404(hint: str) -> Iterator[None]:
    """Add a hint about the expected id to a 404 error."""
    try:
        yield
    except NotFound as error:
        error.add_note(hint)
        raise
