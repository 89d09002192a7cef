"""Repeated calls of a module on fake tensors, counted once: blocks of a model, frames and tiles of a VAE, steps."""

import math
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from vidguide.pipelines.planning.counters import Counter, tensors

PLAIN = (bool, int, float, str, type(None), torch.dtype, torch.device)
POSITIONS = ("layer_idx",)  # attributes in which equal blocks differ


@dataclass(frozen=True)
class Made:
    """A tensor that a call made.

    Attributes:
        shape, stride, offset, dtype: of the tensor.
        source: index of the argument whose storage it has; None for a storage of its own.
        storage: number of its storage among the new ones. elements: of that storage.
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype
    source: int | None
    storage: int
    elements: int


@dataclass(frozen=True)
class Recorded:
    """What a call cost and made.

    Attributes:
        flops, moved: of the call. peak: above the memory at its begin.
        result, lists: its result, and the content of list arguments after it, with `Made` in place of tensors.
    """

    flops: int
    moved: int
    peak: int
    result: Any
    lists: list[Any]


class Unknown(Exception):  # noqa: N818 # no error: the call is run
    """An argument that cannot be compared."""


class Repeats:
    """Calls of modules by their classes, sizes and arguments. A second equal one is not run: its cost is added.

    Args:
        counter: counter of the cost.
    """

    def __init__(self, counter: Counter) -> None:
        self.counter = counter
        self.calls: dict[Any, Recorded] = {}
        self.kinds: dict[Any, int] = {}  # number of each kind of module

    @contextmanager
    def of_function(self, module: Any, name: str) -> Iterator[None]:
        """Count equal calls of a function on fake tensors once within the context.

        Args:
            module: module whose code calls the function. name: of the function there.
        """
        original = getattr(module, name)
        counted = self.counted(self.kinds.setdefault(original, len(self.kinds)), original)

        def call(*args: Any, **kwargs: Any) -> Any:  # other threads may call it on real tensors
            chosen = counted if isinstance(args[0], FakeTensor) else original
            return chosen(*args, **kwargs)

        setattr(module, name, call)
        try:
            yield
        finally:
            setattr(module, name, original)

    @contextmanager
    def within(self, root: nn.Module) -> Iterator[None]:
        """Count equal calls of the modules in a root with children, and of the root, once, within the context."""
        chosen = [module for module in root.modules() if list(module.children())]
        numbers = [self.kinds.setdefault(kind_of(module), len(self.kinds)) for module in chosen]
        for module, kind in zip(chosen, numbers, strict=True):
            module.forward = self.counted(kind, module.forward)
        try:
            yield
        finally:
            for module in chosen:
                del module.forward

    def counted(self, kind: int, forward: Any) -> Any:
        """Return a forward of a module that runs once for equal arguments."""

        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                key = (kind, signature((args, kwargs)))
            except Unknown:
                return forward(*args, **kwargs)
            if key in self.calls:
                return self.replay(self.calls[key], args, kwargs)
            self.calls[key], result = self.record(forward, args, kwargs)
            return result

        return call

    def record(self, forward: Any, args: Any, kwargs: Any) -> tuple[Recorded, Any]:
        """Run a call; return what it cost and made, and its result."""
        counter = self.counter
        before, peak = (counter.flops, counter.moved, counter.current), counter.peak
        counter.peak = counter.current
        references = [weakref.ref(each) for each in tensors((args, kwargs))]  # a call may release what lists hold
        result = forward(*args, **kwargs)
        given = [reference() for reference in references]
        flops, moved, reached = counter.flops - before[0], counter.moved - before[1], counter.peak - before[2]
        counter.peak = max(counter.peak, peak)
        storages: dict[int, int] = {}
        described = describe(result, given, storages)
        contents = [describe(each, given, storages) for each in lists_of((args, kwargs))]
        return Recorded(flops, moved, reached, described, contents), result

    def replay(self, recorded: Recorded, args: Any, kwargs: Any) -> Any:
        """Make what a call made, and add its cost."""
        counter = self.counter
        peak = max(counter.peak, counter.current + recorded.peak)
        given, bases = tensors((args, kwargs)), dict[int, Tensor]()
        result = make(recorded.result, given, bases)
        for target, content in zip(lists_of((args, kwargs)), recorded.lists, strict=True):
            target[:] = make(content, given, bases)
        counter.peak = peak  # all that was made at once is not; what it replaces was released in between
        counter.flops += recorded.flops
        counter.moved += recorded.moved
        return result


def kind_of(module: nn.Module) -> Any:
    """Return what makes two modules equal: classes, plain attributes, and shapes of the weights, of all parts."""
    parts = []
    for name, each in module.named_modules():
        plain = {key: repr(value) for key, value in vars(each).items() if key not in POSITIONS and is_plain(value)}
        weights = [(key, tuple(w.shape), w.dtype) for key, w in each._parameters.items() if w is not None]
        parts.append((name, type(each), tuple(sorted(plain.items())), tuple(weights)))
    return tuple(parts)


def is_plain(value: Any) -> bool:
    """Return whether a value is a number, a text, or a tuple or list of these."""
    return isinstance(value, PLAIN) or (isinstance(value, tuple | list) and all(map(is_plain, value)))


def signature(value: Any) -> Any:
    """Return arguments as hashable values, tensors by their layout.

    Raises:
        Unknown: for an object of another kind.
    """
    if isinstance(value, Tensor):
        return ("tensor", tuple(value.shape), value.stride(), value.dtype)
    if isinstance(value, PLAIN):
        return (type(value), value)
    if isinstance(value, Mapping):
        return ("mapping", tuple((name, signature(each)) for name, each in value.items()))
    if isinstance(value, tuple | list):
        return (type(value), tuple(map(signature, value)))
    raise Unknown


def lists_of(value: Any) -> list[list[Any]]:
    """Return all lists in nested arguments, which a call may change."""
    lists: list[list[Any]] = [value] if isinstance(value, list) else []
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple | list) else ()
    return [*lists, *(each for part in parts for each in lists_of(part))]


def describe(value: Any, given: Sequence[Tensor | None], storages: dict[int, int]) -> Any:
    """Return a result with `Made` in place of its tensors.

    Args:
        value: result.
        given: tensors among the arguments; None for those that the call released.
        storages: number of each new storage, to which further ones are added.
    """
    if isinstance(value, Tensor):
        storage = value.untyped_storage()
        alive = [(n, each.untyped_storage()._cdata) for n, each in enumerate(given) if each is not None]
        source = next((n for n, identity in alive if identity == storage._cdata), None)
        number = storages.setdefault(storage._cdata, len(storages))
        elements = storage.nbytes() // value.element_size()
        layout = tuple(value.shape), value.stride(), int(value.storage_offset())
        return Made(*layout, value.dtype, source, number, elements)
    if isinstance(value, Mapping):
        filled = {name: describe(each, given, storages) for name, each in value.items()}
        return filled if type(value) is dict else Output(type(value), filled)
    if isinstance(value, tuple | list):
        return rebuilt(value, [describe(each, given, storages) for each in value])
    return value


@dataclass(frozen=True)
class Output:
    """A mapping of another class than `dict`, such as the output of a model."""

    kind: Any
    values: dict[str, Any]


def make(value: Any, given: list[Tensor], bases: dict[int, Tensor]) -> Any:
    """Return a result with new tensors in place of `Made`.

    Args:
        value: as :func:`describe` returns it.
        given: tensors among the arguments.
        bases: a tensor of each new storage, to which further ones are added.
    """
    if isinstance(value, Made):
        if value.source is not None:
            return given[value.source].as_strided(value.shape, value.stride, value.offset)
        if value.storage not in bases:
            if value.elements == math.prod(value.shape) and not value.offset:
                bases[value.storage] = torch.empty_strided(value.shape, value.stride, dtype=value.dtype)
                return bases[value.storage]
            bases[value.storage] = torch.empty(value.elements, dtype=value.dtype)
        return bases[value.storage].as_strided(value.shape, value.stride, value.offset)
    if isinstance(value, Output):
        return value.kind(**make(value.values, given, bases))
    if isinstance(value, dict):
        return {name: make(each, given, bases) for name, each in value.items()}
    if isinstance(value, tuple | list):
        return rebuilt(value, [make(each, given, bases) for each in value])
    return value


def rebuilt(value: Any, parts: list[Any]) -> Any:
    """Return a tuple, named tuple or list of the class of another one."""
    return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
