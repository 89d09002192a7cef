"""Classifier-free guidance and its variants, run by us: for a pipeline whose own is off, or to combine otherwise."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vidguide.calls.call import Call, Unconditional
from vidguide.calls.guided_model import GuidedModel
from vidguide.functional.formulas import cfg
from vidguide.guidances.base import Guidance
from vidguide.transformer.family import Inputs
from vidguide.transformer.negative_text import check_encodable, check_negative
from vidguide.validation import check_number


@dataclass(frozen=True, kw_only=True, eq=False)
class CFG(Guidance):
    """Classifier-free guidance `u + scale (c - u)` (Ho and Salimans, arXiv 2207.12598), at one more model call a step.

    Call the pipeline with `guidance_scale=1`: its own guidance and this one at once are refused. What a model predicts
    besides the video, its audio, is guided at the same scale, as its pipelines do.

    Attributes:
        scale: guidance scale; 1 is off.
        negative_prompt: text of the unconditional branch; None for the empty text.
        negative_prompt_embeds: `(1 or B, L, C)`, ready embeddings in place of the text; or a dict of the
            transformer's text inputs.
        start, stop: window in fractions of the steps.
        layers: not used by this guidance.

    Raises:
        TypeError, ValueError: a parameter of the wrong kind or out of its range, by name.
    """

    scale: float = 5.0
    negative_prompt: str | list[str] | None = None
    negative_prompt_embeds: Tensor | Mapping[str, Tensor] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "scale", 1)
        check_negative(self, empty=True)
        if self.layers is not None:
            name = type(self).__name__
            raise ValueError(f"{name}(layers={self.layers}): it acts on whole predictions; leave layers out")

    @property
    def neutral(self) -> bool:
        return self.scale == 1

    @property
    def extra_pass(self) -> bool:
        return not self.neutral

    def check(self, model: GuidedModel, pipe: Any) -> None:
        check_encodable(self, pipe)

    def check_run(self, call: Call) -> None:
        if call.pipeline_guides:
            self.check_pipeline_guides()
        self.negative_text(call)

    def check_pipeline_guides(self) -> None:
        name = type(self).__name__
        raise ValueError(
            f"{name} is in the list and the pipeline's own guidance_scale is above 1: pass guidance_scale=1 (or "
            f"true_cfg_scale=1, where there is one) to the pipeline, or take {name} out of the list"
        )

    def negative_text(self, call: Call) -> Inputs:
        """Return the text inputs of the unconditional branch."""
        prompt = None if self.negative_prompt_embeds is not None else self.negative_prompt or ""
        return call.encode_negative(prompt, self.negative_prompt_embeds)

    def combine(self, call: Call, predictions: list[Any], unconditional: Unconditional) -> list[Any]:
        (cond, *extra), (uncond, *uncond_extra) = predictions, unconditional(self.negative_text(call))
        guided_extra = [
            cfg(output, other, self.scale) if isinstance(output, Tensor) and isinstance(other, Tensor) else output
            for output, other in zip(extra, uncond_extra, strict=True)
        ]
        return [self.rule(call, cond, uncond), *guided_extra]

    def rule(self, call: Call, cond: Tensor, uncond: Tensor) -> Tensor:
        """Return the guided prediction from the two; variants differ here."""
        return cfg(cond, uncond, self.scale)


@dataclass(frozen=True, kw_only=True, eq=False)
class APG(CFG):
    """Adaptive Projected Guidance (Sadat et al., arXiv 2410.02416), by diffusers' own function.

    Attributes:
        scale: guidance scale; 1 is off.
        eta: share of the update parallel to the conditional prediction, 0 to 1; 1 keeps it all.
        rescale: largest L2 norm of the update; 0 for no limit.
        momentum: of the update over the steps; 0 for none, negative as in the paper.
    """

    eta: float = 0.0
    rescale: float = 15.0
    momentum: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "eta", 0, 1)
        check_number(self, "rescale", 0)
        check_number(self, "momentum", -1, 1)

    def rule(self, call: Call, cond: Tensor, uncond: Tensor) -> Tensor:
        from diffusers.guiders import adaptive_projected_guidance as upstream

        def new_buffer() -> Any:
            return upstream.MomentumBuffer(self.momentum) if self.momentum else None

        buffer = call.cached(self, new_buffer)
        # The norms run over all dimensions but the batch: diffusers' default, and the paper's.
        return upstream.normalized_guidance(cond, uncond, self.scale, buffer, self.eta, self.rescale)


@dataclass(frozen=True, kw_only=True, eq=False)
class CFGZeroStar(CFG):
    """CFG-Zero* (Fan et al., arXiv 2503.18886), by diffusers' own optimal scale.

    Attributes:
        scale: guidance scale; 1 is off.
        zero_steps: first steps that predict nothing at all; the paper's zero-init takes 1, 0 is off.
    """

    zero_steps: int = 1

    def rule(self, call: Call, cond: Tensor, uncond: Tensor) -> Tensor:
        from diffusers.guiders.classifier_free_zero_star_guidance import cfg_zero_star_scale

        if call.step < self.zero_steps:
            return torch.zeros_like(cond)
        # diffusers' function sums over dimension 1 alone; the paper's inner product runs over the whole sample.
        optimal = cfg_zero_star_scale(cond.flatten(1), uncond.flatten(1)).view(-1, *[1] * (cond.ndim - 1))
        return cfg(cond, optimal * uncond, self.scale)
