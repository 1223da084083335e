"""Rows L that are more than one upload: waits, outages, limits of the process, two clients."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import random
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from cli_tools import environment
from doubles import HeldClock, ManualClock, answer, body_length, raw_server, until
from fault_case import PART, Case
from fault_invariants import Evidence, check_invariants
from fault_play import Played, play
from fault_server import KEY, FaultServer

from nunu_async import NunuClient, RetryPolicy, ServerError, Timeouts
from nunu_async.core import codec
from nunu_async.models.builds import CompletedPart
from nunu_async.sandbox import Outcome, Sandbox
from nunu_async.upload.limits import AdaptiveLimiter
from nunu_async.upload.plan import Plan

BUILD = json.dumps({"build_id": "once", "status": "OK"}).encode()


async def test_l1_a_thousand_waits_share_their_looks() -> None:
    """Ten thousand are waited for elsewhere; here each gets its own result, and no other."""
    clock = HeldClock()
    async with (
        Sandbox(now=lambda: clock.now) as box,
        NunuClient(box.api_key, base_url=box.base_url, clock=clock) as nunu,
    ):
        over = Outcome(passed=1, run_seconds=45.0)
        ids = [
            box.add_execution(outcome=over, status="in_progress").execution_id for _ in range(1000)
        ]
        tasks = [asyncio.ensure_future(nunu.wait_for_execution(one)) for one in ids]
        looks = []
        while not all(task.done() for task in tasks):
            before = len(box.journal)
            await until(lambda: clock.asleep or all(task.done() for task in tasks))
            looks.append(len(box.journal) - before)
            if clock.asleep:
                await clock.tick()
            assert len(looks) < 60
        assert [task.result().id for task in tasks] == ids
        assert max(looks) <= 12, "ten pages of 100"
        assert box.journal.peak("api") <= 32


class Outage:
    """503 to everything, and when it was asked."""

    def __init__(self, clock: ManualClock) -> None:
        self.times: list[float] = []
        self._clock = clock

    async def exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        self.times.append(self._clock.now)
        writer.write(answer(503, b'{"error": "down"}'))


async def test_l6_an_outage_costs_each_caller_one_request_and_all_a_budget() -> None:
    clock = ManualClock()
    outage = Outage(clock)
    # All pauses move the one clock, far beyond what each call may take.
    patient = Timeouts(attempt=1e6, call=1e6)
    async with (
        raw_server(outage.exchange) as server,
        NunuClient(KEY, base_url=server.url, clock=clock, timeout=patient) as nunu,
    ):
        calls = (nunu.builds.get(f"b{number}") for number in range(1000))
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert all(type(outcome) is ServerError for outcome in outcomes)
    assert 1000 < len(outage.times) <= 1.1 * 1000
    assert sum(bool(getattr(one, "retry_budget_exhausted", False)) for one in outcomes) > 800


class Jittery(HeldClock):
    """With real chance, from a seed."""

    def __init__(self) -> None:
        super().__init__()
        self._chance = random.Random(6)

    def random(self) -> float:
        return self._chance.random()


async def test_l6_retries_come_in_no_waves() -> None:
    """All callers begin at one moment; of what follows, no 100 ms have over 3 times the mean."""
    clock = Jittery()
    outage = Outage(clock)
    policy = RetryPolicy(attempts=4, budget=None, base=2.0)
    async with (
        raw_server(outage.exchange) as server,
        NunuClient(KEY, base_url=server.url, clock=clock, retry=policy) as nunu,
    ):
        calls = [asyncio.ensure_future(nunu.builds.get(f"b{n}")) for n in range(200)]
        began = clock.now
        while not all(call.done() for call in calls):
            await until(lambda: clock.asleep == sum(not call.done() for call in calls))
            if clock.asleep:
                clock.advance(0.1)
        await asyncio.wait(calls)
    assert all(isinstance(call.exception(), ServerError) for call in calls)
    assert len(outage.times) == 200 * 4
    first = sum(at == began for at in outage.times)
    assert first == 200
    bins = Counter(round((at - began) / 0.1) for at in outage.times if at > began)
    # The first retries alone: those fall into two seconds, the mean of which is known.
    busy = [bins[number] for number in range(1, 21)]
    assert max(busy) <= 3 * sum(busy) / len(busy), bins


CHILD = """
import asyncio, json, os, resource, sys
from nunu_async import NunuClient, NunuError, RetryPolicy

