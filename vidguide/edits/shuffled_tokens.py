"""A block's video tokens in random order."""

import torch
from torch import Tensor

from vidguide.transformer.context_parallel import ContextParallel


class ShuffledTokens:
    """A change of a block's input that moves the video's tokens (TPG, arXiv 2506.10036).

    Args:
        order: `(N,)`, where each of the last `N` tokens comes from; history that comes before them stays.
        parallel: the ranks on which the tokens lie.
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
