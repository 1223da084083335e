"""The API key, which the command line takes from the environment only."""

from __future__ import annotations

import os

from nunu_async.config import KEY_VARIABLES
from nunu_async.errors import ConfigError


def check_key() -> None:
    """Raise ConfigError if no API key is set; its message names what works without one."""
    if not any(os.environ.get(name, "").strip() for name in KEY_VARIABLES):
        raise ConfigError(
            f"no API key: neither {' nor '.join(KEY_VARIABLES)} is set; `nunu-async demo` needs "
            "none, and `nunu-async sandbox` is a local nunu.ai that comes with one"
        )
