"""Files that another program has opened without sharing, which only Windows has."""

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
        """Return whether that is why a file cannot be opened; C's `open` has EACCES for both."""
        kernel = ctypes.WinDLL("kernel32", use_last_error=True)
        kernel.CreateFileW.restype = wintypes.HANDLE
        handle = kernel.CreateFileW(
            os.fspath(path), _GENERIC_READ, _SHARE_ALL, None, _OPEN_EXISTING, 0, None
        )
        if handle != wintypes.HANDLE(-1).value:
            kernel.CloseHandle(wintypes.HANDLE(handle))
            return False  # it is shared by now
        return ctypes.get_last_error() == _SHARING_VIOLATION

else:

    def is_held(path: str | os.PathLike[str]) -> bool:  # noqa: ARG001 - Windows needs it
        """Return whether that is why a file cannot be opened."""
        return False
