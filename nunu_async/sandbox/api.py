"""The API origin of the sandbox."""

import json
import re
from typing import Any, NoReturn
from urllib.parse import parse_qsl, unquote

from aiohttp import web

from nunu_async.sandbox.http import ApiRequest, Call, HttpError, bad_request
from nunu_async.sandbox.journal import Origin
from nunu_async.sandbox.keys import Key, Keyring
from nunu_async.sandbox.listener import Incoming
from nunu_async.sandbox.operations import OPERATIONS
from nunu_async.sandbox.project import Project

_PREFIX = "/api/v1"
_SCOPE = re.compile(r"/project/([^/]+)(/.*)")
_BODY_LIMIT = 1024 * 1024


class Api:
    """Handles the requests of the API origin."""

    name: Origin = "api"

    def __init__(self, project: Project, keys: Keyring) -> None:
        self._project = project
        self._keys = keys

    def identify(self, method: str, target: str) -> Call:
        """Identify the operation; record a project id in the path without checking it."""
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

    def error_response(self, error: HttpError) -> web.Response:
        """Build the JSON response for an error."""
        code = {} if error.code is None else {"code": error.code}
        body = {"error": error.error, **code, **error.extra}
        return web.json_response(body, status=error.status)

    async def serve(self, incoming: Incoming) -> web.Response:
        """Check the key, project, body and ids in this order, then run the operation."""
        # Read the body even if the request is then rejected: this keeps the connection reusable.
        request, call, seen = incoming.request, incoming.call, incoming.seen
        raw = await _read(incoming)
        seen.body, problem = _parse(raw)
        seen.build_id = _build_id(call, seen.body, request.raw_path)
        operation = OPERATIONS.get(call.operation)
        if operation is None:
            raise HttpError(404, "not found")
        now = self._project.now()
        key = None
        if operation.permission is not None:
            key = self._check_key(request, call, operation.permission, now)
        if request.method == "POST":
            if len(raw) > _BODY_LIMIT:
                raise HttpError(413, f"body must be at most {_BODY_LIMIT} bytes")
            if request.content_type != "application/json":
                bad_request("Content-Type must be application/json")
            if problem is not None:
                bad_request(problem)
        asked = ApiRequest(
            project=self._project,
            now=now,
            call=call,
            query=_read_query(request.raw_path),
            body=seen.body,
            seen=seen,
            key=key,
        )
        try:
            return await operation.handler(asked)
        finally:
            released = self._project.builds.take_released()
            await self._project.objects.delete([upload.build_id for upload in released])

    def _check_key(self, request: web.BaseRequest, call: Call, permission: str, now: float) -> Key:
        given = request.headers.getall("X-Api-Key", [])
        if not given:
            raise HttpError(401, "API key required")
        key = self._keys.find(",".join(given), is_scoped="project_id" in call.params)
        if key is None:
            raise HttpError(401, "Invalid API key")
        if not self._project.is_named_by(call):
            raise HttpError(403, "API key does not belong to this project")
        if problem := key.problem(permission, now):
            raise HttpError(403, problem)
        return key


async def _read(incoming: Incoming) -> bytes:
    request = incoming.request
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
    return await incoming.block(_BODY_LIMIT + 1)


def _parse(raw: bytes) -> tuple[Any, str | None]:
    """Parse JSON strictly; return the value and an error message, or None if valid."""
    try:
        parsed = json.loads(raw.decode(), parse_constant=_reject_constant)
        json.dumps(parsed, ensure_ascii=False).encode()  # rejects lone surrogates
    except (ValueError, RecursionError):
        return None, "body must be JSON"
    return parsed, None


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _read_query(target: str) -> dict[str, str]:
    """Parse the query string of a request target. Raises: HttpError for a repeated parameter."""
    pairs = parse_qsl(target.partition("?")[2], keep_blank_values=True)
    query = dict(pairs)
    if len(query) != len(pairs):
        bad_request("a query parameter was given twice")
    return query


def _build_id(call: Call, body: object, target: str) -> str | None:
    if "build_id" in call.params:
        return call.params["build_id"]
    if isinstance(body, dict) and isinstance(body.get("build_id"), str):
        return str(body["build_id"])
    return dict(parse_qsl(target.partition("?")[2])).get("build_id")
