"""Decode JSON into models, and encode models as JSON."""

from __future__ import annotations

import codecs
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from types import MappingProxyType
from typing import Final, TypeVar, cast

import attrs

from nunu_async.core.reader import MISMATCHES, has_reader, reader
from nunu_async.errors import InputError
from nunu_async.models.base import Extra, Model, members_of
from nunu_async.models.page import Page, Pagination

T = TypeVar("T")
M = TypeVar("M", bound=Model)

# Maximum number of problems listed: all hundred rows of a page may have the same problem.
_MAX_PROBLEMS = 20


class DecodeProblem(Exception):
    """Decoded JSON does not fit the model.

    Attributes:
        problems: one line per problem, with its JSON path.
        leftover: the part that could be decoded, where a caller needs it.
    """

    def __init__(self, *problems: str, leftover: object = None) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems
        self.leftover = leftover

    def below(
        self, place: str, elsewhere: Mapping[str, str] = MappingProxyType({})
    ) -> DecodeProblem:
        """Return the same problems with `place` prefixed to their paths.

        `elsewhere` maps members that were taken from outside `place` to their full paths.
        """

        def full(path: str) -> str:
            outside = elsewhere.get(path.removeprefix("."))
            return f"{place}{path}" if outside is None else f".{outside}"

        return DecodeProblem(
            *(f"{message}@ ${full(path)}" for message, path in map(split, self.problems))
        )


def split(problem: str) -> tuple[str, str]:
    """Split a problem into its message and the path after ``@ $``."""
    # At the last separator: the message may quote the server.
    message, _, path = problem.rpartition("@ $")
    return message, path


class NotReady(Exception):
    """Decoding would block the event loop for too long, and must run in a thread."""


_ONLY_READY: Final = ContextVar("nunu_async_only_ready", default=False)


@contextmanager
def only_ready() -> Iterator[None]:
    """Make decoding raise `NotReady` if it needs more than a reader that is already generated.

    Loading and generating code takes 20 ms or more, and the converter, used for data that does not
    match exactly, is several times slower than a reader. Other threads are not affected: each has
    its own context.
    """
    before = _ONLY_READY.set(True)
    try:
        yield
    finally:
        _ONLY_READY.reset(before)


def prepare(model: type[Model]) -> None:
    """Load and generate all code that decoding a model may need; slow, so run it in a thread."""
    from nunu_async.core.converter import CONVERTER  # noqa: PLC0415 - seldom needed

    reader(model)
    CONVERTER.get_structure_hook(model)


def _reader(model: type[M]) -> Callable[[object], M]:
    if _ONLY_READY.get() and not has_reader(model):
        raise NotReady
    return reader(model)


def structure(data: object, model: type[T]) -> T:
    """Build a model from decoded JSON.

    Raises: DecodeProblem, with every problem and its JSON path.
    """
    if issubclass(model, Model):
        read = _reader(model)
        try:
            return cast("T", read(data))
        except MISMATCHES:
            pass  # the converter accepts it, or reports what is wrong
    if _ONLY_READY.get():
        raise NotReady
    from nunu_async.core.converter import convert  # noqa: PLC0415 - seldom needed

    return convert(data, model)


def structure_rows(
    data: object, key: str, model: type[M], skipped: list[str] | None = None
) -> tuple[M, ...]:
    """Build models from the list of rows under `key` of an object.

    If `skipped` is given, invalid rows are left out and their problems appended to it.

    Raises: DecodeProblem, with every problem and its JSON path.
    """
    if not isinstance(data, Mapping):
        raise DecodeProblem(f"expected an object, got {type(data).__name__} @ $")
    if key not in data:
        raise DecodeProblem(f"is missing @ $.{key}")
    rows = data[key]
    if not isinstance(rows, list):
        raise DecodeProblem(f"expected a list, got {type(rows).__name__} @ $.{key}")
    read = _reader(model)
    try:
        return tuple([read(row) for row in rows])
    except MISMATCHES:
        pass  # decoded row by row below, to find the invalid rows
    models: list[M] = []
    problems: list[str] = []
    for number, row in enumerate(rows):
        try:
            models.append(structure(row, model))
        except DecodeProblem as misfit:
            problems += misfit.below(f".{key}[{number}]").problems
    if problems and skipped is None:
        raise DecodeProblem(*problems[:_MAX_PROBLEMS])
    if skipped is not None:
        skipped += problems[:_MAX_PROBLEMS]
    return tuple(models)


def structure_page(data: object, model: type[M], *, lenient: bool = False) -> Page[M]:
    """Build a page from `{data, pagination}`; if `lenient`, leave out invalid rows.

    Raises: DecodeProblem.
    """
    skipped: list[str] = []
    rows = structure_rows(data, "data", model, skipped if lenient else None)
    members = cast("Mapping[str, object]", data)
    if "pagination" not in members:
        raise DecodeProblem("is missing @ $.pagination")
    try:
        pagination = structure(members["pagination"], Pagination)
    except DecodeProblem as misfit:
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
    """Convert a model to JSON data; members equal to their default are left out.

    Mappings from the caller are sent unchanged.
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
        members = {field.name: getattr(value, field.name) for field in members_of(type(value))}
        present = {name: _plain(member) for name, member in members.items() if member is not None}
        return present | dict(value.extra)
    return dump(cast("attrs.AttrsInstance", value)) if attrs.has(type(value)) else value


def encode(data: Mapping[str, object]) -> bytes:
    """Encode a JSON body.

    Raises: InputError for values JSON cannot encode (NaN, lone surrogates, non-JSON types) and for
    nesting beyond Python's limit.
    """
    try:
        return json.dumps(data, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise InputError("body", f"cannot be written as JSON ({error})") from None
    except RecursionError:
        raise InputError("body", "is nested too deep to be written as JSON") from None


def _reject_constant(text: str) -> object:
    raise ValueError(f"{text} is no JSON")


def _parse_finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError("beyond every float")
    return value


# By default, NaN, Infinity and 1e999 become floats that cannot be encoded again.
_DECODER = json.JSONDecoder(parse_constant=_reject_constant, parse_float=_parse_finite)


def parse(body: bytes) -> object:
    """Decode a JSON body.

    Raises: DecodeProblem for invalid JSON, and for JSON that exceeds Python's own limits.
    """
    try:
        # RFC 8259, 8.1: a byte order mark may be ignored.
        return cast("object", _DECODER.decode(body.removeprefix(codecs.BOM_UTF8).decode()))
    except (ValueError, RecursionError) as error:
        raise DecodeProblem(f"not JSON ({type(error).__name__}) @ $") from None
