"""The API operation that starts runs."""

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import attrs

from nunu_async.sandbox import shapes
from nunu_async.sandbox.exchange import (
    ApiRequest,
    ApiResponse,
    HttpError,
    bad_request,
    check,
)
from nunu_async.sandbox.history import Execution, Job, Order
from nunu_async.sandbox.uploads import find_build
from nunu_async.sandbox.world import (
    Build,
    DeploymentConfig,
    MultiplayerTest,
    Outcome,
    TestPlan,
)

_TARGETS = ("multiplayer_test_id", "test_plan_id", "instructions")
_TEST_ONLY = ("retries", "instances")
_BUILD_STORAGE = "build-storage"
_NAME = "[api] ephemeral test"
_EPHEMERAL = "7e570000-0000-4000-9000-"  # not the UUID variant of the tests of the project

Named = TypeVar("Named", MultiplayerTest, TestPlan, DeploymentConfig)


def _location(value: object, where: str) -> None:
    if value != "auto":
        _COORDINATES(value, where)


_COORDINATES = shapes.record({"lat": shapes.text(), "long": shapes.text()}, ("lat", "long"))
_BUILDS = shapes.mapping(shapes.uuid, keys="123")
_TARGET = shapes.record(
    {"deployment_config_id": shapes.uuid, "build_id": shapes.uuid, "extra_build_ids": _BUILDS},
    required=("deployment_config_id",),
)
_BUDGET: dict[str, shapes.Rule] = {
    "min_time_seconds": shapes.whole(0),
    "max_time_seconds": shapes.whole(0),
}
_OPTIONS: dict[str, shapes.Rule] = {
    "performance_monitoring": shapes.flag,
    "mobile_auto_grant_permissions": shapes.flag,
    "mobile_geolocation": shapes.text(),
    "mobile_gpslocation": _location,
}
_MEMBERS: dict[str, shapes.Rule] = {
    "multiplayer_test_id": shapes.text(1),
    "test_plan_id": shapes.text(1),
    "instructions": shapes.text(1),
    "deployment_config_id": shapes.text(1),
    "build_id": shapes.uuid,
    "name": shapes.text(),
    "agent_config_id": shapes.uuid,
    "additional_tags": shapes.many(shapes.text()),
    "retries": shapes.whole(0, 10),
    "instances": shapes.whole(1, 10),
    "render_templates": shapes.flag,
    "template_data": shapes.record({}),
}
_START = shapes.record(
    {**_MEMBERS, "options": shapes.record({**_BUDGET, **_OPTIONS})},
    required=("deployment_config_id",),
)
_START_NEWEST = shapes.record(
    {
        **_MEMBERS,
        "options": shapes.record(_OPTIONS),
        "extra_build_ids": _BUILDS,
        "player_deployment_configs": shapes.mapping(_TARGET),
        "run_on_all_configured_devices": shapes.flag,
    }
)


async def start_run(request: ApiRequest) -> ApiResponse:
    """Start a test, a test plan or one-off instructions."""
    body = request.body
    _check(request)
    config, player_configs = _configs(request)
    build = _build(request, config)
    plan, tests = _target(request)
    key_id = "" if request.key is None else request.key.key_id
    tags = tuple(body.get("additional_tags", ()))
    order = Order(
        test=tests[0],
        config=config,
        player_configs=player_configs,
        build=build,
        tags=("api", *tags) if "instructions" in body else tags,
        template_data=body.get("template_data", {}) if body.get("render_templates") else None,
        retries=body.get("retries", 0),
        initiator={"type": "api", "value": {"key_id": key_id}},
    )
    if body.get("run_on_all_configured_devices") and request.project.dialect.is_newest:
        return _start_everywhere(request, order, plan, tests)
    jobs, execution = _start(request, order, plan, tests)
    members = _members(order, plan, execution)
    return ApiResponse(request.project.dialect.started(jobs, members), 201)


def _check(request: ApiRequest) -> None:
    body = request.body
    is_newest = request.project.dialect.is_newest
    check(_START_NEWEST if is_newest else _START, body)
    targets = [name for name in _TARGETS if name in body]
    if len(targets) != 1:
        bad_request(f"provide exactly one of {', '.join(_TARGETS)}")
    if "name" in body and targets != ["instructions"]:
        bad_request("name goes with instructions only")
    for name in _TEST_ONLY:
        if name in body and targets != ["multiplayer_test_id"]:
            bad_request(f"{name} goes with multiplayer_test_id only")
    options = body.get("options", {})
    if options.get("mobile_gpslocation") == "auto" and "mobile_geolocation" not in options:
        bad_request("options.mobile_gpslocation auto needs options.mobile_geolocation")
    if is_newest:
        _check_newest(body, targets[0])


