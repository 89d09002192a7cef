"""Strength of the attention between frames (Enhance-A-Video, arXiv 2502.07508)."""

import torch
from einops import rearrange
from torch import Tensor

from vidguide.functional.upcast import upcast


def cross_frame_intensity(query: Tensor, key: Tensor, frames: int, scale: float | None = None) -> Tensor:
    """Return the mean attention of a position to itself in the other frames: CFI of Enhance-A-Video, for each row.

    At each place of the picture and in each head, attention over the frames is an `(F, F)` map; the intensity is the
    mean of its `F (F - 1)` elements off the diagonal (github NUS-HPC-AI-Lab/Enhance-A-Video, `enhance.py`). Evenly
    spread attention has `1 / F`; no intensity exceeds `1 / (F - 1)`.

    Args:
        query, key: `(B, L, H, D)`, of tokens in row-major order (F, H, W).
        frames: F, at least 2.
        scale: of the scores; None for `D ** -0.5`.

    Returns:
        `(B,)`, the mean over places and heads.
    """
    query, key = (rearrange(upcast(tensor), "b (f s) h d -> b s h f d", f=frames) for tensor in (query, key))
    scores = torch.matmul(query, key.transpose(-1, -2)) * (query.shape[-1] ** -0.5 if scale is None else scale)
    diagonal = scores.softmax(-1).diagonal(dim1=-2, dim2=-1)  # the rows of a map sum to 1: the rest is off the diagonal
    return (1 - diagonal).mean((1, 2, 3)) / (frames - 1)


def enhancement(intensity: Tensor, frames: int, weight: float) -> Tensor:
    """Return the factor of the attention's output, `max(1, (F + weight) intensity)`."""
    return ((frames + weight) * intensity).clamp(min=1)
