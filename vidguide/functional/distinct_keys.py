"""Attention over keys of which several are equal, computed over the distinct ones.

n equal keys with equal values are one key with log n added to its score: the softmax's numerator and denominator are
sums over keys, and n equal terms are n times one of them. Text models pad with zeros, so that a short text of 512
tokens has a few distinct keys.
"""

import functools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vidguide.functional.masks import additive

CLOSED = 4096  # scores lower by this have no weight in any dtype; models mask with about -1e4 or less
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes per element
HALF = (torch.float16, torch.bfloat16)


class DistinctKeys(NamedTuple):
    """Distinct keys `(B, K, H, D)`, their values, and the numbers to add to their scores, `(B, 1, 1, K)`.

    Rows of a batch with fewer distinct keys end with keys that are masked.

    Attributes:
        number: the largest number of distinct keys in a row.
    """

    key: Tensor
    value: Tensor
    bias: Tensor
    number: int

    def padded(self, length: int) -> "DistinctKeys":
        """Append masked keys up to a length."""
        missing = length - self.key.shape[1]
        key, value = (F.pad(tensor, (0, 0, 0, 0, 0, missing)) for tensor in (self.key, self.value))
        return DistinctKeys(key, value, F.pad(self.bias, (0, missing), value=-torch.inf), self.number)


def distinct_keys(key: Tensor, value: Tensor, mask: Tensor | None) -> DistinctKeys | None:
    """Return the distinct ones of `(B, L, H, D)` keys and values, in their order, without those that are masked.

    Tokens are equal where the bits of their keys and values in all heads are. In half precision a key with a count may
    be repeated, see :func:`log_count`.

    Args:
        mask: boolean (True attends) or additive, broadcastable to `(B, H, L, K)`, or None.

    Returns:
        None where the mask is not the same for all heads and queries, has other numbers than one for attended keys and
        one for masked ones, or masks all keys of a row.
    """
    open_keys = attended(mask, key)
    if open_keys is None:
        return None
    first = first_equal(torch.cat([key.flatten(2), value.flatten(2)], 2), open_keys)
    counts = torch.zeros_like(first).scatter_add(1, first, open_keys.long())
    bias = log_count(counts, key.dtype).flatten(1)  # (B, L * parts)
    present = bias > -torch.inf
    order = (~present).byte().argsort(stable=True, dim=1)[:, : int(present.sum(1).max())]
    tokens = (order // (bias.shape[1] // key.shape[1]))[..., None, None].expand(-1, -1, *key.shape[2:])
    number = int((counts > 0).sum(1).max())
    return DistinctKeys(key.gather(1, tokens), value.gather(1, tokens), bias.gather(1, order)[:, None, None], number)


def attended(mask: Tensor | None, key: Tensor) -> Tensor | None:
    """Return which keys `(B, L)` are attended to under a mask; None where a mask says more than that."""
    if mask is None:
        return torch.ones(key.shape[:2], dtype=torch.bool, device=key.device)
    bias = additive(mask, torch.float32).reshape(mask.shape[0], -1, mask.shape[-1])
    top = bias.amax((1, 2), keepdim=True)
    open_keys = bias == top
    plain = (open_keys == open_keys[:, :1]).all() & (open_keys | (bias < top - CLOSED)).all() & top.isfinite().all()
    if bias.shape[0] not in (1, key.shape[0]) or bias.shape[-1] != key.shape[1] or not plain:
        return None
    return open_keys[:, 0].expand(key.shape[0], -1)


def first_equal(rows: Tensor, groups: Tensor) -> Tensor:
    """Return the index `(B, L)` of the first row of `(B, L, C)` with the same bits, and of the same group `(B, L)`.

    Rows are compared by a checksum, then with the first of the same checksum; a row that differs from it is its own.
    """
    bits = rows.view(INTEGERS[rows.element_size()])
    sums = (bits.long() * checksum_factors(rows.shape[2]).to(rows.device)).sum(-1) * 2 + groups
    first = (sums[:, :, None] == sums[:, None]).byte().argmax(-1)
    equal = (bits == bits.gather(1, first[..., None].expand_as(bits))).all(-1)
    return torch.where(equal, first, torch.arange(rows.shape[1], device=rows.device))


@functools.cache
def checksum_factors(channels: int) -> Tensor:
    """Return a number for each channel, the same ones at each call; sums of products overflow, which is exact."""
    return torch.randint(-(1 << 62), 1 << 62, (channels,), generator=torch.Generator().manual_seed(0))


def log_count(counts: Tensor, dtype: torch.dtype) -> Tensor:
    """Return numbers `(..., parts)` of a dtype whose exponentials add up to counts `(...)`; some are minus infinity.

    One logarithm in float32 and float64. In half precision the logarithm of a large count has an error of more than 1%:
    it is rounded down, and two further parts have the logarithms of what is missing.
    """
    counts = counts.double()
    if dtype not in HALF:
        return counts.log().to(dtype)[..., None]
    parts, missing, epsilon = [], counts, torch.finfo(dtype).eps
    for _ in range(3):
        exact = missing.log()
        parts.append((exact - exact.abs().nan_to_num(0, 0, 0) * epsilon / 2).to(dtype))
        missing = (missing - parts[-1].double().exp()).clamp(min=0)
        missing = missing.masked_fill(missing < counts * 1e-5, 0)
    return torch.stack(parts, -1)
