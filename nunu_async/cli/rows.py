"""Print rows of the API on standard output, as a table or as JSON."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Generic, TypeVar

import attrs

from nunu_async.cli.key import check_key
from nunu_async.cli.output import count, tell, usage_error, with_notes
from nunu_async.cli.stdout import write
from nunu_async.cli.terminal import (
    ENDLESS,
    GAP,
    is_plain,
    overflow_in,
    width_of,
    width_of_output,
)
from nunu_async.client import NunuClient
from nunu_async.errors import ConfigError, InputError, NunuError
from nunu_async.models.base import Model
from nunu_async.redact import clean

if TYPE_CHECKING:  # not needed to list executions
    from nunu_async.models.runs import Run

__all__ = [
    "NOTHING",
    "Column",
    "as_json",
    "ask",
    "at_a_time",
    "build_of",
    "cell",
    "reported",
    "span",
    "tell_rows",
    "tell_table",
    "when",
    "word",
]

M = TypeVar("M", bound=Model)
T = TypeVar("T")

NOTHING = "-"
_TABLE_ROWS = 50
_LARGEST_PAGE = 100
_LINES_AT_ONCE = 100


@attrs.frozen(kw_only=True)
class Column(Generic[T]):
    """One column of a table; if not all fit, the leftmost ones are kept."""

    title: str
    text: Callable[[T], str]
    least: int | None = None
    """Minimum width in characters; None means that cells are never cut."""
    fair: int | None = None
    """Width in characters that it gets before further columns are added; None is all it needs."""
    rank: int = 0
    """Columns of a lower rank are kept first, whatever their position."""
    keeps_end: bool = False
    """Cells are cut at the start: the end of a path is its most useful part."""


async def ask(
    command: Callable[[NunuClient], Awaitable[int]], client: Callable[[], NunuClient] = NunuClient
) -> int:
    """Run a command with a client configured from the environment, as `reported` does."""

    async def with_client() -> int:
        check_key()
        async with client() as nunu:
            return await command(nunu)

    return await reported(with_client)


async def reported(command: Callable[[], Awaitable[int]]) -> int:
    """Run a command; print errors on one line.

    Returns the exit code: 0 also if the reader of standard output closed it.
    """
    try:
        return await command()
    except (ConfigError, InputError) as error:
        return usage_error(error)
    except NunuError as error:
        tell(f"nunu-async: {with_notes(error)}")
        return 1
    except BrokenPipeError:
        return 0
    except OSError as error:
        tell(f"nunu-async: cannot write the result: {error.strerror}")
        return 1
    except RecursionError:  # `to_dict` returns unknown members at any depth
        tell("nunu-async: cannot write the result: it is nested too deep for JSON")
        return 1


def at_a_time(limit: int | None) -> int:
    """Return the page size for a limit on rows."""
    return min(limit or _LARGEST_PAGE, _LARGEST_PAGE)


async def tell_rows(
    rows: AsyncIterable[M],
    arguments: argparse.Namespace,
    columns: Sequence[Column[M]],
    noun: str,
) -> int:
    """Print rows according to `--json`, `--jsonl` and `--limit`; return the exit code.

    JSON lines are printed as rows arrive. An array or a table is printed once it is complete: a
    failure halfway must not leave output that looks complete.
    """
    limit: int | None = arguments.limit
    if arguments.jsonl:
        async for row in _first(rows, limit):
            await write(as_json(row) + "\n", is_json=True)
        return 0
    if arguments.json:
        # Kept as text, which takes less memory than the rows.
        items = [as_json(row) async for row in _first(rows, limit)]
        await write("[" + ",\n ".join(items) + "]\n", is_json=True)
        return 0
    # One more row than is shown reveals whether there are more; it is on the same page.
    shown = [row async for row in _first(rows, limit or _TABLE_ROWS + 1)]
    more = limit is None and len(shown) > _TABLE_ROWS
    if not shown:
        tell(f"nunu-async: no {noun}s")
        return 0
    await tell_table(shown[:_TABLE_ROWS] if more else shown, columns)
    if more:
        tell(f"nunu-async: the first {count(_TABLE_ROWS, noun)}; --limit N shows more")
    return 0


async def tell_table(rows: Sequence[T], columns: Sequence[Column[T]]) -> None:
    """Print at least one row as a table that fits the terminal.

    Raises: OSError; BrokenPipeError if the reader of standard output closed it.
    """
    table = _lay_out(columns, rows, width_of_output())
    for text in table.pieces():
        await write(text)
        await asyncio.sleep(0)  # lets a signal interrupt a long table
    if table.missing:
        names = ", ".join(table.missing)
        tell(f"nunu-async: not shown for want of room: {names}; --json has all")


async def _first(rows: AsyncIterable[M], limit: int | None) -> AsyncIterator[M]:
    """Yield at most `limit` rows, without fetching beyond the last one."""
    number = 0
    async for row in rows:
        yield row
        number += 1
        if number == limit:
            return


def as_json(model: Model) -> str:
    """Return a model as one line of JSON, in ASCII."""
    return json.dumps(model.to_dict())


@attrs.frozen(kw_only=True)
class _Table:
    """A table after layout: the chosen columns and their widths."""

    titles: Sequence[str]
    widths: Sequence[int]
    lines: Sequence[tuple[str, ...]]
    is_plain: bool
    """No cell is cut, and no colour is wanted."""
    missing: Sequence[str]
    """Titles of the columns that are not empty but did not fit."""

    def pieces(self) -> Iterator[str]:
        """Yield the rendered table, some lines at a time."""
        if self.is_plain:
            lines = [self.titles, *self.lines]
            for begin in range(0, len(lines), _LINES_AT_ONCE):
                yield "".join(map(self._plain, lines[begin : begin + _LINES_AT_ONCE]))
            return
        from nunu_async.cli.drawing import table  # noqa: PLC0415 - it takes a while to load

        for begin in range(0, len(self.lines), _LINES_AT_ONCE):
            chunk = self.lines[begin : begin + _LINES_AT_ONCE]
            yield table(self.titles, self.widths, chunk, header=begin == 0)

    def _plain(self, texts: Sequence[str]) -> str:
        cells = zip(texts, self.widths, strict=True)
        padded = [text + " " * (width - width_of(text)) for text, width in cells]
        return (" " * GAP).join(padded).rstrip() + "\n"


def _lay_out(columns: Sequence[Column[T]], rows: Sequence[T], room: int) -> _Table:
    """Choose the columns that fit, without the empty ones."""
    cells = {column.title: [column.text(row) for row in rows] for column in columns}
    if room != ENDLESS:
        # In a pipe all columns are kept, so that scripts find each at its position.
        columns = [
            column
            for index, column in enumerate(columns)
            if index == 0 or any(text != NOTHING for text in cells[column.title])
        ]
    needed = [
        max(width_of(column.title), *map(width_of, cells[column.title])) for column in columns
    ]
    widths = _fit(columns, needed, room)
    shown = {columns[index]: width for index, width in widths.items()}
    titles = [column.title for column in shown]
    return _Table(
        titles=titles,
        widths=list(widths.values()),
        lines=list(
            zip(
                *(
                    [_cut_start(text, width) for text in cells[column.title]]
                    if column.keeps_end
                    else cells[column.title]
                    for column, width in shown.items()
                ),
                strict=True,
            )
        ),
        is_plain=room == ENDLESS and is_plain(),
        missing=[column.title for column in columns if column.title not in titles],
    )


def _fit(columns: Sequence[Column[T]], needed: Sequence[int], room: int) -> dict[int, int]:
    """Choose columns and their widths; each gets its `fair` width before later ones are added."""
    widths: dict[int, int] = {}
    granted = used = 0
    for index in sorted(range(len(columns)), key=lambda index: columns[index].rank):
        column, need = columns[index], needed[index]
        gap = GAP if widths else 0
        least = need if column.least is None else min(need, column.least)
        if widths and granted + gap + least > room:
            continue
        widths[index] = min(least, room)
        used += gap + widths[index]
        granted += gap + (need if column.fair is None else min(need, column.fair))
    widths = dict(sorted(widths.items()))
    for index, width in widths.items():
        fair = columns[index].fair
        want = needed[index] if fair is None else min(needed[index], fair)
        more = max(0, min(want - width, room - used))
        widths[index] += more
        used += more
    # The remaining width is shared equally by the columns that need more.
    while used < room and (narrow := [i for i in widths if widths[i] < needed[i]]):
        for index in narrow[: room - used]:
            widths[index] += 1
            used += 1
    return widths


def _cut_start(text: str, width: int) -> str:
    """Cut a text to a width at its start, which becomes an ellipsis if the encoding has one."""
    if width_of(text) <= width:
        return text
    crops = overflow_in(getattr(sys.stdout, "encoding", None)) == "crop"
    ellipsis = "" if crops else "\N{HORIZONTAL ELLIPSIS}"
    text = text[-width:]
    while text and width_of(ellipsis + text) > width:
        text = text[1:]
    return ellipsis + text


def cell(value: object) -> str:
    """Return a server's value as one sanitized line; NOTHING for None and empty text."""
    return (clean(str(value)) or NOTHING) if value is not None else NOTHING


