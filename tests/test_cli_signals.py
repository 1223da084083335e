"""Ctrl-C and SIGTERM: what was begun is cancelled on the server before the process ends."""

import asyncio
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cli_tools import SOON, Running, environment, listing, make, started, until
from doubles import Gate
from uploads import stalled, states

from nunu_async.sandbox import Fault, Sandbox, Script

ENDING = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
if sys.platform == "win32":
    ENDING.append((signal.SIGBREAK, 149))
needs_sh = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no sh")
STALL = Fault(on="put_part", times=None, do="stall")
ONE = ["upload", "game.zip", "--name", "N", "--platform", "linux", "--multipart", "--json"]


def cancelled(box: Sandbox) -> list[str | None]:
    """Give the uploads that the server was asked to cancel, and agreed to."""
    return [seen.build_id for seen in box.journal.of("cancel_upload") if seen.status == 200]


async def interrupt(running: Running, which: signal.Signals = signal.SIGINT) -> None:
    """Send the signal and wait until the command says that it has it."""
    running.send_signal(which)
    await running.says("stopping")


# As on Windows; read by each new interpreter that finds it.
WITHOUT_HANDLERS = """
import asyncio
from asyncio.unix_events import _UnixSelectorEventLoop
_UnixSelectorEventLoop.add_signal_handler = asyncio.AbstractEventLoop.add_signal_handler
"""


