"""Runs over real sockets: what goes out, and what is made of every shape that came back so far."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Awaitable, Callable, Hashable
from datetime import UTC, datetime
from typing import Any

import attrs
import pytest
from scripted import (
    BUILD,
    EXECUTION,
    JOB,
    KEY,
    PLAN,
    RUN,
    STARTED,
    STOPPED,
    TEST,
    answered,
    artifact,
    bug,
    details,
    json_answer,
    page,
    player,
    run,
    step,
)

from nunu_async import (
    BadRequest,
    DecodeError,
    GpsLocation,
    InputError,
    Model,
    NotFound,
    NunuClient,
    Page,
    RunDetails,
    RunOptions,
    RunResult,
    RunState,
    ServerError,
    TransportError,
)
from nunu_async.errors import error_for_status
from nunu_async.models.vocab import BugSeverity, TestType

Call = Callable[[NunuClient], Awaitable[Any]]


def start(**members: Any) -> Call:
    return lambda nunu: nunu.runs.start(
        **({"deployment_config_id": "d", "marker": False} | members)
    )


async def read(body: object, call: Call) -> Any:
    """Return what `call` makes of a body."""
    async with answered(json_answer(body)) as wire:
        return await call(wire.nunu)


async def listed(row: dict[str, Any]) -> Any:
    """Return what the list of runs makes of a row."""
    (made,) = (await read(page([row]), lambda nunu: nunu.runs.list_page())).data
    return made


async def got(**members: Any) -> RunDetails:
    return await read(details(**members), lambda nunu: nunu.runs.get(RUN))


def deep(levels: int) -> dict[str, object]:
    data: dict[str, object] = {}
    for _ in range(levels):
        data = {"a": data}
    return data


# --- Requests.


@pytest.mark.parametrize(
    ("filters", "query"),
    [
        ({}, "page=0&page_size=20"),
        ({"page": 3, "page_size": 100}, "page=3&page_size=100"),
        ({"tags": iter(["a", "b"])}, "tags=a,b&page=0&page_size=20"),
        ({"page_size": 1}, "page=0&page_size=1"),
        ({"state": "running"}, "state=running&page=0&page_size=20"),
        ({"state": "completed"}, "state=completed&page=0&page_size=20"),
        ({"state": "all"}, "state=all&page=0&page_size=20"),
        ({"state": "COMPLETED"}, "state=completed&page=0&page_size=20"),
        ({"state": RunState("Completed")}, "state=completed&page=0&page_size=20"),
        ({"state": RunState.RUNNING}, "state=running&page=0&page_size=20"),
        ({"multiplayer_test_id": TEST}, f"multiplayer_test_id={TEST}&page=0&page_size=20"),
        ({"job_id": JOB}, f"job_id={JOB}&page=0&page_size=20"),
        (
            {"test_plan_execution_id": EXECUTION},
            f"test_plan_execution_id={EXECUTION}&page=0&page_size=20",
        ),
        ({"test_type": "verification"}, "test_type=verification&page=0&page_size=20"),
        ({"tags": ["nightly"]}, "tags=nightly&page=0&page_size=20"),
        ({"tags": ("a", "b")}, "tags=a,b&page=0&page_size=20"),
        ({"tags": ["ü &=+?#"]}, "tags=%C3%BC+%26%3D%2B?%23&page=0&page_size=20"),
        ({"bugs": True}, "bugs=true&page=0&page_size=20"),
        ({"bugs": False}, "bugs=false&page=0&page_size=20"),
        (
            {"bugs": True, "tags": ["t"], "test_type": "task", "job_id": "j", "state": "all"},
            "state=all&job_id=j&test_type=task&tags=t&bugs=true&page=0&page_size=20",
        ),
    ],
)
async def test_a_list_asks_for_what_was_asked(filters: dict[str, Any], query: str) -> None:
    async with answered(json_answer(page([]))) as wire:
        await wire.nunu.runs.list_page(**filters)
    assert wire.lines == [f"GET /api/v1/runs?{query}"]
    assert wire.bodies == [b""]


async def test_a_walk_asks_with_the_same_filters_for_every_page() -> None:
    async with answered(
        json_answer(page([run(multiplayer_run_id="a")], size=1, count=2)),
        json_answer(page([run(multiplayer_run_id="b")], number=1, size=1, count=2)),
    ) as wire:
        runs = [r async for r in wire.nunu.runs.list(tags=["t"], bugs=True, page_size=1)]
    assert [r.multiplayer_run_id for r in runs] == ["a", "b"]
    assert wire.lines == [
        "GET /api/v1/runs?tags=t&bugs=true&page=0&page_size=1",
        "GET /api/v1/runs?tags=t&bugs=true&page=1&page_size=1",
    ]


async def test_a_walk_asks_for_pages_of_100() -> None:
    async with answered(json_answer(page([], size=100))) as wire:
        assert [r async for r in wire.nunu.runs.list()] == []
    assert wire.lines == ["GET /api/v1/runs?page=0&page_size=100"]


@pytest.mark.parametrize(
    ("call", "line", "body"),
    [
        (lambda nunu: nunu.runs.get(RUN), f"GET /api/v1/runs/{RUN}", b""),
        (lambda nunu: nunu.runs.bugs("A-z_09"), "GET /api/v1/runs/A-z_09/bugs", b""),
        (
            lambda nunu: nunu.runs.stop([JOB, "j-2"]),
            "POST /api/v1/runs/stop",
            f'{{"job_ids": ["{JOB}", "j-2"]}}'.encode(),
        ),
        (lambda nunu: nunu.runs.stop(("j",)), "POST /api/v1/runs/stop", b'{"job_ids": ["j"]}'),
        (
            start(multiplayer_test_id="t"),
            "POST /api/v1/runs",
            b'{"deployment_config_id": "d", "multiplayer_test_id": "t"}',
        ),
        (
            start(test_plan_id="p", build_id="b"),
            "POST /api/v1/runs",
            b'{"deployment_config_id": "d", "test_plan_id": "p", "build_id": "b"}',
        ),
        (
            start(instructions="Öffne den Laden", name="n", agent_config_id="a"),
            "POST /api/v1/runs",
            '{"deployment_config_id": "d", "instructions": "Öffne den Laden", "name": "n", '
            '"agent_config_id": "a"}'.encode(),
        ),
        (
            start(multiplayer_test_id="t", retries=0, instances=1, additional_tags=["x", "y"]),
            "POST /api/v1/runs",
            (
                b'{"deployment_config_id": "d", "multiplayer_test_id": "t", '
                b'"additional_tags": ["x", "y"], "retries": 0, "instances": 1}'
            ),
        ),
        (
            start(test_plan_id="p", render_templates=True, template_data={"a": {"b": [1, None]}}),
            "POST /api/v1/runs",
            (
                b'{"deployment_config_id": "d", "test_plan_id": "p", "render_templates": true, '
                b'"template_data": {"a": {"b": [1, null]}}}'
            ),
        ),
        (
            start(
                test_plan_id="p",
                options=RunOptions(
                    min_time_seconds=0,
                    max_time_seconds=600,
                    performance_monitoring=False,
                    mobile_auto_grant_permissions=True,
                    mobile_geolocation="Zurich",
                    mobile_gpslocation="auto",
                ),
            ),
            "POST /api/v1/runs",
            (
                b'{"deployment_config_id": "d", "test_plan_id": "p", "options": '
                b'{"min_time_seconds": 0, "max_time_seconds": 600, '
                b'"performance_monitoring": false, "mobile_auto_grant_permissions": true, '
                b'"mobile_geolocation": "Zurich", "mobile_gpslocation": "auto"}}'
            ),
        ),
        (
            start(
                test_plan_id="p",
                options=RunOptions(mobile_gpslocation=GpsLocation(lat="47.37", long="8.54")),
            ),
            "POST /api/v1/runs",
            (
                b'{"deployment_config_id": "d", "test_plan_id": "p", "options": '
                b'{"mobile_gpslocation": {"lat": "47.37", "long": "8.54"}}}'
            ),
        ),
    ],
    ids=[
        *("get", "bugs", "stop", "stop-tuple", "start-test", "start-plan", "start-instructions"),
        *("start-counts", "start-templates", "start-options", "start-place"),
    ],
)
async def test_a_request_goes_out_as_documented(call: Call, line: str, body: bytes) -> None:
    async with answered(json_answer({"error": "no"}, 400)) as wire:
        with pytest.raises(BadRequest):
            await call(wire.nunu)
    assert wire.lines == [line]
    assert wire.bodies == [body]
    assert wire.header("X-Api-Key") == KEY
    assert wire.header("Accept") == "application/json"
    assert wire.header("Content-Type") == ("application/json" if body else None)


# --- What is refused before anything is sent.


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (start(), "target"),
        (start(multiplayer_test_id="t", test_plan_id="p"), "target"),
        (start(multiplayer_test_id="t", instructions="i"), "target"),
        (start(multiplayer_test_id="t", test_plan_id="p", instructions="i"), "target"),
        (start(multiplayer_test_id=""), "multiplayer_test_id"),
        (start(test_plan_id="  "), "test_plan_id"),
        (start(instructions="\n"), "instructions"),
        (start(multiplayer_test_id=7), "multiplayer_test_id"),
        (start(multiplayer_test_id="t", deployment_config_id=""), "deployment_config_id"),
        (start(multiplayer_test_id="t", deployment_config_id=None), "deployment_config_id"),
        (start(multiplayer_test_id="t", build_id=""), "build_id"),
        (start(multiplayer_test_id="t", name="n"), "name"),
        (start(test_plan_id="p", name="n"), "name"),
        (start(multiplayer_test_id="t", retries=-1), "retries"),
        (start(multiplayer_test_id="t", retries=11), "retries"),
        (start(multiplayer_test_id="t", retries=True), "retries"),
        (start(multiplayer_test_id="t", retries=1.0), "retries"),
        (start(test_plan_id="p", retries=1), "retries"),
        (start(instructions="i", retries=0), "retries"),
        (start(multiplayer_test_id="t", instances=0), "instances"),
        (start(multiplayer_test_id="t", instances=11), "instances"),
        (start(test_plan_id="p", instances=1), "instances"),
        (start(multiplayer_test_id="t", additional_tags="nightly"), "additional_tags"),
        (start(multiplayer_test_id="t", template_data={"a": float("nan")}), "body"),
        (start(multiplayer_test_id="t", template_data={"a": object()}), "body"),
        (lambda nunu: nunu.runs.stop([]), "job_ids"),
        (lambda nunu: nunu.runs.stop(()), "job_ids"),
        (lambda nunu: nunu.runs.stop([""]), "job_ids"),
        (lambda nunu: nunu.runs.stop(["j", ""]), "job_ids"),
        (lambda nunu: nunu.runs.stop("j-1"), "job_ids"),
        (lambda nunu: nunu.runs.stop([7]), "job_ids"),
        (lambda nunu: nunu.runs.stop([None]), "job_ids"),
        (lambda nunu: nunu.runs.stop(["j", b"k"]), "job_ids"),
        (lambda nunu: nunu.runs.get(7), "run_id"),
        (lambda nunu: nunu.runs.get(None), "run_id"),
        (lambda nunu: nunu.runs.bugs(b"abc"), "run_id"),
        (lambda nunu: nunu.runs.list_page(job_id=7), "job_id"),
        (lambda nunu: nunu.runs.list_page(job_id=""), "job_id"),
        (lambda nunu: nunu.runs.list_page(test_type=["task"]), "test_type"),
        (lambda nunu: nunu.runs.list_page(test_plan_execution_id=""), "test_plan_execution_id"),
        (lambda nunu: nunu.test_plan_executions.list_page(build_id=7), "build_id"),
        (lambda nunu: nunu.runs.list_page(page=-1), "page"),
        (lambda nunu: nunu.runs.list_page(page=True), "page"),
        (lambda nunu: nunu.runs.list_page(page=1.0), "page"),
        (lambda nunu: nunu.runs.list_page(page_size=0), "page_size"),
        (lambda nunu: nunu.runs.list_page(page_size=101), "page_size"),
        (lambda nunu: nunu.runs.list_page(page_size="20"), "page_size"),
        (start(multiplayer_test_id="t", additional_tags=None), "additional_tags"),
        (start(multiplayer_test_id="t", additional_tags=5), "additional_tags"),
        (start(multiplayer_test_id="t", additional_tags=["a", 5]), "additional_tags"),
        (start(multiplayer_test_id="t", additional_tags={"a": 1}), "additional_tags"),
        (start(multiplayer_test_id="t", render_templates="yes"), "render_templates"),
        (start(multiplayer_test_id="t", render_templates=None), "render_templates"),
        (start(multiplayer_test_id="t", template_data="x"), "template_data"),
        (start(multiplayer_test_id="t", template_data=[("a", 1)]), "template_data"),
        (start(multiplayer_test_id="t", options={"x": 1}), "options"),
        (start(multiplayer_test_id="t", options="auto"), "options"),
        (lambda nunu: nunu.runs.stop(None), "job_ids"),
        (lambda nunu: nunu.runs.stop(5), "job_ids"),
        (lambda nunu: nunu.runs.stop({"j": 1}), "job_ids"),
        (lambda nunu: nunu.runs.list_page(tags=None), "tags"),
        (lambda nunu: nunu.runs.list_page(tags=5), "tags"),
        (lambda nunu: nunu.runs.list_page(tags=b"nightly"), "tags"),
        (lambda nunu: nunu.runs.list_page(state="done"), "state"),
        (lambda nunu: nunu.runs.list_page(state=5), "state"),
        (lambda nunu: nunu.runs.list_page(state=["running"]), "state"),
        (lambda nunu: nunu.runs.list_page(state=""), "state"),
        (lambda nunu: nunu.runs.list_page(tags="nightly"), "tags"),
        (lambda nunu: nunu.runs.list_page(tags=["a,b"]), "tags"),
        (lambda nunu: nunu.runs.list_page(tags=["a", "\udcff"]), "tags"),
        (lambda nunu: nunu.runs.list_page(job_id="\udcff"), "job_id"),
        (lambda nunu: nunu.runs.list_page(test_type="a\ud800"), "test_type"),
        (lambda nunu: nunu.runs.list_page(state="\udcff"), "state"),
        (start(multiplayer_test_id="t", template_data=deep(50_000)), "body"),
        (lambda nunu: nunu.runs.list_page(tags=[""]), "tags"),
        (lambda nunu: nunu.runs.list_page(tags=["a", ""]), "tags"),
        (lambda nunu: nunu.runs.list_page(tags=[7]), "tags"),
        (lambda nunu: nunu.runs.list_page(bugs="false"), "bugs"),
    ],
)
async def test_what_breaks_a_limit_is_refused_by_name_and_not_sent(call: Call, field: str) -> None:
    async with answered(json_answer({})) as wire:
        with pytest.raises(InputError) as caught:
            await call(wire.nunu)
    assert caught.value.field == field
    assert wire.lines == []


@pytest.mark.parametrize("call", ["get", "bugs"])
@pytest.mark.parametrize(
    "run_id",
    [
        *("", ".", "..", "a/b", "../stop", "a\n", "\n", "a?x=1", "a#b", "a%2Fb", "a b", "ü", "a;b"),
        *("a\\b", "a\x00", "a:b", "@", "x" * 129),
    ],
)
async def test_an_id_that_could_lead_elsewhere_is_refused(call: str, run_id: str) -> None:
    async with answered(json_answer({})) as wire:
        with pytest.raises(InputError) as caught:
            await getattr(wire.nunu.runs, call)(run_id)
    assert caught.value.field == "run_id"
    assert wire.lines == []


@pytest.mark.parametrize("run_id", ["abcdefghijk", "abcdefghijkl", "k3v9q0zt7mx-1", "x" * 128])
async def test_an_id_may_be_of_any_usual_length(run_id: str) -> None:
    async with answered(json_answer(details())) as wire:
        await wire.nunu.runs.get(run_id)
    assert wire.lines == [f"GET /api/v1/runs/{run_id}"]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"mobile_gpslocation": "auto"}, "mobile_gpslocation"),
        ({"mobile_gpslocation": "auto", "mobile_geolocation": ""}, "mobile_gpslocation"),
        ({"min_time_seconds": -1}, "min_time_seconds"),
        ({"max_time_seconds": 1.5}, "max_time_seconds"),
        ({"max_time_seconds": True}, "max_time_seconds"),
        ({"performance_monitoring": "yes"}, "performance_monitoring"),
        ({"performance_monitoring": 1}, "performance_monitoring"),
        ({"mobile_auto_grant_permissions": 0}, "mobile_auto_grant_permissions"),
        ({"mobile_geolocation": 47.37}, "mobile_geolocation"),
        ({"mobile_gpslocation": "Zurich"}, "mobile_gpslocation"),
        ({"mobile_gpslocation": {"lat": "1", "long": "2"}}, "mobile_gpslocation"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        RunOptions(**options)
    assert caught.value.field == field


@pytest.mark.parametrize("place", [{"lat": 47.37, "long": "8.54"}, {"lat": "47.37", "long": None}])
def test_a_place_that_is_no_text_is_refused(place: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        GpsLocation(**place)
    assert caught.value.field == ("lat" if place["long"] else "long")


async def test_what_is_refused_is_shown_in_short() -> None:
    read = await got()
    async with answered(json_answer({})) as wire:
        for call, words in (
            (lambda nunu: nunu.runs.get(read), "must be a run id as text, not RunDetails"),
            (lambda nunu: nunu.runs.stop([read]), "must be a list of strings, not of RunDetails"),
            (lambda nunu: nunu.runs.list_page(job_id=read), "not empty, not RunDetails"),
            (start(multiplayer_test_id=read), "not empty, not RunDetails"),
        ):
            with pytest.raises(InputError) as caught:
                await call(wire.nunu)
            assert str(caught.value).endswith(words)
        with pytest.raises(InputError) as caught:
            await wire.nunu.runs.get("/" * 10_000)
        assert len(str(caught.value)) < 120
    assert wire.lines == []


async def test_a_walk_with_an_impossible_filter_is_refused_before_its_first_step() -> None:
    async with answered(json_answer({})) as wire:
        with pytest.raises(InputError):
            wire.nunu.runs.list(page_size=0)
        with pytest.raises(InputError):
            wire.nunu.runs.list(tags="nightly")
    assert wire.lines == []


# --- A start.


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (201, STARTED, STARTED),
        (201, {"job_ids": [JOB, "j-2"], "test_plan_execution_id": EXECUTION}, None),
        (201, {"job_ids": [JOB], "test_id": TEST}, None),
        (201, {"job_ids": []}, None),
        (
            200,
            {
                "ok": True,
                "status": 200,
                "message": "outer",
                "data": {"message": "inner", "build_id": BUILD, "job_ids": [JOB], "test_id": TEST},
            },
            {"message": "inner", "build_id": BUILD, "job_ids": [JOB], "test_id": TEST},
        ),
        (
            201,
            {
                "ok": True,
                "status": 201,
                "message": "queued",
                "data": {"job_id": JOB, "multiplayer_run_id": RUN},
            },
            {"message": "queued", "job_ids": [JOB], "multiplayer_run_id": RUN},
        ),
        (207, STARTED | {"ok": True, "failed_count": 1, "results": [{"device_label": "P"}]}, None),
    ],
    ids=["flat", "flat-plan", "flat-instructions", "flat-none", "march", "january", "devices"],
)
async def test_every_published_start_becomes_the_one_type(
    status: int, body: dict[str, Any], expected: dict[str, Any] | None
) -> None:
    async with answered(json_answer(body, status)) as wire:
        started = await start(test_plan_id=PLAN)(wire.nunu)
    assert started.to_dict() == (expected or body)
    assert started.response.status == status
    assert isinstance(started.job_ids, tuple)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({}, "$.job_ids"),
        ({"job_ids": None}, "$.job_ids"),
        ({"job_ids": "j"}, "$.job_ids"),
        ({"job_ids": [None]}, "$.job_ids[0]"),
        ({"job_ids": [JOB, 7]}, "$.job_ids[1]"),
        ({"job_ids": [JOB], "build_id": 7}, "$.build_id"),
        ([], "$"),
        ("queued", "$"),
        (None, "$"),
    ],
)
async def test_a_start_of_another_shape_is_a_decode_error(body: object, problem: str) -> None:
    async with answered(json_answer(body, 201)) as wire:
        with pytest.raises(DecodeError) as caught:
            await start(test_plan_id=PLAN)(wire.nunu)
    assert caught.value.operation == "start_run"
    assert [p.rpartition(" @ ")[2] for p in caught.value.problems] == [problem]
    assert len(wire.lines) == 1


@pytest.mark.parametrize(
    ("data", "ids", "run_id"),
    [
        ({"job_id": JOB, "job_ids": None}, (JOB,), None),
        ({"multiplayer_run_id": RUN}, (), RUN),
        ({"multiplayer_run_id": RUN, "job_ids": None}, (), RUN),
    ],
)
async def test_a_start_that_names_only_a_job_or_a_run_is_one(
    data: dict[str, Any], ids: tuple[str, ...], run_id: str | None
) -> None:
    for body in ({"ok": True, "status": 201, "data": data}, data if "job_id" not in data else None):
        if body is not None:
            started = await read(body, start(multiplayer_test_id=TEST))
            assert (started.job_ids, started.multiplayer_run_id) == (ids, run_id)


@pytest.mark.parametrize("status", [404, 409, 429, 500, 503])
async def test_a_start_answered_with_an_error_is_not_repeated(
    status: int,
) -> None:
    """The body of a 200 or 201 says what became of it; the status line did not."""
    body = {"ok": False, "status": status, "error": "the plan has no tests"}
    async with answered(json_answer(body, 201)) as wire:
        with pytest.raises(error_for_status(status), match="the plan has no tests") as caught:
            await start(test_plan_id=PLAN)(wire.nunu)
    assert caught.value.status == status
    assert caught.value.in_success
    assert len(wire.lines) == 1
    notes = getattr(caught.value, "__notes__", [])
    assert any("may have been started" in note for note in notes) is (status in {429, 500, 503})


@pytest.mark.parametrize(
    "body",
    [
        {"ok": False, "error": "no agents left"},
        {"error": "no agents left"},
        {"success": False, "error": {"code": "BUSY", "message": "no agents left"}},
        {"error": {"message": "no agents left"}},
    ],
)
async def test_words_of_an_answer_that_says_it_failed_are_not_lost(body: dict[str, Any]) -> None:
    async with answered(json_answer(body, 201)) as wire:
        with pytest.raises(DecodeError, match="the server says: no agents left"):
            await start(test_plan_id=PLAN)(wire.nunu)


async def test_a_start_with_null_for_its_data_may_have_begun_something() -> None:
    async with answered(json_answer({"ok": True, "status": 201, "data": None}, 201)) as wire:
        with pytest.raises(DecodeError) as caught:
            await start(test_plan_id=PLAN)(wire.nunu)
    (note,) = caught.value.__notes__
    assert note == "it may have been started: look at the runs before starting again"
    assert len(wire.lines) == 1


@pytest.mark.parametrize(
    "data",
    [
        {"job_id": None, "job_ids": None},
        {"job_ids": None},
        {},
        {"multiplayer_run_id": None},
    ],
)
async def test_an_envelope_without_jobs_is_reported_with_its_path(data: dict[str, Any]) -> None:
    """The path is the answer's own, not the one of our rearranged copy."""
    envelope = {"ok": True, "status": 201, "message": "queued", "data": data}
    with pytest.raises(DecodeError) as caught:
        await read(envelope, start(test_plan_id=PLAN))
    assert all("$.data" in problem for problem in caught.value.problems)


