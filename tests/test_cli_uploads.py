"""`nunu-async upload --resume` and `nunu-async uploads`: what is left behind, and settled."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
from cli_tools import SOON, Ran, make, run, started, together, until
from uploads import stalled, states

from nunu_async.sandbox import Fault, Sandbox
from nunu_async.upload.journal import head_line, read

PARTS = 12
SAID = ["--platform", "linux", "--multipart", "--resume"]


@pytest.fixture
async def box() -> AsyncIterator[Sandbox]:
    async with Sandbox(part_size=1000) as sandbox:
        yield sandbox


@pytest.fixture
def env(box: Sandbox, tmp_path: Path) -> dict[str, str]:
    return box.environment | {"NUNU_STATE_DIR": str(tmp_path / "state")}


async def leave(
    box: Sandbox, env: Mapping[str, str], folder: Path, *names: str, done: int = 5
) -> Ran:
    """Begin uploads one by one, and end each with Ctrl-C when `done` of its parts are sent."""
    for name in names:
        make(folder, name, size=PARTS * 1000)
        box.add_fault(Fault(on="put_part", first=done + 1, times=4, do="stall"))
        before = stalled(box)
        said = ["upload", name, "-n", f"N {name}", *SAID]
        async with started(*said, env=env, cwd=folder, warm=True) as one:
            await until(lambda before=before: stalled(box) == before + 4)
            one.send_signal(signal.SIGINT)
            ran = await one.end(within=SOON)
    return ran


async def rows(env: Mapping[str, str]) -> list[dict[str, Any]]:
    ran = await run("uploads", "list", "--json", env=env)
    assert (ran.code, ran.err) == (0, "")
    found: list[dict[str, Any]] = json.loads(ran.out)
    return found


async def test_ctrl_c_keeps_the_upload_and_says_what_can_be_done(
    box: Sandbox, env: dict[str, str], tmp_path: Path
) -> None:
    ran = await leave(box, env, tmp_path, "game.zip")
    (build_id,) = box.uploads
    assert ran.code == 130
    ran.tells("game.zip: stopped", f"uploads cancel {build_id}", f"5 of {PARTS} parts")
    assert states(box) == ["uploading"]
    ran = await run("upload", "game.zip", "-n", "N game.zip", *SAID, env=env, cwd=tmp_path)
    assert (ran.code, ran.err) == (0, "")
    assert build_id in ran.out
    assert states(box) == ["completed"]
    assert box.read_object(build_id) == (tmp_path / "game.zip").read_bytes()
    assert len(box.journal.of("put_part")) == PARTS + 4
    assert await rows(env) == []


async def test_a_failure_keeps_it_too_and_says_so(
    box: Sandbox, env: dict[str, str], tmp_path: Path
) -> None:
    make(tmp_path, "game.zip", size=PARTS * 1000)
    box.add_fault(Fault(on="put_part", part=3, status=400))
    ran = await run("upload", "game.zip", "-n", "N", "--json", *SAID, env=env, cwd=tmp_path)
    assert ran.code == 1
    (failure,) = ran.report["failed"]
    (build_id,) = box.uploads
    assert failure["error"] == "UploadError"
    assert f"nunu-async uploads cancel {build_id}" in failure["message"]
    assert states(box) == ["uploading"]


async def test_what_is_left_behind_is_listed(
    box: Sandbox, env: dict[str, str], tmp_path: Path
) -> None:
    nothing = await run("uploads", "list", env=env)
    assert (nothing.code, nothing.out) == (0, "")
    nothing.tells("nothing was left behind")
    await leave(box, env, tmp_path, "a.zip", "b.zip", "c.zip", "d.zip")
    (tmp_path / "b.zip").unlink()
    os.utime(tmp_path / "c.zip", ns=(1, 1))
    listed = await rows(env)
    first = listed[0]
    assert first.pop("began").startswith("20")
    assert first == {
        "build_id": next(iter(box.uploads)),
        "state": "ready",
        "file": str(tmp_path / "a.zip"),
        "name": "N a.zip",
        "platform": "linux",
        "size": PARTS * 1000,
        "parts": PARTS,
        "done": 5,
        "base_url": box.base_url,
        "project_id": box.project_id,
    }
    assert [row["build_id"] for row in listed] == list(box.uploads)
    assert [row["state"] for row in listed] == ["ready", "missing", "changed", "ready"]
    # Without a key, and from elsewhere.
    away = {"NUNU_STATE_DIR": env["NUNU_STATE_DIR"]}
    assert {row["state"] for row in await rows(away)} == {"elsewhere"}
    table = await run("uploads", "list", env=env | {"COLUMNS": "200"})
    assert table.code == 0
    assert table.out.count("\n") == 5
    for word in (*box.uploads, "5/12", "12.0 kB", "missing", str(tmp_path / "a.zip"), "N d.zip"):
        assert word in table.out
    # Where not all fit: what tells uploads apart, and how one is named to a command.
    for columns, build in ((60, False), (80, True)):
        narrow = await run("uploads", "list", env=env | {"COLUMNS": str(columns)})
        titles, *lines = narrow.out.splitlines()
        assert {"STATE", "AGE", "FILE", "NAME"} <= set(titles.split())
        assert ("BUILD" in titles) == build
        assert max(map(len, (titles, *lines))) <= columns
        for line, name in zip(lines, "abcd", strict=True):
            assert re.search(rf"  …\S*/{name}\.zip +N ", line)  # the end of its path
        narrow.tells("not shown for want of room")
    for upload in box.uploads.values():
        assert upload.upload_id is not None
        assert upload.upload_id not in table.out + table.err + json.dumps(listed)
    assert states(box) == ["uploading"] * 4


async def test_one_that_is_left_is_resumed_without_a_name(
    box: Sandbox, env: dict[str, str], tmp_path: Path
) -> None:
    await leave(box, env, tmp_path, "game.zip")
    ran = await run("uploads", "resume", env=env)
    assert (ran.code, ran.err) == (0, "")
    (build_id,) = box.uploads
    assert build_id in ran.out
    assert box.read_object(build_id) == (tmp_path / "game.zip").read_bytes()
    assert len(box.journal.of("put_part")) == PARTS + 4
    again = await run("uploads", "resume", env=env)
    assert (again.code, again.out) == (0, "")
    again.tells("nothing was left behind")


async def test_what_was_to_be_verified_is_verified_when_it_is_resumed(
    box: Sandbox, env: dict[str, str], tmp_path: Path
) -> None:
    make(tmp_path, "game.zip", size=PARTS * 1000)
    box.add_fault(Fault(on="put_part", first=6, times=4, do="stall"))
    said = ("upload", "game.zip", "-n", "N", "--verify", *SAID)
    async with started(*said, env=env, cwd=tmp_path) as one:
        await until(lambda: stalled(box) == 4)
        one.send_signal(signal.SIGINT)
        await one.end(within=SOON)
    box.add_fault(Fault(on="put_part", times=1, do="corrupt"))
    ran = await run("uploads", "resume", "--json", env=env)
    (build,) = ran.report["builds"]
    assert (build["parts"], build["verified"]) == (PARTS, PARTS - 5)
    assert box.read_object(build["build_id"]) == (tmp_path / "game.zip").read_bytes()


async def test_all_are_resumed_that_can_be(
    box: Sandbox, env: dict[str, str], tmp_path: Path
) -> None:
    await leave(box, env, tmp_path, "a.zip", "b.zip", "c.zip")
    (tmp_path / "b.zip").unlink()
    unclear = await run("uploads", "resume", env=env)
    assert unclear.code == 2
    unclear.tells("--all", *box.uploads)
    ran = await run("uploads", "resume", "--all", "--json", env=env)
    assert ran.code == 1
    assert [build["build_id"] for build in ran.report["builds"]] == [
        build_id for build_id, upload in box.uploads.items() if upload.state == "completed"
    ]
    (failure,) = ran.report["failed"]
    assert failure["file"] == str(tmp_path / "b.zip")
    assert "is not there any more" in failure["message"]
    assert states(box) == ["completed", "uploading", "completed"]
    assert [row["state"] for row in await rows(env)] == ["missing"]


async def test_a_forgotten_upload_is_sent_anew_with_its_first_options(
    box: Sandbox, env: dict[str, str], tmp_path: Path
) -> None:
    make(tmp_path, "game.zip", size=PARTS * 1000)
    box.add_fault(Fault(on="put_part", part=3, status=400))
    said = ["-n", "N", "-d", "words", "--tags", "a,b", *SAID]
    assert (await run("upload", "game.zip", *said, env=env, cwd=tmp_path)).code == 1
    box.add_fault(Fault(on="get_upload_parts", status=404))
    assert (await run("uploads", "resume", env=env)).code == 0
    assert states(box) == ["cancelled", "completed"]
    first, second = (seen.body for seen in box.journal.of("initiate_upload"))
    assert first == second
    assert await rows(env) == []


async def test_cancelling_frees_them_here_and_there(
    box: Sandbox, env: dict[str, str], tmp_path: Path
) -> None:
    await leave(box, env, tmp_path, "a.zip", "b.zip", "c.zip", "d.zip")
    one, two, *others = box.uploads
    # By id and by file.
    ran = await run("uploads", "cancel", one, "b.zip", env=env, cwd=tmp_path)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == f"cancelled build {one}\ncancelled build {two}\n"
    assert states(box) == ["cancelled", "cancelled", "uploading", "uploading"]
    unknown = await run("uploads", "cancel", one, env=env)
    assert unknown.code == 2
    unknown.tells("was left behind")
    box.add_fault(Fault(on="cancel_upload", status=400))
    ran = await run("uploads", "cancel", "--all", env=env)
    assert ran.code == 1
    ran.tells("could not be cancelled", others[0])
    assert [row["build_id"] for row in await rows(env)] == [others[0]]
    assert (await run("uploads", "cancel", env=env)).code == 0
    assert states(box) == ["cancelled"] * 4
    assert await rows(env) == []


async def test_a_build_that_is_complete_is_not_deleted(
    box: Sandbox, env: dict[str, str], tmp_path: Path
) -> None:
    make(tmp_path, "game.zip", size=PARTS * 1000)
    box.add_fault(Fault(on="complete_upload", do="stall", effect=True))
    async with started("upload", "game.zip", "-n", "N", *SAID, env=env, cwd=tmp_path) as one:
        await until(lambda: [s for s in box.journal.of("complete_upload") if s.outcome != "open"])
        one.process.kill()
        await one.process.wait()
    assert [row["state"] for row in await rows(env)] == ["completing"]
    ran = await run("uploads", "cancel", env=env)
    assert ran.code == 0
    assert "is complete" in ran.out
    assert states(box) == ["completed"]
    assert not box.journal.of("cancel_upload")
    assert await rows(env) == []


async def test_those_of_another_project_are_shown_and_skipped(
    box: Sandbox, env: dict[str, str], tmp_path: Path
) -> None:
    await leave(box, env, tmp_path, "game.zip")
    (build_id,) = box.uploads
    before = len(box.journal)
    other = env | {"NUNU_PROJECT_ID": "another"}
    for action in ("cancel", "resume"):
        ran, named = await together(
            run("uploads", action, "--all", env=other), run("uploads", action, build_id, env=other)
        )
        assert (ran.code, named.code) == (0, 1)
        for each in (ran, named):
            each.tells(build_id, "left behind at", box.project_id, "skipped")
    assert len(box.journal) == before
    assert [row["state"] for row in await rows(env)] == ["ready"]


def age(state: Path, seconds: float) -> None:
    """Have the one upload that was left behind begun so much earlier."""
    (journal,) = state.glob("uploads/*.jsonl")
    kept = read(journal.read_bytes())
    assert kept is not None
    head = attrs.evolve(kept.head, began=kept.head.began - seconds)
    journal.write_bytes(head_line(head)[0])


async def test_those_of_another_key_are_skipped_where_no_project_is_named(
    box: Sandbox, env: dict[str, str], tmp_path: Path
) -> None:
    del env["NUNU_PROJECT_ID"]
    await leave(box, env, tmp_path, "game.zip")
    (build_id,) = box.uploads
    before = len(box.journal)
    other = env | {"NUNU_API_KEY": "nunu_of_another_project"}
    ran = await run("uploads", "cancel", build_id, env=other)
    assert ran.code == 1
    ran.tells(build_id, "with the key of then", "skipped")
    assert len(box.journal) == before
    without = {name: value for name, value in env.items() if name != "NUNU_API_KEY"}
    assert [row["state"] for row in await rows(without)] == ["ready"]
    assert [row["state"] for row in await rows(other)] == ["elsewhere"]
    # A day later the server has forgotten it, and the key may have been replaced.
    age(Path(env["NUNU_STATE_DIR"]), 86_401)
    assert [row["state"] for row in await rows(other)] == ["ready"]


async def test_ctrl_c_while_resuming_leaves_it_for_the_next_time(
    box: Sandbox, env: dict[str, str], tmp_path: Path
) -> None:
    await leave(box, env, tmp_path, "game.zip")
    box.add_fault(Fault(on="put_part", first=3, times=4, do="stall"))
    async with started("uploads", "resume", env=env) as one:
        await until(lambda: stalled(box) == 8)
        one.send_signal(signal.SIGINT)
        ran = await one.end(within=SOON)
    assert ran.code == 130
    ran.tells("stopped", "is kept on the server")
    assert [row["done"] for row in await rows(env)] == [7]
    assert (await run("uploads", "resume", env=env)).code == 0
    assert states(box) == ["completed"]


@pytest.mark.parametrize("said", [[], ["sweep"], ["cancel", "--all", "b-1"], ["list", "b-1"]])
async def test_what_cannot_be_meant_is_a_usage_error(env: dict[str, str], said: list[str]) -> None:
    assert (await run("uploads", *said, env=env)).code == 2


async def test_settling_needs_a_key(env: dict[str, str]) -> None:
    for action in ("resume", "cancel"):
        ran = await run("uploads", action, env=env | {"NUNU_API_KEY": ""})
        assert ran.code == 2
        ran.tells("no API key")
