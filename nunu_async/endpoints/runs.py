"""Runs: list, read, start and stop.

Source: API reference, "List Runs", "Get Run", "List Run Bugs", "Start Run", "Stop Runs".
"""

from __future__ import annotations

import builtins
import logging
import secrets
from collections.abc import Mapping, Sequence
from typing import Final, Literal, TypedDict, Unpack

import attrs

from nunu_async.core import codec
from nunu_async.core.request import Replay, Request
from nunu_async.core.retry import may_have_acted
from nunu_async.core.session import Session
from nunu_async.endpoints.ids import choice, comma_list, flag, path_id, text
from nunu_async.endpoints.jobs import Jobs
from nunu_async.endpoints.paging import Listing, PagedList
from nunu_async.errors import (
    ApiError,
    AuthenticationError,
    ClientClosed,
    DecodeError,
    InputError,
    NunuError,
    PermissionDenied,
    TransportError,
)
from nunu_async.models.arguments import StartArguments, takes_start
from nunu_async.models.checks import describe, string_list
from nunu_async.models.jobs import Job
from nunu_async.models.page import Page
from nunu_async.models.run_requests import StartRun
from nunu_async.models.runs import BugOccurrence, Run, RunDetails, StartedRun, StopResult
from nunu_async.signatures import takes

_LOG = logging.getLogger("nunu_async.endpoints")

# Seconds to wait before each lookup after a lost start response: lists lag behind starts.
_LOOKUP_PAUSES: Final = (1.0, 3.0, 6.0)
# Timeout in seconds of each of the two requests of a lookup.
_LOOKUP_TIMEOUT: Final = 5.0


class RunFilters(TypedDict, total=False):
    """Filters for a list of runs; a run must match all of them."""

    state: Literal["running", "completed", "all"] | None
    multiplayer_test_id: str | None
    job_id: str | None
    test_plan_execution_id: str | None
    test_type: str | None
    tags: Sequence[str]
    bugs: bool | None


_takes_filters = takes(RunFilters, tags=())


