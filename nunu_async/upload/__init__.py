"""The build-upload pipeline: a file on disk becomes a build in storage."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nunu_async.upload.job import BuildFile, UploadedBuild, UploadResult
    from nunu_async.upload.many import FileListener, check, upload_all
    from nunu_async.upload.paths import check_path, short_names
    from nunu_async.upload.progress import Listener
    from nunu_async.upload.shelf import Shelf
    from nunu_async.upload.storage import Storage
    from nunu_async.upload.uploader import Uploader
else:
    from nunu_async.late import names_of

    __getattr__ = names_of(
        __name__,
        {
            "job": ("BuildFile", "UploadResult", "UploadedBuild"),
            "many": ("FileListener", "check", "upload_all"),
            "paths": ("check_path", "short_names"),
            "progress": ("Listener",),
            "shelf": ("Shelf",),
            "storage": ("Storage",),
            "uploader": ("Uploader",),
        },
    )

__all__ = [
    "BuildFile",
    "FileListener",
    "Listener",
    "Shelf",
    "Storage",
    "UploadResult",
    "UploadedBuild",
    "Uploader",
    "check",
    "check_path",
    "short_names",
    "upload_all",
]
