"""Which rows of a forward pass are conditional: all, or the second half of a batch that the pipeline has doubled."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vidguide.transformer.family import Inputs


@dataclass(frozen=True)
class Batch:
    """The rows of one forward pass.

    Attributes:
        halved: whether the first half of the rows is unconditional.
    """

    halved: bool = False

    def start(self, rows: int) -> int:
        """Return the index of the first conditional row among `rows`."""
        return rows // 2 if self.halved else 0

    def conditional(self, value: Any) -> Any:
        """Return the conditional rows of a tensor, or of all tensors in a tuple; other values as they are."""
        if isinstance(value, Tensor):
            return value[self.start(value.shape[0]) :]
        return tuple(self.conditional(item) for item in value) if isinstance(value, tuple) else value

    def conditional_inputs(self, inputs: Inputs) -> Inputs:
        """Return a call's arguments, each tensor of the batch cut to its conditional rows."""
        rows = inputs["hidden_states"].shape[0]

        def cut(value: Any) -> Any:
            if isinstance(value, list):  # ConsisID's face features; tuples are on the grid, not in the batch
                return [cut(item) for item in value]
            return self.conditional(value) if isinstance(value, Tensor) and value.shape[:1] == (rows,) else value

        return {name: cut(value) for name, value in inputs.items()} if self.halved else inputs


ALL_CONDITIONAL = Batch()
