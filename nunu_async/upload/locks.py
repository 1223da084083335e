"""A lock on an open file, released when its process ends, however that happens."""

from __future__ import annotations

import sys
from typing import Final

__all__ = ["try_lock"]

if sys.platform == "win32":
    import errno
    import msvcrt
    import os

    # Windows locks bytes, which other processes then cannot read: one far beyond any journal's end.
    _BEYOND: Final = 1 << 40
    # Errors for a byte that is locked already; Wine sets no number.
    _LOCKED: Final = {0, errno.EACCES, errno.EDEADLOCK}

    def try_lock(descriptor: int, *, shared: bool = False) -> bool:  # noqa: ARG001 - exclusive only
        """Lock, or return False if it is locked; `shared` excludes exclusive locks only.

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

else:
    import fcntl

    def try_lock(descriptor: int, *, shared: bool = False) -> bool:
        """Lock, or return False if it is locked; `shared` excludes exclusive locks only.

        Raises: OSError where files cannot be locked.
        """
        # Not `lockf`: its locks belong to the process, and would not keep two uploads of one apart.
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
