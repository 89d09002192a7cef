"""Class swap: temporarily replace `obj.__class__`, the only way in which objects of other libraries are changed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def subclass_of(base: Any, **members: Any) -> Any:
    """Return a subclass with some members overridden, with the name, module and docstring of its base."""
    return type(base.__name__, (base,), {"__module__": base.__module__, "__doc__": base.__doc__, **members})


@contextmanager
def swapped_class(target: Any, make: Any, attribute: str, value: Any) -> Iterator[None]:
    """Replace `target.__class__` by `make(target.__class__)` within the block, with `value` stored as an attribute.

    Overriding `__call__` there intercepts calls before torch.compile, offload and cache hooks.
    """
    original = type(target)
    replacement = make(original)
    vars(target)[attribute] = value
    target.__class__ = replacement
    try:
        yield
    finally:
        target.__class__ = original
        vars(target).pop(attribute, None)
