"""The sandbox keeps to the description of the API, whatever it is asked."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from contract import (
    BUILD,
    CONFIG,
    CORE,
    EXECUTION,
    JOB,
    OTHER_CONFIG,
    PLAN,
    PROJECT,
    RUN,
    RUNNING,
    RUNNING_JOB,
    TEST,
    document,
    furnish,
    running,
)
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from nunu_async.sandbox import Sandbox

KNOWN = {
    "path.runId": [RUN, RUNNING],
    "path.jobId": [JOB, RUNNING_JOB],
    "query.job_id": [JOB, RUNNING_JOB],
    "query.multiplayer_test_id": [TEST],
    "query.test_plan_execution_id": [EXECUTION],
    "query.test_plan_id": [PLAN],
    "query.build_id": [BUILD.id],
    "body.multiplayer_test_id": [TEST],
    "body.test_plan_id": [PLAN],
    "body.deployment_config_id": [CONFIG, OTHER_CONFIG],
    "body.job_ids[*]": [JOB, RUNNING_JOB],
}
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]


def _schema(family: str) -> Any:
    config = SchemathesisConfig.from_dict(
        {
            # Undocumented query parameters are let through, so they are no bad request.
            "generation": {"deterministic": True, "allow-extra-parameters": False},
            # 413 is the documented answer to a file that is too large.
            "checks": {"negative_data_rejection": {"expected-statuses": ["4xx"]}},
            "dictionaries": {name: {"values": values} for name, values in KNOWN.items()},
            "parameters": {name: {"dictionary": name, "probability": 0.7} for name in KNOWN},
        }
    )
    described = copy.deepcopy(document(family, with_jobs=True))
    return schemathesis.openapi.from_dict(described, config=config)


UNSCOPED, SCOPED = (_schema(family) for family in CORE)

generated = settings(
    max_examples=20,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@pytest.fixture(scope="module")
def boxes() -> Iterator[dict[str, Sandbox]]:
    """One sandbox for each dialect, all with the ids that the description's examples name."""
    by_dialect = {
        letter: Sandbox(project_id=PROJECT, dialect=letter, part_size=100) for letter in "JMLN"
    }
    for box in by_dialect.values():
        furnish(box)
    with running(*by_dialect.values()):
        yield by_dialect


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as opened:
        opened.trust_env = False
        yield opened


def _hold(case: Any, box: Sandbox, session: requests.Session) -> None:
    headers = {"X-Api-Key": box.api_key}
    case.call_and_validate(
        base_url=box.base_url, session=session, headers=headers, checks=CHECKS, timeout=20
    )


@UNSCOPED.parametrize()
@generated
def test_unscoped(case: Any, boxes: dict[str, Sandbox], session: requests.Session) -> None:
    for dialect in "LJM":
        _hold(case, boxes[dialect], session)


@SCOPED.parametrize()
@generated
def test_scoped(case: Any, boxes: dict[str, Sandbox], session: requests.Session) -> None:
    _hold(case, boxes["N"], session)
