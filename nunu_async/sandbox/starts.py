"""The API operation that starts runs."""

from collections.abc import Sequence
from typing import Any, NoReturn, TypeVar

import attrs
from aiohttp import web

from nunu_async.sandbox.fixtures import Build, DeploymentConfig, MultiplayerTest, Outcome, TestPlan
from nunu_async.sandbox.history import Execution, Job, Order
from nunu_async.sandbox.http import ApiRequest, HttpError, bad_request
from nunu_async.sandbox.schemas import BODIES, TEXT, Schema, check
from nunu_async.sandbox.uploads import find_build

_TARGETS = ("multiplayer_test_id", "test_plan_id", "instructions")
# Members that are valid with one target only.
_TARGET_OF = {
    "name": "instructions",
    "retries": "multiplayer_test_id",
    "instances": "multiplayer_test_id",
}
# Members that older servers ignore.
_NEWEST_ONLY = ("extra_build_ids", "player_deployment_configs", "run_on_all_configured_devices")
_NO_LONGER = ("min_time_seconds", "max_time_seconds")
_BUILD_STORAGE = "build-storage"
_NAME = "[api] ephemeral test"
_EPHEMERAL = "7e570000-0000-4000-9000-"  # the built-in tests have 8000 instead of 9000

Named = TypeVar("Named", MultiplayerTest, TestPlan, DeploymentConfig)
Body = dict[str, Any]


_LOCATION: Schema = {
    "type": "object",
    "required": ["lat", "long"],
    "properties": {"lat": TEXT, "long": TEXT},
}


@attrs.frozen
class _Start:
    """A validated request and the objects that it references."""

    request: ApiRequest
    order: Order
    tests: Sequence[MultiplayerTest]
    plan: TestPlan | None

    def run(self, config: DeploymentConfig) -> tuple[list[Job], Body]:
        """Start all tests on a config; return the jobs and the other response members."""
        history, now = self.request.project.history, self.request.now
        order = attrs.evolve(self.order, config=config)
        if self.plan is not None:
            order.execution = Execution(
                number=history.next_execution,
                plan=self.plan,
                created=now,
                outcome=Outcome(),
                build=order.build,
                started_by="api",
            )
            history.add_execution(order.execution)
        instances = self.request.body.get("instances", 1)
        jobs = [
            history.start(attrs.evolve(order, test=test), now, instances=instances)
            for test in self.tests
        ]
        members = self.members()
        if order.execution is not None:
            members["test_plan_execution_id"] = order.execution.execution_id
        return jobs, members

    def members(self) -> Body:
        """Return the response members that do not depend on the number of devices."""
        members: Body = {}
        if self.order.build is not None:
            members["build_id"] = self.order.build.id
        if "instructions" in self.request.body:
            members["test_id"] = self.order.test.id
        return members


async def start_run(request: ApiRequest) -> web.Response:
    """Start a test, a test plan or one-off instructions."""
    body = _check(request)
    config, player_configs = _configs(request, body)
    build = _build(request, config)
    plan, tests = _target(request)
    tags = tuple(body.get("additional_tags", ()))
    order = Order(
        test=tests[0],
        config=config,
        player_configs=player_configs,
        build=build,
        tags=("api", *tags) if "instructions" in body else tags,
        template_data=body.get("template_data", {}) if body.get("render_templates") else None,
        retries=body.get("retries", 0),
        initiator={"type": "api", "value": {"key_id": request.key.key_id if request.key else ""}},
    )
    start = _Start(request, order, tests, plan)
    if body.get("run_on_all_configured_devices"):
        return _start_everywhere(start)
    return web.json_response(request.project.dialect.started(*start.run(config)), status=201)


def _check(request: ApiRequest) -> Body:
    """Check the body; return the members that a server of this dialect knows."""
    is_newest = request.project.dialect.is_newest
    check({"type": "object"}, request.body)
    body: Body = {
        name: value for name, value in request.body.items() if is_newest or name not in _NEWEST_ONLY
    }
    schema = BODIES["start_run"]
    if is_newest:  # the newest API docs do not list the options in _NO_LONGER
        options = schema["properties"]["options"]
        kept = {n: one for n, one in options["properties"].items() if n not in _NO_LONGER}
        options = {**options, "properties": kept}
        schema = {**schema, "properties": {**schema["properties"], "options": options}}
    check(schema, body)
    targets = [name for name in _TARGETS if name in body]
    if len(targets) != 1:
        bad_request(f"provide exactly one of {', '.join(_TARGETS)}")
    for name, target in _TARGET_OF.items():
        if name in body and target not in body:
            bad_request(f"{name} goes with {target} only")
    is_per_player = bool(body.get("player_deployment_configs"))
    if is_per_player and "multiplayer_test_id" not in body:
        bad_request("player_deployment_configs goes with multiplayer_test_id only")
    _check_location(body.get("options", {}))
    if "deployment_config_id" not in body:
        if not is_per_player:
            bad_request("deployment_config_id is required")
        if "build_id" in body:
            bad_request("build_id goes with deployment_config_id only")
    if is_newest and "instructions" in body and "agent_config_id" not in body:
        bad_request("agent_config_id is required with instructions")
    return body


def _check_location(options: Body) -> None:
    location = options.get("mobile_gpslocation", "auto")
    if location != "auto":
        check(_LOCATION, location, "options.mobile_gpslocation")
    elif "mobile_gpslocation" in options and "mobile_geolocation" not in options:
        bad_request("options.mobile_gpslocation auto needs options.mobile_geolocation")


def _configs(
    request: ApiRequest, body: Body
) -> tuple[DeploymentConfig, dict[int, DeploymentConfig]]:
    """Find the config for the start, and the configs for individual players."""
    history = request.project.history
    known = history.deployment_configs
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
    if body.get("run_on_all_configured_devices"):
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


def _start_everywhere(start: _Start) -> web.Response:
    config = start.order.config
    results: list[Body] = []
    job_ids: list[str] = []
    for label in config.device_labels:
        if label in config.broken_devices:
            outcome: Body = {"ok": False, "status": 500, "message": "device unavailable"}
        else:
            jobs, members = start.run(attrs.evolve(config, device=label))
            ids = [job.job_id for job in jobs]
            job_ids += ids
            outcome = {"ok": True, "status": 201, "data": {**members, "job_ids": ids}}
        results.append({"device_label": label, **outcome})
    requested, started = len(results), sum(result["ok"] for result in results)
    body = {
        **start.members(),
        "ok": started > 0,
        "job_ids": job_ids,
        "requested_count": requested,
        "started_count": started,
        "successful_count": started,
        "failed_count": requested - started,
        "device_runs" if "instructions" in start.request.body else "results": results,
    }
    if started == requested:
        return web.json_response(body, status=201)
    return web.json_response(body, status=207 if started else 500)


def _find(request: ApiRequest, known: Sequence[Named], item_id: str, what: str) -> Named:
    found = next((item for item in known if item.id == item_id), None)
    return _not_found(request, what) if found is None else found


def _not_found(request: ApiRequest, what: str) -> NoReturn:
    message = f"{what} not found"
    raise HttpError(
        404, message, extra=request.project.dialect.error_fields(status=404, message=message)
    )
