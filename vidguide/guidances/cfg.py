"""Classifier-free guidance run by vidguide, and the base class of its variants."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from vidguide.functional.cfg import cfg, rescale_std
from vidguide.guidances.base import Guidance
from vidguide.guidances.schedule import Schedule, check_schedule, check_steps, is_constant, scale_at
from vidguide.transformer.family import Inputs
from vidguide.transformer.negative_text import check_encodable, check_negative
from vidguide.validation import check_number

if TYPE_CHECKING:
    from vidguide.calls.denoiser import Denoiser


@dataclass(frozen=True, kw_only=True, eq=False)
class CFG(Guidance):
    """Classifier-free guidance `u + scale (c - u)` (Ho and Salimans, arXiv 2207.12598), at one more model call a step.

    Call the pipeline with `guidance_scale=1`: using both at once is refused. Other predictions of the model (audio) are
    combined by plain CFG at the same scale and rescale, as their pipelines do.

    Attributes:
        scale: guidance scale, at least 1; 1 is off. A list has one value per step; a callable gets the progress, the
            fraction of the steps that are done. Steps at scale 1 make no unconditional call.
        rescale: phi of Lin et al. (arXiv 2305.08891, eq. 15 and 16), 0 to 1: how far the guided prediction is rescaled
            to the standard deviation of the conditional one; 0 is off. Published: 0.7.
        negative_prompt: text of the unconditional branch; None for the empty text.
        negative_prompt_embeds: `(1 or B, L, C)`, ready embeddings in place of the text; or a dict of the
            transformer's text inputs.
        start, stop: window in fractions of the steps.
        layers: not used by this guidance.

    Raises:
        TypeError, ValueError: a parameter of the wrong kind or out of its range, by name.
    """

    scale: Schedule = 5.0
    rescale: float = 0.0
    negative_prompt: str | list[str] | None = None
    negative_prompt_embeds: Tensor | Mapping[str, Tensor] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_schedule(self, "scale", 1)
        check_number(self, "rescale", 0, 1)
        check_negative(self, empty=True)
        if self.layers is not None:
            name = type(self).__name__
            raise ValueError(f"{name}(layers={self.layers}): it acts on whole predictions; leave layers out")

    @property
    def neutral(self) -> bool:
        return is_constant(self.scale, 1)

    @property
    def extra_pass(self) -> bool:
        return not self.neutral

    def check(self, denoiser: "Denoiser") -> None:
        check_encodable(self, denoiser.pipe)

    def check_run(self, denoiser: "Denoiser") -> None:
        if denoiser.branches.pipeline_guides():
            self.beside_uncond()
        steps = denoiser.run.steps
        begin = getattr(denoiser.run.scheduler, "begin_index", None) or 0  # video-to-video skips the first steps
        check_steps(self, "scale", None if steps is None else steps - begin)
        self.negative_text(denoiser)

    def negative_text(self, denoiser: "Denoiser") -> Inputs:
        """Return the text inputs of the unconditional branch."""
        prompt = None if self.negative_prompt_embeds is not None else self.negative_prompt or ""
        return denoiser.negative_text(prompt, self.negative_prompt_embeds)

    def beside_uncond(self) -> None:
        name = type(self).__name__
        raise ValueError(
            f"{name} is in the list and the pipeline's own guidance_scale is above 1: pass guidance_scale=1 (or "
            f"true_cfg_scale=1, where there is one) to the pipeline, or take {name} out of the list"
        )

    def combine(self, denoiser: "Denoiser", prediction: Tensor) -> Tensor:
        scale = self.current_scale(denoiser)
        if scale == 1:
            return prediction
        uncond, *beside = denoiser.uncond(self.negative_text(denoiser))
        denoiser.beside = [
            rescale_std(cfg(cond, other, scale), cond, self.rescale)
            if isinstance(cond, Tensor) and isinstance(other, Tensor)
            else cond
            for cond, other in zip(denoiser.beside, beside, strict=True)
        ]
        guided = self.rule(denoiser, prediction, uncond).to(prediction.dtype)
        return rescale_std(guided, prediction, self.rescale)

    def current_scale(self, denoiser: "Denoiser") -> float:
        """Return the scale at the step at work.

        Raises:
            ValueError: a callable returned less than 1.
        """
        run = denoiser.run
        scale = scale_at(self.scale, run.step, run.steps)
        if scale < 1:
            raise ValueError(f"{type(self).__name__}: scale={scale!r} at step {run.step}: must be at least 1")
        return scale

    def rule(self, denoiser: "Denoiser", cond: Tensor, uncond: Tensor) -> Tensor:
        """Combine the conditional and the unconditional prediction `(B, ...)`. Variants override this."""
        return cfg(cond, uncond, self.current_scale(denoiser))
