"""Expand file arguments: names and glob patterns."""

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

# Errors for a path that was removed or is not a folder: it has no matches.
_ABSENT: Final = {errno.ENOENT, errno.ENOTDIR}


def expand(
    arguments: Iterable[str], stopped: Callable[[], bool] = lambda: False
) -> tuple[list[str], dict[str, BaseException]]:
    """Return the unique files in order, and errors keyed by argument or folder (blocking).

    An existing name is taken literally, even with brackets; any other name with ``*``, ``?`` or
    ``[`` is a pattern, which may contain ``**``. Folders that match a whole pattern are omitted;
    all other matches are returned, including dangling links and pipes. A folder that cannot be
    searched is an error, as files in it would be missed.

    Args:
        arguments: names and patterns.
        stopped: returns True to end the search; called often, as a search may take minutes.
    """
    found: dict[str, str] = {}
    failed: dict[str, BaseException] = {}
    for argument in arguments:
        try:
            name = argument
            if name.startswith("~") and not os.path.lexists(name):
                name = os.path.expanduser(name)  # shells do not expand ~ within quotes
            matches = [name]
            if glob.has_magic(name) and not os.path.lexists(name):
                path_key(name)  # raises if the working directory is gone
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
    """A search for the matches of one pattern; each real folder is searched once.

    Links to folders are followed, as in Python's `glob`, but only after real folders: so a folder
    is reported under its own name rather than a link's, and a link to a parent folder finds
    nothing new.

    Attributes:
        failed: errors of folders that could not be searched, and of dangling links where the
            pattern needs a folder.
        met_folders: whether a folder matched the whole pattern.
    """

    def __init__(self, pattern: str, stopped: Callable[[], bool]) -> None:
        self.failed: dict[str, SourceError] = {}
        self.met_folders = False
        self._stopped = stopped
        self._matches: list[str] = []
        # (folder, pattern index): ``*/x/**`` may reach one folder at several indexes.
        self._searched: set[tuple[object, int]] = set()
        # Folders are added at the front, links at the end.
        self._pending: deque[tuple[str, int]] = deque()
        drive, rest = os.path.splitdrive(pattern)
        separators = os.sep + (os.altsep or "")
        bare = rest.lstrip(separators)
        self._root = drive + rest[: len(rest) - len(bare)]
        self._parts = re.split(f"[{re.escape(separators)}]+", bare)
        if self._parts[-1] == "**":
            self._parts.append("*")

    def run(self) -> list[str]:
        """Run the search; return the sorted matches."""
        self._pending.append((self._root, 0))
        while self._pending and not self._stopped():
            folder, index = self._pending.popleft()
            if self._is_new(folder, index):
                self._search(folder, index)
        return sorted(self._matches)

    def _is_new(self, folder: str, index: int) -> bool:
        try:
            status = os.stat(folder or os.curdir)
        except OSError as error:
            # A missing folder has no matches, but a dangling link's target might have had.
            if error.errno not in _ABSENT or os.path.islink(folder):
                self._fail(folder, error)
            return False
        if not stat.S_ISDIR(status.st_mode):
            return False
        # Some file systems have no inode numbers.
        identity: object = (
            (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(folder)
        )
        if (identity, index) in self._searched:
            return False
        self._searched.add((identity, index))
        return True

    def _search(self, folder: str, index: int) -> None:
        part = self._parts[index]
        is_last = index + 1 == len(self._parts)
        if not glob.has_magic(part):
            path = os.path.join(folder, part)
            if not is_last:
                self._pending.appendleft((path, index + 1))
            elif os.path.lexists(path):
                self._match(path, is_folder=os.path.isdir(path))
            return
        if part == "**":
            self._pending.appendleft((folder, index + 1))
        for entry in self._entries(folder, part):
            path = os.path.join(folder, entry.name)
            is_link = entry.is_symlink()
            try:
                is_folder = entry.is_dir()
            except OSError as error:  # a link loop, or no permission
                is_folder = not is_last and error.errno != errno.ELOOP
            if is_last:
                self._match(path, is_folder=is_folder)
            elif is_folder or (is_link and part != "**"):
                # `**` matches any name, so skip links that do not point to a folder.
                following = (path, index if part == "**" else index + 1)
                if is_link:
                    self._pending.append(following)
                else:
                    self._pending.appendleft(following)

    def _entries(self, folder: str, part: str) -> Iterator[os.DirEntry[str]]:
        matches = re.compile(fnmatch.translate(os.path.normcase(part))).match
        try:
            with os.scandir(folder or os.curdir) as entries:
                for entry in entries:
                    if self._stopped():
                        return
                    # As in shells, hidden files match only a pattern that begins with a dot.
                    is_hidden = entry.name.startswith(".") and not part.startswith(".")
                    if not is_hidden and matches(os.path.normcase(entry.name)):
                        yield entry
        except OSError as error:
            if error.errno not in _ABSENT:
                self._fail(folder, error)

    def _match(self, path: str, *, is_folder: bool) -> None:
        if is_folder:
            self.met_folders = True
        else:
            self._matches.append(path)

    def _fail(self, folder: str, error: OSError) -> None:
        path = folder or os.curdir
        reason = f"cannot be searched for files ({error.strerror})"
        if error.errno in _ABSENT:
            reason = "is a link that leads nowhere, and may stand for a folder with files"
        self.failed[path] = SourceError(path, reason, errno=error.errno)
