"""Tables and coloured text for standard output."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from nunu_async.cli.terminal import GAP, colour, overflow_in, width_of_output

__all__ = ["drawn", "table"]


def drawn(*parts: RenderableType) -> str:
    """Render for standard output, to the terminal's width; without limit elsewhere."""
    width = width_of_output()
    console = Console(file=sys.stdout, width=width, highlight=False, emoji=False, markup=False)
    with console.capture() as captured:
        console.print(*parts, sep="\n", soft_wrap=False)
    return "".join(line.rstrip() + "\n" for line in captured.get().splitlines())


def table(
    titles: Sequence[str], widths: Sequence[int], lines: Sequence[Sequence[str]], *, header: bool
) -> str:
    """Render rows whose cells are cut to the widths of their columns."""
    # The gap is not left to padding: versions of rich differ on what it adds to the last column.
    grid = Table(box=None, padding=0, show_header=header, header_style="bold")
    for number, (title, width) in enumerate(zip(titles, widths, strict=True), 1):
        gap = GAP if number < len(widths) else 0
        grid.add_column(_cut(title, width), width=width + gap, no_wrap=True)
    for line in lines:
        grid.add_row(*map(_cut, line, widths))
    return drawn(grid)


def _cut(text: str, width: int) -> Text:
    styled = Text(text, style=colour(text))
    styled.truncate(width, overflow=overflow_in(getattr(sys.stdout, "encoding", None)))
    return styled
