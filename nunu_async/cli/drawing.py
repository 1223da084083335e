"""What is drawn on standard output: tables and texts in colour."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from nunu_async.cli.terminal import GAP, colour, overflow_in, width_of_output

__all__ = ["drawn", "table"]


def drawn(*parts: RenderableType) -> str:
    """Draw for standard output: as wide as a terminal, elsewhere as wide as it gets."""
    width = width_of_output()
    console = Console(file=sys.stdout, width=width, highlight=False, emoji=False, markup=False)
    with console.capture() as captured:
        console.print(*parts, sep="\n", soft_wrap=False)
    return "".join(line.rstrip() + "\n" for line in captured.get().splitlines())


def table(
    titles: Sequence[str], widths: Sequence[int], lines: Sequence[Sequence[str]], *, header: bool
) -> str:
    """Draw lines whose cells are cut to a width each."""
    # The gap is made here: versions of rich differ on what padding adds to the last column.
    made = Table(box=None, padding=0, show_header=header, header_style="bold")
    for place, (title, width) in enumerate(zip(titles, widths, strict=True), 1):
        gap = GAP if place < len(widths) else 0
        made.add_column(_cut(title, width), width=width + gap, no_wrap=True)
    for line in lines:
        made.add_row(*map(_cut, line, widths))
    return drawn(made)


def _cut(text: str, width: int) -> Text:
    told = Text(text, style=colour(text))
    told.truncate(width, overflow=overflow_in(getattr(sys.stdout, "encoding", None)))
    return told
