"""What every model of an answer has: unknown members, the answer it came in, a way back to JSON."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Final, cast

import attrs

from nunu_async.response import ResponseInfo

__all__ = ["Model"]

_NOTHING: Final[Mapping[str, object]] = MappingProxyType({})


@attrs.frozen(kw_only=True)
class Model:
    """A part of an answer."""

    extra: Mapping[str, object] = attrs.field(default=_NOTHING, repr=False)
    """Members that this version does not know, as they came."""
    response: ResponseInfo | None = attrs.field(default=None, eq=False, repr=False)
    """The answer this was read from; None on what lies deeper inside one."""
    absent: tuple[str, ...] = attrs.field(default=(), eq=False, repr=False)
    """Optional members that the answer left out, to tell them from null on the way back."""

    def to_dict(self) -> dict[str, object]:
        """Return JSON data: what came, unknown members included; times as ISO 8601."""
        out: dict[str, object] = {}
        for field in attrs.fields(type(self)):
            if field.name not in _OWN and field.name not in self.absent:
                out[field.name] = _plain(getattr(self, field.name))
        return out | dict(self.extra)


_OWN: Final = frozenset(attrs.fields_dict(Model))


def _plain(value: object) -> object:
    if isinstance(value, Model):
        return value.to_dict()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat(timespec="microseconds")
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Mapping):
        return dict(cast("Mapping[str, object]", value))
    return value
