"""Every code block of the README is run, and every test it names exists."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import sys
import tomllib
from pathlib import Path

import attrs
import pytest
from doubles import until

from nunu_async import UploadedBuild
from nunu_async.sandbox import Sandbox, Script

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
PYTHON = [text for kind, text in BLOCKS if kind == "python"]
SHELL = [text.strip() for kind, text in BLOCKS if kind == "sh"]
SETUP = [line for line in SHELL if line.startswith("python -m pip install ")]
COMMANDS = [line for line in SHELL if line not in SETUP]


@pytest.fixture
def room(tmp_path: Path) -> Path:
    """A folder with the files that the README speaks of."""
    (tmp_path / "out").mkdir()
    for name in ("game.apk", "game.zip", "out/a.apk", "out/b.apk"):
        (tmp_path / name).write_bytes(os.urandom(2_500_000))
    return tmp_path


async def run(box: Sandbox, room: Path, *command: str) -> str:
    child = await asyncio.create_subprocess_exec(
        *command,
        cwd=room,
        env=os.environ | box.environment | {"PYTHONWARNINGS": "error"},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await child.communicate()
    assert child.returncode == 0
    return out.decode()


def script_for(text: str) -> Script:
    """What is waited for is over at the first look."""
    if re.search(r"wait| ci ", text):
        return Script(initialize_seconds=0, run_seconds=0)
    return Script()


def test_no_block_is_of_a_kind_that_nothing_runs() -> None:
    assert {kind for kind, _ in BLOCKS} == {"python", "sh", "json"}
    assert (len(PYTHON), len(SETUP), len(COMMANDS)) == (10, 2, 9)
    assert all("nunu-async " in text for text in COMMANDS)


@pytest.mark.parametrize("text", PYTHON, ids=range(len(PYTHON)))
async def test_every_python_block_runs(room: Path, text: str) -> None:
    async with Sandbox(script=script_for(text)) as box:
        await run(box, room, sys.executable, "-c", text)


def test_the_first_example_is_short() -> None:
    lines = [line for line in PYTHON[0].splitlines() if line.strip()]
    assert len(lines) <= 15


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no sh")
@pytest.mark.parametrize("text", COMMANDS, ids=range(len(COMMANDS)))
async def test_every_command_runs(room: Path, text: str) -> None:
    """In a shell, with `nunu-async` being this very interpreter's."""
    bin_folder = room / "bin"
    bin_folder.mkdir()
    script = bin_folder / "nunu-async"
    command = f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m nunu_async "$@"\n'
    script.write_bytes(os.fsencode(command))
    script.chmod(0o755)
    async with Sandbox(script=script_for(text)) as box:
        child = await asyncio.create_subprocess_exec(
            *("/bin/sh", "-ec", text),
            cwd=room,
            env=os.environ
            | box.environment
            | {"PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}", "PYTHONWARNINGS": "error"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        out, _ = await child.communicate()
        assert child.returncode == 0
        if " sandbox" in text:
            assert out.count(b"\n") == 6  # of its own runs, and not of those here
            assert not box.journal
            await until(lambda: not (room / "sandbox.env").exists())
        elif " runs get" in text:
            assert [seen.operation for seen in box.journal] == [
                *("start_run", "list_runs", "get_run", "list_run_bugs", "stop_runs")
            ]
        if " upload" in text:
            await until(lambda: {u.state for u in box.uploads.values()} == {"completed"})


async def test_the_json_shown_has_the_shape_that_is_printed(room: Path) -> None:
    (shown,) = [json.loads(text) for kind, text in BLOCKS if kind == "json"]
    async with Sandbox() as box:
        command = [sys.executable, "-m", "nunu_async", "upload", "out/a.apk", "-n", "N", "--json"]
        printed = json.loads(await run(box, room, *command))
    assert list(shown) == list(printed)
    assert list(shown["builds"][0]) == list(printed["builds"][0])
    assert set(shown["builds"][0]) == {"file", *attrs.fields_dict(UploadedBuild)}


def test_the_two_commands_install_what_the_project_declares() -> None:
    """`.ci/run` takes both, word for word as they stand here, in fresh environments."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert SETUP == [
        "python -m pip install . && python -m nunu_async demo",
        "python -m pip install '.[test]' && python -m pytest",
    ]
    assert "test" in project["optional-dependencies"]
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for line in SETUP:
        start = line.partition(" ")[2].partition("&&")[0] + "&&"
        assert f"from_readme '{start}'" in script or f'from_readme "{start}"' in script


def test_every_test_that_the_readme_names_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", README)
    assert len(named) >= 8
    for file, name in named:
        text = (ROOT / file).read_text(encoding="utf-8")
        assert re.search(rf"^(async )?def {name}\(", text, re.MULTILINE), f"{file}::{name}"


def test_every_benchmark_that_the_readme_names_exists() -> None:
    for name in re.findall(r"`python -m (benchmarks[\w.]*)`", README):
        assert (ROOT / (name.replace(".", "/") + ".py")).exists(), name
