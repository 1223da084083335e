"""What became of what was waited for, in words for people. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Literal, TypeAlias

import attrs

from nunu_async.cli.rows import NOTHING, cell
from nunu_async.models.base import is_set
from nunu_async.models.jobs import Job, JobRun
from nunu_async.models.runs import PlayerDetails, Run, RunDetails
from nunu_async.models.test_plan_executions import TestPlanExecution
from nunu_async.models.vocab import JobStatus, RunResult
from nunu_async.redact import clean

__all__ = [
    "Kind",
    "Row",
    "Verdict",
    "decisive_run",
    "judge",
    "milliseconds",
    "name_of",
    "result_of",
    "standing_of",
]

Row: TypeAlias = Run | Job | TestPlanExecution
Kind: TypeAlias = Literal["passed", "failed", "error", "skipped", "pending"]

_LONGEST = 10_000
_MOST_LINES = 200
# The game did not do what the test wanted. All else that is no success says that the test could
# not be done: nobody knows whether the game would have.
_FAILED = frozenset({"failed", "failure", "max_steps"})


@attrs.frozen(kw_only=True)
class Verdict:
    """What became of one job; every text is fit for a terminal.

    Attributes:
        job_id: "" for what went wrong before there was a job.
        name: of the test, or the job's id.
        kind: how to count it; everything but `passed` is no success.
        result: the service's word in lower case, or ours where it has none.
        seconds: from the start of its first run to its end; None where that is not known.
        run_id: of the run that decided, or None.
        why: what went wrong, in lines; "" where nothing is told, or nothing did.
        platform: what it was played on, or None.
        began: when the job was created, or None.
    """

    job_id: str
    name: str
    kind: Kind
    result: str
    seconds: float | None = None
    run_id: str | None = None
    why: str = ""
    platform: str | None = None
    began: datetime | None = None

    @property
    def brief(self) -> str:
        """Why, in one line."""
        return cell(" ".join(self.why.split()))


def judge(
    job_ids: Iterable[str],
    jobs: Mapping[str, Job],
    *,
    details: Mapping[str, RunDetails],
    errors: Mapping[str, str],
) -> list[Verdict]:
    """Say what became of each job, in the order given.

    Args:
        job_ids: those that were started.
        jobs: the last that was seen of each, by job id.
        details: runs in full, by run id; those that are there explain what failed.
        errors: what kept a job from being looked at, by job id.
    """
    return [_judge(job_id, jobs.get(job_id), details, errors.get(job_id)) for job_id in job_ids]


def _judge(
    job_id: str, job: Job | None, details: Mapping[str, RunDetails], error: str | None
) -> Verdict:
    name = name_of(job) if job is not None else NOTHING
    known = Verdict(
        job_id=job_id,
        name=cell(job_id) if name == NOTHING else name,
        kind="pending",
        result="pending",
        platform=None if job is None or job.platform is None else cell(job.platform),
        began=None if job is None else job.created_at,
    )
    if job is not None and job.is_terminal:
        run, result, spent = decisive_run(job), result_of(job), milliseconds(job)
        return attrs.evolve(
            known,
            kind=_kind(job, result),
            result=result,
            seconds=None if spent is None else spent / 1000,
            run_id=None if run is None else cell(run.multiplayer_run_id),
            why="" if job.succeeded else "\n".join(_why(job, run, result, details)),
        )
    if error is not None:
        return attrs.evolve(known, kind="error", result="unknown", why=_lines(error))
    seen = "never seen" if job is None else f"last seen {standing_of(job)}"
    return attrs.evolve(known, why=f"not over when the waiting ended; {seen}")


def _kind(job: Job, result: str) -> Kind:
    if job.succeeded:
        return "passed"
    if result == "skipped":
        return "skipped"
    return "failed" if result in _FAILED else "error"


def decisive_run(job: Job) -> JobRun | None:
    """Return the last run that spoiled a job, or the last of all where none did."""
    bad = [run for run in job.runs if run.result != RunResult.SUCCESS]
    some = bad if bad and not job.succeeded else job.runs
    return some[-1] if some else None


def result_of(row: Row) -> str:  # noqa: PLR0911 - one for each way
    """Return how something that is over ended, in one word."""
    if row.succeeded:
        return "success"
    match row:
        case Run():
            return _word(row.result)
        case Job():
            run = decisive_run(row)
            if run is not None and run.result is not None:
                return _word(run.result)
            if row.status != JobStatus.COMPLETED:  # a word that is new to this version
                return _word(row.status)
            return "stopped" if row.stopped_by is not None else "none"
        case _:
            counts = row.test_status
            if counts.failed or not counts.stopped:
                return "failed"
            return "stopped"


def standing_of(row: Row) -> str:
    """Return where something stands, in one word: its result once it is over."""
    if row.is_terminal:
        return result_of(row)
    return _word(row.state if isinstance(row, Run) else row.status)


def name_of(row: Row) -> str:
    """Return the name of what is tested."""
    match row:
        case Run():
            return cell(row.test.name)
        case Job():
            return cell(row.test_name)
        case _:
            return cell(row.test_plan_name)


def milliseconds(row: Row) -> float | None:
    """Return how long something took that is over."""
    if not isinstance(row, Job):
        return row.duration_ms
    if not is_set(row.completed_at):
        return None
    began = min((run.started_at for run in row.runs if run.started_at), default=row.created_at)
    return (row.completed_at - began).total_seconds() * 1000


def _word(word: str | None) -> str:
    return "none" if word is None else cell(word.lower())


def _lines(text: str) -> str:
    """Return text as lines that can do nothing to a terminal."""
    lines = text.splitlines()
    more = [f"... and {len(lines) - _MOST_LINES} lines more"] if len(lines) > _MOST_LINES else []
    return "\n".join([*(clean(line, limit=_LONGEST) for line in lines[:_MOST_LINES]), *more])


def _why(
    job: Job, run: JobRun | None, result: str, details: Mapping[str, RunDetails]
) -> Iterator[str]:
    told = False
    if job.queue_rejection_reason:
        told = True
        yield f"rejected: {_lines(job.queue_rejection_reason)}"
    found = details.get(run.multiplayer_run_id) if run is not None else None
    if found is not None:
        for player in found.players:
            for line in _failing(player, several=len(found.players) > 1):
                told = True
                yield line
    if not told and run is None:
        yield "the job is over without a run"
    elif not told and run is not None:
        yield f"run {cell(run.multiplayer_run_id)} ended with {result}"


def _failing(player: PlayerDetails, *, several: bool) -> Iterator[str]:
    """Tell of the steps that did not succeed: what was wanted, and the agent's own words."""
    who = f"player {player.player_number}, " if several else ""
    for step in player.steps:
        if step.run_result in (None, RunResult.SUCCESS):
            continue
        goal = cell(step.test.goal if step.test is not None else None)
        yield f"{who}step {step.step_number} {_word(step.run_result)}: {goal}"
        for item in step.items or ():
            if item.status is not None and item.status.lower() != "passed":
                yield f"{_word(item.status)}: {cell(item.expected)}: {cell(item.comment)}"
        if step.report:
            yield _lines(step.report)
