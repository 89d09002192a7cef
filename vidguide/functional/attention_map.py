"""Softmax attention with its map written out."""

import torch
from torch import Tensor

from vidguide.functional.masks import additive


def attention_map(query: Tensor, key: Tensor, scale: float | None = None, mask: Tensor | None = None) -> Tensor:
    """Compute `softmax(q k^T scale + mask)` in at least float32.

    Args:
        query: `(B, Q, H, D)`. key: `(B, K, H, D)`. scale: of the scores; None for `D ** -0.5`.
        mask: boolean (True attends) or additive, broadcastable to `(B, H, Q, K)`.

    Returns:
        `(B, H, Q, K)`.
    """
    dtype = torch.promote_types(query.dtype, torch.float32)
    scores = torch.einsum("bqhd,bkhd->bhqk", query.to(dtype) * (scale or query.shape[-1] ** -0.5), key.to(dtype))
    if mask is not None:
        scores = scores + additive(mask, scores.dtype)
    return scores.softmax(-1)


def apply_map(weights: Tensor, value: Tensor) -> Tensor:
    """Average values `(B, K, H, D)` by a map `(B, H, Q, K)`, in the map's dtype; `(B, Q, H, D)` in the values'."""
    return torch.einsum("bhqk,bkhd->bqhd", weights, value.to(weights.dtype)).to(value.dtype)
