"""Smoothed Energy Guidance: away from the model whose queries are blurred over the picture."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vidguide.attention.interception import Attention, Perturbation, Site
from vidguide.functional.blur import blurred
from vidguide.guidances.pag_stg import PAG
from vidguide.validation import check_number

if TYPE_CHECKING:
    from vidguide.calls.denoiser import Denoiser


@dataclass(frozen=True, kw_only=True, eq=False)
class SEG(PAG):
    """Smoothed Energy Guidance (Hong, arXiv 2408.00760): `c + scale (c - c_p)`.

    The weak pass blurs the queries of self-attention over each frame; of the video alone, where text shares the
    attention. Blurred are the queries as attention takes them, after any rotary embedding, for then the blur is one of
    the scores, which is what the paper derives.

    Attributes:
        scale: 0 is off. Published: 3.
        sigma: of the blur in tokens, above 0; None for an infinite one, the mean. Published: both 10 and infinite.
        over_frames: blur along time as well.
        layers: perturbed blocks; None for the middle one.
        start, stop: window in fractions of the steps.
        extent: "spatial" or "temporal" for those heads or modules only; see `WeakGuidance`.
    """

    # diffusers' own (0.42.1, hooks/smoothed_energy_guidance_utils.py) has its branches the wrong way round: finite
    # sigmas take the mean, and "infinite" ones are blurred. It takes any tokens for a square picture, text among them.
    sigma: float | None = 10.0
    over_frames: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sigma is not None:
            check_number(self, "sigma", 0)
        if self.sigma == 0:
            raise ValueError("SEG(sigma=0): nothing is blurred; must be above 0. scale=0 switches it off")
        if not isinstance(self.over_frames, bool):
            raise TypeError(f"SEG(over_frames={self.over_frames!r}): must be True or False")

    def perturbation(self, denoiser: "Denoiser", layer: int) -> Perturbation:
        return BlurQueries(self.sites(denoiser)[layer], denoiser.grid(), self.sigma, self.over_frames)


class BlurQueries:
    """Attention of the video with blurred queries, in one pass."""

    def __init__(self, site: Site, grid: tuple[int, int, int], sigma: float | None, over_frames: bool) -> None:
        self.site, self.grid, self.sigma, self.over_frames = site, grid, sigma, over_frames

    def __call__(self, attention: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        video = self.site.video
        if video is None:
            raise RuntimeError("queries are blurred in a weak pass")
        tokens = video.ranks.whole(video.take(query))
        grid = self.grid_of(tokens.shape[1])
        count = math.prod(grid)
        if count > tokens.shape[1]:
            raise ValueError(f"SEG: {tokens.shape[1]} tokens attend here where the clip's grid has {self.grid}")
        history, frames = tokens[:, : tokens.shape[1] - count], tokens[:, tokens.shape[1] - count :]
        smooth = torch.cat([history, blurred(frames, grid, self.sigma, self.over_frames)], 1)
        return attention(video.put(query, video.ranks.share(smooth)), key, value)

    def grid_of(self, length: int) -> tuple[int, int, int]:
        """The grid of one row's tokens: the clip's, or where space and time are apart, a frame's or a pixel's."""
        frames, height, width = self.grid
        if self.site.extent == "spatial":
            return 1, height, width
        return (frames, 1, 1) if self.site.extent == "temporal" else self.grid
