"""The average of one layer's attention over the steps, and how far the live attention is from it."""

import torch
from torch import Tensor

from vidguide import kernels
from vidguide.formulas import attention_gradient, ema


class Average:
    """EMAG's average at one layer (arXiv 2512.17303, `E = beta E + (1 - beta) A`), of queries or of attention maps.

    In float32 (float64 for float64): in bfloat16 an update of 1.2% is about the size of one rounding step, and the
    average would stall. Subclasses say of what, and where they act.
    """

    def __init__(self, decay: float, strength: float) -> None:
        self.decay, self.strength = decay, strength
        self.average: Tensor | None = None
        self.gradient: Tensor | None = None  # D in the latest step, and in the one before
        self.previous: Tensor | None = None

    def take(self, live: Tensor) -> None:
        """Take a step's value into the average."""
        if self.average is None:
            wide, contiguous = torch.promote_types(live.dtype, torch.float32), torch.contiguous_format
            self.average = live.to(wide, copy=True, memory_format=contiguous)
            self.gradient = self.previous = self.average.new_zeros(())
        elif kernels.fit(self.average, live):
            self.previous, self.gradient = self.gradient, kernels.average(self.average, live, self.decay, 2).mean()
        else:
            ema(self.average, live, self.decay)
            self.previous, self.gradient = self.gradient, attention_gradient(self.average, live)

    def mixed(self, live: Tensor) -> Tensor:
        """`(1 - strength) A + strength E`, in the average's dtype."""
        if self.average is None:
            raise RuntimeError("EMAG has no average yet")
        return torch.lerp(live.to(self.average.dtype), self.average, self.strength)
