"""What the figures of a benchmark depend on, and where they are reported."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

__all__ = ["describe", "tell"]


def describe(*packages: str, **more: object) -> dict[str, object]:
    """Return the Python, versions of packages, the system and its cores, and what else is given."""
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
        "system": platform.platform(),
        "cores": os.cpu_count(),
        **more,
    }


def tell(machine: Mapping[str, object], figures: Mapping[str, object], path: Path | None) -> None:
    """Print what the machine is; write it with the figures as JSON where a path is given."""
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    if path:
        path.write_text(json.dumps({"machine": machine, **figures}, indent=1))
