"""All exceptions that the library raises, in one class hierarchy.

Classified by what a caller can do about them, not by the layer that raises them. All of them
support ``repr``, ``copy`` and ``pickle``, which never disclose an API key, an upload id or a signed
URL.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from types import MappingProxyType
from typing import ClassVar

from nunu_async.response import ResponseInfo

__all__ = [
    "ApiError",
    "AuthenticationError",
    "BadRequest",
    "CertificateError",
    "ClientClosed",
    "ConfigError",
    "Conflict",
    "ConnectError",
    "DeadlineExceeded",
    "DecodeError",
    "InputError",
    "NotFound",
    "NunuError",
    "PayloadTooLarge",
    "PermissionDenied",
    "PlanMismatch",
    "ProtocolError",
    "ProxyError",
    "QuotaExceeded",
    "RateLimited",
    "RunFailed",
    "ServerError",
    "SourceChanged",
    "SourceError",
    "StallError",
    "StorageError",
    "TransportError",
    "UploadError",
    "UploadOutcomeUnknown",
    "WaitError",
    "WaitTimeout",
]


def _restore(cls: type[NunuError], args: tuple[object, ...], state: dict[str, object]) -> NunuError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class NunuError(Exception):
    """The base of all exceptions of this library.

    Attributes:
        retry_budget_exhausted: True if the request was not retried only because the client's retry
            budget was spent (`RetryPolicy.budget`).
        marker: after a start whose outcome is unknown, the tag of every run that was started; None
            otherwise.
    """

    retry_budget_exhausted: bool = False
    marker: str | None = None

    def __reduce__(
        self,
    ) -> tuple[object, tuple[type[NunuError], tuple[object, ...], dict[str, object]]]:
        # The default calls the class with `args`, which fails for keyword-only constructors.
        return _restore, (type(self), self.args, self.__dict__.copy())


class ConfigError(NunuError):
    """The client was set up in a way that cannot work; nothing was sent."""


class ClientClosed(ConfigError):
    """The client was used after `close()`."""


class InputError(NunuError, ValueError):
    """An argument breaks a documented limit of the API; nothing was sent.

    Attributes:
        field: the argument, by its name in the API.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class SourceError(NunuError):
    """The local file cannot be uploaded: missing, empty, unreadable, not a regular file.

    Attributes:
        path: the file as it was passed.
        errno: the system's error number, as in the `errno` module; None if the system reported
            no error.
        part_number: the part that was being read, 1-based; None if no part was.
    """

    errno: int | None = None
    part_number: int | None = None

    def __init__(self, path: str, problem: str, *, errno: int | None = None) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.errno = errno


class SourceChanged(SourceError):
    """The local file changed after some of it was sent; the upload was aborted.

    Also raised if the contents may have changed: a chmod, hard link or rename changed the file's
    ctime, and the contents cannot be compared because the storage's ETags are not MD5s.
    """


class TransportError(NunuError):
    """No usable response was received.

    Attributes:
        method: HTTP method of the request, or "" if there was none.
        path: path below the base URL, or the storage host.
        sent: False only if the server certainly never received the request.
    """

    def __init__(
        self, message: str, *, method: str = "", path: str = "", sent: bool = True
    ) -> None:
        super().__init__(message)
        self.method = method
        self.path = path
        self.sent = sent


class ConnectError(TransportError):
    """No connection could be made (DNS, refused, TLS handshake); the server received no request."""


class CertificateError(ConnectError):
    """The server's certificate or TLS version cannot be trusted; never retried."""


class ProxyError(ConnectError):
    """The proxy refused to connect to the server, which received nothing.

    Attributes:
        status: the proxy's HTTP status; 407 means that it requires a user and a password.
    """

    def __init__(self, message: str, *, status: int, method: str = "", path: str = "") -> None:
        super().__init__(message, method=method, path=path, sent=False)
        self.status = status


class ProtocolError(TransportError):
    """The response violates HTTP or a limit of this client; not retried, as it would recur.

    For example, a header of over 64 KiB, over 512 headers, or a header that HTTP does not allow.
    The server may have carried out the request.
    """


class DeadlineExceeded(TransportError):
    """The time limit of a call, over all its attempts, was reached."""


class StallError(TransportError):
    """The peer accepted no bytes, or sent no response, for longer than the limit."""


class _Answered(NunuError):
    """The base of errors that were caused by a response of the API."""

    status: int
    request_id: str | None
    headers: Mapping[str, str]

    @property
    def response(self) -> ResponseInfo:
        """The response metadata, as on models."""
        return ResponseInfo(status=self.status, request_id=self.request_id, headers=self.headers)


