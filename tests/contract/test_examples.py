"""Every example body of every core operation is read, and nothing of it is lost on the way back."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime
from typing import Any

import pytest
from contract import CORE, PROJECT, document, operations
from scripted import BUILD, CONFIG, JOB, RUN, TEST, answered, json_answer

from nunu_async import (
    ApiError,
    AuthenticationError,
    BadRequest,
    CompletedPart,
    InitiateUpload,
    Model,
    MultipartTicket,
    NotFound,
    NunuClient,
    PayloadTooLarge,
    PermissionDenied,
    QuotaExceeded,
    RateLimited,
    ServerError,
)

TICKET = MultipartTicket(
    build_id=BUILD, object_key="o", upload_id="mpu-secret-0001", total_parts=2, part_size=5
)
UPLOAD = InitiateUpload(name="n", file_name="f.zip", file_size=5, platform="linux")
PARTS = [CompletedPart(part_number=1, etag="a"), CompletedPart(part_number=2, etag="b")]

CALLS: dict[str, Callable[[NunuClient], Awaitable[object]]] = {
    "GET /runs": lambda nunu: nunu.runs.list_page(),
    "POST /runs": lambda nunu: nunu.runs.start(
        multiplayer_test_id=TEST, deployment_config_id=CONFIG
    ),
    "GET /runs/{runId}": lambda nunu: nunu.runs.get(RUN),
    "GET /runs/{runId}/bugs": lambda nunu: nunu.runs.bugs(RUN),
    "POST /runs/stop": lambda nunu: nunu.runs.stop([JOB]),
    "POST /builds/upload": lambda nunu: nunu.builds.initiate_upload(UPLOAD),
    "DELETE /builds/upload": lambda nunu: nunu.builds.cancel_upload(TICKET),
    "GET /builds/upload/parts": lambda nunu: nunu.builds.get_upload_parts(TICKET, [1, 2]),
    "POST /builds/upload/complete": lambda nunu: nunu.builds.complete_upload(TICKET, PARTS),
    "GET /jobs": lambda nunu: nunu.jobs.list_page(),
    "GET /jobs/{jobId}": lambda nunu: nunu.jobs.get(JOB),
    "GET /test-plan-executions": lambda nunu: nunu.test_plan_executions.list_page(),
}
ERRORS: dict[int, type[ApiError]] = {
    400: BadRequest,
    401: AuthenticationError,
    402: QuotaExceeded,
    403: PermissionDenied,
    404: NotFound,
    413: PayloadTooLarge,
    429: RateLimited,
    500: ServerError,
}
CONFIRMATIONS = {"DELETE /builds/upload", "POST /builds/upload/complete"}
"""These answer with no more than that it was done."""

# What an error has attributes for; whatever else stands in its body goes to `details`.
EXPLAINED = {"error", "message", "code", "details", "ok", "status"}
MOMENT = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?(Z|[+-]\d{2}:\d{2})")


def examples() -> Iterator[Any]:
    """Yield every example, as (operation, path family, status, body)."""
    for family, verb, path, described in operations(with_jobs=True):
        responses = document(family)["components"]["responses"]
        for status, response in described["responses"].items():
            name = response.get("$ref", "").rpartition("/")[2]
            content = (responses[name] if name else response).get("content", {})
            for kind in content.values():
                shown = {"only": {"value": kind["example"]}} if "example" in kind else {}
                shown |= kind.get("examples", {})
                for label, example in shown.items():
                    yield pytest.param(
                        f"{verb} {path.removeprefix('/project/{projectId}')}",
                        family,
                        int(status),
                        example["value"],
                        id=f"{described['operationId']}-{status}-{label}",
                    )


EXAMPLES = list(examples())
WELL = [e for e in EXAMPLES if e.values[2] < 300]
BADLY = [e for e in EXAMPLES if e.values[2] >= 300]


def instants(value: object) -> object:
    """Make every time an instant, so that its spelling does not count."""
    if isinstance(value, dict):
        return {name: instants(member) for name, member in value.items()}
    if isinstance(value, list):
        return [instants(item) for item in value]
    if isinstance(value, str) and MOMENT.fullmatch(value):
        return datetime.fromisoformat(value)
    return value


def expected(operation: str, body: dict[str, Any]) -> object:
    """Say what the models of a body must give back: all of it, in the one shape we read into."""
    if operation == "GET /runs/{runId}/bugs":
        return body["data"] if "data" in body else body["bug_occurrences"]
    if operation == "GET /builds/upload/parts":
        return body["upload_urls"]
    if operation == "POST /runs" and "data" in body:
        flat = {"message": body["message"]} | body["data"]
        if "job_id" in flat:
            flat["job_ids"] = [flat.pop("job_id")]
        return flat
    return body


def settings(family: str) -> dict[str, Any]:
    return {} if family == CORE[0] else {"path_style": "project", "project_id": PROJECT}


def test_every_core_operation_has_examples_and_a_method() -> None:
    assert {e.values[0] for e in WELL} == {e.values[0] for e in BADLY} == set(CALLS)
    assert len(WELL) >= 30
    assert len(BADLY) >= 150


@pytest.mark.parametrize(("operation", "family", "status", "body"), WELL)
async def test_an_example_is_read_without_loss(
    operation: str, family: str, status: int, body: dict[str, Any]
) -> None:
    async with answered(json_answer(body, status), **settings(family)) as wire:
        answer = await CALLS[operation](wire.nunu)
    assert len(wire.lines) == 1
    if operation in CONFIRMATIONS:
        assert answer is None
        return
    if isinstance(answer, tuple | list):
        given: object = [model.to_dict() for model in answer]
    else:
        assert isinstance(answer, Model)
        assert answer.response is not None
        assert answer.response.status == status
        given = answer.to_dict()
    assert instants(given) == instants(expected(operation, body))


@pytest.mark.parametrize(("operation", "family", "status", "body"), BADLY)
async def test_an_example_of_an_error_is_raised_with_all_it_says(
    operation: str, family: str, status: int, body: dict[str, Any]
) -> None:
    async with answered(json_answer(body, status), **settings(family)) as wire:
        with pytest.raises(ApiError) as caught:
            await CALLS[operation](wire.nunu)
    error = caught.value
    assert type(error) is ERRORS[status]
    assert error.status == error.response.status == status
    words = body.get("error") or body.get("message")
    assert error.message == (words or ApiError.default_message)
    assert error.code == body.get("code")
    beside = {name: body[name] for name in body.keys() - EXPLAINED}
    assert error.details == body.get("details", beside)


@pytest.mark.parametrize("operation", CALLS)
@pytest.mark.parametrize("family", CORE)
async def test_the_request_goes_where_the_operation_is(operation: str, family: str) -> None:
    described = {
        f"{verb} {path}" for each, verb, path, _ in operations(with_jobs=True) if each == family
    }
    async with answered(json_answer({"error": "no"}, 400), **settings(family)) as wire:
        with pytest.raises(BadRequest):
            await CALLS[operation](wire.nunu)
    verb, _, target = wire.lines[0].partition(" ")
    path = target.partition("?")[0].removeprefix("/api/v1")
    path = (
        path.replace(f"/project/{PROJECT}/", "/project/{projectId}/")
        .replace(RUN, "{runId}")
        .replace(JOB, "{jobId}")
    )
    assert f"{verb} {path}" in described
