"""Checks that the file still contains the parts that were sent."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from nunu_async.errors import SourceChanged
from nunu_async.upload.plan import Part, Plan
from nunu_async.upload.progress import Ledger
from nunu_async.upload.source import Source

_LOG = logging.getLogger("nunu_async.upload")

# How many ctime changes during one comparison are tolerated before the upload fails.
_MAX_CTIME_CHANGES: Final = 5


class SourceGuard:
    """Detects changes of the file during an upload, and between an upload and its resume.

    A file can be rewritten in place with its size kept and its modification time set back (`cp -p`,
    `rsync --inplace -t`, `touch -d @$SOURCE_DATE_EPOCH`). Its ctime changes even then, but also on
    a chmod, a hard link or a rename. When only the ctime has changed, finished parts are read again
    and compared with their ETags.

    Attributes:
        source: the file.
    """

    def __init__(self, source: Source, plan: Plan, ledger: Ledger) -> None:
        self.source = source
        self._plan = plan
        self._ledger = ledger
        self._ctime = source.identity.ctime_ns
        # Part number -> ctime at which the file is known to contain the part; `_first` if missing.
        self._ctimes: dict[int, int | None] = {}
        self._first = self._ctime
        self._lock = asyncio.Lock()

    def resume(self, ctime_ns: int | None) -> None:
        """Treat the ledger's parts as sent at this ctime; None (not recorded) changes nothing."""
        if ctime_ns is not None:
            self._ctime = ctime_ns
            self._ctimes = dict.fromkeys(self._ledger.etags, ctime_ns)

    async def before(self, part: Part) -> None:
        """Check the file before a part is read.

        Raises: SourceChanged; SourceError if it cannot be read.
        """
        now = await self.source.check()
        if now.ctime_ns != self._ctime:
            await self.confirm()
        # The ctime before any comparison above, so that a later comparison includes this part.
        self._ctimes[part.number] = now.ctime_ns

    async def confirm(self) -> None:
        """Verify that the file still contains the finished parts.

        Raises: SourceChanged if it does not, or if that cannot be verified; SourceError if the file
        cannot be read.
        """
        async with self._lock:
            changes = 0
            while True:
                now = (await self.source.check()).ctime_ns
                stale = [n for n in self._ledger.etags if self._ctimes.get(n, self._first) != now]
                if not stale:
                    self._ctime = now
                    return
                if changes == _MAX_CTIME_CHANGES:
                    raise self._changed(
                        "changed again and again (its contents, mode, links or name: its ctime "
                        "kept moving) while the sent parts were compared with it. Upload it again "
                        "when it is left alone"
                    )
                path = self.source.path
                _LOG.info("%s: its ctime has moved; comparing %d sent parts", path, len(stale))
                for number in stale:
                    await self._compare(number)
                # Only now is it certain that the file did not change while it was read.
                if (await self.source.check()).ctime_ns == now:
                    self._ctimes |= dict.fromkeys(stale, now)
                else:
                    changes += 1

    async def _compare(self, number: int) -> None:
        moved = "its ctime moved, while its size and modification time did not"
        if number not in self._ledger.md5_parts:
            raise self._changed(
                f"changed after part {number} was sent ({moved}; the storage's ETags are not MD5s, "
                "so contents cannot be compared). Upload it again, and change neither contents, "
                "mode, links nor name meanwhile"
            )
        part = self._plan.part(number)
        if await self.source.md5(part.offset, part.length) != self._ledger.etags[number].lower():
            raise self._changed(
                f"changed after part {number} was sent ({moved}, and the part's ETag is not the "
                "MD5 of what the file holds now). Upload it again"
            )

    def _changed(self, reason: str) -> SourceChanged:
        return SourceChanged(str(self.source.path), reason)
