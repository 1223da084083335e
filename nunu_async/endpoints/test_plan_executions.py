"""Test-plan executions.

Source: API reference, "List Test Plan Executions".
"""

from __future__ import annotations

from typing import Literal, TypedDict, Unpack

from nunu_async.core.session import Session
from nunu_async.endpoints.ids import choice, text
from nunu_async.endpoints.paging import Listing, PagedList
from nunu_async.models.page import Page
from nunu_async.models.test_plan_executions import TestPlanExecution
from nunu_async.signatures import takes


class ExecutionFilters(TypedDict, total=False):
    """Filters and sort order for a list of executions."""

    test_plan_id: str | None
    build_id: str | None
    status: Literal["completed", "in_progress", "queued"] | None
    sort_by: Literal["start_time", "test_plan_name", "build_name"] | None
    sort_order: Literal["asc", "desc"] | None


_takes_filters = takes(ExecutionFilters)


class TestPlanExecutions:
    """Executions of test plans; reading them needs ``project:read-runs``."""

    __test__ = False

    def __init__(self, session: Session) -> None:
        self._list = PagedList(
            session=session,
            operation="list_test_plan_executions",
            path="/test-plan-executions",
            model=TestPlanExecution,
            key=lambda row: row.id,
            filters={
                "test_plan_id": text,
                "build_id": text,
                "status": choice("completed", "in_progress", "queued"),
                "sort_by": choice("start_time", "test_plan_name", "build_name"),
                "sort_order": choice("asc", "desc"),
            },
        )

    @_takes_filters
    def list(
        self, *, page_size: int = 100, **filters: Unpack[ExecutionFilters]
    ) -> Listing[TestPlanExecution]:
        """Iterate over all matching executions; sends no request before iteration.

        `status`, `sort_by` and `sort_order` are case-insensitive and sent in lower case.

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
        **filters: Unpack[ExecutionFilters],
    ) -> Page[TestPlanExecution]:
        """Request one page of executions; `page` is 0-based, `page_size` is 1 to 100.

        By default the server sorts by start time, newest first. `status`, `sort_by` and
        `sort_order` are case-insensitive and sent in lower case.

        A row that cannot be decoded raises DecodeError; with `lenient`, the row is skipped and
        `Page.skipped` has the reason.

        Raises: InputError; ApiError.
        """
        return await self._list.page(page, page_size, filters, lenient=lenient)
