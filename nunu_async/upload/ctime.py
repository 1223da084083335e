"""A file's ctime: when contents or metadata last changed; no program can set it back."""

from __future__ import annotations

import os
import sys

__all__ = ["ctime_of"]

if sys.platform == "win32":
    import ctypes
    import msvcrt
    from ctypes import wintypes
    from typing import Final

    _BASIC_INFO: Final = 0
    # From 1601, where Windows starts to count, to 1970.
    _EPOCH: Final = 116_444_736_000_000_000

    class _FileBasicInfo(ctypes.Structure):
        """Source: winbase.h, FILE_BASIC_INFO; times are in steps of 100 ns."""

        _fields_ = (
            ("CreationTime", ctypes.c_longlong),
            ("LastAccessTime", ctypes.c_longlong),
            ("LastWriteTime", ctypes.c_longlong),
            ("ChangeTime", ctypes.c_longlong),
            ("FileAttributes", wintypes.DWORD),
        )

    def ctime_of(found: os.stat_result, descriptor: int | None) -> int | None:  # noqa: ARG001 - its `st_ctime_ns` is the creation
        """Return nanoseconds since 1970; None where the file system has none, as FAT."""
        if descriptor is None:
            return None
        info = _FileBasicInfo()
        handle = wintypes.HANDLE(msvcrt.get_osfhandle(descriptor))
        if not ctypes.windll.kernel32.GetFileInformationByHandleEx(
            handle, _BASIC_INFO, ctypes.byref(info), ctypes.sizeof(info)
        ):
            return None
        return (info.ChangeTime - _EPOCH) * 100 if info.ChangeTime else None

else:

    def ctime_of(found: os.stat_result, descriptor: int | None) -> int | None:  # noqa: ARG001 - Windows needs it
        """Return nanoseconds since 1970."""
        return found.st_ctime_ns
