"""diffusers' caches, which leave parts of a model out: what may run beside each of them, and what is refused.

A cache is a number of hooks around modules, whether it was put on by `enable_cache` or by one of the `apply_...`
functions.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import nn

from vidguide.transformer.diffusers_hooks import bypassed, hooks_of, origin
from vidguide.transformer.family import Family

if TYPE_CHECKING:
    from vidguide.guidances.base import Guidance

CACHES = {
    "first_block_cache": "FirstBlockCache",
    "mag_cache": "MagCache",
    "taylorseer_cache": "TaylorSeer",
    "sea_cache": "SeaCache",
    "pyramid_attention_broadcast": "PyramidAttentionBroadcast",
    "faster_cache": "FasterCache",
    "text_kv_cache": "TextKVCache",
}
OF_ALL_PASSES = {"PyramidAttentionBroadcast", "FasterCache", "SeaCache", "TextKVCache"}  # no state for each context
OF_BLOCKS = {"FirstBlockCache", "MagCache"}
OWN = "vidguide_"  # how the names of our cache contexts begin
OFF = "call disable_cache() on the transformer"


class Caches:
    """The caches on a transformer, as they are when :meth:`look` is called."""

    def __init__(self, transformer: nn.Module) -> None:
        self.transformer = transformer
        self.hooks: list[Any] = []

    def look(self) -> None:
        """See which caches are on now: they come and go between two calls of a pipeline."""
        self.hooks = hooks_of(self.transformer, CACHES)

    @property
    def kinds(self) -> set[str]:
        """Names of the caches."""
        return {CACHES[origin(hook)] for hook in self.hooks}

    @contextmanager
    def bypassed(self) -> Iterator[None]:
        """Within, every module computes, and no cache counts or keeps anything."""
        with bypassed(self.hooks):
            yield

    def forget(self) -> None:
        """Let go of what caches kept for contexts of ours."""
        for hook in self.hooks:
            for manager in vars(hook).values():
                states = getattr(manager, "_state_cache", {})
                for name in [name for name in states if name.startswith(OWN)]:
                    del states[name]

    def reset(self) -> None:
        """After a run that was broken off: let caches begin anew, as a pipeline does where a run ends."""
        begin_anew = getattr(self.transformer, "_reset_stateful_cache", None)
        if self.hooks and begin_anew is not None:
            begin_anew()

    def check(self, guidance: "Guidance", family: Family, depth: int) -> None:
        """Refuse, before the first step of a run, a guidance that a cache would answer wrongly.

        Raises:
            ValueError: naming the guidance, the cache, why they do not fit, and what to do.
        """
        for kind in sorted(self.kinds):
            reason = self._reason(kind, guidance, family, depth)
            if reason is not None and not guidance.neutral:
                raise ValueError(f"{type(guidance).__name__} with {kind}: {reason}, or {OFF}")

    def check_uncond(self, guidance: "Guidance", family: Family) -> None:
        """Refuse the same where the pipeline calls the model for its unconditional branch too."""
        shared = self.kinds & OF_ALL_PASSES
        if shared and family.joint is not None:
            raise ValueError(
                f"{type(guidance).__name__} with {shared.pop()}: it keeps one state for conditional and unconditional "
                "calls, whose texts differ in length here; switch off the pipeline's own guidance (true_cfg_scale=1, "
                f"or guidance_scale=1), or {OFF}"
            )

    def _reason(self, kind: str, guidance: "Guidance", family: Family, depth: int) -> str | None:
        """Why a guidance does not go with a cache, and what else to do than to switch it off."""
        name = type(guidance).__name__
        if kind == "FasterCache" and not all(getattr(hook, "is_guidance_distilled", True) for hook in self.hooks):
            return (
                "it leaves out the unconditional half of some batches, and nothing tells of which; call the pipeline "
                "without guidance_scale and with is_guidance_distilled=True in the cache's config"
            )
        if not guidance.extra_pass:
            longer = "texts kept are longer within the window than outside; leave out start and stop"
            return longer if guidance.windowed and family.joint is not None else None
        if kind in OF_ALL_PASSES:
            return f"it keeps one state for all passes, {name}'s further one too; use FirstBlockCache"
        if kind == "TaylorSeer" and guidance.start > 0:
            # At the same step one pass would be extrapolated and the other computed, and their difference is scaled.
            return f"it counts the steps of {name}'s further pass from {name}'s own first one on; give start=0"
        if kind == "MagCache" and guidance.windowed:
            return "its ratios count the passes from the first step on; give start=0, stop=1"
        if kind in OF_BLOCKS and {0, depth - 1} & set(guidance.skipped(depth)):
            return "it is driven by the first and the last block, one of which is skipped; choose other layers"
        return None
