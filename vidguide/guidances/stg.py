"""Spatiotemporal Skip Guidance: away from the model with layers skipped."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vidguide.attention.plan import AttentionPlan
from vidguide.attention.site import AttentionSite, Perturbation
from vidguide.calls.call import Call, Rerun
from vidguide.calls.guided_model import GuidedModel
from vidguide.edits.identity_attention import IdentityAttention
from vidguide.guidances.layer_perturbation import LayerPerturbation

MODES = ("attention", "residual")


@dataclass(frozen=True, kw_only=True, eq=False)
class STG(LayerPerturbation):
    """Spatiotemporal Skip Guidance (Hyung et al., arXiv 2411.18664): `c + scale (c - c_p)`, layers skipped.

    Attributes:
        scale: 0 is off. Published: 1.
        mode: "attention" passes the values of self-attention through (STG-A), "residual" skips whole blocks (STG-R).
        layers: skipped blocks; None for the middle one.
        start, stop: window in fractions of the steps.
        extent: "spatial" or "temporal" for those heads or modules only; whole blocks have no heads.

    Raises:
        TypeError, ValueError: a parameter of the wrong kind or out of its range, by name.
    """

    scale: float = 1.0
    mode: str = "attention"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode not in MODES:
            raise ValueError(f"STG(mode={self.mode!r}): must be attention or residual")

    def skipped_blocks(self, model: GuidedModel) -> tuple[int, ...]:
        return self.chosen_layers(model.depth) if self.mode == "residual" else ()

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
        layers, sites = self.chosen_layers(call.model.depth), self.sites(call.model)
        blocks = frozenset(sites[layer].execution_index for layer in layers)
        return rerun(AttentionPlan(skipped_blocks=blocks), layers)

    def perturbation(self, call: Call, site: AttentionSite) -> Perturbation:
        return IdentityAttention(site)
