"""Keyword arguments that several functions share, defined once in a TypedDict."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., object])


def refuse_others(given: Iterable[str], known: Iterable[str]) -> None:
    """Raise TypeError if any name in `given` is not in `known`."""
    if others := sorted({*given} - {*known}):
        raise TypeError(f"unexpected keyword arguments: {', '.join(others)}")


def takes(arguments: type, **defaults: object) -> Callable[[F], F]:
    """Show the keys of a TypedDict as keyword arguments in a function's signature.

    The function's last parameter must be ``**arguments: Unpack[...]`` of that TypedDict. Type
    checkers understand this; `help` and `inspect.signature` would only show ``**arguments``.

    Args:
        arguments: the TypedDict.
        defaults: defaults of the optional keys whose default is not None.
    """
    # At run time, a TypedDict is a plain class with the attributes used below.
    keys = cast("Any", arguments)

    def show(function: F) -> F:
        signature = inspect.signature(function)
        *explicit, options = signature.parameters.values()
        # The type argument of a generic TypedDict: `Run` in ``Unpack[WaitArguments[Run]]``.
        _, _, of = options.annotation.removesuffix("]").removeprefix("Unpack[").partition("[")
        listed = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=(
                    inspect.Parameter.empty
                    if name in keys.__required_keys__
                    else defaults.get(name)
                ),
                annotation=hint.__forward_arg__.replace("[R]", f"[{of}"),
            )
            for name, hint in keys.__annotations__.items()
        ]
        # Required parameters come first, then the keys of the TypedDict, then all others.
        first = [one for one in explicit if one.kind < one.KEYWORD_ONLY or one.default is one.empty]
        rest = [one for one in explicit if one not in first]
        listed.sort(key=lambda one: one.default is not one.empty)
        shown = signature.replace(parameters=[*first, *listed, *rest])
        cast("Any", function).__signature__ = shown
        return function

    return show
