"""Extra passes at every k-th guided step, with the latest difference of predictions reused in between."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from vidguide.calls.call import Call
from vidguide.functional.upcast import upcast


class Latest:
    """What the latest extra pass of a run gave.

    Attributes:
        differences: of the conditional predictions and those of the extra pass, the video's first; None for predictions
            that are no tensors. None before the first pass.
    """

    def __init__(self) -> None:
        self.differences: list[Tensor | None] | None = None


class PassInterval:
    """Which of a guidance's guided steps make an extra pass: the first one, and every k-th one from there.

    Args:
        every: k; 1 for all steps.
    """

    def __init__(self, every: int) -> None:
        self.every = every

    def latest(self, call: Call) -> Latest:
        """Return what the latest pass of the run gave; new where the shapes of the call have changed."""
        return call.cached(self, Latest)

    def is_due(self, call: Call, guided: Sequence[int]) -> bool:
        """Return whether the step of a call makes a pass; also where the run has no difference to reuse yet, as when
        another transformer takes its turn.

        Args:
            guided: steps of the run at which the guidance acts, in order.
        """
        if self.every == 1 or self.latest(call).differences is None:
            return True
        return guided.index(call.step) % self.every == 0

    def store(self, call: Call, predictions: Sequence[Any], others: Sequence[Any]) -> None:
        """Store the differences of predictions and those of the extra pass, constants of later gradients."""
        if self.every > 1:
            self.latest(call).differences = [
                (prediction - other).detach() if isinstance(prediction, Tensor) and isinstance(other, Tensor) else None
                for prediction, other in zip(predictions, others, strict=True)
            ]

    def reused(self, call: Call, predictions: Sequence[Any]) -> list[Any]:
        """Return estimates of the extra pass's predictions, in at least float32: those given minus the latest
        differences, which half precision would lose."""
        differences = self.latest(call).differences or []
        return [
            prediction if difference is None else upcast(prediction) - difference
            for prediction, difference in zip(predictions, differences, strict=True)
        ]
