"""Serve the API origin."""

import hmac
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, NoReturn
from urllib.parse import parse_qsl, unquote

import attrs
from aiohttp import web

from nunu_async.sandbox import shapes, signing
from nunu_async.sandbox.journal import Origin, Seen
from nunu_async.sandbox.listener import Body, Call
from nunu_async.sandbox.objects import ObjectStore
from nunu_async.sandbox.state import Depot, FileTooLargeError, QuotaExceededError, Upload

_PREFIX = "/api/v1"
_SCOPE = re.compile(r"/project/([^/]+)(/.*)")
_ROUTES = (
    ("POST", re.compile(r"/builds/upload"), "initiate_upload"),
    ("DELETE", re.compile(r"/builds/upload"), "cancel_upload"),
    ("GET", re.compile(r"/builds/upload/parts"), "get_upload_parts"),
    ("POST", re.compile(r"/builds/upload/complete"), "complete_upload"),
    ("GET", re.compile(r"/builds/(?!upload$)(?P<build_id>[^/]+)"), "get_build"),
)
_KEYLESS = "get_upload_parts"  # its upload_id is the credential
_NUMBERS = re.compile(r"[1-9][0-9]{0,8}(,[1-9][0-9]{0,8})*", re.ASCII)
_BODY_LIMIT = 1024 * 1024
_LONG = f"body must be at most {_BODY_LIMIT} bytes"


@attrs.frozen
class Refused(Exception):
    """The request is answered with an error."""

    status: int
    error: str
    code: str | None = None
    details: Mapping[str, object] | None = None


@attrs.frozen
class Asked:
    """A request as the operations see it."""

    call: Call
    query: Mapping[str, str]
    body: Any
    seen: Seen


