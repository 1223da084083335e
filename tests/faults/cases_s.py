"""Rows S: the storage endpoint."""

from __future__ import annotations

from fault_case import Case
from fault_steps import refuse

from nunu_async import StorageError, UploadError

CASES = [
    Case(
        "S1",
        "500-twice",
        steps={"put_part:1": [refuse(500, "InternalError").repeat(2)]},
        requests={"put_part:1": 3},
        sleeps=2,
    ),
    Case(
        "S1",
        "500-for-ever",
        steps={"put_part:1": [refuse(500, "InternalError").always()]},
        error=UploadError,
        cause=StorageError,
        attributes={"status": 500, "attempts": 8, "cancelled": True},
        requests={"put_part:1": 8, "complete_upload": 0, "cancel_upload": 1},
        sleeps=7,
    ),
]
