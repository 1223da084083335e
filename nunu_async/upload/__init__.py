"""The build-upload pipeline: a file on disk becomes a build in storage."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nunu_async.upload.job import BuildFile, UploadedBuild, UploadResult
    from nunu_async.upload.journal_store import JournalStore
    from nunu_async.upload.many import FileListener, check, upload_all
    from nunu_async.upload.paths import check_path, short_names
    from nunu_async.upload.progress import Listener
    from nunu_async.upload.storage import Storage
    from nunu_async.upload.uploader import Uploader
else:
    from nunu_async.lazy import lazy_exports

    __getattr__ = lazy_exports(
        __name__,
        {
            "job": ("BuildFile", "UploadResult", "UploadedBuild"),
            "many": ("FileListener", "check", "upload_all"),
            "paths": ("check_path", "short_names"),
            "progress": ("Listener",),
            "journal_store": ("JournalStore",),
            "storage": ("Storage",),
            "uploader": ("Uploader",),
        },
    )

__all__ = [
    "BuildFile",
    "FileListener",
    "JournalStore",
    "Listener",
    "Storage",
    "UploadResult",
    "UploadedBuild",
    "Uploader",
    "check",
    "check_path",
    "short_names",
    "upload_all",
]
