"""The part of an attention mask `(B or 1, ..., L or 1, K)` that some rows, queries and keys of a call have."""

from torch import Tensor


def rows_of(mask: Tensor | None, start: int, stop: int | None = None) -> Tensor | None:
    """The rows of a mask from `start` on; one that serves the whole batch stays."""
    return mask if mask is None or mask.shape[0] == 1 else mask[start:stop]


def masked(mask: Tensor | None, queries: slice | Tensor, keys: slice = slice(None)) -> Tensor | None:
    """The part of a mask for some queries, a range or their indices, and some keys; one row may serve all queries."""
    if mask is None:
        return None
    return mask[..., slice(None) if mask.shape[-2] == 1 else queries, keys]
