"""Runs, in the formats of all published API versions.

Source: API reference, "List Runs", "Get Run", "List Run Bugs", "Start Run", "Stop Runs".
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import attrs

from nunu_async.models.base import Model, is_set
from nunu_async.models.vocab import (
    BugCategory,
    BugConfidence,
    BugSeverity,
    RunResult,
    RunState,
    TestType,
)

__all__ = [
    "BaseAgent",
    "BugInfo",
    "BugOccurrence",
    "BuildRef",
    "Initiator",
    "Player",
    "PlayerDetails",
    "PlayerPlatform",
    "Run",
    "RunApp",
    "RunArtifact",
    "RunDetails",
    "RunStep",
    "StartedRun",
    "StepItem",
    "StepTest",
    "StopOutcome",
    "StopResult",
    "TestRef",
]


@attrs.frozen(kw_only=True, eq=False, repr=False)
class BugInfo(Model):
    """How many bugs a verification run found."""

    bug_label: str | None = None
    """Values seen: ``NO_BUG``, ``BUG``; ``no_bugs`` in January 2026."""
    bug_count: int | None = None


@attrs.frozen(kw_only=True, eq=False, repr=False)
class TestRef(Model):
    """The test of a run."""

    __test__ = False

    id: str
    name: str
    type: TestType


@attrs.frozen(kw_only=True, eq=False, repr=False)
class BuildRef(Model):
    """The build of a run."""

    id: str | None = None
    name: str | None = None


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Initiator(Model):
    """Who started a run."""

    type: str
    """``api`` for API keys; other values are possible."""
    value: Mapping[str, object] | None = attrs.field(default=None, hash=False)
    """For ``api``, has the member ``key_id``."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class PlayerPlatform(Model):
    """The platform of a player, with the members of both published formats."""

    kind: str | None = None
    """Since March 2026, e.g. ``android-native``."""
    config: Mapping[str, object] | None = attrs.field(default=None, hash=False)
    """Since March 2026; ``{"device": {"name", "os_version"}}``."""
    type: str | None = None
    """January 2026, e.g. ``android``."""
    device: str | None = None
    """January 2026: the device's name."""

    @property
    def device_name(self) -> str | None:
        """The device's name, from either format."""
        device = self.config.get("device") if self.config is not None else None
        name = device.get("name") if isinstance(device, Mapping) else self.device
        return name if isinstance(name, str) else None


@attrs.frozen(kw_only=True, eq=False, repr=False)
class BaseAgent(Model):
    """The agent that played."""

    id: str | None = None
    name: str | None = None
    version_id: str | None = None
    version: int | None = None
    version_key: str | None = None
    display_name: str | None = None


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Player(Model):
    """One of the players of a run."""

    id: str
    """The run's id, a hyphen and the player's number."""
    state: RunState
    player_number: int
    """1-based in responses since March 2026, 0-based before."""
    result: RunResult | None = None
    """Null until completed."""
    test_name: str | None = None
    composite_test_id: str | None = None
    step_count: int | None = None
    completed_step_count: int | None = None
    """Number of successful steps."""
    platform: PlayerPlatform | None = None
    base_agent: BaseAgent | None = None
    """Newest responses only."""
    step_result_summary: Mapping[str, object] | None = attrs.field(default=None, hash=False)
    """Newest responses only: the number of steps per result."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class RunArtifact(Model):
    """A file that a run produced."""

    filename: str
    """Chosen by the server; may contain directories. Never use it as a path without validation."""
    size: int
    """Bytes."""
    uploaded_at: datetime
    url: str = attrs.field(repr=False)
    """Time-limited; treat it as a secret until it expires."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class StepTest(Model):
    """The goal of a step; the newest responses guarantee none of the fields."""

    test_step_id: str | None = None
    goal: str | None = None
    finish_condition: str | None = None
    """May be empty."""
    test_type: TestType | None = None


@attrs.frozen(kw_only=True, eq=False, repr=False)
class StepItem(Model):
    """One expectation of a step; newest responses only."""

    id: str | None = None
    expected: str | None = None
    status: str | None = None
    comment: str | None = None


