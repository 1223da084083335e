"""Names of files on macOS, where one name has several spellings."""

from __future__ import annotations

import os
import sys
import unicodedata
from contextlib import suppress
from typing import Final

__all__ = ["composed", "heeds_case"]

# Source: macOS, unistd.h; the `os` module has no name for it.
_PC_CASE_SENSITIVE: Final = 11


def composed(name: str) -> str:
    """Return a file's name with its accents composed, as they are typed and as servers list them.

    Programs of macOS name files with the accents as characters of their own, and either way leads
    to the file there. Other systems' names are left as they are.
    """
    return unicodedata.normalize("NFC", name) if sys.platform == "darwin" else name


def heeds_case(folder: str) -> bool:
    """Tell whether "a" and "A" are two names in a folder of macOS."""
    if sys.platform != "win32":
        with suppress(OSError, ValueError):
            return os.pathconf(folder, _PC_CASE_SENSITIVE) == 1
    return False  # as volumes are made unless somebody asks for another kind
