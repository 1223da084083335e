"""What the command line takes: values that begin with a hyphen, whole names of options."""

import subprocess
import sys
from pathlib import Path

import pytest
from cli_tools import environment, make, run

from nunu_async import ConfigError
from nunu_async.cli.arguments import parse
from nunu_async.core.tls import check_key_log
from nunu_async.sandbox import Sandbox

WAIT = "--deployment-config D --test -t-"


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("upload a --name -nightly-", {"name": "-nightly-", "json": False}),
        ("upload a -n -nightly- --json", {"name": "-nightly-", "json": True}),
        ("upload --name -nightly- a b", {"name": "-nightly-", "files": ["a", "b"]}),
        ("upload a -n -dev -d -v1 --tags -x,y", {"name": "-dev", "description": "-v1"}),
        ("upload a -n N --tags -x --tags -y", {"tags": ["-x", "-y"]}),
        ("upload a --name=--x --description=-", {"name": "--x", "description": "-"}),
        ("upload -n N -- -a --name", {"name": "N", "files": ["-a", "--name"]}),
        (f"ci a --name -42 {WAIT}", {"name": "-42", "multiplayer_test_id": "-t-"}),
        (f"runs start --tags -q {WAIT} --retries 3", {"additional_tags": ["-q"], "retries": 3}),
        ("wait run R --timeout 5 --json", {"timeout": 5.0, "json": True}),
    ],
)
def test_a_value_may_begin_with_a_hyphen(said: str, found: dict[str, object]) -> None:
    arguments = vars(parse(said.split()))
    assert {name: arguments[name] for name in found} == found


@pytest.mark.parametrize("said", ["--name --json", "--name --nightly", "--name -d D", "--name"])
def test_a_missing_value_is_missed_and_explained(
    said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["upload", "a", *said.split()])
    assert ended.value.code == 2
    err = capsys.readouterr().err
    assert "expected one argument" in err
    assert "--x=-y" in err


@pytest.mark.parametrize(
    "said",
    [
        "upload a --nam N",
        "upload a --name N --js",
        "upload a --name N --resum",
        "uploads list --js",
        "runs list --lim 3",
        "runs start --deployment D --test T",
        "executions list --js",
        "wait run R --time 3",
        f"ci a --name N {WAIT} --jun x",
        "sandbox --env x",
        "--vers",
    ],
)
def test_options_are_not_abbreviated(said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each would become another's, or none's, with an option that comes later."""
    with pytest.raises(SystemExit) as ended:
        parse(said.split())
    assert ended.value.code == 2
    assert "usage: " in capsys.readouterr().err


async def test_a_name_with_a_hyphen_reaches_the_server(tmp_path: Path) -> None:
    make(tmp_path, "a.apk")
    async with Sandbox() as box:
        said = ["upload", "a.apk", "--name", "-nightly-"]
        ran = await run(*said, env=box.environment, cwd=tmp_path)
        assert (ran.code, ran.err) == (0, "")
        assert [upload.name for upload in box.uploads.values()] == ["-nightly-"]


@pytest.mark.parametrize("said", ["upload a.apk --name N", "runs list", "uploads list", "demo"])
@pytest.mark.parametrize("place", ["no/such/folder/keys", "."])
async def test_an_unusable_file_for_tls_keys_is_one_sentence(
    tmp_path: Path, said: str, place: str
) -> None:
    env = {"SSLKEYLOGFILE": str(tmp_path / place), "NUNU_API_KEY": "nunu_key_for_tests_0123"}
    ran = await run(*said.split(), env=env, cwd=tmp_path)
    assert ran.code == 2
    assert ran.err.startswith("nunu-async: SSLKEYLOGFILE: ")
    assert len(ran.err.splitlines()) == 1


def test_it_is_a_config_error_from_python(tmp_path: Path) -> None:
    for code in ("from nunu_async import NunuClient", "import nunu_async; nunu_async.NunuClient"):
        done = subprocess.run(  # noqa: S603 - this interpreter, and code from this file
            [sys.executable, "-c", code],
            env=environment({"SSLKEYLOGFILE": str(tmp_path / "no" / "keys")}),
            capture_output=True,
            text=True,
            check=False,
        )
        last = done.stderr.splitlines()[-1]
        assert last.startswith("nunu_async.errors.ConfigError: SSLKEYLOGFILE: ")
    with pytest.raises(ConfigError, match=r"SSLKEYLOGFILE: .* cannot be written"):
        check_key_log({"SSLKEYLOGFILE": str(tmp_path)})
    check_key_log({"SSLKEYLOGFILE": str(tmp_path / "keys")})
    check_key_log({"SSLKEYLOGFILE": ""})
    check_key_log({})


@pytest.mark.parametrize("said", [["--help"], ["upload", "--help"], ["wait", "--help"]])
async def test_the_help_names_the_exit_codes_of_signals(said: list[str]) -> None:
    ran = await run(*said, env={})
    assert "130 Ctrl-C, 143 SIGTERM, 129 SIGHUP" in ran.out
