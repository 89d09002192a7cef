"""Least squares of a model's error on the direction of a guidance: does it point to the truth, and how far?

For a clip noised to x_t, `e = v_true - c` is the error of the conditional prediction c, and `d = c - c~` the direction
of a guidance whose weaker prediction is c~. `w* = <e, d> / <d, d>` minimizes `|v_true - (c + w d)|^2` over w, summed
over clips. All sums are in float64.
"""

import torch
from torch import Tensor

ERROR_DIRECTION, DIRECTION, ERROR, PREDICTION = range(4)  # columns of the products


def inner_products(error: Tensor, direction: Tensor, prediction: Tensor) -> Tensor:
    """Compute `<e, d>`, `<d, d>`, `<e, e>` and `<c, c>` of each clip.

    Args:
        error, direction, prediction: e, d and c, `(B, ...)`.

    Returns:
        `(B, 4)`, float64.
    """
    e, d, c = (tensor.flatten(1).double() for tensor in (error, direction, prediction))
    return torch.stack([(e * d).sum(1), (d * d).sum(1), (e * e).sum(1), (c * c).sum(1)], 1)


def least_squares_scale(products: Tensor) -> Tensor:
    """Compute `w* = <e, d> / <d, d>` of sums `(..., 4)`; NaN where the direction is zero."""
    return products[..., ERROR_DIRECTION] / products[..., DIRECTION]


def explained_share(products: Tensor) -> Tensor:
    """Compute `<e, d>^2 / (<d, d> <e, e>)` of sums `(..., 4)`, the share of the squared error that `w* d` explains."""
    return products[..., ERROR_DIRECTION] ** 2 / (products[..., DIRECTION] * products[..., ERROR])


def relative_size(products: Tensor) -> Tensor:
    """Compute `|d| / |c|` of sums `(..., 4)`."""
    return (products[..., DIRECTION] / products[..., PREDICTION]).sqrt()


def bootstrap_scales(products: Tensor, resamples: int, generator: torch.Generator) -> Tensor:
    """Compute w* of clips drawn with replacement.

    Args:
        products: of each clip, `(N, 4)`.
        resamples: number of draws.
        generator: of the draws, on the CPU.

    Returns:
        `(resamples,)`, float64.
    """
    clips = len(products)
    drawn = torch.randint(clips, (resamples, clips), generator=generator)
    counts = torch.zeros(resamples, clips, dtype=products.dtype).scatter_add_(
        1, drawn, torch.ones(resamples, clips, dtype=products.dtype)
    )
    return least_squares_scale(counts @ products)


def percentile_interval(values: Tensor, level: float = 0.95) -> tuple[float, float]:
    """Return the central interval of a level among values `(N,)`; NaN where a value is."""
    share = (1 - level) / 2
    low, high = torch.quantile(values, torch.tensor([share, 1 - share], dtype=values.dtype)).tolist()
    return low, high
