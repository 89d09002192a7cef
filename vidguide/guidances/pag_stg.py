"""Guidance away from the model with attention, or whole blocks, left out: STG and PAG."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from vidguide.attention.interception import Perturbation
from vidguide.edits.head_selection import Heads
from vidguide.functional.self_guidance import perturbation_correction
from vidguide.guidances.second_pass import PassValues, WeakGuidance
from vidguide.validation import check_number

if TYPE_CHECKING:
    from vidguide.calls.denoiser import Denoiser


@dataclass(frozen=True, kw_only=True, eq=False)
class PAG(WeakGuidance):
    """Perturbed-Attention Guidance (Ahn et al., arXiv 2403.17377): `c + scale (c - c_p)`.

    The weak pass has the identity in place of self-attention maps; in joint attention, of the video's rows.

    Attributes:
        scale: 0 is off. Published: 3.
        layers: perturbed blocks; None for the middle one.
        start, stop: window in fractions of the steps.
        extent: "spatial" or "temporal" for those heads or modules only; see `WeakGuidance`.

    Raises:
        TypeError, ValueError: a parameter of the wrong kind or out of its range, by name.
    """

    scale: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "scale", 0)

    @property
    def neutral(self) -> bool:
        return self.scale == 0

    def chosen(self, depth: int) -> tuple[int, ...]:
        """The blocks to perturb, of `depth`."""
        return self.layers if self.layers else (depth // 2,)

    def measured(self, denoiser: "Denoiser") -> Heads | None:
        """The heads of the extent asked for, kept for the run."""
        return denoiser.kept(self, lambda: self.heads(denoiser, self.chosen(denoiser.depth)))

    def prepare(self, denoiser: "Denoiser") -> None:
        sites = self.sites(denoiser)
        denoiser.blocks.keep_before(sites[layer].place for layer in self.chosen(denoiser.depth))
        heads = self.measured(denoiser)
        if heads is not None:
            heads.begin(denoiser.device)

    def correction(self, denoiser: "Denoiser", prediction: Tensor) -> Tensor | None:
        return perturbation_correction(prediction, self.perturbed(denoiser), self.scale)

    def perturbed(self, denoiser: "Denoiser") -> Tensor:
        """The weak prediction."""
        heads = self.measured(denoiser)
        layers = self.chosen(denoiser.depth) if heads is None else heads.layers()
        return self.prediction(denoiser, layers, lambda layer: self.perturbation(denoiser, layer), heads, {})

    def perturbation(self, denoiser: "Denoiser", layer: int) -> Perturbation:
        """What is done to one layer's attention; relatives perturb otherwise."""
        return PassValues(self.sites(denoiser)[layer])


@dataclass(frozen=True, kw_only=True, eq=False)
class STG(PAG):
    """Spatiotemporal Skip Guidance (Hyung et al., arXiv 2411.18664): `c + scale (c - c_p)`, layers skipped.

    Attributes:
        scale: 0 is off. Published: 1.
        mode: "attention" passes the values of self-attention through (STG-A), "residual" skips whole blocks (STG-R).
        layers: skipped blocks; None for the middle one.
        start, stop: window in fractions of the steps.
        extent: "spatial" or "temporal" for those heads or modules only; whole blocks have no heads.
    """

    scale: float = 1.0
    mode: str = "attention"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode not in ("attention", "residual"):
            raise ValueError(f"STG(mode={self.mode!r}): must be attention or residual")

    def skipped(self, depth: int) -> tuple[int, ...]:
        return self.chosen(depth) if self.mode == "residual" else ()

    def check(self, denoiser: "Denoiser") -> None:
        super().check(denoiser)
        if self.mode == "residual" and self.extent is not None and self.extent not in denoiser.self_sites:
            raise ValueError(
                f"STG(mode='residual', extent={self.extent!r}): {denoiser.family.name} has no {self.extent} blocks; "
                "use mode='attention' for its heads"
            )

    def perturbed(self, denoiser: "Denoiser") -> Tensor:
        if self.mode == "attention":
            return super().perturbed(denoiser)
        layers = self.chosen(denoiser.depth)
        places = [self.sites(denoiser)[layer].place for layer in layers]
        with self.recorded(denoiser, layers, {}), denoiser.blocks.passing(places):
            return denoiser.weak(min(places), "STG")
