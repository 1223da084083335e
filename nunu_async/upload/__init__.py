"""The build-upload pipeline: a file on disk becomes a build in storage."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nunu_async.upload.job import *
    from nunu_async.upload.journal_store import JournalStore as JournalStore
    from nunu_async.upload.parts import UploadContext as UploadContext
    from nunu_async.upload.paths import check_path as check_path, short_names as short_names
    from nunu_async.upload.progress import Listener as Listener
    from nunu_async.upload.storage import Storage as Storage
    from nunu_async.upload.uploader import *
else:
    from nunu_async.lazy import lazy_exports

    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "job": ("BuildFile", "UploadResult", "UploadedBuild"),
            "parts": ("UploadContext",),
            "paths": ("check_path", "short_names"),
            "progress": ("Listener",),
            "journal_store": ("JournalStore",),
            "storage": ("Storage",),
            "uploader": ("FileListener", "Uploader", "check"),
        },
    )
