"""Self-guidance by a perturbation of fixed layers: what PAG, STG and SEG share."""

from dataclasses import dataclass

from torch import Tensor

from vidguide.attention.plan import AttentionPlan
from vidguide.attention.site import AttentionSite, Perturbation
from vidguide.calls.call import Call, Correction, Rerun
from vidguide.calls.guided_model import GuidedModel
from vidguide.edits.head_selection import HeadSelection
from vidguide.functional.self_guidance import perturbation_correction
from vidguide.guidances.second_pass import SelfGuidance
from vidguide.validation import check_number


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerPerturbation(SelfGuidance):
    """`scale (c - c_p)`, where `c_p` is predicted with the attention of some layers perturbed.

    It is added to the guided prediction, whatever its rule is: with CFG, `u + w (c - u) + scale (c - c_p)`.

    Attributes:
        scale: 0 is off.
        layers: perturbed blocks; None for the middle one.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "scale", 0)

    @property
    def neutral(self) -> bool:
        return self.scale == 0

    def chosen_layers(self, model: GuidedModel) -> tuple[int, ...]:
        """Return the blocks to perturb."""
        return self.layers if self.layers else (model.depth // 2,)

    def selected_heads(self, call: Call) -> HeadSelection | None:
        """Return the selection of the heads to perturb, cached for the run; None for all heads."""
        return call.cached(self, lambda: self.head_selection(call, self.chosen_layers(call.model)))

    def plan(self, call: Call) -> AttentionPlan:
        sites, heads = self.sites(call.model), self.selected_heads(call)
        starts = frozenset(sites[layer].execution_index for layer in self.chosen_layers(call.model))
        return AttentionPlan(rerun_from=starts, observers=heads.observers() if heads else {})

    def correction(self, call: Call, prediction: Tensor, rerun: Rerun) -> Correction | None:
        value = perturbation_correction(prediction, self.perturbed(call, rerun), self.scale)
        return Correction(value, self.before_cfg)

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
