"""Arms timed on one model: unguided, vidguide's guidances, and the published implementations."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from gpu_models import Call, share_weights
from torch import Tensor

from vidguide import CFG, EMAG, NAG, guide
from vidguide.edits.nag_attention import CrossAttentionNAG
from vidguide.edits.nag_combine import Combination
from vidguide.functional.nag import nag

STEPS, INSIDE, BEFORE = 10, 5, 1  # steps of the run, one in EMAG's window, one in which it only averages
Arm = Callable[[], Any]


class Arms:
    """Arms of one model, guided while the stack is open; all share its weights.

    If only some layers are built, EMAG averages and perturbs the one at a quarter of the depth, so that the perturbed
    pass has the same share of the model as in the full depth; otherwise it chooses among its candidates.
    """

    def __init__(self, model: Any, is_complete: bool, call: Call, negative: Call, stack: ExitStack) -> None:
        self.model, self.call, self.negative, self.stack = model, call, negative, stack
        self.cfg = CFG(scale=5, negative_prompt_embeds=negative)
        self.nag = NAG(negative_prompt_embeds=negative)
        depth = len(blocks_of(model))
        self.emag = EMAG() if is_complete else EMAG(select=(round(0.25 * depth),))
        self.layers = self.emag.candidates(depth)

    def unguided(self) -> Arm:
        """Return the arm of the unguided model."""
        return lambda: self.model(**self.call)

    def guided(self, *guidances: Any, step: int = INSIDE) -> Arm:
        """Return an arm with vidguide's guidances, at a step of a started run with a filled run cache."""
        model, scheduler = share_weights(self.model), FlowMatchEulerDiscreteScheduler()
        run = self.stack.enter_context(guide(model, *guidances, scheduler=scheduler))
        scheduler.set_timesteps(STEPS)
        model(**self.call)

        def arm() -> None:
            run.step = step
            model(**self.call)

        return arm

    def published_nag(self) -> Arm:
        """Return NAG with both texts in a doubled batch of every attention, combined by eager formulas."""
        with published_attention():
            arm = self.guided(self.nag)

        def published() -> None:
            with published_attention():
                arm()

        return published

    def published_emag(self) -> Arm:
        """Return EMAG with two full further passes of both CFG branches, averages in the model's dtype, and eager
        formulas."""
        model, texts = share_weights(self.model), [{}, self.negative]
        averages_of = [
            [QueryAverage(module, self.stack) for module in query_projections(model, self.layers)] for _ in texts
        ]

        def arm() -> None:
            for text in texts:
                model(**{**self.call, **text})
            for text, averages in zip(texts, averages_of, strict=True):
                for number, averaged in enumerate(averages):
                    averaged.active, averaged.replaces = True, number == 0
                model(**{**self.call, **text})
                for averaged in averages:
                    averaged.active = False

        arm()
        return arm

    def all(self) -> dict[str, Callable[[], Arm]]:
        """Return the functions that make each arm, by name. The first two are the references of the others."""
        return {
            "unguided": self.unguided,
            "CFG": lambda: self.guided(self.cfg),
            "NAG": lambda: self.guided(self.nag),
            "NAG as published": self.published_nag,
            "CFG + EMAG": lambda: self.guided(self.cfg, self.emag),
            "CFG + EMAG before its window": lambda: self.guided(self.cfg, self.emag, step=BEFORE),
            "CFG + EMAG as published": self.published_emag,
        }


@contextmanager
def published_attention() -> Iterator[None]:
    """Patch NAG to compute as its authors' code: two full attentions, no fused operations."""

    def attend_doubled(self: Any, kernel: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        masks = [mask for mask in (kernel.mask, self.mask) if mask is not None]
        keys, values = torch.cat([key, self.key]), torch.cat([value, self.value])
        both = kernel(torch.cat([query, query]), keys, values, torch.cat(masks) if masks else None)
        return self.combine(kernel, *both.chunk(2))

    def combine(self: Any, kernel: Any, positive: Tensor, negative: Tensor) -> Tensor:
        return nag(positive, negative, *self.strength).output.to(positive.dtype)

    with (
        patch.object(CrossAttentionNAG, "__call__", attend_doubled),
        patch.object(Combination, "__call__", combine),
        patch("vidguide.edits.nag_attention.select_pair", lambda *args: None),
    ):
        yield


def blocks_of(model: Any) -> list[Any]:
    """Return the blocks of a model in execution order."""
    stacks = [getattr(model, name, []) for name in ("blocks", "transformer_blocks", "single_transformer_blocks")]
    return [block for stack in stacks for block in stack]


def query_projections(model: Any, layers: tuple[int, ...]) -> list[Any]:
    """Return the query projections of the self-attention of some layers."""
    chosen = [blocks_of(model)[layer] for layer in layers]
    return [(block.attn1 if hasattr(block, "attn1") else block.attn).to_q for block in chosen]


class QueryAverage:
    """Running average of a module's output, which replaces the output in the perturbed layer."""

    def __init__(self, module: Any, stack: ExitStack) -> None:
        self.average: Tensor | None = None
        self.active = self.replaces = False
        handle = module.register_forward_hook(self.hook)
        stack.callback(handle.remove)

    def hook(self, module: Any, args: Any, output: Tensor) -> Tensor | None:
        if not self.active:
            return None
        if self.average is None:
            self.average = output.clone()
        self.average = 0.988 * self.average + (1 - 0.988) * output
        self.gradient = (self.average - output).abs().mean()
        return self.average if self.replaces else None
