"""Gaussian blur of video tokens, of Smoothed Energy Guidance (Hong, arXiv 2408.00760)."""

import math

import torch
from einops import rearrange
from torch import Tensor


def blur_weights(size: int, sigma: float | None) -> Tensor:
    """Return `(size, size)`, a Gaussian of standard deviation `sigma` around each position; rows sum to 1.

    It is cut off at about three sigma. Beyond the edges the picture is mirrored, as in the published code, and mirrored
    again where the published code fails because the mirror is longer than the picture. Without sigma, the mean.
    """
    if sigma is None or size == 1:
        return torch.full((size, size), 1 / size, dtype=torch.float64)
    offsets = torch.arange(-(math.ceil(6 * sigma) // 2), math.ceil(6 * sigma) // 2 + 1)
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2).double()
    period = 2 * (size - 1)
    positions = (torch.arange(size).unsqueeze(1) + offsets) % period
    positions = torch.where(positions < size, positions, period - positions)
    by_position = torch.zeros(size, size, dtype=torch.float64)
    return by_position.scatter_add_(1, positions, weights.expand_as(positions)) / weights.sum()


def blur(tokens: Tensor, grid: tuple[int, int, int], sigma: float | None, over_frames: bool) -> Tensor:
    """Blur tokens `(B, L, H, D)` over height and width of each frame, and optionally over frames.

    Args:
        grid: token grid (F, H, W), in row-major order; `L` is its product.
        sigma: standard deviation in tokens, None for the mean.
    """
    dtype = torch.promote_types(tokens.dtype, torch.float32)
    frames, height, _ = grid
    volume = rearrange(tokens.to(dtype), "b (f h w) heads d -> b f h w heads d", f=frames, h=height)
    for axis, size in enumerate(grid):
        if axis or over_frames:
            weights = blur_weights(size, sigma).to(volume.device, volume.dtype)
            volume = torch.tensordot(weights, volume, ([1], [axis + 1])).movedim(0, axis + 1)
    return rearrange(volume, "b f h w heads d -> b (f h w) heads d").to(tokens.dtype)
