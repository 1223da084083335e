"""What the storage origin refuses, and its signatures."""

import asyncio
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sandbox_client import Client, Clock, Lab
from yarl import URL

from nunu_async.sandbox import signing

SECRET = b"s" * 32
KEY = "sandbox-project/5b0f7c1e/a%20b.zip"


def _target(**changes: Any) -> str:
    times = {"now": 1000.0, "life": 60.0}
    times |= {name: changes.pop(name) for name in times if name in changes}
    place: dict[str, Any] = {"object_key": KEY, "upload_id": "mpu-1", "part_number": 3}
    return signing.issue(SECRET, signing.Address(**(place | changes)), **times)


def _verdict(target: str, now: float = 1000.0, method: str = "PUT") -> str:
    return signing.check(SECRET, method=method, target=target, now=now)


def test_an_untouched_target_is_good() -> None:
    assert _verdict(_target()) == "good"


@given(index=st.integers(min_value=0), byte=st.integers(0x21, 0x7E))
def test_any_altered_byte_is_noticed(index: int, byte: int) -> None:
    target = _target()
    index %= len(target)
    altered = target[:index] + chr(byte) + target[index + 1 :]
    assert _verdict(altered) == ("good" if altered == target else "altered")


@given(index=st.integers(min_value=0), extra=st.text(min_size=1, max_size=5))
def test_any_inserted_text_is_noticed(index: int, extra: str) -> None:
    target = _target()
    index %= len(target) + 1
    assert _verdict(target[:index] + extra + target[index:]) == "altered"


@given(index=st.integers(min_value=0))
def test_any_missing_byte_is_noticed(index: int) -> None:
    target = _target()
    index %= len(target)
    assert _verdict(target[:index] + target[index + 1 :]) == "altered"


@given(st.text())
def test_any_other_target_is_noticed(target: str) -> None:
    assert _verdict(target) == "altered"
    signing.address(target)


@given(
    name=st.text(min_size=1),
    part_number=st.integers(1, 60_000),
    now=st.floats(0, 4e9),
    life=st.floats(1e-3, 1e9),
)
def test_a_target_leads_back_to_its_object(
    name: str, part_number: int, now: float, life: float
) -> None:
    name = name.encode("utf-8", "replace").decode()
    target = _target(object_key=f"p/b/{name}", part_number=part_number, now=now, life=life)
    assert _verdict(target, now=now) == "good"
    assert signing.address(target) == signing.Address(f"p/b/{name}", part_number, "mpu-1")


def test_another_method_is_noticed() -> None:
    assert _verdict(_target(), method="GET") == "altered"


@pytest.mark.parametrize(("now", "verdict"), [(1059.9, "good"), (1060.0, "expired")])
def test_a_target_expires_on_time(now: float, verdict: str) -> None:
    assert _verdict(_target(), now=now) == verdict


def test_a_url_library_would_write_it_differently() -> None:
    target = _target()
    for escape in ("%2F", "%7E", "%28", "%20", "+"):
        assert escape in target
    path, _, query = target.partition("?")
    requoted = URL("http://storage" + target)
    assert requoted.raw_path != path
    assert requoted.raw_query_string != query


@pytest.mark.parametrize("members", [{}, {"multipart": True}], ids=["single", "multipart"])
async def test_a_requoted_url_is_refused(lab: Lab, members: dict[str, bool]) -> None:
    client = await lab()
    url = await client.url(await client.ticket(**members))
    async with client.session.put(URL(url), data=b"0123456789") as response:
        answer = await response.text()
    assert response.status == 403
    assert "SignatureDoesNotMatch" in answer


async def test_the_wire_carries_the_url_as_issued(lab: Lab) -> None:
    client = await lab()
    url = await client.url(await client.ticket())
    await client.put(url, b"0123456789")
    assert client.box.storage_url + client.box.journal[-1].target == url


async def test_a_url_expires(lab: Lab, clock: Clock) -> None:
    client = await lab(now=clock.now, url_life=30)
    ticket = await client.ticket()
    clock.time += 29
    before = await client.put(ticket["upload_url"], b"0123456789")
    clock.time += 1
    after = await client.put(ticket["upload_url"], b"0123456789")
    assert before.status == 200
    assert (after.status, after.code) == (403, "AccessDenied")
    assert b"Request has expired" in after.raw


