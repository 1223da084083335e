"""The parameters of a start, checked against the documented limits before anything is sent.

Source: API reference, "Start Run".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import attrs

from nunu_async.errors import InputError
from nunu_async.models.checks import describe, string_list

__all__ = ["GpsLocation", "RunOptions", "StartRun"]

_MAX_COUNT = 10


def _required(_: object, attribute: attrs.Attribute[str], value: object) -> None:
    if not (isinstance(value, str) and value.strip()):
        raise InputError(
            attribute.name, f"must be a string that is not empty, not {describe(value)}"
        )


_optional_text = attrs.validators.optional(_required)


@attrs.frozen(kw_only=True)
class GpsLocation:
    """A place on Earth, in degrees, as the strings the API takes."""

    lat: str = attrs.field(validator=_required)
    long: str = attrs.field(validator=_required)


def _seconds(_: object, attribute: attrs.Attribute[int | None], value: object) -> None:
    if value is not None and not (type(value) is int and value >= 0):
        raise InputError(attribute.name, f"must be whole seconds from 0 on, not {describe(value)}")


def _flag(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, bool) and not (value is None and attribute.default is None):
        raise InputError(attribute.name, f"must be True or False, not {describe(value)}")


def _string(_: object, attribute: attrs.Attribute[str | None], value: object) -> None:
    if not isinstance(value, str | None):
        raise InputError(attribute.name, f"must be a string, not {describe(value)}")


def _gps(_: object, attribute: attrs.Attribute[GpsLocation | None], value: object) -> None:
    if not isinstance(value, GpsLocation | None) and value != "auto":
        raise InputError(attribute.name, f'must be "auto" or a GpsLocation, not {describe(value)}')


@attrs.frozen(kw_only=True)
class RunOptions:
    """How a run is played; every option is optional."""

    min_time_seconds: int | None = attrs.field(default=None, validator=_seconds)
    """Dropped from the documentation during 2026."""
    max_time_seconds: int | None = attrs.field(default=None, validator=_seconds)
    """Dropped from the documentation during 2026."""
    performance_monitoring: bool | None = attrs.field(default=None, validator=_flag)
    mobile_auto_grant_permissions: bool | None = attrs.field(default=None, validator=_flag)
    mobile_geolocation: str | None = attrs.field(default=None, validator=_string)
    """Name of a proxy's location."""
    mobile_gpslocation: Literal["auto"] | GpsLocation | None = attrs.field(
        default=None, validator=_gps
    )
    """``auto`` needs `mobile_geolocation`."""

    def __attrs_post_init__(self) -> None:
        if self.mobile_gpslocation == "auto" and not self.mobile_geolocation:
            raise InputError("mobile_gpslocation", "auto needs mobile_geolocation")


def _to_tags(value: Sequence[str]) -> tuple[str, ...]:
    return tuple(string_list("additional_tags", value))


def _count(_: object, attribute: attrs.Attribute[int | None], value: object) -> None:
    lowest = 0 if attribute.name == "retries" else 1
    if value is not None and not (type(value) is int and lowest <= value <= _MAX_COUNT):
        raise InputError(
            attribute.name, f"must be from {lowest} to {_MAX_COUNT}, not {describe(value)}"
        )


def _mapping(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, Mapping | None):
        raise InputError(attribute.name, f"must be a dictionary, not {describe(value)}")


def _options(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, RunOptions | None):
        raise InputError(attribute.name, f"must be RunOptions, not {describe(value)}")


@attrs.frozen(kw_only=True)
class StartRun:
    """A run to be started.

    Raises: InputError for a value outside the documented limits, for none or several targets, and
    for a parameter that the target does not take.
    """

    deployment_config_id: str = attrs.field(validator=_required)
    multiplayer_test_id: str | None = attrs.field(default=None, validator=_optional_text)
    test_plan_id: str | None = attrs.field(default=None, validator=_optional_text)
    instructions: str | None = attrs.field(default=None, validator=_optional_text)
    build_id: str | None = attrs.field(default=None, validator=_optional_text)
    name: str | None = attrs.field(default=None, validator=_optional_text)
    agent_config_id: str | None = attrs.field(default=None, validator=_optional_text)
    additional_tags: tuple[str, ...] = attrs.field(default=(), converter=_to_tags)
    retries: int | None = attrs.field(default=None, validator=_count)
    instances: int | None = attrs.field(default=None, validator=_count)
    render_templates: bool = attrs.field(default=False, validator=_flag)
    template_data: Mapping[str, object] | None = attrs.field(
        default=None, validator=_mapping, hash=False
    )
    options: RunOptions | None = attrs.field(default=None, validator=_options)

    def __attrs_post_init__(self) -> None:
        targets = ("multiplayer_test_id", "test_plan_id", "instructions")
        given = [name for name in targets if getattr(self, name) is not None]
        if len(given) != 1:
            names = " and ".join(given) or "none"
            raise InputError("target", f"give exactly one of {', '.join(targets)}, not {names}")
        if self.name is not None and self.instructions is None:
            raise InputError("name", "goes with instructions only")
        for field in ("retries", "instances"):
            if getattr(self, field) is not None and self.multiplayer_test_id is None:
                raise InputError(field, "goes with multiplayer_test_id only")
