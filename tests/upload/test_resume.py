"""Uploads that are resumed: after a kill, a failure, a cancellation."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import random
import signal
import stat
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from cli_tools import Ran, Running, run, started, until
from doubles import ManualClock, change_mode, ctime_moves
from uploads import MakeFile, client, send, stalled, start, states

from nunu_async import (
    AuthenticationError,
    BadRequest,
    Cancelled,
    ClientClosed,
    Completed,
    ConfigError,
    Kept,
    MultipartTicket,
    NunuClient,
    NunuError,
    PartDone,
    RetryPolicy,
    ServerError,
    SourceChanged,
    SourceError,
    UploadedBuild,
    UploadError,
    UploadEvent,
    UploadOutcomeUnknown,
    UploadStarted,
)
from nunu_async.sandbox import Fault, Sandbox
from nunu_async.upload.journal import head_line, mark_line, part_line, read
from nunu_async.upload.journal_store import Journal
from nunu_async.upload.plan import upload_minutes
from nunu_async.upload.source import Source

PART = 4096
PARTS = 40
MIB = 1024 * 1024
GIB = 1024 * MIB
STALLS = Fault(on="put_part", first=11, times=4, do="stall")

SAID = ["upload", "game.zip", "-n", "N", "--platform", "linux", "--multipart", "--resume", "--json"]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
async def small() -> AsyncIterator[Sandbox]:
    async with Sandbox(part_size=PART) as box:
        yield box


def journals(state: Path) -> list[Path]:
    return sorted(path for path in state.rglob("*") if path.is_file())


async def upload(
    box: Sandbox,
    state: Path,
    path: Path,
    clock: ManualClock | None = None,
    retry: RetryPolicy | None = None,
    **options: Any,
) -> UploadedBuild:
    """Upload with a journal in `state`, by a client of its own."""
    async with client(box, clock, state_dir=state, retry=retry) as nunu:
        return await send(nunu, path, **({"resume": True} | options))


def answered(box: Sandbox) -> list[int | None]:
    return [seen.part_number for seen in box.journal.of("put_part") if seen.status == 200]


async def interrupt(box: Sandbox, state: Path, path: Path, **options: Any) -> str:
    """Leave an upload with 10 parts behind, as a kill at this moment would; return its build."""
    box.add_fault(attrs.evolve(STALLS, first=STALLS.first))
    before = stalled(box)
    async with client(box, state_dir=state) as nunu:
        task = start(nunu, path, **({"resume": True} | options))
        await until(lambda: stalled(box) == before + 4)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    return list(box.uploads)[-1]


# --- SIGKILL


async def kill(running: Running) -> None:
    running.process.kill()
    assert await running.process.wait() == (1 if sys.platform == "win32" else -signal.SIGKILL)


def environ(box: Sandbox, state: Path) -> dict[str, str]:
    return box.environment | {"NUNU_STATE_DIR": str(state)}


async def again(box: Sandbox, state: Path, folder: Path) -> Ran:
    return await run(*SAID, env=environ(box, state), cwd=folder)


async def test_the_same_command_after_kills_sends_only_what_is_missing(
    make_file: MakeFile, state: Path, tmp_path: Path
) -> None:
    """Every sender is at a part when the kill comes; those four parts are sent again."""
    path = make_file(200 * 1000 - 1)
    moments = [1, 60, 120, 203]
    faults = [Fault(on="put_part", first=first, times=4, do="stall") for first in moments]
    async with Sandbox(part_size=1000, faults=faults) as box:
        for number, _ in enumerate(moments, start=1):
            async with started(*SAID, env=environ(box, state), cwd=tmp_path) as running:
                await until(lambda number=number: stalled(box) == 4 * number)
                await kill(running)
            assert states(box) == ["uploading"]
        ran = await again(box, state, tmp_path)
        assert (ran.code, ran.err) == (0, "")
        (build_id,) = box.uploads
        assert box.read_object(build_id) == path.read_bytes()
        assert ran.report["builds"][0]["build_id"] == build_id
        assert len(box.journal.of("initiate_upload")) == 1
        assert sorted(n for n in answered(box) if n is not None) == list(range(1, 201))
        assert len(box.journal.of("put_part")) == 200 + 4 * len(moments)
        assert journals(state) == []


async def test_a_kill_costs_a_part_for_each_sender_at_most(
    make_file: MakeFile, state: Path, tmp_path: Path
) -> None:
    path = make_file(200 * 1000)
    kills = 3
    async with Sandbox(
        part_size=1000, faults=[Fault(on="put_part", latency=0.001, times=None)]
    ) as box:
        for number in range(kills):
            enough = random.Random(number).randint(number * 50, number * 50 + 50)
            async with started(*SAID, env=environ(box, state), cwd=tmp_path) as running:
                await until(lambda enough=enough: len(box.journal.of("put_part")) >= enough)
                await kill(running)
        ran = await again(box, state, tmp_path)
        assert (ran.code, ran.err) == (0, "")
        # A kill before the server's answer is noted leaves a reservation that is in no journal.
        build_id = ran.report["builds"][0]["build_id"]
        assert box.read_object(build_id) == path.read_bytes()
        sent = Counter(seen.part_number for seen in box.journal.of("put_part"))
        assert sum(sent.values()) <= 200 + 4 * kills
        assert max(sent.values()) <= 1 + kills


@pytest.mark.parametrize("effect", [True, False])
async def test_killed_during_complete_it_looks_the_build_up_first(
    make_file: MakeFile, state: Path, tmp_path: Path, effect: bool
) -> None:
    path = make_file(5 * PART)
    stall = Fault(on="complete_upload", do="stall", effect=effect)
    async with Sandbox(part_size=PART, faults=[stall]) as box:
        async with started(*SAID, env=environ(box, state), cwd=tmp_path) as running:
            await until(
                lambda: any(s.outcome == "stalled" for s in box.journal.of("complete_upload"))
            )
            await kill(running)
        before = len(box.journal)
        ran = await again(box, state, tmp_path)
        assert (ran.code, ran.err) == (0, "")
        operations = box.journal.operations()[before:]
        assert operations == (["get_build"] if effect else ["get_build", "complete_upload"])
        (build_id,) = box.uploads
        assert ran.report["builds"][0]["build_id"] == build_id
        assert ran.report["builds"][0]["parts"] == 5
        assert box.read_object(build_id) == path.read_bytes()
        assert journals(state) == []


async def test_of_two_at_once_one_is_refused_and_nothing_is_mixed(
    make_file: MakeFile, state: Path, tmp_path: Path
) -> None:
    path = make_file(PARTS * PART)
    async with Sandbox(part_size=PART, faults=[STALLS]) as box:
        async with started(*SAID, env=environ(box, state), cwd=tmp_path) as running:
            await until(lambda: stalled(box) == 4)
            ran = await again(box, state, tmp_path)
            assert ran.code == 1
            (failure,) = ran.report["failed"]
            assert failure["error"] == "SourceError"
            assert "is being uploaded already" in failure["message"]
            assert len(box.uploads) == 1
            listed = await run("uploads", "list", "--json", env=environ(box, state))
            assert [row["state"] for row in json.loads(listed.out)] == ["sending"]
            assert (await run("uploads", "cancel", env=environ(box, state))).code == 1
            assert states(box) == ["uploading"]
            await kill(running)
        assert (await again(box, state, tmp_path)).code == 0
        assert box.read_object(next(iter(box.uploads))) == path.read_bytes()


async def test_two_tasks_do_not_mix_either(
    small: Sandbox, make_file: MakeFile, state: Path
) -> None:
    path = make_file(PARTS * PART)
    async with client(small, state_dir=state) as nunu:
        both = await asyncio.gather(
            *(send(nunu, path, resume=True) for _ in range(2)),
            return_exceptions=True,
        )
    assert {type(one) for one in both} == {UploadedBuild, SourceError}
    assert states(small) == ["completed"]
    # Under another name it is another upload.
    await asyncio.gather(*(upload(small, state, path, name=name) for name in ("a", "b")))
    assert states(small) == ["completed"] * 3


async def test_the_end_of_one_upload_leaves_the_journal_of_the_next_alone(
    small: Sandbox, make_file: MakeFile, state: Path
) -> None:
    """The first has removed its journal but still holds the lock when the second makes its own."""
    path = make_file(PARTS * PART)
    over, go = asyncio.Event(), asyncio.Event()

    async def wait_at_the_end(event: UploadEvent) -> None:
        if isinstance(event, Completed):
            over.set()
            await go.wait()

    first = asyncio.ensure_future(upload(small, state, path, on_progress=wait_at_the_end))
    await over.wait()

    async def end_the_first(event: UploadEvent) -> None:
        if isinstance(event, PartDone) and not first.done():
            go.set()
            await first
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        await upload(small, state, path, on_progress=end_the_first)
    assert len(journals(state)) == 1
    assert (await upload(small, state, path)).build_id == list(small.uploads)[1]
    assert states(small) == ["completed"] * 2
    assert journals(state) == []


# --- what stays, and for how long


async def test_a_cancelled_upload_stays_and_is_resumed(
    small: Sandbox, make_file: MakeFile, state: Path
) -> None:
    path = make_file(PARTS * PART - 7)
    events: list[UploadEvent] = []
    build_id = await interrupt(small, state, path, on_progress=events.append)
    assert states(small) == ["uploading"]
    assert small.journal.of("cancel_upload") == []
    assert events[-1] == Kept(build_id=build_id, done=10, parts=PARTS)
    assert sum(isinstance(event, PartDone) for event in events) == 10

    events.clear()
    build = await upload(small, state, path, on_progress=events.append)
    assert (build.build_id, build.parts, build.size) == (build_id, PARTS, PARTS * PART - 7)
    assert small.read_object(build_id) == path.read_bytes()
    assert len(small.journal.of("put_part")) == PARTS + 4
    first = events[0]
    assert isinstance(first, UploadStarted)
    assert (first.build_id, first.done, first.parts) == (build_id, 10, PARTS)
    done = [event.done for event in events if isinstance(event, PartDone)]
    assert done == list(range(11, PARTS + 1))
    assert journals(state) == []


async def test_without_resume_the_upload_is_cancelled(
    small: Sandbox, make_file: MakeFile, state: Path
) -> None:
    await interrupt(small, state, make_file(PARTS * PART), resume=False)
    assert states(small) == ["cancelled"]
    assert journals(state) == []


async def test_a_failure_says_how_to_resume(
    small: Sandbox, make_file: MakeFile, state: Path
) -> None:
    small.add_fault(Fault(on="put_part", part=9, status=500, times=2))
    path = make_file(PARTS * PART)
    with pytest.raises(UploadError) as caught:
        await upload(small, state, path, retry=RetryPolicy(part_attempts=2))
    assert caught.value.cancelled is None
    (note,) = caught.value.__notes__
    (build_id,) = small.uploads
    assert build_id in note
    assert f"of {PARTS} parts" in note
    assert "uploads cancel" in note
    assert states(small) == ["uploading"]
    assert (await upload(small, state, path)).build_id == build_id
    assert small.read_object(build_id) == path.read_bytes()


async def test_a_closed_client_keeps_what_it_sent(
    small: Sandbox, make_file: MakeFile, state: Path
) -> None:
    small.add_fault(STALLS)
    path = make_file(PARTS * PART)
    async with client(small, state_dir=state) as nunu:
        task = start(nunu, path, resume=True)
        await until(lambda: stalled(small) == 4)
    with pytest.raises(ClientClosed, match="is kept on the server"):
        await task
    await upload(small, state, path)
    assert states(small) == ["completed"]


@pytest.mark.parametrize(
    "fault",
    [
        Fault(on="get_upload_parts", status=500, times=None),
        Fault(on="complete_upload", status=503, times=None),
        Fault(on="complete_upload", status=401, times=None),
        Fault(on="put_part", status=403, times=None),
    ],
    ids=str,
)
async def test_transient_errors_keep_the_parts_that_were_sent(
    small: Sandbox, make_file: MakeFile, state: Path, fault: Fault
) -> None:
    path = make_file(6 * PART)
    small.add_fault(attrs.evolve(fault, times=8))
    for _ in range(12):  # as often as it takes until the fault is over
        try:
            build = await upload(small, state, path, retry=RetryPolicy(attempts=2))
        except (UploadError, ServerError, AuthenticationError):
            assert states(small) == ["uploading"]
            continue
        break
    else:
        build = await upload(small, state, path)
    assert states(small) == ["completed"]
    assert small.read_object(build.build_id) == path.read_bytes()
    assert journals(state) == []


async def test_an_upload_in_one_part_is_cancelled_and_starts_again(
    small: Sandbox, make_file: MakeFile, state: Path
) -> None:
    path = make_file(PART)
    small.add_fault(Fault(on="put_part", status=400))
    with pytest.raises(UploadError, match="was cancelled on the server"):
        await upload(small, state, path, multipart=False)
    assert journals(state) == []
    await upload(small, state, path, multipart=False)
    assert states(small) == ["cancelled", "completed"]
    assert journals(state) == []


async def test_a_file_that_changes_meanwhile_leaves_nothing(
    small: Sandbox, make_file: MakeFile, state: Path
) -> None:
    path = make_file(PARTS * PART)

    def touch(event: UploadEvent) -> None:
        if isinstance(event, PartDone) and event.done == 3:
            os.utime(path, ns=(1, 1))

    with pytest.raises(SourceChanged):
        await upload(small, state, path, on_progress=touch)
    assert states(small) == ["cancelled"]
    assert journals(state) == []


@pytest.mark.parametrize("name", ["n", "another"])
@pytest.mark.parametrize("how", ["rewritten", "touched", "replaced"])
async def test_a_changed_file_starts_again_and_cancels_the_old_upload(
    small: Sandbox, make_file: MakeFile, state: Path, name: str, how: str
) -> None:
    path = make_file(PARTS * PART)
    old = await interrupt(small, state, path)
    if how == "rewritten":
        path.write_bytes(bytes(PARTS * PART))
    elif how == "touched":
        os.utime(path, ns=(1, 1))
    else:
        now = path.stat()
        other = path.with_name("other")
        other.write_bytes(path.read_bytes())
        os.utime(other, ns=(now.st_atime_ns, now.st_mtime_ns))
        other.replace(path)
    build = await upload(small, state, path, name=name)
    assert build.build_id != old
    assert states(small) == ["cancelled", "completed"]
    assert small.read_object(build.build_id) == path.read_bytes()
    assert journals(state) == []


def rewrite_in_place(path: Path, offset: int) -> None:
    """Write other bytes and set the modification time back."""
    found = path.stat()

    def rewrite() -> None:
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(b"other bytes")
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))

    ctime_moves(path, rewrite)


async def test_a_file_rewritten_in_place_between_calls_is_not_resumed(
    small: Sandbox, make_file: MakeFile, state: Path
) -> None:
    path = make_file(PARTS * PART)
    await interrupt(small, state, path)
    rewrite_in_place(path, 5)
    with pytest.raises(SourceChanged, match=r"changed after part 1 was sent.*ctime") as caught:
        await upload(small, state, path)
    assert "was cancelled on the server" in "".join(caught.value.__notes__)
    assert states(small) == ["cancelled"]
    assert len(answered(small)) == 10
    assert journals(state) == []
    build = await upload(small, state, path)  # as the message says
    assert small.read_object(build.build_id) == path.read_bytes()


async def test_bytes_rewritten_beyond_the_sent_parts_are_sent(
    small: Sandbox, make_file: MakeFile, state: Path
) -> None:
    path = make_file(PARTS * PART)
    build_id = await interrupt(small, state, path)
    rewrite_in_place(path, (PARTS - 1) * PART)
    assert (await upload(small, state, path)).build_id == build_id
    assert small.read_object(build_id) == path.read_bytes()


@pytest.mark.parametrize("change", ["chmod", "hard link", "rename"])
async def test_a_change_of_metadata_between_two_calls_costs_no_part(
    small: Sandbox, make_file: MakeFile, state: Path, change: str
) -> None:
    path = make_file(PARTS * PART)
    build_id = await interrupt(small, state, path)
    other = path.with_name("other")
    changes: dict[str, Callable[[], object]] = {
        "chmod": lambda: change_mode(path),
        "hard link": lambda: (other.unlink(missing_ok=True), other.hardlink_to(path)),
        "rename": lambda: path.rename(other).rename(path),
    }
    ctime_moves(path, changes[change])
    assert (await upload(small, state, path)).build_id == build_id
    assert small.read_object(build_id) == path.read_bytes()
    assert len(answered(small)) == PARTS


async def test_a_file_rewritten_while_the_rest_is_sent_is_noticed(
    small: Sandbox, make_file: MakeFile, state: Path
) -> None:
    path = make_file(PARTS * PART)
    await interrupt(small, state, path)

    def rewrite(event: UploadEvent) -> None:
        if isinstance(event, PartDone) and event.done == 20:
            rewrite_in_place(path, 5)

    with pytest.raises(SourceChanged, match="changed after part 1 was sent"):
        await upload(small, state, path, on_progress=rewrite)
    assert states(small) == ["cancelled"]
    assert journals(state) == []


def killed_while_completing(state: Path) -> None:
    """Write into the journal what a kill right after the request to complete leaves in it."""
    (journal,) = journals(state)
    kept = read(journal.read_bytes())
    assert kept is not None
    with journal.open("ab") as file:
        file.write(mark_line(kept.checksum)[0])


async def test_a_build_of_the_old_content_is_no_success(
    small: Sandbox, make_file: MakeFile, state: Path
) -> None:
    """The server has completed it, the answer was lost with the process, the file is rewritten."""
    path = make_file(PARTS * PART)
    before = path.read_bytes()
    small.add_fault(Fault(on="complete_upload", do="cut", effect=True))
    small.add_fault(Fault(on="get_build", status=503, times=2))
    with pytest.raises(UploadOutcomeUnknown):
        await upload(small, state, path)
    (build_id,) = small.uploads
    rewrite_in_place(path, 5)
    with pytest.raises(SourceChanged) as caught:
        await upload(small, state, path)
    assert f"build {build_id} is complete" in "".join(caught.value.__notes__)
    assert not small.journal.of("cancel_upload")
    assert small.read_object(build_id) == before
    assert journals(state) == []
    build = await upload(small, state, path)
    assert small.read_object(build.build_id) == path.read_bytes()


@pytest.mark.parametrize("moved", ["ctime", "mtime"])
async def test_a_rewritten_file_deletes_no_build_that_may_be_assembled(
    small: Sandbox, make_file: MakeFile, state: Path, moved: str
) -> None:
    path = make_file(PARTS * PART)
    old = await interrupt(small, state, path)
    killed_while_completing(state)
    rewrite_in_place(path, 5)
    if moved == "ctime":
        with pytest.raises(SourceChanged) as caught:
            await upload(small, state, path)
        assert "may be complete, and was let be" in "".join(caught.value.__notes__)
    else:
        os.utime(path, ns=(1, 1))
    assert not small.journal.of("cancel_upload")
    build = await upload(small, state, path)  # the next call does not meet it again
    assert small.read_object(build.build_id) == path.read_bytes()
    assert small.uploads[old].state == "uploading"
    assert not small.journal.of("cancel_upload")
    (left,) = journals(state)  # for `uploads cancel`
    kept = read(left.read_bytes())
    assert kept is not None
    assert kept.head.ticket.build_id == old


async def test_without_md5_etags_a_moved_ctime_ends_a_resume(
    small: Sandbox, make_file: MakeFile, state: Path
) -> None:
    path = make_file(PARTS * PART)
    await interrupt(small, state, path)
    (journal,) = journals(state)
    kept = read(journal.read_bytes())
    assert kept is not None
    data, checksum = head_line(kept.head)
    for number in range(1, 4):
        line, checksum = part_line(number, kept.etags[number], checksum)
        data += line
    journal.write_bytes(data)
    ctime_moves(path, lambda: change_mode(path))
    with pytest.raises(SourceChanged, match=r"ctime moved.*ETags are not MD5s"):
        await upload(small, state, path)
    assert states(small) == ["cancelled"]


async def test_a_journal_without_a_ctime_can_be_resumed(
    small: Sandbox, make_file: MakeFile, state: Path
) -> None:
    path = make_file(PARTS * PART)
    build_id = await interrupt(small, state, path)
    (journal,) = journals(state)
    kept = read(journal.read_bytes())
    assert kept is not None
    identity = attrs.evolve(kept.head.identity, ctime_ns=None)
    journal.write_bytes(head_line(attrs.evolve(kept.head, identity=identity))[0])
    ctime_moves(path, lambda: change_mode(path))
    assert (await upload(small, state, path)).build_id == build_id


async def test_a_file_that_keeps_changing_is_given_up(
    small: Sandbox, make_file: MakeFile, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_file(PARTS * PART)
    await interrupt(small, state, path)
    real = Source.md5

    async def md5(self: Source, offset: int, length: int) -> str:
        ctime_moves(path, lambda: change_mode(path))
        return await real(self, offset, length)

    monkeypatch.setattr(Source, "md5", md5)
    ctime_moves(path, lambda: change_mode(path))
    with pytest.raises(SourceChanged, match="changed again and again"):
        await upload(small, state, path)
    assert states(small) == ["cancelled"]


@pytest.mark.parametrize("seconds", [-86_400 * 365 * 20, 9_400_000_000, 13_000_000_000])
async def test_a_file_of_the_past_or_the_far_future_can_be_resumed(
    small: Sandbox, make_file: MakeFile, state: Path, seconds: int
) -> None:
    path = make_file(PARTS * PART)
    os.utime(path, ns=(0, seconds * 1_000_000_000 + 7))
    if path.stat().st_mtime != pytest.approx(seconds):
        pytest.skip("this file system has no such time")
    build_id = await interrupt(small, state, path)
    assert (await upload(small, state, path)).build_id == build_id
    assert states(small) == ["completed"]
    assert len(answered(small)) == PARTS


FOREIGN = [
    (b'["0",{"version":2,"head":{"what":"nobody knows"}}]\n["1",{}]\n', "format 2"),
    (b'{"version": 12, "upload_id": "u"}', "format 12"),
]


@pytest.mark.parametrize(("content", "name"), FOREIGN)
async def test_a_journal_of_another_version_stays_where_it_is(
    small: Sandbox,
    make_file: MakeFile,
    state: Path,
    caplog: pytest.LogCaptureFixture,
    content: bytes,
    name: str,
) -> None:
    path = make_file(PARTS * PART)
    await interrupt(small, state, path)
    (journal,) = journals(state)
    journal.write_bytes(content)
    await upload(small, state, path)
    await upload(small, state, path)
    assert journals(state) == [journal]
    assert journal.read_bytes() == content
    assert (
        caplog.text.count(f"{journal} was written by another version of nunu_async ({name})") == 1
    )
    build_id = await interrupt(small, state, path)  # and has a journal of its own beside it
    assert len(journals(state)) == 2
    assert (await upload(small, state, path)).build_id == build_id
    assert journals(state) == [journal]
    assert journal.read_bytes() == content


async def test_commands_name_and_leave_journals_of_another_version(
    small: Sandbox, make_file: MakeFile, state: Path
) -> None:
    content, name = FOREIGN[0]
    folder = state / "uploads"
    folder.mkdir(parents=True)
    (folder / "a.jsonl").write_bytes(content)
    for command, code in ((("list",), 0), (("cancel", "--all"), 1), (("resume",), 1)):
        ran = await run("uploads", *command, env=environ(small, state))
        assert ran.code == code
        assert ran.err.count(f"a.jsonl was written by another version of nunu_async ({name})") == 1
        assert "nothing was left behind" not in ran.err
        assert (folder / "a.jsonl").read_bytes() == content


async def test_an_old_upload_not_cancelled_is_cancelled_by_the_next_call(
    small: Sandbox, state: Path, make_file: MakeFile
) -> None:
    """Its credential is in the journal alone; the next call tries again."""
    path = make_file(PARTS * PART)
    old = await interrupt(small, state, path)
    path.write_bytes(os.urandom(PARTS * PART))
    small.add_fault(Fault(on="cancel_upload", status=403))
    build = await upload(small, state, path)
    assert small.read_object(build.build_id) == path.read_bytes()
    (left,) = journals(state)
    kept = read(left.read_bytes())
    assert kept is not None
    assert kept.head.ticket.build_id == old
    assert small.uploads[old].state == "uploading"
    await upload(small, state, path)
    assert small.uploads[old].state == "cancelled"
    assert journals(state) == []


async def test_another_name_leaves_the_upload_of_the_same_file_alone(
    small: Sandbox, make_file: MakeFile, state: Path
) -> None:
    path = make_file(PARTS * PART)
    old = await interrupt(small, state, path)
    for options in ({"name": "m"}, {"tags": ["rc"]}, {"description": "d"}):
        await upload(small, state, path, **options)
    assert (await upload(small, state, path)).build_id == old
    assert states(small) == ["completed"] * 4


async def test_a_key_of_another_project_does_not_resume(
    small: Sandbox, make_file: MakeFile, state: Path
) -> None:
    """It implies the project where none is named; its build must not land in the other one."""
    path = make_file(PARTS * PART)
    build_id = await interrupt(small, state, path)
    before = len(small.journal)
    other = NunuClient(
        "nunu_of_another_project",
        base_url=small.base_url,
        state_dir=str(state),
        clock=ManualClock(),
    )
    async with other:
        with pytest.raises(AuthenticationError):
            await send(other, path, resume=True)
    assert small.journal.operations()[before:] == ["initiate_upload"]
    assert (await upload(small, state, path)).build_id == build_id
    assert journals(state) == []


async def test_cancelled_at_any_turn_the_next_call_ends_it(
    make_file: MakeFile, tmp_path: Path
) -> None:
    """Cancel after 0, 1, 2, ... turns until the upload survives; then make the same call."""
    path = make_file(3 * PART + 1)
    survived = False
    turns = 0
    while not survived:
        state = tmp_path / f"state {turns}"
        async with Sandbox(part_size=PART) as box:
            task = asyncio.ensure_future(upload(box, state, path))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            try:
                await task
                survived = True
            except asyncio.CancelledError:
                left = [upload for upload in box.uploads.values() if upload.state == "uploading"]
                # One that was cancelled while it was being opened is closed by its own thread.
                await until(lambda: len(journals(state)) == len(left))  # noqa: B023 - at once
                assert len(left) <= 1
                if states(box) != ["completed"]:
                    build = await upload(box, state, path)
                    assert box.read_object(build.build_id) == path.read_bytes()
            assert [name for name in states(box) if name != "cancelled"] == ["completed"]
            assert journals(state) == []
            assert max(Counter(answered(box)).values()) <= 2
        turns += 1 + turns // 12


# --- what the server does not know any more


async def forget(box: Sandbox, build_id: str) -> None:
    upload = box.uploads[build_id]
    assert upload.upload_id is not None
    ticket = MultipartTicket(
        build_id=build_id,
        object_key=upload.object_key,
        upload_id=upload.upload_id,
        total_parts=PARTS,
        part_size=PART,
    )
    async with NunuClient(box.api_key, base_url=box.base_url) as nunu:
        await nunu.builds.cancel_upload(ticket)


async def test_an_upload_that_the_server_has_forgotten_starts_again(
    small: Sandbox, make_file: MakeFile, state: Path
) -> None:
    path = make_file(PARTS * PART)
    old = await interrupt(small, state, path)
    await forget(small, old)
    build = await upload(small, state, path)
    assert build.build_id != old
    assert states(small) == ["cancelled", "completed"]
    assert small.read_object(build.build_id) == path.read_bytes()
    assert journals(state) == []


@pytest.mark.parametrize(
    "fault",
    [
        Fault(on="get_upload_parts", status=404),
        Fault(on="get_upload_parts", status=400),
        Fault(on="put_part", part=20, status=404),
        Fault(on="complete_upload", status=404),
        Fault(on="complete_upload", status=400),
    ],
    ids=str,
)
async def test_any_sign_of_that_cancels_the_old_upload_first(
    small: Sandbox, make_file: MakeFile, state: Path, fault: Fault
) -> None:
    path = make_file(PARTS * PART)
    old = await interrupt(small, state, path)
    small.add_fault(fault)
    build = await upload(small, state, path)
    assert build.build_id != old
    assert states(small) == ["cancelled", "completed"]
    assert small.read_object(build.build_id) == path.read_bytes()


@pytest.mark.parametrize("status", [404, 400])
async def test_an_error_page_of_a_proxy_does_not_start_it_again(
    small: Sandbox, make_file: MakeFile, state: Path, status: int
) -> None:
    path = make_file(PARTS * PART)
    old = await interrupt(small, state, path)
    small.add_fault(Fault(on="get_upload_parts", status=status, body="<html>?</html>"))
    with pytest.raises(NunuError):
        await upload(small, state, path)
    assert states(small) == ["uploading"]
    assert (await upload(small, state, path)).build_id == old


async def test_expired_while_completing_it_starts_again(make_file: MakeFile, state: Path) -> None:
    """The complete was never acted on, and a day later neither operation knows the upload."""
    time = [1000.0]
    path = make_file(6 * PART)
    fault = Fault(on="complete_upload", do="cut", times=5)
    async with Sandbox(part_size=PART, faults=[fault], now=lambda: time[0]) as box:
        with pytest.raises(NunuError):
            await upload(box, state, path)
        assert states(box) == ["uploading"]
        time[0] += 1441 * 60
        build = await upload(box, state, path)
        assert states(box) == ["expired", "completed"]
        assert box.read_object(build.build_id) == path.read_bytes()


async def test_a_build_that_is_still_assembled_is_waited_for(
    small: Sandbox, make_file: MakeFile, state: Path
) -> None:
    """Cut off while completing; then it is "uploading" for a while, and takes no complete."""
    path = make_file(6 * PART)
    small.add_fault(Fault(on="complete_upload", do="cut", effect=True))
    small.add_fault(Fault(on="get_build", status=500))
    with pytest.raises(UploadOutcomeUnknown):
        await upload(small, state, path, retry=RetryPolicy(attempts=1))
    (build_id,) = small.uploads
    body = {"build_id": build_id, "status": "uploading", "size": 6 * PART}
    small.add_fault(Fault(on="get_build", status=200, body=body, times=4))
    before = len(small.journal)
    clock = ManualClock()
    assert (await upload(small, state, path, clock)).build_id == build_id
    assert small.journal.operations()[before:] == [
        *("get_build", "complete_upload", "get_build", "get_build", "get_build", "get_build")
    ]
    assert clock.sleeps == [1.0, 2.0]
    assert states(small) == ["completed"]
    assert journals(state) == []


async def test_without_a_build_state_nothing_is_sent_or_deleted(
    small: Sandbox, make_file: MakeFile, state: Path
) -> None:
    path = make_file(6 * PART)
    small.add_fault(Fault(on="complete_upload", do="cut", effect=True))
    small.add_fault(Fault(on="get_build", status=403, times=None))
    with pytest.raises(UploadOutcomeUnknown):
        await upload(small, state, path, retry=RetryPolicy(attempts=1))
    before = len(small.journal)
    with pytest.raises(UploadOutcomeUnknown):
        await upload(small, state, path)
    assert small.journal.operations()[before:] == ["get_build"]
    os.utime(path, ns=(1, 1))  # not even for another file
    await upload(small, state, path)
    assert states(small) == ["completed", "completed"]
    assert small.journal.of("cancel_upload") == []


async def test_a_listener_that_fails_on_a_found_build_deletes_nothing(
    small: Sandbox, make_file: MakeFile, state: Path
) -> None:
    path = make_file(6 * PART)
    small.add_fault(Fault(on="complete_upload", do="cut", effect=True))
    small.add_fault(Fault(on="get_build", status=403))
    with pytest.raises(UploadOutcomeUnknown):
        await upload(small, state, path, retry=RetryPolicy(attempts=1))

    def fail(event: UploadEvent) -> None:
        if type(event).__name__ == "Completed":
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await upload(small, state, path, on_progress=fail)
    assert states(small) == ["completed"]
    assert small.journal.of("cancel_upload") == []


# --- the journal itself


@pytest.mark.skipif(os.name == "nt", reason="no such modes on Windows")
async def test_a_journal_is_private_and_holds_no_key_and_no_url(
    small: Sandbox, make_file: MakeFile, state: Path
) -> None:
    (state / "uploads").mkdir(parents=True)
    (state / "uploads").chmod(0o755)
    old = os.umask(0)
    try:
        await interrupt(small, state, make_file(PARTS * PART))
    finally:
        os.umask(old)
    (journal,) = journals(state)
    assert stat.S_IMODE(journal.stat().st_mode) == 0o600
    assert stat.S_IMODE(journal.parent.stat().st_mode) == 0o700
    text = journal.read_text()
    (upload,) = small.uploads.values()
    assert small.api_key not in text
    for piece in ("X-Amz", "Signature", small.storage_url, "partNumber"):
        assert piece not in text
    assert text.count("http") == text.count(small.base_url) == 1
    assert upload.upload_id is not None
    assert upload.upload_id in text
    kept = read(journal.read_bytes())
    assert kept is not None
    assert upload.upload_id not in repr(kept)
    assert kept.etags == {n: upload.parts[n] for n in kept.etags}
    assert len(kept.etags) == 10


async def test_a_torn_journal_costs_only_the_lost_lines(
    small: Sandbox, make_file: MakeFile, state: Path
) -> None:
    path = make_file(PARTS * PART)
    build_id = await interrupt(small, state, path)
    (journal,) = journals(state)
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:6]) + lines[6][:-1])  # 5 parts, and most of a sixth
    small.add_fault(Fault(on="put_part", part=PARTS, status=400))
    with pytest.raises(UploadError):  # with lines after the torn one
        await upload(small, state, path, concurrency=1)
    kept = read(journal.read_bytes())
    assert kept is not None
    assert len(kept.etags) == PARTS - 1
    assert (await upload(small, state, path)).build_id == build_id
    assert small.read_object(build_id) == path.read_bytes()
    assert len(answered(small)) == PARTS + 5


async def test_a_journal_without_a_header_is_ignored(
    small: Sandbox, make_file: MakeFile, state: Path
) -> None:
    path = make_file(PARTS * PART)
    await interrupt(small, state, path)
    (journal,) = journals(state)
    journal.write_bytes(journal.read_bytes()[:40])
    await upload(small, state, path)
    assert sorted(states(small)) == ["completed", "uploading"]
    assert journals(state) == []


async def test_a_full_disk_ends_the_journal_and_not_the_upload(
    small: Sandbox,
    make_file: MakeFile,
    state: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    write, calls = os.write, 0

    def full(descriptor: int, data: bytes) -> int:
        nonlocal calls
        calls += 1
        if calls > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data)

    path = make_file(PARTS * PART)
    monkeypatch.setattr(os, "write", full)
    build_id = await interrupt(small, state, path)
    monkeypatch.undo()
    assert calls == 4
    assert caplog.text.count("the journal cannot be written (No space left") == 1
    build = await upload(small, state, path)
    assert build.build_id == build_id
    assert len(answered(small)) == PARTS + 8  # two lines were written


async def test_a_hanging_disk_ends_the_journal_and_not_the_upload(
    small: Sandbox,
    make_file: MakeFile,
    state: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    write, calls, released = os.write, 0, threading.Event()

    def hang(descriptor: int, data: bytes) -> int:
        nonlocal calls
        calls += 1
        if calls > 3:
            released.wait(60)
        return write(descriptor, data)

    path = make_file(PARTS * PART)
    monkeypatch.setattr(os, "write", hang)
    clock = ManualClock()
    done: list[PartDone] = []

    def note(event: UploadEvent) -> None:
        if isinstance(event, PartDone):
            done.append(event)

    task = asyncio.ensure_future(upload(small, state, path, clock, on_progress=note))
    # Two lines are written, and each of four senders waits for its own: none begins to wait later.
    await until(lambda: calls == 4 and len(done) == 6)
    for _ in range(5):
        await asyncio.sleep(0)
    clock.advance(31)
    try:
        assert (await task).parts == PARTS
    finally:
        released.set()
    assert states(small) == ["completed"]
    assert "the journal's disk hangs" in caplog.text
    await until(lambda: journals(state) == [])


async def test_without_the_mark_before_completing_there_is_no_journal(
    small: Sandbox, make_file: MakeFile, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later call would take what may be assembled for one that may be deleted."""
    write = os.write
    left: list[list[Path]] = []

    def full(descriptor: int, data: bytes) -> int:
        if b"completing" in data:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", full)
    small.add_fault(Fault(on="complete_upload", status=400))

    async def list_journals(event: UploadEvent) -> None:
        if isinstance(event, Cancelled):
            left.append(journals(state))

    with pytest.raises(BadRequest):
        await upload(small, state, make_file(5 * PART), on_progress=list_journals)
    assert left == [[]]
    assert states(small) == ["cancelled"]


