"""TCFG: classifier-free guidance with the unconditional prediction damped across the shared direction."""

from dataclasses import dataclass

from torch import Tensor

from vidguide.calls.call import Call
from vidguide.functional.cfg import tcfg
from vidguide.guidances.cfg_rules.cfg import CFG


@dataclass(frozen=True, kw_only=True, eq=False)
class TCFG(CFG):
    """Tangential Damping Classifier-free Guidance (Kwon et al., arXiv 2503.18137).

    The unconditional prediction is projected on the first right singular vector of both predictions, then `u' + scale
    (c - u')`. Equal to diffusers' guider, which computes a singular value decomposition in float32.

    Attributes:
        scale: guidance scale; 1 is off. A number, a list per step, or a callable of the progress, as in :class:`CFG`.
        rescale, negative_prompt, negative_prompt_embeds, every, start, stop: as in :class:`CFG`.

    Examples:
        >>> from vidguide import TCFG
        >>> TCFG(scale=5.0, rescale=0.7).rescale
        0.7
        >>> TCFG(scale=1).neutral
        True
    """

    def rule(self, call: Call, cond: Tensor, uncond: Tensor) -> Tensor:
        return tcfg(cond, uncond, self.scale_of(call))