async def test_a_url_of_another_sandbox_is_refused(lab: Lab) -> None:
    client, other = await lab(), await lab()
    target = urlsplit((await other.ticket())["upload_url"])
    url = f"{client.box.storage_url}{target.path}?{target.query}"
    assert (await client.put(url, b"0123456789")).code == "SignatureDoesNotMatch"


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"X-Api-Key": "k"}, 400, "InvalidRequest"),
        ({"Authorization": "Bearer k"}, 400, "InvalidRequest"),
        ({"Cookie": "a=b"}, 400, "InvalidRequest"),
        ({"X-Amz-Acl": "public-read"}, 403, "AccessDenied"),
        ({"Content-MD5": "eA=="}, 403, "AccessDenied"),
        ({"Content-Encoding": "gzip"}, 403, "AccessDenied"),
        ({"Expect": "100-continue"}, 403, "AccessDenied"),
        ({"Transfer-Encoding": "chunked"}, 501, "NotImplemented"),
    ],
    ids=str,
)
async def test_a_header_that_does_not_belong_is_refused(
    lab: Lab, headers: dict[str, str], status: int, code: str
) -> None:
    client = await lab()
    ticket = await client.ticket(file_size=8)
    answer = await _raw_put(client, ticket["upload_url"], headers)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert f"<Code>{code}</Code>".encode() in answer
    assert client.box.journal[-1].status == status
    assert client.box.uploads[ticket["build_id"]].parts == {}


async def test_a_put_without_a_length_is_refused(lab: Lab) -> None:
    client = await lab()
    url = (await client.ticket(file_size=8))["upload_url"]
    answer = await _raw_put(client, url, {"Content-Length": ""})
    assert answer.startswith(b"HTTP/1.1 411 ")


async def test_a_plain_raw_put_is_taken(lab: Lab) -> None:
    client = await lab()
    url = (await client.ticket(file_size=8))["upload_url"]
    headers = {
        "Accept": "*/*",
        "Accept-Encoding": "gzip",
        "User-Agent": "raw",
        "Content-Type": "application/octet-stream",
    }
    assert (await _raw_put(client, url, headers)).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("part_number", "size", "code"),
    [
        (1, 3, "EntityTooSmall"),
        (1, 5, "EntityTooLarge"),
        (1, 0, "EntityTooSmall"),
        (3, 4, "EntityTooLarge"),
        (3, 1, "EntityTooSmall"),
    ],
)
async def test_another_length_than_planned_is_refused(
    lab: Lab, part_number: int, size: int, code: str
) -> None:
    client = await lab(part_size=4)
    ticket = await client.ticket(multipart=True)  # 4, 4, 2 bytes
    answer = await client.put(await client.url(ticket, part_number), b"x" * size)
    assert (answer.status, answer.code) == (400, code)


async def test_a_part_that_cannot_be_stored_is_an_internal_error(lab: Lab, tmp_path: Path) -> None:
    client = await lab(directory=tmp_path)
    ticket = await client.ticket()
    (tmp_path / ".parts").rmdir()
    answer = await client.put(ticket["upload_url"], b"0123456789")
    assert (answer.status, answer.code) == (500, "InternalError")


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_only_put_is_served(lab: Lab, method: str) -> None:
    client = await lab()
    answer = await client.send(method, (await client.ticket())["upload_url"])
    assert (answer.status, answer.headers["Allow"]) == (405, "PUT")


async def test_a_path_without_a_signature_is_refused(lab: Lab) -> None:
    client = await lab()
    answer = await client.put(f"{client.box.storage_url}/a/b", b"x")
    assert answer.code == "SignatureDoesNotMatch"


async def _raw_put(client: Client, url: str, headers: dict[str, str]) -> bytes:
    """Send 8 bytes by hand; an empty header value leaves the header out."""
    parts = urlsplit(url)
    fields = {"Host": parts.netloc, "Content-Length": "8", "Connection": "close"} | headers
    body = b"01234567" if fields["Content-Length"] else b""
    if "Transfer-Encoding" in headers:
        fields["Content-Length"] = ""
        body = b"8\r\n01234567\r\n0\r\n\r\n"
    lines = [f"PUT {url.removeprefix(client.box.storage_url)} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in fields.items() if value]
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write("\r\n".join([*lines, "", ""]).encode() + body)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer
