"""Users without a home directory, as of cron and of containers, and a `~` that no shell expands."""

import json
import os
import sys
from pathlib import Path

import platformdirs
import pytest
from cli_tools import Ran, listing, make, run

from nunu_async import ConfigError, NunuClient
from nunu_async.sandbox import Fault, Sandbox

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows finds homes elsewhere")

HOMELESS = """
import os, pwd
os.environ.pop("HOME", None)
def getpwuid(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = getpwuid
"""
RESUMING = "upload a.apk --name N --multipart --resume"


async def homeless(said: str, folder: Path, *envs: dict[str, str]) -> Ran:
    """Run a command as a user of whom the system knows no home directory."""
    (folder / "sitecustomize.py").write_text(HOMELESS)
    path = os.pathsep.join((str(folder), os.environ["PYTHONPATH"]))
    env = {"PYTHONPATH": path}
    for more in envs:
        env |= more
    return await run(*said.split(), env=env, cwd=folder)


@pytest.mark.parametrize(
    "said", ["uploads list", "uploads resume", "uploads cancel", RESUMING, f"{RESUMING} --json"]
)
@pytest.mark.parametrize("place", [{}, {"NUNU_STATE_DIR": "~/state"}], ids=["none", "tilde"])
async def test_without_a_home_directory_it_says_what_to_set(
    tmp_path: Path, said: str, place: dict[str, str]
) -> None:
    make(tmp_path, "a.apk")
    async with Sandbox() as box:
        ran = await homeless(said, tmp_path, box.environment, place)
        assert ran.code == 2
        assert len(box.journal) == 0
    assert "NUNU_STATE_DIR" in (ran.out if "--json" in said else ran.err)
    assert "no home directory" in ran.out + ran.err
    assert "~" not in listing(tmp_path)


async def test_what_keeps_no_journal_needs_no_home_directory(tmp_path: Path) -> None:
    make(tmp_path, "a.apk")
    async with Sandbox() as box:
        place = {"NUNU_STATE_DIR": str(tmp_path / "state")}
        for said, env in (("upload a.apk --name N", {}), (RESUMING, place), ("runs list", {})):
            ran = await homeless(said, tmp_path, box.environment, env)
            assert (ran.code, "home" in ran.err) == (0, False)


@pytest.mark.parametrize("given", ["~/.local/state/nunu_async", "", "relative"])
async def test_nothing_is_kept_where_the_system_names_no_place(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some versions of platformdirs give back a `~` that they could not expand."""
    (file,) = make(tmp_path, "a.apk")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NUNU_STATE_DIR", raising=False)
    monkeypatch.setattr(platformdirs, "user_state_dir", lambda *_, **__: given)
    async with Sandbox() as box, NunuClient(box.api_key, base_url=box.base_url) as nunu:
        with pytest.raises(ConfigError, match="set NUNU_STATE_DIR to a folder"):
            await nunu.upload_build(file, name="N", resume=True)
        assert len(box.journal) == 0
    assert listing(tmp_path) == ["a.apk"]


async def test_a_tilde_is_expanded_in_every_setting_that_is_a_path(tmp_path: Path) -> None:
    home = tmp_path / "home"
    make(home, "builds/a.apk", "builds/b.apk", size=3000)
    (home / "data.json").write_text("{}")
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    async with Sandbox(part_size=1000) as box:
        env = box.environment | {"HOME": str(home), "NUNU_STATE_DIR": "~/state"}
        box.add_fault(Fault(on="put_part", part=2, status=400))
        said = [*RESUMING.split()[2:], "--json", "--platform", "linux"]
        ran = await run("upload", "~/builds/a.*", *said, env=env, cwd=cwd)
        assert (ran.code, ran.report["failed"][0]["file"]) == (1, str(home / "builds/a.apk"))
        listed = await run("uploads", "list", "--json", env=env, cwd=cwd)
        assert [row["file"] for row in json.loads(listed.out)] == [str(home / "builds/a.apk")]
        run_id = ["--deployment-config", box.deployment_configs[0].id, "--test", box.tests[0].id]
        box.add_fault(Fault(on="start_run", status=400))
        ran = await run(
            "ci", "~/builds/b.apk", "--name", "N", "--junit=~/out.xml", *run_id, env=env, cwd=cwd
        )
        assert ran.code == 1
        ran = await run(
            *("runs", "start", "--template-data=@~/data.json", "--render-templates", *run_id),
            env=env,
            cwd=cwd,
        )
        assert ran.code == 0
    assert listing(cwd) == []
    assert listing(home) == ["builds", "data.json", "out.xml", "state"]


async def test_a_tilde_is_expanded_from_python_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (file,) = make(tmp_path, "a.apk", size=3000)
    async with (
        Sandbox(part_size=1000) as box,
        NunuClient(box.api_key, base_url=box.base_url, state_dir="~/state") as nunu,
    ):
        await nunu.upload_build(file, name="N", multipart=True, resume=True)
    assert listing(tmp_path) == ["a.apk", "state"]
