"""What a run is started with, checked against the documented limits before anything is sent.

Source: API reference, "Start Run".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import attrs

from nunu_async.errors import InputError
from nunu_async.models.checks import short, texts

__all__ = ["GpsLocation", "RunOptions", "StartRun"]

_MOST = 10


def _needed(_: object, attribute: attrs.Attribute[str], value: object) -> None:
    if not (isinstance(value, str) and value.strip()):
        raise InputError(attribute.name, f"must be a string that is not empty, not {short(value)}")


@attrs.frozen(kw_only=True)
class GpsLocation:
    """A place on Earth, in degrees, as the strings the API takes."""

    lat: str = attrs.field(validator=_needed)
    long: str = attrs.field(validator=_needed)


def _seconds(_: object, attribute: attrs.Attribute[int | None], value: object) -> None:
    if value is not None and not (type(value) is int and value >= 0):
        raise InputError(attribute.name, f"must be whole seconds from 0 on, not {short(value)}")


def _flag(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, bool) and not (value is None and attribute.default is None):
        raise InputError(attribute.name, f"must be True or False, not {short(value)}")


def _string(_: object, attribute: attrs.Attribute[str | None], value: object) -> None:
    if not isinstance(value, str | None):
        raise InputError(attribute.name, f"must be a string, not {short(value)}")


def _place(_: object, attribute: attrs.Attribute[GpsLocation | None], value: object) -> None:
    if not isinstance(value, GpsLocation | None) and value != "auto":
        raise InputError(attribute.name, f'must be "auto" or a GpsLocation, not {short(value)}')


@attrs.frozen(kw_only=True)
class RunOptions:
    """How a run is played; every option may be left out."""

    min_time_seconds: int | None = attrs.field(default=None, validator=_seconds)
    """Dropped from the documentation during 2026."""
    max_time_seconds: int | None = attrs.field(default=None, validator=_seconds)
    """Dropped from the documentation during 2026."""
    performance_monitoring: bool | None = attrs.field(default=None, validator=_flag)
    mobile_auto_grant_permissions: bool | None = attrs.field(default=None, validator=_flag)
    mobile_geolocation: str | None = attrs.field(default=None, validator=_string)
    """Name of a proxy's place."""
    mobile_gpslocation: Literal["auto"] | GpsLocation | None = attrs.field(
        default=None, validator=_place
    )
    """``auto`` needs `mobile_geolocation`."""

    def __attrs_post_init__(self) -> None:
        if self.mobile_gpslocation == "auto" and not self.mobile_geolocation:
            raise InputError("mobile_gpslocation", "auto needs mobile_geolocation")


def _to_row(value: Sequence[str]) -> tuple[str, ...]:
    return tuple(texts("additional_tags", value))


def _text(_: object, attribute: attrs.Attribute[str | None], value: object) -> None:
    if value is not None and not (isinstance(value, str) and value.strip()):
        raise InputError(attribute.name, f"must be a string that is not empty, not {short(value)}")


def _few(_: object, attribute: attrs.Attribute[int | None], value: object) -> None:
    least = 0 if attribute.name == "retries" else 1
    if value is not None and not (type(value) is int and least <= value <= _MOST):
        raise InputError(attribute.name, f"must be from {least} to {_MOST}, not {short(value)}")


def _object(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, Mapping | None):
        raise InputError(attribute.name, f"must be a dictionary, not {short(value)}")


def _options(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, RunOptions | None):
        raise InputError(attribute.name, f"must be RunOptions, not {short(value)}")


@attrs.frozen(kw_only=True)
class StartRun:
    """A run to be started.

    Raises: InputError for a value outside the documented limits, for none or several targets, and
    for what does not go with the target.
    """

    deployment_config_id: str = attrs.field(validator=_needed)
    multiplayer_test_id: str | None = attrs.field(default=None, validator=_text)
    test_plan_id: str | None = attrs.field(default=None, validator=_text)
    instructions: str | None = attrs.field(default=None, validator=_text)
    build_id: str | None = attrs.field(default=None, validator=_text)
    name: str | None = attrs.field(default=None, validator=_text)
    agent_config_id: str | None = attrs.field(default=None, validator=_text)
    additional_tags: tuple[str, ...] = attrs.field(default=(), converter=_to_row)
    retries: int | None = attrs.field(default=None, validator=_few)
    instances: int | None = attrs.field(default=None, validator=_few)
    render_templates: bool = attrs.field(default=False, validator=_flag)
    template_data: Mapping[str, object] | None = attrs.field(
        default=None, validator=_object, hash=False
    )
    options: RunOptions | None = attrs.field(default=None, validator=_options)

    def __attrs_post_init__(self) -> None:
        targets = ("multiplayer_test_id", "test_plan_id", "instructions")
        given = [name for name in targets if getattr(self, name) is not None]
        if len(given) != 1:
            told = " and ".join(given) or "none"
            raise InputError("target", f"give exactly one of {', '.join(targets)}, not {told}")
        if self.name is not None and self.instructions is None:
            raise InputError("name", "goes with instructions only")
        for field in ("retries", "instances"):
            if getattr(self, field) is not None and self.multiplayer_test_id is None:
                raise InputError(field, "goes with multiplayer_test_id only")
