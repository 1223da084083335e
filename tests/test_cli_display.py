"""What a person sees while it runs: bars on a terminal, a line now and then elsewhere."""

import asyncio
import io
import json
import os
import re
import signal
import struct
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
from cli_tools import PATIENCE, environment, make, until

from nunu_async.cli.display import Board
from nunu_async.cli.live import show
from nunu_async.sandbox import Fault, Sandbox, Script
from nunu_async.upload.progress import BytesSent, Cancelled, Completed, Retrying, UploadEvent

if sys.platform != "win32":
    import fcntl
    import pty
    import termios

needs_terminals = pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")


@attrs.define
class HandClock:
    """Time that passes when the test says so."""

    now: float = 1000.0
    slept: list[float] = attrs.field(factory=list)
    _sleepers: list[tuple[float, asyncio.Future[None]]] = attrs.field(factory=list)

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, delay: float) -> None:
        self.slept.append(delay)
        waker = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.now + delay, waker))
        await waker

    def call_later(self, delay: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        raise AssertionError((delay, callback))

    def random(self) -> float:
        return 0.5

    async def advance(self, seconds: float) -> None:
        """Pass time, and let all who wake up do what they wake up for."""
        await asyncio.sleep(0)
        self.now += seconds
        due = [waker for at, waker in self._sleepers if at <= self.now]
        self._sleepers = [(at, waker) for at, waker in self._sleepers if at > self.now]
        for waker in due:
            if not waker.done():
                waker.set_result(None)
        for _ in range(5):
            await asyncio.sleep(0)


@attrs.define
class Watched:
    clock: HandClock
    board: Board
    stream: io.StringIO
    shown: int = 0

    def tell(self, file: str, event: UploadEvent) -> None:
        self.board.listener(file)(event)

    async def lines(self, seconds: float) -> list[str]:
        """Pass time; return what was written since the last call."""
        await self.clock.advance(seconds)
        text = self.stream.getvalue()
        new, self.shown = text[self.shown :], len(text)
        assert new == "" or new.endswith("\n")
        return new.splitlines()


@asynccontextmanager
async def watched(monkeypatch: pytest.MonkeyPatch, **sizes: int) -> AsyncIterator[Watched]:
    clock, stream = HandClock(), io.StringIO()
    board = Board({name.replace("_", "."): size for name, size in sizes.items()}, clock)
    monkeypatch.setattr(sys, "stderr", stream)
    async with show(board):
        yield Watched(clock, board, stream)


async def test_a_line_comes_every_ten_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with watched(monkeypatch, a_apk=80_000_000, b_apk=20_000_000) as seen:
        assert await seen.lines(9.9) == []
        (first,) = await seen.lines(0.1)
        assert "0 of 2 files" in first
        assert "100.0 MB" in first
        assert "left" not in first  # not known yet
        seen.tell("a.apk", BytesSent(sent=30_000_000, size=80_000_000))
        seen.tell("b.apk", BytesSent(sent=10_000_000, size=20_000_000))
        assert await seen.lines(9.9) == []
        (second,) = await seen.lines(0.1)
        # 40 MB in 20 s make 2 MB/s, so the other 60 MB take 30 s.
        for words in ("0 of 2 files", "40.0 MB of 100.0 MB", "2.0 MB/s", "30 s left"):
            assert words in second
        seen.tell("b.apk", BytesSent(sent=20_000_000, size=20_000_000))
        seen.tell("b.apk", Completed(build_id="b", seconds=3.0))
        (third,) = await seen.lines(10)
        assert "1 of 2 files" in third
        assert "50.0 MB of 100.0 MB" in third
        assert seen.clock.slept == [10.0] * 4
        assert max(map(len, (first, second, third))) <= 100
    # Over means over: the clock goes on, the lines do not.
    assert await seen.lines(60) == []
    assert capsys.readouterr() == ("", "")


async def test_one_file_needs_no_count_of_files(monkeypatch: pytest.MonkeyPatch) -> None:
    async with watched(monkeypatch, a_apk=5_000_000_000) as seen:
        seen.tell("a.apk", BytesSent(sent=1_000_000_000, size=5_000_000_000))
        (line,) = await seen.lines(10)
        for words in ("1.0 GB of 5.0 GB", "100.0 MB/s", "40 s left"):
            assert words in line


async def test_a_long_wait_is_shown_in_hours_and_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    async with watched(monkeypatch, a_apk=5_000_000_000) as seen:
        seen.tell("a.apk", BytesSent(sent=5_000_000, size=5_000_000_000))
        (line,) = await seen.lines(10)
        assert "9990 s left" not in line
        assert "2 h" in line or "2:46" in line


async def test_what_is_sent_again_is_not_counted_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    async with watched(monkeypatch, a_apk=1_000_000) as seen:
        seen.tell("a.apk", BytesSent(sent=900_000, size=1_000_000))
        retry = Retrying(part_number=7, attempt=2, delay=1.5, reason="storage answered 503")
        seen.tell("a.apk", retry)
        seen.tell("a.apk", BytesSent(sent=500_000, size=1_000_000))
        message, line = await seen.lines(10)
        for words in ("a.apk", "part 7", "attempt 2", "1.5 s", "storage answered 503"):
            assert words in message
        assert "500.0 kB of 1.0 MB" in line


async def test_a_file_given_up_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async with watched(monkeypatch, a_apk=90_000_000, b_apk=10_000_000) as seen:
        seen.tell("b.apk", BytesSent(sent=5_000_000, size=10_000_000))
        seen.tell("a.apk", Cancelled(build_id="a", on_server=True))
        (line,) = await seen.lines(10)
        assert "1 of 2 files" in line
        # Half a megabyte a second, 5 MB to go; the 90 MB that failed will never come.
        assert "10 s left" in line


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


async def test_a_terminal_that_cannot_draw_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    # Emacs' shell, some CI consoles: a terminal by name only.
    monkeypatch.setenv("TERM", "dumb")
    clock, stream = HandClock(), _Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    board = Board({"a.apk": 1_000_000}, clock)
    async with show(board):
        board.listener("a.apk")(BytesSent(sent=500_000, size=1_000_000))
        await clock.advance(10)
        assert "500.0 kB of 1.0 MB" in stream.getvalue()
        assert "\x1b" not in stream.getvalue()


class Screen:
    """The other end of a pseudo-terminal."""

    def __init__(self, columns: int) -> None:
        self.mine, self.theirs = pty.openpty()
        size = struct.pack("HHHH", 24, columns, 0, 0)
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, size)
        os.set_blocking(self.mine, False)
        self.raw = b""
        asyncio.get_running_loop().add_reader(self.mine, self._read)

    def _read(self) -> None:
        try:
            self.raw += os.read(self.mine, 65536)
        except BlockingIOError:
            pass
        except OSError:  # the last process has closed it
            asyncio.get_running_loop().remove_reader(self.mine)

    @property
    def text(self) -> str:
        """All that was ever written, without colours and cursor movements."""
        text = self.raw.decode("utf-8", "replace")
        return re.sub(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07]*\x07|[@-_])", "", text)

    @property
    def lines(self) -> list[str]:
        return re.split(r"[\r\n]+", self.text)

    async def shows(self, pattern: str) -> None:
        """Wait until a line that fits was written."""
        await until(
            lambda: re.search(pattern, self.text), lambda: f"on the screen: {self.text[-2000:]!r}"
        )

    def leave(self) -> None:
        """Close our copy of their end: only the process keeps it open now."""
        if self.theirs >= 0:
            os.close(self.theirs)
            self.theirs = -1

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self.mine)
        self.leave()
        os.close(self.mine)


