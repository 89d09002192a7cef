"""Choice between the Triton kernels of :mod:`vidguide.kernels.triton_launch` and the eager formulas.

On a GPU with Triton the kernels are used; the environment variable VIDGUIDE_KERNELS=eager disables them. In
torch.compile the eager formulas are traced, as Inductor fuses them with the surrounding operations. The kernels are
expected to be faster because they move less memory; `benchmarks/gpu.py` measures it.
"""

import functools
import os

import torch
from packaging.version import Version
from torch import Tensor

from vidguide.functional.lse_merge import AttentionWithLse
from vidguide.functional.nag import Strength

VARIABLE, MODES = "VIDGUIDE_KERNELS", ("auto", "eager")
DEVICES = ("cuda",)  # types of device; ROCm reports "cuda" too
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MIN_TRITON = "3.3"  # the first whose kernels take tuples; released with torch 2.7
# Elements of the chunks in which features are combined, see `benchmarks/formulas.py`: per thread of a CPU, whose cache
# has them in float32; on other devices, whose launches cost more, 32 MiB. Float32 features of a CPU that are smaller
# than that are combined at once.
CPU_CHUNK, CHUNK = 1 << 17, 1 << 23
MAX_CHANNELS = 16384  # of one token in a program's registers, heads and widths rounded up to powers of two


def mode() -> str:
    """Return the value of VIDGUIDE_KERNELS, "auto" where it is unset.

    Raises:
        ValueError: unknown value.
    """
    value = os.environ.get(VARIABLE, "auto")
    if value not in MODES:
        raise ValueError(f"{VARIABLE}={value!r}: must be one of {', '.join(MODES)}, or unset")
    return value


@functools.cache
def unavailable_reason() -> str | None:
    """Return why Triton's kernels cannot be built here, None where they can."""
    try:
        import triton
    except ImportError as error:
        return f"Triton is not installed ({error})"
    if Version(triton.__version__) < Version(MIN_TRITON):
        return f"Triton {triton.__version__} is older than {MIN_TRITON}"
    return None


def supports(*tensors: Tensor) -> bool:
    """Return whether the kernels are enabled and take these `(B, L, H, D)` tensors."""
    enabled = not torch.compiler.is_compiling() and mode() == "auto"
    return enabled and all(map(_supports, tensors)) and unavailable_reason() is None


def _supports(tensor: Tensor) -> bool:
    needs_gradient = tensor.requires_grad and torch.is_grad_enabled()  # the kernels have no backward
    return tensor.device.type in DEVICES and tensor.dtype in DTYPES and not needs_gradient


def fits_registers(tensor: Tensor) -> bool:
    """Return whether a token of `(B, L, H, D)` features fits the registers of a program."""
    sizes = (1 << (size - 1).bit_length() for size in tensor.shape[2:])
    return functools.reduce(int.__mul__, sizes) <= MAX_CHANNELS


def chunk_size(*tensors: Tensor) -> int | None:
    """Return the number of elements of the chunks in which the eager formula combines `(B, L, H, D)` tensors.

    None for all at once: where they are no larger, where a gradient is needed, and in torch.compile.
    """
    if torch.compiler.is_compiling() or (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)):
        return None
    first = tensors[0]
    size, least = CHUNK, CHUNK
    if first.device.type == "cpu":
        size = CPU_CHUNK * torch.get_num_threads()
        least = size if first.element_size() == 2 else max(size, CHUNK)
    return size if first.numel() > least else None


def nag(positive: Tensor, negative: Tensor, strength: Strength, group: int) -> tuple[Tensor, Tensor]:
    """Run :func:`vidguide.kernels.triton_launch.nag`."""
    from vidguide.kernels import triton_launch

    return triton_launch.nag(positive, negative, strength, group)


def nag_merged(
    video: AttentionWithLse, positive: AttentionWithLse, negative: AttentionWithLse, strength: Strength, group: int
) -> tuple[Tensor, Tensor]:
    """Run :func:`vidguide.kernels.triton_launch.nag_merged`."""
    from vidguide.kernels import triton_launch

    return triton_launch.nag_merged(video, positive, negative, strength, group)


def average(average: Tensor, live: Tensor, decay: float, heads: int) -> Tensor:
    """Run :func:`vidguide.kernels.triton_launch.average`."""
    from vidguide.kernels import triton_launch

    return triton_launch.average(average, live, decay, heads)


def in_use() -> dict[str, str]:
    """Describe which implementation of NAG and EMAG this machine uses."""
    if mode() == "eager":
        return {"NAG, EMAG": f"eager formulas: {VARIABLE}=eager"}
    if not torch.cuda.is_available():
        return {"NAG, EMAG": "eager formulas: no GPU"}
    if (reason := unavailable_reason()) is not None:
        return {"NAG, EMAG": f"eager formulas: {reason}"}
    return {"NAG, EMAG": f"Triton on the GPU; eager formulas in torch.compile, and with {VARIABLE}=eager"}
