"""What guidances away from the model itself have in common: a second, weak pass with some attention perturbed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from vidguide.attention.interception import Attention, Perturbation, Site
from vidguide.edits.head_selection import Heads
from vidguide.guidances.base import Guidance
from vidguide.tracing.run import Choice
from vidguide.tracing.stopwatch import Stopwatch

if TYPE_CHECKING:
    from vidguide.calls.denoiser import Denoiser

EXTENTS = (None, "spatial", "temporal")


@dataclass(frozen=True, kw_only=True, eq=False)
class WeakGuidance(Guidance):
    """A guidance whose second pass is perturbed in some layers.

    Attributes:
        extent: "spatial" or "temporal" perturbs only the attention of that extent: the modules, where space and time
            have their own; otherwise the heads that a measurement in the run's first guided step finds so, see
            :func:`vidguide.functional.head_mass.has_extent`. None for all heads, and the spatial modules.
    """

    extent: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.extent not in EXTENTS:
            raise ValueError(f"{type(self).__name__}(extent={self.extent!r}): must be spatial, temporal or None")

    @property
    def weak(self) -> bool:
        return not self.neutral

    def sites(self, denoiser: "Denoiser") -> dict[int, Site]:
        """The video's attention to itself, by layer: of the extent asked for, where the model has it apart."""
        return denoiser.self_sites.get(self.extent or "") or denoiser.self_sites[denoiser.family.extent]

    def heads(self, denoiser: "Denoiser", layers: tuple[int, ...]) -> Heads | None:
        """What will tell the heads of the extent asked for, where one attention spans both."""
        if self.extent is None or self.extent in denoiser.self_sites:
            return None
        return Heads(self.extent, {layer: self.sites(denoiser)[layer] for layer in layers}, denoiser.grid())

    def prediction(
        self,
        denoiser: "Denoiser",
        layers: tuple[int, ...],
        perturb: Callable[[int], Perturbation],
        heads: Heads | None,
        gradients: dict[int, float],
    ) -> Tensor:
        """The prediction with some layers' attention perturbed; what was done goes into the trace."""
        sites = [self.sites(denoiser)[layer] for layer in layers]
        own = [perturb(layer) if heads is None else heads.only(layer, perturb(layer)) for layer in layers]
        with self.recorded(denoiser, layers, gradients), perturbed(sites, own):
            return denoiser.weak(min(site.place for site in sites), type(self).__name__)

    @contextmanager
    def recorded(self, denoiser: "Denoiser", layers: tuple[int, ...], gradients: dict[int, float]) -> Iterator[None]:
        """Note a weak pass in the trace, with its time."""
        stopwatch = Stopwatch(denoiser.device)
        with stopwatch:
            yield
        denoiser.run.current.choices.append(
            Choice(denoiser.run.step, type(self).__name__, layers, gradients, stopwatch)
        )


@contextmanager
def perturbed(sites: list[Site], perturbations: list[Perturbation]) -> Iterator[None]:
    """Let sites be perturbed for the length of a pass."""
    try:
        for site, perturbation in zip(sites, perturbations, strict=True):
            site.weak = perturbation
        yield
    finally:
        for site in sites:
            site.weak = None


class PassValues:
    """Attention of the video whose map is the identity: each token keeps its own value."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def __call__(self, attention: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        video = self.site.video
        if video is None or video.joint is None:
            return value
        return video.put(attention(query, key, value), video.take(value))
