"""Rows of the API on standard output: a table for people, JSON for machines."""

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
from nunu_async.cli.output import count, tell
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

if TYPE_CHECKING:  # executions are shown without them
    from nunu_async.models.runs import Run

__all__ = [
    "NOTHING",
    "Column",
    "as_json",
    "ask",
    "at_a_time",
    "build_of",
    "cell",
    "span",
    "tell_rows",
    "tell_table",
    "when",
    "word",
]

M = TypeVar("M", bound=Model)
T = TypeVar("T")

NOTHING = "-"
_USAGE = 2
_TABLE_ROWS = 50
_LARGEST_PAGE = 100
_PIECE = 100


@attrs.frozen(kw_only=True)
class Column(Generic[T]):
    """One column of a table; where not all fit, those further left are shown first."""

    title: str
    text: Callable[[T], str]
    least: int | None = None
    """Characters it may be cut down to; None is never cut."""
    fair: int | None = None
    """Characters it is granted before another column is shown at all; None is all it needs."""
    rank: int = 0
    """Those of a lower one are shown before those of a higher one, wherever they stand."""
    keeps_end: bool = False
    """It is cut at its beginning, as of a path the end tells most."""


async def ask(
    command: Callable[[NunuClient], Awaitable[int]], client: Callable[[], NunuClient] = NunuClient
) -> int:
    """Run a command with a client of the environment's; tell what goes wrong, in a line.

    Returns the exit code. A reader that has had enough ends the command, and is no failure.
    """
    try:
        check_key()
        async with client() as nunu:
            return await command(nunu)
    except (ConfigError, InputError) as error:
        tell(f"nunu-async: {error}")
        return _USAGE
    except NunuError as error:
        tell("; ".join([f"nunu-async: {error}", *getattr(error, "__notes__", ())]))
        return 1
    except BrokenPipeError:
        return 0
    except OSError as error:
        tell(f"nunu-async: cannot write the result: {error.strerror}")
        return 1
    except RecursionError:  # unknown members are given back however deep they are
        tell("nunu-async: cannot write the result: it is nested too deep for JSON")
        return 1


def at_a_time(limit: int | None) -> int:
    """Return the size of the pages to ask for, where so many rows are wanted."""
    return min(limit or _LARGEST_PAGE, _LARGEST_PAGE)


async def tell_rows(
    rows: AsyncIterable[M],
    arguments: argparse.Namespace,
    columns: Sequence[Column[M]],
    noun: str,
) -> int:
    """Print rows as `--json`, `--jsonl` and `--limit` say; return the exit code.

    Lines of JSON go out as they come. An array, like a table, is printed once it is whole: what
    fails halfway has printed nothing that could be taken for all there is.
    """
    limit: int | None = arguments.limit
    if arguments.jsonl:
        async for row in _first(rows, limit):
            await write(as_json(row) + "\n", is_json=True)
        return 0
    if arguments.json:
        # As text, which is smaller than the rows it came from.
        found = [as_json(row) async for row in _first(rows, limit)]
        await write("[" + ",\n ".join(found) + "]\n", is_json=True)
        return 0
    # One more than is shown tells whether there are more; it lies on the same page.
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
    """Print rows, at least one, as a table that fits the terminal.

    Raises: OSError; BrokenPipeError when nobody will read any more.
    """
    table = _lay_out(columns, rows, width_of_output())
    for piece in table.pieces():
        await write(piece)
        await asyncio.sleep(0)  # a long table takes a while, in which a signal may come
    if table.missing:
        names = ", ".join(table.missing)
        tell(f"nunu-async: not shown for want of room: {names}; --json has all")


async def _first(rows: AsyncIterable[M], limit: int | None) -> AsyncIterator[M]:
    """Give so many rows at most; asks for nothing beyond the last of them."""
    given = 0
    async for row in rows:
        yield row
        given += 1
        if given == limit:
            return


def as_json(model: Model) -> str:
    """Return a model as one line of JSON, in ASCII."""
    return json.dumps(model.to_dict())


