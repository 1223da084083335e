"""Runs: list, read, start and stop.

Source: API reference, "List Runs", "Get Run", "List Run Bugs", "Start Run", "Stop Runs".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from nunu_async.core import codec
from nunu_async.core.request import Replay, Request
from nunu_async.core.session import Session
from nunu_async.endpoints.ids import in_path, in_query, is_text
from nunu_async.endpoints.paging import Listing, check_page
from nunu_async.errors import InputError
from nunu_async.models.page import Page
from nunu_async.models.run_requests import RunOptions, StartRun
from nunu_async.models.runs import BugOccurrence, Run, RunDetails, StartedRun, StopResult

__all__ = ["Runs"]


class Runs:
    """Runs of tests; reading needs ``project:read-runs``, the rest ``project:operate-runs``."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def list(
        self,
        *,
        state: Literal["running", "completed", "all"] | None = None,
        multiplayer_test_id: str | None = None,
        job_id: str | None = None,
        test_plan_execution_id: str | None = None,
        test_type: str | None = None,
        tags: Sequence[str] = (),
        bugs: bool | None = None,
        page_size: int = 100,
    ) -> Listing[Run]:
        """Walk through all runs that match every filter; nothing is sent before the first step.

        Raises: InputError.
        """
        check_page(0, page_size)
        filters = _filters(
            state=state,
            multiplayer_test_id=multiplayer_test_id,
            job_id=job_id,
            test_plan_execution_id=test_plan_execution_id,
            test_type=test_type,
            tags=tags,
            bugs=bugs,
        )
        return Listing(
            lambda page: self._page(page, page_size, filters), lambda run: run.multiplayer_run_id
        )

    async def list_page(
        self,
        *,
        state: Literal["running", "completed", "all"] | None = None,
        multiplayer_test_id: str | None = None,
        job_id: str | None = None,
        test_plan_execution_id: str | None = None,
        test_type: str | None = None,
        tags: Sequence[str] = (),
        bugs: bool | None = None,
        page: int = 0,
        page_size: int = 20,
    ) -> Page[Run]:
        """Ask for one page, counted from 0, of 1 to 100 runs.

        Raises: InputError; ApiError.
        """
        check_page(page, page_size)
        filters = _filters(
            state=state,
            multiplayer_test_id=multiplayer_test_id,
            job_id=job_id,
            test_plan_execution_id=test_plan_execution_id,
            test_type=test_type,
            tags=tags,
            bugs=bugs,
        )
        return await self._page(page, page_size, filters)

    async def _page(
        self, page: int, page_size: int, filters: tuple[tuple[str, str], ...]
    ) -> Page[Run]:
        return await self._session.send(
            Request(
                operation="list_runs",
                method="GET",
                path="/runs",
                query=(*filters, ("page", str(page)), ("page_size", str(page_size))),
                answer=lambda data: codec.structure_page(data, Run),
                replay=Replay.ALWAYS,
            )
        )

    async def get(self, run_id: str) -> RunDetails:
        """Read one run, with its players' steps and artifacts.

        Raises: InputError; NotFound.
        """
        return await self._session.send(
            Request(
                operation="get_run",
                method="GET",
                path=f"/runs/{in_path('run_id', run_id)}",
                template="/runs/{runId}",
                answer=lambda data: codec.structure(data, RunDetails),
                replay=Replay.ALWAYS,
            )
        )

    async def bugs(self, run_id: str) -> tuple[BugOccurrence, ...]:
        """Read the bugs that one run showed, all of them.

        Raises: InputError; NotFound.
        """
        return await self._session.send(
            Request(
                operation="list_run_bugs",
                method="GET",
                path=f"/runs/{in_path('run_id', run_id)}/bugs",
                template="/runs/{runId}/bugs",
                answer=_bugs,
                replay=Replay.ALWAYS,
            )
        )

    async def start(  # noqa: PLR0913 - the documented members of the body
        self,
        *,
        deployment_config_id: str,
        multiplayer_test_id: str | None = None,
        test_plan_id: str | None = None,
        instructions: str | None = None,
        build_id: str | None = None,
        name: str | None = None,
        agent_config_id: str | None = None,
        additional_tags: Sequence[str] = (),
        retries: int | None = None,
        instances: int | None = None,
        render_templates: bool = False,
        template_data: Mapping[str, object] | None = None,
        options: RunOptions | None = None,
    ) -> StartedRun:
        """Start a test, a test plan, or a one-off run of instructions.

        Exactly one of `multiplayer_test_id`, `test_plan_id` and `instructions`; `name` goes with
        instructions only, `retries` (0 to 10) and `instances` (1 to 10) with a test only.
        Never sent twice where the server may have acted: a second start is a second run.

        Raises: InputError; NotFound; ApiError; TransportError, after which it may have started.
        """
        wanted = StartRun(
            deployment_config_id=deployment_config_id,
            multiplayer_test_id=multiplayer_test_id,
            test_plan_id=test_plan_id,
            instructions=instructions,
            build_id=build_id,
            name=name,
            agent_config_id=agent_config_id,
            additional_tags=additional_tags,
            retries=retries,
            instances=instances,
            render_templates=render_templates,
            template_data=template_data,
            options=options,
        )
        return await self._session.send(
            Request(
                operation="start_run",
                method="POST",
                path="/runs",
                body=codec.dump(wanted),
                answer=_started,
            )
        )

    async def stop(self, job_ids: Sequence[str]) -> StopResult:
        """Stop jobs, at once; what they were doing is left incomplete.

        Some stopped and some not is a result, with `.stopped` and `.failed`. Job ids, not run ids.

        Raises: InputError for no ids; NotFound when none of them is known.
        """
        ids = [] if isinstance(job_ids, str) else list(job_ids)
        if not ids or not all(map(is_text, ids)):
            raise InputError("job_ids", "must be a list of at least one job id, each a string")
        return await self._session.send(
            Request(
                operation="stop_runs",
                method="POST",
                path="/runs/stop",
                body={"job_ids": ids},
                answer=lambda data: codec.structure(data, StopResult),
                # A second stop of a stopped job is an entry under `failed`, and no harm.
                replay=Replay.ALWAYS,
            )
        )


