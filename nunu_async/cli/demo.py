"""`nunu-async demo`: upload and test a build on this machine, without a key."""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from rich.filesize import decimal

from nunu_async.cli.display import Board
from nunu_async.cli.live import show
from nunu_async.cli.output import count, echo_err, usage_error
from nunu_async.cli.rows import span
from nunu_async.cli.standings import Standings
from nunu_async.cli.stdout import echo
from nunu_async.cli.threads import beside_the_loop
from nunu_async.cli.verdict import milliseconds, name_of, result_of
from nunu_async.client import NunuClient
from nunu_async.errors import NunuError
from nunu_async.models.builds import Build
from nunu_async.models.jobs import FinishedRun, Job
from nunu_async.sandbox import Sandbox, Script
from nunu_async.upload.job import UploadedBuild
from nunu_async.upload.source import measure

# Nine parts, the last one shorter.
_PART_SIZE = 8 * 1024 * 1024
_DEMO_SIZE = 8 * _PART_SIZE + 4_891_137
_LARGE = 1024**3
# Seconds between progress lines: the whole demo may take less than a second.
_REFRESH = 0.1
# For the two tests of the sandbox's plan; sped up, they take less than a second.
_SCRIPTS = (
    Script(queue_seconds=2.0, initialize_seconds=6.0, run_seconds=16.0),
    Script(queue_seconds=8.0, initialize_seconds=6.0, run_seconds=24.0),
)
_SPEED = 60.0
_INTERVAL = 0.05
_TIMEOUT = 30.0


class _Clock:
    """The sandbox's clock: real time until `speed_up` is called."""

    def __init__(self) -> None:
        self._speed = 1.0
        self._monotonic_base = time.monotonic()
        self._time_base = time.time()

    def __call__(self) -> float:
        return self._time_base + (time.monotonic() - self._monotonic_base) * self._speed

    def speed_up(self) -> None:
        self._time_base, self._monotonic_base = self(), time.monotonic()
        self._speed = _SPEED


async def demo(arguments: argparse.Namespace) -> int:
    """Upload a file to a sandbox in this process and test it there.

    Returns 0 only if the file arrived unchanged and every test of the plan passed on it.
    """
    if not _has_threads():
        echo_err(
            "the demo's server needs threads, and none can be started; is there a "
            "limit on processes (ulimit -u, or a container's)?"
        )
        return 1
    with tempfile.TemporaryDirectory(prefix="nunu-demo-") as folder:
        try:
            path = (
                Path(arguments.file)
                if arguments.file
                else await beside_the_loop(lambda stopped: _make_file(Path(folder), stopped))
            )
            size = await beside_the_loop(lambda _: measure(path))
        except (NunuError, OSError) as error:
            return usage_error(error)
        part_size = _PART_SIZE if size < _LARGE else 100 * 1024 * 1024
        clock = _Clock()
        storage = Path(folder) / "storage"
        async with Sandbox(directory=storage, part_size=part_size, now=clock) as box:
            await echo(f"A local nunu.ai runs at {box.base_url}; storage has an origin of its own.")
            board = Board({str(path): size}, first=_REFRESH)
            try:
                async with NunuClient(
                    box.api_key, project_id=box.project_id, base_url=box.base_url
                ) as nunu:
                    async with show(board):
                        build = await nunu.upload_build(
                            path,
                            name="demo",
                            platform="windows",  # the sandbox accepts any
                            multipart=True,
                            on_progress=board.listener(str(path)),
                        )
                    stored = await nunu.builds.get(build.build_id)
                    await _report_upload(path, build, box)
                    arrived = await _check(path, size, stored, box)
                    clock.speed_up()
                    finished = await _test(nunu, box, build.build_id)
            except NunuError as error:
                echo_err(f"the demo failed: {error}")
                return 1
    passed = await _report_tests(finished, build.build_id)
    return 0 if arrived and passed else 1


async def _check(path: Path, size: int, stored: Build, box: Sandbox) -> bool:
    """Compare the stored build with the file, and check that storage never got the API key."""
    sent = await beside_the_loop(lambda _: _sha256(path))
    received = await beside_the_loop(lambda _: box.object_sha256(stored.build_id))
    keyless = not any(
        "x-api-key" in request.headers for request in box.journal if request.origin == "storage"
    )
    await echo(f"Storage never saw the API key: {'true' if keyless else 'NOT TRUE'}.")
    same = sent == received and stored.size == size
    if same:
        await echo(f"What arrived is what was sent: SHA-256 {sent[:16]}... on both sides.")
    else:
        echo_err(f"what arrived differs: sent {sent}, found {received}")
    return same and keyless


async def _test(nunu: NunuClient, box: Sandbox, build_id: str) -> FinishedRun:
    plan = box.test_plans[0]
    box.scripts.extend(_SCRIPTS)
    await echo(f"Now its tests, those of the plan {plan.name}, on a clock that runs faster.")
    jobs = Standings[Job]("job", batch=_REFRESH)
    async with show(jobs):
        return await nunu.run_and_wait(
            deployment_config_id=box.deployment_configs[0].id,
            test_plan_id=plan.id,
            build_id=build_id,
            timeout=_TIMEOUT,
            interval=_INTERVAL,
            on_start=lambda started: jobs.expect(started.job_ids),
            on_change=jobs.note,
        )


async def _report_tests(finished: FinishedRun, build_id: str) -> bool:
    for job in finished.jobs:
        await echo(f"{name_of(job)}: {result_of(job)} after {span(milliseconds(job))}.")
    same_build = all(job.build_id == build_id for job in finished.jobs)
    if not (finished.succeeded and same_build):
        echo_err("the tests did not all pass on that build")
    return finished.succeeded and same_build


async def _report_upload(path: Path, build: UploadedBuild, box: Sandbox) -> None:
    rate = build.size / build.seconds if build.seconds else 0
    puts = box.journal.of("put_part")
    await echo(
        f"Uploaded {path.name}: {decimal(build.size)} in {count(build.parts, 'part')}, "
        f"{build.seconds:.2f} s ({decimal(int(rate))}/s)."
    )
    await echo(
        f"{count(len(puts), 'PUT')} to storage, at most {box.journal.peak('storage')} at once; "
        f"{len(box.journal) - len(puts)} requests to the API."
    )
    await echo(f"Build {build.build_id} is complete.")


def _has_threads() -> bool:
    try:
        threading.Thread(target=lambda: None).start()
    except RuntimeError:
        return False
    return True


def _make_file(folder: Path, stopped: Callable[[], bool]) -> Path:
    path = folder / "demo-build.zip"
    with path.open("wb") as file:
        remaining = _DEMO_SIZE
        while remaining and not stopped():
            remaining -= file.write(os.urandom(min(remaining, 1024 * 1024)))
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
