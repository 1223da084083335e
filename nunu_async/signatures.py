"""Keyword arguments that several functions take, from one list of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., object])


def takes(arguments: type, **defaults: object) -> Callable[[F], F]:
    """Show the keys of a TypedDict as the keyword arguments of a function.

    For a function that ends in ``**arguments: Unpack[...]`` of that TypedDict. Type checkers read
    that; `help` and `inspect.signature` would only show ``**arguments``.

    Args:
        arguments: the TypedDict.
        defaults: of the keys that may be left out and whose default is not None.
    """
    # At run time it is a plain class with these attributes.
    keys = cast("Any", arguments)

    def show(function: F) -> F:
        signature = inspect.signature(function)
        explicit = [
            parameter
            for parameter in signature.parameters.values()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        listed = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=(
                    inspect.Parameter.empty
                    if name in keys.__required_keys__
                    else defaults.get(name)
                ),
                annotation=hint.__forward_arg__,
            )
            for name, hint in keys.__annotations__.items()
        ]
        shown = signature.replace(parameters=[*explicit, *listed])
        cast("Any", function).__signature__ = shown
        return function

    return show
