"""The command line on Windows: paths as they are written there, code pages, Ctrl-Break."""

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cli_tools import PATIENCE, SOON, environment, make, names, run, started, together, until

from nunu_async.sandbox import Fault, Sandbox

pytestmark = pytest.mark.skipif(sys.platform != "win32", reason="the paths and pages of Windows")

SAID = ["upload", "--platform", "linux", "--json"]


def has_console() -> bool:
    return sys.platform == "win32" and bool(ctypes.windll.kernel32.GetConsoleCP())


def is_wine() -> bool:
    return sys.platform == "win32" and hasattr(ctypes.windll.ntdll, "wine_get_version")


def share_of(path: Path) -> str:
    """Name a file by the share of its drive, which only administrators reach."""
    return f"\\\\localhost\\{path.drive[0]}$\\{path.relative_to(path.anchor)}"


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
        ".\\sub\\a.bin. .",
        "sub/..\\sub/a.bin",
        f"\\\\?\\{drive}",
        f"\\\\.\\{drive}",
        drive.removeprefix(room.drive),
        "sub\\größe 日本 \U0001f3ae.bin",
        str(deep / "deep.bin"),
    ]
    async with Sandbox(directory=tmp_path / "store") as box:
        await check_ways(box, tmp_path, ways)


async def check_ways(box: Sandbox, folder: Path, ways: list[str]) -> None:
    """Upload what each of these leads to from a folder, and look at what came of it."""
    for first in range(0, len(ways), 5):  # a few at once
        for ran in await together(
            *(
                run(*SAID, way, "-n", str(number), env=box.environment, cwd=folder)
                for number, way in enumerate(ways[first : first + 5], first)
            )
        ):
            assert ran.code == 0, ran.err
    assert names(box) == sorted(map(str, range(len(ways))))
    for build_id, upload in box.uploads.items():
        path = folder / ways[int(upload.name)]
        assert box.read_object(build_id) == path.read_bytes()
        assert upload.file_name == path.name


async def test_a_path_may_lead_to_another_machine(tmp_path: Path) -> None:
    (path,) = make(tmp_path, "größe 日本.bin")
    share = share_of(path)
    if not os.path.exists(share):  # noqa: ASYNC240, PTH110 - one look
        pytest.skip("this machine does not share its drives, or not with this user")
    ways = [share, share.replace("\\", "/"), f"\\\\?\\UNC{share[1:]}"]
    async with Sandbox(directory=Path(share_of(tmp_path)) / "store") as box:
        await check_ways(box, tmp_path, ways)


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
    bad = ["NUL", "CON", "aux.apk", "COM1.apk", "folder", "Q:\\none.apk", "a<b.apk", "trailing\\"]
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


@pytest.mark.parametrize("page", ["cp1252", "cp437"])
async def test_what_a_code_page_lacks_is_written_escaped(tmp_path: Path, page: str) -> None:
    make(tmp_path, "größe 日本.apk")

    async def spoken(name: str) -> tuple[int | None, str, str]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "nunu_async", "upload", name, "-n", "N"),
            env=environment(box.environment, {"PYTHONIOENCODING": page}),
            cwd=tmp_path,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(PATIENCE):
            out, err = await process.communicate()
        return process.returncode, out.decode(page), err.decode(page)

    async with Sandbox() as box:
        (code, out, _), (wrong, _, err) = await asyncio.gather(
            spoken("größe 日本.apk"), spoken("größe 東京.apk")
        )
        assert (code, wrong) == (0, 2)
        assert "größe \\u65e5\\u672c.apk -> build" in out
        assert "größe \\u6771\\u4eac.apk" in err
        (upload,) = box.uploads.values()
        assert upload.file_name == "größe 日本.apk"


@pytest.mark.skipif(
    "CTRL_C_IS_PRESSED" not in os.environ,
    reason="no console to press Ctrl-C in, as .ci/windows_console has",
)
async def test_ctrl_c_at_the_keyboard_cancels_the_upload(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path, "game.zip", size=3000)
    stall = Fault(on="put_part", times=None, do="stall")
    said = [*SAID, "game.zip", "-n", "N", "--multipart"]
    async with (
        Sandbox(part_size=1000, faults=[stall]) as box,
        started(*said, env=box.environment, cwd=tmp_path) as running,
    ):
        await until(lambda: len(box.journal.of("put_part")) == 3)
        # A console sends it to all of its programs, and so to this one.
        ours = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            with capfd.disabled():
                sys.stdout.write("\npress Ctrl-C\n")
                sys.stdout.flush()
            ran = await running.end(within=SOON)
        finally:
            signal.signal(signal.SIGINT, ours)
        assert ran.code == 130
        ran.tells("stopping ...")
        assert [upload.state for upload in box.uploads.values()] == ["cancelled"]


@pytest.mark.skipif(not has_console(), reason="there is no console, which carries Ctrl-Break")
@pytest.mark.skipif(is_wine(), reason="Wine's C library has no SIGBREAK")
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
