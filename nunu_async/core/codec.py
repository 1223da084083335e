"""JSON to models and back."""

from __future__ import annotations

import codecs
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import partial
from types import MappingProxyType
from typing import Final, TypeVar, cast

import attrs

from nunu_async.core.reader import OWN, Unexpected, has_reader, reader
from nunu_async.errors import InputError
from nunu_async.models.base import Extra, Model
from nunu_async.models.page import Page, Pagination

__all__ = [
    "Misfit",
    "NotReady",
    "dump",
    "encode",
    "only_ready",
    "parse",
    "prepare",
    "split",
    "structure",
    "structure_page",
    "structure_rows",
]

T = TypeVar("T")
M = TypeVar("M", bound=Model)

# A page of rows that are all wrong in the same way is told once, not a hundred times.
_MOST_PROBLEMS = 20


class Misfit(Exception):
    """Decoded JSON does not fit the model.

    Attributes:
        problems: one line for each wrong place, with its JSON path.
        leftover: what could be read of it all the same, where that matters.
    """

    def __init__(self, *problems: str, leftover: object = None) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems
        self.leftover = leftover

    def below(self, place: str, elsewhere: Mapping[str, str] = MappingProxyType({})) -> Misfit:
        """Return the same, for data that stands at `place` in something larger.

        `elsewhere` has the whole paths of members that were taken from outside of it.
        """

        def whole(path: str) -> str:
            apart = elsewhere.get(path.removeprefix("."))
            return f"{place}{path}" if apart is None else f".{apart}"

        return Misfit(*(f"{told}@ ${whole(path)}" for told, path in map(split, self.problems)))


def split(problem: str) -> tuple[str, str]:
    """Return what a problem tells, and the path behind ``@ $``."""
    # The last one is the path's; what stands before it may be the server's own words.
    told, _, path = problem.rpartition("@ $")
    return told, path


class NotReady(Exception):
    """Decoding needs code that has not been loaded or generated yet.

    Attributes:
        prepare: loads or generates it; may be called by any thread, any number of times.
    """

    def __init__(self, prepare: Callable[[], None]) -> None:
        super().__init__()
        self.prepare = prepare


_ONLY_READY: Final = ContextVar("nunu_async_only_ready", default=False)
_CONVERTIBLE: Final[set[type]] = set()


@contextmanager
def only_ready() -> Iterator[None]:
    """Make decoding raise `NotReady` where it would otherwise load or generate code.

    That takes 20 ms and more, for which an event loop should not be held up. Without this, what is
    needed is loaded on the spot.
    """
    before = _ONLY_READY.set(True)
    try:
        yield
    finally:
        _ONLY_READY.reset(before)


def prepare(model: type) -> None:
    """Load and generate all that decoding a model may need; for a thread, as it takes long."""
    if issubclass(model, Model):
        reader(model)
    _prepare_conversion(model)


def _prepare_conversion(model: type) -> None:
    from nunu_async.core import converter  # noqa: PLC0415 - seldom needed

    converter.prepare(model)
    _CONVERTIBLE.add(model)


def _reader(model: type[M]) -> Callable[[object], M]:
    if _ONLY_READY.get() and not has_reader(model):
        raise NotReady(partial(_generate_reader, model))
    return reader(model)


def _generate_reader(model: type[Model]) -> None:
    reader(model)


# What a fast reader raises for data that is not exactly right.
_ODD = (Unexpected, KeyError, TypeError, ValueError, AttributeError)


def structure(data: object, model: type[T]) -> T:
    """Make a model of decoded JSON.

    Raises: Misfit, with every wrong place and its JSON path.
    """
    if issubclass(model, Model):
        read = _reader(model)
        try:
            return cast("T", read(data))
        except _ODD:
            pass  # something is not exactly right: let the converter take it, or say what it is
    if attrs.has(model) and not isinstance(data, Mapping):
        raise Misfit(f"expected an object, got {type(data).__name__} @ $")
    if _ONLY_READY.get() and model not in _CONVERTIBLE:
        raise NotReady(partial(_prepare_conversion, model))
    from nunu_async.core.converter import Unfit, convert  # noqa: PLC0415 - seldom needed

    try:
        return convert(data, model)
    except Unfit as unfit:
        raise Misfit(*unfit.args) from None