class Api:
    """The API side of the sandbox."""

    name: Origin = "api"

    def __init__(
        self,
        *,
        depot: Depot,
        objects: ObjectStore,
        api_key: str,
        secret: bytes,
        url_life: float,
        storage_url: Callable[[], str],
        now: Callable[[], float],
    ) -> None:
        self._depot = depot
        self._objects = objects
        self._api_key = api_key
        self._secret = secret
        self._url_life = url_life
        self._storage_url = storage_url
        self._now = now
        self._operations: dict[str, Callable[[Asked], Awaitable[dict[str, Any]]]] = {
            "initiate_upload": self._initiate_upload,
            "get_upload_parts": self._get_upload_parts,
            "complete_upload": self._complete_upload,
            "cancel_upload": self._cancel_upload,
            "get_build": self._get_build,
        }

    def identify(self, method: str, target: str) -> Call:
        """Name the operation; a project in the path is remembered, not judged."""
        path = target.partition("?")[0]
        if not path.startswith(f"{_PREFIX}/"):
            return Call("unknown")
        path = path.removeprefix(_PREFIX)
        params: dict[str, str] = {}
        if scoped := _SCOPE.fullmatch(path):
            params["project_id"] = unquote(scoped[1])
            path = scoped[2]
        for verb, pattern, operation in _ROUTES:
            if method == verb and (found := pattern.fullmatch(path)):
                params.update((name, unquote(text)) for name, text in found.groupdict().items())
                return Call(operation, params=params)
        return Call("unknown", params=params)

    def refusal(self, status: int) -> web.Response:
        """Make an error answer that says what HTTP says of the status."""
        try:
            phrase = HTTPStatus(status).phrase.lower()
        except ValueError:
            phrase = f"status {status}"
        return web.json_response({"error": phrase}, status=status)

    async def serve(
        self, request: web.BaseRequest, call: Call, body: Body, seen: Seen
    ) -> web.Response:
        """Check key, project, body and lookup in this order, then do the work."""
        # The body first of all, even if the request is refused: that keeps the connection usable.
        raw = await _read(request, body)
        seen.body, problem = _parse(raw)
        if len(raw) > _BODY_LIMIT:
            problem = _LONG
        seen.build_id = _build_id(call, seen.body, request.raw_path)
        try:
            answer = await self._dispatch(request, call, seen, problem)
        except Refused as exc:
            return _error(exc)
        finally:
            released = self._depot.take_released()
            await self._objects.delete([upload.build_id for upload in released])
        return web.json_response(answer)

    async def _dispatch(
        self, request: web.BaseRequest, call: Call, seen: Seen, problem: str | None
    ) -> dict[str, Any]:
        operation = self._operations.get(call.operation)
        if operation is None:
            raise Refused(404, "not found")
        if call.operation != _KEYLESS:
            self._check_key(request.headers.getall("X-Api-Key", []))
        if call.params.get("project_id", self._depot.project_id) != self._depot.project_id:
            raise Refused(403, "API key does not belong to this project")
        if request.method == "POST":
            if problem == _LONG:
                raise Refused(413, _LONG)
            if request.content_type != "application/json":
                _bad_request("Content-Type must be application/json")
            if problem is not None:
                _bad_request(problem)
        return await operation(Asked(call, _query(request.raw_path), seen.body, seen))

    def _check_key(self, keys: list[str]) -> None:
        if not keys:
            raise Refused(401, "API key required")
        given = ",".join(keys).encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(given, self._api_key.encode()):
            raise Refused(401, "Invalid API key")

    async def _initiate_upload(self, asked: Asked) -> dict[str, Any]:
        _check(shapes.INITIATE, asked.body)
        project_id = asked.body.get("project_id", self._depot.project_id)
        if project_id != self._depot.project_id:
            _bad_request("project_id is not the project of this key")
        try:
            upload = self._depot.initiate(asked.body, self._now())
        except FileTooLargeError:
            raise Refused(413, "File exceeds limits") from None
        except QuotaExceededError as exc:
            sizes = {"used": exc.used, "capacity": exc.capacity, "needed": exc.needed}
            raise Refused(402, "Storage capacity exceeded", "QUOTA_EXCEEDED", sizes) from None
        asked.seen.build_id = upload.build_id
        if upload.upload_id is None:
            return {
                "upload_type": "single-part",
                "build_id": upload.build_id,
                "upload_url": self._url(upload, 1),
                "object_key": upload.object_key,
            }
        return {
            "upload_type": "multipart",
            "build_id": upload.build_id,
            "upload_id": upload.upload_id,
            "object_key": upload.object_key,
            "total_parts": upload.total_parts,
            "part_size": upload.part_size,
        }

    async def _get_upload_parts(self, asked: Asked) -> dict[str, Any]:
        query = asked.query
        for name in ("upload_id", "object_key", "part_numbers"):
            if not query.get(name):
                _bad_request(f"{name} is required")
        if not _NUMBERS.fullmatch(query["part_numbers"]):
            _bad_request("part_numbers must be a comma-separated list of positive integers")
        numbers = [int(text) for text in query["part_numbers"].split(",")]
        if len(set(numbers)) != len(numbers):
            _bad_request("part_numbers must not repeat")
        upload = self._depot.find_by_key(query["object_key"], query["upload_id"], self._now())
        if upload is None:
            _bad_request("no such upload")
        asked.seen.build_id = upload.build_id
        if max(numbers) > upload.total_parts:
            _bad_request(f"part_numbers must be at most {upload.total_parts}")
        return {
            "upload_urls": [
                {"part_number": number, "url": self._url(upload, number)} for number in numbers
            ]
        }

    async def _complete_upload(self, asked: Asked) -> dict[str, Any]:
        body = asked.body
        _check(shapes.COMPLETE, body)
        if ("upload_id" in body) != ("parts" in body) or ("parts" in body) > ("object_key" in body):
            _bad_request("upload_id, object_key and parts belong together")
        upload = self._find(body["build_id"], body)
        if upload.upload_id is None:
            if not upload.parts:
                _bad_request("the file was not uploaded yet")
        elif "parts" not in body:
            _bad_request("a multipart upload needs upload_id, object_key and parts")
        else:
            _check_parts(upload, body["parts"])
        self._depot.seal(upload)
        try:
            await self._objects.assemble(upload.build_id, upload.total_parts, upload.file_name)
        except OSError as exc:
            self._depot.unseal(upload)
            raise Refused(500, f"parts could not be put together: {exc.strerror}") from exc
        self._depot.finish(upload)
        return {"status": "success"} if upload.upload_id is None else {"build_id": upload.build_id}

    async def _cancel_upload(self, asked: Asked) -> dict[str, Any]:
        for name in ("build_id", "object_key"):
            if not asked.query.get(name):
                _bad_request(f"{name} is required")
        upload = self._find(asked.query["build_id"], asked.query)
        if upload.upload_id is not None and "upload_id" not in asked.query:
            _bad_request("a multipart upload needs upload_id")
        self._depot.cancel(upload)
        return {"success": True}

    async def _get_build(self, asked: Asked) -> dict[str, Any]:
        upload = self._depot.find_build(asked.call.params["build_id"], self._now())
        if upload is None:
            raise Refused(404, "build not found")
        request = upload.request
        build = {
            "build_id": upload.build_id,
            "project_id": self._depot.project_id,
            "name": upload.name,
            "platform": request["platform"],
            "status": "OK" if upload.state == "completed" else "uploading",
            "filename": upload.file_name,
            "size": upload.size,
            "pinned": False,
            "nunu_sdk": False,
            "tags": request.get("tags", []),
            "created_at": datetime.fromtimestamp(upload.created, UTC).isoformat(
                timespec="microseconds"
            ),
            "last_used": None,
            "description": request.get("description"),
        }
        if "details" in request:
            build["details"] = request["details"]
        return build

    def _find(self, build_id: str, given: Mapping[str, Any]) -> Upload:
        upload = self._depot.find_open(build_id, self._now())
        if (
            upload is None
            or given.get("object_key", upload.object_key) != upload.object_key
            or given.get("upload_id", upload.upload_id) != upload.upload_id
        ):
            raise Refused(404, "Upload not found", "UPLOAD_NOT_FOUND")
        return upload

    def _url(self, upload: Upload, part_number: int) -> str:
        target = signing.issue(
            self._secret,
            object_key=upload.object_key,
            upload_id=upload.upload_id,
            part_number=part_number,
            now=self._now(),
            life=self._url_life,
        )
        return f"{self._storage_url()}{target}"


