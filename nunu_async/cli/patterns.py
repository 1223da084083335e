"""The files that arguments mean: names as they are, and what patterns match."""

from __future__ import annotations

import errno
import fnmatch
import glob
import os
import re
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from nunu_async.errors import SourceError
from nunu_async.upload.paths import path_key

__all__ = ["expand"]

# A folder that went away meanwhile, or a name that is none: nothing is there to be found.
_ABSENT: Final = {errno.ENOENT, errno.ENOTDIR}


def expand(
    arguments: Iterable[str], stopped: Callable[[], bool] = lambda: False
) -> tuple[list[str], dict[str, BaseException]]:
    """Return the files meant, each once, in order; and what was meant but is no file. Blocks.

    A name that exists is taken as it is, brackets and all; any other with ``*``, ``?`` or ``[`` is
    a pattern, ``**`` included. Folders that the end of a pattern matches are left out; whatever
    else it matches counts as named, be it a link that leads nowhere or a pipe. A folder that cannot
    be searched is an error, as the files in it would be missed.

    Args:
        arguments: names and patterns.
        stopped: whether to give up; asked all the time, as a search may take minutes.
    """
    found: dict[str, str] = {}
    failed: dict[str, BaseException] = {}
    for argument in arguments:
        try:
            name = argument
            if name.startswith("~") and not os.path.lexists(name):
                name = os.path.expanduser(name)  # a shell does not do it within quotes
            matches = [name]
            if glob.has_magic(name) and not os.path.lexists(name):
                path_key(name)  # raises where the working directory is gone
                search = _Search(name, stopped)
                matches = search.run()
                failed |= search.failed
                if not matches and not search.failed:
                    only = ", only folders" if search.met_folders else ""
                    raise SourceError(argument, f"no file matches this pattern{only}")
            for match in matches:
                found.setdefault(path_key(match), match)
        except SourceError as error:
            failed[argument] = error
    return list(found.values()), failed


class _Search:
    """What one pattern matches, where each real folder is searched once.

    Links to folders are followed, as by a shell's ``**``, but only when everything else has been
    searched: a folder is found by its own name rather than by a link's, and a link to a folder
    above it leads nowhere new.

    Attributes:
        failed: folders that could not be searched, and links that lead nowhere where a folder may
            have been meant.
        met_folders: whether the whole pattern matched a folder.
    """

    def __init__(self, pattern: str, stopped: Callable[[], bool]) -> None:
        self.failed: dict[str, SourceError] = {}
        self.met_folders = False
        self._stopped = stopped
        self._matches: list[str] = []
        # By place in the pattern: ``*/x/**`` may come through one folder at several.
        self._searched: set[tuple[object, int]] = set()
        self._folders: list[tuple[str, int]] = []
        self._links: deque[tuple[str, int]] = deque()
        drive, rest = os.path.splitdrive(pattern)
        separators = os.sep + (os.altsep or "")
        bare = rest.lstrip(separators)
        self._root = drive + rest[: len(rest) - len(bare)]
        self._parts: list[str] = []
        for part in re.split(f"[{re.escape(separators)}]+", bare):
            if part != "**" or self._parts[-1:] != ["**"]:
                self._parts.append(part)
        if self._parts[-1] == "**":
            self._parts.append("*")

    def run(self) -> list[str]:
        """Search; return what was found, sorted."""
        self._folders.append((self._root, 0))
        while (self._folders or self._links) and not self._stopped():
            folder, place = self._folders.pop() if self._folders else self._links.popleft()
            if self._is_new(folder, place):
                self._look(folder, place)
        return sorted(self._matches)

    def _is_new(self, folder: str, place: int) -> bool:
        try:
            found = os.stat(folder or os.curdir)
        except OSError as error:
            # Where no link is, there is nothing; a link that leads nowhere may hide something.
            if error.errno not in _ABSENT or os.path.islink(folder):
                self._fail(folder, error)
            return False
        if not stat.S_ISDIR(found.st_mode):
            return False
        # Some file systems number nothing.
        real: object = (found.st_dev, found.st_ino) if found.st_ino else os.path.realpath(folder)
        if (real, place) in self._searched:
            return False
        self._searched.add((real, place))
        return True

    def _look(self, folder: str, place: int) -> None:
        part = self._parts[place]
        is_last = place + 1 == len(self._parts)
        if not glob.has_magic(part):
            path = os.path.join(folder, part)
            if not is_last:
                self._folders.append((path, place + 1))
            elif os.path.lexists(path):
                self._match(path, is_folder=os.path.isdir(path))
            return
        if part == "**":
            self._folders.append((folder, place + 1))
        for entry in self._entries(folder, part):
            path = os.path.join(folder, entry.name)
            is_link = entry.is_symlink()
            try:
                is_folder = entry.is_dir()
            except OSError as error:  # links in a circle, or what may not be looked at
                is_folder = not is_last and error.errno != errno.ELOOP
            if is_last:
                self._match(path, is_folder=is_folder)
            elif is_folder or (is_link and part != "**"):
                # Any name fits `**`, so that links of which nothing is asked do not matter there.
                following = place if part == "**" else place + 1
                (self._links if is_link else self._folders).append((path, following))

    def _entries(self, folder: str, part: str) -> Iterator[os.DirEntry[str]]:
        fits = re.compile(fnmatch.translate(os.path.normcase(part))).match
        try:
            with os.scandir(folder or os.curdir) as entries:
                for entry in entries:
                    if self._stopped():
                        return
                    # As everywhere, what is hidden has to be asked for.
                    is_hidden = entry.name.startswith(".") and not part.startswith(".")
                    if not is_hidden and fits(os.path.normcase(entry.name)):
                        yield entry
        except OSError as error:
            if error.errno not in _ABSENT:  # it went away meanwhile
                self._fail(folder, error)

    def _match(self, path: str, *, is_folder: bool) -> None:
        if is_folder:
            self.met_folders = True
        else:
            self._matches.append(path)

    def _fail(self, folder: str, error: OSError) -> None:
        path = folder or os.curdir
        words = f"cannot be searched for files ({error.strerror})"
        if error.errno in _ABSENT:
            words = "is a link that leads nowhere, and may stand for a folder with files"
        self.failed[path] = SourceError(path, words, errno=error.errno)
