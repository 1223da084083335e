"""Frozen models of requests and responses, one module per resource."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nunu_async.models.arguments import *
    from nunu_async.models.builds import BuildDetails as BuildDetails
    from nunu_async.models.choices import DeletionPolicy as DeletionPolicy, Platform as Platform
    from nunu_async.models.jobs import FinishedRun as FinishedRun, Job as Job
    from nunu_async.models.run_requests import RunOptions as RunOptions
    from nunu_async.models.runs import Run as Run
    from nunu_async.models.test_plan_executions import TestPlanExecution as TestPlanExecution
else:
    from nunu_async.lazy import lazy_exports

    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "arguments": ("BuildArguments", "StartArguments", "takes_build", "takes_start"),
            "builds": ("BuildDetails",),
            "choices": ("DeletionPolicy", "Platform"),
            "jobs": ("FinishedRun", "Job"),
            "run_requests": ("RunOptions",),
            "runs": ("Run",),
            "test_plan_executions": ("TestPlanExecution",),
        },
    )
