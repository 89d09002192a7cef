"""The base class of self-guidance with perturbed layers: PAG, STG, SEG, TPG and S2Guidance."""

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from vidguide.attention.plan import AttentionPlan
from vidguide.attention.site import AttentionSite, Perturbation
from vidguide.calls.call import Call, Correction, Rerun
from vidguide.calls.guided_model import GuidedModel
from vidguide.edits.head_selection import HeadSelection
from vidguide.functional.self_guidance import perturbation_correction
from vidguide.guidances.schedule import (
    Schedule,
    check_run_scale,
    guided_steps,
    is_constant,
    may_be,
    scale_of,
)
from vidguide.guidances.second_pass import SelfGuidance
from vidguide.validation import Range


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerPerturbation(SelfGuidance):
    """`scale (c - c_p)`, where `c_p` is predicted with the attention of some layers perturbed.

    It is added to the guided prediction, whatever the CFG rule: with plain CFG, `u + w (c - u) + scale (c - c_p)`.

    Attributes:
        scale: 0 is off. A list has one value per step; a callable receives the progress, the fraction of completed
            steps. Steps at scale 0 make no second pass.
        layers: perturbed blocks; None for the middle one.
    """

    scale: Annotated[Schedule, Range(0)] = 1.0

    @property
    def neutral(self) -> bool:
        return is_constant(self.scale, 0)

    @property
    def needs_steps(self) -> bool:
        return super().needs_steps or not (self.neutral or isinstance(self.scale, int | float))

    @property
    def pauses(self) -> bool:
        return super().pauses or (not self.neutral and may_be(self.scale, 0))

    def check_run(self, call: Call) -> None:
        check_run_scale(self, call, 0)

    def chosen_layers(self, model: GuidedModel) -> tuple[int, ...]:
        """Return the layers to perturb."""
        return self.layers if self.layers else (model.depth // 2,)

    def layers_at(self, call: Call) -> tuple[int, ...]:
        """Return the layers to perturb at the step of a call."""
        return self.chosen_layers(call.model)

    def selected_heads(self, call: Call) -> HeadSelection | None:
        """Return the selection of the heads to perturb, cached for the run; None for all heads."""
        return call.cached(self, lambda: self.head_selection(call, self.chosen_layers(call.model)))

    def plan(self, call: Call) -> AttentionPlan:
        heads = self.selected_heads(call)
        observers = heads.observers() if heads else {}
        if scale_of(self, call, 0) == 0 or not self.interval.is_due(call, guided_steps(self, call.steps, 0)):
            return AttentionPlan(observers=observers)
        rerun_from = self.execution_indices(call.model, self.layers_at(call))
        return AttentionPlan(rerun_from=rerun_from, observers=observers, notes=self.interval_notes)

    def correction(self, call: Call, prediction: Tensor, rerun: Rerun) -> Correction | None:
        scale = scale_of(self, call, 0)
        if scale == 0:
            return None
        guided = guided_steps(self, call.steps, 0)
        perturbed = self.weaker_prediction(call, prediction, guided, lambda: self.perturbed(call, rerun))
        value = perturbation_correction(prediction, perturbed, scale).to(prediction.dtype)
        return Correction(value, self.before_cfg, self.rescale)

    def perturbed(self, call: Call, rerun: Rerun) -> Tensor:
        """Return the perturbed prediction."""
        sites, heads = self.sites(call.model), self.selected_heads(call)
        layers = self.chosen_layers(call.model) if heads is None else heads.layers()
        return self.perturbed_prediction(
            call, rerun, layers, lambda layer: self.perturbation(call, sites[layer]), heads
        )

    def perturbation(self, call: Call, site: AttentionSite) -> Perturbation:
        """Return the perturbation of one layer's attention."""
        raise NotImplementedError
