"""Attention of the video with blurred queries."""

import math

import torch
from torch import Tensor

from vidguide.attention.site import AttentionSite, EditedAttention
from vidguide.functional.blur import blur


class BlurredQueries:
    """A perturbation that blurs the video's queries over their grid (SEG, arXiv 2408.00760).

    Args:
        grid: the clip's token grid (F, H, W).
        sigma: standard deviation in tokens, None for the mean.
        over_frames: whether to blur along time as well.
    """

    def __init__(self, site: AttentionSite, grid: tuple[int, int, int], sigma: float | None, over_frames: bool) -> None:
        self.site, self.grid, self.sigma, self.over_frames = site, grid, sigma, over_frames

    def __call__(self, attention: EditedAttention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        video, kernel = self.site.video, attention.kernel
        if video is None:
            raise RuntimeError("queries are blurred in a perturbed pass")
        tokens = video.parallel.gather(video.take(query, kernel.batch, kernel.index))
        grid = self.site.grid_of(self.grid)
        count = math.prod(grid)
        if count > tokens.shape[1]:
            raise ValueError(f"SEG: {tokens.shape[1]} tokens attend here where the clip's grid has {self.grid}")
        history, frames = tokens[:, : tokens.shape[1] - count], tokens[:, tokens.shape[1] - count :]
        blurred = torch.cat([history, blur(frames, grid, self.sigma, self.over_frames)], 1)
        return attention(video.put(query, video.parallel.shard(blurred)), key, value)
