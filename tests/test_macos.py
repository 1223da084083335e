"""What is different on macOS, played on Linux by `as_macos.py` in processes of their own."""

import asyncio
import json
import random
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from cli_tools import PATIENCE, environment

from nunu_async.sandbox import Sandbox

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="it is played on POSIX only")

PART = 5 * 1024 * 1024
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
        told = await played(code, file, tmp_path / "state", env=box.environment)
        assert box.read_object(str(told["build"])) == file.read_bytes()
    asked = told["asked"]
    assert isinstance(asked, dict)
    word = ("refused 44", "refused 51") if refusing else ("F_RDADVISE", "F_FULLFSYNC")
    assert asked[word[0]] >= 3  # what is read next is announced, once a part at least
    assert asked[word[1]] >= 2  # the head of the journal, and the mark before completing


async def test_bytes_that_are_on_their_way_are_counted() -> None:
    told = await played(QUEUE, env={})
    assert told["before"] == 0
    assert isinstance(told["full"], int)
    assert told["full"] > 0
