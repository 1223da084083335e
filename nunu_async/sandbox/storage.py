"""The storage origin of the sandbox: accepts presigned PUTs only."""

from http import HTTPStatus
from xml.sax.saxutils import escape

from aiohttp import web

from nunu_async.sandbox import signing
from nunu_async.sandbox.builds import Upload, build_id_of
from nunu_async.sandbox.http import Call, HttpError
from nunu_async.sandbox.journal import Origin
from nunu_async.sandbox.listener import Incoming
from nunu_async.sandbox.project import Project

_CREDENTIALS = ("X-Api-Key", "Authorization", "Cookie")
# Object stores reject headers that the signature does not cover, except these.
_ALLOWED = frozenset(
    {
        "accept",
        "accept-encoding",
        "connection",
        "content-length",
        "content-type",
        "host",
        "user-agent",
    }
)
# The default error code for each status.
_CODES = {
    400: "InvalidRequest",
    403: "AccessDenied",
    404: "NoSuchUpload",
    405: "MethodNotAllowed",
    409: "OperationAborted",
    411: "MissingContentLength",
    412: "PreconditionFailed",
    429: "TooManyRequests",
    500: "InternalError",
    501: "NotImplemented",
    502: "BadGateway",
    503: "SlowDown",
    504: "GatewayTimeout",
}
_FIRST_SERVER_ERROR = 500


class Storage:
    """Handles the requests of the storage origin."""

    name: Origin = "storage"

    def __init__(self, project: Project) -> None:
        self._project = project

    def identify(self, method: str, target: str) -> Call:
        """Identify the operation and the part; does not check the signature."""
        address = signing.address(target)
        params = {}
        if address is not None:
            params["object_key"] = address.object_key
            if address.upload_id is not None:
                params["upload_id"] = address.upload_id
        if method != "PUT":
            return Call("unknown", params=params)
        part_number = 1 if address is None else address.part_number
        return Call("put_part", part_number, params)

    def error_response(self, error: HttpError) -> web.Response:
        """Build the XML response for an error."""
        default = "InternalError" if error.status >= _FIRST_SERVER_ERROR else "InvalidRequest"
        code = error.code or _CODES.get(error.status, default)
        text = (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f"<Error><Code>{code}</Code><Message>{escape(error.error)}</Message></Error>"
        )
        headers = {"Allow": "PUT"} if error.status == HTTPStatus.METHOD_NOT_ALLOWED else None
        return web.Response(
            status=error.status, text=text, content_type="application/xml", headers=headers
        )

    async def serve(self, incoming: Incoming) -> web.Response:
        """Check headers, signature, upload and length of a PUT, then store its body as a part."""
        request, call = incoming.request, incoming.call
        project, now = self._project, self._project.now()
        object_key = call.params.get("object_key", "")
        build_id = build_id_of(object_key)
        if build_id in project.builds.uploads:
            incoming.seen.build_id = build_id
        _check_headers(request)
        verdict = signing.check(
            project.secret, method=request.method, target=request.raw_path, now=now
        )
        if verdict == "altered":
            problem = "the signature is not that of this request"
            raise HttpError(403, problem, "SignatureDoesNotMatch")
        if verdict == "expired":
            raise HttpError(403, "Request has expired")
        upload = project.builds.find_by_key(object_key, call.params.get("upload_id"), now)
        if upload is None:
            raise HttpError(404, "the upload does not exist or is over")
        part_number = call.part_number or 1
        _check_length(upload, part_number, request.content_length or 0)
        try:
            etag = await self._store(upload, part_number, incoming)
        except OSError as exc:
            raise HttpError(500, f"part not stored: {exc.strerror}") from exc
        return web.Response(headers={"ETag": f'"{etag}"'})

    async def _store(self, upload: Upload, part_number: int, incoming: Incoming) -> str:
        attempt = self._project.objects.attempt(upload.build_id, part_number)
        try:
            while block := await incoming.block():
                await attempt.write(block)
            # The upload may have ended meanwhile. No await between this check and `publish`.
            if self._project.builds.find_open(upload.build_id, self._project.now()) is None:
                raise HttpError(404, "the upload ended during the request")
            etag = upload.parts[part_number] = attempt.publish()
        finally:
            attempt.discard()
        return etag


def _check_headers(request: web.BaseRequest) -> None:
    headers = request.headers
    if request.method != "PUT":
        raise HttpError(405, f"{request.method} is not allowed here")
    for name in _CREDENTIALS:
        if name in headers:
            raise HttpError(400, f"{name} does not belong on a presigned URL")
    if "Transfer-Encoding" in headers:
        raise HttpError(501, "Transfer-Encoding is not supported")
    if "Content-Length" not in headers:
        raise HttpError(411, "Content-Length is required")
    for name in headers:
        if name.lower() not in _ALLOWED:
            raise HttpError(403, f"header {name} is not covered by the signature")


def _check_length(upload: Upload, part_number: int, length: int) -> None:
    expected = upload.length_of(part_number)
    if length != expected:
        code = "EntityTooLarge" if length > expected else "EntityTooSmall"
        raise HttpError(400, f"part {part_number} has {expected} bytes, not {length}", code)
