"""Serialize runs, jobs and executions in the format of the API docs of one date.

Pure. Dates: `J` January 2026, `M` March and April, `L` the last unscoped pages, `N` the newest.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import quote

import attrs

from nunu_async.sandbox.fixtures import Bug, Build, Step, TestPlan
from nunu_async.sandbox.history import Execution, Job, Run

Letter = Literal["J", "M", "L", "N"]
Json = dict[str, Any]

LETTERS: tuple[Letter, ...] = ("J", "M", "L", "N")

_OLD_RESULTS = {"TIMEOUT": "MAX_STEPS", "BLOCKED": "FAILED", "SKIPPED": "STOPPED"}
_JANUARY_RESULTS = {
    "FAILED": "failure",
    "MAX_STEPS": "failure",
    "TIMEOUT": "failure",
    "BLOCKED": "failure",
    "STOPPED": "error",
    "SKIPPED": "error",
}
_ITEM_STATUSES = {
    "SUCCESS": "passed",
    "FAILED": "failed",
    "SKIPPED": "skipped",
    "BLOCKED": "blocked",
    "STOPPED": "stopped",
    "TIMEOUT": "timeout",
    "MAX_STEPS": "timeout",
    "ERROR": "error",
}
_COUNTS = ("passed", "failed", "stopped", "queued", "running", "skipped")
_BASE_AGENT = {
    "id": "4d5e6f70-8192-43a4-b5c6-d7e8f9a0b1c2",
    "name": "sandbox-agent",
    "version_id": "a1b2c3d4-0000-4000-8000-000000000007",
    "version": 7,
    "version_key": "7",
    "display_name": None,
}


class Dialect:
    """Serializes rows in the format of the API docs of one date."""

    def __init__(
        self, letter: Letter, *, project_id: str, storage_url: Callable[[], str] = str
    ) -> None:
        self.letter = letter
        self._project_id = project_id
        self._storage_url = storage_url
        self._is_january = letter == "J"
        self.is_newest = letter == "N"

    def page(self, data: list[Json], total: int, page: int, size: int) -> Json:
        """Serialize one page of a list."""
        return {
            "data": data,
            "pagination": {
                "page": page,
                "page_size": size,
                "total_count": total,
                "total_pages": -(-total // max(1, size)),
            },
        }

    def run(self, run: Run, now: float) -> Json:
        """Serialize a run as a list item."""
        has_duration = run.started < run.ended <= now
        row: Json = {
            "multiplayer_run_id": run.run_id,
            "job_id": run.job_id,
            "project_id": self._project_id,
            **self._status_fields(run, now),
            "bug_info": self._bug_info(run, now),
            "test": {"id": run.test.id, "name": run.test.name, "type": run.test.kind},
            "build": None if run.build is None else {"id": run.build.id, "name": run.build.name},
            "created_at": self._time(run.created),
            "duration_ms": self._milliseconds(run.started, run.ended) if has_duration else None,
            "initiator": dict(run.initiator),
            "tags": list(run.tags),
            "players": [self._player(run, number + 1, now) for number in range(run.test.players)],
        }
        if self._is_january:
            del row["job_id"]
        return row

    def details(self, run: Run, now: float) -> Json:
        """Serialize a run with its steps and artifacts."""
        row = self.run(run, now)
        row |= _template_fields(run.job)
        steps = self._steps(run, now)
        for player in row["players"]:
            player["artifacts"] = self._artifacts(run, player["id"], now)
            player["steps"] = steps
        if self.is_newest:
            app = {"role": "main", "provider_kind": run.config.source, "build_url": None}
            row["apps"] = [{**app, **_named_fields("build", run.build)}]
        return row

    def bugs(self, run: Run, now: float) -> Json:
        """Serialize all bugs of a run."""
        bugs = [
            self._bug(bug, number, run)
            for number, bug in enumerate(run.script.bugs[: run.bug_count(now)], 1)
        ]
        if self.letter in ("J", "M"):
            return {"multiplayer_run_id": run.run_id, "bug_occurrences": bugs}
        return self.page(bugs, len(bugs), 0, len(bugs))

    def job(self, job: Job, now: float) -> Json:
        """Serialize a job."""
        status = job.status(now)
        is_completed = status == "COMPLETED"
        is_stopped = is_completed and job.stopped is not None
        return {
            "job_id": job.job_id,
            "project_id": self._project_id,
            "status": status,
            "created_at": self._time(job.created),
            "completed_at": self._time(job.ended) if is_completed else None,
            "multiplayer_test_id": job.test.id,
            "test_name": job.test.name,
            "platform": job.config.platform,
            "build_id": None if job.build is None else job.build.id,
            "test_plan_execution_id": job.execution_id,
            "queue_rejection_reason": None,
            **_template_fields(job),
            "stopped_by": dict(job.initiator) if is_stopped else None,
            "tags": list(job.tags),
            "retries": {"total": job.retries, "remaining": job.retries_left(now)},
            "runs": [
                {
                    "multiplayer_run_id": run.run_id,
                    "players": run.test.players,
                    **self._status_fields(run, now),
                }
                for run in job.visible(now)
            ],
        }

    def execution(self, execution: Execution, now: float) -> Json:
        """Serialize a test plan execution as a list item."""
        status = execution.status(now)
        is_completed = status == "completed"
        tally = execution.tally(now)
        counts = {name: tally[name] for name in _COUNTS}
        if not self.is_newest:
            counts["stopped"] += counts.pop("skipped")
        return {
            "id": execution.execution_id,
            **_named_fields("test_plan", execution.plan),
            **_named_fields("build", execution.build),
            "status": status,
            "started_at": None if status == "queued" else self._time(execution.created),
            "started_by": execution.started_by,
            "completed_at": self._time(execution.ended) if is_completed else None,
            "total_tests": execution.total,
            "test_status": counts,
            "duration_ms": self._milliseconds(execution.created, execution.ended)
            if is_completed
            else None,
        }

    def started(self, jobs: Sequence[Job], members: Mapping[str, object]) -> Json:
        """Serialize the response of `start_run`."""
        if self._is_january:
            data = {"job_id": jobs[0].job_id, "multiplayer_run_id": jobs[0].runs[0].run_id}
            return {"ok": True, "status": 201, "message": "queued", "data": data}
        message = "successfully queued test!"
        flat = {"message": message, **members, "job_ids": [job.job_id for job in jobs]}
        if self.letter == "M":
            flat.pop("test_plan_execution_id", None)
            return {"ok": True, "status": 200, "message": message, "data": flat}
        return flat

    def error_fields(self, **fields: object) -> Json:
        """Return `fields` and `ok` as extra error members; empty if the dialect has none."""
        return {"ok": False, **fields} if self.letter in ("J", "M") else {}

    def _status_fields(self, run: Run, now: float) -> Json:
        state, ended = run.state(now), run.ended
        was_started = run.started <= now and run.started < ended
        return {
            "state": self._state(state),
            "result": self._result(run.result(now)),
            "started_at": self._time(run.started) if was_started else None,
            "completed_at": self._time(ended) if state == "COMPLETED" else None,
        }

    def _player(self, run: Run, number: int, now: float) -> Json:
        steps = list(run.test.steps(run.script))
        done = steps[: self._done_steps(run, len(steps), now)]
        player: Json = {
            "id": f"{run.run_id}-{number}",
            "state": self._state(run.state(now)),
            "result": self._result(run.result(now)),
            "player_number": number,
            "test_name": run.test.name,
            "composite_test_id": run.test.id,
            "step_count": len(steps),
            "completed_step_count": sum(step.result.upper() == "SUCCESS" for step in done),
            "platform": self._platform(run, number),
        }
        if self._is_january:
            player["id"] = f"{run.run_id}p{number}"
            player["player_number"] = number - 1
            del player["composite_test_id"]
        if self.is_newest:
            player["base_agent"] = dict(_BASE_AGENT)
            player["step_result_summary"] = dict(Counter(step.result for step in done))
        return player

    def _platform(self, run: Run, number: int) -> Json:
        config = run.job.player_configs.get(number, run.config)
        if self._is_january:
            return {"type": config.platform.partition("-")[0], "device": config.device}
        device = {"name": config.device, "os_version": config.os_version}
        return {"kind": config.platform, "config": {"device": device}}

    def _done_steps(self, run: Run, count: int, now: float) -> int:
        """Count the finished steps; all steps take equally long."""
        if run.stopped is None and now >= run.ended:
            return count
        elapsed = min(now, run.ended) - run.started
        if elapsed <= 0 or run.script.run_seconds == math.inf:
            return 0
        return int(count * elapsed / run.script.run_seconds)

    def _steps(self, run: Run, now: float) -> list[Json]:
        steps = list(run.test.steps(run.script))
        done = self._done_steps(run, len(steps), now)
        duration = run.script.run_seconds / max(1, len(steps))
        moment = min(now, run.ended)
        rows = []
        for index, step in enumerate(steps):
            start = run.started + index * duration if index else run.started
            state = "COMPLETED" if index < done else "RUNNING"
            if index > done or moment < run.started:
                state = "INITIALIZING"
            rows.append(self._step(run, step, index + 1, state, (start, duration)))
        return rows

    def _step(
        self, run: Run, step: Step, number: int, state: str, times: tuple[float, float]
    ) -> Json:
        start, duration = times
        is_completed = state == "COMPLETED"
        test = run.test
        row: Json = {
            "step_number": number,
            "start_time": None if state == "INITIALIZING" else self._time(start),
            "end_time": self._time(start + duration) if is_completed else None,
            "duration_ms": self._milliseconds(start, start + duration) if is_completed else None,
            "run_state": self._state(state),
            "run_result": self._result(step.result) if is_completed else None,
            "report": step.report if is_completed else None,
            "test": {
                "test_step_id": f"{test.id}-{number}",
                "goal": step.goal,
                "finish_condition": step.finish_condition,
                "test_type": test.kind,
            },
        }
        if self._is_january and state == "INITIALIZING":
            row["run_state"] = "pending"
        if self.is_newest:
            row["items"] = (
                _items(step, number, is_completed) if test.kind == "verification" else None
            )
        return row

    def _artifacts(self, run: Run, player_id: str, now: float) -> list[Json]:
        if now < run.ended:
            return []
        return [
            {
                "filename": artifact.filename,
                "url": artifact.url
                or f"{self._storage_url()}/artifacts/{player_id}/{quote(artifact.filename)}",
                "size": artifact.size,
                "uploaded_at": self._time(run.ended),
            }
            for artifact in run.script.artifacts
        ]

    def _bug_info(self, run: Run, now: float) -> Json | None:
        if run.test.kind != "verification" or now < run.ended:
            return None
        count = run.bug_count(now)
        none = "no_bugs" if self._is_january else "NO_BUG"
        return {"bug_label": "BUG" if count else none, "bug_count": count}

    def _bug(self, bug: Bug, number: int, run: Run) -> Json:
        row: Json = {
            "id": f"b0900000-0000-4000-8000-{run.number:08x}{number:04x}",
            **attrs.asdict(bug, recurse=False),
            "detected_at": self._time(run.ended),
        }
        if bug.details is None:
            del row["details"]
        else:
            row["details"] = dict(bug.details)
        return row

    def _state(self, state: str) -> str:
        return state.lower() if self._is_january else state

    def _result(self, result: str | None) -> str | None:
        if result is None or self.is_newest:
            return result
        if self._is_january:
            return _JANUARY_RESULTS.get(result, result.lower())
        return _OLD_RESULTS.get(result, result)

    def _time(self, moment: float) -> str:
        when = datetime.fromtimestamp(moment, UTC)
        if self._is_january:
            return f"{when:%Y-%m-%dT%H:%M:%SZ}"
        return when.isoformat(timespec="microseconds")

    def _milliseconds(self, start: float, stop: float) -> float:
        duration = round((stop - start) * 1000, 3)
        return round(duration) if self._is_january else duration


def _template_fields(job: Job) -> Json:
    return {"templating_enabled": job.template_data is not None, "template_data": job.template_data}


def _named_fields(noun: str, named: Build | TestPlan | None) -> Json:
    return {
        f"{noun}_id": named.id if named else None,
        f"{noun}_name": named.name if named else None,
    }


def _items(step: Step, number: int, is_completed: bool) -> list[Json]:  # noqa: FBT001 - one question
    if not step.finish_condition:
        return []
    status = _ITEM_STATUSES.get(step.result.upper(), "error") if is_completed else "pending"
    comment = step.report if is_completed else None
    expected = step.finish_condition
    return [{"id": f"{number}a", "expected": expected, "status": status, "comment": comment}]
