"""Whether the Triton kernels of :mod:`vidguide.kernels.triton_launch` take a computation, or the eager formulas.

On a GPU with Triton the kernels are chosen by themselves; the environment variable VIDGUIDE_KERNELS=eager switches
them off. Inside of torch.compile the eager formulas are traced, as Inductor fuses them with what stands around them.
That the kernels are faster is expected from the memory they move, and not measured: `benchmarks/gpu.py` does that.
"""

import functools
import os

import torch
from packaging.version import Version
from torch import Tensor

from vidguide.functional.lse_merge import Told

Strength = tuple[float, float, float]  # NAG's scale, tau, alpha
VARIABLE, CHOICES = "VIDGUIDE_KERNELS", ("auto", "eager")
DEVICES = ("cuda",)  # types of device; ROCm's GPUs are called so too
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TRITON = "3.3"  # the first whose kernels take tuples; it came with torch 2.7
CHANNELS = 16384  # most of one token, heads and widths rounded up to powers of two, that a program's registers hold


def choice() -> str:
    """What VIDGUIDE_KERNELS asks for.

    Raises:
        ValueError: it is none of the choices.
    """
    asked = os.environ.get(VARIABLE, "auto")
    if asked not in CHOICES:
        raise ValueError(f"{VARIABLE}={asked!r}: must be one of {', '.join(CHOICES)}, or unset")
    return asked


@functools.cache
def lacking() -> str | None:
    """What keeps Triton's kernels from being built here, None where nothing does."""
    try:
        import triton
    except ImportError as error:
        return f"Triton is not installed ({error})"
    if Version(triton.__version__) < Version(TRITON):
        return f"Triton {triton.__version__} is older than {TRITON}"
    return None


def fit(*tensors: Tensor) -> bool:
    """Whether the kernels can take these `(B, L, H, D)` tensors, and are to."""
    return not torch.compiler.is_compiling() and choice() == "auto" and all(map(_fits, tensors)) and lacking() is None


def _fits(tensor: Tensor) -> bool:
    learns = tensor.requires_grad and torch.is_grad_enabled()  # the kernels have no backward
    return tensor.device.type in DEVICES and tensor.dtype in DTYPES and not learns


def small(tensor: Tensor) -> bool:
    """Whether a token of `(B, L, H, D)` features fits a program."""
    sizes = (1 << (size - 1).bit_length() for size in tensor.shape[2:])
    return functools.reduce(int.__mul__, sizes) <= CHANNELS


def nag(positive: Tensor, negative: Tensor, strength: Strength, group: int) -> tuple[Tensor, Tensor]:
    """:func:`vidguide.kernels.triton_launch.nag`."""
    from vidguide.kernels import triton_launch as fused

    return fused.nag(positive, negative, strength, group)


def nag_merged(video: Told, positive: Told, negative: Told, strength: Strength, group: int) -> tuple[Tensor, Tensor]:
    """:func:`vidguide.kernels.triton_launch.nag_merged`."""
    from vidguide.kernels import triton_launch as fused

    return fused.nag_merged(video, positive, negative, strength, group)


def average(average: Tensor, live: Tensor, decay: float, heads: int) -> Tensor:
    """:func:`vidguide.kernels.triton_launch.average`."""
    from vidguide.kernels import triton_launch as fused

    return fused.average(average, live, decay, heads)


def in_use() -> dict[str, str]:
    """Which kernels are in use, for people."""
    if choice() == "eager":
        return {"NAG, EMAG": f"eager formulas: {VARIABLE}=eager"}
    if not torch.cuda.is_available():
        return {"NAG, EMAG": "eager formulas: no GPU"}
    if (missing := lacking()) is not None:
        return {"NAG, EMAG": f"eager formulas: {missing}"}
    return {"NAG, EMAG": f"Triton on the GPU; eager formulas inside of torch.compile, and where {VARIABLE}=eager"}
