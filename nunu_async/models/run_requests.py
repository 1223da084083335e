"""The parameters of a start, validated against the documented limits before sending.

Source: API reference, "Start Run".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import attrs
from attrs.validators import optional

from nunu_async.errors import InputError
from nunu_async.models.checks import check, is_a, is_whole, string_list

__all__ = ["GpsLocation", "RunOptions", "StartRun"]

_MAX_COUNT = 10


_required = check(
    lambda value: isinstance(value, str) and bool(value.strip()), "a string that is not empty"
)
_optional_text = optional(_required)
_string = check(is_a(str | None), "a string")
_seconds = optional(check(is_whole(0), "whole seconds from 0 on"))
_retries = optional(check(is_whole(0, _MAX_COUNT), f"from 0 to {_MAX_COUNT}"))
_instances = optional(check(is_whole(1, _MAX_COUNT), f"from 1 to {_MAX_COUNT}"))
_flag = check(is_a(bool), "True or False")
_choice = optional(_flag)
_mapping = check(is_a(Mapping | None), "a dictionary")


@attrs.frozen(kw_only=True)
class GpsLocation:
    """A position in degrees, given as strings as the API requires."""

    lat: str = attrs.field(validator=_required)
    long: str = attrs.field(validator=_required)


_gps = check(
    lambda value: value == "auto" or isinstance(value, GpsLocation | None),
    '"auto" or a GpsLocation',
)


@attrs.frozen(kw_only=True)
class RunOptions:
    """How a run is played; every option is optional."""

    min_time_seconds: int | None = attrs.field(default=None, validator=_seconds)
    """Dropped from the documentation during 2026."""
    max_time_seconds: int | None = attrs.field(default=None, validator=_seconds)
    """Dropped from the documentation during 2026."""
    performance_monitoring: bool | None = attrs.field(default=None, validator=_choice)
    mobile_auto_grant_permissions: bool | None = attrs.field(default=None, validator=_choice)
    mobile_geolocation: str | None = attrs.field(default=None, validator=_string)
    """Name of a proxy location."""
    mobile_gpslocation: Literal["auto"] | GpsLocation | None = attrs.field(
        default=None, validator=_gps
    )
    """``auto`` needs `mobile_geolocation`."""

    def __attrs_post_init__(self) -> None:
        if self.mobile_gpslocation == "auto" and not self.mobile_geolocation:
            raise InputError("mobile_gpslocation", "auto needs mobile_geolocation")


def _to_tags(value: Sequence[str]) -> tuple[str, ...]:
    return tuple(string_list("additional_tags", value))


_options = check(is_a(RunOptions | None), "RunOptions")


@attrs.frozen(kw_only=True)
class StartRun:
    """A run to be started.

    Raises: InputError for a value outside the documented limits, for no target or several, and for
    a parameter that does not apply to the target.
    """

    deployment_config_id: str = attrs.field(validator=_required)
    multiplayer_test_id: str | None = attrs.field(default=None, validator=_optional_text)
    test_plan_id: str | None = attrs.field(default=None, validator=_optional_text)
    instructions: str | None = attrs.field(default=None, validator=_optional_text)
    build_id: str | None = attrs.field(default=None, validator=_optional_text)
    name: str | None = attrs.field(default=None, validator=_optional_text)
    agent_config_id: str | None = attrs.field(default=None, validator=_optional_text)
    additional_tags: tuple[str, ...] = attrs.field(default=(), converter=_to_tags)
    retries: int | None = attrs.field(default=None, validator=_retries)
    instances: int | None = attrs.field(default=None, validator=_instances)
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
