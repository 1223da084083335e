"""What is loaded when, and that the names do not show it."""

import ast
import asyncio
import importlib
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_tools import environment

import nunu_async
from nunu_async import NunuClient, endpoints, models, polling, upload
from nunu_async.sandbox import Sandbox

ROOT = Path(nunu_async.__file__).parent
# Packages from outside that take longest to load, each by a module that nothing else loads.
HEAVY = {"aiohttp", "aiofiles", "attr", "backoff", "cattrs", "importlib.metadata", "platformdirs"}
DRAWING = {"rich.console", "rich.table", "rich.progress", "rich.live"}

TELL = """
import atexit, sys
atexit.register(lambda: print("LOADED", *sys.modules, file=sys.stderr))
"""
MAIN = f"{TELL}\nfrom nunu_async.cli import main\nsys.exit(main(sys.argv[1:]))\n"


def ran(code: str, *arguments: str, exits: int = 0) -> str:
    """Return what a new interpreter writes to standard error; every warning is an error there."""
    done = subprocess.run(  # noqa: S603 - this interpreter, and code from this file
        [sys.executable, "-W", "error", "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment(),
    )
    assert done.returncode == exits, done.stderr
    return done.stderr


def loaded(output: str) -> set[str]:
    (line,) = (line for line in output.splitlines() if line.startswith("LOADED"))
    return set(line.split()[1:])


def ours(names: set[str]) -> set[str]:
    return {name.removeprefix("nunu_async.") for name in names if name.startswith("nunu_async.")}


def test_importing_the_package_loads_nothing_but_itself() -> None:
    """Nor what `logging` loads, which differs between Pythons."""
    found = loaded(ran(f"{TELL}\nimport nunu_async")) - loaded(ran(f"{TELL}\nimport logging"))
    assert ours(found) == {"lazy", "version"}
    assert found & (HEAVY | DRAWING | {"asyncio", "inspect"}) == set()


def test_the_client_is_loaded_without_what_only_some_programs_use() -> None:
    found = loaded(
        ran(
            f"{TELL}\nfrom nunu_async import NunuClient\nNunuClient('nunu_key', base_url='http://localhost')"
        )
    )
    assert found & (HEAVY | DRAWING) == {"aiohttp", "attr", "backoff"}
    assert {name for name in ours(found) if name.split(".")[0] in {"endpoints", "upload"}} == {
        *("endpoints", "endpoints.anything", "upload", "upload.threads")
    }
    assert {name for name in ours(found) if name.split(".")[0] in {"models", "polling"}} == {
        *("models", "models.arguments", "models.base", "models.checks", "models.page"),
        *("models.vocab", "polling", "polling.arguments"),
    }


@pytest.mark.parametrize(
    ("arguments", "exits"),
    [(["--help"], 0), (["--version"], 0), (["upload", "--help"], 0), (["uplaod"], 2)],
    ids=["help", "version", "help-of-upload", "usage"],
)
def test_help_and_usage_errors_load_no_client(arguments: list[str], exits: int) -> None:
    found = loaded(ran(MAIN, *arguments, exits=exits))
    assert found & (HEAVY | DRAWING | {"asyncio"}) == set()
    assert ours(found) == {
        *("cli", "cli.arguments", "cli.harmless", "cli.output", "lazy", "models"),
        *("models.choices", "version"),
    }


async def test_a_command_in_a_pipeline_loads_no_drawing_and_no_other_command(
    tmp_path: Path,
) -> None:
    """Nor cattrs, as long as the answers are exactly right."""
    (tmp_path / "game.zip").write_bytes(b"build")
    async with Sandbox() as box:
        seeded = box.add_run()
        found = dict(
            zip(
                ("upload", "runs", "wait"),
                await asyncio.gather(
                    command(
                        box, "upload", str(tmp_path / "game.zip"), "-n", "n", "--platform=linux"
                    ),
                    command(box, "runs", "list"),
                    command(box, "wait", "run", seeded.run_id),
                ),
                strict=True,
            )
        )
    for modules in found.values():
        assert modules & (DRAWING | {"cattrs", "importlib.metadata"}) == set()
    assert ours(found["upload"]) & {"models.runs", "polling.room", "cli.rows"} == set()
    assert ours(found["runs"]) & {"models.builds", "polling.room", "upload.uploader"} == set()
    assert ours(found["wait"]) & {"models.builds", "upload.uploader"} == set()


async def command(box: Sandbox, *arguments: str) -> set[str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-c", MAIN, *arguments),
        env=environment(box.environment),
        stdout=asyncio.subprocess.PIPE,  # what is thrown away is a terminal to Windows
        stderr=asyncio.subprocess.PIPE,
    )
    _, err = await process.communicate()
    assert process.returncode == 0, err
    return loaded(err.decode())


def promised(file: Path) -> Iterator[tuple[str, str]]:
    """Give the names, and their modules, that a type checker sees and the interpreter does not."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for each in node.body:
                assert isinstance(each, ast.ImportFrom)
                assert each.module is not None
                listed = [alias.name for alias in each.names]
                if listed == ["*"]:
                    listed = importlib.import_module(each.module).__all__
                yield from ((name, each.module) for name in listed)


@pytest.mark.parametrize(
    "package", [nunu_async, endpoints, models, polling, upload], ids=lambda it: it.__name__
)
def test_a_type_checker_and_the_interpreter_find_the_same_names(package: typing.Any) -> None:
    names = dict(promised(Path(package.__file__)))
    assert set(package.__all__) == set(names)
    for name, module in names.items():
        assert getattr(package, name) is getattr(importlib.import_module(module), name)


def test_all_names_are_listed_and_come_by_the_star() -> None:
    assert set(nunu_async.__all__) <= set(dir(nunu_async))
    names: dict[str, object] = {}
    exec("from nunu_async import *", names)  # noqa: S102 - no function can do it
    assert set(nunu_async.__all__) <= set(names)


def test_a_name_that_is_not_there_is_said_to_be_missing() -> None:
    with pytest.raises(AttributeError, match="module 'nunu_async' has no attribute 'NunuClent'"):
        nunu_async.NunuClent  # type: ignore[attr-defined] # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'NunuClent'"):
        from nunu_async import NunuClent  # type: ignore[attr-defined] # noqa: F401, PLC0415
    assert not hasattr(nunu_async, "__path_of_nothing__")


def test_modules_are_there_without_an_import_of_their_own() -> None:
    """As when the package had loaded them all."""
    ran("import nunu_async; nunu_async.errors.NunuError, nunu_async.models.runs.Run")


def test_any_number_of_threads_find_the_same() -> None:
    ran(
        "import threading, nunu_async\n"
        "found, start = [], threading.Barrier(8)\n"
        "def look(turn):\n"
        "    names = nunu_async.__all__[turn * 10:] + nunu_async.__all__[:turn * 10]\n"
        "    start.wait()\n"
        "    found.append({name: getattr(nunu_async, name) for name in names})\n"
        "threads = [threading.Thread(target=look, args=(turn,)) for turn in range(8)]\n"
        "[thread.start() for thread in threads]\n"
        "[thread.join() for thread in threads]\n"
        "assert len(found) == 8 and all(each == found[0] for each in found)\n"
    )


def methods() -> Iterator[tuple[str, object]]:
    for name, member in vars(NunuClient).items():
        if callable(function := getattr(member, "func", member)):
            yield name, function


def test_what_methods_are_annotated_with_can_be_resolved() -> None:
    for name, method in methods():
        assert typing.get_type_hints(method), name


def test_the_first_upload_loads_its_code_beside_the_loop() -> None:
    """It takes longer than the tasks of a program should be held up."""
    output = ran(
        "import asyncio, sys, threading\n"
        "from nunu_async import NunuClient, SourceError\n"
        "def hook(event, args):\n"
        "    if event == 'import' and args[0].startswith('nunu_async.upload.'):\n"
        "        thread = threading.current_thread().name\n"
        "        print(f'{args[0]} {thread}\\n', end='', file=sys.stderr)\n"
        "sys.addaudithook(hook)\n"
        "async def main():\n"
        "    async with NunuClient('nunu_key', base_url='http://localhost') as nunu:\n"
        "        ways = [nunu.upload_build('none.zip', name='n', platform='linux'),\n"
        "                nunu.upload_builds(['none.zip', 'nor.zip'], platform='linux')]\n"
        "        one, many = await asyncio.gather(*ways, return_exceptions=True)\n"
        "    assert isinstance(one, SourceError), one\n"
        "    assert [type(each.error) for each in many] == [SourceError] * 2, many\n"
        "asyncio.run(main())\n"
    )
    where = dict(line.split() for line in output.splitlines())
    assert {"nunu_async.upload.pipeline", "nunu_async.upload.storage"} <= set(where)
    assert "MainThread" not in where.values()


@pytest.mark.skipif(sys.platform == "win32", reason="limits on descriptors are POSIX's")
def test_without_spare_descriptors_a_client_names_what_cannot_load() -> None:
    ran(
        "import os, resource\n"
        "from nunu_async import NunuClient, NunuError\n"
        "del os.environ['SSL_CERT_FILE'], os.environ['SSL_CERT_DIR']\n"
        "most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, most))\n"
        "nunu = NunuClient('nunu_key')\n"
        "try:\n"
        "    nunu.runs\n"
        "except NunuError as error:\n"
        "    message = str(error)\n"
        "assert message == f'cannot load nunu_async.endpoints.runs: {os.strerror(24)}', message\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))\n"
        "assert callable(nunu.runs.list)\n"
    )


def test_the_version_is_that_of_the_package() -> None:
    line = f'version = "{nunu_async.__version__}"'
    assert line in (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
