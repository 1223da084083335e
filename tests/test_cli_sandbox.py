"""`nunu-async sandbox`: a file that leads to it, the ids in it, and runs to begin with."""

import asyncio
import json
import os
import re
import shlex
import signal
import stat
import sys
from pathlib import Path

import pytest
from cli_tools import Running, listing, run, started, together, until

EXPORT = re.compile(r"export (NUNU_\w+)=(\S+)")
SET = re.compile(r'set "(NUNU_\w+)=(\S+)"')


def settings(text: str, line: re.Pattern[str] = EXPORT) -> dict[str, str]:
    """Read what would be sourced; nothing else may be in it."""
    lines = [line.fullmatch(one) for one in text.splitlines()]
    assert all(lines), text
    return dict(match.groups() for match in lines if match)


async def ready(file: Path) -> dict[str, str]:
    await until(file.exists)
    return settings(file.read_text())  # noqa: ASYNC240 - three lines


def is_private(file: Path) -> bool:
    """Tell whether only the owner may read a file; Windows has no modes, and goes by the folder."""
    return os.name == "nt" or stat.S_IMODE(file.stat().st_mode) == 0o600


async def ended(server: Running, which: int = signal.SIGTERM) -> None:
    server.send_signal(which)
    ran = await server.end()
    assert ran.code == 0


async def test_the_file_exists_exactly_while_the_sandbox_is_ready(
    tmp_path: Path,
) -> None:
    file = tmp_path / "sandbox.env"
    for which in (signal.SIGINT, signal.SIGTERM):
        async with started("sandbox", "--env-file", file, env={}) as server:
            env = await ready(file)
            assert set(env) == {"NUNU_BASE_URL", "NUNU_API_KEY", "NUNU_PROJECT_ID"}
            assert is_private(file)
            assert listing(tmp_path) == ["sandbox.env"]
            ran = await run("runs", "list", "--json", env=env)
            assert (ran.code, ran.out) == (0, "[]\n")
            # How to end it when it is not in the foreground.
            kill = "taskkill /F /PID" if os.name == "nt" else "kill"
            await server.says(f"Ctrl-C or `{kill} {server.process.pid}` ends it")
            assert server.out == ""
            await ended(server, which)
        assert listing(tmp_path) == []


async def test_what_a_killed_sandbox_left_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "sandbox.env"
    file.write_text("export NUNU_BASE_URL=http://127.0.0.1:9/api/v1\n")
    file.chmod(0o644)
    async with started("sandbox", "--env-file", file, env={}) as server:
        await server.says("is running")
        assert "127.0.0.1:9/" not in file.read_text()
        assert is_private(file)
        # Another sandbox that takes the file over keeps it.
        async with started("sandbox", "--env-file", file, env={}) as other:
            await other.says("is running")
            await ended(server)
            assert (await ready(file))["NUNU_BASE_URL"].startswith("http://127.0.0.1:")
            await ended(other)
    assert listing(tmp_path) == []


async def test_a_foreign_file_is_left_alone(tmp_path: Path) -> None:
    mine, room = tmp_path / "mine", tmp_path / "room"
    mine.write_text("export PATH=/bin\n")
    room.mkdir()
    irregular = [room]
    if os.name != "nt":  # has neither
        irregular += [tmp_path / "link", tmp_path / "pipe"]
        irregular[1].symlink_to("/dev/null")
        os.mkfifo(irregular[2])
    some = await together(
        *(run("sandbox", "--env-file", file, env={}) for file in (mine, *irregular)),
        run("sandbox", "--env-file", tmp_path / "no" / "file", env={}),
    )
    wanted = [(2, "no sandbox wrote it"), *[(2, "no regular file")] * len(irregular)]
    for ran, (code, words) in zip(some, [*wanted, (1, "No such file or directory")], strict=True):
        assert (ran.code, ran.out) == (code, "")
        assert words in ran.err.splitlines()[-1]
    assert mine.read_text() == "export PATH=/bin\n"
    assert listing(tmp_path) == sorted(path.name for path in (mine, *irregular))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no sh")
async def test_a_shell_can_wait_for_the_file(tmp_path: Path) -> None:
    """As the README does it, and from a key that must never be used."""
    command = f"{shlex.quote(sys.executable)} -m nunu_async"
    script = (
        f"{command} sandbox --env-file here --sample-runs 3 &\n"
        "until [ -s here ]; do sleep 0.05; done\n. ./here\n"
        f"{command} runs list --json\nkill $!\nwait $!\n"
    )
    process = await asyncio.create_subprocess_exec(
        *("sh", "-ec", script),
        cwd=tmp_path,
        env=os.environ | {"NUNU_API_KEY": "nunu_real_key", "NUNU_BASE_URL": "http://127.0.0.1:9"},
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(20):
        out, _ = await process.communicate()
    assert process.returncode == 0
    assert len(json.loads(out)) == 3
    assert listing(tmp_path) == []


@pytest.mark.parametrize("dialect", ["J", "M", "L", "N", "j"])
async def test_the_printed_settings_are_enough_to_start_with(dialect: str) -> None:
    said = ["sandbox", "--sample-runs", "12", "--dialect", dialect]
    async with started(*said, env={}) as server:
        await server.says("is running")
        await server.says("NUNU_PROJECT_ID")
        env = settings(server.out, SET if os.name == "nt" else EXPORT)
        ids = {
            kind: re.findall(rf"nunu-async: {kind} +([0-9a-f-]{{36}})  \S", server.err)
            for kind in ("deployment config", "test", "test plan")
        }
        assert all(ids.values())
        config = ["--deployment-config", ids["deployment config"][0]]
        one, plan, runs, executions = await together(
            run("runs", "start", *config, "--test", ids["test"][0], env=env),
            run("runs", "start", *config, "--test-plan", ids["test plan"][0], env=env),
            run("runs", "list", "--tags", "nightly", "--json", env=env),
            run("executions", "list", "--json", env=env),
        )
        assert (one.code, one.err) == (0, "")
        assert plan.code == 0
        found = json.loads(runs.out)
        assert len(found) == 12
        states = [row["state"].lower() for row in found]
        assert (states[0], set(states[1:])) == ("running", {"completed"})
        assert any(row["bug_info"] and row["bug_info"]["bug_count"] for row in found)
        assert len(json.loads(executions.out)) >= 3
        await ended(server)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("sandbox.ps1", re.compile(r"\$env:(NUNU_\w+) = '(\S+)'")),
        ("sandbox.cmd", SET),
        ("SANDBOX.BAT", SET),
    ],
)
async def test_the_file_is_for_the_shell_that_its_suffix_names(
    tmp_path: Path, name: str, line: re.Pattern[str]
) -> None:
    file = tmp_path / name
    for _ in range(2):  # the second one replaces what the first one left
        async with started("sandbox", "--env-file", file, env={}) as server:
            await server.says("the sandbox is running")
            text = file.read_bytes().decode()
            env = settings(text, line)
            assert "\r" not in text
            assert (await run("runs", "list", "--json", env=env)).out == "[]\n"
            server.process.kill()
            await server.process.wait()
        assert file.exists()
