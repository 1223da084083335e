"""What a CI runner reads of a command: no text of the server is one to it, no key is shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_tools import make, run, together
from disclosed import OBEYED

from nunu_async.cli.arguments import build_parser
from nunu_async.sandbox import Fault, MultiplayerTest, Sandbox, Script, Step

SEEN = "a sign reads ##vso[task.setvariable variable=DEPLOY]yes and ##[set-output name=a]true"
SAID = f"::error::{SEEN}\n::add-mask::e\n##teamcity[message text='x']\nsection_start:1:a\r\x1b[0K"
TEST = MultiplayerTest(
    id="7e570000-0000-4000-8000-00000000aaaa",
    name="::error::x",
    script=Script(
        result="FAILED",
        initialize_seconds=0,
        run_seconds=0,
        steps=[Step(goal=f"::warning::{SEEN}", result="FAILED", report=SAID)],
    ),
)


@pytest.mark.parametrize("columns", ["60", "200"])
async def test_no_text_of_the_server_is_a_command_to_a_ci_runner(
    tmp_path: Path, columns: str
) -> None:
    """`cli_tools` looks at the output of every command; JSON has the texts as they are."""
    (game,) = make(tmp_path, "game.apk")
    async with Sandbox() as box:
        box.tests = [TEST]
        env = {**box.environment, "COLUMNS": columns, "FORCE_COLOR": "1"}
        config = box.deployment_configs[0].id
        plan = ("--deployment-config", config, "--test", TEST.id, "--interval", "0.1")
        ci = await run("ci", game, "-n", "n", *plan, env=env)
        assert ci.code == 1
        assert "::error::" in ci.err  # behind other words, where it is none
        ran = box.runs[0].run_id
        shown, exact, listed, bugs, waited = await together(
            run("runs", "get", ran, env=env),
            run("runs", "get", ran, "--json", env=env),
            run("runs", "list", env=env),
            run("runs", "bugs", ran, env=env),
            run("wait", "run", ran, env=env),
        )
    assert "# #vso[" in shown.out
    assert "# #teamcity[" in shown.out
    assert OBEYED.search(exact.out)
    assert [one.code for one in (shown, exact, listed, bugs, waited)] == [0, 0, 0, 0, 1]


async def test_no_error_of_the_server_is_a_command_to_a_ci_runner(tmp_path: Path) -> None:
    (game,) = make(tmp_path, "game.apk")
    faults = [
        Fault(on="initiate_upload", status=400, body={"error": SAID}, times=None),
        Fault(on="list_runs", status=400, body={"error": SAID, "code": SAID}, times=None),
        Fault(on="get_run", status=503, body={"error": SAID}),
        Fault(on="get_run", status=404, body={"error": SAID}, first=2),
    ]
    async with Sandbox(faults=faults) as box:
        env = {**box.environment, "NUNU_LOG": "debug"}
        ran = await together(
            run("upload", game, "-n", "n", env=env),
            run("upload", game, "-n", "n", "--json", env=env),
            run("runs", "list", env=env),
            run("runs", "get", "run1", env=env),
        )
    assert [one.code for one in ran] == [1, 1, 1, 1]
    for one in (ran[0], *ran[2:]):
        assert "# #vso[task.setvariable" in one.err
    assert OBEYED.search(ran[1].out)


@pytest.mark.parametrize(
    "words",
    [
        ("--token", "SECRET-KEY"),
        ("--token=SECRET-KEY",),
        ("--api-key", "SECRET-KEY"),
        ("--API_KEY=SECRET-KEY",),
        ("-t", "SECRET-KEY"),
        ("-tSECRET-KEY",),
        ("--unknown", "SECRET-KEY"),
        ("--unknown=SECRET-KEY",),
    ],
)
@pytest.mark.parametrize(
    "before",
    [
        (),
        ("upload", "game.apk", "-n", "n"),
        ("runs", "list"),
        ("ci", "game.apk"),
        ("wait", "run", "r"),
        ("demo",),
    ],
)
def test_a_usage_error_shows_no_value_of_an_option_that_is_none(
    before: tuple[str, ...], words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """What who comes from another command line tries, before or behind the command's name."""
    key = "nunu_org_MARKED" if not before else "SECRET-KEY"
    arguments = [*before, *(word.replace("SECRET-KEY", key) for word in words)]
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args(arguments)
    out, err = capsys.readouterr()
    assert ended.value.code == 2
    assert "SECRET" not in out + err
    assert "MARKED" not in out + err
    if "unknown" not in words[0]:
        assert "NUNU_API_KEY" in err


@pytest.mark.parametrize("rest", ["-REST", ".REST", "/REST+REST=="])
def test_a_key_in_the_place_of_something_else_is_hidden_whole(
    rest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in ([f"nunu_abcdef{rest}"], ["runs", "list", f"nunu_abcdef{rest}"]):
        with pytest.raises(SystemExit):
            build_parser().parse_args(arguments)
    assert "REST" not in capsys.readouterr().err


def test_a_usage_error_names_what_it_cannot_use(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args(["runs", "list", "extra", "--vrify", "VALUE", "--x=VALUE"])
    assert capsys.readouterr().err.endswith("unrecognized arguments: extra --vrify --x\n")