class Runs:
    """Runs of tests; reads need ``project:read-runs``, start and stop ``project:operate-runs``."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._list = PagedList(
            session=session,
            operation="list_runs",
            path="/runs",
            model=Run,
            key=lambda run: run.multiplayer_run_id,
            filters={
                "state": choice("running", "completed", "all"),
                "multiplayer_test_id": text,
                "job_id": text,
                "test_plan_execution_id": text,
                "test_type": text,
                "tags": comma_list,
                "bugs": flag,
            },
        )

    @_takes_filters
    def list(self, *, page_size: int = 100, **filters: Unpack[RunFilters]) -> Listing[Run]:
        """Iterate over all runs that match every filter; sends no request before iteration.

        `state` is case-insensitive and sent in lower case.

        Raises: InputError.
        """
        return self._list.rows(page_size, filters)

    @_takes_filters
    async def list_page(
        self,
        *,
        page: int = 0,
        page_size: int = 20,
        lenient: bool = False,
        **filters: Unpack[RunFilters],
    ) -> Page[Run]:
        """Request one page of runs; `page` is 0-based, `page_size` is 1 to 100.

        `state` is case-insensitive and sent in lower case.

        A row that cannot be decoded raises DecodeError; with `lenient`, the row is skipped and
        `Page.skipped` has the reason.

        Raises: InputError; ApiError.
        """
        return await self._list.page(page, page_size, filters, lenient=lenient)

    async def get(self, run_id: str) -> RunDetails:
        """Read one run, with its players' steps and artifacts.

        Raises: InputError; NotFound.
        """
        return await self._session.send(
            Request(
                operation="get_run",
                method="GET",
                path=f"/runs/{path_id('run_id', run_id)}",
                template="/runs/{runId}",
                answer=lambda data: codec.structure(data, RunDetails),
                replay=Replay.ALWAYS,
            )
        )

    async def bugs(self, run_id: str) -> builtins.list[BugOccurrence]:
        """Read all bugs found in one run.

        Raises: InputError; NotFound.
        """
        return await self._session.send(
            Request(
                operation="list_run_bugs",
                method="GET",
                path=f"/runs/{path_id('run_id', run_id)}/bugs",
                template="/runs/{runId}/bugs",
                answer=_bugs,
                replay=Replay.ALWAYS,
            )
        )

    @takes_start
    async def start(self, *, marker: bool = True, **what: Unpack[StartArguments]) -> StartedRun:
        """Start a test, a test plan, or a one-off run of instructions.

        Pass exactly one of `multiplayer_test_id`, `test_plan_id` and `instructions`. `name` is
        valid only with instructions, `retries` (0 to 10) and `instances` (1 to 10) only with a
        test. Never retried when the server may have acted: a second start is a second run.

        With `marker`, a unique tag (``nunu-async-`` and 12 hexadecimal digits) is added to
        `additional_tags`. If the response is lost, the lists of runs and jobs are searched for the
        tag up to three times in about ten seconds, and the jobs or runs found are returned; a
        plan's jobs that are not listed by then are missing. If nothing is found, the original error
        is raised with the tag in its `marker`: the run may still appear.

        Raises: InputError; NotFound; ApiError; TransportError, after which a run may exist.
        """
        if not isinstance(marker, bool):
            raise InputError("marker", f"must be True or False, not {describe(marker)}")
        tag = f"nunu-async-{secrets.token_hex(6)}"
        body = StartRun(**what)
        if marker:
            body = attrs.evolve(body, additional_tags=(*body.additional_tags, tag))
        request = Request(
            operation="start_run",
            method="POST",
            path="/runs",
            body=codec.dump(body),
            answer=_started,
        )
        try:
            return await self._session.send(request)
        except (ApiError, DecodeError, TransportError) as error:
            if not may_have_acted(error):
                raise
            if not marker:
                error.add_note("it may have been started: look at the runs before starting again")
                raise
            lost = error
        several = body.test_plan_id is not None or (body.instances or 1) > 1
        found = await self._find(tag, lost, several=several)
        if found is None:
            raise lost
        return found

    async def _find(self, tag: str, lost: NunuError, *, several: bool) -> StartedRun | None:
        """Search for runs and jobs with a tag; add notes to `lost` if there are none.

        If there may be `several` jobs, two consecutive lookups must agree, or the last one counts.
        """
        lost.marker = tag
        _LOG.warning("start_run: no usable answer, looking for the tag %s: %s", tag, lost)
        seen: StartedRun | None = None
        try:
            for pause in _LOOKUP_PAUSES:
                await self._session.pause(pause)
                before, seen = seen, await self._look_up(tag) or seen
                if seen is not None and (not several or seen == before):
                    return seen
        except (AuthenticationError, PermissionDenied, ClientClosed) as error:
            lost.add_note(f"whether it was started could not be looked up: {error}")
        if seen is None:
            lost.add_note(
                f"nothing with the tag {tag} was seen; it may still appear: look for the tag "
                "before starting again"
            )
        return seen

    async def _look_up(self, tag: str) -> StartedRun | None:
        runs: Sequence[Run] = ()
        jobs: Sequence[Job] = ()
        try:
            page = await self._list.page(0, 100, {"tags": (tag,)}, within=_LOOKUP_TIMEOUT)
            runs = page.data
        except (AuthenticationError, PermissionDenied, ClientClosed):
            raise
        except TransportError as error:
            _LOG.debug("looking for the tag %s failed: %s", tag, error)
            return None
        except NunuError as error:
            _LOG.debug("looking for the tag %s among runs failed: %s", tag, error)
        try:
            # A queued job may have no run yet; servers without the job operations list only runs.
            jobs = (await Jobs(self._session).tagged(tag, within=_LOOKUP_TIMEOUT)).data
        except NunuError as error:
            _LOG.debug("looking for the tag %s among jobs failed: %s", tag, error)
        # A server that does not know the filter returns everything.
        return _found(
            tag, [run for run in runs if tag in run.tags], [job for job in jobs if tag in job.tags]
        )

    async def stop(self, job_ids: Sequence[str]) -> StopResult:
        """Stop jobs immediately, leaving their runs incomplete.

        Takes job ids, not run ids. A partial success does not raise: see `.stopped` and `.failed`.

        Raises: InputError for an empty list; NotFound when the server knows none of the jobs.
        """
        ids = string_list("job_ids", job_ids)
        if not all(ids) or not ids:
            raise InputError("job_ids", "must be a list of at least one job id, none of them empty")
        return await self._session.send(
            Request(
                operation="stop_runs",
                method="POST",
                path="/runs/stop",
                body={"job_ids": ids},
                answer=lambda data: codec.structure(data, StopResult),
                # Stopping a job twice is harmless: the job is then listed under `failed`.
                replay=Replay.ALWAYS,
            )
        )


def _found(tag: str, runs: Sequence[Run], jobs: Sequence[Job]) -> StartedRun | None:
    """Build the result of a start from the rows with its tag; None if there are none."""
    if not runs and not jobs:
        return None
    # Lists are newest first; a start returns its jobs in creation order.
    runs, jobs = list(reversed(runs)), list(reversed(jobs))
    runs.sort(key=lambda run: run.created_at)
    jobs.sort(key=lambda job: job.created_at)
    ids = [job.job_id for job in jobs] + [run.job_id for run in runs if run.job_id is not None]
    plans = (job.test_plan_execution_id for job in jobs)
    builds = [*(job.build_id for job in jobs), *(run.build.id for run in runs if run.build)]
    return StartedRun(
        job_ids=tuple(dict.fromkeys(ids)),
        multiplayer_run_id=None if ids else runs[0].multiplayer_run_id,
        build_id=next((build for build in builds if build is not None), None),
        test_plan_execution_id=next((plan for plan in plans if plan is not None), None),
        message=f"the answer was lost; found by the tag {tag}",
    )


def _bugs(data: object) -> list[BugOccurrence]:
    """Decode a run's bugs from `{data, pagination}`, or from the older `{bug_occurrences}`."""
    key = "data"
    if isinstance(data, Mapping) and "data" not in data and "bug_occurrences" in data:
        key = "bug_occurrences"
    return list(codec.structure_rows(data, key, BugOccurrence))


