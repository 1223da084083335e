"""The API key, which a command line has from the environment only."""

from __future__ import annotations

import os

from nunu_async.config import KEY_VARIABLES
from nunu_async.errors import ConfigError

__all__ = ["check_key"]


def check_key() -> None:
    """Tell who has no key what can be done without one.

    Raises: ConfigError.
    """
    if not any(os.environ.get(name, "").strip() for name in KEY_VARIABLES):
        raise ConfigError(
            f"no API key: neither {' nor '.join(KEY_VARIABLES)} is set; `nunu-async demo` needs "
            "none, and `nunu-async sandbox` is a local nunu.ai that comes with one"
        )
