"""A ledger of the objects that guidance may change, taken before it changes any, from which they are restored."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from torch import nn

from vidguide.transformer.class_swap import guidance_attributes, restore_object
from vidguide.transformer.text_stream import restore_blocks


class Ledger:
    """What restores some objects, each independently of the others, and as often as it is called.

    The contexts in which guidance changes a model restore it too, in the right order; an interrupt within their code
    may leave some of it undone.
    """

    def __init__(self) -> None:
        self._entries: list[Callable[[], None]] = []

    def add(self, restore: Callable[[], None]) -> None:
        """Add an entry, which must be idempotent."""
        self._entries.append(restore)

    def add_objects(self, objects: Iterable[Any]) -> None:
        """Add objects whose classes and attributes are to be as they are now."""
        for target in objects:
            self.add(partial(restore_object, target, type(target), guidance_attributes(target)))

    def add_model(self, model: nn.Module) -> None:
        """Add all modules of a model, and its lists of blocks."""
        modules = list(model.modules())
        for stack in modules:
            if isinstance(stack, nn.ModuleList):
                self.add(partial(restore_blocks, stack, list(stack)))
        self.add_objects(modules)

    def restore(self) -> None:
        """Restore everything.

        Raises:
            Exception: the first error of an entry, after all others are restored.
        """
        errors = []
        for restore in self._entries:
            try:
                restore()
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]