@pytest.mark.parametrize(
    ("changes", "data", "place"),
    [
        ({}, {"job_id": 7}, "$.data.job_id"),
        ({}, {"job_ids": [JOB, 7]}, "$.data.job_ids[1]"),
        ({}, {"job_ids": [JOB], "build_id": 7}, "$.data.build_id"),
        ({}, {"job_ids": [JOB], "message": 7}, "$.data.message"),
        ({"message": 7}, {"job_ids": [JOB]}, "$.message"),
        ({"test_id": 7}, {"job_id": JOB}, "$.test_id"),
    ],
)
async def test_a_problem_in_an_envelope_has_its_path(
    changes: dict[str, Any], data: dict[str, Any], place: str
) -> None:
    envelope = {"ok": True, "status": 201, "message": "queued", "data": data} | changes
    with pytest.raises(DecodeError) as caught:
        await read(envelope, start(test_plan_id=PLAN))
    assert [p.rpartition(" @ ")[2] for p in caught.value.problems] == [place]


async def test_unknown_members_of_an_envelope_are_at_hand() -> None:
    data = {"job_ids": [JOB], "mood": "calm", "both": "inner"}
    envelope = {"ok": True, "status": 201, "message": "queued", "data": data}
    started = await read(envelope | {"warnings": ["w"], "both": "outer"}, start(test_plan_id=PLAN))
    assert started.extra == {"mood": "calm", "both": "inner", "warnings": ["w"]}
    assert started.message == "queued"
    assert started.to_dict() == data | {"warnings": ["w"], "message": "queued"}


