"""Memory does not grow with the build: measured from outside, as a whole process."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest
from doubles import until

from nunu_async.sandbox import Fault, Sandbox

MIB = 1024 * 1024

# Its own high-water mark: ru_maxrss would begin with what the parent had at the fork.
UPLOAD = """
import sys
from nunu_async.cli import main
code = main(sys.argv[1:])
with open("/proc/self/status") as status:
    peak = next(line.split()[1] for line in status if line.startswith("VmHWM:"))
print("peak", int(peak) * 1024)
sys.exit(code)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(("concurrency", "options"), [(4, ()), (16, ()), (16, ("--verify",))])
async def test_an_upload_of_half_a_gib_stays_under_96_mib(
    tmp_path: Path, concurrency: int, options: tuple[str, ...]
) -> None:
    """Half a GiB in parts of 32 MiB: held in memory, 16 of them would be the whole file."""
    path = tmp_path / "build.bin"
    with path.open("wb") as file:
        file.truncate(512 * MIB)

    async def wait(_: float) -> None:
        # Or the first parts could be there before the last ones begin.
        await until(lambda: box.journal.peak("storage") == concurrency)

    faults = [Fault(on="put_part", times=None, latency=1.0)]
    async with Sandbox(
        part_size=32 * MIB, directory=tmp_path / "storage", faults=faults, sleep=wait
    ) as box:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", UPLOAD, "upload", str(path), "--name", "n"),
            *("--platform", "linux", "--concurrency", str(concurrency), *options),
            env=os.environ | box.environment,
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await child.communicate()
        assert child.returncode == 0
        assert box.journal.peak("storage") == concurrency
    peak = int(out.split()[-1])
    assert peak < 96 * MIB
