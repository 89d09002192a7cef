"""Enhance-A-Video: self-attention scaled by the attention between frames, without a second pass."""

from dataclasses import dataclass
from typing import Annotated

from vidguide.attention.plan import AttentionPlan
from vidguide.calls.call import Call
from vidguide.edits.enhanced_attention import EnhancedAttention
from vidguide.guidances.base import Guidance
from vidguide.validation import Range


@dataclass(frozen=True, kw_only=True, eq=False)
class EnhanceAVideo(Guidance):
    """Enhance-A-Video (Luo et al., arXiv 2502.07508): `max(1, (F + weight) CFI) * attention`.

    CFI, the cross-frame intensity, is the mean attention of a position to itself in the other frames, over all
    positions and heads of a self-attention; F is the number of latent frames. In joint attention, only the video's
    tokens count. The attention may also be edited by NAG or VSF: the edited output is enhanced. Clips of one frame are
    not changed.

    What differs from the authors' code (github NUS-HPC-AI-Lab/Enhance-A-Video): each clip of a batch has its own
    intensity; the output is enhanced before the attention's last linear layer, whose bias stays as it is; and where
    classifier-free guidance is on, the unconditional prediction is not enhanced.

    Attributes:
        weight: enhance temperature, added to F; -1 is off, as `(F - 1) CFI` is at most 1. Published: 1 for CogVideoX, 4
            for HunyuanVideo (the repository's `cogvideox.py` and `hunyuanvideo.py`).
        start, stop: window in fractions of the steps.
        layers: blocks it acts in; None for all. Where space and time have separate blocks, of the temporal ones.

    Raises:
        TypeError, ValueError: a parameter of the wrong kind or out of its range, by name.

    Examples:
        >>> from vidguide import EnhanceAVideo
        >>> EnhanceAVideo().weight, EnhanceAVideo(weight=4.0).weight
        (1.0, 4.0)
    """

    weight: Annotated[float, Range(-1)] = 1.0

    @property
    def neutral(self) -> bool:
        return self.weight == -1

    @property
    def perturbs(self) -> bool:
        return not self.neutral

    @property
    def extra_pass(self) -> bool:
        return False

    def plan(self, call: Call) -> AttentionPlan:
        if call.grid[0] == 1:
            return AttentionPlan()
        by_extent = call.model.self_sites
        sites = by_extent.get("temporal") or by_extent[call.model.family.extent]
        layers = sites if self.layers is None else self.layers
        return AttentionPlan(
            outputs={sites[layer]: (EnhancedAttention(sites[layer], call.grid, self.weight),) for layer in layers}
        )
