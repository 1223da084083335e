"""The API origin of the sandbox."""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, unquote

from aiohttp import web

from nunu_async.sandbox import shapes, signing
from nunu_async.sandbox.dialects import Dialect
from nunu_async.sandbox.exchange import (
    Asked,
    Operation,
    Refused,
    Reply,
    bad_request,
    check,
    error_response,
    parse,
    read_query,
)
from nunu_async.sandbox.history import History
from nunu_async.sandbox.journal import Origin, Seen
from nunu_async.sandbox.keys import Key, Keyring
from nunu_async.sandbox.listener import Body, Call
from nunu_async.sandbox.objects import ObjectStore
from nunu_async.sandbox.runs import RunOperations
from nunu_async.sandbox.starts import StartOperation
from nunu_async.sandbox.state import Depot, FileTooLargeError, QuotaExceededError, Upload
from nunu_async.sandbox.world import Build

_PREFIX = "/api/v1"
_SCOPE = re.compile(r"/project/([^/]+)(/.*)")
_ROUTES = (
    ("POST", re.compile(r"/builds/upload"), "initiate_upload"),
    ("DELETE", re.compile(r"/builds/upload"), "cancel_upload"),
    ("GET", re.compile(r"/builds/upload/parts"), "get_upload_parts"),
    ("POST", re.compile(r"/builds/upload/complete"), "complete_upload"),
    ("GET", re.compile(r"/builds/(?!upload$)(?P<build_id>[^/]+)"), "get_build"),
    ("GET", re.compile(r"/runs"), "list_runs"),
    ("POST", re.compile(r"/runs"), "start_run"),
    ("POST", re.compile(r"/runs/stop"), "stop_runs"),
    ("GET", re.compile(r"/runs/(?P<run_id>[^/]+)"), "get_run"),
    ("GET", re.compile(r"/runs/(?P<run_id>[^/]+)/bugs"), "list_run_bugs"),
    ("GET", re.compile(r"/test-plan-executions"), "list_test_plan_executions"),
    ("GET", re.compile(r"/jobs"), "list_jobs"),
    ("GET", re.compile(r"/jobs/(?P<job_id>[^/]+)"), "get_job"),
)
_KEYLESS = "get_upload_parts"  # its upload_id is the credential
_NUMBERS = re.compile(r"[1-9][0-9]{0,8}(,[1-9][0-9]{0,8})*", re.ASCII)
_BODY_LIMIT = 1024 * 1024
_TOO_LONG = f"body must be at most {_BODY_LIMIT} bytes"