@pytest.mark.parametrize("name", ["results", "device_runs"])
async def test_a_start_on_several_devices_has_the_jobs_of_them_all(name: str) -> None:
    devices = [
        {"device_label": "a", "ok": True, "status": 201, "data": {"job_ids": ["j-1"]}},
        {"device_label": "b", "ok": False, "status": 500, "error": "no"},
        {"device_label": "c", "ok": True, "status": 201, "data": {"job_ids": ["j-2", "j-3"]}},
    ]
    body = {"ok": True, "requested_count": 3, "started_count": 2, name: devices}
    async with answered(json_answer(body, 207)) as wire:
        started = await start(test_plan_id=PLAN)(wire.nunu)
    assert started.job_ids == ("j-1", "j-2", "j-3")
    assert started.extra[name] == devices


@pytest.mark.parametrize("devices", [None, {}, [], [5], [{}], [{"data": []}], [{"data": {}}]])
async def test_a_start_on_several_devices_without_jobs_is_no_start(devices: object) -> None:
    with pytest.raises(DecodeError, match=r"is missing @ \$\.job_ids"):
        await read({"ok": True, "results": devices}, start(test_plan_id=PLAN))


@pytest.mark.parametrize("lost", [None, b"HTTP/1.1 201 Created\r\nContent-Length: 9\r\n\r\n{"])
async def test_a_start_is_never_repeated_after_a_lost_answer(lost: bytes | None) -> None:
    async with answered(lost if lost is None else lost + b'"job_ids') as wire:
        with pytest.raises((TransportError, DecodeError)):
            await start(test_plan_id=PLAN)(wire.nunu)
    assert len(wire.lines) == 1
    assert wire.clock.sleeps == []


