"""Test-plan executions.

Source: API reference, "List Test Plan Executions".
"""

from __future__ import annotations

from datetime import datetime

import attrs

from nunu_async.models.base import Model, is_set
from nunu_async.models.vocab import ExecutionStatus

__all__ = ["ExecutionTestStatus", "TestPlanExecution"]


@attrs.frozen(kw_only=True, eq=False, repr=False)
class ExecutionTestStatus(Model):
    """How many tests of an execution are in each state."""

    passed: int
    failed: int
    stopped: int
    queued: int
    running: int
    skipped: int | None = None
    """Newest responses only."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class TestPlanExecution(Model):
    """One execution of a test plan."""

    __test__ = False

    id: str
    status: ExecutionStatus
    total_tests: int
    test_status: ExecutionTestStatus
    test_plan_id: str | None = None
    test_plan_name: str | None = None
    build_id: str | None = None
    build_name: str | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    """Null until completed."""
    started_by: object = attrs.field(default=None, hash=False)
    """A string in the documentation; an object in responses of some versions."""
    duration_ms: float | None = None
    """Milliseconds."""

    @property
    def is_terminal(self) -> bool:
        """Whether the execution has finished and will not change any more."""
        return is_set(self.completed_at) or self.status == ExecutionStatus.COMPLETED

    @property
    def succeeded(self) -> bool:
        """Whether the execution has finished and all of its tests passed."""
        is_over = self.status == ExecutionStatus.COMPLETED
        return is_over and self.test_status.passed == self.total_tests
