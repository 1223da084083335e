"""The lines of a journal: whatever is cut off or spoilt, what is read was written."""

from __future__ import annotations

import json
import os

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nunu_async import BuildDetails, CommitDetails, InitiateUpload, MultipartTicket, VcsDetails
from nunu_async.upload.journal import Head, Kept, head_line, mark_line, part_line, read
from nunu_async.upload.source import Identity

PARTS = 12
HEAD = Head(
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


def told(kept: Kept | None) -> Kept:
    assert kept is not None
    return kept


def test_what_is_written_is_read() -> None:
    kept = told(read(written(3, 1, 2, completing=True)[0]))
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
def test_cut_at_any_byte_it_says_what_was_whole(tail: bytes) -> None:
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
        assert told(kept).length == ends[lines - 1]
        assert list(told(kept).etags) == list(numbers[: lines - 1])
        assert told(kept).completing == (lines == len(ends))


@given(st.data())
def test_what_is_appended_to_a_cut_journal_is_read_with_it(data: st.DataObject) -> None:
    text, _ = written(*range(1, 7))
    cut = data.draw(st.integers(0, len(text)))
    kept = read(text[:cut])
    if kept is None:
        return
    line, _ = part_line(PARTS, "new", kept.checksum)
    again = told(read(text[: kept.length] + line))
    assert again.etags == {**kept.etags, PARTS: "new"}


@given(st.data())
def test_a_spoilt_byte_ends_the_reading_and_never_changes_what_is_read(
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
        assert list(told(kept).etags) == list(range(1, before))


@given(st.binary(max_size=300))
def test_bytes_from_anywhere_are_no_journal(data: bytes) -> None:
    assert read(data) is None


def test_the_lines_of_another_upload_are_not_believed() -> None:
    """A file that was begun anew, and of which an old block came back."""
    ours, _ = head_line(HEAD)
    other, ends = written(1, 2)
    other_head = attrs.evolve(HEAD, began=1.0)
    new, _ = head_line(other_head)
    kept = told(read(new + other[ends[0] :]))
    assert (kept.etags, kept.length) == ({}, len(new))
    assert told(read(ours)).etags == {}


def test_parts_that_the_upload_does_not_have_are_passed_over() -> None:
    data, checksum = head_line(HEAD)
    for number in (0, PARTS + 1, PARTS):
        line, checksum = part_line(number, "e", checksum)
        data += line
    assert told(read(data)).etags == {PARTS: "e"}


def test_a_later_version_is_left_alone() -> None:
    line = head_line(HEAD)[0]
    assert read(line.replace(b'"version":1', b'"version":2')) is None


def test_a_file_system_may_use_every_bit_of_its_numbers() -> None:
    most = (1 << 64) - 1
    times = {"st_mtime_ns": 1_700_000_000_123_456_789}
    found = os.stat_result((0o100644, most, most, 1, 0, 0, 5, 0, 0, 0), times)
    head = attrs.evolve(HEAD, identity=Identity.of(found))
    line, _ = head_line(head)
    assert told(read(line)).head.identity == head.identity