def _configs(request: ApiRequest) -> tuple[DeploymentConfig, dict[int, DeploymentConfig]]:
    body, history = request.body, request.project.history
    known = history.deployment_configs
    targets: Mapping[str, Any] = {}
    if request.project.dialect.is_newest:
        targets = body.get("player_deployment_configs", {})
    if targets:
        test = _find(request, history.tests, body["multiplayer_test_id"], "multiplayer test")
        players = {f"{number}" for number in range(1, test.players + 1)}
        if set(targets) - players:
            bad_request(f"player_deployment_configs is keyed by 1 to {test.players}")
        if "deployment_config_id" not in body and set(targets) != players:
            bad_request("deployment_config_id is required unless every player has one")
    by_player = {
        int(name): _find(request, known, target["deployment_config_id"], "deployment config")
        for name, target in targets.items()
    }
    if "deployment_config_id" not in body:
        return by_player[1], by_player
    config = _find(request, known, body["deployment_config_id"], "deployment config")
    if body.get("run_on_all_configured_devices") and request.project.dialect.is_newest:
        if by_player:
            bad_request("run_on_all_configured_devices excludes player_deployment_configs")
        if not config.device_labels:
            bad_request("the deployment config does not allow multi-device runs")
    return config, by_player


def _build(request: ApiRequest, config: DeploymentConfig) -> Build | None:
    body = request.body
    if "build_id" not in body:
        return None
    if config.source != _BUILD_STORAGE:
        bad_request("build_id goes with a Build Storage deployment config only")
    build = find_build(request, body["build_id"].lower())
    if build is None:
        _not_found(request, "build")
    return build


def _target(request: ApiRequest) -> tuple[TestPlan | None, Sequence[MultiplayerTest]]:
    body, history = request.body, request.project.history
    if "multiplayer_test_id" in body:
        test = _find(request, history.tests, body["multiplayer_test_id"], "multiplayer test")
        return None, (test,)
    if "test_plan_id" in body:
        plan = _find(request, history.test_plans, body["test_plan_id"], "test plan")
        if not plan.tests:
            bad_request("the test plan has no tests")
        return plan, plan.tests
    test = MultiplayerTest(
        id=f"{_EPHEMERAL}{history.next_run:012x}",
        name=body.get("name", _NAME),
        kind="task",
        goals=(body["instructions"],),
    )
    return None, (test,)


def _start(
    request: ApiRequest, order: Order, plan: TestPlan | None, tests: Sequence[MultiplayerTest]
) -> tuple[list[Job], Execution | None]:
    history, now = request.project.history, request.now
    execution = None
    if plan is not None:
        execution = Execution(
            number=history.next_execution,
            plan=plan,
            created=now,
            outcome=Outcome(),
            build=order.build,
            started_by="api",
        )
        history.add_execution(execution)
    orders = [attrs.evolve(order, test=test, execution=execution) for test in tests]
    instances = request.body.get("instances", 1)
    jobs = [history.start(one, now, instances=instances) for one in orders]
    return jobs, execution


def _members(order: Order, plan: TestPlan | None, execution: Execution | None) -> dict[str, object]:
    members: dict[str, object] = {}
    if order.build is not None:
        members["build_id"] = order.build.id
    if order.test.id.startswith(_EPHEMERAL) and plan is None:
        members["test_id"] = order.test.id
    if execution is not None:
        members["test_plan_execution_id"] = execution.execution_id
    return members


def _start_everywhere(
    request: ApiRequest, order: Order, plan: TestPlan | None, tests: Sequence[MultiplayerTest]
) -> ApiResponse:
    config = order.config
    results: list[dict[str, object]] = []
    job_ids: list[str] = []
    for label in config.device_labels:
        if label in config.broken_devices:
            message = "device unavailable"
            results.append({"device_label": label, "ok": False, "status": 500, "message": message})
            continue
        device = attrs.evolve(config, device=label)
        jobs, execution = _start(request, attrs.evolve(order, config=device), plan, tests)
        ids = [job.job_id for job in jobs]
        job_ids += ids
        data = {**_members(order, plan, execution), "job_ids": ids}
        results.append({"device_label": label, "ok": True, "status": 201, "data": data})
    requested, started = len(results), sum(bool(result["ok"]) for result in results)
    is_ephemeral = order.test.id.startswith(_EPHEMERAL)
    body = {
        **_members(order, plan, None),
        "ok": started > 0,
        "job_ids": job_ids,
        "requested_count": requested,
        "started_count": started,
        "successful_count": started,
        "failed_count": requested - started,
        "device_runs" if is_ephemeral else "results": results,
    }
    if started == requested:
        return ApiResponse(body, 201)
    return ApiResponse(body, 207 if started else 500)


def _find(request: ApiRequest, known: Sequence[Named], item_id: str, what: str) -> Named:
    found = next((item for item in known if item.id == item_id), None)
    return _not_found(request, what) if found is None else found


def _not_found(request: ApiRequest, what: str) -> NoReturn:
    message = f"{what} not found"
    raise HttpError(404, message, extra=request.project.dialect.start_error(404, message))


def _check_newest(body: Mapping[str, Any], target: str) -> None:
    is_per_player = bool(body.get("player_deployment_configs"))
    if is_per_player and target != "multiplayer_test_id":
        bad_request("player_deployment_configs goes with multiplayer_test_id only")
    if "deployment_config_id" not in body and not is_per_player:
        bad_request("deployment_config_id is required")
    if "build_id" in body and "deployment_config_id" not in body:
        bad_request("build_id goes with deployment_config_id only")
    if target == "instructions" and "agent_config_id" not in body:
        bad_request("agent_config_id is required with instructions")
