"""Attention masks `(B or 1, ..., L or 1, K)`: conversion, and the parts for some rows, queries and keys."""

import math

import torch
from torch import Tensor


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert a mask, boolean (True attends) or additive, to numbers to add to the scores."""
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, -math.inf)
    return mask.to(dtype)


def with_heads(mask: Tensor) -> Tensor:
    """Insert dimensions of size 1 after the batch, up to `(B, H, L, K)`."""
    return mask.reshape(mask.shape[0], *(1,) * (4 - mask.ndim), *mask.shape[1:])


def rows_of(mask: Tensor | None, start: int, stop: int | None = None) -> Tensor | None:
    """Select the rows of a mask from `start` to `stop`; one row that serves the whole batch stays."""
    return mask if mask is None or mask.shape[0] == 1 else mask[start:stop]


def masked(mask: Tensor | None, queries: slice | Tensor, keys: slice = slice(None)) -> Tensor | None:
    """Select the part of a mask for some queries, a range or their indices, and keys; one row may serve all queries."""
    if mask is None:
        return None
    return mask[..., slice(None) if mask.shape[-2] == 1 else queries, keys]
