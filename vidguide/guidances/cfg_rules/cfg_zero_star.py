"""CFG-Zero*: classifier-free guidance with an optimized scale of the unconditional prediction, and zero-init."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from vidguide.calls.call import Call
from vidguide.functional.cfg import cfg_zero_star
from vidguide.guidances.cfg_rules.cfg import CFG
from vidguide.validation import Range


@dataclass(frozen=True, kw_only=True, eq=False)
class CFGZeroStar(CFG):
    """CFG-Zero* (Fan et al., arXiv 2503.18886): CFG from `s u`, with `s = <c, u> / |u|^2` of each sample.

    diffusers' guider computes the same; from `scale > 1` on the first `zero_steps` predictions are zero there too.

    Attributes:
        scale: guidance scale; 1 is off. A number, a list per step, or a callable of the progress, as in :class:`CFG`.
        zero_steps: first steps that predict zero, at least 0; the paper's zero-init takes 1, 0 is off.
        rescale, negative_prompt, negative_prompt_embeds, every, start, stop: as in :class:`CFG`.

    Examples:
        >>> from vidguide import CFGZeroStar
        >>> CFGZeroStar(scale=5.0).zero_steps
        1
    """

    zero_steps: Annotated[int, Range(0)] = 1

    @property
    def needs_steps(self) -> bool:
        return super().needs_steps or (self.zero_steps > 0 and not self.neutral)

    def rule(self, call: Call, cond: Tensor, uncond: Tensor) -> Tensor:
        if call.step < self.zero_steps:
            return torch.zeros_like(cond)
        return cfg_zero_star(cond, uncond, self.scale_of(call))
