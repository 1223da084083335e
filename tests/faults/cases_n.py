"""Rows N: the network."""

from __future__ import annotations

from fault_case import Case
from fault_steps import fin, rst

CASES = [
    Case(
        "N7",
        "rst-at-half",
        steps={"put_part:2": [rst("half")]},
        requests={"put_part": 4, "put_part:2": 2},
    ),
    Case(
        "N7",
        "rst-at-0",
        steps={"put_part:2": [rst(0)]},
        requests={"put_part": 4, "put_part:2": 2},
    ),
    Case("N8", "fin-part-no-effect", steps={"put_part:1": [fin("all")]}, requests={"put_part": 4}),
    Case(
        "N8",
        "fin-complete-effect",
        steps={"complete_upload": [fin("all", effect=True)]},
        requests={"complete_upload": 1, "get_build": 1, "cancel_upload": 0},
    ),
]
