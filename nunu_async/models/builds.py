"""Builds and their uploads, as the API documents them.

Source: API reference, "Initiate Upload", "Get Upload Parts", "Complete Upload", "Get Build".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TypeAlias
from unicodedata import bidirectional, category

import attrs
from attrs.validators import optional

from nunu_async.errors import InputError
from nunu_async.models.base import Model
from nunu_async.models.checks import check, is_a, is_encodable, is_whole
from nunu_async.models.choices import PLATFORMS, POLICIES, DeletionPolicy, Platform

__all__ = [
    "AppDetails",
    "Build",
    "BuildDetails",
    "CiDetails",
    "CommitDetails",
    "CompilationDetails",
    "CompletedPart",
    "InitiateUpload",
    "MultipartTicket",
    "PartUrl",
    "PullRequestDetails",
    "SinglePartTicket",
    "Ticket",
    "UploadDetails",
    "VcsDetails",
]

# `str.isprintable` would also reject non-ASCII spaces in macOS file names, and joined emoji.
_CONTROLS = frozenset({"Cc", "Zl", "Zp"})
_DIRECTIONS = frozenset({"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"})

_LONGEST_NAME = 255
_LONGEST_DESCRIPTION = 1000
_LONGEST_TAG = 50
_LONGEST_TIMEOUT = 1440


def _check_text(field: str, value: object, shortest: int, longest: int) -> None:
    if not isinstance(value, str):
        raise InputError(field, f"must be a string, not {type(value).__name__}")
    if not shortest <= len(value) <= longest:
        raise InputError(
            field, f"must be {shortest} to {longest} characters long, not {len(value)}"
        )
    if not is_encodable(value):
        raise InputError(field, "holds bytes that are not valid UTF-8")


def _name(_: object, attribute: attrs.Attribute[str], value: str) -> None:
    _check_text(attribute.name, value, 1, _LONGEST_NAME)
    if any(category(c) in _CONTROLS or bidirectional(c) in _DIRECTIONS for c in value):
        raise InputError(attribute.name, f"holds control characters: {value!a}")


def _description(_: object, attribute: attrs.Attribute[str | None], value: str | None) -> None:
    if value is not None:
        _check_text(attribute.name, value, 0, _LONGEST_DESCRIPTION)


def _tags(_: object, attribute: attrs.Attribute[tuple[str, ...]], value: tuple[str, ...]) -> None:
    for tag in value:
        _check_text(attribute.name, tag, 1, _LONGEST_TAG)


def _to_tags(value: Sequence[str]) -> tuple[str, ...]:
    if isinstance(value, str):
        raise InputError("tags", "must be a list of strings, not one string")
    return tuple(value)


_platform = check(PLATFORMS.__contains__, f"one of {', '.join(PLATFORMS)}")
_policy = optional(check(POLICIES.__contains__, f"one of {', '.join(POLICIES)}"))
_size = check(is_whole(1), "a positive number of bytes")
_minutes = optional(check(is_whole(1, _LONGEST_TIMEOUT), f"1 to {_LONGEST_TIMEOUT} whole minutes"))
_flag = check(is_a(bool), "True or False")
_choice = check(is_a(bool | None), "True, False or None")


@attrs.frozen(kw_only=True, eq=False, repr=False)
class CommitDetails(Model):
    """The commit a build was made from."""

    hash: str | None = None
    short_hash: str | None = None
    message: str | None = None
    author: str | None = None
    timestamp: str | None = None
    """ISO 8601."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class PullRequestDetails(Model):
    """The pull request a build was made for."""

    number: int | None = None
    title: str | None = None
    url: str | None = None
    source_branch: str | None = None
    target_branch: str | None = None


@attrs.frozen(kw_only=True, eq=False, repr=False)
class VcsDetails(Model):
    """The version control of a build's source."""

    type: str | None = None
    """``git``, ``mercurial`` or ``svn``."""
    provider: str | None = None
    """``github``, ``gitlab``, ``bitbucket`` or ``azure-devops``."""
    repository_url: str | None = None
    commit: CommitDetails | None = None
    branch: str | None = None
    tag: str | None = None
    pr: PullRequestDetails | None = None


@attrs.frozen(kw_only=True, eq=False, repr=False)
class CiDetails(Model):
    """The CI job that made a build."""

    system: str | None = None
    """``github-actions``, ``jenkins``, ``gitlab-ci``, ``circleci``, ``travis``,
    ``azure-pipelines``, ``bitrise`` or ``custom``."""
    build_number: str | None = None
    job_name: str | None = None
    run_id: str | None = None
    run_url: str | None = None
    triggered_by: str | None = None
    agent: str | None = None


