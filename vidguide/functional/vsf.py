"""Value Sign Flip (Guo and Du 2025, arXiv 2508.10931)."""

import torch
from torch import Tensor

from vidguide.functional.masks import additive, with_heads

Attended = tuple[Tensor, Tensor, Tensor | None]  # keys and values (B, L, H, D), mask broadcastable to (B, H, Q, L)


def vsf(positive: Attended, negative: Attended, scale: float, offset: float) -> Attended:
    """Join a prompt's and a negative prompt's keys and values so that attention subtracts the negative's.

    Attention on the result is `softmax(q [k+, k-]^T / sqrt(D) + [0, -offset]) [v+, -scale v-]`.

    Args:
        positive, negative: keys, values and mask, of the same batch.
        scale: of the negative's values. No value is off: the negative's keys take part in the softmax.
        offset: subtracted from the negative's scores.

    Returns:
        Keys, values and additive mask (None where nothing is masked or offset).
    """
    key, value = torch.cat([positive[0], negative[0]], 1), torch.cat([positive[1], -scale * negative[1]], 1)
    if positive[2] is None and negative[2] is None and offset == 0:
        return key, value, None
    masks = []
    for (keys, _, mask), shift in ((positive, 0.0), (negative, offset)):
        open_mask = torch.zeros(1, 1, 1, keys.shape[1], dtype=keys.dtype, device=keys.device)
        masks.append((open_mask if mask is None else with_heads(additive(mask, keys.dtype))) - shift)
    shape = [max(sizes) for sizes in zip(*(mask.shape[:-1] for mask in masks), strict=True)]
    return key, value, torch.cat([mask.expand(*shape, -1) for mask in masks], -1)
