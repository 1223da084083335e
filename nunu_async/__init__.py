"""The asyncio client for the nunu.ai API, with concurrent uploads that survive bad networks.

Each name's module is imported on first access, so `import nunu_async` alone is cheap, and a program
loads only what it uses.
"""

import logging
from typing import TYPE_CHECKING

from nunu_async.version import __version__ as __version__

# For type checkers. Modules whose whole `__all__` is public are imported with `*`.
if TYPE_CHECKING:
    from nunu_async.client import NunuClient as NunuClient
    from nunu_async.config import Timeouts as Timeouts
    from nunu_async.core.attempt import Attempt as Attempt
    from nunu_async.core.clock import Clock as Clock, SystemClock as SystemClock
    from nunu_async.core.retry import RetryPolicy as RetryPolicy
    from nunu_async.endpoints.paging import Listing as Listing
    from nunu_async.errors import *
    from nunu_async.models.base import Model as Model
    from nunu_async.models.builds import *
    from nunu_async.models.choices import DeletionPolicy as DeletionPolicy, Platform as Platform
    from nunu_async.models.jobs import *
    from nunu_async.models.page import *
    from nunu_async.models.run_requests import GpsLocation as GpsLocation, RunOptions as RunOptions
    from nunu_async.models.runs import *
    from nunu_async.models.test_plan_executions import *
    from nunu_async.models.vocab import *
    from nunu_async.polling.subscription import Change as Change
    from nunu_async.response import *
    from nunu_async.upload.job import *
    from nunu_async.upload.progress import *
else:
    from nunu_async.lazy import lazy_exports

    # For run time: the same names, keyed by module.
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "client": ("NunuClient",),
            "config": ("Timeouts",),
            "core.attempt": ("Attempt",),
            "core.clock": ("Clock", "SystemClock"),
            "core.retry": ("RetryPolicy",),
            "endpoints.paging": ("Listing",),
            "errors": (
                "ApiError",
                "AuthenticationError",
                "BadRequest",
                "CertificateError",
                "ClientClosed",
                "ConfigError",
                "Conflict",
                "ConnectError",
                "DeadlineExceeded",
                "DecodeError",
                "InputError",
                "NotFound",
                "NunuError",
                "PayloadTooLarge",
                "PermissionDenied",
                "PlanMismatch",
                "ProtocolError",
                "ProxyError",
                "QuotaExceeded",
                "RateLimited",
                "RunFailed",
                "ServerError",
                "SourceChanged",
                "SourceError",
                "StallError",
                "StorageError",
                "TransportError",
                "UploadError",
                "UploadOutcomeUnknown",
                "WaitError",
                "WaitTimeout",
            ),
            "models.base": ("Model",),
            "models.builds": (
                "AppDetails",
                "Build",
                "BuildDetails",
                "CiDetails",
                "CommitDetails",
                "CompilationDetails",
                "CompletedPart",
                "InitiateUpload",
                "MultipartTicket",
                "PartUrl",
                "PullRequestDetails",
                "SinglePartTicket",
                "Ticket",
                "UploadDetails",
                "VcsDetails",
            ),
            "models.choices": ("DeletionPolicy", "Platform"),
            "models.jobs": ("FinishedRun", "Job", "JobRetries", "JobRun"),
            "models.page": ("Page", "Pagination"),
            "models.run_requests": ("GpsLocation", "RunOptions"),
            "models.runs": (
                "BaseAgent",
                "BugInfo",
                "BugOccurrence",
                "BuildRef",
                "Initiator",
                "Player",
                "PlayerDetails",
                "PlayerPlatform",
                "Run",
                "RunApp",
                "RunArtifact",
                "RunDetails",
                "RunStep",
                "StartedRun",
                "StepItem",
                "StepTest",
                "StopOutcome",
                "StopResult",
                "TestRef",
            ),
            "models.test_plan_executions": ("ExecutionTestStatus", "TestPlanExecution"),
            "models.vocab": (
                "BugCategory",
                "BugConfidence",
                "BugSeverity",
                "ExecutionStatus",
                "JobStatus",
                "RunResult",
                "RunState",
                "TestType",
                "OpenEnum",
            ),
            "polling.subscription": ("Change",),
            "response": ("ResponseInfo",),
            "upload.job": ("BuildFile", "UploadedBuild", "UploadResult"),
            "upload.progress": (
                "BytesSent",
                "Cancelled",
                "Completed",
                "Completing",
                "Kept",
                "Listener",
                "PartDone",
                "Retrying",
                "UploadEvent",
                "UploadStarted",
            ),
        },
    )

# Without a handler, Python prints the library's warnings to stderr if logging is not set up.
logging.getLogger("nunu_async").addHandler(logging.NullHandler())
