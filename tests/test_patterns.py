"""Patterns of files: links, what cannot be sent, folders that cannot be searched, equal names."""

import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from cli_tools import SOON, STRICT, bodies, environment, make, run, started

from nunu_async import BuildFile, InputError, NunuClient, SourceError
from nunu_async.cli.patterns import expand
from nunu_async.sandbox import Sandbox

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has links for the few")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working directory, which has nothing in it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(*arguments: str) -> list[str]:
    files, failed = expand(arguments)
    assert failed == {}
    return files


def refused(*arguments: str) -> dict[str, str]:
    """Return what is wrong with them, by name."""
    _, failed = expand(arguments)
    assert all(isinstance(error, SourceError) for error in failed.values())
    return {name: str(error) for name, error in failed.items()}


def test_links_to_folders_above_lead_nowhere_new(folder: Path) -> None:
    make(folder, "out/a/x.apk", "out/a/deep/y.apk", "out/b/x.apk")
    for place, target in (("out/a/up", ".."), ("out/a/deep/up", "../.."), ("out/b/me", ".")):
        (folder / place).symlink_to(target, target_is_directory=True)
    files = ["out/a/deep/y.apk", "out/a/x.apk", "out/b/x.apk"]
    assert found("out/**/*.apk") == files
    assert found("**/*.apk") == files
    assert found("**/**/out/**") == files
    assert found("./out/**/x.apk") == ["./out/a/x.apk", "./out/b/x.apk"]
    assert found(f"{folder}/out/**/x.apk") == [f"{folder}/out/{name}/x.apk" for name in "ab"]


def test_a_folder_is_found_by_its_own_name_rather_than_by_a_link(folder: Path) -> None:
    make(folder, "out/b/app.apk", "elsewhere/app.apk")
    (folder / "out" / "a").symlink_to("b", target_is_directory=True)
    (folder / "out" / "z").symlink_to(folder / "elsewhere", target_is_directory=True)
    assert found("out/*/app.apk") == ["out/b/app.apk", "out/z/app.apk"]
    assert found("out/**/*.apk") == ["out/b/app.apk", "out/z/app.apk"]
    assert found("out/a/*.apk") == ["out/a/app.apk"]  # as it was named


def test_links_to_files_and_hidden_names_are_as_in_a_shell(folder: Path) -> None:
    make(folder, "a.apk", ".b.apk", ".hidden/c.apk", "d/.e.apk")
    (folder / "latest.apk").symlink_to("a.apk")
    assert found("*.apk") == found("**/*.apk") == ["a.apk", "latest.apk"]
    assert found(".*.apk") == [".b.apk"]
    assert found(".hidden/*") == found(".h*/*.apk") == [".hidden/c.apk"]


def test_what_matches_and_cannot_be_sent_counts_as_named(folder: Path) -> None:
    make(folder, "a.apk")
    (folder / "dangling.apk").symlink_to("nowhere")
    (folder / "circle.apk").symlink_to("circle.apk")
    (folder / "folder.apk").mkdir()
    os.mkfifo(folder / "pipe.apk")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind("socket.apk")
        assert found("*.apk") == [
            *("a.apk", "circle.apk", "dangling.apk", "pipe.apk", "socket.apk")
        ]
        assert found("**/*.apk") == found("*.apk")
    assert "no file matches this pattern, only folders" in refused("f*.apk")["f*.apk"]


def test_a_link_that_leads_nowhere_may_hide_a_folder(folder: Path) -> None:
    make(folder, "out/a/app.apk", "out/README")
    (folder / "out" / "nightly").symlink_to("/mnt/not-there", target_is_directory=True)
    (folder / "out" / "circle").symlink_to("circle")
    problems = refused("out/*/app.apk")
    assert sorted(problems) == ["out/circle", "out/nightly"]
    assert "out/nightly: is a link that leads nowhere" in problems["out/nightly"]
    assert found("out/**/app.apk") == ["out/a/app.apk"]  # nothing is asked of it


