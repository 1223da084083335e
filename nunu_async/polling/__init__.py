"""Waiting for many runs, jobs or executions by polling pages of lists."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nunu_async.polling.room import OnStart, PollingService
    from nunu_async.polling.waiting import OnChange, WaitOptions
else:
    from nunu_async.lazy import lazy_exports

    __getattr__ = lazy_exports(
        __name__,
        {
            "room": ("OnStart", "PollingService"),
            "waiting": ("OnChange", "WaitOptions"),
        },
    )

__all__ = ["INTERVAL", "OnChange", "OnStart", "PollingService", "WaitOptions"]

INTERVAL = 10.0
"""The default number of seconds between two polls."""
