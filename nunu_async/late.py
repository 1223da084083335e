"""Names that are loaded when something asks for them.

What a program does not use it need not load: the models of runs where it uploads, the upload where
it only lists.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module

__all__ = ["names_of"]


def names_of(package: str, homes: Mapping[str, Sequence[str]]) -> Callable[[str], object]:
    """Return a `__getattr__` for a package: it loads the module that has the name asked for.

    A name that has no home may be that of a module in the package. Any number of threads may ask:
    Python loads a module once. Source: PEP 562.

    Args:
        package: the name of the package.
        homes: the names that each of its modules has.
    """
    home_of = {name: home for home, names in homes.items() for name in names}

    def load(name: str) -> object:
        module = f"{package}.{home_of.get(name, name)}"
        if name.isidentifier() and not name.startswith(
            "_"
        ):  # those are looked for by tools, in any module
            try:
                found: object = import_module(module)
            except ModuleNotFoundError as error:
                if error.name != module:
                    raise
            except OSError as error:  # no descriptor left, as a rule
                from nunu_async.errors import (  # noqa: PLC0415 - all else here is light
                    ConfigError,
                    NunuError,
                )

                file = os.environ.get("SSLKEYLOGFILE")
                if file and error.filename == file:  # which aiohttp opens as it is imported
                    raise ConfigError(
                        f"SSLKEYLOGFILE: {file!a} cannot be written ({error.strerror}); unset it, "
                        "or name a file that can be written"
                    ) from None
                raise NunuError(f"cannot load {module}: {error.strerror}") from error
            else:
                if name in home_of:
                    found = getattr(found, name)
                    setattr(sys.modules[package], name, found)
                return found
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return load