async def test_a_changed_file_deletes_no_build_that_may_be_assembled(
    small: Sandbox, make_file: MakeFile, state: Path
) -> None:
    """Only `uploads cancel` may delete it: there the user has asked for it."""
    path = make_file(6 * PART)
    small.add_fault(Fault(on="complete_upload", do="cut", effect=True))
    small.add_fault(Fault(on="get_build", status=500))
    with pytest.raises(UploadOutcomeUnknown):
        await upload(small, state, path, retry=RetryPolicy(attempts=1))
    (build_id,) = small.uploads
    body = {"build_id": build_id, "status": "uploading", "size": 6 * PART}
    small.add_fault(Fault(on="get_build", status=200, body=body, times=None))
    path.write_bytes(os.urandom(6 * PART))
    await upload(small, state, path)
    assert states(small) == ["completed", "completed"]
    assert small.journal.of("cancel_upload") == []
    (left,) = journals(state)
    kept = read(left.read_bytes())
    assert kept is not None
    assert kept.head.ticket.build_id == build_id
    assert kept.completing


async def test_a_journal_of_another_file_delays_no_upload(
    small: Sandbox, make_file: MakeFile, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may name a file on a dead disk, and not all that is called a journal is a file."""
    await interrupt(small, state, make_file(PARTS * PART))
    folder = journals(state)[0].parent
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe.jsonl")
    other = make_file(3 * PART, "other.zip")
    stat = os.stat

    def dead(path: object, *more: object, **options: Any) -> os.stat_result:
        assert not str(path).endswith("game.zip"), "this would block for ever"
        return stat(path, *more, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "stat", dead)
    async with asyncio.timeout(20):
        build = await upload(small, state, other)
    monkeypatch.undo()
    assert small.read_object(build.build_id) == other.read_bytes()
    async with client(small, state_dir=state) as nunu:
        assert len(nunu._shelf.left_behind()) == 1


@pytest.mark.parametrize("moment", ["opening", "setting aside"])
async def test_a_disk_that_hangs_elsewhere_is_given_up_too(
    small: Sandbox,
    make_file: MakeFile,
    state: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    path = make_file(PARTS * PART)
    await interrupt(small, state, path)
    path.write_bytes(os.urandom(PARTS * PART))
    small.add_fault(Fault(on="cancel_upload", status=403))
    hangs, released = threading.Event(), threading.Event()
    name = "_open" if moment == "opening" else "_set_aside"
    real = getattr(Journal, name)

    def hang(self: Journal, *more: object, **options: Any) -> None:
        hangs.set()
        released.wait(60)
        real(self, *more, **options)

    monkeypatch.setattr(Journal, name, hang)
    clock = ManualClock()
    task = asyncio.ensure_future(upload(small, state, path, clock))
    await until(hangs.is_set)
    while not task.done():
        clock.advance(10)
        await asyncio.sleep(0.001)
    released.set()
    if moment == "opening":
        with pytest.raises(ConfigError, match="disk hangs"):
            await task
    else:
        assert small.read_object((await task).build_id) == path.read_bytes()
    # The last call on the thread, which is not awaited.
    await until(lambda: not any("aiofiles" in repr(task) for task in asyncio.all_tasks()))


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux alone")
async def test_a_path_that_is_not_unicode_is_refused(
    small: Sandbox, tmp_path: Path, state: Path
) -> None:
    folder = tmp_path / os.fsdecode(b"b\xff")
    folder.mkdir()
    path = folder / "game.zip"
    path.write_bytes(bytes(3 * PART))
    with pytest.raises(SourceError, match="no journal can hold"):
        await upload(small, state, path)
    assert len(small.journal) == 0
    assert (await upload(small, state, path, resume=False)).parts == 3


async def test_a_cancelled_call_releases_the_locks_of_old_journals(
    small: Sandbox, make_file: MakeFile, state: Path
) -> None:
    path = make_file(PARTS * PART)
    for name in ("a", "b"):
        await interrupt(small, state, path, name=name)
    path.write_bytes(os.urandom(PARTS * PART))
    small.add_fault(Fault(on="cancel_upload", do="stall"))
    async with client(small, state_dir=state) as nunu:
        task = start(nunu, path, name="c", resume=True)
        await until(lambda: any(s.outcome == "stalled" for s in small.journal.of("cancel_upload")))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [left.is_busy for left in nunu._shelf.left_behind()] == [False, False]


async def test_without_a_header_it_uploads_as_without_resume(
    small: Sandbox, make_file: MakeFile, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = make_file(PARTS * PART)
    monkeypatch.setattr(os, "write", full)
    await interrupt(small, state, path)
    assert states(small) == ["cancelled"]
    assert journals(state) == []


async def test_an_unusable_state_directory_is_refused_first(
    small: Sandbox, make_file: MakeFile
) -> None:
    path = make_file(PARTS * PART)
    with pytest.raises(ConfigError, match="NUNU_STATE_DIR"):
        await upload(small, path, path)
    assert len(small.journal) == 0


async def test_the_environment_names_the_state_directory(
    small: Sandbox, make_file: MakeFile, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUNU_STATE_DIR", str(state))
    small.add_fault(Fault(on="put_part", part=2, status=400))
    async with NunuClient(small.api_key, base_url=small.base_url) as nunu:
        with pytest.raises(UploadError):
            await send(nunu, make_file(3 * PART), resume=True)
    assert len(journals(state)) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="each system has its own place")
async def test_the_default_is_the_state_directory_of_the_system(
    small: Sandbox, make_file: MakeFile, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NUNU_STATE_DIR")
    monkeypatch.setenv("XDG_STATE_HOME", str(state))
    small.add_fault(Fault(on="put_part", part=2, status=400))
    async with NunuClient(small.api_key, base_url=small.base_url) as nunu:
        with pytest.raises(UploadError):
            await send(nunu, make_file(3 * PART), resume=True)
    (journal,) = journals(state)
    assert journal.parent == state / "nunu_async" / "uploads"


async def test_other_files_among_the_journals_are_skipped(
    small: Sandbox, make_file: MakeFile, state: Path
) -> None:
    path = make_file(PARTS * PART)
    await interrupt(small, state, path)
    (journal,) = journals(state)
    (journal.parent / "a.jsonl").symlink_to(journal)
    (journal.parent / "b.jsonl").mkdir()
    (journal.parent / "c.jsonl").write_bytes(b"\0" * 100)
    await upload(small, state, path)
    assert states(small) == ["completed"]


async def test_nothing_stays_open(
    small: Sandbox,
    make_file: MakeFile,
    state: Path,
    open_descriptors: Callable[[], int],
) -> None:
    path = make_file(PARTS * PART)
    await upload(small, state, path)
    before = open_descriptors()
    await interrupt(small, state, path)
    await upload(small, state, path)
    await until(lambda: open_descriptors() <= before)


# --- how long the server keeps it


@pytest.mark.parametrize(
    ("size", "single", "several"),
    [
        (1, 10, 60),
        (600 * MIB, 10, 60),
        (600 * MIB + 1, 11, 60),
        (3600 * MIB, 60, 60),
        (3600 * MIB + 1, 61, 61),
        (10 * GIB, 171, 171),
        (1440 * 60 * MIB, 1440, 1440),
        (5 * 1024 * GIB, 1440, 1440),
    ],
)
def test_an_upload_gets_the_time_that_1_mib_a_second_takes(
    size: int, single: int, several: int
) -> None:
    assert upload_minutes(size, multipart=False) == single
    assert upload_minutes(size, multipart=True) == several
    for limit in (None, 1024 * 1024, 10**9):
        assert upload_minutes(size, multipart=True, max_bandwidth=limit) == several


def test_a_limit_below_that_makes_it_longer() -> None:
    assert upload_minutes(600 * MIB, multipart=True, max_bandwidth=100 * 1024) == 103
    assert upload_minutes(GIB, multipart=True, max_bandwidth=1024) == 1440


@pytest.mark.parametrize(
    ("size", "options", "asked"),
    [
        (PART, {}, None),
        (PART, {"resume": True}, None),
        (PART, {"resume": True, "multipart": True}, 1440),
        (PART, {"resume": True, "multipart": True, "upload_timeout": 5}, 5),
        (GIB, {"multipart": False}, 18),
        (GIB, {}, None),
        (10 * GIB, {}, 171),
        (10 * GIB, {"upload_timeout": 5}, 5),
    ],
    ids=str,
)
async def test_upload_timeout_is_sent_if_the_default_is_too_short(
    tmp_path: Path, state: Path, size: int, options: dict[str, object], asked: int | None
) -> None:
    path = tmp_path / "game.zip"
    path.touch()
    os.truncate(path, size)
    async with Sandbox(capacity=1) as box:  # storage is full, so that nothing large is sent
        with pytest.raises(NunuError):
            await upload(box, state, path, **({"resume": False, "multipart": None} | options))
        (seen,) = box.journal
        assert isinstance(seen.body, dict)
        assert seen.body.get("upload_timeout") == asked
