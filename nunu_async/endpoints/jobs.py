"""Jobs: list and read.

Source: API reference, "List Jobs", "Get Job".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from nunu_async.core import codec
from nunu_async.core.request import Replay, Request
from nunu_async.core.session import Session
from nunu_async.endpoints.ids import comma_list, one_of, path_id, query
from nunu_async.endpoints.paging import Listing, check_page, page_request
from nunu_async.models.jobs import Job
from nunu_async.models.page import Page

__all__ = ["Jobs"]

_STATUS = ("queued", "running", "completed", "all")


class Jobs:
    """Jobs, which starts queue; reading them needs ``project:read-runs``."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def list(
        self,
        *,
        status: Literal["queued", "running", "completed", "all"] | None = None,
        test_plan_execution_id: str | None = None,
        multiplayer_test_id: str | None = None,
        tags: Sequence[str] = (),
        page_size: int = 100,
    ) -> Listing[Job]:
        """Iterate over all jobs that match every filter; nothing is sent before the first step.

        Raises: InputError.
        """
        check_page(0, page_size)
        filters = _filters(status, test_plan_execution_id, multiplayer_test_id, tags)
        return Listing(lambda page: self._page(page, page_size, filters), lambda job: job.job_id)

    async def list_page(
        self,
        *,
        status: Literal["queued", "running", "completed", "all"] | None = None,
        test_plan_execution_id: str | None = None,
        multiplayer_test_id: str | None = None,
        tags: Sequence[str] = (),
        page: int = 0,
        page_size: int = 20,
        lenient: bool = False,
    ) -> Page[Job]:
        """Request one page, counted from 0, of 1 to 100 jobs.

        A row that cannot be decoded raises DecodeError, unless `lenient`: then it is left out, and
        `Page.skipped` says what was wrong with it.

        Raises: InputError; ApiError.
        """
        check_page(page, page_size)
        filters = _filters(status, test_plan_execution_id, multiplayer_test_id, tags)
        return await self._page(page, page_size, filters, lenient=lenient)

    async def tagged(self, tag: str, *, within: float) -> Page[Job]:
        """Request at most 100 jobs with a tag, within `within` seconds over all attempts.

        Raises: ApiError; DecodeError; TransportError.
        """
        return await self._page(0, 100, (("tags", tag),), within)

    async def _page(
        self,
        page: int,
        page_size: int,
        filters: tuple[tuple[str, str], ...],
        within: float | None = None,
        *,
        lenient: bool = False,
    ) -> Page[Job]:
        return await self._session.send(
            page_request(
                "list_jobs",
                "/jobs",
                Job,
                filters=filters,
                page=page,
                page_size=page_size,
                lenient=lenient,
                within=within,
            )
        )

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


def _filters(
    status: str | None, execution_id: str | None, test_id: str | None, tags: Sequence[str]
) -> tuple[tuple[str, str], ...]:
    return query(
        {
            "status": one_of("status", status, _STATUS),
            "test_plan_execution_id": execution_id,
            "multiplayer_test_id": test_id,
            "tags": comma_list("tags", tags),
        }
    )
