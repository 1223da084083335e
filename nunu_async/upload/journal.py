"""The journal format: JSON lines with the data needed to resume an upload. Pure.

A journal is append-only: a header, a line for each part in storage, then a line that marks the
start of completing. Every line is ``["CHECKSUM",{...}]``; the checksum covers it and all lines
before it. So a journal truncated at any byte, e.g. by a power loss, can be read up to there;
everything after the first invalid line is ignored.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from typing import Final

import attrs

from nunu_async.core import codec
from nunu_async.models.builds import InitiateUpload, MultipartTicket
from nunu_async.upload.source import Identity

VERSION: Final = 1
_ANY_VERSION: Final = re.compile(rb'"version"\s*:\s*([0-9]{1,9})')
# The first bytes of every journal of this version, with zeros for the checksum.
_START: Final = b'["00000000",{"version":%d,"head":' % VERSION
_LINE: Final = re.compile(rb'\["([0-9a-f]{8})",(\{.*\})\]', re.DOTALL)


@attrs.frozen(kw_only=True)
class JournalHeader:
    """Identifies the upload; contains neither the API key nor a presigned URL."""

    path: str
    """Absolute path of the file."""
    identity: Identity
    base_url: str
    project_id: str | None
    request: InitiateUpload
    """The request that initiated the upload."""
    ticket: MultipartTicket
    """Includes the upload id, a credential; hence the journal's file mode (0600)."""
    began: float
    """When the upload began, in Unix seconds."""
    key_mark: str | None = None
    """Identifies the API key if no project is given; the key cannot be derived from it."""
    verify: bool = False
    """Whether the upload compares each part's MD5 with its ETag."""


@attrs.define
class JournalState:
    """The state that a journal records."""

    head: JournalHeader
    etags: dict[int, str] = attrs.field(factory=dict)
    """ETags of the parts in storage, keyed by part number."""
    md5_parts: set[int] = attrs.field(factory=set)
    """Numbers of the parts whose ETag is the MD5 of their bytes."""
    completing: bool = False
    """Whether the server may have been asked to complete the upload."""
    length: int = 0
    """Bytes of valid lines; the rest is torn, and is truncated before anything is appended."""
    checksum: int = 0
    """Checksum of the last valid line."""

    def add(self, content: object) -> None:
        """Apply the content of a line after the header."""
        match content:
            case {"part": int(number), "etag": str(etag), **more}:
                if 1 <= number <= self.head.ticket.total_parts:
                    self.etags[number] = etag
                    self.md5_parts.discard(number)
                    if more.get("md5") is True:
                        self.md5_parts.add(number)
            case {"completing": True}:
                self.completing = True


def head_line(head: JournalHeader) -> tuple[bytes, int]:
    """Return the header line and its checksum, which the next line needs."""
    return _line({"version": VERSION, "head": codec.dump(head)}, 0)


def part_line(number: int, etag: str, before: int, *, is_md5: bool = False) -> tuple[bytes, int]:
    """Return the line for a stored part and its checksum; `before` is the previous checksum."""
    return _line({"part": number, "etag": etag} | ({"md5": True} if is_md5 else {}), before)


def mark_line(before: int) -> tuple[bytes, int]:
    """Return the line that marks an upload as possibly complete, and its checksum."""
    return _line({"completing": True}, before)


def _line(content: Mapping[str, object], before: int) -> tuple[bytes, int]:
    text = json.dumps(content, separators=(",", ":")).encode("ascii")
    checksum = zlib.crc32(text, before)
    return b'["%08x",%s]\n' % (checksum, text), checksum


def read(data: bytes) -> JournalState | None:
    """Return the state recorded up to the first invalid line; None without a valid header."""
    state: JournalState | None = None
    checksum = 0
    *lines, _ = data.split(b"\n")  # an unterminated last line is torn
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is None or zlib.crc32(match[2], checksum) != int(match[1], 16):
            break
        try:
            content = codec.parse(match[2])
            if state is None:
                state = JournalState(_head(content))
        except (codec.DecodeProblem, TypeError):
            break
        state.add(content)
        state.checksum = checksum = int(match[1], 16)
        state.length += len(line) + 1
    return state


def foreign_format(data: bytes) -> str:
    """Name the format of a journal that only another version may be able to read; "" if none.

    An empty journal, or one whose header was torn by a power loss, has no format.
    """
    first, end, _ = data.partition(b"\n")
    match = _LINE.fullmatch(first)
    if end and match is not None and zlib.crc32(match[2]) == int(match[1], 16):
        version = _ANY_VERSION.search(first)
        if version is None or int(version[1]) == VERSION:
            return f"format {VERSION} with unknown contents"
        return f"format {int(version[1])}"
    # Ignore trailing zeros: file systems fill lost blocks with them.
    start = re.sub(rb'^(\[")[0-9a-f]{1,8}', rb"\g<1>", data.rstrip(b"\0")[: len(_START)])
    expected = re.sub(rb'^(\[")0{8}', rb"\g<1>", _START)
    if expected.startswith(start) or start.startswith(expected):
        return ""
    version = _ANY_VERSION.search(data[:4096])
    return f"format {int(version[1])}" if version is not None else "an unknown format"


def _head(content: object) -> JournalHeader:
    """Parse a header. Raises: DecodeProblem or TypeError if it is not one of this version."""
    match content:
        case {"version": int(version), "head": {"identity": dict(figures), **head}}:
            known = {name: figures[name] for name in attrs.fields_dict(Identity) if name in figures}
        case _:
            raise codec.DecodeProblem("no header @ $")
    if version != VERSION or not all(type(figure) is int for figure in known.values()):
        raise codec.DecodeProblem("another version, or no integers @ $")
    # The codec does not decode `identity`: a time after 2262 or a full 64-bit inode exceeds the
    # API's integer range.
    blank = {"size": 0, "mtime_ns": 0}
    header = codec.structure({**head, "identity": blank}, JournalHeader)
    return attrs.evolve(header, identity=Identity(**known))
