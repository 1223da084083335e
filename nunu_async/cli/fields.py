"""Fields of an attrs class from the arguments of a command, or from another object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs


def fields_from(target: type[attrs.AttrsInstance], values: Mapping[str, object]) -> dict[str, Any]:
    """Return those of the values that are fields of a class, by name."""
    return {field: values[field] for field in attrs.fields_dict(target) if field in values}
