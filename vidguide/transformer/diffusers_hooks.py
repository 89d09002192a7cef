"""diffusers' hooks around modules: which there are, and calls without them.

They are known by the module of diffusers that their classes come from: so it does not matter by which function one was
put on, and nothing is imported.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


def origin(hook: Any) -> str:
    """The module of diffusers that a hook's class comes from, without its packages."""
    return type(hook).__module__.rpartition(".")[2]


def hooks_of(transformer: nn.Module, origins: Collection[str]) -> list[Any]:
    """The hooks on a transformer's modules that come from some of diffusers' own."""
    registries = [getattr(module, "_diffusers_hook", None) for module in transformer.modules()]
    hooks = {id(hook): hook for registry in registries if registry is not None for hook in registry.hooks.values()}
    return [hook for hook in hooks.values() if origin(hook) in origins]


@contextmanager
def bypassed(hooks: list[Any]) -> Iterator[None]:
    """Within, the modules are called as if these hooks were not there."""
    kept = [(ref := hook.fn_ref, ref.pre_forward, ref.forward, ref.post_forward) for hook in hooks]
    try:
        for ref, *_ in kept:
            ref.pre_forward, ref.post_forward = _same_arguments, _same_output
            ref.forward = ref.original_forward or ref.forward
        yield
    finally:
        for ref, before, forward, after in kept:
            ref.pre_forward, ref.forward, ref.post_forward = before, forward, after


def _same_arguments(module: Any, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwargs


def _same_output(module: Any, output: Any) -> Any:
    return output
