"""Caches of diffusers on a transformer, which skip parts of it at some steps.

A cache is a set of hooks around modules, whether it was installed by `enable_cache` or by an `apply_...` function.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from vidguide.transformer.diffusers_hooks import defining_module, disabled_hooks, hooks_of

CACHES = {
    "first_block_cache": "FirstBlockCache",
    "mag_cache": "MagCache",
    "taylorseer_cache": "TaylorSeer",
    "sea_cache": "SeaCache",
    "pyramid_attention_broadcast": "PyramidAttentionBroadcast",
    "faster_cache": "FasterCache",
    "text_kv_cache": "TextKVCache",
}
PREFIX = "vidguide_"  # of the names of our cache contexts


class Caches:
    """The caches on a transformer, as of the latest :meth:`refresh`."""

    def __init__(self, transformer: nn.Module) -> None:
        self.transformer = transformer
        self.hooks: list[Any] = []

    def refresh(self) -> None:
        """Look up the installed caches, which may change between two calls of a pipeline."""
        self.hooks = hooks_of(self.transformer, CACHES)

    @property
    def kinds(self) -> set[str]:
        """Names of the installed caches."""
        return {CACHES[defining_module(hook)] for hook in self.hooks}

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Compute every module within the block; no cache counts or stores anything."""
        if not self.hooks:
            yield
            return
        with disabled_hooks(self.hooks):
            yield

    def release(self) -> None:
        """Delete what caches store for our contexts."""
        for hook in self.hooks:
            for manager in vars(hook).values():
                states = getattr(manager, "_state_cache", {})
                for name in [name for name in states if name.startswith(PREFIX)]:
                    del states[name]

    def reset(self) -> None:
        """Reset the caches after an interrupted run, as a pipeline does at the end of a run."""
        reset_cache = getattr(self.transformer, "_reset_stateful_cache", None)
        if self.hooks and reset_cache is not None:
            reset_cache()
