"""Allowed values of request fields; unlike the enumerations of responses, these are closed.

A separate module, so that a command line can be parsed without importing the models.
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
