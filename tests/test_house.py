"""The house rules: which room may lean on which."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import nunu_async

ROOT = Path(nunu_async.__file__).parent

# From the ground up; a room may import from the rooms it names and from itself.
GROUND = {"errors", "lazy", "redact", "response", "signatures", "version"}
CORE = {"core", "config", "models", *GROUND}
MAY_IMPORT = {
    "response": set(),
    "errors": {"response"},
    "redact": set(),
    "lazy": {"errors"},
    "signatures": set(),
    "version": set(),
    "config": GROUND,
    "models": GROUND,
    "core": CORE,
    "endpoints": CORE,
    "upload": {"endpoints", *CORE},
    "polling": {"endpoints", *CORE},
    "preload": {"upload", "polling", "endpoints", *CORE},
    "client": {"preload", "upload", "polling", "endpoints", *CORE},
    "__init__": {"client", "upload", "polling", "endpoints", *CORE},
    "cli": {"client", "upload", "polling", "endpoints", "sandbox", *CORE},
    "__main__": {"cli"},
    "sandbox": set(),
}
MAY_IMPORT_BACKOFF = {"core/retry.py"}
MAY_IMPORT_AIOHTTP = (
    {f"core/{name}.py" for name in ("connector", "http_sessions", "session", "wire")}
    | {"client.py"}
    | {"upload/body.py"}
)

FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))
EACH_FILE = pytest.mark.parametrize("file", FILES)


def module_name(file: str) -> str:
    dotted = file.removesuffix(".py").replace("/", ".").removesuffix("__init__").rstrip(".")
    return f"nunu_async.{dotted}" if dotted else "nunu_async"


def room(file: str) -> str:
    return file.split("/", maxsplit=1)[0].removesuffix(".py")


MODULES = {module_name(file): file for file in FILES}


def imported(file: str) -> Iterator[str]:
    """Yield the full name of everything that any import statement of a file names."""
    for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno} imports by a relative name"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_imported(file: str) -> set[str]:
    """Return the rooms that a file leans on; a name that is no module is looked up in its owner."""
    rooms = set()
    for name in imported(file):
        if name.split(".")[0] == "nunu_async":
            owner = name if name in MODULES else name.rpartition(".")[0]
            rooms.add(room(MODULES[owner]))
    return rooms


def users_of(package: str) -> set[str]:
    return {
        file
        for file in FILES
        if room(file) != "sandbox" and any(name.split(".")[0] == package for name in imported(file))
    }


def test_every_room_is_in_the_table() -> None:
    assert {room(file) for file in FILES} == set(MAY_IMPORT)


@EACH_FILE
def test_a_room_leans_only_on_those_below_it(file: str) -> None:
    assert rooms_imported(file) - {room(file)} <= MAY_IMPORT[room(file)]


def test_only_the_command_line_uses_the_sandbox() -> None:
    users = {room(file) for file in FILES if "sandbox" in rooms_imported(file)}
    assert users == {"cli", "sandbox"}


def test_backoff_has_one_user() -> None:
    assert users_of("backoff") == MAY_IMPORT_BACKOFF


def test_aiohttp_stays_in_its_rooms() -> None:
    assert users_of("aiohttp") == MAY_IMPORT_AIOHTTP


def test_one_module_asks_transports_what_those_that_are_gone_do_not_bear() -> None:
    asking = {"abort", "get_extra_info", "get_write_buffer_size", "set_write_buffer_limits"}
    users = {
        file
        for file in FILES
        for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in asking and room(file) != "sandbox"
    }
    assert users == {"core/wire.py"}


# The package's own first import would load most modules in the one order that works for it. So
# the package is an empty shell here, and each module has to find what it needs by itself.
_ALONE = """
import importlib, sys, types
for name in sys.argv[2:]:
    for loaded in [m for m in sys.modules if m.split(".")[0] == "nunu_async"]:
        del sys.modules[loaded]
    if name != "nunu_async":
        shell = types.ModuleType("nunu_async")
        shell.__path__ = [sys.argv[1]]
        sys.modules["nunu_async"] = shell
    try:
        importlib.import_module(name)
    except BaseException as error:
        print(f"{name}: {type(error).__name__}: {error}")
"""


def fresh(code: str, *arguments: str) -> str:
    """Return what a new interpreter prints, in which every warning is an error."""
    ran = subprocess.run(  # noqa: S603 - this interpreter, and code from this file
        [sys.executable, "-W", "error", "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


def test_every_module_can_be_imported_alone() -> None:
    assert fresh(_ALONE, str(ROOT), *MODULES) == ""


# A file recognized by its folder's name is another one in a checkout of that name.
_BY_NAME = re.compile(r"""co_file[n]ame|["'][/\\](nunu_async|tests)[/\\]["']""")


def test_only_one_place_finds_whose_a_frame_is() -> None:
    files = Path(__file__).parent.rglob("*.py")
    users = [path.name for path in files if _BY_NAME.search(path.read_text(encoding="utf-8"))]
    assert users == ["disclosed.py"]


def test_the_public_names_are_sorted() -> None:
    assert nunu_async.__all__ == sorted(nunu_async.__all__)


def test_the_public_names_are_listed_once() -> None:
    assert len(nunu_async.__all__) == len(set(nunu_async.__all__))


@pytest.mark.parametrize("name", nunu_async.__all__)
def test_a_public_name_resolves(name: str) -> None:
    assert getattr(nunu_async, name) is not None
