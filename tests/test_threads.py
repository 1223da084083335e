"""Systems that let no thread be started, as under a limit on processes, or no more of them."""

import asyncio
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_tools import STRICT, environment, make, run
from test_cli_ci import Hurried

from nunu_async import NunuClient, RetryPolicy
from nunu_async.errors import ConnectError
from nunu_async.sandbox import Sandbox
from nunu_async.upload.threads import DaemonThreadPool

PART = 1000


class Threads:
    """How many threads may still be started; others cannot."""

    def __init__(self) -> None:
        self.left = 0
        self.asked = 0


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Threads]:
    allowed = Threads()
    start = threading.Thread.start

    def limited(thread: threading.Thread) -> None:
        allowed.asked += 1
        if allowed.left == 0:
            raise RuntimeError("can't start new thread")
        allowed.left -= 1
        start(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", limited)
        yield allowed


# Runs in a process of its own, so that the sandbox has its threads.
UPLOADS = """
import asyncio, sys, threading
from nunu_async import NunuClient

left = int(sys.argv[1])
start = threading.Thread.start

def limited(thread):
    global left
    if left == 0:
        raise RuntimeError("can't start new thread")
    left -= 1
    start(thread)

threading.Thread.start = limited

async def main():
    async with NunuClient(storage_concurrency=8) as nunu:
        await asyncio.gather(nunu.warm_up(), nunu.warm_up())
        for resume in (False, True):
            results = await nunu.upload_builds(
                sys.argv[2:], multipart=True, resume=resume, verify=resume, name=f"{resume}"
            )
            assert [result.error for result in results] == [None] * len(sys.argv[2:]), results
    assert left == 0

asyncio.run(main())
"""


@pytest.mark.parametrize("number", [0, 1, 3])
async def test_uploads_go_on_with_the_threads_there_are(number: int, tmp_path: Path) -> None:
    """Of more files than threads are ever started: none is counted that is not there."""
    files = make(tmp_path, *(f"{name}.apk" for name in range(80)), size=3 * PART)
    async with Sandbox(part_size=PART) as box:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *STRICT, "-c", UPLOADS, str(number), *files),
            env=environment(box.environment, {"NUNU_STATE_DIR": str(tmp_path / "state")}),
            stderr=asyncio.subprocess.PIPE,
        )
        _, err = await process.communicate()
        assert process.returncode == 0, err.decode()
        assert len(box.uploads) == 160
        for build_id, upload in box.uploads.items():
            assert box.read_object(build_id) == (tmp_path / upload.file_name).read_bytes()


async def test_threads_are_started_as_soon_as_they_can_be(threads: Threads) -> None:
    pool = DaemonThreadPool(2)
    for _ in range(100):
        assert pool.submit(threading.get_ident).result(0) == threading.get_ident()
    threads.left = 2
    assert pool.submit(threading.get_ident).result(10) != threading.get_ident()
    first, second = threading.Event(), threading.Event()
    waiting = [pool.submit(first.wait), pool.submit(second.wait)]
    second.set()
    assert waiting[1].result(10)  # the other one's thread still waits
    first.set()
    assert waiting[0].result(10)
    pool.shutdown()


async def test_a_name_that_no_thread_can_look_up_is_a_connect_error(
    threads: Threads, tmp_path: Path
) -> None:
    if "uvloop" in type(asyncio.get_running_loop()).__module__:
        pytest.skip("uvloop looks names up on threads of its own")
    (file,) = make(tmp_path, "a.apk")
    async with Sandbox() as box:
        base = box.base_url.replace("127.0.0.1", "localhost")
        async with NunuClient(box.api_key, base_url=base, retry=RetryPolicy(attempts=1)) as nunu:
            for call in (nunu.upload_build(file, name="N"), nunu.runs.list_page()):
                with pytest.raises(ConnectError, match="no thread can be started") as caught:
                    await call
                assert not caught.value.sent
        assert len(box.journal) == 0


# As a program that goes on in a thread of its own when its main thread has ended.
AFTER_MAIN = """
import asyncio, sys, threading, time
from nunu_async import NunuClient, NunuError

async def upload():
    async with NunuClient() as nunu:
        for resume in (False, True):
            try:
                built = await nunu.upload_build(sys.argv[1], name="N", resume=resume, verify=True)
                print("built", built.size)
            except NunuError as error:
                print(type(error).__name__, error)

def work():
    threading.main_thread().join()
    while True:  # until the interpreter has begun to end
        try:
            threading._register_atexit(print)
        except RuntimeError:
            break
        time.sleep(0.01)
    asyncio.run(upload())

threading.Thread(target=work).start()
"""


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_client_works_or_fails_cleanly_after_the_main_thread(
    host: str, tmp_path: Path
) -> None:
    """From Python 3.12 on no thread can be started then, and no name can be looked up on any."""
    (file,) = make(tmp_path, "a.apk")
    async with Sandbox() as box:
        env = {
            "NUNU_BASE_URL": box.base_url.replace("127.0.0.1", host),
            "NUNU_STATE_DIR": str(tmp_path / "state"),
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *STRICT, "-c", AFTER_MAIN, str(file)),
            env=environment(box.environment, env),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
    assert b"Traceback" not in err, err.decode()
    lines = [line for line in out.decode().splitlines() if line]
    assert len(lines) == 2
    if host == "localhost":
        assert all(
            line.startswith("ConnectError") and "no thread can be started" in line for line in lines
        )
    else:
        assert lines == ["built 1000"] * 2


PATCH = """
import threading
def start(thread):
    raise RuntimeError("can't start new thread")
threading.Thread.start = start
"""
COMMANDS = [
    "upload a.apk --name N",
    "upload *.apk --name N --multipart --resume --verify --json",
    "uploads list",
    "runs list",
    "wait run RUN",
    "demo",
    "ci a.apk --name N --deployment-config CONFIG --test TEST --interval 0.1",
]


@pytest.mark.skipif(sys.platform == "win32", reason="a command needs one there, to be interrupted")
@pytest.mark.parametrize("said", COMMANDS)
async def test_commands_need_no_thread(tmp_path: Path, said: str) -> None:
    make(tmp_path, "a.apk", "b.apk", size=3000)
    (tmp_path / "sitecustomize.py").write_text(PATCH)
    path = os.pathsep.join((str(tmp_path), environment()["PYTHONPATH"]))
    async with Sandbox(part_size=1000, now=Hurried()) as box:
        env = box.environment | {"PYTHONPATH": path, "NUNU_STATE_DIR": str(tmp_path / "state")}
        values = {
            "CONFIG": box.deployment_configs[0].id,
            "TEST": box.tests[0].id,
            "RUN": box.add_run().run_id,
        }
        ran = await run(*(values.get(word, word) for word in said.split()), env=env, cwd=tmp_path)
    if said == "demo":  # whose server is in the same process
        assert ran.code == 1
        ran.tells("none can be started")
    else:
        assert ran.code == 0, ran.err
