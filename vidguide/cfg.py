"""Classifier-free guidance, run by us: for a pipeline whose own is off, or to combine it otherwise."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from vidguide.formulas import cfg
from vidguide.guidance import Guidance, check_number
from vidguide.nag import check_negative

if TYPE_CHECKING:
    from vidguide.denoiser import Denoiser


@dataclass(frozen=True, kw_only=True, eq=False)
class CFG(Guidance):
    """Classifier-free guidance `u + scale (c - u)` (Ho and Salimans, arXiv 2207.12598), at one more model call a step.

    Call the pipeline with `guidance_scale=1`: its own guidance and this one at once are refused.

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
            raise ValueError(f"CFG(layers={self.layers}): CFG acts on whole predictions; leave layers out")

    @property
    def neutral(self) -> bool:
        return self.scale == 1

    def check(self, denoiser: "Denoiser") -> None:
        denoiser.check_negative(self, self.negative_prompt or "", self.negative_prompt_embeds)

    def prepare(self, denoiser: "Denoiser") -> None:
        if denoiser.pipeline_guides():
            raise ValueError(
                "CFG is in the list and the pipeline's own guidance_scale is above 1: pass guidance_scale=1 to the "
                "pipeline, or take CFG out of the list"
            )

    def correct(self, denoiser: "Denoiser", prediction: Tensor) -> Tensor:
        prompt = None if self.negative_prompt_embeds is not None else self.negative_prompt or ""
        text = denoiser.negative_text(prompt, self.negative_prompt_embeds)
        return cfg(prediction, denoiser.predict("uncond", text), self.scale)
