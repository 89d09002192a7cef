"""Random order of tokens (TPG, arXiv 2506.10036)."""

import math

import torch
from torch import Tensor


def random_order(grid: tuple[int, int, int], extent: str | None, generator: torch.Generator) -> Tensor:
    """Return a random order of the tokens of a grid: `(L,)`, where each token comes from.

    Args:
        grid: token grid (F, H, W), row-major; `L` is its product.
        extent: "temporal" moves whole frames, "spatial" moves tokens within their frame, in every frame alike; None
            moves all.
    """
    frames, places = grid[0], grid[1] * grid[2]
    if extent is None:
        return torch.randperm(math.prod(grid), generator=generator)
    positions = torch.arange(frames * places).unflatten(0, (frames, places))
    if extent == "temporal":
        return positions[torch.randperm(frames, generator=generator)].flatten()
    return positions[:, torch.randperm(places, generator=generator)].flatten()