async def main():
    url, folder, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    paths = sorted(os.path.join(folder, name) for name in os.listdir(folder))[:count]
    most = 0
    async def watch():
        nonlocal most
        while True:
            most = max(most, len(os.listdir("/proc/self/fd")))
            await asyncio.sleep(0.002)
    report = {}
    async with NunuClient(base_url=url) as nunu:
        sampler = asyncio.ensure_future(watch())
        results = await nunu.upload_builds(paths, platform="linux", multipart=True)
        sampler.cancel()
        report["ok"] = sum(result.ok for result in results)
        report["most"] = most
    # And with not one descriptor left: errors of ours, and nothing begun.
    spare = []
    async with NunuClient(base_url=url, retry=RetryPolicy(attempts=2, base=0.01)) as nunu:
        try:
            while True:
                spare.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            pass
        upload = nunu.upload_build(paths[0], name="n", platform="linux")
        for name, call in (("upload", upload), ("request", nunu.builds.get("build-1"))):
            try:
                report[name] = repr(await call)
            except NunuError as error:
                report[name] = f"{type(error).__name__}: {error}"
        for descriptor in spare:
            os.close(descriptor)
        report["after"] = (await nunu.builds.get("build-1")).status
    print(json.dumps(report))

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits on descriptors are POSIX's")
async def test_l7_256_descriptors_are_enough_and_none_at_all_is_an_error_of_ours(
    tmp_path: Path, clock: ManualClock
) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    for number in range(60):
        (folder / f"{number:03}.zip").write_bytes(random.Random(number).randbytes(2 * PART + 1))
    async with FaultServer(clock) as server:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", CHILD, server.url("api"), str(folder), "60"),
            env=environment({"NUNU_API_KEY": KEY, "SSL_CERT_FILE": "", "SSL_CERT_DIR": ""}),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        assert process.returncode == 0, err.decode()[-1000:]
        report = json.loads(out)
        assert (report["ok"], report["after"]) == (60, "OK")
        # Connections to both hosts, open files, and what any process has.
        assert report["most"] <= 32 + 4 + 16 + 16 + 16
        assert report["upload"].startswith("SourceError"), report
        assert "Too many open files" in report["upload"]
        assert report["request"].startswith("ConnectError"), report
        check_invariants(Evidence.of_server(server, files=60, texts={"err": err.decode()}))


def test_l9_ten_thousand_parts_are_named_in_order_and_in_time() -> None:
    """Whatever order they went up in; the body stays far below 2 MB."""
    began = time.thread_time()
    part_size = 5 * 1024 * 1024
    plan = Plan(10_000 * part_size - 1, part_size, 10_000)
    numbers = [number for batch in plan.batches(10) for number in batch]
    assert numbers == list(range(1, 10_001))
    assert sum(plan.part(number).length for number in numbers) == plan.size
    random.Random(9).shuffle(numbers)
    parts = plan.completion({n: hashlib.md5(b"%d" % n).hexdigest() for n in numbers})  # noqa: S324
    body = codec.encode({"build_id": "b", "parts": [codec.dump(part) for part in parts]})
    assert time.thread_time() - began < 2.0
    assert len(body) < 2_000_000
    assert [part["part_number"] for part in json.loads(body)["parts"]] == list(range(1, 10_001))


def test_l10_what_ten_thousand_parts_cost_the_loop() -> None:
    """Each step that the loop does in one turn; the best of three, on this thread's own time."""
    parts = [CompletedPart(part_number=n, etag=f"{n:032x}") for n in range(1, 10_001)]
    listing = json.dumps({"data": [{"build_id": f"{n}"} for n in range(10_000)]}).encode()

    def cost(deed: Any) -> float:
        best = math.inf
        for _ in range(3):
            began = time.thread_time()
            deed()
            best = min(best, time.thread_time() - began)
        return best

    dumped = [codec.dump(part) for part in parts]
    assert cost(lambda: codec.encode({"parts": dumped})) < 0.05
    assert cost(lambda: codec.parse(listing)) < 0.05


