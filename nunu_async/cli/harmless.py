"""Neutralize terminal sequences and CI commands in printed text. Pure."""

from __future__ import annotations

import re

# Commands that CI runners execute from job output. GitHub: `::name ...::` at the start of a line,
# and `##[name]` anywhere (actions/runner, ActionCommand.cs); Azure Pipelines: `##vso[`, `##[`;
# TeamCity: `##teamcity[`; GitLab: `section_start:`, `section_end:`; Travis: `travis_fold:`.
_COMMANDS = re.compile(
    r"^(?:[^\S\n]|\x1b\[[0-9;?]*[A-Za-z])*:(?=:[\w-].*?::)"
    r"|#(?=#(?:vso|teamcity)?\[)"
    r"|(?:section_(?=start:|end:)|travis_(?=fold:|time:))",
    re.IGNORECASE | re.MULTILINE,
)


def harmless(text: str, *, styled: bool = False) -> str:
    """Return text that neither a terminal nor a CI runner interprets as a command.

    A space is inserted into CI commands. Control and bidirectional characters are escaped, except
    newlines and tabs; in `styled` text they are kept, as its escape sequences are our own.
    """
    if not styled and not text.isprintable():
        text = "".join(
            c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode("ascii")
            for c in text
        )
    return _COMMANDS.sub(lambda found: f"{found[0]} ", text)
