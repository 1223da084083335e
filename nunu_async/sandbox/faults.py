"""Describe what goes wrong, and decide which request it goes wrong for."""

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Literal

import attrs

OPERATIONS = frozenset(
    {
        "cancel_upload",
        "complete_upload",
        "get_build",
        "get_job",
        "get_run",
        "get_upload_parts",
        "initiate_upload",
        "list_jobs",
        "list_run_bugs",
        "list_runs",
        "list_test_plan_executions",
        "put_part",
        "start_run",
        "stop_runs",
    }
)

Deed = Literal["pass", "answer", "corrupt", "cut", "stall"]

_DEEDS = ("pass", "answer", "corrupt", "cut", "stall")
_LOWEST_STATUS = 200  # 1xx is no final answer
_HIGHEST_STATUS = 599


def _default_deed(fault: "Fault") -> Deed:
    return "pass" if fault.status is None else "answer"


@attrs.frozen(kw_only=True)
class Fault:
    """Spoil some requests of one operation.

    Requests that match `on` and `part` are counted from 1, for each fault apart; the fault acts
    on numbers `first` to `first + times - 1`, or on all from `first` when `times` is None.

    Args:
        on: `*`, or an operation: initiate_upload, get_upload_parts, put_part, complete_upload,
            cancel_upload, get_build, list_runs, start_run, get_run, list_run_bugs, stop_runs,
            list_test_plan_executions, list_jobs, get_job.
        part: only the PUT of this part.
        first, times: which of the matching requests, see above.
        latency: seconds to wait before anything else.
        after: bytes of the request body to read before acting.
        do: `answer` with `status`, `headers` and `body`; `cut` the connection; `stall`, which is to
            stop reading and never answer; `corrupt`, which is to flip a bit of a part's first byte
            and serve as usual, so that storage has other bytes than were sent, and says so in its
            ETag; `pass`, which is to serve as usual after the latency.
            `answer` is the default with a status, `pass` without.
        effect: do the real work first: the answer is lost, the change is not.

    Raises: ValueError when the fields name no request, or contradict each other.
    """

    on: str
    """An operation, or `*` for every request, also those that are no operation."""
    part: int | None = None
    """Only this part; the PUT of a single-part upload is part 1."""
    first: int = 1
    times: int | None = 1
    latency: float = 0.0
    """Seconds, slept before anything else happens."""
    after: int | None = None
    """Bytes of the request body to read before acting; None reads none."""
    status: int | None = None
    do: Deed = attrs.field(default=attrs.Factory(_default_deed, takes_self=True))
    """`pass` serves as usual, `corrupt` with a bit of the body flipped; `cut` resets the
    connection, `stall` stops reading for good."""
    headers: Mapping[str, str] = attrs.field(factory=dict, hash=False)
    body: str | bytes | Mapping[str, object] | None = attrs.field(default=None, hash=False)
    """None sends the error body usual for the origin; a mapping is sent as JSON."""
    effect: bool = False
    """Do the real work first and act after it: the answer is lost, the change is not."""

    def __attrs_post_init__(self) -> None:
        for problem in chain(self._target_problems(), self._deed_problems()):
            raise ValueError(f"fault on {self.on!r}: {problem}")

    def _target_problems(self) -> Iterator[str]:
        if self.on != "*" and self.on not in OPERATIONS:
            yield f"unknown operation, known are * and {', '.join(sorted(OPERATIONS))}"
        if self.part is not None and self.part < 1:
            yield f"part must be at least 1, not {self.part}"
        if self.part is not None and self.on not in ("put_part", "*"):
            yield "part belongs to put_part only"
        if self.first < 1:
            yield f"first must be at least 1, not {self.first}"
        if self.times is not None and self.times < 1:
            yield f"times must be at least 1 or None, not {self.times}"

    def _deed_problems(self) -> Iterator[str]:  # noqa: C901 - a list of contradictions
        if self.do not in _DEEDS:
            yield f"do must be one of {', '.join(_DEEDS)}, not {self.do!r}"
        if not 0 <= self.latency < math.inf:
            yield f"latency must be 0 or more seconds, not {self.latency}"
        if self.after is not None and self.after < 0:
            yield f"after must be 0 or more bytes, not {self.after}"
        if self.after is not None and (self.do in ("pass", "corrupt") or self.effect):
            yield "after does not go with pass, corrupt or effect, they read the whole body"
        if self.do == "pass" and not self.latency:
            yield "does nothing: give a status, a latency, or do corrupt, cut or stall"
        if self.do == "corrupt" and self.on != "put_part":
            yield "corrupt goes with put_part only"
        if self.effect and self.do in ("pass", "corrupt"):
            yield "effect needs do answer, cut or stall"
        if self.do != "answer":
            if self.status is not None or self.headers or self.body is not None:
                yield f"status, headers and body do not go with {self.do}"
        elif self.status is None:
            yield "an answer needs a status"
        elif not _LOWEST_STATUS <= self.status <= _HIGHEST_STATUS:
            yield f"status must be {_LOWEST_STATUS} to {_HIGHEST_STATUS}, not {self.status}"

    def is_due(self, count: int) -> bool:
        """Tell whether the fault acts on its matching request number `count`."""
        if count < self.first:
            return False
        return self.times is None or count < self.first + self.times


@attrs.frozen
class Plan:
    """What to do with one request: sleep, then act on the fault if there is one."""

    latency: float
    fault: Fault | None


class Faults:
    """Count requests against faults and plan what happens to each."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self._faults: list[Fault] = []
        self._counts: list[int] = []
        for fault in faults:
            self.add(fault)

    @property
    def all(self) -> tuple[Fault, ...]:
        """The faults in the order they were added."""
        return tuple(self._faults)

    def add(self, fault: Fault) -> None:
        """Add a fault; its count begins with the next request."""
        self._faults.append(fault)
        self._counts.append(0)

    def plan(self, operation: str, part_number: int | None) -> Plan:
        """Count one request and plan for it.

        Latencies of all due faults add up; the first due fault that does more than pass decides
        the rest. Every matching fault counts the request, whether it gets to act or not.
        """
        latency = 0.0
        decisive: Fault | None = None
        for index, fault in enumerate(self._faults):
            if fault.on not in ("*", operation) or fault.part not in (None, part_number):
                continue
            self._counts[index] += 1
            if not fault.is_due(self._counts[index]):
                continue
            latency += fault.latency
            if decisive is None and fault.do != "pass":
                decisive = fault
        return Plan(latency, decisive)
