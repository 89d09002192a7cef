"""The one way in which objects of others are changed: for a while, and from outside."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def subclass(own: Any, **members: Any) -> Any:
    """A subclass with some members of its own, and for all who look at it, by the same name and from the same place."""
    return type(own.__name__, (own,), {"__module__": own.__module__, "__doc__": own.__doc__, **members})


@contextmanager
def as_class(target: Any, make: Any, attribute: str, value: Any) -> Iterator[None]:
    """Let an object be of a subclass of its own class for a while: the one change that sees its calls from outside
    whatever compile, offload, hooks and caches have put around its `forward`."""
    own = type(target)
    guided = make(own)
    vars(target)[attribute] = value
    target.__class__ = guided
    try:
        yield
    finally:
        target.__class__ = own
        vars(target).pop(attribute, None)
