"""A block's arguments by name."""

import inspect
from collections.abc import Callable
from typing import Any


class Arguments:
    """A block's arguments by name, whether they are passed by position or by keyword."""

    def __init__(self, block: Any) -> None:
        forward = type(getattr(block, "_orig_mod", block)).forward
        self.places = {name: i for i, name in enumerate(list(inspect.signature(forward).parameters)[1:])}

    def get(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What a call passes by that name, None where it does not.

        Raises:
            KeyError: the block has no such argument.
        """
        place = self.places[name]
        return args[place] if place < len(args) else kwargs.get(name)

    def put(self, name: str, value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """Pass another value by that name: the positional arguments anew, or the keyword's in place."""
        place = self.places[name]
        if place < len(args):
            return (*args[:place], value, *args[place + 1 :])
        kwargs[name] = value
        return args

    def passing(self, names: tuple[str, ...]) -> Callable[..., Any]:
        """What a block would return that passes those arguments on: the one, or a tuple of them."""

        def passed(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            values = tuple(self.get(name, args, kwargs) for name in names)
            return values if len(values) > 1 else values[0]

        return passed
