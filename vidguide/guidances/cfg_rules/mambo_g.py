"""MAMBO-G: classifier-free guidance damped where it would change the prediction by much of its magnitude."""

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from vidguide.calls.call import Call
from vidguide.functional.cfg import mambo_g
from vidguide.guidances.cfg_rules.cfg import CFG
from vidguide.guidances.schedule import Schedule
from vidguide.validation import Range


@dataclass(frozen=True, kw_only=True, eq=False)
class MAMBOG(CFG):
    """MAMBO-G, Magnitude-Aware Mitigation for Boosted Guidance (Zhu et al., arXiv 2508.03442).

    CFG at the scale `1 + (scale - 1) exp(-alpha |c - u| / |u|)` of each sample. Equal to diffusers'
    `MagnitudeAwareGuidance` with its default `use_original_formulation=False`, which is the paper's formula.

    Attributes:
        scale: guidance scale without damping; 1 is off. A number, a list per step, or a callable of the progress, as in
            :class:`CFG`. diffusers' default: 10.
        alpha: strength of the damping, at least 0; 0 is CFG. diffusers' default: 8.
        rescale, negative_prompt, negative_prompt_embeds, every, start, stop: as in :class:`CFG`.

    Examples:
        >>> from vidguide import MAMBOG
        >>> MAMBOG(scale=10.0, alpha=8.0).alpha
        8.0
        >>> MAMBOG(scale=1).neutral
        True
    """

    scale: Annotated[Schedule, Range(1)] = 10.0
    alpha: Annotated[float, Range(0)] = 8.0

    def rule(self, call: Call, cond: Tensor, uncond: Tensor) -> Tensor:
        return mambo_g(cond, uncond, self.scale_of(call), self.alpha)
