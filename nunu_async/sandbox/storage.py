"""The storage origin of the sandbox: accepts presigned PUTs only."""

from collections.abc import Callable
from http import HTTPStatus
from xml.sax.saxutils import escape

from aiohttp import web

from nunu_async.sandbox import signing
from nunu_async.sandbox.exchange import Call, HttpError
from nunu_async.sandbox.journal import Origin, Seen
from nunu_async.sandbox.listener import Body
from nunu_async.sandbox.objects import ObjectStore
from nunu_async.sandbox.state import Depot, Upload

_CREDENTIALS = ("X-Api-Key", "Authorization", "Cookie")
# Object stores reject headers that the signature does not cover, except for these.
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
# The usual code of each status.
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

    def __init__(
        self, *, depot: Depot, objects: ObjectStore, secret: bytes, now: Callable[[], float]
    ) -> None:
        self._depot = depot
        self._objects = objects
        self._secret = secret
        self._now = now

    def identify(self, method: str, target: str) -> Call:
        """Identify the operation and, for a PUT, its part; does not check the signature."""
        if method != "PUT":
            return Call("unknown")
        address = signing.address(target)
        return Call("put_part", part_number=1 if address is None else address.part_number)

    def refusal(self, status: int) -> web.Response:
        """Build an error response with the usual code of the status."""
        return _error_response(HttpError(status, f"answered with {status}"))

    async def serve(
        self, request: web.BaseRequest, call: Call, body: Body, seen: Seen
    ) -> web.Response:
        """Check headers, signature, upload and length of a PUT, then store its body as a part."""
        del call
        address = signing.address(request.raw_path)
        if address is not None:
            seen.build_id = _build_id(self._depot, address.object_key)
        try:
            _check_headers(request)
            self._check_signature(request)
            upload = self._find(address)
            part_number = 1 if address is None else address.part_number
            _check_length(upload, part_number, request.content_length or 0)
            etag = await self._store(upload, part_number, body)
        except HttpError as exc:
            return _error_response(exc)
        except OSError as exc:
            return _error_response(HttpError(500, f"part not stored: {exc.strerror}"))
        return web.Response(headers={"ETag": f'"{etag}"'})

    def _check_signature(self, request: web.BaseRequest) -> None:
        verdict = signing.check(
            self._secret, method=request.method, target=request.raw_path, now=self._now()
        )
        if verdict == "altered":
            raise HttpError(
                403, "the signature is not that of this request", "SignatureDoesNotMatch"
            )
        if verdict == "expired":
            raise HttpError(403, "Request has expired")

    def _find(self, address: signing.Address | None) -> Upload:
        upload = None
        if address is not None:
            upload = self._depot.find_by_key(address.object_key, address.upload_id, self._now())
        if upload is None:
            raise HttpError(404, "the upload does not exist or is over")
        return upload

    async def _store(self, upload: Upload, part_number: int, body: Body) -> str:
        attempt = self._objects.attempt(upload.build_id, part_number)
        try:
            while block := await body.block():
                await attempt.write(block)
            # The upload may have ended meanwhile. No await between this check and `publish`.
            if self._depot.find_open(upload.build_id, self._now()) is None:
                raise HttpError(404, "the upload ended during the request")
            etag = attempt.publish()
            upload.parts[part_number] = etag
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


def _build_id(depot: Depot, object_key: str) -> str | None:
    _, _, rest = object_key.partition("/")
    build_id = rest.partition("/")[0]
    return build_id if build_id in depot.uploads else None


def _error_response(error: HttpError) -> web.Response:
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
