"""One file to be uploaded, and what came of it: values."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

import attrs

from nunu_async.config import check_at_once
from nunu_async.errors import InputError, NunuError
from nunu_async.models.builds import BuildDetails, DeletionPolicy, InitiateUpload, Platform
from nunu_async.upload.names import composed
from nunu_async.upload.paths import check_path
from nunu_async.upload.plan import MULTIPART_ABOVE, minutes_to_ask
from nunu_async.upload.platforms import infer_platform

__all__ = ["BuildFile", "UploadResult", "UploadedBuild"]


@attrs.frozen(kw_only=True)
class BuildFile:
    """One file to be uploaded, and how; `NunuClient.upload_build` tells what each means.

    Raises: InputError for a `path` that is none, and for a `concurrency` that cannot be.
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
        """Return what is asked of the server for a file of this name and size.

        `max_bandwidth` is how many bytes a second may leave of it, None where there is no limit.
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
    """From opening the file to the server's confirmation."""
    verified: int | None = None
    """Parts that storage has with the MD5 of what this call sent; fewer than `parts` where an ETag
    is no MD5 or an earlier call had sent a part, and None if `verify` was not asked for."""
    possible_orphans: int = 0
    """Reservations that the server may have made for this upload unheard, which hold space until
    they expire: their answers were lost."""


@attrs.frozen(kw_only=True)
class UploadResult:
    """What became of one of many files: either a build or an error."""

    file: BuildFile
    build: UploadedBuild | None = None
    error: NunuError | asyncio.CancelledError | None = None
    """A cancellation only where `on_result` is told of one; its notes say what was left."""

    @property
    def ok(self) -> bool:
        """Whether the build is in storage."""
        return self.build is not None