@pytest.mark.parametrize("status", [500, 502, 504, 520])
async def test_a_start_is_never_repeated_where_the_server_may_have_acted(status: int) -> None:
    async with answered(json_answer({"error": "oops"}, status)) as wire:
        with pytest.raises(ServerError):
            await start(test_plan_id=PLAN)(wire.nunu)
    assert len(wire.lines) == 1


@pytest.mark.parametrize("status", [429, 503])
async def test_a_start_is_repeated_where_the_server_did_not_act(status: int) -> None:
    async with answered(json_answer({"error": "wait"}, status), json_answer(STARTED, 201)) as wire:
        started = await start(test_plan_id=PLAN)(wire.nunu)
    assert started.job_ids == (JOB,)
    assert len(wire.lines) == 2
    assert wire.bodies[0] == wire.bodies[1]


# --- A stop.


async def test_a_partial_stop_is_a_result() -> None:
    async with answered(json_answer(STOPPED, 207)) as wire:
        result = await wire.nunu.runs.stop([JOB, "j-2"])
    assert not result.ok
    assert [outcome.job_id for outcome in result.stopped] == [JOB]
    assert [(o.job_id, o.status, o.error) for o in result.failed] == [
        ("j-2", 500, "Job already completed")
    ]
    assert result.to_dict() == STOPPED
    assert result.response is not None
    assert result.response.status == 207


