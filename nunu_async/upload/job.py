"""A file to upload, and the result of its upload, as values."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

import attrs

from nunu_async.config import check_at_once
from nunu_async.errors import InputError, NunuError
from nunu_async.models.builds import BuildDetails, InitiateUpload
from nunu_async.models.choices import DeletionPolicy, Platform
from nunu_async.upload.paths import check_path, composed
from nunu_async.upload.plan import MULTIPART_ABOVE, minutes_to_ask
from nunu_async.upload.platforms import infer_platform

__all__ = ["BuildFile", "UploadResult", "UploadedBuild"]


@attrs.frozen(kw_only=True)
class BuildFile:
    """One file to upload, with its options; `NunuClient.upload_build` documents them.

    Raises: InputError for a `path` that is not a path, or a `concurrency` out of range.
    """

    path: str | os.PathLike[str]
    name: str
    platform: Platform | None = None
    description: str | None = None
    tags: Sequence[str] = attrs.field(default=(), hash=False)
    multipart: bool | None = None
    auto_delete: bool = False
    deletion_policy: DeletionPolicy | None = None
    upload_timeout: int | None = None
    details: BuildDetails | None = None
    concurrency: int = 4
    verify: bool = False
    resume: bool = False

    def __attrs_post_init__(self) -> None:
        check_path(self.path)
        if problem := check_at_once(self.concurrency):
            raise InputError("concurrency", problem)

    def request(
        self, file_name: str, size: int, max_bandwidth: float | None = None
    ) -> InitiateUpload:
        """Return the request that initiates the upload of a file of this name and size.

        `max_bandwidth` is in bytes per second; None means no limit.
        """
        file_name = composed(file_name)
        multipart = size > MULTIPART_ABOVE if self.multipart is None else self.multipart
        minutes = self.upload_timeout
        if minutes is None:
            minutes = minutes_to_ask(
                size, multipart=multipart, resume=self.resume, max_bandwidth=max_bandwidth
            )
        return InitiateUpload(
            name=self.name,
            file_name=file_name,
            file_size=size,
            platform=self.platform or infer_platform(file_name),
            description=self.description,
            multipart=multipart,
            auto_delete=self.auto_delete,
            deletion_policy=self.deletion_policy,
            upload_timeout=minutes,
            tags=self.tags,
            details=self.details,
        )


@attrs.frozen(kw_only=True)
class UploadedBuild:
    """A build that is in storage."""

    build_id: str
    object_key: str
    upload_type: str
    """``single-part`` or ``multipart``."""
    size: int
    """Bytes."""
    parts: int
    seconds: float
    """Time from opening the file to the server's confirmation."""
    verified: int | None = None
    """Parts sent by this call whose MD5 in storage matches the file; fewer than `parts` if an ETag
    is not an MD5 or an earlier call sent a part; None without `verify`."""
    possible_orphans: int = 0
    """Reservations that the server may have made for this upload but whose responses were lost;
    they hold space until they expire."""


@attrs.frozen(kw_only=True)
class UploadResult:
    """The result for one of many files: either a build or an error."""

    file: BuildFile
    build: UploadedBuild | None = None
    error: NunuError | asyncio.CancelledError | None = None
    """CancelledError occurs only in results given to `on_result`; its notes say what was left
    behind."""

    @property
    def ok(self) -> bool:
        """Whether the build is in storage."""
        return self.build is not None