@attrs.frozen(kw_only=True, eq=False, repr=False)
class AppDetails(Model):
    """The identity of the app in a build."""

    version: str | None = None
    version_code: int | None = None
    build_number: str | None = None
    bundle_id: str | None = None


@attrs.frozen(kw_only=True, eq=False, repr=False)
class CompilationDetails(Model):
    """How a build was compiled."""

    configuration: str | None = None
    """``debug``, ``release``, ``staging`` or ``production``."""
    timestamp: str | None = None
    duration: int | None = None
    """The API does not document the unit."""
    compiler: str | None = None
    dependencies: Mapping[str, object] | None = attrs.field(default=None, hash=False)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class UploadDetails(Model):
    """How a build was uploaded."""

    method: str | None = None
    """``cli``, ``api``, ``github-action``, ``jenkins-plugin`` or ``web``."""
    cli_version: str | None = None
    uploader: str | None = None


@attrs.frozen(kw_only=True, eq=False, repr=False)
class BuildDetails(Model):
    """Metadata that helps people find a build; every member is optional."""

    vcs: VcsDetails | None = None
    ci: CiDetails | None = None
    app: AppDetails | None = None
    build: CompilationDetails | None = None
    upload: UploadDetails | None = None


@attrs.frozen(kw_only=True)
class InitiateUpload:
    """A build to be reserved in storage.

    Raises: InputError for a value outside the documented limits.
    """

    name: str = attrs.field(validator=_name)
    """1 to 255 characters."""
    file_name: str = attrs.field(validator=_name)
    """1 to 255 characters, without directories."""
    file_size: int = attrs.field(validator=_size)
    """Bytes, at least 1."""
    platform: Platform = attrs.field(validator=_platform)
    project_id: str | None = None
    """None is replaced with the client's project id, if it has one."""
    description: str | None = attrs.field(default=None, validator=_description)
    """At most 1000 characters."""
    multipart: bool | None = attrs.field(default=None, validator=_choice)
    """None lets the server choose; it uses multipart from 3 GB."""
    auto_delete: bool = attrs.field(default=False, validator=_flag)
    """Let the server delete old builds when storage is full."""
    deletion_policy: DeletionPolicy | None = attrs.field(default=None, validator=_policy)
    """Which builds `auto_delete` deletes first; None means the server's ``least_recent``."""
    upload_timeout: int | None = attrs.field(default=None, validator=_minutes)
    """Minutes, 1 to 1440, after which the server drops an unfinished upload. None means the
    server's default: 10 for single-part, 60 for multipart."""
    tags: tuple[str, ...] = attrs.field(default=(), converter=_to_tags, validator=_tags)
    """1 to 50 characters each."""
    details: BuildDetails | None = None


@attrs.frozen(kw_only=True, eq=False, repr=False)
class SinglePartTicket(Model):
    """A reserved build that is uploaded in a single request."""

    build_id: str
    object_key: str
    upload_url: str = attrs.field(repr=False)
    """Presigned; treat it as a secret until it expires."""
    upload_type: str = "single-part"


@attrs.frozen(kw_only=True, eq=False, repr=False)
class MultipartTicket(Model):
    """A reserved build that is uploaded in parts."""

    build_id: str
    object_key: str
    total_parts: int
    part_size: int
    """Bytes per part, except the last."""
    upload_id: str = attrs.field(repr=False)
    """Treat it as a secret: it alone authorises requests for part URLs."""
    upload_type: str = "multipart"


Ticket: TypeAlias = SinglePartTicket | MultipartTicket


@attrs.frozen(kw_only=True, eq=False, repr=False)
class PartUrl(Model):
    """The presigned URL of one part."""

    part_number: int
    """1-based."""
    url: str = attrs.field(repr=False)
    """Valid for about an hour."""


@attrs.frozen(kw_only=True)
class CompletedPart:
    """The ETag that storage returned for one part."""

    part_number: int
    """1-based."""
    etag: str
    """Without quotes."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Build(Model):
    """A build in storage.

    The service has renamed members over time (``id``, ``file_name``, ``file_size`` before
    ``build_id``, ``filename``, ``size``); both are decoded into the newer names.
    """

    build_id: str
    name: str | None = None
    status: str | None = None
    """``OK`` or ``UNHEALTHY``; in older responses ``uploading``, ``ready`` or ``failed``."""
    project_id: str | None = None
    platform: str | None = None
    filename: str | None = None
    size: int | None = None
    """Bytes."""
    pinned: bool | None = None
    nunu_sdk: bool | None = None
    tags: tuple[str, ...] = ()
    created_at: datetime | None = None
    last_used: datetime | None = None
    description: str | None = None
    details: BuildDetails | None = None
