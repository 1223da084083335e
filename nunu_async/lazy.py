"""Lazy imports: the names of a package are loaded on first access.

A program loads only what it uses: no run models if it only uploads, no upload code if it only
lists.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module


def lazy_exports(
    package: str, homes: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """Return the `__getattr__`, `__dir__` and `__all__` of a package.

    The `__getattr__` imports the module of a name on first access. A name that is not in `homes`
    may be a module of the package. Thread-safe: Python loads a module once. Source: PEP 562.

    Args:
        package: the name of the package.
        homes: the names that each module exports, keyed by module.
    """
    home_of = {name: home for home, names in homes.items() for name in names}

    def load(name: str) -> object:
        module = f"{package}.{home_of.get(name, name)}"
        # Tools probe every module for private names, which are never exported.
        if name.isidentifier() and not name.startswith("_"):
            try:
                value: object = import_module(module)
            except ModuleNotFoundError as error:
                if error.name != module:
                    raise
            except OSError as error:  # usually out of file descriptors
                from nunu_async.errors import (  # noqa: PLC0415 - only needed after a failure
                    ConfigError,
                    NunuError,
                )

                file = os.environ.get("SSLKEYLOGFILE")
                if file and error.filename == file:  # aiohttp opens it on import
                    raise ConfigError(
                        f"SSLKEYLOGFILE: {file!a} cannot be written ({error.strerror}); unset it, "
                        "or name a file that can be written"
                    ) from None
                raise NunuError(f"cannot load {module}: {error.strerror}") from error
            else:
                if name in home_of:
                    value = getattr(value, name)
                    setattr(sys.modules[package], name, value)
                return value
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *home_of})

    return load, names, sorted(home_of)
