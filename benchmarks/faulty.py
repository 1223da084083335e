"""A sandbox in a process of its own that fails by chance and keeps count of what it was asked.

Nothing in it grows with the time it runs but the runs that were started: requests are counted
and not kept, builds are compared and then forgotten.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any
from weakref import WeakSet

import attrs

from nunu_async.sandbox import Fault, Journal, Sandbox, Script, Seen
from nunu_async.sandbox.builds import BuildStore, Upload
from nunu_async.sandbox.faults import Faults, Plan
from nunu_async.sandbox.signing import address

SPAWN = multiprocessing.get_context("spawn")

# Longer than any attempt of the client lasts, but for a complete: it gives up, and then the
# sandbox does it all the same.
SLOW = 4.0
# No client asks for a build so long after its end.
MEMORY = 90.0
KiB = 1024

_LATER = {"Retry-After": "1"}
_OTHER_ETAG = {"ETag": '"0123456789abcdef0123456789abcdef"'}
_BUILD = re.compile(r"/builds/(?:upload\?.*\bbuild_id=)?([0-9a-f]{8}(?:-[0-9a-f]{4,12}){4})")

# What may happen to any request, and how often beside the others.
_ANY = (
    (3, "503", Fault(on="*", status=503)),
    (1, "503, later", Fault(on="*", status=503, headers=_LATER)),
    (1, "429, later", Fault(on="*", status=429, headers=_LATER)),
    (2, "500", Fault(on="*", status=500)),
    (3, "cut before", Fault(on="*", do="cut")),
    (3, "cut after", Fault(on="*", do="cut", effect=True)),
    (2, "502 after", Fault(on="*", status=502, effect=True)),
    (1, "stall", Fault(on="*", latency=SLOW)),
)
_PART = (
    *_ANY,
    (2, "cut amid", Fault(on="put_part", do="cut", after=16 * KiB)),
    (2, "expired", Fault(on="put_part", status=403)),
    (2, "early 503", Fault(on="put_part", status=503, after=KiB)),
)
# Storage's word is all that there is of a part that was sent unverified and arrived whole.
_VERIFIED_PART = (
    *_PART,
    (3, "corrupt", Fault(on="put_part", do="corrupt")),
    (3, "early 200", Fault(on="put_part", status=200, headers=_OTHER_ETAG, after=KiB)),
)


@attrs.frozen(kw_only=True)
class Setup:
    """How the sandbox is to be.

    Attributes:
        seed: decides which requests fail, and how.
        share: of all requests that fail.
        part_size: bytes.
        only: one kind of fault; None takes all.
    """

    seed: int = 1
    share: float = 0.0
    part_size: int = 256 * KiB
    only: str | None = None


@attrs.define
class Entry:
    """What the ledger knows of one upload."""

    upload: Upload
    began: float
    is_excused: bool = False
    """The answer to its initiate was lost, and with it all that the client could have known."""
    parts: set[int] = attrs.field(factory=set)
    is_complete: bool = False
    was_asked: bool = False
    """Whether the client asked for the build since the last request to complete it."""
    ended: float | None = None

    @property
    def is_orphan(self) -> bool:
        """Whether it was never ended, though the client knows of it."""
        return self.upload.state in ("uploading", "expired") and not self.is_excused


class Ledger(Journal):
    """Counts requests instead of keeping them, and holds each against what must never be."""

    def __init__(self) -> None:
        super().__init__()
        self.builds: BuildStore
        self.box: Sandbox
        self.entries: dict[str, Entry] = {}
        self.latest: Seen
        self._excused: WeakSet[Seen] = WeakSet()
        self.counts: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.most_parts = 0
        self.unwanted: list[str] = []
        self.expired: list[str] = []
        """Orphans whose time was over; few, or it is all over anyway."""

    def arrive(self, seen: Seen, transport: asyncio.BaseTransport | None) -> None:
        """Count a request, and look at what its first line tells."""
        super().arrive(seen, transport)
        self._seen.clear()
        self.latest = seen
        self.requests[seen.operation] += 1
        if seen.operation == "put_part":
            self.most_parts = max(self.most_parts, seen.in_flight)
            self._part(seen)
        elif found := _BUILD.search(seen.target):
            entry = self._entry(found[1])
            if entry is not None and seen.operation == "get_build":
                entry.was_asked = True
            if entry is not None and seen.operation == "cancel_upload":
                is_built = entry.upload.is_sealed or entry.upload.state == "completed"
                self._must_not("deleted_when_complete", is_built, entry)

    def _part(self, seen: Seen) -> None:
        self.counts["key_at_storage"] += "X-Api-Key" in seen.headers
        place = address(seen.target)
        entry = None if place is None else self._entry(place.object_key.split("/")[1])
        if entry is not None and place is not None:
            entry.parts.add(place.part_number)
            # Not the client's doing: bytes that lie in a socket are read after a reset as before.
            self.counts["parts_read_late"] += entry.upload.state == "cancelled"

    def excuse(self, fault: Fault) -> None:
        """Take note that the latest request will not be answered as it should."""
        if self.latest.operation == "complete_upload" and not fault.effect:
            self.counts["completes_spoiled"] += 1
        if fault.effect or fault.latency >= SLOW:
            self._excused.add(self.latest)

    def settle(self, seen: Seen, outcome: Any, status: int | None = None) -> None:  # noqa: ANN401 - as the base takes it
        """Take note of how a request ended."""
        super().settle(seen, outcome, status)
        entry = None if seen.build_id is None else self._entry(seen.build_id)
        if entry is None:
            return
        if seen.operation == "initiate_upload" and seen in self._excused:
            entry.is_excused = True
        if seen.operation == "complete_upload" and entry.upload.state == "completed":
            self._completed(entry)

    def _completed(self, entry: Entry) -> None:
        if entry.is_complete:
            self.counts["completes_repeated"] += 1
            self._must_not("completes_repeated_unasked", not entry.was_asked, entry)
        else:
            entry.is_complete = True
            self.counts["completed"] += 1
            found = self.box.object_sha256(entry.upload.build_id)
            self._must_not("mixed", found.upper() != entry.upload.name, entry)
        entry.was_asked = False

    def _entry(self, build_id: str) -> Entry | None:
        entry = self.entries.get(build_id)
        if entry is None and (upload := self.builds.uploads.get(build_id)) is not None:
            entry = self.entries[build_id] = Entry(upload, time.monotonic())
        return entry

    def _must_not(self, what: str, happened: bool, entry: Entry) -> None:  # noqa: FBT001 - the one column of a table
        self.counts[what] += happened
        if happened and len(self.unwanted) < 10:
            self.unwanted.append(f"{what}: build {entry.upload.build_id}")

    def forget(self) -> list[str]:
        """Forget the uploads that ended long ago; return those whose bytes are not needed now."""
        now = time.monotonic()
        ended = []
        for build_id, entry in list(self.entries.items()):
            if entry.upload.state == "uploading" and not entry.is_excused:
                continue
            if entry.ended is None:
                entry.ended = now
                ended.append(build_id)
            elif now - entry.ended > MEMORY:
                self._close(entry)
                if entry.is_orphan:
                    self.expired.append(build_id)
                del self.entries[build_id], self.builds.uploads[build_id]
        return ended

    def _close(self, entry: Entry) -> None:
        self.counts["parts_meant"] += len(entry.parts)
        self.counts[f"ended_{entry.upload.state}"] += 1

    def report(self) -> dict[str, Any]:
        """Tell all of it."""
        for upload in self.builds.uploads.values():
            self._entry(upload.build_id)
        so_far = self.counts.copy()
        for entry in self.entries.values():
            self._close(entry)
        counts = self.counts
        self.counts = so_far
        orphans = [e.upload.build_id for e in self.entries.values() if e.is_orphan]
        return {
            "requests": dict(self.requests),
            "faults": dict(self.faults),
            "most_parts": self.most_parts,
            "orphans": self.expired + orphans,
            "unwanted": self.unwanted,
            **counts,
        }


class Chance(Faults):
    """Fails a share of all requests, each in a way that it can fail."""

    def __init__(self, setup: Setup, ledger: Ledger) -> None:
        super().__init__()
        self.share = setup.share
        self.part_latency = 0.0
        self._only = setup.only
        self._ledger = ledger
        self._chance = random.Random(setup.seed)  # noqa: S311 - which requests fail is no secret

    def plan(self, operation: str, part_number: int | None) -> Plan:
        """Decide about one request, which is the latest of the ledger."""
        del part_number
        latency = self.part_latency if operation == "put_part" else 0.0
        if self._chance.random() >= self.share:
            return Plan(latency, None)
        kinds = self._kinds(operation)
        (at,) = self._chance.choices(range(len(kinds)), [weight for weight, _, _ in kinds])
        _, name, fault = kinds[at]
        self._ledger.faults[name] += 1
        self._ledger.excuse(fault)
        return Plan(latency + fault.latency, None if fault.do == "pass" else fault)

    def _kinds(self, operation: str) -> tuple[tuple[int, str, Fault], ...]:
        kinds: tuple[tuple[int, str, Fault], ...] = _ANY
        if operation == "put_part":
            place = address(self._ledger.latest.target)
            build_id = "" if place is None else place.object_key.split("/")[1]
            upload = self._ledger.builds.uploads.get(build_id)
            is_verified = upload is not None and "verify" in upload.request.get("tags", ())
            kinds = _VERIFIED_PART if is_verified else _PART
        if self._only is None:
            return kinds
        return tuple(kind for kind in kinds if kind[1] == self._only)


def serve(setup: Setup, pipe: Connection) -> None:
    """Run the sandbox until the pipe is closed: the target of its process."""
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(setup, pipe))


async def _serve(setup: Setup, pipe: Connection) -> None:
    script = Script(queue_seconds=0.3, initialize_seconds=0.2, run_seconds=3.0, cleanup_seconds=0.2)
    box = Sandbox(part_size=setup.part_size, script=script)
    ledger = Ledger()
    chance = Chance(setup, ledger)
    # Chance is nothing that a test would want from a sandbox, so it takes none.
    box.journal, box._faults = ledger, chance  # noqa: SLF001 - see above
    ledger.box, ledger.builds = box, box._project.builds  # noqa: SLF001 - see above
    for number in range(200):
        box.add_run(created=time.time() - 86_400 + number)
    loop = asyncio.get_running_loop()
    closed = loop.create_future()

    def asked() -> None:
        try:
            word, value = pipe.recv()
            if word == "set":
                chance.share, chance.part_latency = value
                ledger.most_parts = 0
            pipe.send(ledger.report() if word == "report" else None)
        except (EOFError, OSError):
            loop.remove_reader(pipe.fileno())
            closed.set_result(None)

    async with box:
        pipe.send(
            {
                "api_key": box.api_key,
                "base_url": box.base_url,
                "config": box.deployment_configs[0].id,
                "test": box.tests[0].id,
                "plan": box.test_plans[0].id,
            }
        )
        loop.add_reader(pipe.fileno(), asked)
        while not closed.done():
            await asyncio.wait({closed}, timeout=1.0)
            await box._project.objects.delete(ledger.forget())  # noqa: SLF001 - see above


@attrs.frozen
class Server:
    """The sandbox, as its owner sees it."""

    details: dict[str, str]
    _pipe: Connection

    def set(self, *, share: float = 0.0, part_latency: float = 0.0) -> None:
        """Fail another share of the requests from now on; the most parts at once start anew."""
        self._ask("set", (share, part_latency))

    def report(self) -> dict[str, Any]:
        """Return what the sandbox has counted."""
        report: dict[str, Any] = self._ask("report", None)
        return report

    def _ask(self, word: str, value: object) -> Any:  # noqa: ANN401 - what was asked for
        self._pipe.send((word, value))
        if not self._pipe.poll(30):
            raise SystemExit("the sandbox does not answer any more")
        return self._pipe.recv()


@contextlib.contextmanager
def faulty_sandbox(setup: Setup) -> Iterator[Server]:
    """Run a sandbox in a process of its own."""
    ours, its = SPAWN.Pipe()
    process = SPAWN.Process(target=serve, args=(setup, its), daemon=True)
    process.start()
    its.close()
    try:
        yield Server(ours.recv(), ours)
    finally:
        ours.close()
        process.join(10)
        process.kill()
        process.join()
