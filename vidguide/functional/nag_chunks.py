"""NAG's combination of features, computed in chunks of tokens.

The arithmetic of each token is that of :func:`vidguide.functional.nag.nag`. Temporaries in float32 have the size of a
chunk, which fits a CPU's cache, instead of that of the features.
"""

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from vidguide.functional.nag import NAGOutput, Strength, l1_norm, nag, nag_blend, nag_extrapolate, norm_limit

Rows = tuple[slice, slice]  # of the batch, and of the tokens


def chunks(features: Tensor, size: int) -> Iterator[Rows]:
    """Divide the tokens of `(B, L, H, D)` into parts of about equal length and at most `size` elements, or one token.

    No part has tokens of several rows of the batch.
    """
    batch, length, heads, width = features.shape
    number = -(-length // max(size // (heads * width), 1))
    bounds = [length * index // max(number, 1) for index in range(number + 1)]
    for row in range(batch):
        for start, stop in itertools.pairwise(bounds):
            yield slice(row, row + 1), slice(start, stop)


def nag_in_chunks(
    positive: Tensor,
    negative: Tensor,
    strength: Strength,
    size: int,
    group: int = 1,
    limit: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> NAGOutput:
    """Compute :func:`vidguide.functional.nag.nag` in chunks; gradients do not pass through it.

    Args:
        positive, negative: `(B, L, H, D)`.
        strength: scale, tau and alpha.
        size: largest number of elements of a chunk.
        group, limit: as of `nag`. Where tokens share a norm, the norms of all chunks come first.

    Returns:
        The output, rounded to the dtype of `positive`, and the factors.
    """
    scale, tau, alpha = strength
    output = torch.empty(positive.shape, dtype=positive.dtype, device=positive.device)
    if group == 1 and limit is None:
        factor = norms_like(positive)
        for rows in chunks(positive, size):
            part = nag(positive[rows], negative[rows], *strength)
            output[rows], factor[rows] = part
        return NAGOutput(output, factor)
    norms, guided_norms = norms_like(positive), norms_like(positive)
    for rows in chunks(positive, size):
        norms[rows] = l1_norm(positive[rows])
        guided_norms[rows] = l1_norm(nag_extrapolate(positive[rows], negative[rows], scale))
    factor = norm_limit(norms, guided_norms, tau, group) if limit is None else limit(norms, guided_norms)
    for rows in chunks(positive, size):
        guided = nag_extrapolate(positive[rows], negative[rows], scale)
        output[rows] = nag_blend(positive[rows], guided, factor[rows], alpha)
    return NAGOutput(output, factor)


def norms_like(features: Tensor) -> Tensor:
    """Return an uninitialized number for each token, `(B, L, 1, 1)`, in the dtype of the computation."""
    dtype = torch.promote_types(features.dtype, torch.float32)
    return torch.empty((*features.shape[:2], 1, 1), dtype=dtype, device=features.device)
