"""Methods that take the fields of a class show each of them, with its default."""

import inspect
import typing

import attrs
import pytest

from nunu_async import BuildFile, NunuClient
from nunu_async.endpoints import Jobs, Runs, TestPlanExecutions
from nunu_async.endpoints.jobs import JobFilters
from nunu_async.endpoints.runs import RunFilters
from nunu_async.endpoints.test_plan_executions import ExecutionFilters
from nunu_async.models import BuildArguments, StartArguments
from nunu_async.models.run_requests import StartRun
from nunu_async.polling import WaitArguments, WaitOptions

WAITS = [
    f"{before}{kind}{after}"
    for before, after in (("wait_for_", ""), ("wait_for_", "s"), ("", "s_as_completed"))
    for kind in ("execution", "run", "job")
]


def parameters(function: typing.Any) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(function).parameters)


@pytest.mark.parametrize(
    ("function", "kind", "own"),
    [
        (NunuClient.upload_build, BuildFile, {"path"}),
        (NunuClient.upload_builds, BuildFile, {"path", "name"}),
        (Runs.start, StartRun, set()),
        (NunuClient.run_and_wait, StartRun, set()),
        (NunuClient.run_and_wait, WaitOptions, set()),
        *((getattr(NunuClient, name), WaitOptions, set()) for name in WAITS),
    ],
)
def test_every_field_is_shown_with_its_default(
    function: typing.Any, kind: type[attrs.AttrsInstance], own: set[str]
) -> None:
    shown = parameters(function)
    for field in attrs.fields(kind):
        if field.name in own:
            continue
        default = inspect.Parameter.empty if field.default is attrs.NOTHING else field.default
        assert shown[field.name].default == default, field.name
        assert shown[field.name].kind is inspect.Parameter.KEYWORD_ONLY
    assert inspect.Parameter.VAR_KEYWORD not in {each.kind for each in shown.values()}


FILTERS = {
    Runs: (RunFilters, {"tags": ()}),
    Jobs: (JobFilters, {"tags": ()}),
    TestPlanExecutions: (ExecutionFilters, {}),
}


@pytest.mark.parametrize("resource", FILTERS)
@pytest.mark.parametrize("method", ["list", "list_page"])
def test_every_filter_is_shown(resource: type, method: str) -> None:
    filters, defaults = FILTERS[resource]
    shown = parameters(getattr(resource, method))
    for name in typing.get_type_hints(filters):
        assert shown[name].default == defaults.get(name)
    assert inspect.Parameter.VAR_KEYWORD not in {each.kind for each in shown.values()}


@pytest.mark.parametrize(
    ("arguments", "kind", "own"),
    [
        (BuildArguments, BuildFile, {"path", "name"}),
        (StartArguments, StartRun, set()),
        (WaitArguments, WaitOptions, set()),
    ],
)
def test_arguments_are_the_fields(
    arguments: type, kind: type[attrs.AttrsInstance], own: set[str]
) -> None:
    assert set(typing.get_type_hints(arguments)) == {each.name for each in attrs.fields(kind)} - own


async def test_other_arguments_are_refused() -> None:
    nunu = NunuClient("key", base_url="http://localhost")
    for call in (
        nunu.upload_build("a.apk", name="n", nam="n"),  # type: ignore[call-arg]
        nunu.upload_builds([BuildFile(path="a.apk", name="n")], nam="n"),  # type: ignore[call-arg]
        nunu.wait_for_job("j", tags=[]),  # type: ignore[call-arg]
        nunu.run_and_wait(deployment_config_id="c", instructions="i", tags=[]),  # type: ignore[call-arg]
        nunu.runs.start(instructions="i"),  # type: ignore[call-arg]
    ):
        with pytest.raises(TypeError, match="argument"):
            await call
    with pytest.raises(TypeError, match="argument"):
        nunu.runs_as_completed([], tags=[])  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="arguments: status"):
        nunu.runs.list(status="running")  # type: ignore[call-arg]
    await nunu.close()
