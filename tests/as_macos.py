"""A pytest plugin that plays macOS on Linux, as far as this package asks the system.

`PYTHONPATH=tests python -m pytest -p as_macos`

What macOS lacks is taken away, and what it has under numbers of its own is answered by what Linux
has for it. File systems stay Linux's: names that differ in case, or in how accents are composed,
are two files. It has to come before the package is loaded; a process can load it by
`import as_macos`.
"""

import asyncio
import fcntl
import multiprocessing  # noqa: F401 - these look at the platform as they are loaded
import os
import platform  # noqa: F401
import shutil  # noqa: F401
import socket
import struct
import subprocess  # noqa: F401
import sys
import sysconfig
import tempfile  # noqa: F401
import termios
import urllib.request  # noqa: F401
from collections import Counter
from typing import Any

# Source: the headers of macOS 14: sys/fcntl.h, sys/socket.h, unistd.h, sys/ttycom.h.
F_RDADVISE, F_FULLFSYNC = 44, 51
SO_NWRITE = 0x1024
PC_CASE_SENSITIVE = 11
TIOCOUTQ = 0x4004_7473

asked: Counter[str] = Counter()
"""How often each was asked for."""
heeds_case = False
"""Whether the volumes are of the kind that takes "a" and "A" for two names."""

_outq = termios.TIOCOUTQ
_control, _advise, _option, _pathconf = (
    fcntl.fcntl,
    os.posix_fadvise,
    socket.socket.getsockopt,
    os.pathconf,
)


def _fcntl(fd: Any, command: int, argument: Any = 0, /) -> Any:
    if command == F_RDADVISE:
        assert len(argument) == 16  # of `struct radvisory`, with its padding
        offset, count = struct.unpack_from("<qi", argument)
        _advise(fd, offset, count, os.POSIX_FADV_WILLNEED)
        asked["F_RDADVISE"] += 1
        return argument
    if command == F_FULLFSYNC:
        os.fsync(fd)
        asked["F_FULLFSYNC"] += 1
        return 0
    return _control(fd, command, argument)


def _getsockopt(sock: socket.socket, level: int, name: int, *rest: int) -> Any:
    if (level, name) == (socket.SOL_SOCKET, SO_NWRITE):
        asked["SO_NWRITE"] += 1
        return struct.unpack("i", fcntl.ioctl(sock.fileno(), _outq, bytes(4)))[0]
    return _option(sock, level, name, *rest)


def _pathconf_of(path: Any, name: Any) -> int:
    if name == PC_CASE_SENSITIVE:
        os.stat(path)  # noqa: PTH116 - it has to be there
        asked["_PC_CASE_SENSITIVE"] += 1
        return int(heeds_case)
    return _pathconf(path, name)


for module, names in (
    (os, ("posix_fadvise", "copy_file_range", "RWF_NOWAIT")),
    (socket, ("TCP_KEEPIDLE",)),
):
    for one in names:
        if hasattr(module, one):
            delattr(module, one)
fcntl.F_FULLFSYNC = F_FULLFSYNC  # type: ignore[attr-defined]
socket.TCP_KEEPALIVE = 0x10  # type: ignore[attr-defined]
termios.TIOCOUTQ = TIOCOUTQ
fcntl.fcntl = _fcntl  # type: ignore[assignment]
socket.socket.getsockopt = _getsockopt  # type: ignore[assignment,method-assign]
os.pathconf = _pathconf_of  # type: ignore[assignment]
assert asyncio.SelectorEventLoop  # loaded before the platform's name changes
sysconfig.get_config_vars()  # same
sys.platform = "darwin"
