"""Paths of build files: checks, normalization, comparison keys, short names. Opens no file."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from nunu_async.errors import InputError, SourceError

# Source: unistd.h of macOS; the `os` module does not define it.
_PC_CASE_SENSITIVE: Final = 11


def composed(name: str) -> str:
    """Return a file name in NFC (composed accents), as users type it and servers list it.

    Only on macOS, where programs may use NFD (accents as separate characters) and both forms open
    the same file. On other systems the name is returned unchanged.
    """
    return unicodedata.normalize("NFC", name) if sys.platform == "darwin" else name


def check_path(path: object) -> None:
    """Check that a value is a path. Raises: InputError."""
    if not isinstance(path, str | os.PathLike):
        raise InputError(
            "path",
            f"must be the path of a file, as a str or an os.PathLike, not {type(path).__name__}; "
            "what is in memory has to be written to a file first",
        )
    if not isinstance(os.fspath(path), str):
        raise InputError("path", "must be text, not bytes; os.fsdecode makes it so")


def absolute(path: str | os.PathLike[str]) -> str:
    """Return an absolute path without following links.

    Raises: SourceError for a relative path if the working directory no longer exists.
    """
    try:
        return os.path.abspath(path)  # noqa: PTH100 - `resolve` follows links
    except OSError as error:
        reason = (
            "is relative to the working directory, which is not there any more "
            f"({error.strerror}); change to one that exists, or give an absolute path"
        )
        raise SourceError(os.fspath(path), reason, errno=error.errno) from None


def path_key(path: str | os.PathLike[str]) -> str:
    """Return a comparison key: an absolute path that is equal for all spellings of a name.

    Links are not followed: two links to a file may be two builds. Windows ignores case and accepts
    either slash; macOS ignores case on most volumes, and the Unicode form (NFC or NFD) on all.

    Raises: SourceError, as `absolute` does.
    """
    key = composed(os.path.normcase(absolute(path)))
    if sys.platform == "darwin" and not _is_case_sensitive(os.path.dirname(key)):  # noqa: PTH120
        key = key.lower()  # not `casefold`: "ß" and "ss" are different names on macOS
    return key


def _is_case_sensitive(folder: str) -> bool:
    if sys.platform != "win32":
        with suppress(OSError, ValueError):
            return os.pathconf(folder, _PC_CASE_SENSITIVE) == 1
    return False  # the default for macOS volumes


def short_names(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Return a short unique name for each path: the file name, with folders if names are equal.

    In the order of `paths`, with forward slashes on every system: ``arm64/app.apk`` and
    ``x86/app.apk``.

    Raises: SourceError, as `absolute` does.
    """
    parts = [path_key(path).replace(os.sep, "/").split("/") for path in paths]
    shown = [absolute(path).replace(os.sep, "/").split("/") for path in paths]
    lengths = [1] * len(parts)
    while True:
        alike: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for place, length in enumerate(lengths):
            alike[tuple(parts[place][-length:])].append(place)
        ambiguous = [
            place
            for places in alike.values()
            if len(places) > 1
            for place in places
            if lengths[place] < len(parts[place])
        ]
        if not ambiguous:
            return ["/".join(shown[place][-length:]) for place, length in enumerate(lengths)]
        for place in ambiguous:
            lengths[place] += 1