class DecodeError(_Answered):
    """A 2xx response does not have the documented shape.

    Attributes:
        operation: the API operation, e.g. ``initiate_upload``.
        problems: one line per problem, with its JSON path.
        status: HTTP status of the response.
        request_id: the server's id for the request, if a header has one.
        headers: the response's headers, names in lower case.
        garbled: True if the body was not JSON at all, as after a cut connection.
        leftover: if the response shows that the server started an upload, a ticket complete enough
            to cancel it; else None. It holds an upload id, so copies and pickles omit it.
    """

    def __init__(
        self,
        operation: str,
        problems: tuple[str, ...],
        *,
        status: int = 0,
        request_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        garbled: bool = False,
        leftover: object = None,
    ) -> None:
        super().__init__(f"{operation}: cannot read the answer ({status}): " + "; ".join(problems))
        self.operation = operation
        self.problems = problems
        self.status = status
        self.request_id = request_id
        self.headers = dict(headers or {})
        self.garbled = garbled
        self.leftover = leftover

    def __reduce__(
        self,
    ) -> tuple[object, tuple[type[NunuError], tuple[object, ...], dict[str, object]]]:
        # An upload id is as good as a password, and pickled errors end up in logs and queues.
        return _restore, (type(self), self.args, self.__dict__ | {"leftover": None})


class ApiError(_Answered):
    """The API responded with an error status.

    Attributes:
        status: HTTP status, a plain int, even if it is not a known one.
        code: the body's ``code``, e.g. ``QUOTA_EXCEEDED``; None on most errors.
        details: the body's ``details``, empty if there were none.
        message: the server's own message.
        request_id: the server's id for the request, if a header has one.
        method: HTTP method of the request; "" if the error is not from a single response.
        path: path below the base URL, without its query; "" if `method` is "".
        retry_after: seconds the server asked to wait, if it did.
        headers: the response's headers, names in lower case.
        explained: the body was the API's own JSON error, not a page from an edge proxy.
        in_success: the response itself had a 2xx status; `status` is the one stated in its body.
    """

    default_message: ClassVar[str] = "no explanation in the answer"
    in_success = False

    def __init__(
        self,
        *,
        status: int,
        message: str = "",
        code: str | None = None,
        details: Mapping[str, object] | None = None,
        request_id: str | None = None,
        method: str = "",
        path: str = "",
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
        explained: bool = False,
    ) -> None:
        self.status = status
        self.explained = explained
        self.code = code
        self.details: Mapping[str, object] = dict(details or {})
        self.message = message or self.default_message
        self.request_id = request_id
        self.method = method
        self.path = path
        self.retry_after = retry_after
        self.headers = dict(headers or {})
        super().__init__(self._sentence())

    def _sentence(self) -> str:
        if not self.method:
            return self.message
        code = f" {self.code}" if self.code else ""
        request = f" (request {self.request_id})" if self.request_id else ""
        return f"{self.method} {self.path} answered {self.status}{code}: {self.message}{request}"


class BadRequest(ApiError):
    """400: the server rejected the parameters."""


class AuthenticationError(ApiError):
    """401: the API key is missing or wrong."""


class QuotaExceeded(ApiError):
    """402: build storage is full.

    Attributes:
        used: bytes in use, or None if the response does not say.
        capacity: bytes allowed, or None.
        needed: bytes this upload needs, or None.
    """

    @property
    def used(self) -> int | None:
        """Bytes in use."""
        return self._bytes("used")

    @property
    def capacity(self) -> int | None:
        """Bytes allowed."""
        return self._bytes("capacity")

    @property
    def needed(self) -> int | None:
        """Bytes this upload needs."""
        return self._bytes("needed")

    def _sentence(self) -> str:
        sentence = super()._sentence()
        if None in (self.used, self.capacity, self.needed):
            return sentence
        return (
            f"{sentence}; {self.used} of {self.capacity} bytes are used, {self.needed} are needed"
        )

    def _bytes(self, name: str) -> int | None:
        value = self.details.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) else None


class PermissionDenied(ApiError):
    """403: the key lacks a permission, has expired or is disabled."""


class NotFound(ApiError):
    """404: the server does not know the resource, or none of its lists contains it.

    Attributes:
        finished: after a wait for several ids, the finished rows, keyed by id; empty otherwise.
    """

    finished: Mapping[str, object] = MappingProxyType({})


class Conflict(ApiError):
    """409: the resource was changed concurrently, or is still in use."""


class PayloadTooLarge(ApiError):
    """413: the file exceeds the server's limits."""


class RateLimited(ApiError):
    """429: too many requests, and no attempt or time left for a retry."""


class ServerError(ApiError):
    """5xx: the server failed."""


_BY_STATUS: dict[int, type[ApiError]] = {
    400: BadRequest,
    401: AuthenticationError,
    402: QuotaExceeded,
    403: PermissionDenied,
    404: NotFound,
    409: Conflict,
    413: PayloadTooLarge,
    429: RateLimited,
}