def word(value: str | None) -> str:
    """Return an enum value of the API in lower case; NOTHING for None."""
    return cell(None if value is None else value.lower())


def build_of(run: Run) -> str:
    """Return the name of a run's build, or its id if it has no name."""
    return cell(run.build and (run.build.name or run.build.id))


def when(moment: datetime | None) -> str:
    """Format a time in the local zone, with a date if not today: `14:05`, `11-21 14:05`."""
    if moment is None:
        return NOTHING
    try:
        local, now = moment.astimezone(), datetime.now(UTC).astimezone()
    except (OverflowError, OSError, ValueError):  # some servers send year 1 for null
        return f"{moment:%Y-%m-%d}"
    if local.date() == now.date():
        return f"{local:%H:%M}"
    return f"{local:%m-%d %H:%M}" if local.year == now.year else f"{local:%Y-%m-%d}"


def span(milliseconds: float | None) -> str:
    """Format a duration with at most two units: `35s`, `12m 05s`, `2h 05m`."""
    if milliseconds is None:
        return NOTHING
    if 0 <= milliseconds < 1000:  # noqa: PLR2004 - one second
        return f"{milliseconds:.0f}ms"
    minutes, seconds = divmod(round(milliseconds / 1000), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h {minutes:02}m"
    return f"{minutes}m {seconds:02}s" if minutes else f"{seconds}s"