def _filters(
    *,
    state: str | None,
    multiplayer_test_id: str | None,
    job_id: str | None,
    test_plan_execution_id: str | None,
    test_type: str | None,
    tags: Sequence[str],
    bugs: bool | None,
) -> tuple[tuple[str, str], ...]:
    if isinstance(tags, str):
        raise InputError("tags", "must be a list of strings, not one string")
    for tag in tags:
        if type(tag) is not str or not tag or "," in tag:
            raise InputError("tags", f"must be text without a comma, not {tag!a}")
    if not isinstance(bugs, bool | None):
        raise InputError("bugs", f"must be True, False or None, not {bugs!r}")
    if state not in (None, "running", "completed", "all"):
        raise InputError("state", f"must be running, completed or all, not {state!r}")
    return in_query(
        {
            "state": state,
            "multiplayer_test_id": multiplayer_test_id,
            "job_id": job_id,
            "test_plan_execution_id": test_plan_execution_id,
            "test_type": test_type,
            "tags": ",".join(tags) or None,
            "bugs": None if bugs is None else str(bugs).lower(),
        }
    )


def _bugs(data: object) -> tuple[BugOccurrence, ...]:
    """Read the bugs of a run from `{data, pagination}`, or from the older `{bug_occurrences}`."""
    key = "data"
    if isinstance(data, Mapping) and "data" not in data and "bug_occurrences" in data:
        key = "bug_occurrences"
    return codec.structure_rows(data, key, BugOccurrence)


def _started(data: object) -> StartedRun:
    """Read a started run from the flat body, or from either of the older envelopes."""
    if isinstance(data, Mapping) and isinstance(data.get("data"), Mapping) and "ok" in data:
        inner = dict(data["data"])
        inner.setdefault("message", data.get("message"))
        if "job_ids" not in inner and "job_id" in inner:
            inner["job_ids"] = [inner.pop("job_id")]
        try:
            return codec.structure(inner, StartedRun)
        except codec.Misfit as misfit:
            raise misfit.below(".data") from None
    return codec.structure(data, StartedRun)
