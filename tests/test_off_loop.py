"""What runs on the event loop's thread: it imports nothing, opens no file and looks up no name.

That holds once `warm_up` has run or everything has been used once. Each case is a process of its
own, which records what its main thread does; the server is in this one.
"""

import asyncio
import json
import os
import ssl
import sys
from pathlib import Path

import pytest
import trustme
from cli_tools import PATIENCE, environment, make
from doubles import raw_server

from nunu_async.sandbox import Fault, Sandbox, Script

PART = 64 * 1024

RECORDER = r"""
import os, sys, threading

main = threading.get_ident()
recording = False
found = []

# Importing and generating code takes long, and the others wait for a disk, a lock or a network.
BLOCKING = {
    *("import", "open", "os.listdir", "os.scandir", "os.mkdir", "os.remove", "os.rename"),
    *("os.rmdir", "os.chmod", "os.link", "os.symlink", "os.truncate", "os.utime", "os.chdir"),
    *("glob.glob", "pathlib.Path.glob", "shutil.copyfile", "tempfile.mkstemp", "tempfile.mkdtemp"),
    *("subprocess.Popen", "os.posix_spawn", "os.fork", "time.sleep", "fcntl.flock"),
    *("fcntl.lockf", "msvcrt.locking", "exec", "compile"),
    *("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo"),
}

def record(event, what):
    if recording and threading.get_ident() == main:
        where, frame = [], sys._getframe(2)
        while frame is not None and len(where) < 12:
            place = frame.f_globals.get("__name__")
            where.append(f"{place}:{frame.f_lineno} {frame.f_code.co_name}")
            frame = frame.f_back
        found.append(f"{event} {what!r} < {' < '.join(where)}")

def hook(event, args):
    if event in BLOCKING:
        record(event, args[0] if args else None)

# These have no audit event. Closing a file that was only read is not among them.
def watched(module, name):
    function = getattr(module, name, None)
    if function is None:
        return
    def call(*args, **kwargs):
        record(name, args[0] if args else None)
        return function(*args, **kwargs)
    setattr(module, name, call)

for name in (
    *("stat", "lstat", "fstat", "access", "readlink", "open", "statvfs", "pathconf"),
    *("fsync", "fdatasync", "unlink"),
):
    watched(os, name)
for name in ("exists", "isfile", "isdir", "islink", "realpath", "samefile", "getsize"):
    watched(os.path, name)
try:
    import pwd
except ImportError:
    pass
else:
    watched(pwd, "getpwuid")
    watched(pwd, "getpwnam")
sys.addaudithook(hook)
"""

PROGRAM = r"""
import asyncio, json
from contextlib import suppress
from pathlib import Path

from nunu_async import (
    BuildFile, BytesSent, ConfigError, DecodeError, NunuClient, RetryPolicy, SourceError,
    UploadError, WaitTimeout,
)

way, secure, ids = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
files = [Path(file) for file in sys.argv[4:]]
small, two, three, missing = files
SETTINGS = {"deployment_config_id": ids["config"], "multiplayer_test_id": ids["test"]}
SOON = {"interval": 0.01}

async def raises(kind, call):
    try:
        returned = await call
    except kind:
        return
    raise AssertionError(f"no {kind.__name__}, but {returned!r}")

async def calls(nunu):
    page = await nunu.runs.list_page()
    assert [run async for run in nunu.runs.list()]
    await nunu.runs.get(page.data[0].multiplayer_run_id)
    await nunu.request("GET", "/runs")
    assert [job async for job in nunu.jobs.list()]
    [row async for row in nunu.test_plan_executions.list()]
    started = await nunu.runs.start(**SETTINGS)
    await nunu.jobs.get(started.job_ids[0])
    (bug,) = await nunu.runs.bugs(page.data[0].multiplayer_run_id)
    assert bug.test_step == 2
    await raises(DecodeError, nunu.runs.stop(started.job_ids))

async def uploads(nunu):
    await nunu.upload_build(small, name="small", platform="linux")
    several = {"platform": "linux", "multipart": True}
    built = await nunu.upload_build(two, name="two", on_progress=lambda event: None, **several)
    await nunu.builds.get(built.build_id)
    await nunu.upload_build(two, name="verified", verify=True, **several)
    await nunu.upload_build(two, name="resumable", resume=True, verify=True, **several)
    results = await nunu.upload_builds(
        [small, two, BuildFile(path=two, name="other", resume=True, **several)], **several
    )
    assert [result.error for result in results] == [None] * 3, results
    await nunu.upload_builds([small], name="named", platform="linux")

async def failures(nunu):
    several = {"platform": "linux", "multipart": True}
    await raises(UploadError, nunu.upload_build(three, name="three", **several))
    for _ in range(2):  # the second goes on with what the first has left
        await raises(UploadError, nunu.upload_build(three, name="left", resume=True, **several))
    await raises(SourceError, nunu.upload_build(missing, name="missing", **several))
    if os.name == "posix":
        async with NunuClient(state_dir="~no_such_user/state") as homeless:
            await raises(
                ConfigError, homeless.upload_build(two, name="h", resume=True, **several)
            )
    for resume in (False, True):
        def stop(event):
            if isinstance(event, BytesSent):
                task.cancel()
        task = asyncio.ensure_future(
            nunu.upload_build(two, name=f"c{resume}", resume=resume, on_progress=stop, **several)
        )
        await raises(asyncio.CancelledError, task)

async def waits(nunu):
    started = [await nunu.runs.start(**SETTINGS) for _ in range(2)]
    jobs = [job_id for each in started for job_id in each.job_ids]
    await nunu.wait_for_job(jobs[0], on_change=lambda change: None, **SOON)
    await nunu.wait_for_jobs(jobs, **SOON)
    runs = [run.multiplayer_run_id for run in (await nunu.runs.list_page()).data]
    runs.remove(ids["endless run"])
    await nunu.wait_for_run(runs[0], **SOON)
    await nunu.wait_for_runs(runs, **SOON)
    assert [run async for run in nunu.runs_as_completed(runs, **SOON)]
    await nunu.run_and_wait(**SETTINGS, **SOON)
    plan = await nunu.runs.start(
        deployment_config_id=ids["config"], test_plan_id=ids["plan"]
    )
    await nunu.wait_for_execution(plan.test_plan_execution_id, **SOON)
    await raises(WaitTimeout, nunu.wait_for_run(ids["endless run"], timeout=0.05, **SOON))

async def everything(nunu):
    for step in (calls, uploads, failures, waits):
        await step(nunu)

def client():
    return NunuClient(retry=RetryPolicy(part_attempts=1))

async def once():
    global recording
    if way == "used":
        async with client() as nunu, NunuClient("nunu_key", base_url=secure) as secured:
            await everything(nunu)
            await secured.request("GET", "/runs")
    nunu, secured = client(), NunuClient("nunu_key", base_url=secure)
    if way == "first":  # not what attributes load, which cannot wait, nor what asyncio does
        nunu.builds, nunu.jobs, nunu.runs, nunu.test_plan_executions
        import concurrent.futures.thread, encodings.idna
    recording = True
    try:
        if way == "warmed up":
            await asyncio.gather(*(nunu.warm_up() for _ in range(3)))
        await everything(nunu)
        await secured.request("GET", "/runs")
    finally:
        await nunu.close()
        await secured.close()
        recording = False

asyncio.run(once())
print(json.dumps(sorted(set(found))))
"""


