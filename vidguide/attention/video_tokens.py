"""Which tokens of a self-attention are the video's: all, or a part where text shares the attention."""

import torch
from torch import Tensor

from vidguide.transformer.block_replay import BlockMode
from vidguide.transformer.cfg_batch import Batch
from vidguide.transformer.context_parallel import ContextParallel
from vidguide.transformer.family import Joint


class VideoTokens:
    """The video's tokens, of the conditional rows, in the kernel calls of one attention.

    Methods take `(batch, index)` of the kernel call: which rows of the pass are conditional, and the number of the call
    where the kernel is called once per sample.

    Attributes:
        parallel: the ranks over which the sequence is split; `take` and `put` operate on this rank's shard.
    """

    def __init__(self, block: BlockMode, joint: Joint | None, parallel: ContextParallel) -> None:
        self.block, self.joint, self.parallel = block, joint, parallel
        self.per_sample = joint is not None and joint.per_sample

    def sample(self, batch: Batch, index: int) -> int:
        """Return the conditional sample of a per-sample kernel call (negative: unconditional); 0 for a batch."""
        return index % self.block.rows - batch.start(self.block.rows) if self.per_sample else 0

    def rows(self, batch: Batch, index: int, rows: int) -> slice:
        """Return the conditional rows among the `rows` of a kernel call."""
        if not self.per_sample:
            return slice(batch.start(rows), None)
        return slice(0, rows if self.sample(batch, index) >= 0 else 0)

    def tokens(self, length: int) -> slice:
        """Return the video's slice of a sequence of `length` tokens."""
        if self.joint is None:
            return slice(0, length)
        return slice(length - self.block.tokens, length) if self.joint.text_first else slice(0, self.block.tokens)

    def take(self, tensor: Tensor, batch: Batch, index: int) -> Tensor:
        """Return the video's tokens of the conditional rows of `(B, L, H, D)`; no rows for an unconditional sample."""
        return tensor[self.rows(batch, index, tensor.shape[0]), self.tokens(tensor.shape[1])]

    def put(self, tensor: Tensor, part: Tensor) -> Tensor:
        """Return `(B, L, H, D)` with other video tokens in the conditional rows, which are the last ones."""
        tokens, start = self.tokens(tensor.shape[1]), tensor.shape[0] - part.shape[0]
        rows = tensor[start:]
        changed = torch.cat([rows[:, : tokens.start], part.to(tensor.dtype), rows[:, tokens.stop :]], 1)
        return torch.cat([tensor[:start], changed]) if start else changed
