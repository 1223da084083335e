"""A row of the fault matrix as data: operation, fault, expected outcome.

To add a case, append a `Case` to the list `CASES` of a module ``cases_<letter>.py``, or
``cases_<letter>_<subject>.py``, in this directory (a new module is found by its name).
`test_matrix.py` plays each over real sockets and has it judged by `check_invariants`. The test's
id is ``row-variant``, so this one is run by
``pytest tests/faults/test_matrix.py -k N7-rst-at-half``::

    Case(
        "N7",
        "rst-at-half",
        steps={"put_part:2": [rst("half")]},
        requests={"put_part": 4, "put_part:2": 2},
    )

What is not said is usual: an upload of three parts (two whole ones and a byte), one attempt after
the other allowed as the policy says, success expected, every invariant in force.

A row that is no plain data is an ordinary test, named for it (``test_n3_...``), in
``test_rows_<letter>.py``; it can call `play` with a `Case` of its own, or `check_invariants` with
evidence of its own. Then give the row its line in ``README.md``: `test_accounted.py` wants one.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from doubles import ManualClock
from fault_server import Listening, Moment
from fault_steps import Step
from fault_tls import Certificate

from nunu_async import RetryPolicy, Timeouts

if TYPE_CHECKING:
    from fault_play import Played

__all__ = ["HERE", "PART", "Cancel", "Case", "all_cases"]

HERE = Path(__file__).parent
PART = 64 * 1024

Count = int | tuple[int, int]
"""How many requests; a pair is the least and the most."""


@attrs.frozen(kw_only=True)
class Cancel:
    """When the caller cancels: at the nth moment of this kind of an operation."""

    operation: str
    moment: Moment
    nth: int = 1
    part: int | None = None
    times: int = 1
    """Cancelled so often, one turn of the loop apart."""


@attrs.frozen
class Case:
    """One variant of a row.

    Attributes:
        row: its id, such as ``N7``.
        variant: what tells it from others of the row.
        operation: a name of `fault_play.OPERATIONS`, or a coroutine function of client and path.
        steps: see `FaultServer`.
        size: of the file, in bytes.
        files: how many files the operation uploads; those that it makes itself it compares.
        options: more arguments of `upload_build`.
        settings: more arguments of the client.
        server: more arguments of `FaultServer`.
        tls: what certificate the server has; None is plain http.
        storage_tls: what the storage has, where that is another.
        names: host names of listeners.
        resolver: what the resolver says of a name, look-up by look-up, the last for ever: a list
            of addresses; an empty one is a failure.
        error: the type that is raised exactly; None where the operation returns.
        attributes: of the error, or of what is returned.
        match: a pattern that is found in the error's text.
        cause: the type of the error's ``__cause__``.
        requests: expected counts, by operation, part (``put_part:2``) or listener (``foreign``).
        connections: expected counts, by listener.
        peak: most requests under way at once, by listener.
        sleeps: what the pauses have to be, or how many there are.
        seconds: least and most that the clock may have moved.
        cancel: when the caller cancels.
        secrets: what else must not be shown, such as a proxy's password.
        allow: invariants that the row breaks on purpose, each with the reason.
        also: a last look at what was played; asserts.
        patch: done before, with the ``monkeypatch`` of the test.
    """

    row: str
    variant: str
    operation: str | Callable[[Any, Path], Any] = attrs.field(default="upload", kw_only=True)
    steps: Mapping[str, Sequence[Step]] = attrs.field(factory=dict, kw_only=True)
    size: int = attrs.field(default=2 * PART + 1, kw_only=True)
    files: int = attrs.field(default=1, kw_only=True)
    options: Mapping[str, Any] = attrs.field(factory=dict, kw_only=True)
    settings: Mapping[str, Any] = attrs.field(factory=dict, kw_only=True)
    timeouts: Timeouts = attrs.field(factory=Timeouts, kw_only=True)
    retry: RetryPolicy = attrs.field(factory=RetryPolicy, kw_only=True)
    server: Mapping[str, Any] = attrs.field(factory=dict, kw_only=True)
    tls: Certificate | None = attrs.field(default=None, kw_only=True)
    storage_tls: Certificate | None = attrs.field(default=None, kw_only=True)
    names: Mapping[Listening, str] = attrs.field(factory=dict, kw_only=True)
    resolver: Mapping[str, Sequence[Sequence[str]]] = attrs.field(factory=dict, kw_only=True)
    clock: Callable[[], ManualClock] = attrs.field(default=ManualClock, kw_only=True)
    error: type[BaseException] | None = attrs.field(default=None, kw_only=True)
    attributes: Mapping[str, Any] = attrs.field(factory=dict, kw_only=True)
    match: str = attrs.field(default="", kw_only=True)
    cause: type[BaseException] | None = attrs.field(default=None, kw_only=True)
    requests: Mapping[str, Count] = attrs.field(factory=dict, kw_only=True)
    connections: Mapping[str, Count] = attrs.field(factory=dict, kw_only=True)
    peak: Mapping[str, Count] = attrs.field(factory=dict, kw_only=True)
    sleeps: Count | Sequence[float] | None = attrs.field(default=None, kw_only=True)
    seconds: tuple[float, float] | None = attrs.field(default=None, kw_only=True)
    cancel: Cancel | None = attrs.field(default=None, kw_only=True)
    secrets: Sequence[str] = attrs.field(default=(), kw_only=True)
    allow: Mapping[str, str] = attrs.field(factory=dict, kw_only=True)
    also: Callable[[Played], None] | None = attrs.field(default=None, kw_only=True)
    patch: Callable[[Any], None] | None = attrs.field(default=None, kw_only=True)

    @property
    def id(self) -> str:
        """The test's id."""
        return f"{self.row}-{self.variant}"


def all_cases() -> list[Case]:
    """Return the cases of every ``cases_*.py`` here, in the order of their ids' letters."""
    found: list[Case] = []
    for path in sorted(HERE.glob("cases_*.py")):
        found += importlib.import_module(path.stem).CASES
    return found
