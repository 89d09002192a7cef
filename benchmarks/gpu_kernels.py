"""The kernels in isolation: first their accuracy, then their times as eager formulas, compiled, and in Triton."""

import functools
import itertools
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from gpu_timing import milliseconds, rounds
from torch import Tensor

from vidguide.functional.emag import attention_gradient, ema
from vidguide.functional.lse_merge import AttentionWithLse, merge
from vidguide.functional.nag import nag
from vidguide.kernels import lse_backends
from vidguide.kernels.dispatch import unavailable_reason

STRENGTH, DECAY = (11.0, 2.5, 0.25), 0.988
Way = Callable[["Parts"], list[Tensor]]
Parts = list[AttentionWithLse]  # features (B, L, H, D) and log-sum-exps (B, L, H, 1)
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2**-7, torch.float16: 2**-9}  # relative to the largest feature


def eager_nag(parts: Parts) -> list[Tensor]:
    """Return NAG of two attentions."""
    positive, negative = parts[0].output, parts[1].output
    return [nag(positive, negative, *STRENGTH).output.to(positive.dtype)]


def eager_merged(parts: Parts) -> list[Tensor]:
    """Return NAG of the video's attention merged with that of each text."""
    positive, negative = merge(parts[2], parts[0]), merge(parts[2], parts[1])
    return [nag(positive, negative, *STRENGTH).output.to(positive.dtype)]


def eager_average(parts: Parts) -> list[Tensor]:
    """Update EMAG's average, in the place of the log-sum-exps, and return it and D of every sample and head."""
    live, average = parts[0]
    ema(average, live, DECAY)
    return [average, attention_gradient(average, live, 2)]


def fused_average(parts: Parts) -> list[Tensor]:
    """Return `eager_average` in one pass."""
    from vidguide.kernels import triton_launch as fused

    live, average = parts[0]
    return [average, fused.average(average, live, DECAY, 2)]


def fused_nag(parts: Parts) -> list[Tensor]:
    """Return `eager_nag` in one pass."""
    from vidguide.kernels import triton_launch as fused

    return [fused.nag(parts[0][0], parts[1][0], STRENGTH)[0]]


def fused_merged(parts: Parts) -> list[Tensor]:
    """Return `eager_merged` in one pass."""
    from vidguide.kernels import triton_launch as fused

    return [fused.nag_merged(parts[2], parts[0], parts[1], STRENGTH)[0]]


EAGER: dict[str, Way] = {"NAG": eager_nag, "merge and NAG": eager_merged, "average and D": eager_average}
FUSED: dict[str, Way] = {"NAG": fused_nag, "merge and NAG": fused_merged, "average and D": fused_average}
TRAFFIC = {"NAG": (3, 0), "merge and NAG": (4, 3)}  # numbers of features and of log-sum-exps


def inputs(shape: tuple[int, ...], name: str, on: dict[str, Any]) -> Parts:
    """Return random features and log-sum-exps in the layout of attention kernels."""
    batch, length, heads, _ = shape
    parts = []
    for _ in range(3):
        sums = torch.randn(batch, heads, length, device=on["device"]).transpose(1, 2).unsqueeze(-1)
        parts.append(AttentionWithLse(torch.randn(shape, **on), sums))
    if name == "average and D":
        return [AttentionWithLse(parts[0].output, torch.randn(shape, device=on["device"]))]
    return parts


@contextmanager
def fill_memory_with_nan() -> Iterator[None]:
    """Fill new memory with NaN, so that elements that a kernel does not write are detected."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def check(device: torch.device, shapes: Sequence[tuple[int, ...]]) -> dict[str, float]:
    """Compare every Triton kernel with the eager formulas in float64 on random inputs.

    Returns:
        The largest error of each kernel, shape and dtype, relative to the largest value.

    Raises:
        SystemExit: a kernel exceeds its tolerance.
    """
    errors: dict[str, float] = {}
    with fill_memory_with_nan():
        for name, shape, dtype in itertools.product(FUSED if unavailable_reason() is None else (), shapes, TOLERANCE):
            parts = inputs(shape, name, {"device": device, "dtype": dtype})
            exact_parts = [AttentionWithLse(features.double(), lse.double()) for features, lse in parts]
            pairs = list(zip(FUSED[name](parts), EAGER[name](exact_parts), strict=True))
            off = max(((fast.double() - exact).abs().max() / exact.abs().max()).item() for fast, exact in pairs)
            label = f"{name}, {'x'.join(map(str, shape))}, {str(dtype).removeprefix('torch.')}"
            errors[label] = off
            if not off <= TOLERANCE[dtype]:
                raise SystemExit(
                    f"{label}: off by {off:g} of the largest value, more than {TOLERANCE[dtype]:g}; nothing is timed"
                )
    return errors


def copy_bandwidth(device: torch.device, size: int) -> float:
    """Return the bytes per second, read and written, of a copy of `size` bytes on the device."""
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    times = rounds({"copy": lambda: target.copy_(source)}, device, 0.2, 5)["copy"]
    return 2 * size / (statistics.median(times) / 1000)


def count_bytes(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """Return the bytes that a computation must read and write at least."""
    elements, heads = math.prod(shape), math.prod(shape[:3])
    if name == "average and D":
        return elements * (dtype.itemsize + 2 * 4)
    features, sums = TRAFFIC[name]
    return elements * features * dtype.itemsize + heads * sums * 4


def time_kernels(
    on: dict[str, Any], shapes: dict[str, tuple[int, ...]], backend: str, seconds: float, least: int
) -> list[dict[str, Any]]:
    """Time every computation at every size as eager formulas, compiled, and in Triton if available."""
    compiled = {name: torch.compile(way, backend=backend, dynamic=False) for name, way in EAGER.items()}
    ways = {"eager": EAGER, "compiled": compiled} | ({"Triton": FUSED} if unavailable_reason() is None else {})
    rows = []
    for (label, shape), name in itertools.product(shapes.items(), EAGER):
        parts = inputs(shape, name, on)
        functions = {kind: functools.partial(by_name[name], parts) for kind, by_name in ways.items()}
        for function in functions.values():
            function()  # compiles
        times = rounds(functions, on["device"], seconds, least)
        rows.append(
            {"size": label, "shape": shape, "name": name, "bytes": count_bytes(name, shape, on["dtype"]), "ms": times}
        )
    return rows


def time_backends(device: torch.device, dtype: torch.dtype, shape: tuple[int, ...]) -> list[dict[str, Any]]:
    """Return error and time of every attention backend with log-sum-exp."""
    rows = []
    for masked in (False, True):
        for source in lse_backends.candidates(device.type, dtype, shape[3], masked, lse_backends.installed()):
            try:
                off = lse_backends.deviation(source, device.type, dtype, shape[3], masked)
                query, key, value = (torch.randn(shape, device=device, dtype=dtype) for _ in range(3))
                call = functools.partial(lse_backends.attend, source, query, key, value, None)
                call()
                rows.append({"source": source.name, "masked": masked, "off": off, "ms": milliseconds(call, device)})
            except Exception as error:  # a kernel that does not support this GPU may raise any error
                rows.append({"source": source.name, "masked": masked, "error": str(error).splitlines()[0]})
    return rows
