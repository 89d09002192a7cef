"""Attention over a union of key sets, from the attention over each: exact, by the logarithms of the sums.

`softmax` over keys A and B together is the average of the attention over A and that over B, weighted by the sums of
their exponentials. So an expensive set (the video's keys) is attended to once, however many texts it is joined with.
Where the logarithms come from is said in :mod:`vidguide.kernels.lse_backends`.
"""

import torch
from torch import Tensor

Told = tuple[Tensor, Tensor]  # output (B, L, H, D) and log-sum-exp (B, L, H, 1) of an attention


def merge(first: Told, second: Told) -> Tensor:
    """Attention over both key sets, from outputs `(B, L, H, D)` and log-sum-exps `(B, L, H, 1)` over each.

    The first set must let something through; the second may be masked altogether.
    """
    share = torch.sigmoid(second[1] - first[1])  # of the second set; 0 where it is masked
    return torch.lerp(first[0].to(share.dtype), second[0].to(share.dtype), share).to(first[0].dtype)
