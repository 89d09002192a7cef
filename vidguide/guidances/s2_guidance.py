"""S²-Guidance: away from the model with a few blocks skipped, drawn at random at each step."""

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from vidguide.attention.plan import AttentionPlan
from vidguide.calls.call import Call, Rerun
from vidguide.calls.guided_model import GuidedModel
from vidguide.functional.seeds import generator_at
from vidguide.guidances.layer_perturbation import LayerPerturbation
from vidguide.guidances.schedule import Schedule
from vidguide.validation import Range


@dataclass(frozen=True, kw_only=True, eq=False)
class S2Guidance(LayerPerturbation):
    """S²-Guidance (Chen et al., arXiv 2508.12880, eq. 4 of its fourth version): `c + scale (c - c_s)`.

    With classifier-free guidance, `u + w (c - u) - scale (c_s - c)`: added to the guided prediction. The sub-network's
    prediction c_s skips whole blocks, drawn at random at each step. (Earlier versions of the paper subtract
    `scale c_s` alone.)

    Attributes:
        scale: omega; 0 is off; a number, a list per step, or a callable of the progress. Published: 0.25 for SD3, SD3.5
            and Wan (appendix B.4).
        share: of the candidates that are skipped, above 0 and at most 1; at least one is. Published: about 0.1.
        seed: of the draws.
        layers: candidates; None for all blocks but the first, which the paper excludes as critical.
        start, stop: window in fractions of the steps. Published: the whole run; an ablation has the central 80%.
        extent: "spatial" or "temporal" for the blocks of that extent, where space and time have separate ones.
        every: k; a perturbed pass at every k-th guided step, see `SelfGuidance`.

    Raises:
        TypeError, ValueError: a parameter of the wrong kind or out of its range, by name.

    Examples:
        >>> from vidguide import S2Guidance
        >>> S2Guidance(scale=0.25).neutral
        False
        >>> S2Guidance(scale=0).neutral
        True
    """

    scale: Annotated[Schedule, Range(0)] = 0.25
    share: Annotated[float, Range(0, 1)] = 0.1
    seed: Annotated[int, Range()] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.share == 0:
            raise ValueError("S2Guidance(share=0): no block is skipped; must be above 0. scale=0 switches it off")

    @property
    def needs_steps(self) -> bool:
        return not self.neutral

    def chosen_layers(self, model: GuidedModel) -> tuple[int, ...]:
        return self.layers or tuple(range(1, model.depth))

    def layers_at(self, call: Call) -> tuple[int, ...]:
        candidates = self.chosen_layers(call.model)
        count = max(1, round(self.share * len(candidates)))
        drawn = torch.randperm(len(candidates), generator=generator_at(self.seed, call.step))[:count]
        return tuple(sorted(candidates[index] for index in drawn.tolist()))

    def skipped_blocks(self, model: GuidedModel) -> tuple[int, ...]:
        return self.chosen_layers(model)

    def check(self, model: GuidedModel, pipe: Any) -> None:
        super().check(model, pipe)
        self.check_extent_of_blocks(model)
        if not self.chosen_layers(model):
            raise ValueError("S2Guidance: the model has one block, and the first is not skipped; name it in layers")

    def perturbed(self, call: Call, rerun: Rerun) -> Tensor:
        layers = self.layers_at(call)
        return rerun(AttentionPlan(skipped_blocks=self.execution_indices(call.model, layers)), layers)