async def test_a_whole_stop_has_no_failures() -> None:
    body = STOPPED | {"ok": True, "stopped_count": 2, "results": [STOPPED["results"][0]]}  # type: ignore[index]
    result = await read(body, lambda nunu: nunu.runs.stop([JOB]))
    assert result.ok
    assert result.stopped == result.results
    assert result.failed == ()


@pytest.mark.parametrize(
    "body",
    [
        {"error": "no jobs found"},
        STOPPED | {"message": "no jobs found", "stopped_count": 0, "results": []},
    ],
    ids=["late", "legacy"],
)
async def test_a_stop_of_nothing_known_is_not_found(body: object) -> None:
    async with answered(json_answer(body, 404)) as wire:
        with pytest.raises(NotFound) as caught:
            await wire.nunu.runs.stop([JOB])
    assert caught.value.message == "no jobs found"
    assert len(wire.lines) == 1


async def test_a_stop_is_sent_again_after_a_lost_answer() -> None:
    async with answered(None, json_answer(STOPPED, 207)) as wire:
        await wire.nunu.runs.stop([JOB])
    assert len(wire.lines) == 2


# --- Rows and details, in every shape so far.


@pytest.mark.parametrize("word", ["completed", "COMPLETED", "Completed"])
async def test_a_state_counts_in_any_case_and_stays_as_it_came(word: str) -> None:
    made = await listed(run(state=word, result="success", players=[player(state=word)]))
    assert made.state == RunState.COMPLETED
    assert made.state in {RunState.COMPLETED, RunState.RUNNING}
    assert str(made.state) == word
    assert made.players[0].state == RunState.COMPLETED
    assert made.to_dict()["state"] == word


@pytest.mark.parametrize(
    ("state", "result", "terminal", "succeeded"),
    [
        ("COMPLETED", "SUCCESS", True, True),
        ("completed", "success", True, True),
        ("COMPLETED", "FAILED", True, False),
        ("completed", "failure", True, False),
        ("COMPLETED", "STOPPED", True, False),
        ("COMPLETED", "MAX_STEPS", True, False),
        ("COMPLETED", "PARTLY", True, False),
        ("COMPLETED", None, True, False),
        ("RUNNING", None, False, False),
        ("running", "SUCCESS", False, False),
        ("INITIALIZING", None, False, False),
        ("REHEARSING", None, False, False),
    ],
)
async def test_every_caller_s_question_has_an_answer(
    state: str, result: str | None, terminal: bool, succeeded: bool
) -> None:
    members = {"state": state, "result": result, "completed_at": None}
    for made in (await listed(run(**members)), await got(**members)):
        assert made.is_terminal is terminal
        assert made.succeeded is succeeded


@pytest.mark.parametrize("state", ["CANCELLED", "RUNNING", "rehearsing"])
async def test_a_run_with_an_end_is_over_whatever_its_state_is_called(state: str) -> None:
    """And no success, unless its state is the one word for it."""
    members = {"state": state, "result": "SUCCESS", "completed_at": "2026-04-11T06:20:00Z"}
    for made in (await listed(run(**members)), await got(**members)):
        assert made.is_terminal
        assert not made.succeeded


