"""What a resumed upload needs, as the lines of a journal. Pure.

A journal is JSON lines, appended and never changed: a head, then a line for each part in storage,
then one that says that completing began. Each is ``["CHECKSUM",{...}]``, the checksum covering
the line and all before it. So it can be cut at any byte, as by a lost machine, and still be read up
to there; what follows a line that does not fit is not believed.
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

__all__ = ["Head", "Kept", "head_line", "mark_line", "part_line", "read"]

_VERSION: Final = 1
_LINE: Final = re.compile(rb'\["([0-9a-f]{8})",(\{.*\})\]', re.DOTALL)


@attrs.frozen(kw_only=True)
class Head:
    """Which upload it is; neither the API key nor a presigned URL is in it."""

    path: str
    """Absolute."""
    identity: Identity
    base_url: str
    project_id: str | None
    request: InitiateUpload
    """What the upload was begun with."""
    ticket: MultipartTicket
    """With the upload id, which is a credential: hence the file's mode."""
    began: float
    """Unix seconds."""
    key_mark: str | None = None
    """What tells the key from others, where no project is named; the key cannot be had from it."""
    verify: bool = False
    """Whether each part's MD5 was to be compared with its ETag."""


@attrs.frozen(kw_only=True)
class Kept:
    """What a journal says."""

    head: Head
    etags: Mapping[int, str]
    """Of the parts in storage."""
    completing: bool
    """Whether the server may have been asked to complete it."""
    length: int
    """Bytes that can be read; what follows is torn, and goes before anything is appended."""
    checksum: int
    """Of the last line that can be read."""


def head_line(head: Head) -> tuple[bytes, int]:
    """Return the first line, and its checksum for the one after it."""
    return _line({"version": _VERSION, "head": codec.dump(head)}, 0)


def part_line(number: int, etag: str, before: int) -> tuple[bytes, int]:
    """Return the line of a part in storage; `before` is the checksum of the line before it."""
    return _line({"part": number, "etag": etag}, before)


def mark_line(before: int) -> tuple[bytes, int]:
    """Return the line after which the upload may be complete."""
    return _line({"completing": True}, before)


def _line(content: Mapping[str, object], before: int) -> tuple[bytes, int]:
    text = json.dumps(content, separators=(",", ":")).encode("ascii")
    checksum = zlib.crc32(text, before)
    return b'["%08x",%s]\n' % (checksum, text), checksum


def read(data: bytes) -> Kept | None:
    """Return what a journal says as far as it can be read; None without a head."""
    head: Head | None = None
    etags: dict[int, str] = {}
    completing = False
    length = checksum = 0
    *lines, _ = data.split(b"\n")  # what no line end follows is torn
    for line in lines:
        found = _LINE.fullmatch(line)
        if found is None or zlib.crc32(found[2], checksum) != int(found[1], 16):
            break
        try:
            content = codec.parse(found[2])
            if head is None:
                head = _head(content)
        except codec.Misfit:
            break
        if not isinstance(content, dict):
            break
        number, etag = content.get("part"), content.get("etag")
        if isinstance(number, int) and isinstance(etag, str):
            if 1 <= number <= head.ticket.total_parts:
                etags[number] = etag
        elif content.get("completing"):
            completing = True
        checksum = int(found[1], 16)
        length += len(line) + 1
    if head is None:
        return None
    return Kept(head=head, etags=etags, completing=completing, length=length, checksum=checksum)


def _head(content: object) -> Head:
    if not isinstance(content, dict) or content.get("version") != _VERSION:
        raise codec.Misfit("not a journal of this version @ $.version")
    return codec.structure(content.get("head"), Head)
