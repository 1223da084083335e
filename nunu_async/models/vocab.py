"""Open enumerations of the API: an unknown value is kept unchanged and never raises.

The service has changed the case of its values over time and adds new ones without notice, so values
are compared case-insensitively, and every type accepts unknown values.
"""

from __future__ import annotations

from typing import ClassVar, Self

__all__ = [
    "BugCategory",
    "BugConfidence",
    "BugSeverity",
    "ExecutionStatus",
    "JobStatus",
    "OpenEnum",
    "RunResult",
    "RunState",
    "TestType",
]


class OpenEnum(str):
    """A string that compares case-insensitively.

    The hash is that of the lower-case string, so look it up only in a dict or set whose keys are
    of the same type or lower-case strings. `str(word)` is the string as received.
    """

    __slots__ = ()
    known: ClassVar[frozenset[str]] = frozenset()
    """The documented values, in lower case."""

    def __init_subclass__(cls) -> None:
        # The documented values are the constants that a subclass declares.
        cls.known |= frozenset(name.lower() for name in cls.__annotations__)
        for word in cls.known:
            setattr(cls, word.upper(), cls(word))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and str.lower(self) == str.lower(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(str.lower(self))

    def __str__(self) -> str:
        return str.__str__(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str.__repr__(self)})"

    def __copy__(self) -> Self:
        return self

    @property
    def is_known(self) -> bool:
        """Whether it is one of the documented values."""
        return str.lower(self) in self.known


class RunState(OpenEnum):
    """The state of a run, a player or a step."""

    __slots__ = ()
    PENDING: ClassVar[RunState]
    INITIALIZING: ClassVar[RunState]
    RUNNING: ClassVar[RunState]
    COMPLETED: ClassVar[RunState]


class RunResult(OpenEnum):
    """How a run, a player or a step ended.

    `FAILURE` is the January 2026 value for `FAILED`; the two do not compare equal.
    """

    __slots__ = ()
    SUCCESS: ClassVar[RunResult]
    FAILED: ClassVar[RunResult]
    FAILURE: ClassVar[RunResult]
    ERROR: ClassVar[RunResult]
    STOPPED: ClassVar[RunResult]
    MAX_STEPS: ClassVar[RunResult]
    SKIPPED: ClassVar[RunResult]
    BLOCKED: ClassVar[RunResult]
    TIMEOUT: ClassVar[RunResult]


class TestType(OpenEnum):
    """What a test is for."""

    __test__ = False  # pytest would collect it as a test
    __slots__ = ()
    VERIFICATION: ClassVar[TestType]
    TASK: ClassVar[TestType]
    DISCOVERY: ClassVar[TestType]
    EXPLORATION: ClassVar[TestType]


class ExecutionStatus(OpenEnum):
    """The state of a test-plan execution."""

    __slots__ = ()
    QUEUED: ClassVar[ExecutionStatus]
    IN_PROGRESS: ClassVar[ExecutionStatus]
    COMPLETED: ClassVar[ExecutionStatus]


class JobStatus(OpenEnum):
    """The state of a job."""

    __slots__ = ()
    QUEUED: ClassVar[JobStatus]
    STARTING: ClassVar[JobStatus]
    RUNNING: ClassVar[JobStatus]
    STOPPING: ClassVar[JobStatus]
    CLEANING_UP: ClassVar[JobStatus]
    COMPLETED: ClassVar[JobStatus]


class BugCategory(OpenEnum):
    """The kind of a bug."""

    __slots__ = ()
    UI: ClassVar[BugCategory]
    GAMEPLAY: ClassVar[BugCategory]
    PERFORMANCE: ClassVar[BugCategory]
    CRASH: ClassVar[BugCategory]
    AUDIO: ClassVar[BugCategory]
    VISUAL: ClassVar[BugCategory]


class BugSeverity(OpenEnum):
    """How bad a bug is."""

    __slots__ = ()
    LOW: ClassVar[BugSeverity]
    MEDIUM: ClassVar[BugSeverity]
    HIGH: ClassVar[BugSeverity]
    CRITICAL: ClassVar[BugSeverity]


class BugConfidence(OpenEnum):
    """How sure the agent is of a bug."""

    __slots__ = ()
    LOW: ClassVar[BugConfidence]
    MEDIUM: ClassVar[BugConfidence]
    HIGH: ClassVar[BugConfidence]