@attrs.frozen(kw_only=True)
class _Table:
    """A table whose columns are chosen, and cut to a width each."""

    titles: Sequence[str]
    widths: Sequence[int]
    lines: Sequence[tuple[str, ...]]
    is_plain: bool
    """Each cell is as wide as its column takes, and no colour is wanted."""
    missing: Sequence[str]
    """Titles of the columns with something to tell for which there was no room."""

    def pieces(self) -> Iterator[str]:
        """Draw some lines at a time."""
        if self.is_plain:
            lines = [self.titles, *self.lines]
            for begin in range(0, len(lines), _PIECE):
                yield "".join(map(self._plain, lines[begin : begin + _PIECE]))
            return
        from nunu_async.cli.drawing import table  # noqa: PLC0415 - it takes a while to load

        for begin in range(0, len(self.lines), _PIECE):
            piece = self.lines[begin : begin + _PIECE]
            yield table(self.titles, self.widths, piece, header=begin == 0)

    def _plain(self, texts: Sequence[str]) -> str:
        cells = zip(texts, self.widths, strict=True)
        padded = [text + " " * (width - width_of(text)) for text, width in cells]
        return (" " * GAP).join(padded).rstrip() + "\n"


def _lay_out(columns: Sequence[Column[T]], rows: Sequence[T], room: int) -> _Table:
    """Choose the columns: those that fit, without those that have nothing to tell."""
    cells = {column.title: [column.text(row) for row in rows] for column in columns}
    if room != ENDLESS:
        # In a pipe all stay, so that a script finds each where it was.
        columns = [
            column
            for place, column in enumerate(columns)
            if place == 0 or any(text != NOTHING for text in cells[column.title])
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
                    [_end_of(text, width) for text in cells[column.title]]
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
    """Choose columns, and a width for each: the first ones fairly before the later ones at all."""
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
    # What is left goes to all that need more alike.
    while used < room and (short := [i for i in widths if widths[i] < needed[i]]):
        for index in short[: room - used]:
            widths[index] += 1
            used += 1
    return widths


def _end_of(text: str, width: int) -> str:
    """Return what fits of a text's end, after a sign that it is only that."""
    if width_of(text) <= width:
        return text
    crops = overflow_in(getattr(sys.stdout, "encoding", None)) == "crop"
    sign = "" if crops else "\N{HORIZONTAL ELLIPSIS}"
    text = text[-width:]
    while text and width_of(sign + text) > width:
        text = text[1:]
    return sign + text


def cell(value: object) -> str:
    """Return a value of the server's as one line that can do nothing to a terminal."""
    return (clean(str(value)) or NOTHING) if value is not None else NOTHING


def word(told: str | None) -> str:
    """Return a word of the service's, in lower case."""
    return cell(None if told is None else told.lower())


def build_of(run: Run) -> str:
    """Return the name of the build that a run was made with, or else its id."""
    return cell(run.build and (run.build.name or run.build.id))


def when(moment: datetime | None) -> str:
    """Return a time in the local zone, as short as the day allows: `14:05`, `11-21 14:05`."""
    if moment is None:
        return NOTHING
    try:
        local, now = moment.astimezone(), datetime.now(UTC).astimezone()
    except (OverflowError, OSError, ValueError):  # year 1 is a null to some servers
        return f"{moment:%Y-%m-%d}"
    if local.date() == now.date():
        return f"{local:%H:%M}"
    return f"{local:%m-%d %H:%M}" if local.year == now.year else f"{local:%Y-%m-%d}"


def span(milliseconds: float | None) -> str:
    """Return a duration with two units at most: `35s`, `12m 05s`, `2h 05m`."""
    if milliseconds is None:
        return NOTHING
    if 0 <= milliseconds < 1000:  # noqa: PLR2004 - a second
        return f"{milliseconds:.0f}ms"
    minutes, seconds = divmod(round(milliseconds / 1000), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h {minutes:02}m"
    return f"{minutes}m {seconds:02}s" if minutes else f"{seconds}s"
