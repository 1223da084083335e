"""What an error tracker could record of an error, and a CI runner obey in a log."""

from __future__ import annotations

import functools
import pickle
import re
import traceback
from pathlib import Path
from types import TracebackType

MARKED_KEY = "nunu_MARKED_KEY_0123456789"
_TESTS = Path(__file__).parent.resolve()

# As runners look for them: actions/runner, ActionCommand.cs; azure-pipelines-agent, Command.cs.
OBEYED = re.compile(
    r"^\s*::[\w-]+.*?::|##\[[\w-]+[^]\n]*\]|##vso\[[\w.]+[^]\n]*\]|##teamcity\["
    r"|section_(?:start|end):|travis_(?:fold|time):",
    re.IGNORECASE | re.MULTILINE,
)


def disclosed(error: BaseException) -> str:
    """Return all that could be recorded: the chain, notes, locals of frames, a pickle.

    Frames of the tests themselves are left out: they hold the key on purpose.
    """
    text: list[str] = []
    met: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        link = waiting.pop()
        if link is None or id(link) in met:
            continue
        met.add(id(link))
        formatted = traceback.TracebackException(
            type(link), link, _below_the_tests(link.__traceback__), capture_locals=True
        )
        text.append("".join(formatted.format()))
        text.append(f"{link!r} {link} {link.args!r} {vars(link)!r}")
        # Whole, where `capture_locals` cuts long reprs off.
        for frame, _ in traceback.walk_tb(link.__traceback__):
            if not _is_test(frame.f_code.co_filename):
                text.append(f"{frame.f_code.co_name} {frame.f_locals!r}")
        text.append(pickle.dumps(link).decode("latin-1"))
        # Links that Python would not print are still there for code that follows them.
        waiting += [link.__cause__, link.__context__]
    return "\n".join(text)


@functools.cache
def _is_test(file: str) -> bool:
    path = Path(file)  # relative only for generated code, as that of attrs
    return path.is_absolute() and path.resolve().is_relative_to(_TESTS)


def _below_the_tests(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None and _is_test(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    return trace
