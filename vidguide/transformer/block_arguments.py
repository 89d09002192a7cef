"""Read and replace a block's arguments by name."""

import inspect
from collections.abc import Callable
from typing import Any


class Arguments:
    """A block's arguments by name, whether they are passed by position or by keyword."""

    def __init__(self, block: Any) -> None:
        forward = type(getattr(block, "_orig_mod", block)).forward
        self.positions = {name: i for i, name in enumerate(list(inspect.signature(forward).parameters)[1:])}

    def get(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return what a call passes by that name, None where it passes nothing.

        Raises:
            KeyError: the block has no such argument.
        """
        position = self.positions[name]
        return args[position] if position < len(args) else kwargs.get(name)

    def put(self, name: str, value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """Replace a value by name: return new positional arguments, or set the keyword argument in place."""
        position = self.positions[name]
        if position < len(args):
            return (*args[:position], value, *args[position + 1 :])
        kwargs[name] = value
        return args

    def passing(self, names: tuple[str, ...]) -> Callable[..., Any]:
        """Return a function of `(args, kwargs)` that returns those arguments: one value, or a tuple of several."""

        def passed(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            values = tuple(self.get(name, args, kwargs) for name in names)
            return values if len(values) > 1 else values[0]

        return passed