@pytest.fixture
def unreadable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Make a folder that cannot be listed, for the superuser neither."""
    make(folder, "out/a/app.apk", "out/secret/app.apk")
    secret = folder / "out" / "secret"
    if os.geteuid():
        secret.chmod(0)
    else:
        scan = os.scandir

        def scandir(path: str) -> object:
            if Path(path).name == "secret":
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
            return scan(path)

        monkeypatch.setattr("os.scandir", scandir)
    yield "out/secret"
    monkeypatch.undo()
    secret.chmod(0o700)


@pytest.mark.parametrize("pattern", ["out/*/*.apk", "out/**/*.apk", "out/secret/*.apk"])
def test_a_folder_that_cannot_be_searched_is_an_error(unreadable: str, pattern: str) -> None:
    words = f"{unreadable}: cannot be searched for files (Permission denied)"
    assert refused(pattern) == {unreadable: words}


def test_a_search_can_be_ended(folder: Path) -> None:
    make(folder, "a/b.apk", "c/d.apk")
    asked: list[None] = []

    def stopped() -> bool:
        asked.append(None)
        return len(asked) > 1

    assert expand(["**/*.apk", "**/b.apk"], stopped)[0] == []


async def test_nothing_is_sent_where_a_pattern_matches_what_cannot_be(folder: Path) -> None:
    make(folder, "a.apk")
    (folder / "b.apk").symlink_to("nowhere")
    os.mkfifo(folder / "c.apk")
    async with Sandbox() as box:
        ran = await run("upload", "*.apk", "--name", "N", env=box.environment, cwd=folder)
        assert ran.code == 2
        ran.tells("b.apk: cannot be read (No such file or directory)", "c.apk: is a pipe")
        assert len(box.journal) == 0


async def test_builds_of_one_name_are_distinguished_by_their_folders(folder: Path) -> None:
    make(folder, "out/arm/release/app.apk", "out/x86/release/app.apk", "out/other.apk")
    for said in (
        ["out/*/*/app.apk", "out/other.apk"],
        ["out/other.apk", "out/arm/release/app.apk", str(folder / "out/x86/release/app.apk")],
    ):
        async with Sandbox() as box:
            ran = await run("upload", *said, "--name", "N", env=box.environment, cwd=folder)
            assert (ran.code, ran.err) == (0, "")
            assert sorted((body["name"], body["file_name"]) for body in bodies(box)) == [
                ("N - arm/release/app.apk", "app.apk"),
                ("N - other.apk", "other.apk"),
                ("N - x86/release/app.apk", "app.apk"),
            ]


async def test_they_are_distinguished_from_python_too(folder: Path) -> None:
    make(folder, "arm/app.apk", "x86/app.apk", "other.apk")
    async with (
        Sandbox() as box,
        NunuClient(box.api_key, base_url=box.base_url, project_id=box.project_id) as nunu,
    ):
        files: list[str | Path | BuildFile] = ["arm/app.apk", Path("x86/app.apk"), "other.apk"]
        results = await nunu.upload_builds([*files, BuildFile(path="arm/app.apk", name="mine")])
        assert [result.file.name for result in results] == [
            *("arm/app.apk", "x86/app.apk", "other.apk", "mine")
        ]
        assert all(result.ok for result in results)
        assert sorted(body["name"] for body in bodies(box)) == sorted(
            result.file.name for result in results
        )


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_a_search(folder: Path, which: signal.Signals) -> None:
    """Also while the disk hangs, as its stand-in does here."""
    said = ["upload", "**/no-such-file.apk", "*/**/none.apk", "--name", "N", "--json"]
    slow = folder / "sitecustomize.py"
    slow.write_text(
        "import os, sys, time\n"
        "def scandir(path):\n"
        "    print('searching', file=sys.stderr, flush=True)\n"
        "    time.sleep(60)\n"
        "os.scandir = scandir\n"
    )
    path = os.pathsep.join((str(folder), environment()["PYTHONPATH"]))
    env = KEY | {"PYTHONPATH": path}
    async with started(*said, env=env, cwd=folder, python=STRICT) as running:
        await running.says("searching")
        running.send_signal(which)
        ran = await running.end(within=SOON)
    assert ran.code == 128 + which
    assert [one["error"] for one in ran.report["failed"]] == ["CancelledError"] * 2


COMMAND = [sys.executable, *STRICT, "-m", "nunu_async"]
KEY = {"NUNU_API_KEY": "nunu_key_for_tests_0123", "NUNU_BASE_URL": "http://localhost:9"}
GONE = [
    "upload a.apk --name N",
    "upload *.apk --name N",
    "upload a.apk b.apk --name N --json",
    "ci a.apk --name N --deployment-config x --test y",
    "uploads cancel a.apk",
    "uploads resume a.apk",
    "demo a.apk",
    "sandbox --env-file x",
    "sandbox --directory x",
]


@pytest.mark.parametrize("said", GONE)
def test_a_working_directory_that_is_gone_is_one_sentence(tmp_path: Path, said: str) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    code = "import os, sys; os.rmdir(os.getcwd()); os.execv(sys.argv[1], sys.argv[1:])"
    done = subprocess.run(  # noqa: S603 - this interpreter, and code from this file
        [sys.executable, "-c", code, *COMMAND, *said.split()],
        env=environment(KEY, {"NUNU_STATE_DIR": str(tmp_path)}),
        cwd=gone,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == (1 if "sandbox" in said else 2), done.stderr
    assert "nunu-async: " in done.stderr or '"failed"' in done.stdout
    if "sandbox" not in said and "demo" not in said:
        assert "working directory" in done.stderr + done.stdout


async def test_it_is_a_source_error_from_python(folder: Path) -> None:
    gone = folder / "gone"
    gone.mkdir()
    (file,) = make(folder, "a.apk")
    os.chdir(gone)
    gone.rmdir()
    async with (
        Sandbox() as box,
        NunuClient(
            box.api_key,
            base_url=box.base_url,
            project_id=box.project_id,
            state_dir=str(folder / "state"),
        ) as nunu,
    ):
        for resume in (False, True):
            with pytest.raises(SourceError):
                await nunu.upload_build("a.apk", name="N", resume=resume)
        for files in (["a.apk"], ["a.apk", "b.apk"], [BuildFile(path="a.apk", name="N")]):
            with pytest.raises(SourceError, match=r"^a.apk: .*working directory"):
                await nunu.upload_builds(files)
        assert len(box.journal) == 0
        assert (await nunu.upload_build(file, name="N")).size == 1000


async def test_what_is_no_path_is_an_input_error() -> None:
    async with Sandbox() as box, NunuClient(box.api_key, base_url=box.base_url) as nunu:
        for wrong in (BytesIO(b"x"), b"a.apk", None, 7, Path):
            with pytest.raises(InputError, match=r"^path: must be") as caught:
                await nunu.upload_build(wrong, name="N")  # type: ignore[arg-type]
            assert caught.value.field == "path"
            with pytest.raises(InputError, match=r"^path: must be"):
                await nunu.upload_builds([wrong])  # type: ignore[list-item]
            with pytest.raises(InputError, match=r"^path: must be"):
                BuildFile(path=wrong, name="N")  # type: ignore[arg-type]
        assert len(box.journal) == 0


@pytest.mark.parametrize("name", ["p", "plat", "platform", "initiate"])
async def test_a_file_named_as_its_error_begins_is_still_named(tmp_path: Path, name: str) -> None:
    make(tmp_path, name, f"{name}2")
    async with Sandbox() as box:
        ran = await run("upload", name, "--name", "N", env=box.environment, cwd=tmp_path)
        assert ran.code == 2
        ran.tells(f"nunu-async: {name}: platform: ")
