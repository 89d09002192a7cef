"""Class swap: temporarily replace `obj.__class__`, the only way in which objects of other libraries are changed."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from vidguide.restoration import restoring

PREFIX = "_vidguide_"  # of all attributes that we set on objects of other libraries
SUBCLASS = "_vidguide_subclass"  # attribute of the classes that :func:`subclass_of` makes


def subclass_of(base: Any, **members: Any) -> Any:
    """Return a subclass with some members overridden, with the name, module and docstring of its base.

    Copies and pickles of its instances are of the base, without our attributes.
    """
    names = {
        "__module__": base.__module__,
        "__doc__": base.__doc__,
        "__reduce_ex__": reduction_to(base),
        SUBCLASS: True,
    }
    return type(base.__name__, (base,), {**names, **members})


def reduction_to(base: Any) -> Callable[[Any, Any], tuple[Any, ...]]:
    """Return a `__reduce_ex__` of a subclass that makes copies and pickles plain objects of its base."""

    def reduce(self: Any, protocol: Any) -> tuple[Any, ...]:
        function, arguments, *rest = base.__reduce_ex__(self, protocol)
        function = new_object if function.__name__ == "__newobj__" else function  # of copyreg
        function, *arguments = (base if part is type(self) else part for part in (function, *arguments))
        if rest and isinstance(rest[0], dict):
            rest[0] = {name: value for name, value in rest[0].items() if not name.startswith(PREFIX)}
        return function, tuple(arguments), *rest

    return reduce


def new_object(kind: Any, *args: Any) -> Any:
    """Return a new object without calling `__init__`. (pickle refuses `copyreg.__newobj__` of another class.)"""
    return kind.__new__(kind, *args)


@contextmanager
def swapped_class(target: Any, make: Any, attribute: str, value: Any) -> Iterator[None]:
    """Replace `target.__class__` by `make(target.__class__)` within the block, with `value` stored as an attribute.

    Overriding `__call__` there intercepts calls before torch.compile, offload and cache hooks.
    """
    with swapped_classes([(target, value)], make, attribute):
        yield


@contextmanager
def swapped_classes(targets: Sequence[tuple[Any, Any]], make: Any, attribute: str) -> Iterator[None]:
    """Replace the classes of several objects, each given with its value: see :func:`swapped_class`."""
    originals = [type(target) for target, _ in targets]
    replacements = [make(original) for original in originals]

    def restore() -> None:
        for (target, _), original in zip(targets, originals, strict=True):
            target.__class__ = original
            vars(target).pop(attribute, None)

    with restoring(restore):
        for (target, value), replacement in zip(targets, replacements, strict=True):
            vars(target)[attribute] = value
            target.__class__ = replacement
        yield


def guidance_attributes(target: Any) -> set[str]:
    """Return the names of the attributes that we set on an object."""
    return {name for name in getattr(target, "__dict__", {}) if name.startswith(PREFIX)}


def restore_object(target: Any, original: Any, attributes: set[str]) -> None:
    """Restore an object's class, unless it is none of ours, and delete our attributes but the given ones."""
    if SUBCLASS in vars(type(target)):
        target.__class__ = original
    for name in guidance_attributes(target) - attributes:
        vars(target).pop(name, None)
