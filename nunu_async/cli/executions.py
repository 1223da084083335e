"""`nunu-async executions`: list executions of test plans."""

from __future__ import annotations

import argparse

from nunu_async.cli.rows import Column, at_a_time, cell, span, tell_rows, when, with_client
from nunu_async.client import NunuClient
from nunu_async.models.test_plan_executions import TestPlanExecution

_EXECUTIONS: tuple[Column[TestPlanExecution], ...] = (
    Column(title="EXECUTION", text=lambda row: cell(row.id)),
    Column(title="STATUS", text=lambda row: cell(row.status.lower())),
    Column(title="PLAN", text=lambda row: cell(row.test_plan_name), least=8),
    Column(title="STARTED", text=lambda row: when(row.started_at)),
    Column(title="PASSED", text=lambda row: f"{row.test_status.passed}/{row.total_tests}"),
    Column(title="DURATION", text=lambda row: span(row.duration_ms)),
    Column(title="FAILED", text=lambda row: cell(row.test_status.failed)),
    Column(title="BUILD", text=lambda row: cell(row.build_name or row.build_id), least=12),
)


@with_client
async def list_executions(nunu: NunuClient, arguments: argparse.Namespace) -> int:
    """Print the matching executions; return the exit code."""
    rows = nunu.test_plan_executions.list(
        test_plan_id=arguments.test_plan,
        build_id=arguments.build,
        status=arguments.status,
        sort_by=arguments.sort_by,
        sort_order=arguments.sort_order,
        page_size=at_a_time(arguments.limit),
    )
    return await tell_rows(rows, arguments, _EXECUTIONS, "execution")
