"""Guidance away from the model with attention, or whole blocks, left out: STG and PAG."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from vidguide.guidance import Guidance, check_number
from vidguide.run import Choice
from vidguide.seam import Kernel

if TYPE_CHECKING:
    from vidguide.denoiser import Denoiser


def pass_values(kernel: Kernel, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention whose map is the identity: each token keeps its own value `(B, L, H, D)`."""
    return value


@dataclass(frozen=True, kw_only=True, eq=False)
class PAG(Guidance):
    """Perturbed-Attention Guidance (Ahn et al., arXiv 2403.17377): `c + scale (c - c_p)`.

    The weak pass has the identity in place of self-attention maps.

    Attributes:
        scale: 0 is off. Published: 3.
        layers: perturbed blocks; None for the middle one.
        start, stop: window in fractions of the steps.

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

    @property
    def weak(self) -> bool:
        return not self.neutral

    def chosen(self, depth: int) -> tuple[int, ...]:
        """The blocks to perturb, of `depth`."""
        return self.layers if self.layers else (depth // 2,)

    def prepare(self, denoiser: "Denoiser") -> None:
        denoiser.blocks.keep_before([min(self.chosen(denoiser.depth))])

    def correction(self, denoiser: "Denoiser", prediction: Tensor) -> Tensor | None:
        layers = self.chosen(denoiser.depth)
        denoiser.run.trace.choices.append(Choice(denoiser.run.step, type(self).__name__, layers, {}))
        return self.scale * (prediction - self.perturbed(denoiser, layers))

    def perturbed(self, denoiser: "Denoiser", layers: tuple[int, ...]) -> Tensor:
        """The weak prediction; relatives perturb otherwise."""
        return values_passed(denoiser, layers, type(self).__name__)


def values_passed(denoiser: "Denoiser", layers: tuple[int, ...], name: str) -> Tensor:
    """The prediction with the self-attention of some blocks passing its values through."""
    sites = [denoiser.self_sites[layer] for layer in layers]
    try:
        for site in sites:
            site.edit = pass_values
        return denoiser.weak(min(layers), name)
    finally:
        for site in sites:
            site.edit = None


@dataclass(frozen=True, kw_only=True, eq=False)
class STG(PAG):
    """Spatiotemporal Skip Guidance (Hyung et al., arXiv 2411.18664): `c + scale (c - c_p)`, layers skipped.

    Attributes:
        scale: 0 is off. Published: 1.
        mode: "attention" passes the values of self-attention through (STG-A), "residual" skips whole blocks (STG-R).
        layers: skipped blocks; None for the middle one.
        start, stop: window in fractions of the steps.
    """

    scale: float = 1.0
    mode: str = "attention"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode not in ("attention", "residual"):
            raise ValueError(f"STG(mode={self.mode!r}): must be attention or residual")

    def skipped(self, depth: int) -> tuple[int, ...]:
        return self.chosen(depth) if self.mode == "residual" else ()

    def perturbed(self, denoiser: "Denoiser", layers: tuple[int, ...]) -> Tensor:
        if self.mode == "attention":
            return values_passed(denoiser, layers, type(self).__name__)
        with denoiser.blocks.passing(layers):
            return denoiser.weak(min(layers), "STG")