_ENVELOPE = ("ok", "status", "data")


def _started(data: object) -> StartedRun:
    """Decode a started run from the flat body, or from either of the older envelopes."""
    if not (isinstance(data, Mapping) and isinstance(data.get("data"), Mapping) and "ok" in data):
        return _require_id(codec.structure(_with_job_ids(data), StartedRun))
    inner = dict(data["data"])
    places: dict[str, str] = {}  # original JSON paths of moved members, keyed by new path
    if inner.get("job_ids") is None and inner.get("job_id") is not None:
        inner["job_ids"] = [inner.pop("job_id")]
        places["job_ids[0]"] = "data.job_id"
    for name in data.keys() - inner.keys() - set(_ENVELOPE):
        inner[name] = data[name]
        places[name] = name
    try:
        return _require_id(codec.structure(inner, StartedRun))
    except codec.DecodeProblem as misfit:
        raise misfit.below(".data", places) from None


def _require_id(started: StartedRun) -> StartedRun:
    named = started.multiplayer_run_id or started.test_plan_execution_id
    # An empty list of jobs is a documented response.
    if "job_ids" in (*started.absent, *started.null) and not named:
        raise codec.DecodeProblem("is missing @ $.job_ids")
    return started


def _with_job_ids(data: object) -> object:
    """Collect the job ids of a start on several devices, whose response has them per device."""
    if not isinstance(data, Mapping) or "job_ids" in data:
        return data
    devices = data.get("results", data.get("device_runs"))
    job_ids: list[object] = []
    for device in devices if isinstance(devices, list) else ():
        inner = device.get("data") if isinstance(device, Mapping) else None
        ids = inner.get("job_ids") if isinstance(inner, Mapping) else None
        job_ids += ids if isinstance(ids, list) else ()
    return {**data, "job_ids": job_ids} if job_ids else data
