"""Smoothed Energy Guidance: away from the model with blurred queries."""

from dataclasses import dataclass
from typing import Annotated

from vidguide.attention.site import AttentionSite, Perturbation
from vidguide.calls.call import Call
from vidguide.edits.blurred_queries import BlurredQueries
from vidguide.guidances.layer_perturbation import LayerPerturbation
from vidguide.guidances.schedule import Schedule
from vidguide.validation import Range


@dataclass(frozen=True, kw_only=True, eq=False)
class SEG(LayerPerturbation):
    """Smoothed Energy Guidance (Hong, arXiv 2408.00760): `c + scale (c - c_p)`.

    The perturbed pass blurs the queries of self-attention over each frame; of the video alone, where text shares the
    attention. Queries are blurred as the kernel receives them, after any rotary embedding; this blurs the scores, as
    derived in the paper.

    Attributes:
        scale: 0 is off; a number, a list per step, or a callable of the progress. Published: 3.
        sigma: of the blur in tokens, above 0; None for an infinite one, the mean. Published: both 10 and infinite.
        over_frames: blur along time as well.
        layers: perturbed blocks; None for the middle one.
        start, stop: window in fractions of the steps.
        extent: "spatial" or "temporal" for those heads or modules only; see `SelfGuidance`.
        every: k; a perturbed pass at every k-th guided step, see `SelfGuidance`.

    Examples:
        >>> from vidguide import SEG
        >>> SEG(scale=0.5, sigma=10.0).sigma
        10.0
        >>> SEG(scale=0).neutral
        True
    """

    # SmoothedEnergyGuidance of diffusers 0.42.1 (hooks/smoothed_energy_guidance_utils.py) has its branches swapped:
    # finite sigmas take the mean, and "infinite" ones are blurred. It treats all tokens, text too, as a square image.
    scale: Annotated[Schedule, Range(0)] = 3.0
    sigma: Annotated[float | None, Range(0, also=(None,))] = 10.0
    over_frames: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sigma == 0:
            raise ValueError("SEG(sigma=0): nothing is blurred; must be above 0. scale=0 switches it off")
        if not isinstance(self.over_frames, bool):
            raise TypeError(f"SEG(over_frames={self.over_frames!r}): must be True or False")

    def perturbation(self, call: Call, site: AttentionSite) -> Perturbation:
        return BlurredQueries(site, call.grid, self.sigma, self.over_frames)