async def test_l10_hashing_is_done_on_no_thread_that_runs_a_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashing: set[int] = set()
    real = hashlib.md5

    class Noted:
        def __init__(self, **how: Any) -> None:
            self._md5 = real(**how)

        def update(self, block: bytes) -> None:
            hashing.add(threading.get_ident())
            self._md5.update(block)

        def hexdigest(self) -> str:
            return self._md5.hexdigest()

    def of_part(content: bytes = b"", **how: Any) -> Any:
        return real(content, **how) if content else Noted(**how)

    monkeypatch.setattr(hashlib, "md5", of_part)
    size = 2 * 1024 * 1024
    case = Case("L10", "hash", operation="verify", size=size, server={"part_size": size // 2})
    await play(case, tmp_path)
    assert hashing
    assert threading.get_ident() not in hashing


async def test_l11_two_clients_share_no_key_and_no_budget() -> None:
    clock = ManualClock()
    keys: dict[str, list[str]] = {"a": [], "b": []}

    def server_of(name: str, response: bytes) -> Any:
        async def exchange(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
        ) -> None:
            await reader.readexactly(body_length(head))
            lines = head.decode().split("\r\n")
            keys[name] += [x.partition(": ")[2] for x in lines if x.lower().startswith("x-api-key")]
            writer.write(response)

        return exchange

    patient = Timeouts(attempt=1e6, call=1e6)
    async with (
        raw_server(server_of("a", answer(503))) as down,
        raw_server(server_of("b", answer(503))) as other,
        NunuClient("key_of_a_0123456789", base_url=down.url, clock=clock, timeout=patient) as a,
        NunuClient("key_of_b_0123456789", base_url=other.url, clock=clock, timeout=patient) as b,
    ):
        calls = [nunu.builds.get(f"b{n}") for n in range(60) for nunu in (a, b)]
        await asyncio.gather(*calls, return_exceptions=True)
        assert a._session._traffic.budget.left < 14
        with pytest.raises(ServerError) as starved:
            await a.builds.get("x")
        assert starved.value.retry_budget_exhausted
        text = f"{vars(a)!r}{vars(b)!r}"
    assert set(keys["a"]) == {"key_of_a_0123456789"}
    assert set(keys["b"]) == {"key_of_b_0123456789"}
    assert "key_of" not in text


async def test_l11_a_budget_that_one_has_spent_is_the_other_s_still() -> None:
    clock = ManualClock()
    answers = {"/api/v1/builds/down": answer(503), "/api/v1/builds/once": answer(503)}

    async def exchange(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes
    ) -> None:
        path = head.split(b" ")[1].decode()
        writer.write(answers.get(path, answer(body=BUILD)))
        if path.endswith("once"):
            answers.pop(path, None)

    patient = Timeouts(attempt=1e6, call=1e6)
    async with (
        raw_server(exchange) as server,
        NunuClient("key_of_a_0123456789", base_url=server.url, clock=clock, timeout=patient) as a,
        NunuClient("key_of_b_0123456789", base_url=server.url, clock=clock, timeout=patient) as b,
    ):
        await asyncio.gather(*(a.builds.get("down") for _ in range(60)), return_exceptions=True)
        with pytest.raises(ServerError) as starved:
            await a.builds.get("once")
        assert starved.value.retry_budget_exhausted
        answers["/api/v1/builds/once"] = answer(503)
        assert (await b.builds.get("once")).status == "OK"


async def test_l12_no_slot_is_lost_to_ten_thousand_cancellations() -> None:
    """Cancelled before it waits, while it waits, when it is let in, and while it is in."""
    chance = random.Random(12)
    limiter = AdaptiveLimiter(7)
    inside = most = 0

    async def visit() -> None:
        nonlocal inside, most
        async with limiter:
            inside += 1
            most = max(most, inside)
            try:
                for _ in range(chance.randrange(4)):
                    await asyncio.sleep(0)
                if chance.random() < 0.1:
                    raise LookupError
            finally:
                inside -= 1

    for _ in range(100):
        tasks = [asyncio.ensure_future(visit()) for _ in range(100)]
        for task in chance.sample(tasks, 80):
            for _ in range(chance.randrange(2)):
                await asyncio.sleep(0)
            task.cancel()
        await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled():
                task.exception()
    assert (limiter.used, inside, most) == (0, 0, 7)
    assert not limiter._waiting
    async with asyncio.timeout(5):
        await asyncio.gather(*(visit() for _ in range(7)), return_exceptions=True)


async def test_l12_uploads_cancelled_at_random_leave_every_slot(tmp_path: Path) -> None:
    """Over sockets; afterwards as many parts go up at once as ever, and nothing is an orphan."""
    chance = random.Random(12)

    async def operation(nunu: NunuClient, path: Path, played: Played) -> object:
        asked = {"name": "n", "platform": "linux", "multipart": True, "concurrency": 2}
        for _ in range(10):
            tasks = [asyncio.ensure_future(nunu.upload_build(path, **asked)) for _ in range(3)]
            for task in tasks:
                for _ in range(chance.randrange(60)):
                    await asyncio.sleep(0)
                task.cancel()
            await asyncio.wait(tasks)
        limiter = nunu._uploader.context.slots
        assert (limiter.used, limiter.width) == (0, 3)
        before = len(played.server.requests)
        uploads = (nunu.upload_build(path, **asked) for _ in range(4))
        results = await asyncio.gather(*uploads)
        after = played.server.requests[before:]
        assert max(seen.in_flight for seen in after if seen.listener == "storage") <= 3
        return results

    settings = {"storage_concurrency": 3}
    case = Case("L12", "uploads", operation=operation, settings=settings, files=34)
    await play(case, tmp_path)
