"""Answers of the API, and what they excuse, for the cases of rows A."""

from __future__ import annotations

from typing import Any

from fault_play import Played
from fault_steps import Step, answer, refuse, serve

from nunu_async import UploadedBuild

HTML = "<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"
# Where no client could know of a reservation: it frees itself at the end of its time.
UNHEARD = {"I1": "left to the server: no answer ever named the build"}
UNSETTLED = {"I1": "left to the server: it may be assembling the build still"}
UNDELETED = {"I1": "left to the server: it would not cancel"}
TWICE = {"I2": "the answer to the first reservation was lost, and one more is asked for once"}
BROKEN = refuse(501, "NotImplemented")


def no(status: int, *, error: str = "no", **how: Any) -> Step:
    """Answer with the API's own words."""
    return answer(status, {"error": error}, **how)


def retry_after(*values: str, status: int = 429, date: str | None = None) -> Step:
    headers = [("Retry-After", value) for value in values]
    if date is not None:
        headers.append(("Date", date))
    return no(status, headers=tuple(headers))


def whole(played: Played) -> None:
    (build,) = played.server.builds.values()
    assert build.state == "completed"
    assert isinstance(played.result, UploadedBuild)


def standing(status: str) -> Step:
    return serve(edit=lambda sent: sent | {"status": status})
