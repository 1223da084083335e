"""What the contract's tests share: the description, and a sandbox on a thread of its own."""

import asyncio
import copy
import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from nunu_async.sandbox import (
    Artifact,
    Bug,
    Build,
    DeploymentConfig,
    MultiplayerTest,
    Sandbox,
    Script,
    TestPlan,
)

FILE = Path(__file__).with_name("openapi.yaml")
CORE = ("Core operations (unscoped)", "Core operations (project-scoped)")
JOBS = "Jobs"
"""Not core, but the sandbox plays them: described under the project only, with a twin outside."""
VERBS = ("get", "post", "delete")
# The introduction lists these for every operation; the operations' own pages leave some out.
EVERYWHERE = {
    "400": "BadRequest",
    "401": "Unauthorized",
    "403": "Forbidden",
    "429": "RateLimited",
    "500": "ServerError",
}

# The ids of the description's own examples.
PROJECT = "pixel-harbor"
RUN = "k3v9q0zt7mx"
RUNNING = "p81ndy4wq2c"
JOB = "9e6a1b52-0c47-4d8e-8b1f-3c5d7e9fa011"
RUNNING_JOB = "c2d4f6a8-1b3c-4e5d-9f70-8a9b0c1d2e3f"
TEST = "0d9c8b7a-6f5e-4d3c-8b2a-1908f7e6d5c4"
PLAN = "71c3e5a7-9b1d-4f2e-8a6c-4d5e6f708192"
CONFIG = "3f2e1d0c-4b5a-4697-8877-66554433aa22"
OTHER_CONFIG = "8a7b6c5d-4e3f-4a2b-9c1d-0e9f8a7b6c5d"
BUILD = Build("5b0f7c1e-2a64-4f0b-9d3c-7f1e8a90b2d4", "harbor-2.4.0-rc3")
EXECUTION = "d1e2f3a4-b5c6-4d7e-8f90-a1b2c3d4e5f6"

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@functools.cache
def _document() -> dict[str, Any]:
    text = FILE.read_text(encoding="utf-8")
    loaded: dict[str, Any] = yaml.load(text, Loader=_LOADER)  # noqa: S506 - both are safe
    return loaded


@functools.cache
def document(family: str, *, with_jobs: bool = False) -> dict[str, Any]:
    """The description of one path family's core operations, with the introduction's words.

    All callers share it, so it must not be changed.
    """
    described = copy.deepcopy(_document())
    wanted = {family, JOBS} if with_jobs else {family}
    paths: dict[str, dict[str, Any]] = {}
    for path, item in described["paths"].items():
        for verb in VERBS:
            if verb in item and wanted.intersection(item[verb]["tags"]):
                where, members = path, dict(item)
                if family == CORE[0] and JOBS in item[verb]["tags"]:
                    where = item[verb]["x-unscoped-path"]
                    del members["parameters"]  # the project, which this path does not name
                paths.setdefault(where, members)
                for status, name in EVERYWHERE.items():
                    if item[verb].get("security") == [] and status in ("401", "403"):
                        continue
                    reference = {"$ref": f"#/components/responses/{name}"}
                    item[verb]["responses"].setdefault(status, reference)
    described["paths"] = paths
    described["components"]["parameters"]["ProjectIdPath"]["schema"] = {"const": PROJECT}
    return described


def operations(*, with_jobs: bool = False) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Yield family, verb, path and description of every core operation."""
    for family in CORE:
        for path, item in document(family, with_jobs=with_jobs)["paths"].items():
            for verb in VERBS:
                if verb in item:
                    yield family, verb.upper(), path, item[verb]


_FORMATS = jsonschema.FormatChecker()


@_FORMATS.checks("date-time", raises=ValueError)
def _is_moment(value: object) -> bool:
    return not isinstance(value, str) or datetime.fromisoformat(value).tzinfo is not None


def check_body(responses: dict[str, Any], status: int, body: object) -> None:
    """Hold a body to the schema of its status."""
    components = _document()["components"]
    response = responses[str(status)]
    if "$ref" in response:
        response = components["responses"][response["$ref"].rpartition("/")[2]]
    schema = {**response["content"]["application/json"]["schema"], "components": components}
    jsonschema.Draft202012Validator(schema, format_checker=_FORMATS).validate(body)


def furnish(box: Sandbox) -> None:
    """Put in what the description's examples speak of."""
    test = MultiplayerTest(
        id=TEST, name="Shop purchase flow", players=2, goals=("Open the shop", "Buy a lantern")
    )
    plan = TestPlan(id=PLAN, name="Release gate", tests=(test, *box.tests))
    box.tests.append(test)
    box.test_plans.append(plan)
    box.deployment_configs += [
        DeploymentConfig(id=CONFIG, name="Phones", device_labels=("Pixel 9", "Galaxy S25")),
        # Never all of them: no device at all is a documented 500, and generated requests
        # should meet no 500.
        DeploymentConfig(
            id=OTHER_CONFIG, name="Tablets", device_labels=("A", "B"), broken_devices=("B",)
        ),
    ]
    bugs = (Bug(bug_id="aa00bb11-cc22-4d33-8e44-ff5566778899", details={"element_id": "price"}),)
    artifacts = (Artifact(filename="deliverables/summary.json", size=912),)
    failed = Script(result="FAILED", bugs=bugs, artifacts=artifacts)
    box.add_run(test=test, script=failed, run_id=RUN, job_id=JOB, build=BUILD, tags=("nightly",))
    for number, result in enumerate(("SUCCESS", "ERROR", "TIMEOUT", "SKIPPED", "BLOCKED")):
        box.add_run(test=box.tests[number % 3], script=Script(result=result))
    box.add_run(
        test=test,
        script=Script(run_seconds=float("inf")),
        state="RUNNING",
        run_id=RUNNING,
        job_id=RUNNING_JOB,
    )
    box.add_run(state="INITIALIZING")
    box.add_execution(plan=plan, build=BUILD, execution_id=EXECUTION)
    box.add_execution(status="in_progress", started_by=None)
    box.add_execution(status="queued")


@contextmanager
def running(*boxes: Sandbox) -> Iterator[None]:
    """Run sandboxes on a thread, for clients that block."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    started = []
    try:
        for box in boxes:
            asyncio.run_coroutine_threadsafe(box.start(), loop).result()
            started.append(box)
        yield
    finally:
        for box in started:
            asyncio.run_coroutine_threadsafe(box.close(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
