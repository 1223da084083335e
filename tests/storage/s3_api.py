"""The upload operations of the API, written from the public description alone, on a real S3 store.

It shares no code with the package or with its sandbox. Every request is judged: what the API would
refuse, or what a careful caller does not send, is added to ``violations``.
"""

from __future__ import annotations

import asyncio
import math
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, ParamSpec, TypeVar

import botocore.exceptions
from aiohttp import web
from rclone_store import Store
from wiretap import Seen, Wiretap
from yarl import URL

P = ParamSpec("P")
T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

API_KEY = "nunu_key_for_tests"
PROJECT = "pixel-harbor"
BUILDS = "/api/v1/builds"
MULTIPART_FROM = 3_000_000_000
URL_SECONDS = 3600
HOURS_AGO = 2 * 3600

PLATFORMS = {
    "windows",
    "macos",
    "linux",
    "android",
    "ios-native",
    "ios-simulator",
    "xbox",
    "playstation",
}
DETAILS = {"vcs", "ci", "app", "build", "upload"}
INITIATE: dict[str, Callable[[Any], bool]] = {
    "project_id": lambda v: v == PROJECT,
    "name": lambda v: isinstance(v, str) and 1 <= len(v) <= 255,
    "file_name": lambda v: isinstance(v, str) and 1 <= len(v) <= 255,
    "file_size": lambda v: _is_int(v) and v > 0,
    "platform": lambda v: isinstance(v, str) and v in PLATFORMS,
    "description": lambda v: isinstance(v, str) and len(v) <= 1000,
    "multipart": lambda v: isinstance(v, bool),
    "auto_delete": lambda v: isinstance(v, bool),
    "deletion_policy": lambda v: v in {"least_recent", "oldest"},
    "upload_timeout": lambda v: _is_int(v) and 1 <= v <= 1440,
    "tags": lambda v: (
        isinstance(v, list) and all(isinstance(t, str) and 1 <= len(t) <= 50 for t in v)
    ),
    "details": lambda v: isinstance(v, dict) and v.keys() <= DETAILS,
}
REQUIRED = {"project_id", "name", "file_name", "file_size", "platform"}


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass
class Upload:
    """A build whose upload was started."""

    build_id: str
    key: str
    body: dict[str, Any]
    upload_id: str | None
    total: int
    part_size: int
    state: str = "uploading"

    @property
    def size(self) -> int:
        size: int = self.body["file_size"]
        return size

    def part_bytes(self, number: int) -> int:
        """How many bytes part ``number`` has."""
        return min(self.part_size, self.size - (number - 1) * self.part_size)


class RefusedError(Exception):
    """A request the API answers with an error."""

    def __init__(self, status: int, error: str, code: str | None = None) -> None:
        super().__init__(error)
        self.status = status
        self.body = {"error": error} | ({"code": code} if code else {})


NOT_FOUND = (404, "Upload not found", "UPLOAD_NOT_FOUND")