@asynccontextmanager
async def on_a_terminal(
    box: Sandbox, columns: int, *arguments: str, cwd: Path, term: str = "xterm"
) -> AsyncIterator[tuple[asyncio.subprocess.Process, Screen]]:
    """Run the command with standard error on a terminal and standard output in a pipe."""
    screen = Screen(columns)
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-m", "nunu_async"),
            *arguments,
            env=environment(box.environment, {"TERM": term}),
            cwd=cwd,
            stdin=screen.theirs,
            stdout=asyncio.subprocess.PIPE,
            stderr=screen.theirs,
        )
        screen.leave()
        try:
            yield process, screen
        finally:
            if process.returncode is None:
                process.kill()
                await process.communicate()
    finally:
        screen.close()


async def _output(process: asyncio.subprocess.Process) -> str:
    async with asyncio.timeout(PATIENCE):
        out, _ = await process.communicate()
    return out.decode()


@needs_terminals
@pytest.mark.parametrize("columns", [60, 120])
async def test_bars_fit_the_terminal(tmp_path: Path, columns: int) -> None:
    name = "a-build-with-a-rather-long-name-of-its-own-v1.2.3.zip"
    with (tmp_path / name).open("wb") as hole:
        hole.truncate(48_000_000)
    said = ["upload", name, "--name", "N", "--platform", "linux", "--multipart"]
    # The last part is held up until the bars have been seen. How much of it the kernel buffers, 5
    # to 16 MB, is the machine's business: its receive buffers grow to 32 MiB.
    opened = asyncio.Event()
    faults = [Fault(on="put_part", part=3, latency=1.0)]
    async with (
        Sandbox(part_size=16_000_000, faults=faults, sleep=lambda _: opened.wait()) as box,
        on_a_terminal(box, columns, *said, cwd=tmp_path) as (process, screen),
    ):
        await screen.shows(r"(3[2-9]|4[0-8])\.[0-9]/48\.0 MB.*[kMG]B/s")
        await screen.shows("[0-9]:[0-9]{2}")  # the time left
        opened.set()
        out = await _output(process)
        assert process.returncode == 0
        assert next(iter(box.uploads)) in out
        assert "\x1b" not in out
        assert max(map(len, screen.lines)) <= columns, screen.lines
        drawn = [line for line in screen.lines if "B/s" in line]
        assert drawn
        for line in drawn:
            # Cut in the middle: builds differ at their ends.
            assert name[:4] in line
            assert name[-7:] in line
            assert re.search(r"[0-9.]+/48\.0 MB", line)
        assert "48.0/48.0 MB" in screen.text
        # What stays on the screen is of a build that is complete.
        assert "completing" not in [line for line in screen.lines if "48.0/48.0 MB" in line][-1]
        assert "Traceback" not in screen.text


