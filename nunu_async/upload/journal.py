"""The journal format: JSON lines with what is needed to resume an upload. Pure.

A journal is only ever appended to: a header, then a line for each part in storage, then one that
says that completing began. Each is ``["CHECKSUM",{...}]``, the checksum covering the line and all
before it. So a journal that is cut at any byte, as by a power loss, can be read up to there;
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
# How each journal of this version begins, apart from the checksum.
_START: Final = b'["00000000",{"version":%d,"head":' % VERSION
_LINE: Final = re.compile(rb'\["([0-9a-f]{8})",(\{.*\})\]', re.DOTALL)


@attrs.frozen(kw_only=True)
class JournalHeader:
    """Identifies the upload; contains neither the API key nor a presigned URL."""

    path: str
    """Absolute."""
    identity: Identity
    base_url: str
    project_id: str | None
    request: InitiateUpload
    """The request that initiated the upload."""
    ticket: MultipartTicket
    """Includes the upload id, which is a credential: hence the file's mode."""
    began: float
    """Unix seconds."""
    key_mark: str | None = None
    """Identifies the API key where no project is named; the key cannot be derived from it."""
    verify: bool = False
    """Whether each part's MD5 was to be compared with its ETag."""


@attrs.define
class JournalState:
    """The state that a journal records."""

    head: JournalHeader
    etags: dict[int, str] = attrs.field(factory=dict)
    """Of the parts in storage, by number."""
    md5_parts: set[int] = attrs.field(factory=set)
    """Numbers of the parts whose ETag is the MD5 of their bytes."""
    completing: bool = False
    """Whether the server may have been asked to complete it."""
    length: int = 0
    """Bytes of valid lines; what follows is torn, and is cut off before anything is appended."""
    checksum: int = 0
    """Of the last valid line."""

    def add(self, content: object) -> None:
        """Add what a line after the header records."""
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
    """Return the line of a part in storage; `before` is the checksum of the line before it."""
    return _line({"part": number, "etag": etag} | ({"md5": True} if is_md5 else {}), before)


def mark_line(before: int) -> tuple[bytes, int]:
    """Return the line marking an upload as possibly complete."""
    return _line({"completing": True}, before)


def _line(content: Mapping[str, object], before: int) -> tuple[bytes, int]:
    text = json.dumps(content, separators=(",", ":")).encode("ascii")
    checksum = zlib.crc32(text, before)
    return b'["%08x",%s]\n' % (checksum, text), checksum


def read(data: bytes) -> JournalState | None:
    """Return the state recorded up to the first invalid line; None without a header."""
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
    """Name the format of a journal that `read` cannot read but another version may; "" if none.

    An empty journal, or one whose header was torn by a power loss, has no format.
    """
    first, end, _ = data.partition(b"\n")
    match = _LINE.fullmatch(first)
    if end and match is not None and zlib.crc32(match[2]) == int(match[1], 16):
        version = _ANY_VERSION.search(first)
        if version is None or int(version[1]) == VERSION:
            return f"format {VERSION} with unknown contents"
        return f"format {int(version[1])}"
    # File systems fill lost blocks with zeros.
    start = re.sub(rb'^(\[")[0-9a-f]{1,8}', rb"\g<1>", data.rstrip(b"\0")[: len(_START)])
    expected = re.sub(rb'^(\[")0{8}', rb"\g<1>", _START)
    if expected.startswith(start) or start.startswith(expected):
        return ""
    version = _ANY_VERSION.search(data[:4096])
    return f"format {int(version[1])}" if version is not None else "an unknown format"


def _head(content: object) -> JournalHeader:
    """Raises: DecodeProblem or TypeError for what is no header of this version."""
    match content:
        case {"version": int(version), "head": {"identity": dict(figures), **head}}:
            known = {name: figures[name] for name in attrs.fields_dict(Identity) if name in figures}
        case _:
            raise codec.DecodeProblem("no header @ $")
    if version != VERSION or not all(type(figure) is int for figure in known.values()):
        raise codec.DecodeProblem("another version, or no integers @ $")
    # Apart from the rest: a time after 2262, or an inode of all 64 bits, is larger than any integer
    # of the API.
    blank = {"size": 0, "mtime_ns": 0}
    header = codec.structure({**head, "identity": blank}, JournalHeader)
    return attrs.evolve(header, identity=Identity(**known))
