"""Keyword arguments of the methods that upload a build or start a run.

A separate module, so that method signatures can be built without importing the models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

from nunu_async import models
from nunu_async.signatures import takes

__all__ = ["BuildArguments", "StartArguments", "takes_build", "takes_start"]


class BuildArguments(TypedDict, total=False):
    """The options of an upload; see `BuildFile` and `NunuClient.upload_build`."""

    platform: models.Platform | None
    description: str | None
    tags: Sequence[str]
    multipart: bool | None
    auto_delete: bool
    deletion_policy: models.DeletionPolicy | None
    upload_timeout: int | None
    details: models.BuildDetails | None
    concurrency: int
    verify: bool
    resume: bool


class _Target(TypedDict):
    deployment_config_id: str


class StartArguments(_Target, total=False):
    """The parameters of a start; see `StartRun` and `Runs.start`."""

    multiplayer_test_id: str | None
    test_plan_id: str | None
    instructions: str | None
    build_id: str | None
    name: str | None
    agent_config_id: str | None
    additional_tags: Sequence[str]
    retries: int | None
    instances: int | None
    render_templates: bool
    template_data: Mapping[str, object] | None
    options: models.RunOptions | None


takes_build = takes(
    BuildArguments, tags=(), auto_delete=False, concurrency=4, verify=False, resume=False
)
takes_start = takes(StartArguments, additional_tags=(), render_templates=False)
