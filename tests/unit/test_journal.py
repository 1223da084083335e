"""The lines of a journal: whatever is cut off or spoilt, what is read was written."""

from __future__ import annotations

import json
import os
import zlib

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nunu_async import BuildDetails, CommitDetails, InitiateUpload, MultipartTicket, VcsDetails
from nunu_async.upload.journal import (
    JournalHeader,
    JournalState,
    foreign_format,
    head_line,
    mark_line,
    part_line,
    read,
)
from nunu_async.upload.source import Identity

PARTS = 12
HEAD = JournalHeader(
    path="/builds/gr\u00f6\u00dfe \U0001f3ae.zip",
    identity=Identity(12_000_000_000, 1_700_000_000_123_456_789, 42, 7),
    base_url="https://nunu.ai/api/v1",
    project_id=None,
    request=InitiateUpload(
        name="Nightly \u00fc",
        file_name="g.zip",
        file_size=12_000_000_000,
        platform="windows",
        description="d",
        multipart=True,
        tags=["a", "b"],
        upload_timeout=1440,
        details=BuildDetails(vcs=VcsDetails(branch="main", commit=CommitDetails(hash="9f"))),
    ),
    ticket=MultipartTicket(
        build_id="b-1",
        object_key="k/1",
        upload_id="mpu-secret-1",
        total_parts=PARTS,
        part_size=1_000_000_000,
    ),
    began=1_790_000_000.25,
)


def written(*numbers: int, completing: bool = False) -> tuple[bytes, list[int]]:
    """Give a journal, and where its lines end."""
    data, checksum = head_line(HEAD)
    ends = [len(data)]
    for number in numbers:
        line, checksum = part_line(number, f"etag-{number}", checksum)
        data += line
        ends.append(len(data))
    if completing:
        data += mark_line(checksum)[0]
        ends.append(len(data))
    return data, ends


def valid(kept: JournalState | None) -> JournalState:
    assert kept is not None
    return kept


def test_what_is_written_is_read() -> None:
    kept = valid(read(written(3, 1, 2, completing=True)[0]))
    assert kept.head.request == HEAD.request
    assert kept.head.identity == HEAD.identity
    assert kept.head.ticket.upload_id == "mpu-secret-1"
    assert (kept.head.path, kept.head.project_id, kept.head.began) == (
        HEAD.path,
        None,
        HEAD.began,
    )
    assert kept.etags == {3: "etag-3", 1: "etag-1", 2: "etag-2"}
    assert kept.completing


def test_every_line_is_json() -> None:
    for line in written(1, 2, completing=True)[0].splitlines():
        checksum, content = json.loads(line)
        assert len(checksum) == 8
        assert isinstance(content, dict)


@pytest.mark.parametrize("tail", [b"", b"\0" * 100, b"\n", b"[", b'["00000000",{"part":9}]\n'])
def test_cut_at_any_byte_the_whole_lines_are_read(tail: bytes) -> None:
    """Also where the file system has filled up what it lost, or something else follows."""
    numbers = (5, 6, 7, 8)
    data, ends = written(*numbers, completing=True)
    for cut in range(len(data) + 1):
        found = data[:cut] + tail
        lines = sum(found.startswith(data[:end]) for end in ends)
        kept = read(found)
        if lines == 0:
            assert kept is None
            continue
        assert valid(kept).length == ends[lines - 1]
        assert list(valid(kept).etags) == list(numbers[: lines - 1])
        assert valid(kept).completing == (lines == len(ends))


@given(st.data())
def test_what_is_appended_to_a_cut_journal_is_read_with_it(data: st.DataObject) -> None:
    text, _ = written(*range(1, 7))
    cut = data.draw(st.integers(0, len(text)))
    kept = read(text[:cut])
    if kept is None:
        return
    line, _ = part_line(PARTS, "new", kept.checksum)
    again = valid(read(text[: kept.length] + line))
    assert again.etags == {**kept.etags, PARTS: "new"}


@given(st.data())
def test_a_corrupt_byte_ends_the_reading_and_changes_nothing(
    data: st.DataObject,
) -> None:
    text, ends = written(*range(1, 7))
    at = data.draw(st.integers(0, len(text) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda byte: byte != text[at]))
    kept = read(text[:at] + bytes([byte]) + text[at + 1 :])
    before = sum(end <= at for end in ends)
    if before == 0:
        assert kept is None
    else:
        # A line end spoilt, or made, costs the lines around it and nothing else.
        assert list(valid(kept).etags) == list(range(1, before))


