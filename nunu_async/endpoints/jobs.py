"""Jobs: list and read.

Source: API reference, "List Jobs", "Get Job".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict, Unpack

from nunu_async.core import codec
from nunu_async.core.request import Replay, Request
from nunu_async.core.session import Session
from nunu_async.endpoints.ids import choice, comma_list, path_id, text
from nunu_async.endpoints.paging import Listing, PagedList
from nunu_async.models.jobs import Job
from nunu_async.models.page import Page
from nunu_async.signatures import takes


class JobFilters(TypedDict, total=False):
    """Filters for a list of jobs; a job must match all of them."""

    status: Literal["queued", "running", "completed", "all"] | None
    test_plan_execution_id: str | None
    multiplayer_test_id: str | None
    tags: Sequence[str]


_takes_filters = takes(JobFilters, tags=())


class Jobs:
    """Jobs, queued by `Runs.start`; reading them needs ``project:read-runs``."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._list = PagedList(
            session=session,
            operation="list_jobs",
            path="/jobs",
            model=Job,
            key=lambda job: job.job_id,
            filters={
                "status": choice("queued", "running", "completed", "all"),
                "test_plan_execution_id": text,
                "multiplayer_test_id": text,
                "tags": comma_list,
            },
        )

    @_takes_filters
    def list(self, *, page_size: int = 100, **filters: Unpack[JobFilters]) -> Listing[Job]:
        """Iterate over all jobs that match every filter; sends no request before iteration.

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
        **filters: Unpack[JobFilters],
    ) -> Page[Job]:
        """Request one page of jobs; `page` is 0-based, `page_size` is 1 to 100.

        A row that cannot be decoded raises DecodeError; with `lenient`, the row is skipped and
        `Page.skipped` has the reason.

        Raises: InputError; ApiError.
        """
        return await self._list.page(page, page_size, filters, lenient=lenient)

    async def tagged(self, tag: str, *, within: float) -> Page[Job]:
        """Request at most 100 jobs with a tag; `within` limits all attempts together, in seconds.

        Raises: ApiError; DecodeError; TransportError.
        """
        return await self._list.page(0, 100, {"tags": (tag,)}, within=within)

    async def get(self, job_id: str) -> Job:
        """Read one job, with the ids and results of its runs.

        Raises: InputError; NotFound.
        """
        return await self._session.send(
            Request(
                operation="get_job",
                method="GET",
                path=f"/jobs/{path_id('job_id', job_id)}",
                template="/jobs/{jobId}",
                answer=lambda data: codec.structure(data, Job),
                replay=Replay.ALWAYS,
            )
        )
