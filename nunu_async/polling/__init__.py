"""Waiting for many runs, jobs or executions by polling pages of lists."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nunu_async.polling.room import OnStart, Polling
    from nunu_async.polling.waiting import OnChange, Terms
else:
    from nunu_async.late import names_of

    __getattr__ = names_of(
        __name__,
        {
            "room": ("OnStart", "Polling"),
            "waiting": ("OnChange", "Terms"),
        },
    )

__all__ = ["INTERVAL", "OnChange", "OnStart", "Polling", "Terms"]

INTERVAL = 10.0
"""The default number of seconds between two polls."""
