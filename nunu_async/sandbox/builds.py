"""The uploads, the builds and the storage quota of one project.

Pure: uses no clock and no files. Time-dependent methods take `now` in Unix seconds.
"""

import secrets
import uuid
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import quote

import attrs

from nunu_async.sandbox.http import HttpError

UploadState = Literal["uploading", "completed", "cancelled", "expired"]

_SINGLE_MINUTES = 10
_MULTIPART_MINUTES = 60


@attrs.define(eq=False, kw_only=True)
class Upload:
    """One upload, and its build once it is completed."""

    build_id: str
    upload_id: str | None
    """None for a single-part upload."""
    object_key: str
    file_name: str
    name: str
    size: int
    part_size: int
    """Bytes per part, except the last; the file size for a single-part upload."""
    total_parts: int
    request: dict[str, Any]
    """The body that initiated the upload."""
    created: float
    deadline: float
    """Unix seconds from which the upload counts as expired."""
    state: UploadState = "uploading"
    parts: dict[int, str] = attrs.field(factory=dict)
    """ETags, without quotes, of the parts in storage."""
    is_sealed: bool = False
    """True while completing: the upload accepts no parts and cannot expire or be cancelled."""
    is_evicted: bool = False
    """True if the build was completed, then deleted to free space."""

    @property
    def is_open(self) -> bool:
        """Whether the upload accepts parts, completion and cancellation."""
        return self.state == "uploading" and not self.is_sealed

    @property
    def is_stored(self) -> bool:
        """Whether the object of this upload exists."""
        return self.state == "completed" and not self.is_evicted

    def length_of(self, part_number: int) -> int:
        """Return the exact length of a part, in bytes."""
        if part_number < self.total_parts:
            return self.part_size
        return self.size - (self.total_parts - 1) * self.part_size


@attrs.define(eq=False, kw_only=True)
class BuildStore:
    """The build storage of one project."""

    project_id: str
    part_size: int
    multipart_from: int
    capacity: int | None
    max_file_size: int
    uploads: dict[str, Upload] = attrs.field(factory=dict, init=False)
    """Keyed by build id, oldest first."""
    _released: list[Upload] = attrs.field(factory=list, init=False)

    @property
    def used(self) -> int:
        """Bytes used by builds and reserved for uploads."""
        return sum(
            upload.size
            for upload in self.uploads.values()
            if upload.state == "uploading" or upload.is_stored
        )

    def initiate(self, request: Mapping[str, Any], now: float) -> Upload:
        """Reserve space for the build that a valid request body describes.

        Raises: HttpError when the file is too large or does not fit; with auto_delete, when
        deleting all completed builds would not free enough space (none is then deleted).
        """
        self.sweep(now)
        size: int = request["file_size"]
        if size > self.max_file_size:
            raise HttpError(413, "File exceeds limits")
        self._free_space(size, may_evict=request.get("auto_delete", False))
        upload = self._new_upload(dict(request), now)
        self.uploads[upload.build_id] = upload
        return upload

    def find_open(self, build_id: str, now: float) -> Upload | None:
        """Find an open upload."""
        upload = self.find_build(build_id, now)
        return upload if upload is not None and upload.is_open else None

    def find_by_key(self, object_key: str, upload_id: str | None, now: float) -> Upload | None:
        """Find an open upload by the object key and upload id of a storage URL."""
        upload = self.find_open(build_id_of(object_key), now)
        if upload is None or (upload.object_key, upload.upload_id) != (object_key, upload_id):
            return None
        return upload

    def find_build(self, build_id: str, now: float) -> Upload | None:
        """Find a build that exists: completed and not deleted, or still uploading."""
        self.sweep(now)
        upload = self.uploads.get(build_id)
        if upload is None or upload.state in ("cancelled", "expired") or upload.is_evicted:
            return None
        return upload

    def cancel(self, upload: Upload) -> None:
        """Cancel an open upload and free its space."""
        upload.state = "cancelled"
        self._released.append(upload)

    def sweep(self, now: float) -> None:
        """Expire the uploads whose deadline has passed."""
        for upload in self.uploads.values():
            if upload.is_open and now >= upload.deadline:
                upload.state = "expired"
                self._released.append(upload)

    def take_released(self) -> list[Upload]:
        """Return the uploads whose data must be deleted; each upload is returned only once."""
        released, self._released = self._released, []
        return released

    def _free_space(self, needed: int, *, may_evict: bool) -> None:
        if self.capacity is None:
            return
        used = self.used
        missing = used + needed - self.capacity
        if missing <= 0:
            return
        # Both deletion policies give the same order, as runs do not update a build's last use.
        evicted: list[Upload] = []
        if may_evict:
            for upload in self.uploads.values():
                if missing > 0 and upload.is_stored:
                    evicted.append(upload)
                    missing -= upload.size
        if missing > 0:
            sizes = {"used": used, "capacity": self.capacity, "needed": needed}
            raise HttpError(402, "Storage capacity exceeded", "QUOTA_EXCEEDED", {"details": sizes})
        for upload in evicted:
            upload.is_evicted = True
            self._released.append(upload)

    def _new_upload(self, request: dict[str, Any], now: float) -> Upload:
        size: int = request["file_size"]
        is_multipart = request.get("multipart", size >= self.multipart_from)
        part_size = self.part_size if is_multipart else size
        minutes = request.get(
            "upload_timeout", _MULTIPART_MINUTES if is_multipart else _SINGLE_MINUTES
        )
        build_id = str(uuid.uuid4())
        return Upload(
            build_id=build_id,
            upload_id=f"mpu-{secrets.token_urlsafe(12)}" if is_multipart else None,
            object_key=f"{self.project_id}/{build_id}/{quote(request['file_name'], safe='')}",
            file_name=request["file_name"],
            name=request["name"],
            size=size,
            part_size=part_size,
            total_parts=-(-size // part_size),
            request=request,
            created=now,
            deadline=now + minutes * 60,
        )


def build_id_of(object_key: str) -> str:
    """Return the build id in an object key; "" if it has none."""
    return object_key.partition("/")[2].partition("/")[0]
