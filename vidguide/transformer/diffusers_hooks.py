"""Hooks of diffusers around modules: list them, and disable them temporarily.

Hooks are recognised by the module of diffusers that defines their class, so that it does not matter which function
installed them, and nothing of diffusers is imported.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from vidguide.restoration import restoring


def defining_module(hook: Any) -> str:
    """Return the name, without packages, of the diffusers module that defines a hook's class."""
    return type(hook).__module__.rpartition(".")[2]


def hooks_of(transformer: nn.Module, modules: Collection[str]) -> list[Any]:
    """Return the hooks on a transformer's modules that are defined in some modules of diffusers."""
    registries = [getattr(module, "_diffusers_hook", None) for module in transformer.modules()]
    hooks = {id(hook): hook for registry in registries if registry is not None for hook in registry.hooks.values()}
    return [hook for hook in hooks.values() if defining_module(hook) in modules]


@contextmanager
def disabled_hooks(hooks: list[Any]) -> Iterator[None]:
    """Call modules as if these hooks were not installed, within the block."""
    before = [(ref := hook.fn_ref, ref.pre_forward, ref.forward, ref.post_forward) for hook in hooks]

    def restore() -> None:
        for ref, pre_forward, forward, post_forward in before:
            ref.pre_forward, ref.forward, ref.post_forward = pre_forward, forward, post_forward

    with restoring(restore):
        for ref, *_ in before:
            ref.pre_forward, ref.post_forward = _same_arguments, _same_output
            ref.forward = ref.original_forward or ref.forward
        yield


def _same_arguments(module: Any, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwargs


def _same_output(module: Any, output: Any) -> Any:
    return output