class Rig:
    """The API, its store and all that passed between a client and the two.

    Attributes:
        part_size: Size of the parts of uploads started from now on.
        expire_next: So many part URLs will have expired when they are handed out.
        forge_next: So many part URLs will be signed with a secret the store does not know.
        forged_parts: Parts whose URLs are always signed with such a secret.
        requests: Every request in the order it arrived, at either side.
        violations: What a request did against the API's description.
        spoiled: How many URLs that the store refuses each part got.
    """

    def __init__(self, store: Store) -> None:
        self.part_size = 16 << 20
        self.expire_next = 0
        self.forge_next = 0
        self.forged_parts: set[int] = set()
        self.requests: list[Seen] = []
        self.violations: list[str] = []
        self.spoiled: Counter[int] = Counter()
        self.uploads: dict[str, Upload] = {}
        self.bucket = f"builds-{uuid.uuid4().hex[:12]}"
        self._store = store
        self._issued: set[str] = set()
        self._tap = Wiretap(store.port, self._storage_request)
        self._thread = ThreadPoolExecutor(1)
        self._port = 0

    @property
    def url(self) -> str:
        """Where the API is."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def only_upload(self) -> Upload:
        """The upload, when just one was started."""
        (upload,) = self.uploads.values()
        return upload

    # What the tests ask.

    async def sha256(self) -> str:
        """The SHA-256 of the only upload's object, read back from the store."""
        return await self._call(self._store.sha256, self.bucket, self.only_upload.key)

    async def keys(self) -> list[str]:
        """The keys of all objects in the store."""
        return await self._call(self._store.keys, self.bucket)

    async def open_uploads(self) -> list[str]:
        """The keys of all multi-part uploads the store still holds parts for."""
        return await self._call(self._store.open_uploads, self.bucket)

    def puts(self, part: int | None = None) -> list[Seen]:
        """The PUTs the store saw; of one part, if its number is given."""
        puts = [r for r in self.requests if r.side == "storage" and r.method == "PUT"]
        return puts if part is None else [r for r in puts if r.part == part]

    def calls(self, method: str, path: str = "/upload") -> list[Seen]:
        """The API requests with this method and path below the builds."""
        return [
            r
            for r in self.requests
            if r.side == "api" and r.method == method and URL(r.target).path == BUILDS + path
        ]

    def asked(self) -> Counter[int]:
        """How often the URL of each part was asked for."""
        numbers = (
            URL(r.target).query.get("part_numbers", "") for r in self.calls("GET", "/upload/parts")
        )
        return Counter(int(n) for text in numbers for n in text.split(",") if n.isdecimal())

    async def part_url(
        self,
        upload: Upload,
        number: int,
        *,
        seconds: int = URL_SECONDS,
        age: int = 0,
        forged: bool = False,
    ) -> str:
        """A URL for one part, as if signed ``age`` seconds ago."""
        params = {"Key": upload.key, "UploadId": upload.upload_id, "PartNumber": number}
        return await self._presigned("upload_part", params, seconds=seconds, age=age, forged=forged)

    async def _presigned(
        self,
        operation: str,
        params: dict[str, Any],
        *,
        seconds: int = URL_SECONDS,
        age: int = 0,
        forged: bool = False,
    ) -> str:
        url = await self._call(
            self._store.presign,
            self._forger if forged else self._signer,
            operation,
            {"Bucket": self.bucket, **params},
            seconds=seconds,
            age=age,
        )
        self._issued.add(url)
        return url

    # Running it.

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Rig]:
        """Serve for the length of the block."""
        await self._tap.start()
        self._signer = self._store.client(self._tap.port)
        self._forger = self._store.client(self._tap.port, secret="wrong-" * 6)
        app = web.Application(middlewares=[self._middleware])
        app.add_routes(
            [
                web.post(BUILDS + "/upload", self._initiate),
                web.delete(BUILDS + "/upload", self._cancel),
                web.get(BUILDS + "/upload/parts", self._parts),
                web.post(BUILDS + "/upload/complete", self._complete),
                web.get(BUILDS + "/{build_id}", self._build),
            ]
        )
        runner = web.AppRunner(app, shutdown_timeout=1)
        try:
            await self._call(self._store.s3.create_bucket, Bucket=self.bucket)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self._port = runner.addresses[0][1]
            yield self
        finally:
            await runner.cleanup()
            await self._tap.close()
            self._signer.close()
            self._forger.close()
            self._thread.shutdown()

    async def _call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Everything that talks to the store or signs, on the one thread that may."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, partial(function, *args, **kwargs))

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        seen = Seen("api", request.method, request.raw_path, request.headers.copy())
        self.requests.append(seen)
        try:
            if request.path != BUILDS + "/upload/parts":
                self._authenticate(request)
            response = await handler(request)
        except RefusedError as error:
            self._blame(seen, str(error))
            response = web.json_response(error.body, status=error.status)
        except web.HTTPException as error:
            self._blame(seen, f"no such operation ({error.status})")
            response = web.json_response({"error": error.reason}, status=error.status)
        seen.status = response.status
        return response

    def _blame(self, seen: Seen, what: str) -> None:
        self.violations.append(f"{seen.side} {seen.method} {URL(seen.target).path}: {what}")

    # What the API does.

    def _authenticate(self, request: web.Request) -> None:
        if "X-Api-Key" not in request.headers:
            raise RefusedError(401, "API key required")
        if request.headers["X-Api-Key"] != API_KEY:
            raise RefusedError(401, "Invalid API key")

    async def _body(self, request: web.Request) -> dict[str, Any]:
        if request.content_type != "application/json":
            raise RefusedError(400, f"body is {request.content_type}")
        try:
            body = await request.json()
        except ValueError:
            raise RefusedError(400, "body is not JSON") from None
        if not isinstance(body, dict):
            raise RefusedError(400, "body is not an object")
        return body

    def _query(self, request: web.Request, required: set[str], optional: set[str]) -> Any:
        names = list(request.query.keys())
        wrong = (required - set(names)) | (set(names) - required - optional)
        if wrong or len(set(names)) != len(names):
            raise RefusedError(400, f"query needs {sorted(required)}, got {sorted(names)}")
        return request.query

    def _find(self, **wanted: object) -> Upload:
        for upload in self.uploads.values():
            if all(getattr(upload, name) == value for name, value in wanted.items()):
                if upload.state == "uploading":
                    return upload
                break
        raise RefusedError(*NOT_FOUND)

    async def _initiate(self, request: web.Request) -> web.Response:
        body = await self._body(request)
        missing = REQUIRED - body.keys()
        wrong = [k for k, v in body.items() if k not in INITIATE or not INITIATE[k](v)]
        if missing or wrong:
            raise RefusedError(400, f"missing {sorted(missing)}, wrong {sorted(wrong)}")
        build_id = str(uuid.uuid4())
        key = f"{build_id[:4]}/{body['file_name']}"
        upload = Upload(build_id, key, body, None, 1, body["file_size"])
        answer: dict[str, Any] = {"build_id": build_id, "object_key": key}
        if body.get("multipart", body["file_size"] >= MULTIPART_FROM):
            made = await self._call(
                self._store.s3.create_multipart_upload, Bucket=self.bucket, Key=key
            )
            upload.upload_id = made["UploadId"]
            upload.part_size = self.part_size
            upload.total = math.ceil(upload.size / upload.part_size)
            answer |= {"upload_type": "multipart", "upload_id": upload.upload_id}
            answer |= {"total_parts": upload.total, "part_size": upload.part_size}
        else:
            url = await self._presigned("put_object", {"Key": key})
            answer |= {"upload_type": "single-part", "upload_url": url}
        self.uploads[build_id] = upload
        return web.json_response(answer)

    async def _parts(self, request: web.Request) -> web.Response:
        query = self._query(request, {"upload_id", "object_key", "part_numbers"}, set())
        texts = query["part_numbers"].split(",")
        try:
            upload = self._find(upload_id=query["upload_id"], key=query["object_key"])
        except RefusedError as error:
            raise RefusedError(400, str(error)) from None
        wanted = {str(n) for n in range(1, upload.total + 1)}
        if len(set(texts)) != len(texts) or not set(texts) <= wanted:
            raise RefusedError(400, f"part_numbers {query['part_numbers']} of {upload.total}")
        urls = [
            {"part_number": number, "url": await self._next_part_url(upload, number)}
            for number in map(int, texts)
        ]
        return web.json_response({"upload_urls": urls})

    async def _next_part_url(self, upload: Upload, number: int) -> str:
        """A part's URL, spoiled if a test asked for that."""
        age, forged = 0, False
        if number in self.forged_parts:
            forged = True
        elif self.expire_next:
            self.expire_next -= 1
            age = HOURS_AGO
        elif self.forge_next:
            self.forge_next -= 1
            forged = True
        self.spoiled[number] += forged or age > 0
        return await self.part_url(upload, number, age=age, forged=forged)

    async def _complete(self, request: web.Request) -> web.Response:
        body = await self._body(request)
        if not isinstance(body.get("build_id"), str):
            raise RefusedError(400, "build_id is missing")
        upload = self._find(build_id=body["build_id"])
        expected = {"build_id"}
        if upload.upload_id:
            expected |= {"upload_id", "object_key", "parts"}
        if body.keys() != expected:
            raise RefusedError(400, f"fields are {sorted(body)}, not {sorted(expected)}")
        answer = {"status": "success"}
        if upload.upload_id:
            if (body["upload_id"], body["object_key"]) != (upload.upload_id, upload.key):
                raise RefusedError(*NOT_FOUND)
            parts = self._etags(body["parts"], upload.total)
            try:
                await self._call(
                    self._store.s3.complete_multipart_upload,
                    Bucket=self.bucket,
                    Key=upload.key,
                    UploadId=upload.upload_id,
                    MultipartUpload={"Parts": parts},
                )
            except botocore.exceptions.ClientError as error:
                raise RefusedError(400, f"storage said {error}") from error
            answer = {"build_id": upload.build_id}
        stored = await self._call(self._store.size, self.bucket, upload.key)
        if stored != upload.size:
            raise RefusedError(400, f"{stored} bytes in the store, {upload.size} announced")
        upload.state = "ready"
        return web.json_response(answer)

    def _etags(self, parts: object, total: int) -> list[dict[str, Any]]:
        """The part list as S3 wants it, whether the ETags came with or without their quotes."""
        good = isinstance(parts, list) and all(
            isinstance(part, dict)
            and part.keys() == {"part_number", "etag"}
            and isinstance(part["etag"], str)
            for part in parts
        )
        if not good:
            raise RefusedError(400, "parts are not a list of part_number and etag")
        assert isinstance(parts, list)
        numbers = [part["part_number"] for part in parts]
        if not all(map(_is_int, numbers)) or numbers != list(range(1, total + 1)):
            raise RefusedError(400, f"parts are {numbers}, not 1 to {total} in this order")
        return [
            {"PartNumber": part["part_number"], "ETag": '"' + part["etag"].strip('"') + '"'}
            for part in parts
        ]

    async def _cancel(self, request: web.Request) -> web.Response:
        query = self._query(request, {"build_id", "object_key"}, {"upload_id"})
        upload = self._find(build_id=query["build_id"], key=query["object_key"])
        if query.get("upload_id") != upload.upload_id:
            raise RefusedError(*NOT_FOUND)
        upload.state = "failed"
        if upload.upload_id:
            # rclone may have given the upload up by itself, when a part's connection dropped.
            with suppress(self._store.s3.exceptions.NoSuchUpload):
                await self._call(
                    self._store.s3.abort_multipart_upload,
                    Bucket=self.bucket,
                    Key=upload.key,
                    UploadId=upload.upload_id,
                )
        else:
            await self._call(self._store.s3.delete_object, Bucket=self.bucket, Key=upload.key)
        return web.json_response({"success": True})

    async def _build(self, request: web.Request) -> web.Response:
        upload = self.uploads.get(request.match_info["build_id"])
        if upload is None:
            raise RefusedError(404, "build not found")
        body = upload.body
        build = {
            "id": upload.build_id,
            "name": body["name"],
            "platform": body["platform"],
            "status": upload.state,
            "file_name": body["file_name"],
            "file_size": upload.size,
            "pinned": False,
            "nunu_sdk": False,
            "tags": body.get("tags", []),
            "created_at": datetime.now(UTC).isoformat(timespec="microseconds"),
            "last_used": None,
            "description": body.get("description"),
            "details": body.get("details"),
        }
        return web.json_response(build)

    # What the store was asked.

    def _storage_request(self, seen: Seen) -> None:
        """Judge a request on its way to the store."""
        self.requests.append(seen)
        target = URL(seen.target, encoded=True)
        headers = seen.headers
        if seen.method != "PUT":
            self._blame(seen, "only PUTs go to the store")
            return
        if f"http://{headers.get('Host')}{seen.target}" not in self._issued:
            self._blame(seen, "the URL is not one that was handed out, to the letter")
        if "X-Api-Key" in headers or API_KEY in str(headers):
            self._blame(seen, "the API key went to the store")
        if headers.get("Content-Type") != "application/octet-stream":
            self._blame(seen, f"Content-Type is {headers.get('Content-Type')}")
        number = target.query.get("partNumber", "")
        seen.part = int(number) if number.isdecimal() else None
        path = target.path.removeprefix(f"/{self.bucket}/")
        for upload in self.uploads.values():
            if upload.key == path:
                size = str(upload.part_bytes(seen.part or 1))
                if headers.get("Content-Length") != size:
                    self._blame(seen, f"{headers.get('Content-Length')} bytes instead of {size}")
                if upload.state != "uploading":
                    self._blame(seen, f"sent when the upload was {upload.state}")
                return
        self._blame(seen, "no upload has this key")
