"""One module for each API resource; a method builds a request and sends it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nunu_async.endpoints.builds import Builds
    from nunu_async.endpoints.jobs import Jobs
    from nunu_async.endpoints.runs import Runs
    from nunu_async.endpoints.test_plan_executions import TestPlanExecutions
else:
    from nunu_async.lazy import lazy_exports

    __getattr__ = lazy_exports(
        __name__,
        {
            "builds": ("Builds",),
            "jobs": ("Jobs",),
            "runs": ("Runs",),
            "test_plan_executions": ("TestPlanExecutions",),
        },
    )

__all__ = ["Builds", "Jobs", "Runs", "TestPlanExecutions"]
