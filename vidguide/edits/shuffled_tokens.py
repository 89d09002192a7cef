"""Shuffled video tokens as a block's input."""

import torch
from torch import Tensor

from vidguide.transformer.context_parallel import ContextParallel


class ShuffledTokens:
    """An input change that permutes a block's video tokens (TPG, arXiv 2506.10036).

    Args:
        order: `(N,)`, the source index of each of the last `N` tokens; history before them is not permuted.
        parallel: the ranks over which the tokens are split.
    """

    def __init__(self, order: Tensor, parallel: ContextParallel) -> None:
        self.order, self.parallel = order, parallel

    def __call__(self, tokens: Tensor) -> Tensor:
        whole = self.parallel.gather(tokens)
        first = whole.shape[1] - self.order.shape[0]
        if first < 0:
            raise ValueError(f"TPG: a block has {whole.shape[1]} tokens where the grid has {self.order.shape[0]}")
        shuffled = whole[:, first + self.order]
        return self.parallel.shard(torch.cat([whole[:, :first], shuffled], 1))
