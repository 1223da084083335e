"""What the sandbox's tests share: a plain client, a clock, and two questions."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import attrs
from yarl import URL

from nunu_async.sandbox import Sandbox


@attrs.define
class Clock:
    """Time that passes only when asked to; sleeping is recorded and takes no time."""

    time: float = 1_780_000_000.0
    slept: list[float] = attrs.field(factory=list)

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)


@attrs.frozen
class Answer:
    status: int
    headers: Any
    raw: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.raw)

    @property
    def code(self) -> str:
        return self.raw.decode().partition("<Code>")[2].partition("</Code>")[0]


async def once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Keep aiohttp from sending twice: 3.14.3 then waits for an iterator that is spent."""
    try:
        return await handler(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise aiohttp.ClientPayloadError("the connection was lost") from error


class Client:
    """A client as plain as can be: one method for each request, no checks, no retries."""

    def __init__(self, box: Sandbox, session: aiohttp.ClientSession) -> None:
        self.box = box
        self.session = session

    async def send(self, method: str, url: str, **options: Any) -> Answer:
        async with self.session.request(method, URL(url, encoded=True), **options) as response:
            return Answer(response.status, response.headers, await response.read())

    async def api(self, method: str, path: str, *, key: str | None = "", **options: Any) -> Answer:
        headers = options.pop("headers", {})
        if key is not None:
            headers = {"X-Api-Key": key or self.box.api_key, **headers}
        url = URL(self.box.base_url + path)
        if "params" in options:
            url = url.with_query(options.pop("params"))
        async with self.session.request(method, url, headers=headers, **options) as response:
            return Answer(response.status, response.headers, await response.read())

    async def initiate(self, **members: Any) -> Answer:
        body = {"name": "demo", "file_name": "demo.zip", "file_size": 10, "platform": "linux"}
        return await self.api("POST", "/builds/upload", json={**body, **members})

    async def ticket(self, **members: Any) -> Any:
        answer = await self.initiate(**members)
        assert answer.status == 200, answer.raw
        return answer.json

    async def parts(self, ticket: Any, numbers: str) -> Answer:
        params = {
            "upload_id": ticket["upload_id"],
            "object_key": ticket["object_key"],
            "part_numbers": numbers,
        }
        return await self.api("GET", "/builds/upload/parts", key=None, params=params)

    async def url(self, ticket: Any, number: int = 1) -> str:
        if "upload_url" in ticket:
            return str(ticket["upload_url"])
        answer = await self.parts(ticket, str(number))
        return str(answer.json["upload_urls"][0]["url"])

    async def put(self, url: str, data: bytes) -> Answer:
        async def body() -> AsyncIterator[bytes]:
            yield data

        # aiohttp sends bytes a second time by itself after a cut; an iterator it cannot.
        return await self.send("PUT", url, data=body(), headers={"Content-Length": str(len(data))})

    async def complete(self, ticket: Any, etags: list[str] | None = None) -> Answer:
        body: dict[str, Any] = {"build_id": ticket["build_id"]}
        if etags is not None:
            body["upload_id"] = ticket["upload_id"]
            body["object_key"] = ticket["object_key"]
            body["parts"] = [
                {"part_number": number, "etag": etag} for number, etag in enumerate(etags, 1)
            ]
        return await self.api("POST", "/builds/upload/complete", json=body)

    async def cancel(self, ticket: Any, **params: str) -> Answer:
        names = ("build_id", "object_key", "upload_id")
        query = {name: ticket[name] for name in names if name in ticket} | params
        return await self.api("DELETE", "/builds/upload", params=query)

    async def build(self, ticket: Any) -> Answer:
        return await self.api("GET", f"/builds/{ticket['build_id']}")

    async def upload(self, data: bytes, **members: Any) -> Any:
        """Upload from first to last and return the ticket."""
        ticket = await self.ticket(file_size=len(data), **members)
        if ticket["upload_type"] == "single-part":
            assert (await self.put(ticket["upload_url"], data)).status == 200
            assert (await self.complete(ticket)).status == 200
            return ticket
        etags = []
        for number in range(1, ticket["total_parts"] + 1):
            start = (number - 1) * ticket["part_size"]
            part = data[start : start + ticket["part_size"]]
            etags.append((await self.put(await self.url(ticket, number), part)).headers["ETag"])
        assert (await self.complete(ticket, etags)).status == 200
        return ticket


def listing(directory: Path) -> list[Path]:
    """List all files under a directory, and its empty folders."""
    return [path for path in directory.rglob("*") if path.is_file() or not any(path.iterdir())]


Lab = Callable[..., Awaitable[Client]]
