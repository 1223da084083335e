"""Run a local nunu.ai: the API on one port, its build storage on another.

For tests, demonstrations and benchmarks. Nothing here is shared with the client, so the two
cannot be wrong together.
"""

from nunu_async.sandbox.faults import Fault
from nunu_async.sandbox.journal import Journal, Seen
from nunu_async.sandbox.server import Sandbox

__all__ = ["Fault", "Journal", "Sandbox", "Seen"]
