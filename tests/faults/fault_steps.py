"""What the fault server does to one request, as data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

import attrs

At: TypeAlias = int | Literal["all", "half", "last"]
"""How many bytes of a request's body are read first; ``last`` is all but the last byte."""
Body: TypeAlias = bytes | str | Mapping[str, object] | list[object] | None


def _pairs(given: Mapping[str, str] | tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    return tuple(given.items()) if isinstance(given, Mapping) else given


@attrs.frozen(kw_only=True)
class Step:
    """One step; made by the functions below.

    Attributes:
        do: how the request ends.
        at: bytes of the body to read before anything else.
        delay: seconds of the case's clock from there to the deed.
        effect: whether the state of the server changes before the deed.
        times: how many requests it is for; None for all that follow.
        status: None for what the server says of its own accord.
        headers: added to those of the answer; several may have one name. ``{foreign}`` and the
            names of the other listeners stand for their origins.
        body: None for that of the answer which the server would give.
        etags: None for the right one; else one header for each, with ``{}`` for the right value.
        etag_name: the name of that header, as written.
        cut: bytes of the answer's body that are sent before the connection goes.
        framing: what marks the end of the body.
        then: what becomes of the connection; ``read`` takes the rest of the request's body,
            ``stay`` leaves it untaken and the connection open.
        drip: bytes, and seconds of the clock between them, in which the body is read.
        corrupt: flip a bit of what is stored.
        raw: bytes to send in place of an answer.
        edit: makes the JSON that is answered of the JSON that would be.
    """

    do: Literal["answer", "rst", "cut", "fin", "stop", "hold", "raw"] = "answer"
    at: At = "all"
    delay: float = 0.0
    effect: bool = True
    times: int | None = 1
    status: int | None = None
    headers: tuple[tuple[str, str], ...] = attrs.field(default=(), converter=_pairs)
    body: Body = None
    etags: tuple[str, ...] | None = None
    etag_name: str = "ETag"
    cut: int | None = None
    framing: Literal["length", "close", "chunked"] = "length"
    then: Literal["keep", "read", "stay", "fin", "rst"] = "keep"
    drip: tuple[int, float] | None = None
    corrupt: bool = False
    raw: bytes = b""
    edit: Callable[[Any], Any] | None = None

    def repeat(self, times: int) -> Step:
        """Return the step for so many requests."""
        return attrs.evolve(self, times=times)

    def always(self) -> Step:
        """Return the step for every request that follows."""
        return attrs.evolve(self, times=None)


def serve(**how: object) -> Step:
    """Serve as usual, but late, in drips, with other headers, ETags or body, or corrupted."""
    return Step(**how)  # type: ignore[arg-type] - the fields above


def answer(
    status: int, body: Body = b"", headers: Mapping[str, str] | None = None, **how: object
) -> Step:
    """Answer so, once the whole body was read; nothing changes unless `effect`."""
    fields = {"effect": False, "status": status, "body": body, "headers": headers or {}} | how
    return Step(**fields)  # type: ignore[arg-type] - the fields above


def refuse(status: int, code: str, message: str = "", **how: object) -> Step:
    """Answer with an error as object storage writes it."""
    text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return answer(status, text, **how)  # type: ignore[arg-type] - the fields of a step


def early(at: At, status: int | None = None, body: Body = None, **how: object) -> Step:
    """Answer after `at` bytes of the body, then read on unless `then` says otherwise."""
    fields = {"effect": False, "then": "read", "at": at, "status": status, "body": body} | how
    return Step(**fields)  # type: ignore[arg-type] - the fields above


def rst(at: At = 0, *, effect: bool = False) -> Step:
    """Reset the connection after `at` bytes of the body."""
    return Step(do="rst", at=at, effect=effect)


def cut(at: At = 0, *, effect: bool = False) -> Step:
    """Drop the connection after `at` bytes of the body; over TLS, without a word of farewell."""
    return Step(do="cut", at=at, effect=effect)


def fin(at: At = 0, *, effect: bool = False) -> Step:
    """Close the connection in an orderly way after `at` bytes of the body, without an answer."""
    return Step(do="fin", at=at, effect=effect)


def stop_reading(at: At = 0) -> Step:
    """Read no further after `at` bytes, and never answer."""
    return Step(do="stop", at=at, effect=False)


def hold(*, effect: bool = False) -> Step:
    """Read the whole body and never answer."""
    return Step(do="hold", effect=effect)


def drip(size: int, every: float) -> Step:
    """Read the body by `size` bytes, with so many seconds after each; then serve as usual."""
    return Step(drip=(size, every))


def truncate(cut: int, *, effect: bool = True, **how: object) -> Step:
    """Send only so many bytes of the answer's body, then close."""
    return Step(cut=cut, effect=effect, then="fin", **how)  # type: ignore[arg-type] - as above


def raw(data: bytes, *, effect: bool = False, at: At = "all") -> Step:
    """Send these bytes in place of an answer, then close."""
    return Step(do="raw", raw=data, effect=effect, at=at)