@needs_terminals
async def test_the_terminal_is_left_in_order_after_a_signal(tmp_path: Path) -> None:
    make(tmp_path, "game.apk")
    async with (
        Sandbox(faults=[Fault(on="put_part", times=None, do="stall")]) as box,
        on_a_terminal(box, 80, "upload", "game.apk", "-n", "N", cwd=tmp_path) as (process, screen),
    ):
        await until(lambda: b"\x1b[?25l" in screen.raw and "stalled" in outcomes(box))
        process.send_signal(signal.SIGINT)
        assert await _output(process) == ""
        assert process.returncode == 130
        assert [upload.state for upload in box.uploads.values()] == ["cancelled"]
        # The cursor that was hidden for drawing is back.
        assert screen.raw.rindex(b"\x1b[?25h") > screen.raw.rindex(b"\x1b[?25l")
        for words in ("stopping", "game.apk: stopped"):
            assert sum(words in line for line in screen.lines) == 1


def outcomes(box: Sandbox) -> list[str]:
    return [seen.outcome for seen in box.journal]


@needs_terminals
async def test_bars_of_files_of_one_name_name_their_folders(tmp_path: Path) -> None:
    make(tmp_path, "arm/app.apk", "x86/app.apk", "other.apk")
    async with (
        Sandbox() as box,
        on_a_terminal(
            box, 100, "upload", "*/app.apk", "other.apk", "--name", "N", cwd=tmp_path
        ) as (process, screen),
    ):
        await _output(process)
        assert process.returncode == 0
        for words in ("arm/app.apk", "x86/app.apk", " other.apk"):
            assert words in screen.text.replace("\n", " ")


@needs_terminals
async def test_bars_of_several_files_have_a_total(tmp_path: Path) -> None:
    files = [path.name for path in make(tmp_path, "a[red].apk", "b.apk", "c.apk", size=3_000_000)]
    said = ["upload", *files, "--name", "N", "--concurrency", "2", "--multipart", "--json"]
    # A retry is reported above the bars (after a 503 fewer parts would go at once); the last parts
    # of two files are held until they are seen.
    faults = [
        Fault(on="put_part", first=2, status=500),
        Fault(on="put_part", part=3, latency=1.0, times=2),
    ]
    opened = asyncio.Event()
    async with (
        Sandbox(part_size=1_000_000, faults=faults, sleep=lambda _: opened.wait()) as box,
        on_a_terminal(box, 60, *said, cwd=tmp_path) as (process, screen),
    ):
        await until(lambda: len(box.journal.of("put_part", 3)) == 2)
        await screen.shows(r"all files.*[4-6]\.[0-9]/9\.0 MB")
        opened.set()
        out = await _output(process)
        assert process.returncode == 0
        assert out.count("\n") == 1
        assert "\x1b" not in out
        for words in ("all files", "a[red].apk", "b.apk", "c.apk", "9.0/9.0 MB", "500"):
            assert words in screen.text
        assert max(map(len, screen.lines)) <= 60, screen.lines
        retries = [line for line in screen.lines if "attempt 1 failed" in line]
        assert len(retries) == 1


@needs_terminals
async def test_a_terminal_that_cannot_draw_gets_no_escape_sequences(tmp_path: Path) -> None:
    make(tmp_path, "game.apk")
    async with (
        Sandbox() as box,
        on_a_terminal(box, 80, "upload", "game.apk", "-n", "N", cwd=tmp_path, term="dumb") as (
            process,
            screen,
        ),
    ):
        await _output(process)
        assert process.returncode == 0
        assert b"\x1b" not in screen.raw


@needs_terminals
async def test_a_terminal_that_goes_away_takes_no_result_with_it(tmp_path: Path) -> None:
    now = time.time()
    script = Script(initialize_seconds=0, run_seconds=60)
    async with Sandbox(script=script, now=lambda: now) as box:
        run_id = box.add_run(state="RUNNING").run_id
        arguments = ("wait", "run", run_id, "--interval", "0.2", "--json")
        async with on_a_terminal(box, 60, *arguments, cwd=tmp_path) as (process, screen):
            await screen.shows("running")
            screen.close()
            now += 120
            out, _ = await process.communicate()
            screen.mine = os.open(os.devnull, os.O_RDONLY)  # to be closed once more
        assert process.returncode == 0
        assert json.loads(out)["succeeded"] is True
