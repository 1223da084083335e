"""A pytest plugin that takes away what Windows lacks.

`PYTHONPATH=tests python -m pytest -p without_posix`

It has to come before the package is loaded, which looks once for what there is. Processes that the
tests start have everything.
"""

import asyncio
import os
import termios
from asyncio.unix_events import _UnixSelectorEventLoop

for module, names in (
    (os, ("pread", "preadv", "sendfile", "posix_fadvise", "copy_file_range")),
    (termios, ("TIOCOUTQ",)),
):
    for name in names:
        delattr(module, name)
_UnixSelectorEventLoop.add_signal_handler = asyncio.AbstractEventLoop.add_signal_handler  # type: ignore[method-assign]
