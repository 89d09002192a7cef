"""Compile every Triton kernel for a GPU without a GPU: the interpreter accepts code that the compiler rejects."""

from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from vidguide.kernels.triton_kernels import average_tile, nag_token


class Target:
    """Stub of the GPU driver for the compiler."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 80, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


class Pointer:
    """Stub of a tensor argument for the compiler."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def data_ptr(self) -> int:
        return 0

    def ptr_range(self) -> int:
        return 0


def build(kernel: Any, *arguments: Any) -> None:
    built = kernel.warmup(*arguments, grid=(1,), num_warps=4)
    assert len(built.asm["cubin"]) > 0


if __name__ == "__main__":
    driver.set_active(Target())
    fp32, heads, width, length = Pointer(torch.float32), 6, 80, 1001
    layout, strength, tile = ((9, 8, 7),) * 3, (11.0, 2.5, 0.25), (8, 128)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        z, sizes = Pointer(dtype), (length, heads, width)
        build(nag_token, z, z, None, None, None, z, fp32, layout[:2], None, *sizes, *strength, *tile)
        build(nag_token, z, z, None, None, None, None, fp32, layout[:2], None, *sizes, *strength, *tile)
        build(nag_token, z, z, z, (fp32,) * 3, fp32, z, fp32, layout, layout, *sizes, *strength, *tile)
        build(average_tile, fp32, z, fp32, *layout[:2], (heads, 1, length, width), 0.012, 32, 128)
    print(triton.__version__)
