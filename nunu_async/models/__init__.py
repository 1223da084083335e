"""Frozen models of requests and responses, one module per resource."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nunu_async.models.builds import BuildDetails
    from nunu_async.models.choices import DeletionPolicy, Platform
    from nunu_async.models.jobs import FinishedRun, Job
    from nunu_async.models.run_requests import RunOptions
    from nunu_async.models.runs import Run
    from nunu_async.models.test_plan_executions import TestPlanExecution
else:
    from nunu_async.lazy import lazy_exports

    __getattr__ = lazy_exports(
        __name__,
        {
            "builds": ("BuildDetails",),
            "choices": ("DeletionPolicy", "Platform"),
            "jobs": ("FinishedRun", "Job"),
            "run_requests": ("RunOptions",),
            "runs": ("Run",),
            "test_plan_executions": ("TestPlanExecution",),
        },
    )

__all__ = [
    "BuildDetails",
    "DeletionPolicy",
    "FinishedRun",
    "Job",
    "Platform",
    "Run",
    "RunOptions",
    "TestPlanExecution",
]
