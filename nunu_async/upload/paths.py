"""Paths of build files: checks, spellings, comparison keys, short names. Opens nothing."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from nunu_async.errors import InputError, SourceError

# Source: macOS, unistd.h; the `os` module has no name for it.
_PC_CASE_SENSITIVE: Final = 11


def composed(name: str) -> str:
    """Return a file name with composed accents (NFC), as it is typed and as servers list it.

    Only on macOS: its programs may write accents as separate characters (NFD), and either form
    leads to the file. Other systems' names are returned unchanged.
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

    Raises: SourceError for a relative one where the working directory is gone.
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
    """Return an absolute path that is equal for all spellings of one name.

    Links are not followed: two links to a file may be two builds. Windows ignores case and takes
    either slash; macOS ignores case on most volumes, and on all of them how accents are composed.

    Raises: SourceError, as `absolute` does.
    """
    key = composed(os.path.normcase(absolute(path)))
    if sys.platform == "darwin" and not _is_case_sensitive(os.path.dirname(key)):  # noqa: PTH120
        key = key.lower()  # not `casefold`: "ß" and "ss" are two names on macOS
    return key


def _is_case_sensitive(folder: str) -> bool:
    if sys.platform != "win32":
        with suppress(OSError, ValueError):
            return os.pathconf(folder, _PC_CASE_SENSITIVE) == 1
    return False  # the default for volumes of macOS


def short_names(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Return a short unique name for each path: the file name, with folders where names are alike.

    In the order of `paths`, with a slash on every system: ``arm64/app.apk`` and ``x86/app.apk``.

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