@attrs.frozen(kw_only=True, eq=False, repr=False)
class RunStep(Model):
    """One step of a player."""

    step_number: int
    run_state: RunState
    test: StepTest | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    duration_ms: float | None = None
    """Milliseconds."""
    run_result: RunResult | None = None
    report: str | None = None
    """The agent's own words."""
    items: tuple[StepItem, ...] | None = None


@attrs.frozen(kw_only=True, eq=False, repr=False)
class PlayerDetails(Player):
    """A player with its steps and artifacts."""

    artifacts: tuple[RunArtifact, ...] = ()
    steps: tuple[RunStep, ...] = ()


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Run(Model):
    """A row of the list of runs."""

    multiplayer_run_id: str
    project_id: str
    state: RunState
    test: TestRef
    created_at: datetime
    initiator: Initiator
    players: tuple[Player, ...] = ()
    job_id: str | None = None
    """Since March 2026."""
    result: RunResult | None = None
    """Null until completed."""
    bug_info: BugInfo | None = None
    """Verification tests only."""
    build: BuildRef | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    duration_ms: float | None = None
    """Milliseconds, often with a fraction."""
    tags: tuple[str, ...] = ()

    @property
    def is_terminal(self) -> bool:
        """Whether the run has finished and will not change any more."""
        return is_set(self.completed_at) or self.state == RunState.COMPLETED

    @property
    def succeeded(self) -> bool:
        """Whether the run has finished successfully."""
        return self.state == RunState.COMPLETED and self.result == RunResult.SUCCESS


@attrs.frozen(kw_only=True, eq=False, repr=False)
class RunApp(Model):
    """An app that a run had installed; newest responses only."""

    role: str | None = None
    """``main`` or ``extra``."""
    extra_app_number: int | None = None
    player_number: int | None = None
    provider_kind: str | None = None
    build_id: str | None = None
    build_name: str | None = None
    build_url: str | None = attrs.field(default=None, repr=False)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class RunDetails(Run):
    """A run with its steps and artifacts."""

    players: tuple[PlayerDetails, ...] = ()
    templating_enabled: bool | None = None
    template_data: Mapping[str, object] | None = attrs.field(default=None, hash=False)
    """Null if templating is off."""
    apps: tuple[RunApp, ...] | None = None


@attrs.frozen(kw_only=True, eq=False, repr=False)
class BugOccurrence(Model):
    """One occurrence of a bug in a run."""

    id: str
    bug_id: str
    """The same in all runs that show this bug."""
    title: str
    description: str
    category: BugCategory
    severity: BugSeverity
    confidence: BugConfidence
    reproduction_steps: str
    """A single string with line breaks."""
    player_number: int
    """0-based, according to the documentation."""
    test_step: int
    turn: int
    detected_at: datetime
    details: Mapping[str, object] | None = attrs.field(default=None, hash=False)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class StartedRun(Model):
    """The response of a start; every published format is decoded into this model."""

    job_ids: tuple[str, ...] = ()
    """One for a test, or one per test of a plan; empty if the response has only a run id."""
    multiplayer_run_id: str | None = None
    """January 2026 only; later versions list it in the runs of a job."""
    build_id: str | None = None
    test_id: str | None = None
    """Only for a start with instructions."""
    test_plan_execution_id: str | None = None
    """Only for a start of a plan."""
    message: str | None = None


@attrs.frozen(kw_only=True, eq=False, repr=False)
class StopOutcome(Model):
    """The result of stopping one job."""

    job_id: str
    ok: bool
    status: int
    """Like an HTTP status, for this job only."""
    message: str | None = None
    error: str | None = None


@attrs.frozen(kw_only=True, eq=False, repr=False)
class StopResult(Model):
    """The results of stopping jobs."""

    ok: bool
    """Whether all jobs were stopped."""
    message: str
    received_count: int
    stopped_count: int
    results: tuple[StopOutcome, ...]

    @property
    def stopped(self) -> tuple[StopOutcome, ...]:
        """The jobs that were stopped."""
        return tuple(outcome for outcome in self.results if outcome.ok)

    @property
    def failed(self) -> tuple[StopOutcome, ...]:
        """The jobs that were not stopped."""
        return tuple(outcome for outcome in self.results if not outcome.ok)
