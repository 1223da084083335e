"""Sign URLs of the storage origin, and verify them byte for byte."""

import hashlib
import hmac
import math
from datetime import UTC, datetime
from typing import Literal
from urllib.parse import parse_qsl, quote, unquote

import attrs

# The percent-escapes here and in the query below are valid, but not what a URL library would write.
# A client that parses and rebuilds the URL therefore sends different bytes and gets an error.
_BUCKET = "/sandbox%28builds%29%7E1/"
_NOTE = "%7Ekeep%20every+byte%28as%2Fissued%29"
_SIGNATURE_PARAMETER = "&X-Amz-Signature="

Verdict = Literal["good", "altered", "expired"]


@attrs.frozen
class Address:
    """The object and part that a storage URL points to."""

    object_key: str
    part_number: int
    """1 for a single-part upload."""
    upload_id: str | None
    """None for a single-part upload."""


def issue(secret: bytes, address: Address, *, now: float, life: float) -> str:
    """Build the signed request target of one PUT, without scheme and host.

    Valid from `now` (Unix seconds) until just before `now + life`. X-Amz-Date and X-Amz-Expires
    hold whole seconds, so expiry is checked against the exact time in X-Until.
    """
    issued = datetime.fromtimestamp(now, UTC)
    query = [
        "X-Amz-Algorithm=AWS4-HMAC-SHA256",
        f"X-Amz-Credential=sandbox%2F{issued:%Y%m%d}%2Fauto%2Fs3%2Faws4_request",
        f"X-Amz-Date={issued:%Y%m%dT%H%M%SZ}",
        f"X-Amz-Expires={math.ceil(life)}",
        "X-Amz-SignedHeaders=host",
        f"X-Until={now + life:.6f}",
        f"X-Note={_NOTE}",
    ]
    if address.upload_id is not None:
        upload_id = quote(address.upload_id, safe="")
        query += [f"partNumber={address.part_number}", f"uploadId={upload_id}"]
    target = f"{_BUCKET}{quote(address.object_key, safe='/')}?{'&'.join(query)}"
    return f"{target}{_SIGNATURE_PARAMETER}{_signature(secret, 'PUT', target)}"


def check(secret: bytes, *, method: str, target: str, now: float) -> Verdict:
    """Verify the signature and expiry of a request target exactly as received.

    The signature covers the whole target, even the query order; any change invalidates it.
    """
    signed, _, signature = target.rpartition(_SIGNATURE_PARAMETER)
    if not hmac.compare_digest(_bytes(_signature(secret, method, signed)), _bytes(signature)):
        return "altered"
    until = dict(parse_qsl(signed.partition("?")[2])).get("X-Until", "0")
    return "expired" if now >= float(until) else "good"


def address(target: str) -> Address | None:
    """Parse the address in a target without checking the signature; None if invalid."""
    path, _, query = target.partition("?")
    if not path.startswith(_BUCKET):
        return None
    fields = dict(parse_qsl(query, keep_blank_values=True))
    number = fields.get("partNumber", "1")
    if not (number.isascii() and number.isdecimal() and len(number) <= len("99999999")):
        return None
    return Address(unquote(path.removeprefix(_BUCKET)), int(number), fields.get("uploadId"))


def _signature(secret: bytes, method: str, target: str) -> str:
    return hmac.new(secret, _bytes(f"{method}\n{target}"), hashlib.sha256).hexdigest()


def _bytes(text: str) -> bytes:
    # aiohttp decodes the request line this way, so encoding restores the received bytes.
    return text.encode("utf-8", "surrogateescape")
