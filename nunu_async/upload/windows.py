"""Files on Windows: change time, whether another program holds a file, and file locks."""

from __future__ import annotations

import os
import sys

if sys.platform == "win32":
    import ctypes
    import errno
    import msvcrt
    from ctypes import wintypes
    from typing import Final

    _BASIC_INFO: Final = 0
    # From the Windows epoch (1601) to 1970, in units of 100 ns.
    _EPOCH: Final = 116_444_736_000_000_000
    _GENERIC_READ: Final = 0x8000_0000
    _SHARE_ALL: Final = 7
    _OPEN_EXISTING: Final = 3
    _SHARING_VIOLATION: Final = 32

    # Windows locks bytes, which other processes then cannot read; so lock one beyond any journal's
    # end.
    _BEYOND: Final = 1 << 40
    # `errno` values for a byte that is already locked; Wine does not set any.
    _LOCKED: Final = {0, errno.EACCES, errno.EDEADLOCK}

    class _FileBasicInfo(ctypes.Structure):
        """Source: winbase.h, FILE_BASIC_INFO; times are in units of 100 ns."""

        _fields_ = (
            ("CreationTime", ctypes.c_longlong),
            ("LastAccessTime", ctypes.c_longlong),
            ("LastWriteTime", ctypes.c_longlong),
            ("ChangeTime", ctypes.c_longlong),
            ("FileAttributes", wintypes.DWORD),
        )

    def change_time(descriptor: int) -> int | None:
        """Return the ctime in nanoseconds since 1970; None if the file system has none (FAT)."""
        info = _FileBasicInfo()
        handle = wintypes.HANDLE(msvcrt.get_osfhandle(descriptor))
        if not ctypes.windll.kernel32.GetFileInformationByHandleEx(
            handle, _BASIC_INFO, ctypes.byref(info), ctypes.sizeof(info)
        ):
            return None
        return (info.ChangeTime - _EPOCH) * 100 if info.ChangeTime else None

    def is_held(path: str | os.PathLike[str]) -> bool:
        """Return whether a file cannot be opened because another program does not share it.

        C's `open` fails with EACCES for both that and missing permissions.
        """
        kernel = ctypes.WinDLL("kernel32", use_last_error=True)
        kernel.CreateFileW.restype = wintypes.HANDLE
        handle = kernel.CreateFileW(
            os.fspath(path), _GENERIC_READ, _SHARE_ALL, None, _OPEN_EXISTING, 0, None
        )
        if handle != wintypes.HANDLE(-1).value:
            kernel.CloseHandle(wintypes.HANDLE(handle))
            return False  # no longer held
        return ctypes.get_last_error() == _SHARING_VIOLATION

    def try_lock(descriptor: int, *, shared: bool = False) -> bool:  # noqa: ARG001 - exclusive only
        """Lock an open file until it is closed or its process ends; False if it is already locked.

        Raises: OSError where files cannot be locked.
        """
        os.lseek(descriptor, _BEYOND, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            if error.errno not in _LOCKED:
                raise
            return False
        finally:
            os.lseek(descriptor, 0, os.SEEK_SET)
        return True