# Windows has the second kind alone.
@pytest.fixture(params=["of the loop", "of the process"][sys.platform == "win32" :])
def handlers(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """Return the environment of a command whose loop handles signals, or cannot."""
    if request.param == "of the loop" or sys.platform == "win32":
        return {}
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(WITHOUT_HANDLERS)
    return {"PYTHONPATH": os.pathsep.join((str(folder), environment()["PYTHONPATH"]))}


@pytest.mark.parametrize(("which", "code"), ENDING)
@pytest.mark.parametrize("kind", ["--multipart", "--single-part"])
async def test_a_signal_cancels_the_upload(
    tmp_path: Path, which: signal.Signals, code: int, kind: str, handlers: dict[str, str]
) -> None:
    make(tmp_path, "game.apk", size=5_000_000)
    said = ["upload", "game.apk", "--name", "N", kind]
    async with (
        Sandbox(part_size=1_000_000, faults=[STALL]) as box,
        started(*said, env=box.environment | handlers, cwd=tmp_path) as running,
    ):
        await until(lambda: stalled(box) == (4 if kind == "--multipart" else 1))
        running.send_signal(which)
        ran = await running.end(within=SOON)
        assert ran.code == code
        assert ran.out == ""
        ran.tells("stopping", "game.apk", "cancelled")
        (build_id,) = box.uploads
        last = box.journal[-1]
        assert (last.operation, last.build_id, last.status) == ("cancel_upload", build_id, 200)
        assert cancelled(box) == [build_id]
        assert states(box) == ["cancelled"]
        assert not box.journal.of("complete_upload")


@pytest.mark.parametrize(("which", "code"), ENDING)
async def test_more_signals_during_the_clean_up_change_nothing(
    tmp_path: Path, which: signal.Signals, code: int, handlers: dict[str, str]
) -> None:
    make(tmp_path, "game.zip", size=3000)
    gate = Gate()
    async with (
        Sandbox(
            part_size=1000,
            faults=[STALL, Fault(on="cancel_upload", latency=1.0)],
            sleep=gate.sleep,
        ) as box,
        started(*ONE, env=box.environment | handlers, cwd=tmp_path) as running,
    ):
        await until(lambda: stalled(box) == 3)
        await interrupt(running, which)
        async with asyncio.timeout(SOON):
            await gate.reached.wait()
        running.send_signal(which)
        await running.says("still stopping")
        running.send_signal(signal.SIGINT)
        await running.says("still stopping", times=2)
        running.send_signal(signal.SIGTERM)
        await running.says("still stopping", times=3)
        assert running.process.returncode is None
        gate.open()
        ran = await running.end(within=SOON)
        # The first signal is the one that counts.
        assert ran.code == code
        assert ran.report["builds"] == []
        (failure,) = ran.report["failed"]
        assert (failure["file"], failure["error"]) == ("game.zip", "CancelledError")
        assert cancelled(box) == list(box.uploads)
        assert states(box) == ["cancelled"]


# As `nohup` starts a command, and as `sh -c 'command &'` does.
IGNORING = ("sh", "-c", """trap '' HUP INT; exec "$0" "$@\"""")


@needs_sh
async def test_a_signal_that_was_ignored_at_the_start_stays_ignored(tmp_path: Path) -> None:
    make(tmp_path, "game.zip", size=3000)
    gate = Gate()
    async with (
        Sandbox(
            part_size=1000, faults=[Fault(on="complete_upload", latency=1.0)], sleep=gate.sleep
        ) as box,
        started(*ONE, env=box.environment, cwd=tmp_path, wrapper=IGNORING) as running,
    ):
        async with asyncio.timeout(SOON):
            await gate.reached.wait()
        running.send_signal(signal.SIGHUP)
        running.send_signal(signal.SIGINT)
        gate.open()
        ran = await running.end(within=SOON)
        assert (ran.code, ran.err) == (0, "")
        assert states(box) == ["completed"]


@needs_sh
async def test_one_that_was_not_ignored_still_ends_it(tmp_path: Path) -> None:
    make(tmp_path, "game.zip", size=3000)
    async with (
        Sandbox(part_size=1000, faults=[STALL]) as box,
        started(*ONE, env=box.environment, cwd=tmp_path, wrapper=IGNORING) as running,
    ):
        await until(lambda: stalled(box) == 3)
        running.send_signal(signal.SIGHUP)
        running.send_signal(signal.SIGTERM)
        ran = await running.end(within=SOON)
        assert ran.code == 143
        assert states(box) == ["cancelled"]


@needs_sh
@pytest.mark.parametrize("said", ["sandbox", "wait run RUN", "ci game.zip --name N CONFIG"])
async def test_every_command_leaves_an_ignored_signal_alone(tmp_path: Path, said: str) -> None:
    make(tmp_path, "game.zip")
    async with Sandbox(faults=[Fault(on="put_part", times=None, do="stall")]) as box:
        run_id = box.add_run(script=Script(run_seconds=math.inf), state="RUNNING").run_id
        values = {
            "RUN": [run_id],
            "CONFIG": [
                *("--platform", "linux", "--test", box.tests[0].id),
                *("--deployment-config", box.deployment_configs[0].id),
            ],
        }
        words = [word for one in said.split() for word in values.get(one, [one])]
        env = {} if said == "sandbox" else box.environment  # which prints its own
        async with started(*words, env=env, cwd=tmp_path, wrapper=IGNORING) as running:
            if said == "sandbox":
                await running.says("Ctrl-C")
            else:
                await until(lambda: len(box.journal))
            running.send_signal(signal.SIGHUP)
            running.send_signal(signal.SIGINT)
            running.send_signal(signal.SIGTERM)
            ran = await running.end(within=SOON)
            assert ran.code == (0 if said == "sandbox" else 143)


HOST = """
import signal, sys
mine = lambda *_: None
signal.signal(signal.SIGTERM, mine)
from nunu_async.cli import main
assert main(["uploads", "list"]) == 0
assert signal.getsignal(signal.SIGTERM) is mine
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
"""


def test_a_program_gets_its_own_handlers_back(tmp_path: Path) -> None:
    state = {"NUNU_STATE_DIR": str(tmp_path)}
    done = subprocess.run(  # noqa: S603 - this interpreter, and code from this file
        [sys.executable, "-c", HOST], env=environment(state), check=False
    )
    assert done.returncode == 0


async def test_begun_files_are_cancelled_and_others_never_begin(
    tmp_path: Path,
) -> None:
    files = [path.name for path in make(tmp_path, "a.apk", "b.apk", "c.apk", "d.apk", "e.apk")]
    said = ["upload", *files, "--name", "N", "--concurrency", "3", "--json"]
    async with (
        # The first PUT passes, so one file goes up and a fourth is begun.
        Sandbox(faults=[Fault(on="put_part", first=2, times=None, do="stall")]) as box,
        started(*said, env=box.environment, cwd=tmp_path) as running,
    ):
        await until(lambda: stalled(box) == 3)
        running.send_signal(signal.SIGINT)
        ran = await running.end(within=SOON)
        assert ran.code == 130
        assert sorted(states(box)) == ["cancelled"] * 3 + ["completed"]
        (up,) = ran.report["builds"]
        assert box.uploads[up["build_id"]].state == "completed"
        assert box.uploads[up["build_id"]].file_name == up["file"]
        assert [failure["file"] for failure in ran.report["failed"]] == [
            file for file in files if file != up["file"]
        ]
        assert {failure["error"] for failure in ran.report["failed"]} == {"CancelledError"}
        assert all(failure["message"] for failure in ran.report["failed"])
        begun = {build_id for build_id in box.uploads if build_id != up["build_id"]}
        assert len(cancelled(box)) == 3
        assert set(cancelled(box)) == begun
        assert "e.apk" not in {upload.file_name for upload in box.uploads.values()}


async def test_a_reservation_whose_answer_is_still_to_come_is_cancelled_too(
    tmp_path: Path,
) -> None:
    make(tmp_path, "game.zip", size=3000)
    gate = Gate()
    async with (
        Sandbox(faults=[Fault(on="initiate_upload", latency=1.0)], sleep=gate.sleep) as box,
        started(*ONE, env=box.environment, cwd=tmp_path) as running,
    ):
        async with asyncio.timeout(SOON):
            await gate.reached.wait()
        await interrupt(running)
        gate.open()
        ran = await running.end(within=SOON)
        assert ran.code == 130
        assert ran.report["failed"][0]["error"] == "CancelledError"
        assert states(box) == ["cancelled"]
        assert box.journal.operations() == ["initiate_upload", "cancel_upload"]


async def test_a_build_that_is_being_completed_is_never_deleted(tmp_path: Path) -> None:
    make(tmp_path, "game.zip", size=3000)
    gate = Gate()
    async with (
        Sandbox(
            part_size=1000, faults=[Fault(on="complete_upload", latency=1.0)], sleep=gate.sleep
        ) as box,
        started(*ONE, env=box.environment, cwd=tmp_path) as running,
    ):
        async with asyncio.timeout(SOON):
            await gate.reached.wait()
        await interrupt(running)
        gate.open()
        ran = await running.end(within=SOON)
        assert ran.code == 130
        assert states(box) == ["completed"]
        assert not box.journal.of("cancel_upload")
        # The build is there, and whoever reads the result has to know of it.
        outcomes = ran.report["builds"] + ran.report["failed"]
        assert len(outcomes) == 1
        assert next(iter(box.uploads)) in ran.out + ran.err
        assert "complete" in ran.out + ran.err


async def test_a_failing_cancel_is_reported_and_does_not_block(
    tmp_path: Path,
) -> None:
    make(tmp_path, "game.zip", size=3000)
    async with (
        Sandbox(
            part_size=1000, faults=[STALL, Fault(on="cancel_upload", times=None, status=400)]
        ) as box,
        started(*ONE, env=box.environment, cwd=tmp_path) as running,
    ):
        await until(lambda: stalled(box) == 3)
        running.send_signal(signal.SIGTERM)
        ran = await running.end(within=SOON)
        assert ran.code == 143
        (build_id,) = box.uploads
        # The user has to clean it up, so it has to be named.
        assert build_id in ran.out + ran.err
        assert ran.report["failed"][0]["error"] == "CancelledError"


@needs_sh
async def test_the_sandbox_command_serves_an_upload_and_ends_on_a_signal(tmp_path: Path) -> None:
    make(tmp_path, "game.zip", size=3000)
    said = ["sandbox", "--part-size", "1000", "--directory", str(tmp_path / "store")]
    for which in (signal.SIGINT, signal.SIGTERM):
        async with started(*said, env={}) as server:
            await server.says("Ctrl-C")
            await server.says("NUNU_PROJECT_ID")
            environ = {}
            for line in server.out.splitlines():
                command, _, assignment = line.partition(" ")
                assert command == "export"
                name, _, value = assignment.partition("=")
                environ[name] = value
            assert set(environ) == {"NUNU_BASE_URL", "NUNU_API_KEY", "NUNU_PROJECT_ID"}
            if which == signal.SIGINT:
                # As a user does it: through a shell.
                (tmp_path / "environment").write_text(server.out)
                shell = await asyncio.create_subprocess_exec(
                    "sh",
                    "-c",
                    '. ./environment && exec "$@"',
                    "sh",
                    sys.executable,
                    "-m",
                    "nunu_async",
                    *ONE,
                    cwd=tmp_path,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.PIPE,
                )
                async with asyncio.timeout(SOON):
                    out, err = await shell.communicate()
                assert (shell.returncode, err) == (0, b"")
                assert b'"parts": 3' in out
            server.send_signal(which)
            ran = await server.end(within=SOON)
            assert ran.code in {0, 128 + which}
            # It has nothing to cancel, so it should not say that it does.
            assert "cancelling" not in ran.err


async def test_a_demo_ends_on_a_signal_and_leaves_nothing_behind(tmp_path: Path) -> None:
    room = tmp_path / "tmp"
    room.mkdir()
    file = tmp_path / "game.zip"
    with file.open("wb") as hole:
        hole.truncate(500_000_000)  # takes long enough to be caught under way
    async with started(
        "demo", file, env=dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(room))
    ) as running:
        await running.says("A local nunu.ai runs")
        running.send_signal(signal.SIGINT)
        ran = await running.end(within=SOON)
        assert ran.code == 130
        assert listing(room) == []
