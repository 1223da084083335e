"""Waiting on many, at the cost of pages."""

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
"""Seconds between two looks, where the caller does not say."""
