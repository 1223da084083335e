"""The API operations on uploads and builds."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from nunu_async.sandbox import signing
from nunu_async.sandbox.builds import Upload
from nunu_async.sandbox.fixtures import Build
from nunu_async.sandbox.http import ApiRequest, HttpError, bad_request
from nunu_async.sandbox.schemas import BODIES, check

_NUMBERS = re.compile(r"[1-9][0-9]{0,8}(,[1-9][0-9]{0,8})*", re.ASCII)


async def initiate_upload(request: ApiRequest) -> web.Response:
    """Reserve space for a build; return its upload URL or its part layout."""
    check(BODIES["initiate_upload"], request.body)
    builds = request.project.builds
    project_id = request.body.get("project_id", builds.project_id)
    if project_id != builds.project_id:
        bad_request("project_id is not the project of this key")
    upload = builds.initiate(request.body, request.now)
    request.seen.build_id = upload.build_id
    if upload.upload_id is None:
        return web.json_response(
            {
                "upload_type": "single-part",
                "build_id": upload.build_id,
                "upload_url": _url(request, upload, 1),
                "object_key": upload.object_key,
            }
        )
    return web.json_response(
        {
            "upload_type": "multipart",
            "build_id": upload.build_id,
            "upload_id": upload.upload_id,
            "object_key": upload.object_key,
            "total_parts": upload.total_parts,
            "part_size": upload.part_size,
        }
    )


async def get_upload_parts(request: ApiRequest) -> web.Response:
    """Return presigned URLs for parts."""
    query = request.query
    _require(query, "upload_id", "object_key", "part_numbers")
    if not _NUMBERS.fullmatch(query["part_numbers"]):
        bad_request("part_numbers must be a comma-separated list of positive integers")
    numbers = [int(text) for text in query["part_numbers"].split(",")]
    if len(set(numbers)) != len(numbers):
        bad_request("part_numbers must not repeat")
    upload = request.project.builds.find_by_key(
        query["object_key"], query["upload_id"], request.now
    )
    if upload is None or not request.project.is_named_by(request.call):
        bad_request("no such upload")
    request.seen.build_id = upload.build_id
    if max(numbers) > upload.total_parts:
        bad_request(f"part_numbers must be at most {upload.total_parts}")
    urls = [{"part_number": number, "url": _url(request, upload, number)} for number in numbers]
    return web.json_response({"upload_urls": urls})


async def complete_upload(request: ApiRequest) -> web.Response:
    """Assemble the parts of an upload into a build."""
    body = request.body
    check(BODIES["complete_upload"], body)
    if ("upload_id" in body) != ("parts" in body) or ("parts" in body) > ("object_key" in body):
        bad_request("upload_id, object_key and parts belong together")
    upload = _find_upload(request, body["build_id"], body)
    if upload.upload_id is None:
        if not upload.parts:
            bad_request("the file was not uploaded yet")
    elif "parts" not in body:
        bad_request("a multipart upload needs upload_id, object_key and parts")
    else:
        _check_parts(upload, body["parts"])
    upload.is_sealed = True
    try:
        await request.project.objects.assemble(
            upload.build_id, upload.total_parts, upload.file_name
        )
        upload.state = "completed"
    except OSError as exc:
        raise HttpError(500, f"parts could not be put together: {exc.strerror}") from exc
    finally:
        upload.is_sealed = False
    if upload.upload_id is None:
        return web.json_response({"status": "success"})
    return web.json_response({"build_id": upload.build_id})


async def cancel_upload(request: ApiRequest) -> web.Response:
    """Cancel an upload."""
    _require(request.query, "build_id", "object_key")
    upload = _find_upload(request, request.query["build_id"], request.query)
    if upload.upload_id is not None and "upload_id" not in request.query:
        bad_request("a multipart upload needs upload_id")
    request.project.builds.cancel(upload)
    return web.json_response({"success": True})


async def get_build(request: ApiRequest) -> web.Response:
    """Read one build."""
    upload = request.project.builds.find_build(request.call.params["build_id"], request.now)
    if upload is None:
        raise HttpError(404, "build not found")
    body = upload.request
    build = {
        "build_id": upload.build_id,
        "project_id": request.project.builds.project_id,
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
    return web.json_response(build)


def _require(query: Mapping[str, str], *names: str) -> None:
    for name in names:
        if not query.get(name):
            bad_request(f"{name} is required")


def _find_upload(request: ApiRequest, build_id: str, fields: Mapping[str, Any]) -> Upload:
    upload = request.project.builds.find_open(build_id, request.now)
    if (
        upload is None
        or fields.get("object_key", upload.object_key) != upload.object_key
        or fields.get("upload_id", upload.upload_id) != upload.upload_id
    ):
        raise HttpError(404, "Upload not found", "UPLOAD_NOT_FOUND")
    return upload


def find_build(request: ApiRequest, build_id: str) -> Build | None:
    """Find a completed build, in the form that runs reference."""
    upload = request.project.builds.find_build(build_id, request.now)
    if upload is None or upload.state != "completed":
        return None
    return Build(upload.build_id, upload.name)


def _url(request: ApiRequest, upload: Upload, part_number: int) -> str:
    project = request.project
    address = signing.Address(upload.object_key, part_number, upload.upload_id)
    target = signing.issue(project.secret, address, now=request.now, life=project.url_life)
    return f"{project.storage_url()}{target}"


def _check_parts(upload: Upload, parts: list[dict[str, Any]]) -> None:
    numbers = [part["part_number"] for part in parts]
    if numbers != list(range(1, upload.total_parts + 1)):
        bad_request("parts must be complete and in ascending order")
    for part in parts:
        etag: str = part["etag"]
        bare = etag[1:-1] if etag[:1] == etag[-1:] == '"' else etag
        if upload.parts.get(part["part_number"]) != bare:
            bad_request(f"part {part['part_number']}: etag is not that of the stored part")
