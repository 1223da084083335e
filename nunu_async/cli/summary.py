"""Render one run in full as readable text."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.filesize import decimal
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from nunu_async.cli.drawing import drawn
from nunu_async.cli.rows import NOTHING, build_of, cell, span, when, word
from nunu_async.cli.terminal import colour
from nunu_async.models.runs import PlayerDetails, RunDetails
from nunu_async.models.vocab import RunResult
from nunu_async.redact import sanitize

_LONGEST_REPORT = 10_000


def summary(run: RunDetails) -> str:
    """Render a run: its facts, players, steps and artifacts."""
    return drawn(*_parts(run))


def _parts(run: RunDetails) -> Iterator[RenderableType]:
    facts = {
        "test": f"{cell(run.test.name)} ({word(run.test.type)})",
        "created": when(run.created_at),
        "started": when(run.started_at),
        "completed": when(run.completed_at),
        "duration": span(run.duration_ms),
        "build": build_of(run),
        "tags": cell(", ".join(run.tags)),
        "bugs": cell(run.bug_info and run.bug_info.bug_count),
        "job": cell(run.job_id),
    }
    yield _heading(f"run {cell(run.multiplayer_run_id)}", run)
    grid = _grid(1)
    for name, fact in facts.items():
        if fact != NOTHING:
            grid.add_row(name, Text(fact))
    yield Padding.indent(grid, 2)
    for player in run.players:
        yield Text()
        yield from _player(player)


def _player(player: PlayerDetails) -> Iterator[RenderableType]:
    device = player.platform and (player.platform.device_name or player.platform.kind)
    heading = _heading(f"player {player.player_number}", player)
    yield heading.append(f", on {cell(device)}") if device else heading
    steps = _grid(3)
    for step in player.steps:
        status = word(step.run_result or step.run_state)
        goal = Text(cell(step.test and step.test.goal))
        if step.report and step.run_result not in (None, RunResult.SUCCESS):
            for line in step.report.splitlines():
                goal.append("\n" + sanitize(line, limit=_LONGEST_REPORT), style="dim")
        steps.add_row(
            Text(f"{step.step_number}"),
            Text(status, style=colour(status)),
            Text(span(step.duration_ms)),
            goal,
        )
    if player.steps:
        yield Padding.indent(steps, 2)
    artifacts = _grid(1)
    for artifact in player.artifacts:
        artifacts.add_row(Text(decimal(artifact.size)), Text(cell(artifact.filename)))
    if player.artifacts:
        yield Padding.indent(Text("artifacts"), 2)
        yield Padding.indent(artifacts, 4)


def _heading(name: str, item: RunDetails | PlayerDetails) -> Text:
    heading = Text()
    heading.append(name, style="bold")
    for separator, value in (": ", item.state), (", ", item.result):
        if value is not None:
            heading.append(separator)
            heading.append(word(value), style=colour(value.lower()))
    return heading


def _grid(fixed: int) -> Table:
    """Return a borderless table: `fixed` columns that never wrap, and one that does."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(fixed):
        grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    return grid
