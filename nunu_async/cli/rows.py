"""Print rows of the API on standard output, as a table or as JSON."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterator,
    Mapping,
    Sequence,
)
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

import attrs

from nunu_async.cli.key import check_key
from nunu_async.cli.output import count, echo_err, usage_error, with_notes
from nunu_async.cli.stdout import write
from nunu_async.cli.terminal import ENDLESS, GAP, is_plain, overflow_in, width_of, width_of_output
from nunu_async.client import NunuClient
from nunu_async.errors import ConfigError, InputError, NunuError
from nunu_async.models.base import Model
from nunu_async.redact import sanitize

if TYPE_CHECKING:  # not needed to list executions
    from nunu_async.models.runs import Run

M = TypeVar("M", bound=Model)
T = TypeVar("T")
_Command: TypeAlias = Callable[[argparse.Namespace], Coroutine[object, object, int]]

NOTHING = "-"
_TABLE_ROWS = 50
_LARGEST_PAGE = 100
_LINES_AT_ONCE = 100


@attrs.frozen(kw_only=True)
class Column(Generic[T]):
    """One column of a table; if not all fit, those on the left are kept first."""

    title: str
    text: Callable[[T], str]
    least: int = ENDLESS
    """Minimum width in terminal columns; `ENDLESS` if cells should not be cut."""
    rank: int = 0
    """Columns with a lower rank are kept first, whatever their position."""
    keeps_end: bool = False
    """Whether to cut cells at the start, as for paths, whose end is most useful."""


def with_client(
    command: Callable[[NunuClient, argparse.Namespace], Awaitable[int]],
    client: Callable[[argparse.Namespace], NunuClient] = lambda _: NunuClient(),
) -> _Command:
    """Decorate a command with `reported`, and pass it a client configured by the environment."""

    @reported
    async def run(arguments: argparse.Namespace) -> int:
        check_key()
        async with client(arguments) as nunu:
            return await command(nunu, arguments)

    return run


def reported(command: Callable[[argparse.Namespace], Awaitable[int]]) -> _Command:
    """Decorate a command: print its errors on one line, and return an exit code for them.

    The exit code is 0 on a broken pipe, that is, if the reader closed standard output.
    """

    async def run(arguments: argparse.Namespace) -> int:
        try:
            return await command(arguments)
        except (ConfigError, InputError) as error:
            return usage_error(error)
        except NunuError as error:
            echo_err(with_notes(error))
            return 1
        except BrokenPipeError:
            return 0
        except OSError as error:
            echo_err(f"cannot write the result: {error.strerror}")
            return 1
        except RecursionError:  # `to_dict` keeps unknown members of any depth
            echo_err("cannot write the result: it is nested too deep for JSON")
            return 1

    return run


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
        # JSON text takes less memory than the rows.
        items = [as_json(row) async for row in _first(rows, limit)]
        await write("[" + ",\n ".join(items) + "]\n", is_json=True)
        return 0
    # Fetch one extra row, from the same page, to detect whether there are more.
    shown = [row async for row in _first(rows, limit or _TABLE_ROWS + 1)]
    more = limit is None and len(shown) > _TABLE_ROWS
    if not shown:
        echo_err(f"no {noun}s")
        return 0
    await tell_table(shown[:_TABLE_ROWS] if more else shown, columns)
    if more:
        echo_err(f"the first {count(_TABLE_ROWS, noun)}; --limit N shows more")
    return 0


async def tell_table(rows: Sequence[T], columns: Sequence[Column[T]]) -> None:
    """Print at least one row as a table that fits the terminal.

    Raises: OSError; BrokenPipeError if the reader of standard output closed it.
    """
    lines, missing = _lay_out(columns, rows, width_of_output())
    for text in _pieces(lines, plain=is_plain()):
        await write(text)
        await asyncio.sleep(0)  # lets a signal interrupt a long table
    if missing:
        names = ", ".join(missing)
        echo_err(f"not shown for want of room: {names}; --json has all")


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


def _lay_out(
    columns: Sequence[Column[T]], rows: Sequence[T], room: int
) -> tuple[list[tuple[str, ...]], list[str]]:
    """Return the padded cells of header and rows, and the titles of columns that did not fit."""
    texts = {column: [column.title, *map(column.text, rows)] for column in columns}
    if room != ENDLESS:
        # Omit empty columns, but not in a pipe: scripts rely on column positions.
        for column in columns[1:]:
            if set(texts[column][1:]) == {NOTHING}:
                del texts[column]
    widths = _fit({column: max(map(width_of, texts[column])) for column in texts}, room)
    cells = [
        [_fill(text, width, keeps_end=column.keeps_end) for text in texts[column]]
        for column, width in widths.items()
    ]
    missing = [column.title for column in texts if column not in widths]
    return list(zip(*cells, strict=True)), missing


def _pieces(lines: Sequence[Sequence[str]], *, plain: bool) -> Iterator[str]:
    """Yield the rendered table in batches of lines; the first line is the header."""
    for begin in range(0, len(lines), _LINES_AT_ONCE):
        chunk = lines[begin : begin + _LINES_AT_ONCE]
        if plain:
            yield "".join((" " * GAP).join(line).rstrip() + "\n" for line in chunk)
        else:
            from nunu_async.cli.drawing import table  # noqa: PLC0415 - slow to load

            yield table(chunk, header=begin == 0)


def _fit(needed: Mapping[Column[T], int], room: int) -> dict[Column[T], int]:
    """Choose the columns that fit, and their widths; spare room is shared equally."""
    chosen: dict[Column[T], int] = {}
    left = room + GAP  # there is no gap before the first column
    for column in sorted(needed, key=lambda column: column.rank):
        least = min(needed[column], column.least)
        if chosen and least + GAP > left:
            continue
        chosen[column] = min(least, room)
        left -= chosen[column] + GAP
    widths = {column: chosen[column] for column in needed if column in chosen}
    while left > 0 and (narrow := [each for each in widths if widths[each] < needed[each]]):
        for column in narrow[:left]:
            widths[column] += 1
            left -= 1
    return widths


def _fill(text: str, width: int, *, keeps_end: bool) -> str:
    """Cut or pad text to a width; an ellipsis marks a cut if the encoding has one."""
    missing = width - width_of(text)
    if missing >= 0:
        return text + " " * missing
    from rich.cells import set_cell_size  # noqa: PLC0415 - loads Unicode width tables

    crops = overflow_in(getattr(sys.stdout, "encoding", None)) == "crop"
    ellipsis = "" if crops else "\N{HORIZONTAL ELLIPSIS}"
    room = width - len(ellipsis)
    if keeps_end:
        return ellipsis + set_cell_size(text[::-1], room)[::-1]
    return set_cell_size(text, room) + ellipsis


def cell(value: object) -> str:
    """Return a value as one sanitized line; `NOTHING` for None and for an empty string."""
    return (sanitize(str(value)) or NOTHING) if value is not None else NOTHING


def word(value: str | None) -> str:
    """Return an enum value of the API in lower case; `NOTHING` for None."""
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
