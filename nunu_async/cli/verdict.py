"""Turn jobs, runs and executions into readable verdicts (pure functions)."""

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
from nunu_async.redact import sanitize

Row: TypeAlias = Run | Job | TestPlanExecution
Kind: TypeAlias = Literal["passed", "failed", "error", "skipped", "pending"]

_MAX_CHARACTERS = 10_000
_MAX_LINES = 200
# Results of a game that did not do what the test expected. Any other unsuccessful result means that
# the test could not be carried out, and says nothing about the game.
_FAILED = frozenset({"failed", "failure", "max_steps"})


@attrs.frozen(kw_only=True)
class Verdict:
    """The result of one job; every text is safe to print on a terminal.

    Attributes:
        job_id: the job's id; "" for an error before any job was started.
        name: name of the test, or the job's id.
        kind: category for counting; only `passed` is a success.
        result: the API's result in lower case, or a word such as "pending" without one.
        seconds: from the start of the first run to the end of the job; None if unknown.
        run_id: id of the run that decided the result, or None.
        why: why it did not pass, in lines; "" if it passed or no reason is known.
        platform: platform of the device, or None.
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
        """`why` on one line."""
        return cell(" ".join(self.why.split()))

    @property
    def milliseconds(self) -> float | None:
        """`seconds` in milliseconds, the unit that `span` takes."""
        return None if self.seconds is None else self.seconds * 1000


def judge(
    job_ids: Iterable[str],
    jobs: Mapping[str, Job],
    *,
    details: Mapping[str, RunDetails],
    errors: Mapping[str, str],
) -> list[Verdict]:
    """Return a verdict for each job, in the order of `job_ids`.

    Args:
        job_ids: the jobs that were started.
        jobs: the latest state of each job, keyed by id.
        details: run details keyed by run id; used to explain failures.
        errors: why a job could not be read, keyed by job id.
    """
    return [_judge(job_id, jobs.get(job_id), details, errors.get(job_id)) for job_id in job_ids]


def _judge(
    job_id: str, job: Job | None, details: Mapping[str, RunDetails], error: str | None
) -> Verdict:
    name = name_of(job) if job is not None else NOTHING
    verdict = Verdict(
        job_id=job_id,
        name=cell(job_id) if name == NOTHING else name,
        kind="pending",
        result="pending",
        platform=None if job is None or job.platform is None else cell(job.platform),
        began=None if job is None else job.created_at,
    )
    if job is not None and job.is_terminal:
        run, result, duration = decisive_run(job), result_of(job), milliseconds(job)
        return attrs.evolve(
            verdict,
            kind=_kind(job, result),
            result=result,
            seconds=None if duration is None else duration / 1000,
            run_id=None if run is None else cell(run.multiplayer_run_id),
            why="" if job.succeeded else "\n".join(_reasons(job, run, result, details)),
        )
    if error is not None:
        return attrs.evolve(verdict, kind="error", result="unknown", why=_lines(error))
    seen = "never seen" if job is None else f"last seen {standing_of(job)}"
    return attrs.evolve(verdict, why=f"not over when the waiting ended; {seen}")


def _kind(job: Job, result: str) -> Kind:
    if job.succeeded:
        return "passed"
    if result == "skipped":
        return "skipped"
    return "failed" if result in _FAILED else "error"


def decisive_run(job: Job) -> JobRun | None:
    """Return a failed job's last unsuccessful run, or else a job's last run, if any."""
    unsuccessful = [run for run in job.runs if run.result != RunResult.SUCCESS]
    candidates = unsuccessful if unsuccessful and not job.succeeded else job.runs
    return candidates[-1] if candidates else None


def result_of(row: Row) -> str:  # noqa: PLR0911 - one return per outcome
    """Return the result of a terminal row in one word."""
    if row.succeeded:
        return "success"
    match row:
        case Run():
            return _word(row.result)
        case Job():
            run = decisive_run(row)
            if run is not None and run.result is not None:
                return _word(run.result)
            if row.status != JobStatus.COMPLETED:  # a status unknown to this version
                return _word(row.status)
            return "stopped" if row.stopped_by is not None else "none"
        case _:
            counts = row.test_status
            if counts.failed or not counts.stopped:
                return "failed"
            return "stopped"


def standing_of(row: Row) -> str:
    """Return the state of a row in one word, or the result of a terminal row."""
    return result_of(row) if row.is_terminal else _word(state_of(row))


def state_of(row: Row) -> str:
    """Return the state of a row, as the API spells it."""
    return str(row.state if isinstance(row, Run) else row.status)


def name_of(row: Row) -> str:
    """Return the name of the row's test or test plan."""
    match row:
        case Run():
            return cell(row.test.name)
        case Job():
            return cell(row.test_name)
        case _:
            return cell(row.test_plan_name)


def milliseconds(row: Row) -> float | None:
    """Return the duration of a terminal row in milliseconds; None if unknown."""
    if not isinstance(row, Job):
        return row.duration_ms
    if not is_set(row.completed_at):
        return None
    start = min((run.started_at for run in row.runs if run.started_at), default=row.created_at)
    return (row.completed_at - start).total_seconds() * 1000


def _word(value: str | None) -> str:
    return "none" if value is None else cell(value.lower())


def _lines(text: str) -> str:
    """Sanitize each line of a text, and keep at most `_MAX_LINES` lines."""
    lines = text.splitlines()
    more = [f"... and {len(lines) - _MAX_LINES} lines more"] if len(lines) > _MAX_LINES else []
    return "\n".join(
        [*(sanitize(line, limit=_MAX_CHARACTERS) for line in lines[:_MAX_LINES]), *more]
    )


def _reasons(
    job: Job, run: JobRun | None, result: str, details: Mapping[str, RunDetails]
) -> Iterator[str]:
    explained = False
    if job.queue_rejection_reason:
        explained = True
        yield f"rejected: {_lines(job.queue_rejection_reason)}"
    full_run = details.get(run.multiplayer_run_id) if run is not None else None
    if full_run is not None:
        for player in full_run.players:
            for line in _failed_steps(player, several=len(full_run.players) > 1):
                explained = True
                yield line
    if not explained and run is None:
        yield "the job is over without a run"
    elif not explained and run is not None:
        yield f"run {cell(run.multiplayer_run_id)} ended with {result}"


def _failed_steps(player: PlayerDetails, *, several: bool) -> Iterator[str]:
    """Yield the goal of each unsuccessful step, its failed checks and the agent's report."""
    prefix = f"player {player.player_number}, " if several else ""
    for step in player.steps:
        if step.run_result in (None, RunResult.SUCCESS):
            continue
        goal = cell(step.test.goal if step.test is not None else None)
        yield f"{prefix}step {step.step_number} {_word(step.run_result)}: {goal}"
        for item in step.items or ():
            if item.status is not None and item.status.lower() != "passed":
                yield f"{_word(item.status)}: {cell(item.expected)}: {cell(item.comment)}"
        if step.report:
            yield _lines(step.report)
