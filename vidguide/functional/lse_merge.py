"""Attention over a union of key sets, computed from the attention over each set and the log-sum-exps of its scores.

The softmax over the keys A and B together is the average of the attention over A and that over B, weighted by the sums
of their exponentials. So an expensive set (the video's keys) is attended to once, for several texts. Backends that
return the log-sum-exp are in :mod:`vidguide.kernels.lse_backends`.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class AttentionWithLse(NamedTuple):
    """Attention output `(B, L, H, D)` and log-sum-exp of its scores `(B, L, H, 1)`."""

    output: Tensor
    lse: Tensor


def merge(first: AttentionWithLse, second: AttentionWithLse) -> Tensor:
    """Compute attention over both key sets, `(B, L, H, D)` in the dtype of the first output.

    The first set must have an unmasked key in each row; the second may be masked altogether.
    """
    share = torch.sigmoid(second.lse - first.lse)  # of the second set; 0 where it is masked
    return torch.lerp(first.output.to(share.dtype), second.output.to(share.dtype), share).to(first.output.dtype)