@given(st.binary(max_size=300))
def test_bytes_from_anywhere_are_no_journal(data: bytes) -> None:
    assert read(data) is None


def test_the_lines_of_another_upload_are_ignored() -> None:
    """A file that was started again, and of which an old block came back."""
    ours, _ = head_line(HEAD)
    other, ends = written(1, 2)
    other_head = attrs.evolve(HEAD, began=1.0)
    new, _ = head_line(other_head)
    kept = valid(read(new + other[ends[0] :]))
    assert (kept.etags, kept.length) == ({}, len(new))
    assert valid(read(ours)).etags == {}


def test_parts_that_the_upload_does_not_have_are_skipped() -> None:
    data, checksum = head_line(HEAD)
    for number in (0, PARTS + 1, PARTS):
        line, checksum = part_line(number, "e", checksum)
        data += line
    assert valid(read(data)).etags == {PARTS: "e"}


def line_of(content: object) -> bytes:
    text = json.dumps(content, separators=(",", ":")).encode()
    return b'["%08x",%s]\n' % (zlib.crc32(text), text)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (line_of({"version": 2, "head": {"all": "new"}}), "format 2"),
        (line_of({"version": 17}) + b"whatever follows", "format 17"),
        (head_line(HEAD)[0].replace(b'"version":1', b'"version":3'), "format 3"),  # its checksum
        (b'{"version": 2, "format": "not even lines of ours"}', "format 2"),
        (b'{\n  "version"  :  4,\n', "format 4"),
        (b'{"format": 2}\n', "an unknown format"),
        (b"SQLite format 3\0", "an unknown format"),
        (b"\x89nunu\r\n\x1a\n", "an unknown format"),
        (line_of({"version": 1, "head": {"all": "new"}}), "format 1 with unknown contents"),
        (line_of({"version": 1, "head": 5}), "format 1 with unknown contents"),
        (line_of({"head": {}}), "format 1 with unknown contents"),
        (head_line(HEAD)[0][:-1], ""),  # torn, as by a lost machine
        *((head_line(HEAD)[0][:cut], "") for cut in (1, 2, 5, 10, 11, 12, 20, 32, 33, 40)),
        (head_line(HEAD)[0][:100] + b"\0" * 4000, ""),
        (head_line(HEAD)[0].replace(b"Nightly", b"nightly"), ""),  # a spoilt byte
        (b"\0" * 4096, ""),
        (b"", ""),
    ],
)
def test_a_journal_of_another_version_is_not_a_torn_one(data: bytes, name: str) -> None:
    assert read(data) is None
    assert foreign_format(data) == name


@given(st.binary(min_size=1, max_size=300).filter(lambda data: data.rstrip(b"\0")[:1] != b"["))
def test_what_does_not_begin_as_a_journal_is_of_another_format(data: bytes) -> None:
    assert bool(foreign_format(data)) == bool(data.rstrip(b"\0"))


NANOSECONDS = 1_000_000_000


@pytest.mark.parametrize(
    "mtime_ns",
    [
        -1,
        -62_135_596_800 * NANOSECONDS,  # the year 1
        9_223_372_036 * NANOSECONDS + 854_775_807,  # 2262, the last one of 63 bits
        9_223_372_037 * NANOSECONDS,
        (1 << 63) * NANOSECONDS,  # the last second that a 64-bit time_t has
    ],
)
def test_any_time_of_a_file_is_read_as_it_was(mtime_ns: int) -> None:
    most = (1 << 64) - 1
    times = {"st_mtime_ns": mtime_ns, "st_ctime_ns": mtime_ns + 1}
    found = os.stat_result((0o100644, most, most, 1, 0, 0, 5, 0, 0, 0), times)
    head = attrs.evolve(HEAD, identity=Identity.of(found))
    line, _ = head_line(head)
    identity = valid(read(line)).head.identity
    assert attrs.astuple(identity) == attrs.astuple(head.identity)
    assert (identity.mtime_ns, identity.inode, identity.device) == (mtime_ns, most, most)


@pytest.mark.parametrize("size", [None, "5", 5.0, True, [5]])
def test_figures_of_a_file_must_be_integers(size: object) -> None:
    content = json.loads(head_line(HEAD)[0])[1]
    content["head"]["identity"]["size"] = size
    assert read(line_of(content)) is None
    del content["head"]["identity"]["size"]
    assert read(line_of(content)) is None
