"""The API origin of the sandbox."""

import re
from collections.abc import Callable
from http import HTTPStatus
from urllib.parse import parse_qsl, unquote

from aiohttp import web

from nunu_async.sandbox.exchange import (
    ApiRequest,
    ApiResponse,
    Call,
    HttpError,
    Project,
    bad_request,
    error_response,
    parse,
    read_query,
)
from nunu_async.sandbox.journal import Origin, Seen
from nunu_async.sandbox.keys import Key, Keyring
from nunu_async.sandbox.listener import Body
from nunu_async.sandbox.operations import OPERATIONS

_PREFIX = "/api/v1"
_SCOPE = re.compile(r"/project/([^/]+)(/.*)")
_BODY_LIMIT = 1024 * 1024
_TOO_LONG = f"body must be at most {_BODY_LIMIT} bytes"


class Api:
    """Handles the requests of the API origin."""

    name: Origin = "api"

    def __init__(self, project: Project, keys: Keyring, *, now: Callable[[], float]) -> None:
        self._project = project
        self._keys = keys
        self._now = now

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
        for operation in OPERATIONS.values():
            if method == operation.method and (found := re.fullmatch(operation.path, path)):
                params.update((name, unquote(text)) for name, text in found.groupdict().items())
                return Call(operation.name, params=params)
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
        except HttpError as exc:
            return error_response(exc)
        finally:
            released = self._project.depot.take_released()
            await self._project.objects.delete([upload.build_id for upload in released])
        return web.json_response(reply.body, status=reply.status)

    async def _dispatch(
        self, request: web.BaseRequest, call: Call, seen: Seen, problem: str | None
    ) -> ApiResponse:
        operation = OPERATIONS.get(call.operation)
        if operation is None:
            raise HttpError(404, "not found")
        now = self._now()
        key = None
        if operation.permission is not None:
            key = self._check_key(request.headers.getall("X-Api-Key", []), call)
            if not self._project.is_named_by(call):
                raise HttpError(403, "API key does not belong to this project")
            if key_problem := key.problem(operation.permission, now):
                raise HttpError(403, key_problem)
        if request.method == "POST":
            if problem == _TOO_LONG:
                raise HttpError(413, _TOO_LONG)
            if request.content_type != "application/json":
                bad_request("Content-Type must be application/json")
            if problem is not None:
                bad_request(problem)
        query = read_query(request.raw_path)
        return await operation.handler(
            ApiRequest(
                project=self._project,
                now=now,
                call=call,
                query=query,
                body=seen.body,
                seen=seen,
                key=key,
            )
        )

    def _check_key(self, keys: list[str], call: Call) -> Key:
        if not keys:
            raise HttpError(401, "API key required")
        key = self._keys.find(",".join(keys), is_scoped="project_id" in call.params)
        if key is None:
            raise HttpError(401, "Invalid API key")
        return key


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
