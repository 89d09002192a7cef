"""Which of a self-attention's tokens are the video's own: all, or where text shares the attention, a part."""

import torch
from torch import Tensor

from vidguide.transformer.block_replay import Stage
from vidguide.transformer.cfg_batch import Batch
from vidguide.transformer.context_parallel import Ranks
from vidguide.transformer.family import Joint


class Video:
    """The video's tokens, of the conditional rows, in the kernel calls of one attention.

    Attributes:
        call: number of the kernel call at work, where there is one for each sample.
        ranks: those on which the sequence lies; what is taken and put is this one's share.
    """

    def __init__(self, batch: Batch, stage: Stage, joint: Joint | None, ranks: Ranks) -> None:
        self.batch, self.stage, self.joint, self.ranks = batch, stage, joint, ranks
        self.ragged = joint is not None and joint.ragged
        self.call = 0

    @property
    def sample(self) -> int:
        """Which conditional sample the kernel call at work is of; negative for unconditional ones, 0 for a batch."""
        return self.call % self.stage.rows - self.batch.start(self.stage.rows) if self.ragged else 0

    def rows(self, rows: int) -> slice:
        """The conditional ones of a kernel call's rows."""
        return slice(self.batch.start(rows), None) if not self.ragged else slice(0, rows if self.sample >= 0 else 0)

    def tokens(self, length: int) -> slice:
        """The video's part of a sequence."""
        if self.joint is None:
            return slice(0, length)
        return slice(length - self.stage.tokens, length) if self.joint.text_first else slice(0, self.stage.tokens)

    def take(self, tensor: Tensor) -> Tensor:
        """Of `(B, L, H, D)`, the conditional rows and the video's tokens; no rows in an unconditional sample's call."""
        return tensor[self.rows(tensor.shape[0]), self.tokens(tensor.shape[1])]

    def put(self, tensor: Tensor, part: Tensor) -> Tensor:
        """`(B, L, H, D)` with another video, in a pass of conditional rows only."""
        tokens = self.tokens(tensor.shape[1])
        return torch.cat([tensor[:, : tokens.start], part.to(tensor.dtype), tensor[:, tokens.stop :]], 1)
