"""Condition-Annealed Diffusion Sampling: annealed noise on the prompt's embeddings, for more diverse clips."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from vidguide.calls.call import Call
from vidguide.functional.cads import cads, cads_share
from vidguide.functional.seeds import generator_at
from vidguide.guidances.base import Guidance
from vidguide.validation import Range, check_number


@dataclass(frozen=True, kw_only=True, eq=False)
class CADS(Guidance):
    """Condition-Annealed Diffusion Sampling (Sadat et al., arXiv 2310.17347).

    Noise is added to the prompt's embeddings, at full strength at first and annealed to none at a fraction of the run.
    All passes of a step use the same noise; negatives and unconditional branches have none. The noise of each clip of a
    batch depends on its seed alone, so that a clip does not depend on the others. Where a model has several text
    inputs, it is added to the first of `text_inputs` in :class:`vidguide.transformer.family.Family`.

    Attributes:
        scale: s, standard deviation of the noise; 0 is off. Published: 0.25 for text.
        full, none: the fractions of the run until which the prompt is all noise and from which on there is none; the
            paper's `1 - tau_2` and `1 - tau_1`, published 0.1 and 0.4.
        mixing: psi, share of the noisy embeddings brought back to the prompt's mean and deviation, 0 to 1.
        seed: of the noise; use a different one for each clip. In a batch it is the first clip's, and the following ones
            have the numbers after it.
        start, stop, layers: not used by this guidance.

    Raises:
        TypeError, ValueError: a parameter of the wrong kind or out of its range, by name.

    Examples:
        >>> from vidguide import CADS
        >>> CADS(scale=0.1, seed=3).neutral
        False
        >>> CADS(scale=0).neutral
        True
    """

    scale: Annotated[float, Range(0)] = 0.25
    full: Annotated[float, Range(0, 1)] = 0.1
    none: Annotated[float, Range(0, 1)] = 0.4
    mixing: Annotated[float, Range(0, 1)] = 1.0
    seed: Annotated[int, Range()] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "none", self.full, 1)
        if self.windowed or self.layers is not None:
            raise ValueError("CADS: full and none say when it acts; leave out start, stop and layers")

    @property
    def neutral(self) -> bool:
        return self.scale == 0

    @property
    def needs_steps(self) -> bool:
        return not self.neutral

    def change_inputs(self, call: Call) -> Call:
        share = cads_share(call.progress, self.full, self.none)
        if share == 1:
            return call
        name = call.model.family.text_inputs[0]
        return dataclasses.replace(call, inputs={**call.inputs, name: self.noisy(call, call.inputs[name], share)})

    def noisy(self, call: Call, prompt: Tensor, share: float) -> Tensor:
        """Return the prompt's embeddings with this step's noise on the conditional rows."""
        start = call.batch.start(prompt.shape[0])
        cond = prompt[start:]
        seeds = range(self.seed, self.seed + cond.shape[0])
        noise = [torch.randn(cond.shape[1:], generator=generator_at(seed, call.step)) for seed in seeds]
        noisy = cads(cond, torch.stack(noise).to(cond.device), share, self.scale, self.mixing)
        return torch.cat([prompt[:start], noisy])
