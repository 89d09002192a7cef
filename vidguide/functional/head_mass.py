"""Whether an attention head attends within the query's frame or along time, by lift over chance."""

import math

import torch
from torch import Tensor

from vidguide.functional.masks import additive

Grid = tuple[int, int, int]
# Lift from which a head has an extent: half again as much as evenly spread attention. Small enough that frames of a
# two-frame clip, whose largest lift is 2, can reach it.
LIFT = 1.5
EXTENTS = ("spatial", "temporal", "neither")


def attention_mass(
    query: Tensor,
    key: Tensor,
    grid: Grid,
    positions: Tensor,
    scale: float | None = None,
    mask: Tensor | None = None,
    first: int = 0,
) -> Tensor:
    """Measure how much of the attention to other video tokens stays in the query's frame and in its pixel column.

    The quantities of Sparse-VideoGen (Xi et al., arXiv 2502.01776), by attention mass. Text and history are excluded,
    and the query's token, which belongs to both sets.

    Args:
        query: `(B, Q, H, D)`, of some video tokens. key: `(B, K, H, D)`, of all tokens.
        grid: the video's token grid (F, H, W), row-major.
        positions: `(Q,)`, indices of the queries among the video's tokens.
        scale: of the scores; None for `D ** -0.5`.
        mask: boolean or additive, broadcastable to `(B, H, Q, K)`.
        first: index of the video's first token among the keys.

    Returns:
        `(B, H, 2)`, shares of the mass within the frame and within the column, means over the queries.
    """
    frames, pixels = grid[0], grid[1] * grid[2]
    video = slice(first, first + frames * pixels)
    scores = torch.einsum("bqhd,bkhd->bhqk", query.float() * (scale or query.shape[-1] ** -0.5), key[:, video].float())
    if mask is not None:
        scores = scores + additive(mask if mask.shape[-1] == 1 else mask[..., video], scores.dtype)
    diagonal = torch.nn.functional.one_hot(positions, frames * pixels).bool()
    weights = scores.masked_fill(diagonal, -math.inf).softmax(-1).nan_to_num(0)
    weights = weights.reshape(*weights.shape[:3], frames, pixels)
    frame = torch.nn.functional.one_hot(positions // pixels, frames).to(weights.dtype)
    pixel = torch.nn.functional.one_hot(positions % pixels, pixels).to(weights.dtype)
    within = torch.einsum("bhqfp,qf->bh", weights, frame)
    along = torch.einsum("bhqfp,qp->bh", weights, pixel)
    return torch.stack([within, along], -1) / weights.shape[2]


def lift(mass: Tensor, grid: Grid) -> Tensor:
    """Divide shares of the mass by what evenly spread attention would give: about `within * F` and `along * H * W`.

    Of `F H W - 1` other tokens, `H W - 1` are in the query's frame and `F - 1` in its column.

    Args:
        mass: `(..., 2)`, of :func:`attention_mass`.

    Returns:
        `(..., 2)`; 1 is chance, 0 where the frame or the column has no other token.
    """
    frames, pixels = grid[0], grid[1] * grid[2]
    other_tokens = frames * pixels - 1
    factors = [other_tokens / count if count else 0.0 for count in (pixels - 1, frames - 1)]
    return mass * mass.new_tensor(factors)


def has_extent(lifts: Tensor, extent: str) -> Tensor:
    """Return which heads are of an extent.

    "temporal" where the lift along time exceeds that within the frame and :data:`LIFT`, "spatial" where the lift within
    the frame is at least that along time and exceeds :data:`LIFT`, "neither" for the others.

    Args:
        lifts: `(..., 2)`, of :func:`lift`.

    Returns:
        Boolean, `(...)`.
    """
    within, along = lifts.unbind(-1)
    temporal, above = along > within, torch.maximum(within, along) > LIFT
    return {"temporal": temporal & above, "spatial": ~temporal & above, "neither": ~above}[extent]
