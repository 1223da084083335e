"""The one function that judges what happened, whatever the case: I1 to I11.

It reads `Evidence`, which is made of a fault server or of a sandbox, so that other tests can have
their uploads judged alike::

    check_invariants(Evidence.of_sandbox(box, content=path.read_bytes()))

I1  every build that was begun ends completed or cancelled
I2  no build is completed twice, and none is begun twice for one file
I3  no DELETE after a complete that took effect, nor while one is unsettled
I4  what was completed is the file, byte for byte
I5  no key, Authorization or Cookie at storage or at a foreign host
I6  nothing secret in logs, errors, warnings or reprs
I7  no task, thread, descriptor or connection is left, and nothing complains of being forgotten
I8  requests, pauses and time keep within what the policy allows
I9  no byte of a part can arrive after the DELETE
I10 no hook of another library sees a secret
I11 no text of the server is a command to a terminal or a CI runner once it is made harmless
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Literal

import attrs
from disclosed import OBEYED
from fault_server import FaultServer

from nunu_async import RetryPolicy
from nunu_async.sandbox import Sandbox

__all__ = ["Evidence", "RequestSeen", "UploadSeen", "check_invariants", "problems_of"]

_CREDENTIALS = ("x-api-key", "authorization", "cookie")
_RESIGNS = 3
# A pause asked for by the server may be lengthened by a quarter, and held back by as much again.
_STRETCH = 1.5
IN_PROGRESS = (409, 423, 425)
MOST_BUSY = 60
MOST_CANCELS = 12


@attrs.frozen(kw_only=True)
class RequestSeen:
    """One request, as any of the servers tells of it."""

    origin: Literal["api", "storage", "foreign"]
    operation: str
    build_id: str | None
    part_number: int | None
    headers: Collection[str]
    """Names, in lower case."""
    status: int | None
    """None for one that got no answer."""
    effect: bool
    arrived: int
    ended: int
    """`arrived` and `ended` are moments of one count."""
    alive_puts: int = 0
    """Of a DELETE: parts of its build that could still have sent bytes at its arrival."""


@attrs.frozen(kw_only=True)
class UploadSeen:
    """One build that was begun."""

    build_id: str
    state: str
    completions: int
    sha256: str | None
    """Of the object, once there is one."""


@attrs.define(kw_only=True)
class Evidence:
    """All that is known of a case when it is over.

    Attributes:
        content: what each completed build has to be; None is not compared.
        files: how many different files were to be uploaded.
        secrets: what must not be in `texts`.
        texts: logs, errors, reprs, ..., each with a name.
        hooked: what hooks on all aiohttp sessions of the process saw.
        printed: errors, as a command prints them.
        left: what of the client is still there, each with a name; has to be empty.
        policy: how often a request may be made; None is not judged.
        sleeps: the pauses that were made, in seconds.
        longest: seconds that the case may have lasted on its clock.
        allowed: invariants that the case may break, each with the reason.
    """

    requests: Sequence[RequestSeen]
    uploads: Sequence[UploadSeen]
    content: bytes | None = None
    files: int = 1
    secrets: Collection[str] = ()
    texts: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    hooked: str = ""
    printed: str = ""
    left: Sequence[str] = ()
    policy: RetryPolicy | None = None
    sleeps: Sequence[float] = ()
    seconds: float = 0.0
    longest: float | None = None
    calls: int = 1
    """How often the operation was called."""
    allowed: Mapping[str, str] = attrs.field(factory=dict)

    @classmethod
    def of_server(cls, server: FaultServer, **more: object) -> Evidence:
        """Take the ledger of a fault server."""
        requests = [
            RequestSeen(
                origin=_origin(seen.listener),
                operation=seen.operation,
                build_id=seen.build_id,
                part_number=seen.part_number,
                headers={name.lower() for name, _ in seen.headers},
                status=seen.status,
                effect=seen.effect,
                arrived=seen.arrived,
                ended=seen.ended or 2**62,
                alive_puts=len(seen.alive_puts),
            )
            for seen in server.requests
        ]
        uploads = [
            UploadSeen(
                build_id=build.build_id,
                state=build.state,
                completions=build.completions,
                sha256=build.sha256 if build.state == "completed" else None,
            )
            for build in server.builds.values()
        ]
        fields = {"requests": requests, "uploads": uploads, "secrets": set(server.secrets)} | more
        return cls(**fields)  # type: ignore[arg-type] - the fields above

    @classmethod
    def of_sandbox(cls, box: Sandbox, **more: object) -> Evidence:
        """Take the ledger of a sandbox, whose journal has no moments but the order of arrivals.

        So I9 is judged by parts that arrived and were taken after a DELETE alone.
        """
        completed = {b.build_id for b in box.uploads.values() if b.state == "completed"}
        requests = [
            RequestSeen(
                origin="api" if seen.origin == "api" else "storage",
                operation=seen.operation,
                build_id=seen.build_id,
                part_number=seen.part_number,
                headers={name.lower() for name in seen.headers},
                status=seen.status if seen.outcome == "answered" else None,
                effect=seen.build_id is not None
                and (
                    seen.operation == "initiate_upload"
                    or (seen.operation == "complete_upload" and seen.build_id in completed)
                ),
                arrived=2 * seen.number,
                ended=2 * seen.number + 1,
            )
            for seen in box.journal
        ]
        uploads = [
            UploadSeen(
                build_id=upload.build_id,
                state=upload.state,
                completions=int(upload.build_id in completed),
                sha256=box.object_sha256(upload.build_id) if upload.is_stored else None,
            )
            for upload in box.uploads.values()
        ]
        secrets = {box.api_key, "X-Amz-Signature="}
        secrets |= {upload.upload_id for upload in box.uploads.values() if upload.upload_id}
        fields = {"requests": requests, "uploads": uploads, "secrets": secrets} | more
        return cls(**fields)  # type: ignore[arg-type] - the fields above

    def of(self, operation: str, build_id: str | None = None) -> list[RequestSeen]:
        """List the requests of an operation, of one build only if that is given."""
        return [
            seen
            for seen in self.requests
            if seen.operation == operation and build_id in (None, seen.build_id)
        ]


def check_invariants(evidence: Evidence) -> None:
    """Fail with all that is wrong, unless the case allows for it."""
    found = [
        problem for problem in problems_of(evidence) if problem.split()[0] not in evidence.allowed
    ]
    assert not found, "\n".join(found)


def problems_of(evidence: Evidence) -> Iterator[str]:
    """Yield a line for each breach, which begins with the name of the invariant."""
    yield from _orphans(evidence)
    yield from _doubles(evidence)
    yield from _losses(evidence)
    yield from _differences(evidence)
    yield from _credentials(evidence)
    yield from _secrets(evidence)
    yield from (f"I7 left: {leftover}" for leftover in evidence.left)
    yield from _excesses(evidence)
    yield from _late_bytes(evidence)
    yield from (f"I10 a hook saw {one}" for one in evidence.secrets if one in evidence.hooked)
    if found := OBEYED.search(evidence.printed):
        yield f"I11 a command was printed: {found[0]!r}"


def _origin(listener: str) -> Literal["api", "storage", "foreign"]:
    if listener == "api":
        return "api"
    return "foreign" if listener == "foreign" else "storage"


def _orphans(evidence: Evidence) -> Iterator[str]:
    for upload in evidence.uploads:
        cancels = evidence.of("cancel_upload", upload.build_id)
        if upload.state == "expired" and cancels:
            continue  # gone already when the client cancelled it
        if upload.state not in {"completed", "cancelled"}:
            yield f"I1 build {upload.build_id} was left {upload.state}"


def _doubles(evidence: Evidence) -> Iterator[str]:
    for upload in evidence.uploads:
        if upload.completions > 1:
            yield f"I2 build {upload.build_id} was completed {upload.completions} times"
    begun = sum(seen.effect for seen in evidence.of("initiate_upload"))
    if begun > evidence.files:
        yield f"I2 {begun} builds were begun for {evidence.files} files"


def _losses(evidence: Evidence) -> Iterator[str]:
    for delete in evidence.of("cancel_upload"):
        completes = [
            seen
            for seen in evidence.of("complete_upload", delete.build_id)
            if seen.arrived < delete.arrived
        ]
        if any(seen.effect for seen in completes):
            yield f"I3 build {delete.build_id} was deleted after it was complete"
        if not completes:
            continue
        last = max(completes, key=lambda seen: seen.arrived)
        answered = last.status is not None and last.ended < delete.arrived
        if answered and last.status is not None and 400 <= last.status < 500:
            continue
        looks = [
            seen
            for seen in evidence.of("get_build", delete.build_id)
            if last.arrived < seen.arrived and seen.ended < delete.arrived
        ]
        if not any(seen.status in {200, 404} for seen in looks):
            yield f"I3 build {delete.build_id} was deleted while its complete was unsettled"


def _differences(evidence: Evidence) -> Iterator[str]:
    if evidence.content is None:
        return
    right = hashlib.sha256(evidence.content).hexdigest()
    for upload in evidence.uploads:
        if upload.sha256 not in (None, right):
            yield f"I4 build {upload.build_id} is not the file"


def _credentials(evidence: Evidence) -> Iterator[str]:
    for seen in evidence.requests:
        if seen.origin != "api":
            for name in _CREDENTIALS:
                if name in seen.headers:
                    yield f"I5 {name} was sent to {seen.origin} with {seen.operation}"


def _secrets(evidence: Evidence) -> Iterator[str]:
    for name, text in evidence.texts.items():
        for secret in evidence.secrets:
            at = text.find(secret)
            if at >= 0:
                yield f"I6 secret in {name}: ...{text[max(0, at - 200) : at + 60]}..."


def _excesses(evidence: Evidence) -> Iterator[str]:
    policy = evidence.policy
    if policy is None:
        return
    calls = evidence.calls
    api = policy.attempts * calls
    # "In progress" is repeated for as long as completing may take, and a DELETE for as long as
    # cleaning up may; both with pauses that grow.
    busy = sum(seen.status in IN_PROGRESS for seen in evidence.of("complete_upload"))
    most = dict.fromkeys(("initiate_upload", "start_run"), api * evidence.files)
    most["complete_upload"] = api * evidence.files + min(busy, MOST_BUSY * evidence.files)
    most["cancel_upload"] = max(api, MOST_CANCELS) * evidence.files
    for operation, allowed in most.items():
        made = len(evidence.of(operation))
        if made > allowed:
            yield f"I8 {made} requests of {operation}"
    parts: dict[tuple[str | None, int | None], int] = {}
    for seen in evidence.of("put_part"):
        which = seen.build_id, seen.part_number
        parts[which] = parts.get(which, 0) + 1
    for (build_id, number), made in parts.items():
        if made > (policy.part_attempts + _RESIGNS) * calls:
            yield f"I8 part {number} of {build_id} was sent {made} times"
    longest = max(policy.cap, policy.max_retry_after * _STRETCH)
    for pause in evidence.sleeps:
        if not 0 <= pause <= longest:
            yield f"I8 a pause of {pause} seconds"
    if evidence.longest is not None and evidence.seconds > evidence.longest:
        yield f"I8 it took {evidence.seconds:.1f} seconds, over {evidence.longest:g}"


def _late_bytes(evidence: Evidence) -> Iterator[str]:
    for delete in evidence.of("cancel_upload"):
        if delete.alive_puts:
            yield f"I9 {delete.alive_puts} parts could still send when the DELETE came"
        if not delete.effect and delete.status != 200:
            continue
        for put in evidence.of("put_part", delete.build_id):
            if put.arrived > delete.arrived and (put.effect or put.status == 200):
                yield f"I9 part {put.part_number} was taken after the DELETE"
