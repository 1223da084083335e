"""The command line on Windows: paths as they are written there, code pages, Ctrl-Break."""

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cli_tools import PATIENCE, SOON, environment, make, names, run, together, until

from nunu_async.sandbox import Fault, Sandbox

pytestmark = pytest.mark.skipif(sys.platform != "win32", reason="the paths and pages of Windows")

SAID = ["upload", "--platform", "linux", "--json"]


def has_console() -> bool:
    return sys.platform == "win32" and bool(ctypes.windll.kernel32.GetConsoleCP())


async def test_a_path_may_be_written_in_any_way_of_windows(tmp_path: Path) -> None:
    """Each way is a build of its own, so that each is seen to arrive."""
    room = tmp_path / "sub"
    make(room, "a.bin", "größe 日本 \U0001f3ae.bin")
    deep = Path("\\\\?\\" + str(tmp_path / ("d" * 120) / ("e" * 120)))
    make(deep, "deep.bin")
    assert len(str(deep)) > 260
    drive = str(room / "a.bin")
    ways = [
        drive,
        drive.upper(),
        drive.replace("\\", "/"),
        ".\\sub\\a.bin",
        "sub/..\\sub/a.bin",
        f"\\\\?\\{drive}",
        f"\\\\.\\{drive}",
        drive.removeprefix(room.drive),
        "sub\\größe 日本 \U0001f3ae.bin",
        str(deep / "deep.bin"),
    ]
    async with Sandbox(directory=tmp_path / "store") as box:
        for first in (0, 5):  # a few at once
            for ran in await together(
                *(
                    run(*SAID, way, "-n", str(number), env=box.environment, cwd=tmp_path)
                    for number, way in enumerate(ways[first : first + 5], first)
                )
            ):
                assert ran.code == 0, ran.err
        assert names(box) == sorted(map(str, range(len(ways))))
        for build_id, upload in box.uploads.items():
            path = tmp_path / ways[int(upload.name)]
            assert box.read_object(build_id) == path.read_bytes()
            assert upload.file_name == path.name


async def test_patterns_are_expanded_and_one_file_goes_up_once(tmp_path: Path) -> None:
    make(tmp_path, "a.apk", "B.APK", "x[1].apk", "out/c.apk", "out/deep/d.apk")
    async with Sandbox() as box:
        env = box.environment
        said = ["*.apk", "out\\**\\*.apk", ".\\A.APK", "b.apk", "x[1].apk", str(tmp_path / "a.apk")]
        ran = await run("upload", *said, "-n", "N", "--json", env=env, cwd=tmp_path)
        assert ran.code == 0, ran.err
        sent = sorted(Path(build["file"]).as_posix() for build in ran.report["builds"])
        assert sent == ["B.APK", "a.apk", "out/c.apk", "out/deep/d.apk", "x[1].apk"]


async def test_what_is_no_file_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    bad = ["NUL", "folder", "Q:\\none.apk", "a<b.apk", "trailing\\"]
    async with Sandbox() as box:
        ran = await run(*SAID, *bad, "-n", "N", env=box.environment, cwd=tmp_path)
        assert ran.code == 2
        assert {failure["error"] for failure in ran.report["failed"]} == {"SourceError"}
        assert len(ran.report["failed"]) == len(bad)
        assert len(box.journal) == 0


async def test_what_is_written_to_a_file_is_utf_8_whatever_the_code_page(tmp_path: Path) -> None:
    make(tmp_path, "größe 日本.apk")
    async with Sandbox() as box:
        with (tmp_path / "out.txt").open("wb") as out:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "nunu_async", "upload", "*.apk", "-n", "N"),
                env=environment(box.environment),
                cwd=tmp_path,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
            )
        async with asyncio.timeout(PATIENCE):
            assert await process.wait() == 0
        assert "größe 日本.apk -> build" in (tmp_path / "out.txt").read_text(encoding="utf-8")


@pytest.mark.skipif(not has_console(), reason="there is no console, which carries Ctrl-Break")
async def test_ctrl_break_cancels_the_upload(tmp_path: Path) -> None:
    """As a job runner sends it: to a group of processes that has a console."""
    make(tmp_path, "game.zip", size=3000)
    stall = Fault(on="put_part", times=None, do="stall")
    async with Sandbox(part_size=1000, faults=[stall]) as box:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "nunu_async", *SAID, "game.zip", "-n", "N", "--multipart"),
            env=environment(box.environment),
            cwd=tmp_path,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            creationflags=subprocess.CREATE_NEW_PROCESS_GROUP,
        )
        try:
            await until(lambda: len(box.journal.of("put_part")) == 3)
            os.kill(process.pid, signal.CTRL_BREAK_EVENT)
            async with asyncio.timeout(SOON):
                _, err = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 149
        assert b"stopping ..." in err
        assert [upload.state for upload in box.uploads.values()] == ["cancelled"]
