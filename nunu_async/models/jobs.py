"""Jobs, which a start queues, with the results of their runs.

Source: API reference, "List Jobs", "Get Job".
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import attrs

from nunu_async.models.base import Model, is_set
from nunu_async.models.runs import StartedRun
from nunu_async.models.vocab import JobStatus, RunResult, RunState

__all__ = ["FinishedRun", "Job", "JobRetries", "JobRun"]


@attrs.frozen(kw_only=True, eq=False, repr=False)
class JobRetries(Model):
    """How often a job may retry a failed run."""

    total: int = 0
    remaining: int = 0
    """0 if null or missing in the response; `used` is then 0 too."""

    @property
    def used(self) -> int:
        """How many retries were started, as far as the response says."""
        return 0 if "remaining" in (*self.absent, *self.null) else self.total - self.remaining


@attrs.frozen(kw_only=True, eq=False, repr=False)
class JobRun(Model):
    """Summary of one run of a job; `nunu.runs.get` returns the details."""

    multiplayer_run_id: str
    state: RunState | None = None
    result: RunResult | None = None
    """Null until completed."""
    started_at: datetime | None = None
    completed_at: datetime | None = None
    players: int | None = None
    """Number of players."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Job(Model):
    """A started test, with one run per instance and per retry."""

    job_id: str
    status: JobStatus
    created_at: datetime
    runs: tuple[JobRun, ...] = ()
    """The runs that exist so far."""
    project_id: str | None = None
    multiplayer_test_id: str | None = None
    test_name: str | None = None
    platform: str | None = None
    build_id: str | None = None
    test_plan_execution_id: str | None = None
    completed_at: datetime | None = None
    queue_rejection_reason: str | None = None
    templating_enabled: bool | None = None
    template_data: Mapping[str, object] | None = attrs.field(default=None, hash=False)
    stopped_by: Mapping[str, object] | None = attrs.field(default=None, hash=False)
    tags: tuple[str, ...] = ()
    retries: JobRetries | None = None

    @property
    def is_terminal(self) -> bool:
        """Whether the job has finished and will not change any more."""
        return is_set(self.completed_at) or self.status == JobStatus.COMPLETED

    @property
    def succeeded(self) -> bool:
        """Whether the job has finished, and every failed run had a successful retry."""
        retried = self.retries.used if self.retries else 0
        successes = sum(run.result == RunResult.SUCCESS for run in self.runs)
        is_over = self.status == JobStatus.COMPLETED
        return is_over and successes > 0 and successes >= len(self.runs) - retried


@attrs.frozen(kw_only=True)
class FinishedRun:
    """The response of a start, and its finished jobs."""

    started: StartedRun
    jobs: tuple[Job, ...]
    """One for a test, or one per test of a plan; in the order of `started.job_ids`."""

    @property
    def succeeded(self) -> bool:
        """Whether every job succeeded."""
        return bool(self.jobs) and all(job.succeeded for job in self.jobs)
