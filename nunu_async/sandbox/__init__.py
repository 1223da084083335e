"""Run a local nunu.ai: the API on one port, its build storage on another.

For tests, demos and benchmarks. The sandbox shares no code with the client, so that no bug can be
in both and go unnoticed.
"""

from nunu_async.sandbox.faults import Fault
from nunu_async.sandbox.fixtures import (
    Artifact,
    Bug,
    Build,
    DeploymentConfig,
    MultiplayerTest,
    Outcome,
    Script,
    Step,
    TestPlan,
)
from nunu_async.sandbox.history import Execution, Job, Run
from nunu_async.sandbox.journal import Journal, Seen
from nunu_async.sandbox.keys import Key
from nunu_async.sandbox.server import Sandbox

__all__ = [
    "Artifact",
    "Bug",
    "Build",
    "DeploymentConfig",
    "Execution",
    "Fault",
    "Job",
    "Journal",
    "Key",
    "MultiplayerTest",
    "Outcome",
    "Run",
    "Sandbox",
    "Script",
    "Seen",
    "Step",
    "TestPlan",
]
