"""Spatiotemporal Skip Guidance: away from the model with layers skipped."""

from dataclasses import dataclass
from typing import Annotated, Any

from torch import Tensor

from vidguide.attention.plan import AttentionPlan
from vidguide.attention.site import AttentionSite, Perturbation
from vidguide.calls.call import Call, Rerun
from vidguide.calls.guided_model import GuidedModel
from vidguide.edits.identity_attention import IdentityAttention
from vidguide.guidances.layer_perturbation import LayerPerturbation
from vidguide.guidances.schedule import Schedule
from vidguide.validation import OneOf, Range

MODES = ("attention", "residual")


@dataclass(frozen=True, kw_only=True, eq=False)
class STG(LayerPerturbation):
    """Spatiotemporal Skip Guidance (Hyung et al., arXiv 2411.18664): `c + scale (c - c_p)`, layers skipped.

    With classifier-free guidance, `u + w (c - u) + scale (c - c_p)`, as in the authors' pipelines. Those skip the whole
    block of one layer, published for CogVideoX (11), HunyuanVideo (2), LTX-Video 2B (19) and Mochi (34).

    Attributes:
        scale: 0 is off; a number, a list per step, or a callable of the progress. Published: 1.
        mode: "residual" skips whole blocks (STG-R), "attention" passes the values of self-attention through (STG-A).
        layers: skipped blocks; None for those that the authors publish for a model of this family and depth, and the
            middle block where they publish none.
        start, stop: window in fractions of the steps.
        extent: "spatial" or "temporal" for those modules only; in models that have none, mode="attention" restricts
            the perturbation to heads of that extent.
        every: k; a perturbed pass at every k-th guided step, see `SelfGuidance`.

    Raises:
        TypeError, ValueError: a parameter of the wrong kind or out of its range, by name.

    Examples:
        >>> from vidguide import STG
        >>> STG(scale=[1.0, 0.5, 0.0], layers=(2,)).neutral  # a scale per step
        False
        >>> STG(scale=0).neutral
        True
    """

    scale: Annotated[Schedule, Range(0)] = 1.0
    mode: Annotated[str, OneOf(*MODES)] = "residual"

    def chosen_layers(self, model: GuidedModel) -> tuple[int, ...]:
        if self.layers is None and model.depth in model.family.stg_layers:
            return model.family.stg_layers[model.depth]
        return super().chosen_layers(model)

    def skipped_blocks(self, model: GuidedModel) -> tuple[int, ...]:
        return self.chosen_layers(model) if self.mode == "residual" else ()

    def check(self, model: GuidedModel, pipe: Any) -> None:
        super().check(model, pipe)
        if self.mode == "residual" and self.extent is not None and self.extent not in model.self_sites:
            raise ValueError(
                f"STG(mode='residual', extent={self.extent!r}): {model.family.name} has no {self.extent} blocks; "
                "use mode='attention' for its heads"
            )

    def perturbed(self, call: Call, rerun: Rerun) -> Tensor:
        if self.mode == "attention":
            return super().perturbed(call, rerun)
        layers = self.layers_at(call)
        return rerun(AttentionPlan(skipped_blocks=self.execution_indices(call.model, layers)), layers)

    def perturbation(self, call: Call, site: AttentionSite) -> Perturbation:
        return IdentityAttention(site)