async def _read(request: web.BaseRequest, body: Body) -> bytes:
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
    return await body.block(_BODY_LIMIT + 1)


def _parse(raw: bytes) -> tuple[Any, str | None]:
    try:
        parsed = json.loads(raw.decode(), parse_constant=_no_constant)
        json.dumps(parsed, ensure_ascii=False).encode()  # a lone surrogate is no text
    except (ValueError, RecursionError):
        return None, "body must be JSON"
    return parsed, None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _query(target: str) -> dict[str, str]:
    pairs = parse_qsl(target.partition("?")[2], keep_blank_values=True)
    query = dict(pairs)
    if len(query) != len(pairs):
        _bad_request("a query parameter was given twice")
    return query


def _build_id(call: Call, body: object, target: str) -> str | None:
    if "build_id" in call.params:
        return call.params["build_id"]
    if isinstance(body, dict) and isinstance(body.get("build_id"), str):
        return str(body["build_id"])
    return dict(parse_qsl(target.partition("?")[2])).get("build_id")


def _check(rule: shapes.Rule, body: object) -> None:
    try:
        rule(body, "")
    except shapes.ShapeError as exc:
        _bad_request(f"{exc}")


def _check_parts(upload: Upload, parts: list[dict[str, Any]]) -> None:
    numbers = [part["part_number"] for part in parts]
    if numbers != list(range(1, upload.total_parts + 1)):
        _bad_request("parts must be complete and in ascending order")
    for part in parts:
        etag: str = part["etag"]
        bare = etag[1:-1] if etag[:1] == etag[-1:] == '"' else etag
        if upload.parts.get(part["part_number"]) != bare:
            _bad_request(f"part {part['part_number']}: etag is not that of the stored part")


def _bad_request(problem: str) -> NoReturn:
    raise Refused(400, f"invalid request: {problem}")


def _error(refused: Refused) -> web.Response:
    body: dict[str, object] = {"error": refused.error}
    if refused.code is not None:
        body["code"] = refused.code
    if refused.details is not None:
        body["details"] = refused.details
    return web.json_response(body, status=refused.status)