@pytest.mark.parametrize("name", ["test_step_id", "goal", "finish_condition", "test_type"])
async def test_a_step_needs_to_say_nothing_of_its_test(name: str) -> None:
    """The newest answers require neither the test of a step nor any member of it."""
    given = {member: value for member, value in step()["test"].items() if member != name}
    bare = {member: value for member, value in step().items() if member != "test"}
    body = [player(artifacts=[], steps=[step(test=given), step(test={}), step(test=None), bare])]
    made = await got(players=body)
    some, none, null, absent = made.players[0].steps
    assert some.test is not None
    assert getattr(some.test, name) is None
    assert none.test is not None
    assert (null.test, absent.test) == (None, None)
    assert [one.get("test") for one in made.to_dict()["players"][0]["steps"]] == [  # type: ignore[index]
        given,
        {},
        None,
        None,
    ]


@pytest.mark.parametrize("number", [0, 1, 2])
async def test_a_player_number_is_kept_whatever_it_counts_from(number: int) -> None:
    made = await listed(run(players=[player(player_number=number)]))
    assert made.players[0].player_number == number


@pytest.mark.parametrize("duration", [240659.99, 158199, 0, 0.5, 1e9, None])
async def test_a_duration_is_kept_to_its_fraction(duration: float | None) -> None:
    made = await listed(run(duration_ms=duration))
    assert made.duration_ms == duration
    assert type(made.duration_ms) is type(duration)
    detailed = await got(players=[player(steps=[step(duration_ms=duration)], artifacts=[])])
    assert detailed.players[0].steps[0].duration_ms == duration


@pytest.mark.parametrize(
    ("text", "micro"),
    [
        ("2026-04-11T06:12:03Z", 0),
        ("2026-04-11T06:12:03.000Z", 0),
        ("2026-04-11T06:12:03.114Z", 114000),
        ("2026-04-11T06:12:03.114520+00:00", 114520),
        ("2026-04-11T08:12:03.114520+02:00", 114520),
    ],
)
async def test_a_time_in_every_published_form_is_aware(text: str, micro: int) -> None:
    made = await listed(run(created_at=text))
    assert made.created_at == datetime(2026, 4, 11, 6, 12, 3, micro, tzinfo=UTC)
    assert made.created_at.tzinfo is not None


@pytest.mark.parametrize(
    ("platform", "device"),
    [
        ({"type": "android", "device": "Pixel 7"}, "Pixel 7"),
        ({"kind": "android-native", "config": {"device": {"name": "Pixel 9"}}}, "Pixel 9"),
        ({"kind": "pc", "config": {}}, None),
        ({"kind": "pc", "config": {"device": "Pixel 9"}}, None),
        ({"kind": "pc", "config": None}, None),
        ({}, None),
    ],
)
async def test_a_platform_of_either_shape_names_its_device(
    platform: dict[str, Any], device: str | None
) -> None:
    row = run(players=[player(platform=platform)])
    made = await listed(row)
    assert made.players[0].platform.device_name == device
    assert made.to_dict()["players"] == row["players"]


async def test_an_unknown_word_is_kept() -> None:
    made = await listed(
        run(
            state="REHEARSING",
            result="MAYBE",
            test={"id": TEST, "name": "n", "type": "rehearsal"},
            players=[player(state="x", result="")],
        )
    )
    assert (str(made.state), str(made.result), str(made.test.type)) == (
        "REHEARSING",
        "MAYBE",
        "rehearsal",
    )
    assert not made.state.is_known
    assert isinstance(made.result, RunResult)
    assert isinstance(made.test.type, TestType)
    (found,) = await read(
        page([bug(severity="apocalyptic", category="smell")]), lambda nunu: nunu.runs.bugs(RUN)
    )
    assert found.severity == "apocalyptic"
    assert isinstance(found.severity, BugSeverity)


async def test_a_member_that_we_do_not_know_is_at_hand_on_every_level() -> None:
    row = details(
        test_plan_execution_id=EXECUTION,
        extra="not the model's own",
        response={"absent": [1]},
        test={"id": TEST, "name": "n", "type": "task", "version": 3},
        players=[
            player(
                mood="calm",
                artifacts=[artifact(etag="e")],
                steps=[step(score=0.5, items=[{"id": "i", "weight": 2}])],
            )
        ],
    )
    made = await got(**row)
    assert made.extra["test_plan_execution_id"] == EXECUTION
    assert made.extra["extra"] == "not the model's own"
    assert made.extra["response"] == {"absent": [1]}
    assert made.test.extra == {"version": 3}
    (one,) = made.players
    assert one.extra == {"mood": "calm"}
    assert one.artifacts[0].extra == {"etag": "e"}
    assert one.steps[0].extra == {"score": 0.5}
    assert one.steps[0].items is not None
    assert one.steps[0].items[0].extra == {"weight": 2}
    given = made.to_dict()
    assert {name: given[name] for name in ("extra", "response", "players")} == {
        name: row[name] for name in ("extra", "response", "players")
    }


NULLABLE = ["result", "bug_info", "build", "started_at", "completed_at", "duration_ms", "job_id"]


@pytest.mark.parametrize("name", NULLABLE)
async def test_null_and_absent_are_both_none_but_dumped_as_they_came(name: str) -> None:
    with_null = await listed(run(**{name: None}))
    row = run()
    del row[name]
    without = await listed(row)
    assert getattr(with_null, name) is getattr(without, name) is None
    assert with_null.to_dict()[name] is None
    assert name not in without.to_dict()


async def test_the_least_that_a_row_may_hold_is_enough() -> None:
    least = {
        "multiplayer_run_id": RUN,
        "project_id": "p",
        "state": "running",
        "test": {"id": "t", "name": "", "type": "task"},
        "created_at": "2026-01-11T06:12:03Z",
        "initiator": {"type": "user"},
        "players": [],
    }
    made = await listed(least)
    assert made.tags == made.players == ()
    assert made.to_dict() | {"created_at": 0} == least | {"created_at": 0}


REQUIRED = [
    *("multiplayer_run_id", "project_id", "state", "test", "created_at", "initiator"),
]


@pytest.mark.parametrize("name", REQUIRED)
async def test_a_missing_required_member_of_a_row_has_its_path(name: str) -> None:
    rows = [run() for _ in range(4)]
    del rows[3][name]
    with pytest.raises(DecodeError) as caught:
        await read(page(rows), lambda nunu: nunu.runs.list_page())
    assert caught.value.operation == "list_runs"
    assert caught.value.problems == (f"is missing @ $.data[3].{name}",)


