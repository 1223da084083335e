"""The waits of one client, including a start followed by a wait for its jobs."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from nunu_async.core.cancellation import finish
from nunu_async.core.clock import Clock, time_limit
from nunu_async.endpoints.jobs import Jobs
from nunu_async.endpoints.runs import Runs
from nunu_async.endpoints.test_plan_executions import TestPlanExecutions
from nunu_async.errors import ClientClosed, NunuError, RunFailed
from nunu_async.models.jobs import FinishedRun, Job
from nunu_async.models.runs import Run, StartedRun
from nunu_async.models.test_plan_executions import TestPlanExecution
from nunu_async.polling.kinds import execution_kind, job_kind, job_of, run_kind
from nunu_async.polling.poller import Poller
from nunu_async.polling.round import PollSource
from nunu_async.polling.subscription import Change, Pollable
from nunu_async.polling.waiting import WaitApi, WaitOptions

R = TypeVar("R", bound=Pollable)

_LOG = logging.getLogger("nunu_async.polling")

OnStart = Callable[[StartedRun], Awaitable[None] | None]


class PollingService:
    """All waits of one client; one poll loop per resource, running while it has waits."""

    def __init__(
        self,
        *,
        runs: Runs,
        jobs: Jobs,
        executions: TestPlanExecutions,
        clock: Clock,
        cleanup: float,
        closed: bool = False,
    ) -> None:
        self._runs_api = runs
        self._jobs_api = jobs
        self._clock = clock
        self._cleanup = cleanup
        self._closed = closed
        self._pollers: list[Poller[Any]] = []
        self.runs = self._waits(run_kind(runs))
        self.jobs = self._waits(job_kind(jobs, runs))
        self.executions = self._waits(execution_kind(executions))

    def _waits(self, source: PollSource[R]) -> WaitApi[R]:
        poller = Poller(source, clock=self._clock, on_refused=self._fail_all, closed=self._closed)
        self._pollers.append(poller)
        return WaitApi(poller, clock=self._clock)

    def _fail_all(self, error: NunuError) -> None:
        # All resources are read with the same key and the same permission.
        for poller in self._pollers:
            poller.fail(error)

    async def run_to_end(
        self,
        start: Coroutine[object, object, StartedRun],
        terms: WaitOptions[Job],
        *,
        on_start: OnStart | None,
        stop_on_cancel: bool,
    ) -> FinishedRun:
        """Start a test or a plan, and wait until all of its jobs are terminal.

        Raises: any error of the start or of the wait.
        """
        starting = asyncio.ensure_future(start)
        try:
            started = await asyncio.shield(starting)
            if on_start is not None:
                awaitable = on_start(started)
                if inspect.isawaitable(awaitable):
                    await awaitable
            if started.multiplayer_run_id is not None:
                return await self._one_run(started, started.multiplayer_run_id, terms)
            if not started.job_ids:
                return await self._one_execution(started, terms)
            return FinishedRun(started=started, jobs=await self.jobs.many(started.job_ids, terms))
        except NunuError as error:
            # The started jobs keep running. Other errors have the ids, or `on_start` received them.
            if isinstance(error, ClientClosed):
                _add_ids(starting, error)
            raise
        except BaseException:  # cancellation, or an error from a callback
            if stop_on_cancel:
                await finish(self._stop(starting))
            elif not starting.done():
                starting.cancel()
                await asyncio.wait({starting})
            raise

    async def _one_execution(self, started: StartedRun, terms: WaitOptions[Job]) -> FinishedRun:
        """Wait for a start whose response has an execution id but no job ids."""
        execution_id = started.test_plan_execution_id
        if execution_id is None:
            raise NunuError("what was started has neither jobs nor an execution to wait for")
        quiet = WaitOptions[TestPlanExecution](timeout=terms.timeout, interval=terms.interval)
        await self.executions.many((execution_id,), quiet)
        listing = self._jobs_api.list(test_plan_execution_id=execution_id)
        jobs = tuple([job async for job in listing])
        failed = tuple(job.job_id for job in jobs if not job.succeeded)
        if failed and terms.raise_on_failure:
            raise RunFailed(failed, finished={job.job_id: job for job in jobs})
        return FinishedRun(started=started, jobs=jobs)

    async def _one_run(
        self, started: StartedRun, run_id: str, terms: WaitOptions[Job]
    ) -> FinishedRun:
        """Wait for the run of a January 2026 start response, which predates the job operations."""
        job_id = started.job_ids[0] if started.job_ids else run_id
        listener = terms.on_change

        def as_job(change: Change[Run]) -> Awaitable[None] | None:
            if listener is None:
                return None
            row = job_of(job_id, [change.row])
            return listener(Change(id=job_id, before=change.before, after=change.after, row=row))

        run_terms = WaitOptions[Run](
            timeout=terms.timeout,
            interval=terms.interval,
            on_change=as_job,
            raise_on_failure=terms.raise_on_failure,
        )
        (run,) = await self.runs.many((run_id,), run_terms)
        return FinishedRun(started=started, jobs=(job_of(job_id, [run]),))

    async def _stop(self, starting: asyncio.Task[StartedRun]) -> None:
        """Stop the started jobs, once a pending start has returned; errors are only logged."""
        ids: tuple[str, ...] = ()
        try:
            async with time_limit(self._clock, self._cleanup):
                ids = (await starting).job_ids
                if ids:
                    result = await self._runs_api.stop(ids)
                    for outcome in result.failed:
                        reason = outcome.error or outcome.message or outcome.status
                        _LOG.warning("job %s was not stopped: %s", outcome.job_id, reason)
        except (NunuError, TimeoutError) as error:
            _LOG.warning("could not stop %s: %s", ", ".join(ids) or "what was started", error)

    async def close(self) -> None:
        """End every wait with `ClientClosed`."""
        for poller in self._pollers:
            poller.end()
        for poller in self._pollers:
            await poller.close()


def _add_ids(starting: asyncio.Task[StartedRun], error: ClientClosed) -> None:
    if starting.done() and not starting.cancelled() and starting.exception() is None:
        started = starting.result()
        ids = started.job_ids or (started.test_plan_execution_id, started.multiplayer_run_id)
        error.add_note(f"what was started goes on: {', '.join(filter(None, ids))}")
