"""What is different on macOS, played on Linux by `as_macos.py` in processes of their own."""

import asyncio
import json
import os
import random
import sys
import unicodedata
from collections.abc import Mapping
from pathlib import Path

import pytest
from cli_tools import PATIENCE, bodies, environment, make, names, run

from nunu_async.sandbox import Fault, Sandbox
from nunu_async.upload.paths import path_key

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="it is played on POSIX only")

PART = 5 * 1024 * 1024
COMPOSED = unicodedata.normalize("NFC", "Café.apk")
DECOMPOSED = unicodedata.normalize("NFD", COMPOSED)
# Each gives what it saw as JSON.
UPLOAD = """
import asyncio, json, sys
from nunu_async import NunuClient

async def main():
    async with NunuClient(state_dir=sys.argv[2]) as nunu:
        built = await nunu.upload_build(
            sys.argv[1], name="n", platform="linux", multipart=True, resume=True, verify=True
        )
    print(json.dumps({"build": built.build_id, "asked": as_macos.asked}))

asyncio.run(main())
"""
QUEUE = """
import json, socket
from nunu_async.upload.body import _unacknowledged
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
peer, _ = server.accept()
before = _unacknowledged(client)
client.setblocking(False)
try:
    while True:
        client.send(bytes(65536))
except BlockingIOError:
    pass
print(json.dumps({"before": before, "full": _unacknowledged(client)}))
for one in (client, peer, server):
    one.close()
"""
# As file systems of a network do, and older systems.
REFUSING = """
def refuse(fd, command, *rest):
    as_macos.asked[f"refused {command}"] += 1
    raise OSError(45, "Operation not supported")
as_macos.fcntl.fcntl = refuse
"""
CASE_SENSITIVE = "import as_macos\nas_macos.heeds_case = True\n"


def on_macos(
    env: Mapping[str, str], folder: Path, loading: str = "import as_macos"
) -> dict[str, str]:
    """Return an environment in which a command finds itself on macOS."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(loading)
    path = [str(folder), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    return {**env, "PYTHONPATH": os.pathsep.join(path)}


async def played(code: str, *arguments: object, env: Mapping[str, str]) -> dict[str, object]:
    """Run code after `as_macos`; return what it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-X", "dev", "-W", "error", "-c", f"import as_macos\n{code}"),
        *map(str, arguments),
        env=environment(env, {"PYTHONPATH": str(Path(__file__).parent)}),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    found: dict[str, object] = json.loads(out)
    return found


@pytest.mark.parametrize("refusing", [False, True], ids=["granted", "refused"])
async def test_bytes_arrive_by_the_calls_that_macos_has(tmp_path: Path, refusing: bool) -> None:
    file = tmp_path / "game.zip"
    file.write_bytes(random.Random(1).randbytes(2 * PART + 77))
    async with Sandbox(part_size=PART) as box:
        code = REFUSING + UPLOAD if refusing else UPLOAD
        report = await played(code, file, tmp_path / "state", env=box.environment)
        assert box.read_object(str(report["build"])) == file.read_bytes()
    asked = report["asked"]
    assert isinstance(asked, dict)
    word = ("refused 44", "refused 51") if refusing else ("F_RDADVISE", "F_FULLFSYNC")
    assert asked[word[0]] >= 3  # what is read next is announced, once a part at least
    assert asked[word[1]] >= 2  # the head of the journal, and the mark before completing


async def test_bytes_that_are_on_their_way_are_counted() -> None:
    report = await played(QUEUE, env={})
    assert report["before"] == 0
    assert isinstance(report["full"], int)
    assert report["full"] > 0