def error_for_status(status: int) -> type[ApiError]:
    """Return the error class for an HTTP status; `ApiError` itself for an unknown 4xx."""
    if status >= 500:  # noqa: PLR2004 - HTTP's class of statuses
        return ServerError
    return _BY_STATUS.get(status, ApiError)


class StorageError(NunuError):
    """Object storage refused a presigned PUT, or its response cannot be trusted.

    Attributes:
        part_number: 1-based; 1 for a single-part upload.
        status: HTTP status.
        code: the storage's own ``<Code>``, e.g. ``SignatureDoesNotMatch``; None if it gave none.
        message: the storage's own ``<Message>``, or what was wrong with its response.
        retry_after: seconds the storage asked to wait, if it did.
        request_id: the storage's id for the request, if a header has one.
    """

    def __init__(
        self,
        *,
        part_number: int,
        status: int,
        code: str | None = None,
        message: str = "",
        retry_after: float | None = None,
        request_id: str | None = None,
    ) -> None:
        self.part_number = part_number
        self.status = status
        self.code = code
        self.message = message or "no explanation in the answer"
        self.retry_after = retry_after
        self.request_id = request_id
        suffix = f" {code}" if code else ""
        super().__init__(f"part {part_number}: storage answered {status}{suffix}: {self.message}")


class PlanMismatch(NunuError):
    """The server's part plan does not match the file; nothing was sent."""


class UploadError(NunuError):
    """The upload of a build failed.

    The failure that ended it is the ``__cause__``.

    Attributes:
        build_id: the build that was reserved.
        part_number: the part that failed, 1-based, or None if it was not a part.
        status: HTTP status of the last response, or None if there was none.
        code: the storage's own error code, if it gave one.
        message: the storage's own message, or this library's for the cause.
        attempts: number of attempts to send the part.
        cancelled: True if the server confirmed the cancellation, False if cancelling failed, None
            if it was not attempted (as when the outcome was uncertain).
    """

    def __init__(
        self,
        summary: str,
        *,
        build_id: str,
        part_number: int | None = None,
        status: int | None = None,
        code: str | None = None,
        message: str = "",
        attempts: int = 0,
    ) -> None:
        super().__init__(summary)
        self.build_id = build_id
        self.part_number = part_number
        self.status = status
        self.code = code
        self.message = message
        self.attempts = attempts
        self.cancelled: bool | None = None

    def __str__(self) -> str:
        suffix = {
            True: "; the upload was cancelled on the server",
            False: "; cancelling the upload on the server failed too",
            None: "",
        }
        return super().__str__() + suffix[self.cancelled]


class UploadOutcomeUnknown(UploadError):
    """The server may have acted, but did not confirm it; the client has deleted nothing.

    Attributes:
        stage: ``complete``: the build may exist. ``initiate``: a build may have been reserved, and
            others deleted for it (`auto_delete`); `build_id` is empty.
    """

    def __init__(self, summary: str, *, build_id: str, stage: str) -> None:
        super().__init__(summary, build_id=build_id)
        self.stage = stage


# Maximum number of ids listed in a message.
_SHOWN = 3


class WaitError(NunuError):
    """The base of errors that end a wait.

    Attributes:
        finished: the runs, jobs or executions known to have finished, keyed by id.
    """

    def __init__(self, summary: str, *, finished: Mapping[str, object]) -> None:
        super().__init__(summary)
        self.finished: Mapping[str, object] = dict(finished)


class WaitTimeout(WaitError, TimeoutError):
    """A wait reached its time limit; the runs, jobs or executions continue on the server.

    Also a TimeoutError, which is what asyncio raises for timeouts.

    Attributes:
        finished: the rows that finished in time, keyed by id.
        pending: the last seen state of each other id, as the API names it, keyed by id; None if
            the id was never seen.
    """

    def __init__(
        self, seconds: float, *, finished: Mapping[str, object], pending: Mapping[str, str | None]
    ) -> None:
        total = len(finished) + len(pending)
        shown = islice(pending.items(), _SHOWN)
        first = ", ".join(f"{name} ({state or 'never seen'})" for name, state in shown)
        more = ", ..." if len(pending) > _SHOWN else ""
        super().__init__(
            f"{len(pending)} of {total} not over after {seconds:g} seconds: {first}{more}",
            finished=finished,
        )
        self.pending: Mapping[str, str | None] = dict(pending)


class RunFailed(WaitError):
    """A run, job or execution did not succeed; raised only with `raise_on_failure`.

    Attributes:
        finished: all rows that have finished, keyed by id.
        failed: ids of the rows that did not succeed.
    """

    def __init__(self, failed: tuple[str, ...], *, finished: Mapping[str, object]) -> None:
        first = ", ".join(failed[:_SHOWN])
        more = ", ..." if len(failed) > _SHOWN else ""
        super().__init__(
            f"{len(failed)} of {len(finished)} did not succeed: {first}{more}", finished=finished
        )
        self.failed = failed
