"""Define faults and select the requests to inject them into."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Literal, get_args

import attrs

from nunu_async.sandbox.operations import OPERATIONS

_KNOWN = sorted([*OPERATIONS, "put_part"])

Action = Literal["pass", "answer", "corrupt", "cut", "stall"]

_ACTIONS = get_args(Action)
_LOWEST_STATUS = 200  # 1xx is not a final response
_HIGHEST_STATUS = 599


def _default_action(fault: "Fault") -> Action:
    return "pass" if fault.status is None else "answer"


@attrs.frozen(kw_only=True)
class Fault:
    """Inject a fault into some requests of one operation.

    Requests that match `on` and `part` are counted per fault, from 1. The fault applies to requests
    `first` to `first + times - 1`, or to every request from `first` on if `times` is None.

    Args:
        on: an operation: initiate_upload, get_upload_parts, put_part, complete_upload,
            cancel_upload, get_build, list_runs, start_run, get_run, list_run_bugs, stop_runs,
            list_test_plan_executions, list_jobs, get_job; or `*` for every request, even if
            it matches no operation.
        part: match only the PUT of this part; a single-part upload has part 1 only.
        first, times: select among the matching requests, see above.
        latency: seconds to sleep before anything else.
        after: bytes of the request body to read before acting; None reads none.
        do: `answer` with `status`, `headers` and `body`; `cut` resets the connection; `stall`
            stops reading and never responds; `corrupt` flips a bit of a part's first byte and
            handles the request as usual, so that the stored bytes and their ETag differ from the
            data sent; `pass` handles the request as usual after the latency.
            The default is `answer` if `status` is set, otherwise `pass`.
        body: None sends the origin's default error body; a mapping is sent as JSON.
        effect: handle the request before the fault, so that only its response is lost.

    Raises: ValueError when the fields contradict each other or can match no request.
    """

    on: str
    part: int | None = None
    first: int = 1
    times: int | None = 1
    latency: float = 0.0
    after: int | None = None
    status: int | None = None
    do: Action = attrs.field(default=attrs.Factory(_default_action, takes_self=True))
    headers: Mapping[str, str] = attrs.field(factory=dict, hash=False)
    body: str | bytes | Mapping[str, object] | None = attrs.field(default=None, hash=False)
    effect: bool = False

    def __attrs_post_init__(self) -> None:
        for problem in chain(self._target_problems(), self._action_problems()):
            raise ValueError(f"fault on {self.on!r}: {problem}")

    def _target_problems(self) -> Iterator[str]:
        if self.on != "*" and self.on not in _KNOWN:
            yield f"unknown operation, known are * and {', '.join(_KNOWN)}"
        if self.part is not None and self.part < 1:
            yield f"part must be at least 1, not {self.part}"
        if self.part is not None and self.on not in ("put_part", "*"):
            yield "part belongs to put_part only"
        if self.first < 1:
            yield f"first must be at least 1, not {self.first}"
        if self.times is not None and self.times < 1:
            yield f"times must be at least 1 or None, not {self.times}"

    def _action_problems(self) -> Iterator[str]:  # noqa: C901 - a list of contradictions
        if self.do not in _ACTIONS:
            yield f"do must be one of {', '.join(_ACTIONS)}, not {self.do!r}"
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
        """Return whether the fault applies to the matching request number `count`."""
        if count < self.first:
            return False
        return self.times is None or count < self.first + self.times


@attrs.frozen
class Plan:
    """The handling of one request: sleep, then apply the fault, if any."""

    latency: float
    fault: Fault | None


class Faults:
    """Counts requests per fault, and decides which faults apply to each request."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self._faults = list(faults)
        self._counts: Counter[int] = Counter()

    @property
    def all(self) -> tuple[Fault, ...]:
        """The faults in the order they were added."""
        return tuple(self._faults)

    def add(self, fault: Fault) -> None:
        """Add a fault; its count begins with the next request."""
        self._faults.append(fault)

    def plan(self, operation: str, part_number: int | None) -> Plan:
        """Count one request and return how to handle it.

        The latencies of all due faults add up, but only the first due fault other than `pass` is
        applied. Every matching fault counts the request, even if that fault is not applied.
        """
        latency = 0.0
        applied: Fault | None = None
        for index, fault in enumerate(self._faults):
            if fault.on not in ("*", operation) or fault.part not in (None, part_number):
                continue
            self._counts[index] += 1
            if not fault.is_due(self._counts[index]):
                continue
            latency += fault.latency
            if applied is None and fault.do != "pass":
                applied = fault
        return Plan(latency, applied)
