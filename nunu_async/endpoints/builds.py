"""Builds: the four upload operations, and reading one build back.

Source: API reference, "Initiate Upload", "Get Upload Parts", "Complete Upload", "Cancel Upload",
"Get Build".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast
from urllib.parse import quote

import attrs
from yarl import URL

from nunu_async.core import codec
from nunu_async.core.request import InFlight, Replay, Request
from nunu_async.core.retry import CARRIES_ERROR, may_have_acted
from nunu_async.core.session import Session
from nunu_async.endpoints.ids import path_id
from nunu_async.errors import (
    ApiError,
    DecodeError,
    InputError,
    TransportError,
    UploadOutcomeUnknown,
)
from nunu_async.models.base import Model
from nunu_async.models.builds import (
    Build,
    CompletedPart,
    InitiateUpload,
    MultipartTicket,
    PartUrl,
    SinglePartTicket,
    Ticket,
)
from nunu_async.redact import Secret, sanitize

# Response members of other operations that `complete_upload` never returns.
_FOREIGN_MEMBERS = frozenset(
    {"code", "parts", "upload_id", "upload_type", "upload_url", "upload_urls"}
)
_OLD_NAMES = {"id": "build_id", "file_name": "filename", "file_size": "size"}


class Builds:
    """Build storage; every method needs a key with ``project:manage-build-storage``."""

    def __init__(self, session: Session, *, project_id: str | None, patience: float) -> None:
        self._session = session
        self._project_id = project_id
        self._patience = patience

    async def initiate_upload(
        self,
        upload: InitiateUpload,
        *,
        replay: Replay = Replay.UNLESS_ACTED,
        flight: InFlight | None = None,
    ) -> Ticket:
        """Reserve a build; return a ticket that says where and how to upload it.

        Retried only when the server cannot have acted: a second reservation is a second build.
        `replay` can override this for an upload without `auto_delete`.

        Raises: QuotaExceeded when storage is full; PayloadTooLarge; ApiError;
        UploadOutcomeUnknown when the response was lost and `auto_delete` may have deleted builds:
        a retry could delete more.
        """
        if upload.project_id is None and self._project_id is not None:
            upload = attrs.evolve(upload, project_id=self._project_id)
        request = Request(
            operation="initiate_upload",
            method="POST",
            path="/builds/upload",
            body=codec.dump(upload),
            answer=_ticket,
            replay=Replay.UNLESS_ACTED if upload.auto_delete else replay,
            flight=flight,
        )
        try:
            return await self._session.send(request)
        except (ApiError, DecodeError, TransportError) as error:
            is_reserved = isinstance(error, DecodeError) and error.leftover is not None
            if not upload.auto_delete or is_reserved or not may_have_acted(error):
                raise
            raise UploadOutcomeUnknown(
                f"the server did not say whether it reserved a build for {upload.name!a} "
                f"({error}); with auto_delete it may have deleted others for it, so look at the "
                "builds before uploading again",
                build_id="",
                stage="initiate",
            ) from error

    async def get_upload_parts(
        self, ticket: MultipartTicket, part_numbers: Sequence[int]
    ) -> tuple[PartUrl, ...]:
        """Request presigned URLs for parts; return them in the server's order.

        Sent without the API key: the upload id authorises this request. The service recommends
        3 to 10 part numbers per request.

        Raises: InputError for part numbers outside this upload; BadRequest; NotFound.
        """
        if not part_numbers or not all(1 <= n <= ticket.total_parts for n in part_numbers):
            raise InputError("part_numbers", f"must be from 1 to {ticket.total_parts}")
        return await self._session.send(
            Request(
                operation="get_upload_parts",
                method="GET",
                path="/builds/upload/parts",
                query=(
                    ("upload_id", ticket.upload_id),
                    ("object_key", ticket.object_key),
                    ("part_numbers", ",".join(str(n) for n in part_numbers)),
                ),
                answer=_part_urls,
                replay=Replay.ALWAYS,
                needs_key=False,
                secrets=secrets_of(ticket),
            )
        )

    async def complete_upload(
        self,
        ticket: Ticket,
        parts: Sequence[CompletedPart] = (),
        *,
        replay: Replay = Replay.UNLESS_ACTED,
        flight: InFlight | None = None,
        within: float | None = None,
    ) -> None:
        """Complete an upload, so that the server assembles the build.

        `parts` is for multipart uploads only: all parts, in ascending order.

        Raises: BadRequest for missing, unordered or wrong parts; NotFound when the server does
        not know the upload, as after an earlier complete.
        """
        return await self._session.send(
            Request(
                operation="complete_upload",
                method="POST",
                path="/builds/upload/complete",
                body=_completion(ticket, parts),
                answer=lambda data: _completed(data, ticket.build_id),
                settles=True,
                replay=replay,
                secrets=secrets_of(ticket),
                patience=self._patience,
                within=within,
                flight=flight,
            )
        )

    async def cancel_upload(
        self,
        ticket: Ticket,
        *,
        replay: Replay = Replay.ALWAYS,
        within: float | None = None,
    ) -> None:
        """Cancel an upload; the server frees the storage reserved for it.

        `within` limits all attempts together, in seconds; None means the client's limit per call.

        Raises: NotFound when the upload is already cancelled, completed or expired.
        """
        return await self._session.send(
            Request(
                operation="cancel_upload",
                method="DELETE",
                path="/builds/upload",
                query=_ticket_query(ticket),
                answer=_cancelled,
                replay=replay,
                secrets=secrets_of(ticket),
                within=within,
                urgent=True,
            )
        )

    async def get(self, build_id: str, *, replay: Replay = Replay.ALWAYS) -> Build:
        """Read one build.

        Raises: InputError for an id that is not valid in a path; NotFound.
        """
        return await self._get(build_id, replay)

    async def of_upload(
        self, ticket: Ticket, *, replay: Replay = Replay.ALWAYS, within: float | None = None
    ) -> Build:
        """Read the build of an upload, whether the upload is completed or not.

        With `within`, the call takes at most that many seconds and bypasses the request queue, as
        cleanup does.

        Raises: NotFound when there is no such build.
        """
        return await self._get(
            ticket.build_id,
            replay,
            secrets=secrets_of(ticket),
            within=within,
        )

    async def _get(
        self,
        build_id: str,
        replay: Replay,
        *,
        secrets: tuple[Secret, ...] = (),
        within: float | None = None,
    ) -> Build:
        return await self._session.send(
            Request(
                operation="get_build",
                method="GET",
                path=f"/builds/{path_id('build_id', build_id)}",
                template="/builds/{buildId}",
                answer=lambda data: _check_id(_build(data), build_id),
                replay=replay,
                secrets=secrets,
                within=within,
                urgent=within is not None,
            )
        )


@attrs.frozen(kw_only=True, eq=False, repr=False)
class _PartUrls(Model):
    upload_urls: tuple[PartUrl, ...]


@attrs.frozen(kw_only=True, eq=False, repr=False)
class _CompleteAnswer(Model):
    status: str | None = None
    build_id: str | None = None


@attrs.frozen(kw_only=True, eq=False, repr=False)
class _CancelAnswer(Model):
    success: bool


def secrets_of(ticket: Ticket) -> tuple[Secret, ...]:
    """Return each encoding of the upload id to redact; a gateway may echo the request line."""
    if not isinstance(ticket, MultipartTicket):
        return ()
    upload_id = ticket.upload_id
    sent = URL.build(query={"q": upload_id}).raw_query_string.removeprefix("q=")
    forms = dict.fromkeys((upload_id, sent, quote(upload_id, safe="")))
    return tuple(Secret(form) for form in forms)


def _completion(ticket: Ticket, parts: Sequence[CompletedPart]) -> dict[str, object]:
    if isinstance(ticket, SinglePartTicket):
        return {"build_id": ticket.build_id}
    return {
        "build_id": ticket.build_id,
        "upload_id": ticket.upload_id,
        "object_key": ticket.object_key,
        "parts": [codec.dump(part) for part in parts],
    }


def _ticket_query(ticket: Ticket) -> tuple[tuple[str, str], ...]:
    query = (("build_id", ticket.build_id), ("object_key", ticket.object_key))
    if isinstance(ticket, SinglePartTicket):
        return query
    return (*query, ("upload_id", ticket.upload_id))


def _part_urls(data: object) -> tuple[PartUrl, ...]:
    return codec.structure(_convert_numbers(data), _PartUrls).upload_urls


def _convert_numbers(data: object) -> object:
    """Convert part numbers that are strings to integers."""
    urls = data.get("upload_urls") if isinstance(data, Mapping) else None
    if not isinstance(urls, list):
        return data
    converted = [_convert_number(url) for url in urls]
    return {**cast("Mapping[str, object]", data), "upload_urls": converted}


def _convert_number(url: object) -> object:
    number = url.get("part_number") if isinstance(url, Mapping) else None
    if isinstance(number, str) and number.isascii() and number.isdecimal() and len(number) < 10:  # noqa: PLR2004 - beyond every part number
        return {**cast("Mapping[str, object]", url), "part_number": int(number)}
    return url


def _ticket(data: object) -> Ticket:
    if not isinstance(data, Mapping):
        raise codec.DecodeProblem(f"expected an object, got {type(data).__name__} @ $")
    kind = data.get("upload_type")
    try:
        ticket: Ticket
        if kind == "single-part":
            ticket = codec.structure(data, SinglePartTicket)
        elif kind == "multipart":
            ticket = codec.structure(data, MultipartTicket)
        else:
            raise codec.DecodeProblem(
                f"neither single-part nor multipart: {kind!r} @ $.upload_type"
            )
        if sanitize(ticket.build_id) != ticket.build_id:  # it will be in messages, notes and logs
            raise codec.DecodeProblem("control characters, or over 500 characters @ $.build_id")
        return ticket
    except codec.DecodeProblem as misfit:
        # The server has still made a reservation, and only these ids can free it.
        raise codec.DecodeProblem(*misfit.problems, leftover=_leftover(data)) from None


def _leftover(data: Mapping[str, object]) -> Ticket | None:
    ids = {name: data.get(name) for name in ("build_id", "object_key", "upload_id")}
    if not all(isinstance(ids[name], str) for name in ("build_id", "object_key")):
        return None
    build_id, object_key = cast("str", ids["build_id"]), cast("str", ids["object_key"])
    if isinstance(ids["upload_id"], str):
        return MultipartTicket(
            build_id=build_id,
            object_key=object_key,
            upload_id=ids["upload_id"],
            total_parts=0,
            part_size=0,
        )
    return SinglePartTicket(build_id=build_id, object_key=object_key, upload_url="")


def _completed(data: object, build_id: str) -> None:
    # A 200 with an error, or without the documented members, is not a success.
    response = codec.structure(data, _CompleteAnswer)
    members = data if isinstance(data, Mapping) else {}
    wrong = [name for name in ("error", "errors") if members.get(name)]
    wrong += [name for name in ("ok", "success") if members.get(name) is False]
    status = response.status
    if status is None and members.get("code") and members.get("message"):
        wrong.append("code")
    if wrong:
        raise codec.DecodeProblem(f"{CARRIES_ERROR} @ $.{wrong[0]}")
    if status is not None and status.lower() != "success":
        raise codec.DecodeProblem(f"not success: {status!r} @ $.status")
    if status is None:
        # An initiate response, or an echo of this request, also has the build id.
        foreign = [n for n in sorted(_FOREIGN_MEMBERS) if members.get(n) is not None]
        foreign += [n for n in ("ok", "success") if members.get(n) not in (None, True)]
        if foreign:
            raise codec.DecodeProblem(f"not the answer to this request @ $.{foreign[0]}")
    if response.build_id not in (None, build_id):
        raise codec.DecodeProblem(f"another build: {response.build_id!a} @ $.build_id")
    if response.build_id is None and status is None:
        raise codec.DecodeProblem("neither a build_id nor status success @ $")


def _cancelled(data: object) -> None:
    if not codec.structure(data, _CancelAnswer).success:
        raise codec.DecodeProblem("success is false @ $.success")


def _build(data: object) -> Build:
    if isinstance(data, Mapping):
        data = {_OLD_NAMES.get(name, name): value for name, value in data.items()}
    return codec.structure(data, Build)


def _check_id(build: Build, build_id: str) -> Build:
    if build.build_id.lower() != build_id.lower():
        raise codec.DecodeProblem(f"another build: {build.build_id!a} @ $.build_id")
    return build
