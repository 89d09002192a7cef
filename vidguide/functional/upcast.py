"""Computation in at least float32."""

from torch import Tensor, float64


def upcast(tensor: Tensor) -> Tensor:
    """Convert to float32, which float64 tensors exceed already: extrapolation and long sums need the digits."""
    return tensor if tensor.dtype == float64 else tensor.float()
