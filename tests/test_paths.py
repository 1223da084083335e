"""Both families of paths, byte for byte, for every operation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import BUILD, JOB, KEY, PLAN, PROJECT, RUN, answered, json_answer
from yarl import URL

from nunu_async import (
    AuthenticationError,
    BadRequest,
    CompletedPart,
    ConfigError,
    InitiateUpload,
    MultipartTicket,
    NunuClient,
    RetryPolicy,
    SinglePartTicket,
    Timeouts,
)
from nunu_async.config import Config
from nunu_async.core.clock import SystemClock
from nunu_async.core.request import Request
from nunu_async.core.session import Session
from nunu_async.upload.threads import DaemonThreadPool

ORGANIZATION_KEY = "nunu_org_a_key_for_tests_only_0001"
SINGLE = SinglePartTicket(build_id=BUILD, object_key="k/a.zip", upload_url="https://s/x")
MULTI = MultipartTicket(
    build_id=BUILD, object_key="k/a.zip", upload_id="mpu-secret-0001", total_parts=3, part_size=2
)
UPLOAD = InitiateUpload(name="n", file_name="f.zip", file_size=5, platform="linux")
PARTS = [CompletedPart(part_number=number, etag="e") for number in (1, 2, 3)]

Call = Callable[[NunuClient], Awaitable[object]]


async def first(listing: Any) -> object:
    return await anext(aiter(listing))


# The request lines without the verb's family: what stands after /api/v1 or the project.
OPERATIONS: dict[str, tuple[Call, str]] = {
    "list_runs": (
        lambda nunu: nunu.runs.list_page(tags=["a"]),
        "GET /runs?tags=a&page=0&page_size=20",
    ),
    "walk_runs": (lambda nunu: first(nunu.runs.list()), "GET /runs?page=0&page_size=100"),
    "start_run": (
        lambda nunu: nunu.runs.start(deployment_config_id="d", test_plan_id=PLAN),
        "POST /runs",
    ),
    "get_run": (lambda nunu: nunu.runs.get(RUN), f"GET /runs/{RUN}"),
    "list_run_bugs": (lambda nunu: nunu.runs.bugs(RUN), f"GET /runs/{RUN}/bugs"),
    "stop_runs": (lambda nunu: nunu.runs.stop([JOB]), "POST /runs/stop"),
    "initiate_upload": (lambda nunu: nunu.builds.initiate_upload(UPLOAD), "POST /builds/upload"),
    "get_upload_parts": (
        lambda nunu: nunu.builds.get_upload_parts(MULTI, [1, 3]),
        "GET /builds/upload/parts?upload_id=mpu-secret-0001&object_key=k/a.zip&part_numbers=1,3",
    ),
    "complete_upload": (
        lambda nunu: nunu.builds.complete_upload(MULTI, PARTS),
        "POST /builds/upload/complete",
    ),
    "cancel_upload": (
        lambda nunu: nunu.builds.cancel_upload(MULTI),
        f"DELETE /builds/upload?build_id={BUILD}&object_key=k/a.zip&upload_id=mpu-secret-0001",
    ),
    "cancel_single_upload": (
        lambda nunu: nunu.builds.cancel_upload(SINGLE),
        f"DELETE /builds/upload?build_id={BUILD}&object_key=k/a.zip",
    ),
    "get_build": (lambda nunu: nunu.builds.get(BUILD), f"GET /builds/{BUILD}"),
    "get_build_of_upload": (
        lambda nunu: nunu.builds.of_upload(MULTI),
        f"GET /builds/{BUILD}",
    ),
    "list_executions": (
        lambda nunu: nunu.test_plan_executions.list_page(status="queued"),
        "GET /test-plan-executions?status=queued&page=0&page_size=20",
    ),
    "walk_executions": (
        lambda nunu: first(nunu.test_plan_executions.list(sort_order="asc")),
        "GET /test-plan-executions?sort_order=asc&page=0&page_size=100",
    ),
    "request": (
        lambda nunu: nunu.request("GET", "/jobs", params={"page": 1}),
        "GET /jobs?page=1",
    ),
}
EACH = pytest.mark.parametrize("name", OPERATIONS)


async def line_of(name: str, **settings: Any) -> tuple[str, str | None]:
    """Return the request line of an operation, and the key it was sent with."""
    async with answered(json_answer({"error": "no"}, 400), **settings) as wire:
        with pytest.raises(BadRequest):
            await OPERATIONS[name][0](wire.nunu)
    (line,) = wire.lines
    return line, wire.header("X-Api-Key")


def expected(name: str, base: str) -> str:
    return OPERATIONS[name][1].replace(" ", f" {base}", 1)


def test_every_method_that_sends_is_here() -> None:
    """Whoever adds a method has to say where it goes."""
    called = {
        "runs": {"list_page", "list", "start", "get", "bugs", "stop"},
        "builds": {
            "initiate_upload",
            "get_upload_parts",
            "complete_upload",
            "cancel_upload",
            "get",
            "of_upload",
        },
        "test_plan_executions": {"list_page", "list"},
    }
    nunu = NunuClient(KEY)
    for name, methods in called.items():
        assert {m for m in vars(type(getattr(nunu, name))) if not m.startswith("_")} == methods
    assert len(OPERATIONS) == sum(len(methods) for methods in called.values()) + 2


@EACH
async def test_the_key_alone_names_the_project_by_default(name: str) -> None:
    line, _ = await line_of(name)
    assert line == expected(name, "/api/v1")


@EACH
async def test_a_project_that_is_known_does_not_change_the_path_by_itself(name: str) -> None:
    line, _ = await line_of(name, project_id=PROJECT)
    assert line == expected(name, "/api/v1")


@EACH
async def test_the_path_names_the_project_where_that_is_asked_for(name: str) -> None:
    line, key = await line_of(name, project_id=PROJECT, path_style="project")
    assert line == expected(name, f"/api/v1/project/{PROJECT}")
    assert key == (None if name == "get_upload_parts" else KEY)


@EACH
async def test_an_organization_key_takes_the_path_of_a_project(name: str) -> None:
    line, key = await line_of(name, api_key=ORGANIZATION_KEY, project_id=PROJECT)
    assert line == expected(name, f"/api/v1/project/{PROJECT}")
    assert key == (None if name == "get_upload_parts" else ORGANIZATION_KEY)


async def test_a_base_url_with_a_path_keeps_it_before_either_family() -> None:
    for style, family in (("key", ""), ("project", f"/project/{PROJECT}")):
        async with answered(json_answer({"error": "no"}, 400)) as wire:
            nunu = NunuClient(
                KEY,
                base_url=f"{wire.server.url}/proxy/nunu",
                project_id=PROJECT,
                path_style=style,  # type: ignore[arg-type]
            )
            async with nunu:
                with pytest.raises(BadRequest):
                    await nunu.runs.get(RUN)
        assert wire.lines == [f"GET /proxy/nunu/api/v1{family}/runs/{RUN}"]


async def test_a_path_that_names_a_project_itself_is_left_as_it_is() -> None:
    async with answered(
        json_answer({"error": "no"}, 400), project_id=PROJECT, path_style="project"
    ) as wire:
        with pytest.raises(BadRequest):
            await wire.nunu.request("GET", "/project/other/runs")
    assert wire.lines == ["GET /api/v1/project/other/runs"]


async def test_an_error_names_the_path_below_the_base_url() -> None:
    async with answered(
        json_answer({"error": "no"}, 401), project_id=PROJECT, path_style="project"
    ) as w:
        with pytest.raises(AuthenticationError) as caught:
            await w.nunu.runs.get(RUN)
    assert caught.value.path.endswith(f"/runs/{RUN}")
    assert "no" in str(caught.value)


@pytest.mark.parametrize(
    ("environ", "path"),
    [
        ({"NUNU_API_KEY": KEY}, f"/api/v1/runs/{RUN}"),
        ({"NUNU_API_KEY": KEY, "NUNU_PROJECT_ID": "p-1"}, f"/api/v1/runs/{RUN}"),
        (
            {"NUNU_API_TOKEN": ORGANIZATION_KEY, "NUNU_PROJECT_ID": "p-1"},
            f"/api/v1/project/p-1/runs/{RUN}",
        ),
    ],
)
async def test_the_environment_chooses_the_family_in_the_same_way(
    environ: dict[str, str], path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    async with answered(json_answer({"error": "no"}, 400), api_key=None) as wire:
        with pytest.raises(BadRequest):
            await wire.nunu.runs.get(RUN)
    assert wire.lines == [f"GET {path}"]


@pytest.mark.parametrize(
    "settings",
    [
        {"api_key": ORGANIZATION_KEY},
        {"api_key": ORGANIZATION_KEY, "project_id": ""},
        {"api_key": ORGANIZATION_KEY, "path_style": "project"},
        {"api_key": ORGANIZATION_KEY, "project_id": PROJECT, "path_style": "key"},
        {"api_key": KEY, "path_style": "project"},
        {"api_key": KEY, "project_id": PROJECT, "path_style": "scoped"},
        {"api_key": KEY, "project_id": PROJECT, "path_style": ""},
        {"api_key": KEY, "project_id": "a/b", "path_style": "project"},
        {"api_key": KEY, "project_id": "..", "path_style": "project"},
        {"api_key": KEY, "project_id": "a\n", "path_style": "project"},
        {"api_key": KEY, "project_id": "a%2Fb", "path_style": "project"},
        {"api_key": KEY, "project_id": "a?b", "path_style": "project"},
    ],
)
def test_settings_that_lead_to_no_path_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        NunuClient(**settings)
    assert settings["api_key"] not in str(caught.value)


def test_a_missing_project_s_message_says_how_to_give_it() -> None:
    with pytest.raises(ConfigError, match="organization key needs a project_id, or NUNU_PROJECT_"):
        NunuClient(ORGANIZATION_KEY)
    with pytest.raises(ConfigError, match='path_style="project" needs a project_id'):
        NunuClient(KEY, path_style="project")


segments = st.text("abcXYZ019-_.~%2F:@!$&'()*+,;=", min_size=1, max_size=12)
texts = st.text(min_size=1, max_size=12).filter(lambda text: text.isprintable())


@given(
    base=st.sampled_from(
        [
            "https://nunu.ai",
            "https://nunu.ai:443/api",
            "http://127.0.0.1:8080/proxy/nunu/",
            "https://[2001:db8::1]:8443",
        ]
    ),
    style=st.sampled_from(["key", "project"]),
    steps=st.lists(segments, min_size=1, max_size=3),
    query=st.lists(st.tuples(st.text("abc_", min_size=1, max_size=9), texts), max_size=3),
)
def test_the_address_is_what_a_url_of_its_text_would_be(
    base: str, style: str, steps: list[str], query: list[tuple[str, str]]
) -> None:
    config = Config.load({}, api_key=KEY, base_url=base, project_id=PROJECT, path_style=style)  # type: ignore[arg-type]
    session = Session(
        config=config,
        clock=SystemClock(),
        policy=RetryPolicy(),
        timeouts=Timeouts(),
        concurrency=1,
        user_agent="test",
        loader=DaemonThreadPool(1),
    )
    request = Request(
        operation="any",
        method="GET",
        path="/" + "/".join(steps),
        query=tuple(query),
        answer=lambda data: data,
    )
    expected = URL(config.url(request.path), encoded=True).with_query(request.query)
    address = session._address(request)
    assert str(address) == str(expected)
    assert address == expected
    assert (address.raw_host, address.port) == (expected.raw_host, expected.port)
    assert address.host_port_subcomponent == expected.host_port_subcomponent
