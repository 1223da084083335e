"""Files that another program holds open and does not share, which there are on Windows alone."""

from __future__ import annotations

import os
import sys

__all__ = ["is_held"]

if sys.platform == "win32":
    import ctypes
    from ctypes import wintypes
    from typing import Final

    _GENERIC_READ: Final = 0x8000_0000
    _SHARE_ALL: Final = 7
    _OPEN_EXISTING: Final = 3
    _SHARING_VIOLATION: Final = 32

    def is_held(path: str | os.PathLike[str]) -> bool:
        """Tell whether that is why a file cannot be opened; C's `open` says EACCES of both."""
        kernel = ctypes.WinDLL("kernel32", use_last_error=True)
        kernel.CreateFileW.restype = wintypes.HANDLE
        handle = kernel.CreateFileW(
            os.fspath(path), _GENERIC_READ, _SHARE_ALL, None, _OPEN_EXISTING, 0, None
        )
        if handle != wintypes.HANDLE(-1).value:
            kernel.CloseHandle(wintypes.HANDLE(handle))
            return False  # it is free by now
        return ctypes.get_last_error() == _SHARING_VIOLATION

else:

    def is_held(path: str | os.PathLike[str]) -> bool:  # noqa: ARG001 - Windows needs it
        """Tell whether that is why a file cannot be opened."""
        return False
