"""The choices of request fields; unlike those of responses, these sets are closed.

Apart from the models, so that a command line can be parsed without loading them.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

__all__ = ["PLATFORMS", "POLICIES", "DeletionPolicy", "Platform"]

Platform: TypeAlias = Literal[
    "windows", "macos", "linux", "android", "ios-native", "ios-simulator", "xbox", "playstation"
]
DeletionPolicy: TypeAlias = Literal["least_recent", "oldest"]

PLATFORMS: tuple[Platform, ...] = get_args(Platform)
POLICIES: tuple[DeletionPolicy, ...] = get_args(DeletionPolicy)
