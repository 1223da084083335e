"""Select fields of an attrs class from command arguments or another object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs


def fields_from(target: type[attrs.AttrsInstance], values: Mapping[str, object]) -> dict[str, Any]:
    """Return the values whose names are fields of a class."""
    return {field: values[field] for field in attrs.fields_dict(target) if field in values}
