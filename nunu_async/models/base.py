"""What every model of an answer has: unknown members, the answer it came in, a way back to JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Final, cast

import attrs

from nunu_async.response import ResponseInfo

__all__ = ["NOTHING", "Model"]


class _Nothing(Mapping[str, object]):
    """No members at all: one object for every model that has none to spare, and for good."""

    __slots__ = ()

    def __getitem__(self, name: str) -> object:
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0

    def __repr__(self) -> str:
        return "{}"

    def __reduce__(self) -> str:
        return "NOTHING"  # a name of this module: copies and pickles are the same one object


NOTHING: Final[Mapping[str, object]] = _Nothing()


@attrs.frozen(kw_only=True)
class Model:
    """A part of an answer."""

    extra: Mapping[str, object] = attrs.field(default=NOTHING, repr=False)
    """Members that this version does not know, as they came."""
    response: ResponseInfo | None = attrs.field(default=None, eq=False, repr=False)
    """The answer this was read from; None on what lies deeper inside one."""
    absent: tuple[str, ...] = attrs.field(default=(), eq=False, repr=False)
    """Optional members that the answer left out, to tell them from null on the way back."""

    def to_dict(self) -> dict[str, object]:
        """Return JSON data: what came, unknown members included; times as ISO 8601."""
        out: dict[str, object] = {}
        for field in attrs.fields(type(self)):
            value: object = getattr(self, field.name)
            left_out = field.name in self.absent and value == field.default
            if field.name not in _OWN and not left_out:
                out[field.name] = _plain(value)
        return out | {name: _plain(value) for name, value in self.extra.items()}


_OWN: Final = frozenset(attrs.fields_dict(Model))


def _plain(value: object) -> object:
    if isinstance(value, Model):
        return value.to_dict()
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat(timespec="microseconds")
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Mapping):
        members = cast("Mapping[str, object]", value)
        return {name: _plain(member) for name, member in members.items()}
    return value
