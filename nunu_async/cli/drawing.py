"""Tables and coloured text for standard output."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console, RenderableType
from rich.text import Text

from nunu_async.cli.terminal import GAP, colour, width_of_output


def drawn(*parts: RenderableType) -> str:
    """Render for standard output at the terminal's width; unlimited if it is not a terminal."""
    width = width_of_output()
    console = Console(file=sys.stdout, width=width, highlight=False, emoji=False, markup=False)
    with console.capture() as captured:
        console.print(*parts, sep="\n", soft_wrap=False)
    return "".join(line.rstrip() + "\n" for line in captured.get().splitlines())


def table(lines: Sequence[Sequence[str]], *, header: bool) -> str:
    """Render rows of padded cells in colour; the first row may be the header."""
    rows = []
    for number, line in enumerate(lines):
        is_header = header and number == 0
        cells = [Text(text, "bold" if is_header else colour(text.rstrip())) for text in line]
        rows.append(Text(" " * GAP).join(cells))
    return drawn(*rows)
