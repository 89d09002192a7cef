"""The batch of the call at work: all of it conditional, or the second half of what a pipeline has doubled."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from vidguide.transformer.family import Inputs


class Batch:
    """Which rows are conditional. Edits hold one and ask it anew in each call.

    Attributes:
        halved: whether the first half of the rows is unconditional.
    """

    def __init__(self, halved: bool = False) -> None:
        self.halved = halved

    def start(self, rows: int) -> int:
        """The first conditional one of some rows."""
        return rows // 2 if self.halved else 0

    def conditional(self, value: Any) -> Any:
        """The conditional rows of a tensor, or of all tensors in a tuple; other values as they are."""
        if isinstance(value, Tensor):
            return value[self.start(value.shape[0]) :]
        return tuple(self.conditional(one) for one in value) if isinstance(value, tuple) else value

    def inputs(self, inputs: Inputs) -> Inputs:
        """A call's arguments cut to their conditional rows."""
        rows = inputs["hidden_states"].shape[0]

        def cut(value: Any) -> Any:
            if isinstance(value, list):  # ConsisID's features of a face; tuples lie on the grid, not in the batch
                return [cut(one) for one in value]
            return self.conditional(value) if isinstance(value, Tensor) and value.shape[:1] == (rows,) else value

        return {name: cut(value) for name, value in inputs.items()} if self.halved else inputs

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Within, calls hold conditional rows only."""
        halved, self.halved = self.halved, False
        try:
            yield
        finally:
            self.halved = halved
