"""Standard output that takes nothing, or not all at once: no result is lost unheard."""

import asyncio
import contextlib
import json
import math
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_tools import SOON, STRICT, Ran, environment, make, run, started, together, until
from test_cli_ci import Hurried

from nunu_async.sandbox import Fault, Sandbox, Script

if sys.platform == "win32":
    pytest.skip("Windows has neither /dev/full nor such pipes", allow_module_level=True)


FULL = Path("/dev/full")
WORDS = {"broken pipe": "Broken pipe", "full disk": "No space left on device"}
KINDS = [kind for kind in WORDS if kind != "full disk" or FULL.exists()]
# What becomes of `runs list | head -1` is no failure; everything else must not count as done.
LISTINGS = [
    ("runs list", KINDS),
    ("runs list --json", KINDS[1:]),
    ("runs list --jsonl", KINDS[1:]),
    ("runs get RUN", KINDS),
    ("runs bugs RUN --json", KINDS[1:]),
    ("executions list", KINDS[1:]),
    ("uploads list", KINDS),
    ("uploads list --json", KINDS),
]
ACTS = [
    ("upload a.apk --name N", KINDS),
    ("upload a.apk --name N --json", KINDS),
    ("upload missing.apk --name N --json", KINDS[1:]),
    ("runs start --deployment-config CONFIG --test TEST", KINDS),
    ("runs start --deployment-config CONFIG --test TEST --json", KINDS[:1]),
    ("runs stop JOB", KINDS[:1]),
    ("wait run RUN", KINDS),
    ("wait run RUN --json", KINDS[1:]),
    ("ci a.apk --name N --deployment-config CONFIG --test TEST --interval 0.2", KINDS[1:]),
    ("ci a.apk --name N --deployment-config CONFIG --test TEST --interval 0.2 --json", KINDS),
    ("sandbox", KINDS),
    ("demo a.apk", KINDS[1:]),
    ("uploads resume", KINDS[1:]),
    ("uploads resume --json", KINDS[:1]),
    ("uploads cancel", KINDS),
]


def each(table: list[tuple[str, list[str]]]) -> list[tuple[str, str]]:
    """Give each command with each kind of output to try it with."""
    return [(command, kind) for command, kinds in table for kind in kinds]


@contextlib.contextmanager
def unwritable(kind: str) -> Iterator[int]:
    """Give a descriptor that takes nothing."""
    if kind == "full disk":
        writing = os.open(FULL, os.O_WRONLY)
    else:
        reading, writing = os.pipe()
        os.close(reading)
    try:
        yield writing
    finally:
        os.close(writing)


async def lost(command: str, kind: str, folder: Path) -> tuple[Ran, Sandbox]:
    """Run a command whose standard output takes nothing, where there is something to tell."""
    make(folder, "a.apk", size=3000)
    async with Sandbox(part_size=1000, now=Hurried()) as box:
        env = box.environment | {"NUNU_STATE_DIR": str(folder / "state")}
        if command.startswith("uploads"):  # one that has failed, and can be resumed
            box.add_fault(Fault(on="put_part", part=2, status=400))
            said = ["upload", "a.apk", "--name", "N", "--multipart", "--resume"]
            assert (await run(*said, env=env, cwd=folder)).code == 1
        box.add_execution()
        going = box.add_run(script=Script(run_seconds=math.inf), state="RUNNING")
        values = {
            "CONFIG": box.deployment_configs[0].id,
            "TEST": box.tests[0].id,
            "RUN": box.add_run().run_id,
            "JOB": going.job_id or "",
        }
        arguments = [values.get(word, word) for word in command.split()]
        with unwritable(kind) as stdout:
            return await run(*arguments, env=env, cwd=folder, stdout=stdout), box


@pytest.mark.parametrize(("command", "kind"), each(ACTS))
async def test_a_result_that_cannot_be_written_is_a_failure(
    tmp_path: Path, command: str, kind: str
) -> None:
    ran, box = await lost(command, kind, tmp_path)
    assert ran.code == (2 if "missing" in command else 1), ran.err
    ran.tells("nunu-async: cannot write the", WORDS[kind])
    states = [upload.state for upload in box.uploads.values()]
    if command.startswith(("upload a", "uploads")):  # what was asked for is done all the same
        assert states == ["cancelled" if "cancel" in command else "completed"]
        assert command == "uploads cancel" or '"failed"' in ran.err or "-> build" in ran.err


@pytest.mark.parametrize(("command", "kind"), each(LISTINGS))
async def test_a_list_that_cannot_be_written_is_a_failure_unless_its_reader_left(
    tmp_path: Path, command: str, kind: str
) -> None:
    ran, _ = await lost(command, kind, tmp_path)
    if kind == "broken pipe":
        assert (ran.code, ran.err) == (0, "")
    else:
        assert ran.code == 1
        assert ran.err == f"nunu-async: cannot write the result: {WORDS[kind]}\n"


async def test_a_closed_standard_output_is_a_failure(tmp_path: Path) -> None:
    make(tmp_path, "a.apk")
    async with Sandbox() as box:
        box.add_run()
        for said in ("upload a.apk --name N", "upload a.apk --name N --json", "runs list"):
            command = shlex.join([sys.executable, *STRICT, "-m", "nunu_async", *said.split()])
            process = await asyncio.create_subprocess_shell(
                f"{command} >&-",
                env=environment(box.environment),
                cwd=tmp_path,
                stderr=asyncio.subprocess.PIPE,
            )
            _, err = await process.communicate()
            assert process.returncode == 1
            assert b"cannot write the result" in err
            assert b"standard output is closed" in err
            assert b"Traceback" not in err


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
async def test_a_help_text_that_cannot_be_written_is_a_failure() -> None:
    with unwritable("full disk") as stdout:
        for ran in await together(
            *(run(*said, env={}, stdout=stdout) for said in (["--help"], ["--version"]))
        ):
            words = "nunu-async: cannot write to standard output: No space left on device\n"
            assert (ran.code, ran.err) == (1, words)


@pytest.fixture
def full_pipe() -> Iterator[tuple[int, int]]:
    """Give both ends of a pipe that is set to be non-blocking, and has no room."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b" " * 4096)
    yield reading, writing
    os.close(reading)
    with contextlib.suppress(OSError):
        os.close(writing)


async def test_a_non_blocking_pipe_gets_everything(
    tmp_path: Path, full_pipe: tuple[int, int]
) -> None:
    """As a program that shares the pipe has made it, such as Node.js on a CI server."""
    reading, writing = full_pipe
    files = [f"{number:04}-{'x' * 100}.apk" for number in range(400)]
    said = ["upload", *files, "--name", "N", "--json"]
    async with started(*said, env={}, cwd=tmp_path, stdout=writing) as running:
        os.close(writing)
        out = await asyncio.to_thread(Path(f"/dev/fd/{reading}").read_bytes)
        ran = await running.end()
    assert ran.code == 2
    assert [one["file"] for one in json.loads(out)["failed"]] == files
    assert len(out) > 100_000


@pytest.mark.parametrize(("which", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_signal_ends_a_command_whose_output_is_unread(
    tmp_path: Path, full_pipe: tuple[int, int], which: signal.Signals, code: int
) -> None:
    _, writing = full_pipe
    make(tmp_path, "a.apk")
    said = ["upload", "a.apk", "--name", "N", "--json"]
    async with (
        Sandbox() as box,
        started(*said, env=box.environment, cwd=tmp_path, stdout=writing) as running,
    ):
        await until(lambda: any(one.state == "completed" for one in box.uploads.values()))
        running.send_signal(which)
        ran = await running.end(within=SOON)
        assert ran.code == code
