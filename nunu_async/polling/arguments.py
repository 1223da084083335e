"""Keyword arguments of the methods that wait.

A separate module, so that method signatures can be built without importing the poller.
"""

from __future__ import annotations

from typing import Generic, TypedDict, TypeVar

from nunu_async import polling
from nunu_async.signatures import takes

__all__ = ["INTERVAL", "WaitArguments", "takes_wait"]

R = TypeVar("R", bound="polling.Pollable")

INTERVAL = 10.0
"""Default seconds between two polls."""


class WaitArguments(TypedDict, Generic[R], total=False):
    """The options of one wait; see `WaitOptions`."""

    timeout: float | None
    interval: float
    on_change: polling.OnChange[R] | None
    raise_on_failure: bool


takes_wait = takes(WaitArguments, interval=INTERVAL, raise_on_failure=False)