@pytest.mark.parametrize(
    ("row", "place"),
    [
        (run(players=[player(state=None)]), "$.data[3].players[0].state"),
        (run(players=[player(), player(state=7)]), "$.data[3].players[1].state"),
        (run(players=[player(player_number=1.5)]), "$.data[3].players[0].player_number"),
        (run(players=[player(player_number="1")]), "$.data[3].players[0].player_number"),
        (run(players=[player(step_count=True)]), "$.data[3].players[0].step_count"),
        (run(players=[None]), "$.data[3].players[0]"),
        (run(players={}), "$.data[3].players"),
        (run(multiplayer_run_id=None), "$.data[3].multiplayer_run_id"),
        (run(multiplayer_run_id=7), "$.data[3].multiplayer_run_id"),
        (run(created_at="yesterday"), "$.data[3].created_at"),
        (run(created_at=1775887923), "$.data[3].created_at"),
        (run(created_at=None), "$.data[3].created_at"),
        (run(duration_ms="12"), "$.data[3].duration_ms"),
        (run(duration_ms=True), "$.data[3].duration_ms"),
        (run(duration_ms=10**400), "$.data[3].duration_ms"),
        (run(tags="nightly"), "$.data[3].tags"),
        (run(tags=["a", None]), "$.data[3].tags[1]"),
        (run(test=[]), "$.data[3].test"),
        (run(test={"id": TEST, "type": "task"}), "$.data[3].test.name"),
        (run(build=BUILD), "$.data[3].build"),
        (run(bug_info={"bug_count": 1.5}), "$.data[3].bug_info.bug_count"),
        (run(initiator={"type": "api", "value": "key"}), "$.data[3].initiator.value"),
        ([], "$.data[3]"),
        (None, "$.data[3]"),
        ("run", "$.data[3]"),
    ],
)
async def test_a_wrong_type_in_a_row_has_its_path(row: object, place: str) -> None:
    with pytest.raises(DecodeError) as caught:
        await read(page([run(), run(), run(), row]), lambda nunu: nunu.runs.list_page())
    assert caught.value.operation == "list_runs"
    assert [p.rpartition(" @ ")[2] for p in caught.value.problems] == [place]
    assert f"list_runs: cannot read the answer (200): {caught.value.problems[0]}" == str(
        caught.value
    )


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"players": [player(steps=[step(test=[])])]}, "$.players[0].steps[0].test"),
        (
            {"players": [player(steps=[step(test={"goal": 1})])]},
            "$.players[0].steps[0].test.goal",
        ),
        (
            {"players": [player(steps=[step(), step(run_state=None)])]},
            "$.players[0].steps[1].run_state",
        ),
        ({"players": [player(artifacts=[artifact(size=1.5)])]}, "$.players[0].artifacts[0].size"),
        ({"players": [player(artifacts=[artifact(url=None)])]}, "$.players[0].artifacts[0].url"),
        (
            {"players": [player(steps=[step(items=[{"expected": 1}])])]},
            "$.players[0].steps[0].items[0].expected",
        ),
        ({"templating_enabled": "yes"}, "$.templating_enabled"),
        ({"template_data": []}, "$.template_data"),
        ({"apps": [{"player_number": "1"}]}, "$.apps[0].player_number"),
    ],
)
async def test_a_wrong_type_in_the_details_has_its_path(change: dict[str, Any], place: str) -> None:
    with pytest.raises(DecodeError) as caught:
        await got(**change)
    assert caught.value.operation == "get_run"
    assert [p.rpartition(" @ ")[2] for p in caught.value.problems] == [place]


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"data": [run()]}, "$.pagination"),
        ({"pagination": page([])["pagination"]}, "$.data"),
        ({"data": None, "pagination": {}}, "$.data"),
        ({"data": [], "pagination": None}, "$.pagination"),
        ({"data": [], "pagination": page([])["pagination"] | {"page": None}}, "$.pagination.page"),
        ({"data": [], "pagination": page([])["pagination"] | {"page": 0.5}}, "$.pagination.page"),
        ([], "$"),
        (None, "$"),
    ],
)
async def test_a_wrong_shape_in_a_page_has_its_path(body: object, place: str) -> None:
    with pytest.raises(DecodeError) as caught:
        await read(body, lambda nunu: nunu.runs.list_page())
    assert [p.rpartition(" @ ")[2] for p in caught.value.problems] == [place]


async def test_every_problem_is_reported_at_once() -> None:
    row = run(state=None, players=[player(id=7, state=[])])
    with pytest.raises(DecodeError) as caught:
        await read(page([row]), lambda nunu: nunu.runs.list_page())
    assert {p.rpartition(" @ ")[2] for p in caught.value.problems} == {
        "$.data[0].state",
        "$.data[0].players[0].id",
        "$.data[0].players[0].state",
    }


async def test_an_all_wrong_page_has_a_bounded_message() -> None:
    rows = [run(state=None) for _ in range(100)]
    with pytest.raises(DecodeError) as caught:
        await read(page(rows), lambda nunu: nunu.runs.list_page())
    assert len(caught.value.problems) == 20


async def test_server_text_does_not_pass_for_a_path() -> None:
    """A place is put before the path alone, not wherever the server's text looks like one."""
    with pytest.raises(DecodeError) as caught:
        await read(page([run(created_at="x @ $.y")]), lambda nunu: nunu.runs.list_page())
    (problem,) = caught.value.problems
    assert problem.count("data[0]") == 1


# --- Bugs.


@pytest.mark.parametrize(
    "body",
    [
        page([bug(), bug(details={"element_id": "price"})], size=2),
        {"multiplayer_run_id": RUN, "bug_occurrences": [bug(), bug(details={"element_id": "p"})]},
    ],
    ids=["late", "legacy"],
)
async def test_bugs_of_either_shape_are_read(body: dict[str, Any]) -> None:
    found = await read(body, lambda nunu: nunu.runs.bugs(RUN))
    rows = body.get("data") or body["bug_occurrences"]
    assert [b.to_dict() | {"detected_at": 0} for b in found] == [
        row | {"detected_at": 0} for row in rows
    ]
    assert found[0].detected_at == datetime(2026, 4, 11, 6, 17, 44, 120000, tzinfo=UTC)