def structure_rows(
    data: object, key: str, model: type[M], skipped: list[str] | None = None
) -> tuple[M, ...]:
    """Make models of the rows that stand in an object under `key`.

    Where `skipped` is given, rows that do not fit are left out, and told there.

    Raises: Misfit, with every wrong place and its JSON path.
    """
    if not isinstance(data, Mapping):
        raise Misfit(f"expected an object, got {type(data).__name__} @ $")
    if key not in data:
        raise Misfit(f"is missing @ $.{key}")
    rows = data[key]
    if not isinstance(rows, list):
        raise Misfit(f"expected a list, got {type(rows).__name__} @ $.{key}")
    read = _reader(model)
    try:
        return tuple([read(row) for row in rows])
    except _ODD:
        pass  # then each alone, to take or to tell what is wrong
    found: list[M] = []
    problems: list[str] = []
    for number, row in enumerate(rows):
        try:
            found.append(structure(row, model))
        except Misfit as misfit:
            problems += misfit.below(f".{key}[{number}]").problems
    if problems and skipped is None:
        raise Misfit(*problems[:_MOST_PROBLEMS])
    if skipped is not None:
        skipped += problems[:_MOST_PROBLEMS]
    return tuple(found)


def structure_page(data: object, model: type[M], *, lenient: bool = False) -> Page[M]:
    """Make a page of `{data, pagination}`; a lenient one without the rows that do not fit.

    Raises: Misfit.
    """
    skipped: list[str] = []
    rows = structure_rows(data, "data", model, skipped if lenient else None)
    members = cast("Mapping[str, object]", data)
    if "pagination" not in members:
        raise Misfit("is missing @ $.pagination")
    try:
        pagination = structure(members["pagination"], Pagination)
    except Misfit as misfit:
        raise misfit.below(".pagination") from None
    extra = Extra({name: members[name] for name in members if name not in ("data", "pagination")})
    return Page(
        data=rows,
        pagination=pagination,
        skipped=tuple(skipped),
        extra=extra,
        absent=("skipped",),  # the server's page has no such member
    )


def dump(model: attrs.AttrsInstance) -> dict[str, object]:
    """Make JSON data of a model; members at their default are left out.

    What a caller has put into a mapping is sent as it is.
    """
    return {
        field.name: _plain(value)
        for field in attrs.fields(type(model))
        if (value := getattr(model, field.name)) != field.default
    }


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Model):
        return {
            field.name: _plain(member)
            for field in attrs.fields(type(value))
            if field.name not in OWN and (member := getattr(value, field.name)) is not None
        } | dict(value.extra)
    return dump(cast("attrs.AttrsInstance", value)) if attrs.has(type(value)) else value


def encode(data: Mapping[str, object]) -> bytes:
    """Make the bytes of a JSON body.

    Raises: InputError for what JSON cannot carry (NaN, a lone surrogate, a foreign type), and for
    what is nested beyond Python's own limit.
    """
    try:
        return json.dumps(data, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise InputError("body", f"cannot be written as JSON ({error})") from None
    except RecursionError:
        raise InputError("body", "is nested too deep to be written as JSON") from None


def _no_number(text: str) -> object:
    raise ValueError(f"{text} is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError("beyond every float")
    return value


# Python would take NaN and Infinity for numbers, and 1e999 for infinity, which cannot go back.
_DECODER = json.JSONDecoder(parse_constant=_no_number, parse_float=_finite)


def parse(body: bytes) -> object:
    """Read a JSON body.

    Raises: Misfit for what is not JSON, and for depth, digits or sizes beyond Python's own limits.
    """
    try:
        # RFC 8259, 8.1: a byte order mark may be ignored.
        return cast("object", _DECODER.decode(body.removeprefix(codecs.BOM_UTF8).decode()))
    except (ValueError, RecursionError) as error:
        raise Misfit(f"not JSON ({type(error).__name__}) @ $") from None
