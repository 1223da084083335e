"""Test-plan executions.

Source: API reference, "List Test Plan Executions".
"""

from __future__ import annotations

from typing import Literal

from nunu_async.core.session import Session
from nunu_async.endpoints.ids import one_of, query
from nunu_async.endpoints.paging import Listing, check_page, page_request
from nunu_async.models.page import Page
from nunu_async.models.test_plan_executions import TestPlanExecution

__all__ = ["TestPlanExecutions"]

_CHOICES = {
    "status": ("completed", "in_progress", "queued"),
    "sort_by": ("start_time", "test_plan_name", "build_name"),
    "sort_order": ("asc", "desc"),
}


class TestPlanExecutions:
    """Executions of test plans; reading them needs ``project:read-runs``."""

    __test__ = False

    def __init__(self, session: Session) -> None:
        self._session = session

    def list(
        self,
        *,
        test_plan_id: str | None = None,
        build_id: str | None = None,
        status: Literal["completed", "in_progress", "queued"] | None = None,
        sort_by: Literal["start_time", "test_plan_name", "build_name"] | None = None,
        sort_order: Literal["asc", "desc"] | None = None,
        page_size: int = 100,
    ) -> Listing[TestPlanExecution]:
        """Iterate over all executions that match; nothing is sent before the first step.

        `status`, `sort_by` and `sort_order` may be in any case, and are sent in lower case.

        Raises: InputError.
        """
        check_page(0, page_size)
        filters = _filters(
            test_plan_id=test_plan_id,
            build_id=build_id,
            status=status,
            sort_by=sort_by,
            sort_order=sort_order,
        )
        return Listing(lambda page: self._page(page, page_size, filters), lambda row: row.id)

    async def list_page(
        self,
        *,
        test_plan_id: str | None = None,
        build_id: str | None = None,
        status: Literal["completed", "in_progress", "queued"] | None = None,
        sort_by: Literal["start_time", "test_plan_name", "build_name"] | None = None,
        sort_order: Literal["asc", "desc"] | None = None,
        page: int = 0,
        page_size: int = 20,
        lenient: bool = False,
    ) -> Page[TestPlanExecution]:
        """Request one page, counted from 0, of 1 to 100 executions.

        The server sorts by start time, newest first, by default. `status`, `sort_by` and
        `sort_order` may be in any case, and are sent in lower case.

        A row that cannot be decoded raises DecodeError, unless `lenient`: then it is left out, and
        `Page.skipped` says what was wrong with it.

        Raises: InputError; ApiError.
        """
        check_page(page, page_size)
        filters = _filters(
            test_plan_id=test_plan_id,
            build_id=build_id,
            status=status,
            sort_by=sort_by,
            sort_order=sort_order,
        )
        return await self._page(page, page_size, filters, lenient=lenient)

    async def _page(
        self,
        page: int,
        page_size: int,
        filters: tuple[tuple[str, str], ...],
        *,
        lenient: bool = False,
    ) -> Page[TestPlanExecution]:
        return await self._session.send(
            page_request(
                "list_test_plan_executions",
                "/test-plan-executions",
                TestPlanExecution,
                filters=filters,
                page=page,
                page_size=page_size,
                lenient=lenient,
            )
        )


def _filters(**filters: str | None) -> tuple[tuple[str, str], ...]:
    checked = {name: one_of(name, filters[name], choices) for name, choices in _CHOICES.items()}
    return query(filters | checked)