@pytest.mark.parametrize(
    "body",
    [page([], size=0), {"data": []}, {"multiplayer_run_id": RUN, "bug_occurrences": []}],
)
async def test_a_run_without_bugs_has_none(body: object) -> None:
    assert await read(body, lambda nunu: nunu.runs.bugs(RUN)) == []


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({}, "$.data"),
        ({"bug_occurrences": None}, "$.bug_occurrences"),
        ({"bug_occurrences": [bug(turn=None)]}, "$.bug_occurrences[0].turn"),
        (page([bug(), bug(severity=None)]), "$.data[1].severity"),
        (page([bug(player_number=0.5)]), "$.data[0].player_number"),
        ([], "$"),
    ],
)
async def test_a_wrong_shape_in_the_bugs_has_its_path(body: object, place: str) -> None:
    with pytest.raises(DecodeError) as caught:
        await read(body, lambda nunu: nunu.runs.bugs(RUN))
    assert caught.value.operation == "list_run_bugs"
    assert [p.rpartition(" @ ")[2] for p in caught.value.problems] == [place]


# --- What every answer tells, and what it keeps to itself.

TELLING = {"X_Request_Id": "req-1", "X_Other": "o", "Set_Cookie": "session=secret"}
EVERY: dict[str, tuple[object, Call]] = {
    "page": (page([run()]), lambda nunu: nunu.runs.list_page()),
    "details": (details(), lambda nunu: nunu.runs.get(RUN)),
    "bugs": (page([bug()]), lambda nunu: nunu.runs.bugs(RUN)),
    "start": (STARTED, start(test_plan_id=PLAN)),
    "stop": (STOPPED, lambda nunu: nunu.runs.stop([JOB])),
}
EACH = pytest.mark.parametrize("name", EVERY)


async def every(name: str) -> list[Model]:
    """Return what one call gives, as a list of models."""
    body, call = EVERY[name]
    async with answered(json_answer(body, **TELLING)) as wire:
        answer = await call(wire.nunu)
    if isinstance(answer, Page):
        return [answer, *answer.data]
    return answer if isinstance(answer, list) else [answer]


@EACH
async def test_a_result_has_the_response_it_came_in(name: str) -> None:
    for model in await every(name):
        assert model.response is not None
        assert model.response.status == 200
        assert model.response.request_id == "req-1"
        assert model.response.headers["x-other"] == "o"
        assert "set-cookie" not in model.response.headers


async def test_a_page_of_a_walk_has_its_own_response() -> None:
    async with answered(
        json_answer(page([run(multiplayer_run_id="a")], size=1, count=2), X_Request_Id="r0"),
        json_answer(
            page([run(multiplayer_run_id="b")], size=1, count=2, number=1), X_Request_Id="r1"
        ),
    ) as wire:
        listing = wire.nunu.runs.list(page_size=1)
        pages = [p async for p in listing.pages()]
    for number, one in enumerate(pages):
        assert one.response is one.data[0].response
        assert one.response is not None
        assert one.response.request_id == f"r{number}"


async def test_a_row_of_a_walk_has_its_page_s_response() -> None:
    async with answered(
        json_answer(page([run(multiplayer_run_id="a")], size=1, count=2), X_Request_Id="r0"),
        json_answer(
            page([run(multiplayer_run_id="b")], size=1, count=2, number=1), X_Request_Id="r1"
        ),
    ) as wire:
        seen = [row.response async for row in wire.nunu.runs.list(page_size=1)]
    assert [info.request_id for info in seen if info] == ["r0", "r1"]


@EACH
@pytest.mark.parametrize(
    ("status", "body"), [(400, {"error": "no"}), (200, []), (200, 7)], ids=["400", "list", "number"]
)
async def test_an_error_has_the_response_it_came_in(name: str, status: int, body: object) -> None:
    async with answered(json_answer(body, status, **TELLING)) as wire:
        with pytest.raises((BadRequest, DecodeError)) as caught:
            await EVERY[name][1](wire.nunu)
    assert caught.value.response.status == status
    assert caught.value.response.request_id == caught.value.request_id == "req-1"
    assert caught.value.response.headers["x-other"] == "o"
    assert "set-cookie" not in caught.value.response.headers


@EACH
async def test_a_model_cannot_be_changed(name: str) -> None:
    for model in await every(name):
        for field in attrs.fields(type(model)):
            with pytest.raises(attrs.exceptions.FrozenInstanceError):
                setattr(model, field.name, None)
        with pytest.raises((attrs.exceptions.FrozenInstanceError, AttributeError)):
            model.brand_new = 1  # type: ignore[attr-defined]
        assert not hasattr(model, "__dict__")


@EACH
@pytest.mark.parametrize(
    "again",
    [lambda m: pickle.loads(pickle.dumps(m)), copy.copy, copy.deepcopy],  # noqa: S301 - ours
    ids=["pickle", "copy", "deepcopy"],
)
async def test_a_model_can_be_copied_and_sent_to_another_process(
    name: str, again: Callable[[Any], Any]
) -> None:
    for model in await every(name):
        same = again(model)
        assert same == model
        assert same.to_dict() == model.to_dict()
        assert same.response == model.response


async def test_a_model_with_unknown_members_can_be_sent_to_another_process() -> None:
    made = await got(mood={"calm": [1]})
    again = pickle.loads(pickle.dumps(made))  # noqa: S301 - ours
    assert again.extra == {"mood": {"calm": [1]}}


@EACH
async def test_a_model_is_a_key_of_a_dictionary(name: str) -> None:
    for model in await every(name):
        assert isinstance(model, Hashable)
        assert {model: 1}[copy.deepcopy(model)] == 1


async def test_equal_answers_are_equal_whatever_their_responses() -> None:
    async with answered(
        json_answer(details(), X_Request_Id="1"), json_answer(details(), X_Request_Id="2")
    ) as w:
        first, second = await w.nunu.runs.get(RUN), await w.nunu.runs.get(RUN)
    assert first == second
    assert first.response != second.response


async def test_what_is_as_good_as_a_password_is_not_shown() -> None:
    made = await got(
        apps=[{"role": "main", "build_url": "https://files.example.test/a?sig=a1b2c3d4e5f6"}]
    )
    assert "a1b2c3d4e5f6" in made.players[0].artifacts[0].url
    for text in (repr(made), str(made), f"{made}", repr(made.players[0].artifacts)):
        assert "a1b2c3d4e5f6" not in text
        assert "X-Api-Key" not in text


async def test_unknown_members_are_not_shown_either() -> None:
    made = await got(download_url="https://files.example.test/all?sig=a1b2c3d4e5f6")
    assert "a1b2c3d4e5f6" not in repr(made)
