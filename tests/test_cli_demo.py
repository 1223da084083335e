"""`nunu-async demo`: an upload that needs no key and no network."""

import asyncio
import hashlib
import re
from argparse import Namespace
from pathlib import Path

import pytest
from cli_tools import listing, make, run, together

from nunu_async.cli import demo
from nunu_async.sandbox import Script

PROGRESS = r"nunu-async: .+ of (72\.0 MB|1\.0 kB), .+/s.*|nunu-async: [0-9]+s: 2 jobs: .+"


async def test_the_demo_makes_a_build_uploads_it_and_says_what_it_did(tmp_path: Path) -> None:
    # Not in development mode, which is for small files: 72 MB go through the loop here.
    ran = await run("demo", env={"TMPDIR": str(tmp_path)}, python=("-W", "error"))
    assert ran.code == 0
    # Without a terminal, progress is lines: one each tenth of a second, however fast it goes.
    assert all(re.fullmatch(PROGRESS, line) for line in ran.err.splitlines())
    lines = ran.out.splitlines()
    assert 3 <= len(lines) <= 10
    assert max(map(len, lines)) <= 100
    for words in ("demo-build.zip", "72.0 MB in 9 parts", "at most 4 at once", "SHA-256", "true"):
        assert words in ran.out
    # The changes as they were seen, and what each test came to.
    assert "2 jobs: 2 success" in ran.err
    assert lines[-2:] == ["Shop purchase: success after 16s.", "First quest: success after 24s."]
    assert listing(tmp_path) == []


@pytest.mark.parametrize("name", ["game.apk", "Game.app", "a name \u00fc [red] with.no.meaning"])
async def test_the_demo_takes_any_file(tmp_path: Path, name: str) -> None:
    (file,) = make(tmp_path, name, size=9_000_000 if name == "game.apk" else 10)
    ran = await run("demo", name, env={}, cwd=tmp_path, python=("-W", "error"))
    assert ran.code == 0
    assert ran.out.count(": success after ") == 2
    assert "Warning" not in ran.err
    assert max(map(len, ran.out.splitlines())) <= 100
    assert name in ran.out
    assert hashlib.sha256(file.read_bytes()).hexdigest()[:16] in ran.out
    # People read this, so one is one.
    for bad in ("1 parts", "1 PUTs", "1 requests"):
        assert f" {bad}" not in f" {ran.out}".replace("\n", " ")


async def test_the_demo_of_what_cannot_be_uploaded_exits_2(tmp_path: Path) -> None:
    (tmp_path / "empty.apk").touch()
    missing, empty, folder = await together(
        run("demo", "missing.apk", env={}, cwd=tmp_path),
        run("demo", "empty.apk", env={}, cwd=tmp_path),
        run("demo", ".", env={}, cwd=tmp_path),
    )
    for ran, words in ((missing, "No such file"), (empty, "empty"), (folder, "directory")):
        assert (ran.code, ran.out) == (2, "")
        ran.tells("nunu-async:", words)
        assert len(ran.err.splitlines()) == 1


async def test_settings_of_the_machine_do_not_reach_the_demo(tmp_path: Path) -> None:
    make(tmp_path, "game.apk")
    settings = {
        "NUNU_API_KEY": "nunu_a_real_key_0123456789",
        "NUNU_PROJECT_ID": "real-project",
        "NUNU_BASE_URL": "https://nunu.invalid",
        "http_proxy": "http://127.0.0.1:9",
        "HTTP_PROXY": "http://127.0.0.1:9",
    }
    ran = await run("demo", "game.apk", env=settings, cwd=tmp_path)
    assert ran.code == 0
    assert all(re.fullmatch(PROGRESS, line) for line in ran.err.splitlines())


@pytest.mark.parametrize(
    ("scripts", "words"),
    [
        ((Script(), Script(result="FAILED")), "First quest: failed"),
        ((Script(result="SKIPPED"), Script()), "Shop purchase: s"),
    ],
)
async def test_the_demo_fails_where_a_test_does(
    tmp_path: Path,
    scripts: tuple[Script, ...],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (file,) = make(tmp_path, "game.apk")
    monkeypatch.setattr(demo, "_SCRIPTS", scripts)
    assert await demo.demo(Namespace(file=str(file))) == 1
    out, err = capsys.readouterr()
    assert words in out
    assert "the tests did not all pass" in err


async def test_a_sandbox_that_cannot_start_says_why(tmp_path: Path) -> None:
    (file,) = make(tmp_path, "file")
    taken = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = taken.sockets[0].getsockname()[1]
    async with taken:
        busy, folder, usage = await together(
            run("sandbox", "--port", str(port), env={}),
            run("sandbox", "--directory", file, env={}),
            run("sandbox", "--port", "65536", env={}),
        )
    assert (busy.code, busy.out) == (1, "")
    busy.tells("cannot start the sandbox", str(port))
    assert (folder.code, folder.out) == (1, "")
    folder.tells("cannot start the sandbox", str(file))
    assert (usage.code, usage.out) == (2, "")
    usage.tells("--port", "65535")
