"""Wait for many runs, jobs or executions by polling pages of the API's lists."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nunu_async.polling.arguments import *
    from nunu_async.polling.room import OnStart as OnStart, PollingService as PollingService
    from nunu_async.polling.subscription import Pollable as Pollable
    from nunu_async.polling.waiting import OnChange as OnChange, WaitOptions as WaitOptions
else:
    from nunu_async.lazy import lazy_exports

    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "arguments": ("INTERVAL", "WaitArguments", "takes_wait"),
            "room": ("OnStart", "PollingService"),
            "subscription": ("Pollable",),
            "waiting": ("OnChange", "WaitOptions"),
        },
    )