@pytest.fixture
def played_here(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """What the folders of this test say of case."""
    said: dict[str, int] = {}

    def pathconf(path: str, name: int) -> int:
        assert name == 11
        if path not in said:
            raise FileNotFoundError(path)
        return said[path]

    monkeypatch.setattr(os, "pathconf", pathconf, raising=False)
    monkeypatch.setattr(sys, "platform", "darwin")
    return said


def test_one_file_has_one_key_however_it_is_spelled(played_here: dict[str, int]) -> None:
    played_here["/Volumes/Work"] = 0
    keys = {path_key(f"/Volumes/Work/{name}") for name in (COMPOSED, DECOMPOSED, COMPOSED.upper())}
    assert len(keys) == 1
    # Neither is the same name to macOS, whatever its case.
    assert path_key("/Volumes/Work/straße.zip") != path_key("/Volumes/Work/strasse.zip")


def test_where_case_tells_names_apart_it_tells_keys_apart(played_here: dict[str, int]) -> None:
    played_here["/Volumes/Work"] = 1
    key = path_key("/Volumes/Work/" + COMPOSED)
    assert key == path_key("/Volumes/Work/" + DECOMPOSED)
    assert key != path_key("/Volumes/Work/" + COMPOSED.upper())


def test_a_folder_that_is_not_there_is_as_most_are(played_here: dict[str, int]) -> None:
    assert path_key("/Gone/a.zip") == path_key("/gone/A.zip")


@pytest.mark.parametrize("heeds_case", [False, True])
async def test_a_file_that_is_given_in_two_spellings_goes_up_once(
    tmp_path: Path, heeds_case: bool
) -> None:
    """Linux has a link for the second spelling, which macOS would take for the first."""
    (made,) = make(tmp_path, COMPOSED)
    for name in (DECOMPOSED, COMPOSED.upper()):
        os.link(made, tmp_path / name)
    async with Sandbox() as box:
        loading = CASE_SENSITIVE if heeds_case else "import as_macos"
        env = on_macos(box.environment, tmp_path / "site", loading)
        given = (COMPOSED, DECOMPOSED, COMPOSED.upper())
        ran = await run("upload", *given, "-n", "N", "--json", env=env, cwd=tmp_path)
        assert ran.code == 0, ran.err
        if heeds_case:
            assert names(box) == [f"N - {COMPOSED.upper()}", f"N - {COMPOSED}"]
        else:
            assert names(box) == ["N"]


async def test_a_name_is_sent_as_it_is_typed(tmp_path: Path) -> None:
    make(tmp_path, DECOMPOSED, "b.apk")
    async with Sandbox() as box:
        env = on_macos(box.environment, tmp_path / "site")
        ran = await run("upload", DECOMPOSED, "b.apk", "-n", "N", "--json", env=env, cwd=tmp_path)
        assert ran.code == 0, ran.err
        assert {body["file_name"] for body in bodies(box)} == {COMPOSED, "b.apk"}
        assert names(box) == [f"N - {COMPOSED}", "N - b.apk"]


async def test_what_one_spelling_left_behind_the_other_resumes(tmp_path: Path) -> None:
    (made,) = make(tmp_path, COMPOSED, size=2 * PART + 5)
    os.link(made, tmp_path / DECOMPOSED)
    home = tmp_path / "home"
    home.mkdir()
    said = ("-n", "N", "--multipart", "--resume", "--json")
    async with Sandbox(part_size=PART) as box:
        env = on_macos({**box.environment, "HOME": str(home)}, tmp_path / "site")
        box.add_fault(Fault(on="put_part", part=3, status=400))
        first = await run("upload", COMPOSED, *said, env=env, cwd=tmp_path)
        assert first.code == 1, first.err
        # Where macOS keeps what programs have to remember; nothing else came to be.
        place = home / "Library" / "Application Support" / "nunu_async" / "uploads"
        assert [path for path in home.rglob("*") if path.is_file()] == list(place.iterdir())
        second = await run("upload", DECOMPOSED, *said, env=env, cwd=tmp_path)
        assert second.code == 0, second.err
        assert list(place.iterdir()) == []
        ((build_id, upload),) = box.uploads.items()
        assert upload.state == "completed"
        assert box.read_object(build_id) == made.read_bytes()


async def test_an_app_is_refused_before_its_platform_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "My Game.app" / "Contents").mkdir(parents=True)
    async with Sandbox() as box:
        for name in ("My Game.app", "My Game.app/"):  # as a shell completes it
            ran = await run("upload", name, "-n", "N", env=box.environment, cwd=tmp_path)
            assert ran.code == 2
            ran.tells("My Game.app", "is a directory", "ditto -c -k --keepParent")
        assert len(box.journal) == 0