# A number that is written as 2.0 fits, but not exactly; as do small letters in a time (RFC 3339).
ODD_BUG = {
    **dict.fromkeys(("id", "bug_id", "title", "description", "reproduction_steps"), "text"),
    **dict.fromkeys(("category", "severity", "confidence"), "word"),
    "player_number": 0,
    "test_step": 2.0,
    "turn": 1,
    "detected_at": "2026-03-01t10:00:00z",
}


async def empty(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: bytes) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")


needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="macOS is played on Linux")


@pytest.mark.parametrize(
    ("way", "before"),
    [
        *(("warmed up", ""), ("used", ""), ("first", "")),
        pytest.param("warmed up", "import as_macos", marks=needs_linux),
    ],
    ids=["warmed-up", "used", "first", "warmed-up-macos"],
)
async def test_nothing_is_imported_opened_or_looked_up_on_the_loop(
    way: str, before: str, tmp_path: Path, authority: trustme.CA
) -> None:
    """Of a `first` use that is true but for the resources of the client, as `nunu.runs`."""
    trusted = tmp_path / "authority.pem"
    trusted.write_bytes(authority.cert_pem.bytes())
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(tls)
    files = [
        *make(tmp_path, "small.zip", size=1000),
        *make(tmp_path, "two.zip", size=2 * PART),
        *make(tmp_path, "three.zip", size=3 * PART),
    ]
    faults = [
        Fault(on="put_part", part=3, status=403, times=None),
        Fault(on="list_run_bugs", status=200, body={"data": [ODD_BUG]}, times=None),
        Fault(on="stop_runs", status=200, body={"ok": 1}, times=None),
    ]
    at_once = Script(initialize_seconds=0, run_seconds=0)
    async with (
        Sandbox(part_size=PART, script=at_once, faults=faults) as box,
        raw_server(empty, tls) as server,
    ):
        endless = box.add_run(state="RUNNING", script=Script(run_seconds=1e6))
        box.add_run()
        ids = {
            "config": box.deployment_configs[0].id,
            "test": box.tests[0].id,
            "plan": box.test_plans[0].id,
            "endless run": endless.run_id,
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-c", f"{before}{RECORDER}{PROGRAM}", way),
            *(f"https://localhost:{server.port}", json.dumps(ids)),
            *(str(file) for file in (*files, tmp_path / "missing.zip")),
            env=environment(
                box.environment,
                {"PYTHONPATH": f"{Path(__file__).parent}{os.pathsep}{os.environ['PYTHONPATH']}"},
                {
                    "NUNU_BASE_URL": box.base_url.replace("127.0.0.1", "localhost"),
                    "NUNU_STATE_DIR": str(tmp_path / "state"),
                    "SSL_CERT_FILE": str(trusted),
                },
            ),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(PATIENCE):
                out, err = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert process.returncode == 0, err.decode()
    assert not (found := json.loads(out)), "\n".join(found)
