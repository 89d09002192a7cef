"""Classifier-free guidance run by vidguide, and the base class of its variants."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from torch import Tensor

from vidguide.attention.plan import EMPTY, AttentionPlan
from vidguide.calls.call import AUDIO, Call, Unconditional
from vidguide.calls.guided_model import GuidedModel
from vidguide.calls.pass_interval import PassInterval
from vidguide.functional.cfg import cfg
from vidguide.guidances.base import Guidance
from vidguide.guidances.schedule import (
    Schedule,
    check_run_scale,
    guided_steps,
    is_constant,
    may_be,
    scale_of,
)
from vidguide.transformer.family import Inputs
from vidguide.transformer.negative_text import check_encodable, check_negative
from vidguide.validation import Range


@dataclass(frozen=True, kw_only=True, eq=False)
class CFG(Guidance):
    """Classifier-free guidance `u + scale (c - u)` (Ho and Salimans, arXiv 2207.12598), one more model call per step.

    Call the pipeline with `guidance_scale=1`: using both at once is refused. Other predictions of the model (audio) are
    combined by plain CFG at the same scale and rescale, as their pipelines do.

    Attributes:
        scale: guidance scale, at least 1; 1 is off. A list has one value per step; a callable receives the progress,
            the fraction of completed steps. Steps at scale 1 make no unconditional call.
        rescale: phi of Lin et al. (arXiv 2305.08891, eq. 15 and 16), 0 to 1: how far the guided prediction is rescaled
            to the standard deviation of the conditional one; 0 is off. Published: 0.7.
        negative_prompt: text of the unconditional branch; None for the `negative_prompt` (or its embeddings) of each
            call of the pipeline, or the empty text where a call has none.
        negative_prompt_embeds: `(1 or B, L, C)`, ready embeddings in place of the text; or a dict of the
            transformer's text inputs.
        every: k, at least 1: an unconditional call at every k-th guided step, whose difference from the conditional
            prediction the steps in between use again, at their own scale. 1, as published, is the default.
        start, stop: window in fractions of the steps.
        layers: not used by this guidance.

    Raises:
        TypeError, ValueError: a parameter of the wrong kind or out of its range, by name.

    Examples:
        >>> from vidguide import CFG
        >>> CFG(scale=5.0, negative_prompt="blurry").neutral
        False
        >>> CFG(scale=lambda progress: 5.0 if progress < 0.5 else 1.0).neutral  # in the first half of the run
        False
        >>> CFG(scale=1).neutral
        True
    """

    scale: Annotated[Schedule, Range(1)] = 5.0
    rescale: Annotated[float, Range(0, 1)] = 0.0
    negative_prompt: str | list[str] | None = None
    negative_prompt_embeds: Tensor | Mapping[str, Tensor] | None = None
    every: Annotated[int, Range(1)] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_negative(self, empty=True)
        if self.layers is not None:
            name = type(self).__name__
            raise ValueError(f"{name}(layers={self.layers}): it acts on whole predictions; leave layers out")

    @property
    def neutral(self) -> bool:
        return is_constant(self.scale, 1)

    @property
    def once_a_step(self) -> bool:
        return True

    @property
    def reads_negative(self) -> bool:
        return self.negative_prompt is None and self.negative_prompt_embeds is None

    @property
    def needs_steps(self) -> bool:
        return super().needs_steps or not isinstance(self.scale, int | float) or (self.every > 1 and not self.neutral)

    @property
    def pauses(self) -> bool:
        return not self.neutral and (self.every > 1 or may_be(self.scale, 1))

    @property
    def extra_pass(self) -> bool:
        return not self.neutral

    def check(self, model: GuidedModel, pipe: Any) -> None:
        if model.family.reads_cache is not None and not self.neutral:
            raise ValueError(
                f"{type(self).__name__}: {model.family.name} has a key-value cache, written under the prompt, which an "
                "unconditional pass would read; leave it out, or use the pipeline's own guidance where it has one"
            )
        check_encodable(self, pipe)

    def check_run(self, call: Call) -> None:
        if call.pipeline_guides:
            self.check_pipeline_guides()
        check_run_scale(self, call, 1)
        self.negative_text(call)

    def check_pipeline_guides(self) -> None:
        name = type(self).__name__
        raise ValueError(
            f"{name} is in the list and the pipeline's guidance_scale is above 1: pass guidance_scale=1 (or "
            f"true_cfg_scale=1, where there is one) to the pipeline, or take {name} out of the list"
        )

    def negative_text(self, call: Call) -> Inputs:
        """Return the text inputs of the unconditional branch."""
        return call.encode_negative(self.negative_prompt, self.negative_prompt_embeds)

    def combine(self, call: Call, predictions: list[Any], unconditional: Unconditional) -> list[Any]:
        scale = self.scale_of(call)
        if scale == 1:
            return predictions
        (cond, *extra), (uncond, *uncond_extra) = predictions, self.unconditional(call, predictions, unconditional)
        guided_extra = [
            call.rescale(cfg(output, uncond_output, scale).to(output.dtype), output, self.rescale, AUDIO)
            if isinstance(output, Tensor) and isinstance(uncond_output, Tensor)
            else output
            for output, uncond_output in zip(extra, uncond_extra, strict=True)
        ]
        guided = self.rule(call, call.generated(cond), call.generated(uncond)).to(cond.dtype)
        return [call.rescale(call.with_generated(cond, guided), cond, self.rescale), *guided_extra]

    @functools.cached_property
    def interval(self) -> PassInterval:
        """Which guided steps make an unconditional call."""
        return PassInterval(self.every)

    def plan(self, call: Call) -> AttentionPlan:
        name = type(self).__name__
        note = f"{name}: an unconditional call at every {self.every} guided steps, its difference reused"
        return AttentionPlan(notes=(note,)) if self.every > 1 else EMPTY

    def unconditional(self, call: Call, predictions: list[Any], unconditional: Unconditional) -> list[Any]:
        """Return the unconditional predictions of a call, or their estimates from the latest ones."""
        if not self.interval.is_due(call, guided_steps(self, call.steps, 1)):
            return self.interval.reused(call, predictions)
        others = unconditional(self.negative_text(call))
        self.interval.store(call, predictions, others)
        return others

    def scale_of(self, call: Call) -> float:
        """Return the scale at the step of a call.

        Raises:
            ValueError: a callable returned less than 1.
        """
        return scale_of(self, call, 1)

    def rule(self, call: Call, cond: Tensor, uncond: Tensor) -> Tensor:
        """Combine the conditional and the unconditional prediction `(B, ...)`. Variants override this."""
        return cfg(cond, uncond, self.scale_of(call))