class Api:
    """Handles the requests of the API origin."""

    name: Origin = "api"

    def __init__(
        self,
        *,
        depot: Depot,
        objects: ObjectStore,
        keys: Keyring,
        history: History,
        dialect: Dialect,
        secret: bytes,
        url_life: float,
        storage_url: Callable[[], str],
        now: Callable[[], float],
    ) -> None:
        self._depot = depot
        self._objects = objects
        self._keys = keys
        self._secret = secret
        self._url_life = url_life
        self._storage_url = storage_url
        self._now = now
        runs = RunOperations(history=history, dialect=dialect, now=now)
        starts = StartOperation(
            history=history, dialect=dialect, find_build=self._find_build, now=now
        )
        self._operations: dict[str, Operation] = {
            "initiate_upload": self._initiate_upload,
            "get_upload_parts": self._get_upload_parts,
            "complete_upload": self._complete_upload,
            "cancel_upload": self._cancel_upload,
            "get_build": self._get_build,
            **runs.operations,
            **starts.operations,
        }

    def identify(self, method: str, target: str) -> Call:
        """Identify the operation; a project in the path is recorded, not checked."""
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
        """Build an error response with the standard phrase of the status."""
        try:
            phrase = HTTPStatus(status).phrase.lower()
        except ValueError:
            phrase = f"status {status}"
        return web.json_response({"error": phrase}, status=status)

    async def serve(
        self, request: web.BaseRequest, call: Call, body: Body, seen: Seen
    ) -> web.Response:
        """Check key, project, body and ids in this order, then run the operation."""
        # The body is read even if the request is then refused: that keeps the connection usable.
        raw = await _read(request, body)
        seen.body, problem = parse(raw)
        if len(raw) > _BODY_LIMIT:
            problem = _TOO_LONG
        seen.build_id = _build_id(call, seen.body, request.raw_path)
        try:
            reply = await self._dispatch(request, call, seen, problem)
        except Refused as exc:
            return error_response(exc)
        finally:
            released = self._depot.take_released()
            await self._objects.delete([upload.build_id for upload in released])
        return web.json_response(reply.body, status=reply.status)

    async def _dispatch(
        self, request: web.BaseRequest, call: Call, seen: Seen, problem: str | None
    ) -> Reply:
        operation = self._operations.get(call.operation)
        if operation is None:
            raise Refused(404, "not found")
        key = None
        if call.operation != _KEYLESS:
            key = self._check_key(request.headers.getall("X-Api-Key", []), call)
            if not self._is_this_project(call):
                raise Refused(403, "API key does not belong to this project")
            if key_problem := key.problem(call.operation, self._now()):
                raise Refused(403, key_problem)
        if request.method == "POST":
            if problem == _TOO_LONG:
                raise Refused(413, _TOO_LONG)
            if request.content_type != "application/json":
                bad_request("Content-Type must be application/json")
            if problem is not None:
                bad_request(problem)
        return await operation(Asked(call, read_query(request.raw_path), seen.body, seen, key))

    def _is_this_project(self, call: Call) -> bool:
        return call.params.get("project_id", self._depot.project_id) == self._depot.project_id

    def _check_key(self, keys: list[str], call: Call) -> Key:
        if not keys:
            raise Refused(401, "API key required")
        key = self._keys.find(",".join(keys), is_scoped="project_id" in call.params)
        if key is None:
            raise Refused(401, "Invalid API key")
        return key

    async def _initiate_upload(self, request: Asked) -> Reply:
        check(shapes.INITIATE, request.body)
        project_id = request.body.get("project_id", self._depot.project_id)
        if project_id != self._depot.project_id:
            bad_request("project_id is not the project of this key")
        try:
            upload = self._depot.initiate(request.body, self._now())
        except FileTooLargeError:
            raise Refused(413, "File exceeds limits") from None
        except QuotaExceededError as exc:
            sizes = {"used": exc.used, "capacity": exc.capacity, "needed": exc.needed}
            raise Refused(402, "Storage capacity exceeded", "QUOTA_EXCEEDED", sizes) from None
        request.seen.build_id = upload.build_id
        if upload.upload_id is None:
            single = {
                "upload_type": "single-part",
                "build_id": upload.build_id,
                "upload_url": self._url(upload, 1),
                "object_key": upload.object_key,
            }
            return Reply(single)
        multipart = {
            "upload_type": "multipart",
            "build_id": upload.build_id,
            "upload_id": upload.upload_id,
            "object_key": upload.object_key,
            "total_parts": upload.total_parts,
            "part_size": upload.part_size,
        }
        return Reply(multipart)

    async def _get_upload_parts(self, request: Asked) -> Reply:
        query = request.query
        for name in ("upload_id", "object_key", "part_numbers"):
            if not query.get(name):
                bad_request(f"{name} is required")
        if not _NUMBERS.fullmatch(query["part_numbers"]):
            bad_request("part_numbers must be a comma-separated list of positive integers")
        numbers = [int(text) for text in query["part_numbers"].split(",")]
        if len(set(numbers)) != len(numbers):
            bad_request("part_numbers must not repeat")
        upload = self._depot.find_by_key(query["object_key"], query["upload_id"], self._now())
        if upload is None or not self._is_this_project(request.call):
            bad_request("no such upload")
        request.seen.build_id = upload.build_id
        if max(numbers) > upload.total_parts:
            bad_request(f"part_numbers must be at most {upload.total_parts}")
        urls = [{"part_number": number, "url": self._url(upload, number)} for number in numbers]
        return Reply({"upload_urls": urls})

    async def _complete_upload(self, request: Asked) -> Reply:
        body = request.body
        check(shapes.COMPLETE, body)
        if ("upload_id" in body) != ("parts" in body) or ("parts" in body) > ("object_key" in body):
            bad_request("upload_id, object_key and parts belong together")
        upload = self._find_upload(body["build_id"], body)
        if upload.upload_id is None:
            if not upload.parts:
                bad_request("the file was not uploaded yet")
        elif "parts" not in body:
            bad_request("a multipart upload needs upload_id, object_key and parts")
        else:
            _check_parts(upload, body["parts"])
        self._depot.seal(upload)
        try:
            await self._objects.assemble(upload.build_id, upload.total_parts, upload.file_name)
        except OSError as exc:
            self._depot.unseal(upload)
            raise Refused(500, f"parts could not be put together: {exc.strerror}") from exc
        self._depot.finish(upload)
        if upload.upload_id is None:
            return Reply({"status": "success"})
        return Reply({"build_id": upload.build_id})

    async def _cancel_upload(self, request: Asked) -> Reply:
        for name in ("build_id", "object_key"):
            if not request.query.get(name):
                bad_request(f"{name} is required")
        upload = self._find_upload(request.query["build_id"], request.query)
        if upload.upload_id is not None and "upload_id" not in request.query:
            bad_request("a multipart upload needs upload_id")
        self._depot.cancel(upload)
        return Reply({"success": True})

    async def _get_build(self, request: Asked) -> Reply:
        upload = self._depot.find_build(request.call.params["build_id"], self._now())
        if upload is None:
            raise Refused(404, "build not found")
        body = upload.request
        build = {
            "build_id": upload.build_id,
            "project_id": self._depot.project_id,
            "name": upload.name,
            "platform": body["platform"],
            "status": "OK" if upload.state == "completed" else "uploading",
            "filename": upload.file_name,
            "size": upload.size,
            "pinned": False,
            "nunu_sdk": False,
            "tags": body.get("tags", []),
            "created_at": datetime.fromtimestamp(upload.created, UTC).isoformat(
                timespec="microseconds"
            ),
            "last_used": None,
            "description": body.get("description"),
        }
        if "details" in body:
            build["details"] = body["details"]
        return Reply(build)

    def _find_upload(self, build_id: str, fields: Mapping[str, Any]) -> Upload:
        upload = self._depot.find_open(build_id, self._now())
        if (
            upload is None
            or fields.get("object_key", upload.object_key) != upload.object_key
            or fields.get("upload_id", upload.upload_id) != upload.upload_id
        ):
            raise Refused(404, "Upload not found", "UPLOAD_NOT_FOUND")
        return upload

    def _find_build(self, build_id: str) -> Build | None:
        upload = self._depot.find_build(build_id, self._now())
        if upload is None or upload.state != "completed":
            return None
        return Build(upload.build_id, upload.name)

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


def _build_id(call: Call, body: object, target: str) -> str | None:
    if "build_id" in call.params:
        return call.params["build_id"]
    if isinstance(body, dict) and isinstance(body.get("build_id"), str):
        return str(body["build_id"])
    return dict(parse_qsl(target.partition("?")[2])).get("build_id")


def _check_parts(upload: Upload, parts: list[dict[str, Any]]) -> None:
    numbers = [part["part_number"] for part in parts]
    if numbers != list(range(1, upload.total_parts + 1)):
        bad_request("parts must be complete and in ascending order")
    for part in parts:
        etag: str = part["etag"]
        bare = etag[1:-1] if etag[:1] == etag[-1:] == '"' else etag
        if upload.parts.get(part["part_number"]) != bare:
            bad_request(f"part {part['part_number']}: etag is not that of the stored part")
