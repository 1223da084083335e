"""File names on macOS, where one name has several spellings."""

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
    """Return a file name with composed accents (NFC), as it is typed and as servers list it.

    Only on macOS: its programs may write accents as separate characters (NFD), and either form
    leads to the file. Other systems' names are returned unchanged.
    """
    return unicodedata.normalize("NFC", name) if sys.platform == "darwin" else name


def heeds_case(folder: str) -> bool:
    """Return whether a folder of macOS is case-sensitive."""
    if sys.platform != "win32":
        with suppress(OSError, ValueError):
            return os.pathconf(folder, _PC_CASE_SENSITIVE) == 1
    return False  # the default for volumes of macOS
