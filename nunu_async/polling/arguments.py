"""The keyword arguments of a wait, for the methods that take them.

Apart from what waits, so that the signatures of methods can be made without loading that.
"""

from __future__ import annotations

from typing import Generic, TypedDict, TypeVar

from nunu_async import polling
from nunu_async.signatures import takes

__all__ = ["INTERVAL", "WaitArguments", "takes_wait"]

R = TypeVar("R", bound="polling.Pollable")

INTERVAL = 10.0
"""The default number of seconds between two polls."""


class WaitArguments(TypedDict, Generic[R], total=False):
    """The options of one wait, as `WaitOptions` has them."""

    timeout: float | None
    interval: float
    on_change: polling.OnChange[R] | None
    raise_on_failure: bool


takes_wait = takes(WaitArguments, interval=INTERVAL, raise_on_failure=False)
