"""One module per API resource; each method builds a request and sends it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nunu_async.endpoints.builds import Builds as Builds
    from nunu_async.endpoints.jobs import Jobs as Jobs
    from nunu_async.endpoints.runs import Runs as Runs
    from nunu_async.endpoints.test_plan_executions import TestPlanExecutions as TestPlanExecutions
else:
    from nunu_async.lazy import lazy_exports

    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "builds": ("Builds",),
            "jobs": ("Jobs",),
            "runs": ("Runs",),
            "test_plan_executions": ("TestPlanExecutions",),
        },
    )
