"""Exponential Moving Average Guidance (Yadav, Ta, Liu, arXiv 2512.17303)."""

import torch
from torch import Tensor


def ema(average: Tensor, value: Tensor, decay: float) -> Tensor:
    """Update `E = decay E + (1 - decay) A` in place, in the average's dtype."""
    return average.lerp_(value.to(average.dtype), 1 - decay)


def attention_gradient(average: Tensor, value: Tensor, heads: int) -> Tensor:
    """Compute `D = mean |E - A|` for each row and head, the distance of the live attention from its average.

    Args:
        average, value: `(B, ...)`.
        heads: dimension of the heads.

    Returns:
        `(B, H)`.
    """
    difference = (average - value).abs_()  # type promotion converts the value in the subtraction
    return difference.mean([dim for dim in range(1, difference.ndim) if dim != heads])


def mean_magnitude(value: Tensor, heads: int, dtype: torch.dtype) -> Tensor:
    """Compute `mean |A|` of `(B, ...)` for each row and head, `(B, H)`, in `dtype`: the unit of a relative D."""
    dims = [dim for dim in range(1, value.ndim) if dim != heads]
    norm = torch.linalg.vector_norm(value, 1, dims, dtype=dtype)
    return norm / (value[0].numel() // value.shape[heads])


def mean_of_heads(values: Tensor, heads: Tensor | None) -> Tensor:
    """Average `(B, H)` over the heads in `heads` `(B, H)`, boolean; None for all. NaN where a row has none."""
    return values.mean(1) if heads is None else (values * heads).sum(1) / heads.sum(1)


def blend(value: Tensor, average: Tensor, strength: float | Tensor) -> Tensor:
    """Compute the perturbed attention `A~ = (1 - lambda) A + lambda E`, in the average's dtype.

    Args:
        strength: lambda, 0 to 1; a tensor `(B, 1, ...)` for a different one in each row, of the average's dtype.
    """
    return torch.lerp(value.to(average.dtype), average, strength)


def replace_columns(weights: Tensor, columns: Tensor, keys: slice) -> Tensor:
    """Replace columns of an attention map and normalize the rows to sum 1 (EMAG-I).

    Args:
        weights: `(B, H, Q, K)`.
        columns: `(B, H, Q, k)`, for the keys of the slice.
    """
    weights = torch.cat([weights[..., : keys.start], columns, weights[..., keys.stop :]], -1)
    return weights / weights.sum(-1, keepdim=True)


def emag_correction(cond: Tensor, perturbed: Tensor, scale: float) -> Tensor:
    """Compute what EMAG adds to the conditional prediction: `(w - 1) (c - c~)`, so that the sum is eq. 14.

    Eq. 14 is `c~ + w (c - c~)`; as an addition to c it composes with other corrections in any order.
    """
    return (scale - 1) * (cond - perturbed)
